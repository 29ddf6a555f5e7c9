"""What a study found, in figures and in words."""
