"""Trains one configuration: a step in, a dict of metrics out, checkpoints that resume exactly."""
