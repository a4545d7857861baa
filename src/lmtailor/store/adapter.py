"""The adapter: what fitting makes, and what is stored, attached and served."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.core.rng import generator
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, PromptEdit
from lmtailor.methods.method import Method, Resolves, Starts, Words
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Reading, Readout
from lmtailor.store.outline import Outline
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.task import Task

READOUT = "readout."
"""Start of the names of a readout's tensors in `Adapter.state`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """A method's edits and a readout, made for one base."""

    method: Method
    edits: Edits
    reading: Reading | None = None
    """The readout bound to the base and its labels; None if the adapter only changes the model."""
    base_fingerprint: str = ""
    base_source: str = ""
    outline: Outline | None = None
    """Names and shapes of the base, which other programs' files are written from."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Split → scores, as measured when it was fitted."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How it came to be: settings, seed, data digest, versions, times."""

    @property
    def readout(self) -> Readout | None:
        """The readout's settings."""
        return None if self.reading is None else self.reading.readout

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""
        return () if self.reading is None else self.reading.labels

    @property
    def state(self) -> dict[str, Tensor]:
        """What was trained, and nothing else, by name."""
        own = {} if self.reading is None else {f"{READOUT}{name}": value for name, value in self.reading.parameters().items()}
        return {**self.edits.state(), **own}

    @property
    def fixed(self) -> dict[str, Tensor]:
        """What is stored with it but was not trained, by name."""
        return self.edits.fixed()

    @property
    def num_parameters(self) -> int:
        """Trained numbers, the readout's included."""
        return sum(tensor.numel() for tensor in self.state.values())

    def with_state(self, state: Mapping[str, Tensor]) -> "Adapter":
        """The same adapter with other values.

        Raises:
            AdapterFileError: a tensor is missing, left over, or of another shape.
        """
        edits = self.edits.with_state({name: value for name, value in state.items() if not name.startswith(READOUT)})
        own = {name.removeprefix(READOUT): value for name, value in state.items() if name.startswith(READOUT)}
        if self.reading is None:
            if own:
                raise AdapterFileError(f"There are tensors of a readout ({sorted(own)[0]!r}), but the adapter has none.")
            return replace(self, edits=edits)
        try:
            return replace(self, edits=edits, reading=self.reading.with_parameters(own))
        except InputError as error:
            raise AdapterFileError(str(error)) from error

    def with_fixed(self, fixed: Mapping[str, Tensor]) -> "Adapter":
        """The same adapter with other tensors in place of those that are not trained; raises like `with_state`."""
        return replace(self, edits=self.edits.with_fixed(fixed))


def check_base(adapter: Adapter, base: Base, *, any_base: bool = False) -> None:
    """Refuse a base that the adapter was not made for.

    Raises:
        AdapterFileError: the fingerprints differ and `any_base` is not set.
    """
    if not any_base:
        refuse_other_base(adapter.base_fingerprint, adapter.base_source, base)


def refuse_other_base(fingerprint: str, source: str, base: Base) -> None:
    """Refuse a base that has not this fingerprint.

    Raises:
        AdapterFileError: it has another.
    """
    if fingerprint != base.fingerprint:
        raise AdapterFileError(
            f"The adapter was made for {source or 'another base'} (fingerprint {fingerprint[:16]}…), "
            f"but the base is {base.source or type(base.model).__name__} (fingerprint {base.fingerprint[:16]}…). "
            "Load the right base, or pass any_base=True (--any-base) if you know that the weights are the same."
        )


def virtual_tokens(edits: Edits) -> int:
    """Positions that an adapter's prefixes and prompts take from the input (tokens); in the stack where they take most."""
    if edits.mixed:
        return max(map(virtual_tokens, edits.split()))
    taken: Counter[str] = Counter()
    for edit in edits:
        if isinstance(edit, PromptEdit) or (isinstance(edit, PrefixEdit) and edit.shift):
            taken["decoder" if edit.site.startswith("decoder.") else ""] += edit.length
    return max(taken.values(), default=0)


