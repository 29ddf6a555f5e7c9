"""What is tried next, and who goes on: pure functions of the record."""
