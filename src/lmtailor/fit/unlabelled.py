"""Language modelling on unlabelled text beside the task, so that a few labels do not make the model forget its language.

    L = (1 − α) · L_task + α · L_LM

Schick & Schütze 2021, arXiv:2001.07676, section 3.2, with α = 1e-4 (section 4). What their code calls alpha is 1 − α,
and its 0.9999 is the same. Each text is put into the readout's input, such as a verbalizer's pattern, as if it were to be
answered; what stands in the gap is never asked for.

    masked LM    15 % of the tokens, of each text at least one, are chosen: 80 % of them become the mask, 10 % a random token,
                 10 % stay. L_LM is the mean cross-entropy of the chosen ones (Devlin et al. 2019, arXiv:1810.04805, section 3.1).
    causal LM    every token of the text is predicted from those before it; nothing is masked. The paper has masked models only.

Special tokens are never asked for. Which texts a step sees and what is masked are functions of (seed, step).

Shapes: N texts, T tokens, P positions read, M positions read in all, H features, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PromptEdit
from lmtailor.readouts.batch import Batch, Encoded, collate
from lmtailor.readouts.likelihood import token_log_probabilities
from lmtailor.readouts.readout import Reading, read_states, virtual_tokens
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Language modelling on the task's unlabelled split, beside the objective."""

    weight: float = 1e-4
    """α: the share of the language-modelling loss; the task's has 1 − α."""
    batch_size: int = 12
    """Texts beside each micro-batch of labelled examples. The paper has three for each labelled one."""
    masked: float = 0.15
    """Share of a text's tokens that are asked for; only in masked models."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise InputError(f"unlabelled.weight is {self.weight}; it must be greater than 0 and less than 1.")
        if self.batch_size < 1:
            raise InputError(f"unlabelled.batch_size is {self.batch_size}; it must be at least 1.")
        if not 0 < self.masked < 1:
            raise InputError(f"unlabelled.masked is {self.masked}; it must be greater than 0 and less than 1.")


class Texts:
    """The unlabelled texts of one adapter in training."""

    def __init__(self, settings: Unlabelled, base: Base, task: Task, reading: Reading, edits: Edits, seed: int) -> None:
        """See that the model can be asked for words.

        Args:
            settings: how.
            base: the model.
            task: its "unlabelled" split is read.
            reading: encodes the texts.
            edits: what is trained in the model.
            seed: of order and masks.

        Raises:
            InputError: there are no texts, nothing in the model is trained, or virtual tokens stand around a gap.
            UnsupportedError: the model has no LM head, or is an encoder-decoder; or the adapter mixes several.
        """
        _check(base, task, edits)
        self.settings, self.reading, self.seed = settings, reading, seed
        self.examples = task.split("unlabelled").examples
        tokenizer = base.tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._mask_id = tokenizer.mask_token_id if base.kind == "encoder" else None
        self._words = min(len(tokenizer), base.vocab_size)
        self._order: tuple[int, list[int]] | None = None
        self._encoded: dict[int, Encoded] = {}

    def batch(self, turn: int) -> Batch:
        """The texts of a micro-batch, with what is to be read of them.

        Args:
            turn: number of the micro-batch in the fit, from 0.
        """
        items = [self._item(i) for i in self.indices(turn)]
        asked = self.reading.collate(items)
        answers = [-1] * len(items) if asked.answer_N is None else asked.answer_N[:: asked.per_row].tolist()
        rng = generator(self.seed, "mask", turn)
        batch = collate([self._asked(item, answer, rng) for item, answer in zip(items, answers, strict=True)], self.reading.form)
        return batch if asked.answer_N is None else replace(batch, answer_N=torch.tensor(answers))

    def indices(self, turn: int) -> list[int]:
        """Which texts a micro-batch has: all once in a random order, then all in another."""
        size = self.settings.batch_size
        epoch, within = divmod(turn, -(-len(self.examples) // size))
        if self._order is None or self._order[0] != epoch:
            rng = generator(self.seed, "unlabelled", epoch)
            self._order = epoch, torch.randperm(len(self.examples), generator=rng).tolist()
        return self._order[1][within * size : (within + 1) * size]

    def lengths(self, turns: int) -> Iterator[int]:
        """Tokens of each text that the first micro-batches of the fit have, `turns` of them."""
        one_epoch = -(-len(self.examples) // self.settings.batch_size)
        for turn in range(min(turns, one_epoch)):
            yield from (len(self._item(i).sequences[0]) for i in self.indices(turn))

    def loss(self, base: Base, states: States, batch: Batch) -> Tensor:
        """The mean cross-entropy of the tokens that are asked for; the LM head is multiplied at their positions alone."""
        there_NP = batch.targets_NP >= 0
        extra = virtual_tokens(states.last_NTH, batch, self.reading.virtual)
        states_MH = read_states(states.last_NTH, batch, extra)[there_NP]
        log_p_M = token_log_probabilities(base, states_MH, batch.targets_NP[there_NP])
        return -log_p_M.sum() / max(1, len(log_p_M))

    def _item(self, index: int) -> Encoded:
        """A text in the readout's input, of which the first sequence is used."""
        if index not in self._encoded:
            self._encoded[index] = self.reading.encode(self.examples[index])
        return self._encoded[index]

    def _asked(self, item: Encoded, answer: int, rng: Generator) -> Encoded:
        """A text with the positions that are read, and the tokens that belong there."""
        ids = item.sequences[0]
        segments = None if item.segments is None else item.segments[:1]
        if self._mask_id is not None:
            changed, read = mask_tokens(ids, self._special, self._mask_id, self._words, self.settings.masked, rng)
            return Encoded(sequences=(changed,), segments=segments, read=(read,), targets=(tuple(ids[i] for i in read),))
        end = len(ids) if answer < 0 else answer
        read = tuple(i for i in range(end - 1) if ids[i + 1] not in self._special)
        return Encoded(sequences=(ids,), segments=segments, read=(read,), targets=(tuple(ids[i + 1] for i in read),))


