"""Studies sent to a cluster as jobs."""
