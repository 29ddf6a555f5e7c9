"""The only place that knows Ray, Optuna's studies and MLflow."""

import os

# Ray reads it as it is imported, and would print eight lines of possible causes for each lost worker.
# We say in one which worker it was, why, and what becomes of its trial.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed while executing")
