"""MLflow, kept equal to the record."""
