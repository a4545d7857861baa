"""`adapter.json`: what an adapter is, in words. The tensors lie beside it.

The settings in it are those of the method's and the readout's own dataclasses, so there is no second schema. It is
read strictly: an unknown key is an error, not a hint.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lmtailor.core.errors import AdapterFileError, InputError, near
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.core.version import __version__
from lmtailor.methods import method_name
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.registry import readout_name
from lmtailor.store.adapter import Adapter
from lmtailor.store.strict_json import parse_object
from lmtailor.tasks.metrics import Scores

FORMAT = 1
"""Version of the layout of the folder. A reader refuses what is newer than it."""


@dataclass(frozen=True, kw_only=True)
class BaseReference:
    """The base that the adapter was made for."""

    source: str
    family: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Named:
    """A method or a readout."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TensorFiles:
    """Where the tensors are."""

    layout: Literal["native", "peft"]
    """native: under the names of `Adapter.state`. peft: the method's tensors under PEFT's names and in its shapes."""
    task_type: str | None
    """With peft: the task type that the names are for."""
    sha256: Mapping[str, str]
    """File -> the SHA-256 of its bytes, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of `adapter.json`."""

    made_with: str
    base: BaseReference
    method: Named
    readout: Named | None
    labels: LabelSet | None
    sites: tuple[str, ...]
    """Where the edits act."""
    parameters: int
    """Trained numbers."""
    tensors: TensorFiles
    scores: Mapping[str, Scores]
    provenance: Mapping[str, Any]

    @classmethod
    def of(cls, adapter: Adapter, tensors: TensorFiles) -> "Manifest":
        """That of an adapter."""
        readout = adapter.readout
        return cls(
            made_with=f"lmtailor {__version__}",
            base=BaseReference(
                source=adapter.base_source,
                family="" if adapter.outline is None else adapter.outline.family,
                fingerprint=adapter.base_fingerprint,
            ),
            method=Named(name=method_name(adapter.method), settings=to_mapping(adapter.method)),
            readout=None if readout is None else Named(name=readout_name(readout), settings=to_mapping(readout)),
            labels=None if adapter.reading is None else adapter.reading.label_set,
            sites=tuple(dict.fromkeys(edit.site for edit in adapter.edits)),
            parameters=adapter.num_parameters,
            tensors=tensors,
            scores=adapter.scores,
            provenance=adapter.provenance,
        )

    def to_json(self) -> str:
        """The file's text.

        Raises:
            InputError: the provenance holds what JSON does not.
        """
        values = {
            "format": FORMAT,
            "made_with": self.made_with,
            "base": to_mapping(self.base),
            "method": _from_named(self.method),
            "readout": None if self.readout is None else _from_named(self.readout),
            "labels": None if self.labels is None else to_mapping(self.labels),
            "sites": list(self.sites),
            "parameters": self.parameters,
            "tensors": to_mapping(self.tensors),
            "scores": {split: scores.to_mapping() for split, scores in self.scores.items()},
            "provenance": dict(self.provenance),
        }
        try:
            text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            parse_object(text.encode())  # what is saved can be read
            return text
        except (TypeError, ValueError) as error:
            raise InputError(f"The adapter's provenance or settings cannot be written as JSON: {error}.") from error

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """From the file's object.

        Raises:
            InputError: something is missing, unknown or of another type, or the file is of a newer format.
        """
        rest = dict(values)
        version = rest.pop("format", None)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise AdapterFileError(f"format is {version!r}, not the number of a format; this is no manifest of an adapter.")
        if version > FORMAT:
            raise AdapterFileError(
                f"It is of format {version}, written by a newer version. Update lmtailor, which reads up to {FORMAT}."
            )
        known = list(cls.__dataclass_fields__)
        if unknown := [key for key in rest if key not in known]:
            raise InputError(f"{unknown[0]!r} is no key of a manifest. {near(unknown[0], known)}")
        if missing := [key for key in known if key not in rest]:
            raise InputError(f"{missing[0]!r} is missing.")
        return cls(
            method=_named(rest.pop("method"), "method"),
            readout=None if rest["readout"] is None else _named(rest["readout"], "readout"),
            scores={split: _scores(table, split) for split, table in _table(rest["scores"], "scores").items()},
            provenance=_table(rest["provenance"], "provenance"),
            base=from_mapping(BaseReference, _table(rest["base"], "base"), path="base"),
            labels=None if rest["labels"] is None else from_mapping(LabelSet, _table(rest["labels"], "labels"), path="labels"),
            tensors=from_mapping(TensorFiles, _table(rest["tensors"], "tensors"), path="tensors"),
            **vars(from_mapping(_Plain, {key: rest[key] for key in ("made_with", "sites", "parameters")})),
        )


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """The fields that stand by themselves."""

    made_with: str
    sites: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, kw_only=True)
class _Name:
    name: str


def _from_named(part: Named) -> dict[str, Any]:
    return {"name": part.name, "settings": dict(part.settings)}


def _named(value: Any, path: str) -> Named:
    table = _table(value, path)
    settings = _table(table.get("settings"), f"{path}.settings")
    name = from_mapping(_Name, {key: item for key, item in table.items() if key != "settings"}, path=path).name
    return Named(name=name, settings=settings)


def _scores(value: Any, split: str) -> Scores:
    return Scores.from_mapping(_table(value, f"scores.{split}"), path=f"scores.{split}")


def _table(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path} must be a table; found {str(value)[:60]!r}.")
    return value
