"""Every error that a user can meet, and the exit status that each branch ends a command with.

A message says where, what was found, what is allowed and what to do next; it names settings by `setting`. Only faults of
tunesmith itself end in another exception type (and exit status 70).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

EXIT_INTERNAL = 70

_flags: ContextVar[bool] = ContextVar("flags", default=False)


class TunesmithError(Exception):
    """Base of all errors that tunesmith raises on purpose; `str(error)` is the whole message for the user."""

    exit_code = 1


class UsageError(TunesmithError):
    """A flag, argument or recipe key is wrong. `faults` holds all of them, one sentence each."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        if len(faults) == 1:
            super().__init__(faults[0])
        else:
            super().__init__(f"{len(faults)} settings are wrong:\n" + "\n".join(f"  - {fault}" for fault in faults))


class DataError(TunesmithError):
    """A data file or value cannot be used as it is."""

    exit_code = 3


class ModelError(TunesmithError):
    """A model cannot be found, loaded or used for what was asked."""

    exit_code = 4


class Diverged(ModelError):
    """The loss of a training is no longer a number: the learning rate is too high for what is trained."""


class StorageError(TunesmithError):
    """Something cannot be written or read back: full disk, no permission, damaged checkpoint."""

    exit_code = 5


class UpdateRefused(TunesmithError):
    """An update was trained but made the model worse on the old test rows than allowed; `record` says by how much. Nothing changed."""

    exit_code = 6

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record


class Interrupted(TunesmithError):
    """The user stopped the command; what was done is saved, and the message says how to go on."""

    exit_code = 130


@contextlib.contextmanager
def speaking_flags() -> Iterator[None]:
    """Within the block `setting` spells as on the command line; the command line puts all of its work in it."""
    token = _flags.set(True)
    try:
        yield
    finally:
        _flags.reset(token)


def setting(name: str, value: object = None) -> str:
    """Return how the user at hand writes a setting, with `value` if that is not None: `--max-length 64`, or `max_length=64` in Python.

    Every message that names a setting (or `resume` and `overwrite`) takes it from here.
    """
    if _flags.get():
        flag = "--" + name.replace("_", "-")
        return flag if value is None or value is True else f"{flag} {value}"
    return name if value is None else f"{name}={value!r}"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` when an option is close to `word`, else the empty string."""
    options = list(options)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def counted(number: float, noun: str) -> str:
    """Return `1 row`, `2,000 rows`, `2 queries`: a number with its noun, in the plural when there are several."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("query") else f"{noun}s"
    return f"{number:,.0f} {noun}"


def listing(items: Iterable[object], limit: int = 12) -> str:
    """Join `items` with commas for a message, cut after `limit` with a count of the rest."""
    words = [str(item) for item in items]
    shown = ", ".join(words[:limit])
    return shown if len(words) <= limit else f"{shown} and {len(words) - limit} more"
