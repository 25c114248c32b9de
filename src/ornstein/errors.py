"""The mistakes a user can mend: each message says what is wrong, where, and what to do.

And what is to be noticed, though it is done as asked.
"""

from typing import ClassVar


class OrnsteinError(Exception):
    """A mistake the user can mend, in one sentence: the value, the place, the remedy.

    The command line prints the sentence and exits with `exit_code`; any other exception is a bug.
    """

    exit_code: ClassVar[int] = 1


class Notice(UserWarning):
    """What a person should know of what is done as they asked; a command says it as a line."""


class UsageError(OrnsteinError):
    """An argument that is out of range, unknown, or at odds with another."""

    exit_code = 2


class StorageError(OrnsteinError):
    """A disk that is full, a folder that cannot be written, a checkpoint that does not verify."""

    exit_code = 3


class LockedError(OrnsteinError):
    """A run folder that another process is writing."""

    exit_code = 4


class DivergedError(OrnsteinError):
    """Training that produced losses which are not finite, or that grow without bound."""

    exit_code = 5


class DataError(OrnsteinError):
    """A data file or folder that cannot be read as what it claims to be."""

    exit_code = 6


class UnknownLabel(DataError):
    """Data without the column of classes that was asked for."""


class ModelFileError(OrnsteinError):
    """A model file that is refused: not safetensors, damaged, or outside the schema."""

    exit_code = 7
