"""What is asked of one trained model: its figures and its numbers, without Ray or MLflow."""
