"""The only place that knows Ray, Optuna's studies and MLflow."""
