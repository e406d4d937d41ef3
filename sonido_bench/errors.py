"""Errors that are the user's to mend: the command line prints them as one line, without a traceback."""


class SonidoError(Exception):
    """Base of all errors that a user can mend; the message says what was expected, found, and what to do."""

    exit_code = 1


class ConfigError(SonidoError):
    """A wrong name, option or configuration file: wrong usage, exit code 2."""

    exit_code = 2


class DataError(SonidoError):
    """Audio, labels or a data set that is missing, truncated or damaged."""


class ResultError(SonidoError):
    """A result file that cannot be read or written, or is of another schema."""


class CacheError(SonidoError):
    """A feature cache that cannot be read or written."""
