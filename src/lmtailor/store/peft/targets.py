"""Which modules a PEFT configuration names, compared with those that its file has tensors for; and site patterns for them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import AdapterFileError
from lmtailor.store.peft.config import names

_BLOCK = re.compile(r"block\.\d+")


def check_targets(config: Mapping[str, Any], paths: Iterable[str]) -> None:
    """See that PEFT would adapt the modules that the file has tensors for.

    A text is a regular expression, or "all-linear"; it is not run.

    Raises:
        AdapterFileError: PEFT would leave one of them out, or the configuration names no modules.
    """
    targets, excluded = names(config, "target_modules"), names(config, "exclude_modules")
    if targets is None:
        raise AdapterFileError("target_modules names no modules.")
    layers = _layers(config)
    for path in paths:
        if isinstance(targets, list) and not _matches(path, targets):
            raise AdapterFileError(f"There are tensors for {path[:120]!r}, which target_modules does not name.")
        if isinstance(excluded, list) and _matches(path, excluded):
            raise AdapterFileError(f"There are tensors for {path[:120]!r}, which exclude_modules leaves out.")
        if layers is not None and _layer(path, config) not in layers:
            raise AdapterFileError(f"There are tensors for {path[:120]!r}, which layers_to_transform leaves out.")


def pattern_of(sites: Sites, chosen: Sequence[Site]) -> str:
    """A pattern that selects exactly these sites: with `*` where all blocks are meant, else with every name."""
    wanted = {site.name for site in chosen}
    shapes: dict[str, set[str]] = {}
    for name in sites:
        shapes.setdefault(_BLOCK.sub("block.*", name), set()).add(name)
    parts = []
    for site in chosen:
        shape = _BLOCK.sub("block.*", site.name)
        parts.append(shape if shapes[shape] <= wanted else site.name)
    return ", ".join(dict.fromkeys(parts))


def _matches(path: str, listed: list[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in listed)


def _layers(config: Mapping[str, Any]) -> set[int] | None:
    value = config.get("layers_to_transform")
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int for number in numbers):
        raise AdapterFileError("layers_to_transform must be an integer or a list of integers.")
    return set(numbers)


def _layer(path: str, config: Mapping[str, Any]) -> int | None:
    """The number of the layer that a module is in, found as PEFT finds it."""
    patterns = names(config, "layers_pattern") or []
    if not patterns:
        found = re.match(r".*?\.[^.]*\.(\d+)\.", path)
        return None if found is None else int(found[1])
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not re.fullmatch(r"[\w.]+", pattern):
            raise AdapterFileError(f"layers_pattern has {pattern[:40]!r}; only plain names are read, since patterns are not run.")
        if found := re.match(rf"(?:^|.*?\.){re.escape(pattern)}\.(\d+)\.", path):
            return int(found[1])
    return None
