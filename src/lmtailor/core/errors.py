"""What can go wrong, said for people: what was asked, what was found, what to do.

One root, `LMTailorError`. Everything a user can cause and mend is an `InputError`; the command line
prints it in one line and exits with 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class LMTailorError(Exception):
    """Root of all errors raised on purpose by this package."""


class InputError(LMTailorError):
    """Bad input: a file, a column, an option, a name. The user can mend it."""


class DataError(InputError):
    """A data file or a table in it is not what the task card says."""


class SiteError(InputError):
    """A site pattern selects nothing, or a model has no such site."""


class UnsupportedError(InputError):
    """A combination that has no meaning or no exact implementation; the message says which and why."""


class AdapterFileError(InputError):
    """An adapter folder is missing, damaged, hostile or made for another base."""


class StateError(LMTailorError):
    """The library is used in an order that would give wrong numbers, such as a nested `attach`."""


class TrainingError(LMTailorError):
    """A run cannot go on: a loss that is not a number, or a checkpoint of other settings."""


def near(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """A sentence that offers the nearest known names, or lists them all when none is near.

    Args:
        name: what was asked for.
        known: the names that exist.
        count: how many near matches to offer at most.
    """
    options = list(dict.fromkeys(known))
    if not options:
        return "There are none."
    close = nearest(name, options, count=count)
    if close:
        return close
    shown = ", ".join(options[:30]) + (f", and {len(options) - 30} more" if len(options) > 30 else "")
    return f"Known: {shown}."


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """A sentence that offers the nearest known names; "" when none is near, for messages that list all names themselves."""
    folded = {option.lower(): option for option in known}
    close = [folded[match] for match in get_close_matches(name.lower(), folded, n=count, cutoff=0.6)]
    return f"Did you mean {' or '.join(close)}?" if close else ""
