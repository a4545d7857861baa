"""`rank_pattern` and `alpha_pattern` of PEFT: regular expressions for modules, each with a value.

They come from strangers, and a regular expression can run for ever or fill the memory. So repeats with counts are refused, and
the rest is run under a time limit, by a library that has one.
"""

import re
from collections.abc import Mapping
from typing import Any

import regex  # type: ignore[import-untyped]

from lmtailor.core.errors import AdapterFileError
from lmtailor.store.peft.config import is_number

_PLAIN = re.compile(r"[\w\-.\\()|\[\]*+?^$:]{1,500}")
_SECONDS = 0.5


def pattern_value(config: Mapping[str, Any], key: str, path: str) -> int | float | None:
    """The value of the first pattern that fits a module's path, as PEFT finds it; None if there is none.

    Args:
        config: a PEFT configuration.
        key: rank_pattern or alpha_pattern.
        path: of the module, in the class that the folder is for.

    Raises:
        AdapterFileError: it is no table of numbers, or a pattern is none, too complex or takes too long.
    """
    table = config.get(key) or {}
    if not isinstance(table, dict) or not all(map(is_number, table.values())):
        raise AdapterFileError(f"{key} must be a table from patterns of modules to numbers.")
    for pattern, value in table.items():
        if pattern == path or _fits(key, pattern, path):
            return value  # type: ignore[no-any-return]
    return None


def pattern_for(path: str) -> str:
    """A pattern for one module alone."""
    return path.replace(".", r"\.")


def _fits(key: str, pattern: str, path: str) -> bool:
    if not _PLAIN.fullmatch(pattern):
        raise AdapterFileError(f"{key} has the pattern {pattern[:60]!r}, which is not run: it is too long, or counts repeats.")
    try:
        return regex.match(rf"(.*\.)?({pattern})$", path, timeout=_SECONDS) is not None
    except TimeoutError:
        raise AdapterFileError(f"{key} has the pattern {pattern[:60]!r}, which takes too long to match.") from None
    except (regex.error, RecursionError) as error:
        raise AdapterFileError(f"{key} has {pattern[:60]!r}, which is no regular expression ({error}).") from error
