"""A bank: many adapters of one base on disk, of which those in use are in memory.

Registering reads a manifest and headers, whatever the adapter's size; tensors are read when an adapter is first used, and
the ones used longest ago are let go when the bound on memory asks for it.

Adapters of the same settings that are read one after the other lie side by side, in shelves: a batch of them is stacked
without a copy. A shelf is let go as a whole, and nothing is ever written where an adapter lies, so that whoever still holds
one keeps it as it was.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, near
from lmtailor.methods import catalogue
from lmtailor.store.adapter import Adapter, on_device, refuse_other_base
from lmtailor.store.folder import about, load_adapter
from lmtailor.store.manifest import Manifest
from lmtailor.store.native import Blueprint, check_files, read_manifest, read_native
from lmtailor.store.outline import Outline
from lmtailor.store.place import MANIFEST, check_place

SHELF = 64
"""Adapters that lie side by side at most; fewer where a quarter of the bank's memory holds fewer."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """An adapter on disk."""

    folder: Path
    manifest: Manifest | None
    """None for a folder of another program."""


class _Shelf:
    """Room for some adapters of the same settings."""

    def __init__(self, first: Adapter, size: int, room: int) -> None:
        tensors = {**first.state, **first.fixed}
        # Memory that nobody has written to is not yet taken from the system.
        self._tensors = {name: value.new_empty((room, *value.shape)) for name, value in tensors.items()}
        self._size = size
        self._room = room
        self.names: list[str] = []

    @property
    def full(self) -> bool:
        """Whether there is no more room."""
        return len(self.names) == self._room

    @property
    def bytes(self) -> int:
        """Of the adapters on it."""
        return self._size * len(self.names)

    def put(self, name: str, adapter: Adapter) -> Adapter:
        """The adapter with its tensors in the next place."""
        place = len(self.names)
        self.names.append(name)
        for key, value in {**adapter.state, **adapter.fixed}.items():
            self._tensors[key][place] = value
        moved = adapter.with_state({key: self._tensors[key][place] for key in adapter.state})
        return moved.with_fixed({key: self._tensors[key][place] for key in adapter.fixed})


class Bank(Mapping[str, Adapter]):
    """Adapters of one base by name. Reading an entry loads it, if it is not in memory."""

    def __init__(self, base: Base, *, memory: int = 4 * 1024**3) -> None:
        """An empty bank.

        Args:
            base: what all adapters must be made for.
            memory: bound on the tensors in memory (bytes). Adapters that somebody still holds count until they are let go here.
        """
        if memory < 1:
            raise InputError(f"memory is {memory}; a bank needs room for at least one adapter (bytes).")
        catalogue()  # finds all methods; it and the outline are what every adapter needs, and no part of the first registration
        self._outline = Outline.of(base)
        self.base = base
        self.memory = memory
        self.resident = 0
        """Bytes of the adapters in memory."""
        self._entries: dict[str, _Entry] = {}
        self._loaded: dict[str, tuple[Adapter, _Shelf]] = {}
        """Those in memory."""
        self._shelves: OrderedDict[_Shelf, None] = OrderedDict()
        """The one used last comes last."""
        self._open: dict[object, _Shelf] = {}
        """What is alike in adapters → the shelf where the next one goes."""
        self._blueprints: dict[str, Blueprint] = {}

    def register(self, name: str, folder: str | Path, *, any_base: bool = False) -> None:
        """Add an adapter; a name that is there already is replaced. No tensor is read.

        A folder that `save_adapter` wrote is checked against the base by its manifest and headers; one of another program is
        read, and checked, when it is first used.

        Raises:
            AdapterFileError: there is no adapter, it is damaged, or it was made for another base.
        """
        path = Path(folder).expanduser()
        check_place(path)
        manifest = None
        with about(path):
            if (path / MANIFEST).is_file():
                manifest = read_manifest(path)
                if not any_base:
                    refuse_other_base(manifest.base.fingerprint, manifest.base.source, self.base)
                check_files(path, manifest, self._blueprint(manifest))
        self.forget(name)
        self._entries[name] = _Entry(folder=path, manifest=manifest)

    def forget(self, name: str) -> None:
        """Take an adapter out of the bank, if it is in it."""
        self._entries.pop(name, None)
        found = self._loaded.pop(name, None)
        if found is not None and not any(own in self._loaded and self._loaded[own][1] is found[1] for own in found[1].names):
            self._let_go(found[1])

    def take(self, names: Sequence[str]) -> list[Adapter]:
        """Several adapters at once, all in memory.

        Raises:
            InputError: one is not in the bank, or all of them together are beyond its bound.
            AdapterFileError: one cannot be read.
        """
        wanted = list(dict.fromkeys(names))
        found = {name: self[name] for name in wanted}
        if missing := [name for name in wanted if name not in self._loaded]:
            raise InputError(
                f"{len(wanted)} adapters of one batch do not fit into the bank's {self.memory / 1e6:.0f} MB together; "
                f"{missing[0]!r} had to go for others. Use smaller batches, or give the bank more memory."
            )
        return [found[name] for name in names]

    def __getitem__(self, name: str) -> Adapter:
        if name in self._loaded:
            adapter, shelf = self._loaded[name]
            self._shelves.move_to_end(shelf)
            return adapter
        entry = self._entries.get(name)
        if entry is None:
            raise InputError(f"There is no adapter {name!r} in the bank. {near(name, self._entries)}")
        adapter = self._read(entry)
        size = sum(tensor.nbytes for tensor in (*adapter.state.values(), *adapter.fixed.values()))
        if size > self.memory:
            raise InputError(
                f"The adapter {name!r} has {size / 1e6:.1f} MB, more than the bank's {self.memory / 1e6:.1f} MB. "
                "Give the bank more memory."
            )
        while self.resident + size > self.memory:
            self._let_go(next(iter(self._shelves)))
        shelf = self._shelf(adapter, size)
        self._loaded[name] = shelf.put(name, adapter), shelf
        self.resident += size
        return self._loaded[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _read(self, entry: _Entry) -> Adapter:
        if entry.manifest is None:
            return load_adapter(entry.folder, self.base)
        with about(entry.folder):
            adapter = read_native(entry.folder, entry.manifest, self._blueprint(entry.manifest), self.base)
        return on_device(adapter, self.base.device)

    def _blueprint(self, manifest: Manifest) -> Blueprint:
        key = Blueprint.key(manifest)
        if key not in self._blueprints:
            self._blueprints[key] = Blueprint.of(manifest, self.base, self._outline)
        return self._blueprints[key]

    def _shelf(self, adapter: Adapter, size: int) -> _Shelf:
        """A shelf with room for an adapter."""
        key = tuple((name, tuple(value.shape), value.dtype) for name, value in {**adapter.state, **adapter.fixed}.items())
        shelf = self._open.get(key)
        if shelf is None or shelf.full or shelf not in self._shelves:
            shelf = self._open[key] = _Shelf(adapter, size, max(1, min(SHELF, self.memory // max(1, 4 * size))))
        self._shelves[shelf] = None
        self._shelves.move_to_end(shelf)
        return shelf

    def _let_go(self, shelf: _Shelf) -> None:
        del self._shelves[shelf]
        self.resident -= shelf.bytes
        for name in shelf.names:
            if name in self._loaded and self._loaded[name][1] is shelf:
                del self._loaded[name]
