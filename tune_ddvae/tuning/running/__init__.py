"""The study as it runs: its logic, its workers, and Ray Tune around them."""
