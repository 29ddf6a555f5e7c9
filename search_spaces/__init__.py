"""One study per file: a docstring and one frozen ``STUDY``."""
