"""Mixtures: adapters of which every row runs once for each member, and whose members then answer as one.

    p(y | x) = Σ_m p(m) p_m(y | x)

To the engine each member is an adapter of its own, and a row of the caller is as many rows of the trunk as it has members. They
become one row again in the model's logits, or in the scores of a readout.

Shapes: R rows of the caller, E rows of the trunk, k sequences a row (beams), M members, T tokens, V vocabulary, C labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lmtailor.base.states import States
from lmtailor.core.errors import StateError, UnsupportedError
from lmtailor.edits.edit import trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.engine import Engine
from lmtailor.edits.groups import Rows
from lmtailor.edits.kinds import PromptEdit


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberPrompt(PromptEdit):
    """The prompt of one member of a mixture, and how much the member counts."""

    prompt_NH: Tensor = trained()
    weight_1: Tensor = trained()
    """Its share is the softmax of this number over the members."""

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """The trained embeddings themselves."""
        return self.prompt_NH


@dataclass(frozen=True)
class Members:
    """What the engine takes for adapters: the first member of every adapter, then all others."""

    parts: tuple[Edits, ...]
    of: tuple[tuple[int, ...], ...]
    """For each adapter of the caller the numbers of its members among `parts`; an ordinary adapter is its only one."""

    @classmethod
    def among(cls, adapters: Sequence[Edits]) -> "Members":
        """The members of these adapters."""
        each = [edits.split() if edits.mixed else (edits,) for edits in adapters]
        parts, of = [own[0] for own in each], []
        for number, own in enumerate(each):
            of.append((number, *range(len(parts), len(parts) + len(own) - 1)))
            parts += own[1:]
        return cls(tuple(parts), tuple(of))

    def rows(self, rows: Rows) -> Rows:
        """The rows of the trunk for rows of the caller."""
        each = [(slot,) if slot is None else self.of[slot] for slot in rows.slots]
        if all(len(own) == 1 for own in each):
            return rows
        return Rows(tuple(slot for own in each for slot in own), copies=tuple(map(len, each)))


def by_member(states: States, rows: Rows) -> States:
    """The states (E · k, T, H) of a run as those of the caller's rows (R · k, T, H), with the further members' beside them."""
    if not rows.copies:
        return states

    def ran(number: int) -> States:
        chosen = [min(start + number, end - 1) for start, end in rows.spans()]
        return states.select(chosen, rows.count)

    return replace(ran(0), others=tuple(ran(number) for number in range(1, max(rows.copies))))


def log_shares(members: Sequence[Edits]) -> Tensor:
    """log p(m) of the members of a mixture (M,), with gradient."""
    weights = [edit.weight_1 for edits in members for edit in edits if isinstance(edit, MemberPrompt)]
    return torch.cat(weights).float().log_softmax(0)


def mixed_scores(each: Sequence[Tensor], log_p_M: Tensor, *, numbers: bool) -> Tensor:
    """Scores (B, C) of a mixture: log Σ_m p(m) exp(s_m), or with `numbers`, as in regression, Σ_m p(m) s_m.

    Args:
        each: the members' scores (B, C), log-probabilities unless they are numbers.
        log_p_M: the logarithms of the members' shares.
        numbers: whether the scores are no log-probabilities.
    """
    scores_MBC, log_p_M11 = torch.stack(list(each)), log_p_M[:, None, None]
    return (scores_MBC * log_p_M11.exp()).sum(0) if numbers else (scores_MBC + log_p_M11).logsumexp(0)


@dataclass
class MixedModel:
    """While it stands, the logits of a model's forward are those of the mixtures, and beams keep the members' caches in order."""

    engine: Engine
    model: nn.Module
    _handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._handles += [
            self.model.register_forward_pre_hook(self._before, with_kwargs=True),
            self.model.register_forward_hook(self._after, prepend=True),
        ]
        self.model.__dict__["_reorder_cache"] = self._reordered

    def remove(self) -> None:
        """The model is as it was."""
        for handle in self._handles:
            handle.remove()
        self.model.__dict__.pop("_reorder_cache")

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.engine.rows.copies and kwargs.get("labels") is not None:
            raise UnsupportedError(
                "The model's own loss cannot see a mixture, whose members become one in the logits. Call it without labels, and "
                "compute the loss from its logits."
            )

    def _after(self, model: nn.Module, args: Any, output: Any) -> Any:
        if self.engine.rows.copies:
            if isinstance(output, tuple):
                raise StateError("Call the model with return_dict=True while a mixture is attached.")
            output.logits = self._mixed(output.logits)
        return output

    def _mixed(self, logits_ETV: Tensor) -> Tensor:
        """Logits (R · k, T, V): log p(word) of mixtures, and of other rows what they are."""
        rows = self.engine.rows
        blocks_EkTV = logits_ETV.reshape(rows.count, -1, *logits_ETV.shape[1:])
        alike: dict[tuple[int | None, ...], list[int]] = {}
        for start, end in rows.spans():
            alike.setdefault(rows.slots[start:end], []).append(start)
        order, pieces = [], []
        for slots, starts in alike.items():
            order += starts
            if len(slots) == 1:
                pieces.append(blocks_EkTV[starts])
                continue
            log_p_M = log_shares([self.engine.adapters[slot] for slot in slots if slot is not None])
            own_NMkTV = torch.stack([blocks_EkTV[start : start + len(slots)] for start in starts])
            scores_NMkTV = own_NMkTV.float().log_softmax(-1) + log_p_M[:, None, None, None]
            pieces.append(scores_NMkTV.logsumexp(1).to(logits_ETV.dtype))
        places = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(pieces)[places].flatten(0, 1)

    def _reordered(self, cache: Any, beam_B: Tensor) -> Any:
        """The cache with the rows of the chosen beams; each member goes where its row goes."""
        rows = self.engine.rows
        if not rows.copies:
            cache.reorder_cache(beam_B)
            return cache
        k = len(beam_B) // len(rows.copies)
        own_Rk = beam_B.view(-1, k) - torch.arange(len(rows.copies), device=beam_B.device)[:, None] * k
        starts_E = torch.arange(rows.count, device=beam_B.device)[:, None] * k
        copies = torch.tensor(rows.copies, device=beam_B.device)
        cache.reorder_cache((own_Rk.repeat_interleave(copies, 0) + starts_E).flatten())
        return cache
