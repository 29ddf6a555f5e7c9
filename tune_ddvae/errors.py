"""The project's exceptions: one root, each also a builtin where it replaces one.

Every message names the value, the rule and the mend. All of them survive pickling, since they travel
from Ray workers to the driver: each is built from its message alone.
"""


class DdvaeError(Exception):
    """Root of every error that this project raises on purpose."""


class ConfigError(DdvaeError, ValueError):
    """A configuration, study file or option breaks a rule; nothing has been created yet."""


class DataError(DdvaeError, OSError):
    """A data set is missing or damaged; the message says where it was looked for and what to do."""


class DivergedError(DdvaeError, ArithmeticError):
    """Training left the finite numbers; the message names the term, its value and the epoch."""


class AbsentMetric(DdvaeError, ValueError):
    """A metric has no value for these codes; the message is the reason that is reported instead."""


class CheckpointError(DdvaeError, OSError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class RecordError(DdvaeError, RuntimeError):
    """The study's record cannot be opened, or would contradict what it already holds."""


class StudyLockedError(RecordError):
    """Another live driver holds the study; the message says which host, process and since when."""


class RecordLostError(RecordError):
    """The record's server went away in the middle of a study, and did not come back in time."""


class StorageError(DdvaeError, OSError):
    """The storage folder cannot be written to, or cannot hold a record."""


class StorageFullError(StorageError):
    """The storage's disk is full; what was recorded is kept, and the same command goes on."""


class StorageAwayError(StorageError):
    """The storage's bucket does not answer, or refuses; what is there is not known to be damaged."""


class BrokenOffError(DdvaeError, RuntimeError):
    """A study had to stop with work left; the message says why. The same command goes on."""


class TrackingError(DdvaeError, RuntimeError):
    """The tracking address cannot be used as it is; the message says what would do."""


class JobError(DdvaeError, RuntimeError):
    """A cluster's job server does not answer, refuses or fails; the message says what would do."""


class ResourceError(DdvaeError, RuntimeError):
    """More CPUs or GPUs were asked for than exist; the message names both."""


class UnfitNodeError(DdvaeError, RuntimeError):
    """A machine lacks what the study needs; no fault of the trial's. The message names host and mend."""
