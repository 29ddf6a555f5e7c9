"""What `analyse` does."""