def build_adapter(
    base: Base,
    method: Method,
    readout: Readout | None,
    labels: LabelSet | None,
    rng: Generator | None,
    task: Task | None = None,
    *,
    outline: Outline | None = None,
) -> Adapter:
    """Edits and reading on a base; with rng=None all trained tensors are shapes without memory, and an outline may be at hand.

    Raises:
        InputError: a readout without labels, or settings that do not fit.
        UnsupportedError: the method or the readout has no meaning on this base.
    """
    if readout is not None and labels is None:
        raise InputError("A readout needs to know its labels: give a task.")
    seeds = None if rng is None else (_split(rng), _split(rng))
    if isinstance(method, Resolves):
        method = method.resolved(base, readout)
    probe = method.edits(base.sites, None)
    _check_room(base, probe)
    reading = None
    if readout is not None and labels is not None:
        reading = readout.bind(base, labels, None if seeds is None else seeds[1], task, reserve=virtual_tokens(probe))
    sites = base.sites if reading is None or reading.reads_lm_head else base.sites.without_head()
    # Shapes are the probe's, unless the readout took sites away.
    edits = probe if seeds is None and sites is base.sites else method.edits(sites, None if seeds is None else seeds[0])
    return Adapter(
        method=method,
        edits=edits,
        reading=reading,
        base_fingerprint=base.fingerprint,
        base_source=base.source,
        outline=Outline.of(base) if outline is None else outline,
    )


def _check_room(base: Base, edits: Edits) -> None:
    """See that virtual tokens leave positions for an input, also where positions have no table that would end."""
    virtual = virtual_tokens(edits)
    if virtual >= base.max_length:
        raise InputError(
            f"The method puts {virtual:,} virtual tokens before the input, and {base.source or base.family.name} takes "
            f"{base.max_length:,} tokens in all. Ask for a shorter prefix or prompt."
        )


def outlined(
    base: Base, method: Method, readout: Readout | None, labels: LabelSet | None, outline: Outline | None = None
) -> Adapter:
    """The adapter of a stranger's settings, as shapes without memory; the base's outline is made if it is not at hand.

    Raises:
        AdapterFileError: they ask for tensors that cannot be.
        InputError, UnsupportedError: as `build_adapter`.
    """
    try:
        return build_adapter(base, method, readout, labels, None, outline=outline)
    except (RuntimeError, OverflowError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise AdapterFileError(f"Its settings ask for tensors that are larger than any can be ({first}).") from error


def new_adapter(
    base: Base, *, method: Method, readout: Readout | None = None, task: Task | None = None, seed: int = 0
) -> Adapter:
    """An untrained adapter at its start.

    Args:
        base: the model.
        method: what may change.
        readout: how it answers; needs `task` for the labels.
        task: gives labels, and words for starts that use them.
        seed: of the start.
    """
    rng = generator(seed, "start")
    labels = None if task is None else LabelSet.of(task)
    adapter = build_adapter(base, method, readout, labels if readout is not None else None, rng, task)
    if isinstance(adapter.method, Starts):
        words = Words(labels=() if task is None else tuple(task.labels))
        adapter = replace(adapter, edits=adapter.method.started(adapter.edits, base, words, rng))
    return on_device(adapter, base.device)


def on_device(adapter: Adapter, device: torch.device) -> Adapter:
    """The adapter with its tensors on a device."""
    state, fixed = adapter.state, adapter.fixed
    if all(tensor.device == device for tensor in (*state.values(), *fixed.values())):
        return adapter
    moved = adapter.with_state({name: tensor.detach().to(device) for name, tensor in state.items()})
    return moved.with_fixed({name: tensor.to(device) for name, tensor in fixed.items()})


def _split(rng: Generator) -> Generator:
    """A generator of its own for one part, so that one part's draws do not move another's."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