def mask_tokens(
    ids: Sequence[int], special: frozenset[int], mask_id: int, words: int, share: float, rng: Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """BERT's masking: the changed tokens, and the positions that were chosen, ascending.

    Args:
        ids: the text's tokens.
        special: tokens that are never chosen, such as the mask itself.
        mask_id: the mask.
        words: random tokens are drawn from the ids below this.
        share: of the other tokens that are chosen; rounded, at least one.
        rng: draws.
    """
    free = [i for i, token in enumerate(ids) if token not in special]
    count = min(len(free), max(1, round(share * len(free))))
    chosen = sorted(free[i] for i in torch.randperm(len(free), generator=rng)[:count].tolist())
    changed = list(ids)
    fates = torch.rand(count, generator=rng).tolist()
    others = torch.randint(words, (count,), generator=rng).tolist()
    for position, fate, other in zip(chosen, fates, others, strict=True):
        changed[position] = mask_id if fate < 0.8 else other if fate < 0.9 else ids[position]
    return tuple(changed), tuple(chosen)


def _check(base: Base, task: Task, edits: Edits) -> None:
    if "unlabelled" not in task.splits:
        raise InputError(
            f"The task {task.name} has no unlabelled split to model language on. Put texts into one: files.unlabelled in its "
            "card, --unlabelled, unlabelled= of Task.from_records; few-shot splits keep the rest of train there."
        )
    if base.kind == "encoder-decoder":
        raise UnsupportedError(
            f"{base.family.name} is an encoder-decoder; language modelling on unlabelled text is there for masked and causal "
            "models. Leave unlabelled out."
        )
    if not base.has_lm_head:
        raise UnsupportedError(
            f"{base.source or base.family.name} has no LM head to model language with. Use a model with one, or leave "
            "unlabelled out."
        )
    if not edits:
        raise InputError("Nothing in the model is trained, so language modelling has nothing to teach. Leave unlabelled out.")
    if edits.mixed:
        raise UnsupportedError(
            "A mixture runs each row once for each of its members, and words have no one answer then. Leave unlabelled out."
        )
    if base.kind == "encoder" and any(isinstance(edit, PromptEdit) and edit.place != "front" for edit in edits):
        raise InputError(
            "The method's virtual tokens stand around the gap, which cannot be told from the tokens that language modelling "
            "masks. Leave unlabelled out, or choose another method."
        )
