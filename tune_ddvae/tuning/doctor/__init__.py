"""What `doctor` does."""
