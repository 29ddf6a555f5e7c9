"""What an evaluation measures: pure functions of codes, posteriors and factors."""
