"""Errors that a user can act on: each message says what was wrong, where, and what to do."""


class EyasError(Exception):
    """Base of all errors raised on purpose; the command line prints the message alone and exits with `exit_code`."""

    exit_code = 1


class ConfigError(EyasError):
    """A configuration value that cannot be honoured; found before any process starts."""

    exit_code = 2


class PatternError(ConfigError):
    """A pattern that does not parse or names a layer that does not exist."""


class LayoutError(ConfigError):
    """A parallel layout that the model, the batch or the machine cannot carry."""


class UnsupportedError(EyasError):
    """Something that a mixer does not offer, asked of it."""

    exit_code = 2


class DataError(EyasError):
    """Input files that are missing, empty or unreadable."""

    exit_code = 2


class CheckpointError(EyasError):
    """A checkpoint that is missing, incomplete or belongs to another model."""

    exit_code = 2


class WorkerError(EyasError):
    """A worker process that failed; the message names its rank and carries its own first line."""
