"""The study's durable memory."""
