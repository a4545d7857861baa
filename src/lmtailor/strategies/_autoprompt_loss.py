"""The loss of triggers, for many of them at once, and its gradient at the slots.

    loss(trigger) = mean over examples of -log Σ_{w ∈ V_y} p(w | prompt),  p over the whole vocabulary, or over all label words

Shin et al. 2020, arXiv:2010.15980, section 2.2, equation 2.

In causal models the candidates of an example are packed behind what they share, so that the text before the slots is run once;
demonstrations are attached as a prefix.

Shapes: B examples, A triggers, S slots, T tokens, H features of embeddings, V vocabulary, C labels, W words of a label.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError
from lmtailor.edits.attach import Attached
from lmtailor.infer.passes import states_of
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.cutting import tokenise_within
from lmtailor.readouts.labels import column_texts
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.verbalizer_reading import VerbalizerReading
from lmtailor.readouts.words import single_pieces
from lmtailor.tasks.example import Example

_KEPT = 8
"""How many times as much memory a sequence takes whose states are kept for a backward."""

Over = Literal["vocabulary", "labels"]
"""What the probabilities are shares of."""


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """An example in the pattern."""

    item: Encoded
    slots: tuple[int, ...]
    """Positions of the slots."""
    label: int


def prompted(reading: VerbalizerReading, example: Example) -> Prompted:
    """An example with whatever trigger the reading has.

    Raises:
        InputError: a column is missing, the text does not fit, or there is no label.
    """
    if example.label is None:
        raise InputError(f"The {example.called} has no label, and a trigger is searched with labels. Remove it.")
    values = column_texts(example, reading.pattern.fields)
    tokenizer = reading.prompter.tokenizer
    text = tokenise_within(
        reading.prompter.tokens, values, tokenizer, reading.limit, marked=reading.pattern.cut, name=example.called
    )
    return Prompted(item=reading.encode(example), slots=text.slots, label=int(example.label))


class TriggerLoss:
    """Losses of triggers on examples."""

    def __init__(self, base: Base, reading: VerbalizerReading, rows: int, over: Over = "vocabulary") -> None:
        """Prepare.

        Args:
            base: the model.
            reading: a verbalizer with slots, whose words are one token each.
            rows: the most sequences in a forward.
            over: what the probabilities are shares of.

        Raises:
            InputError: a label word of several tokens.
        """
        self.base, self.reading, self.rows, self.over = base, reading, rows, over
        words = [[word for word in reading.words if word.label == label] for label in range(len(reading.labels))]
        single_pieces(
            base.tokenizer, reading.words, who="AutoPrompt", instead="Choose another word, or let label_words=search find some."
        )
        most = max(map(len, words))
        self.words_CW = torch.tensor(
            [[word.pieces[0] for word in own] + [own[0].pieces[0]] * (most - len(own)) for own in words], device=base.device
        )
        self.real_CW = torch.tensor([[i < len(own) for i in range(most)] for own in words], device=base.device)

    @torch.no_grad()
    def losses(self, attached: Attached, examples: Sequence[Prompted], triggers_AS: Tensor) -> Tensor:
        """Losses (A, B) of every trigger on every example."""
        out_AB = torch.empty(len(triggers_AS), len(examples), device=self.base.device)
        for chunk in self._chunks(examples, len(triggers_AS)):
            own = [examples[i] for i in chunk]
            for triggers, part_PS in self._parts(triggers_AS):
                batch, _ = self._batch(own, part_PS)
                states = states_of(attached, batch.inputs, [len(part_PS)] * len(own), answer_N=batch.answer_N)
                losses_N = self._losses(states, batch, own, len(part_PS))
                out_AB[triggers, torch.tensor(chunk)[None].to(out_AB.device)] = losses_N.view(len(own), -1).T
        return out_AB

    def gradient(self, attached: Attached, examples: Sequence[Prompted], trigger_S: Tensor) -> tuple[Tensor, float]:
        """The gradient (S, H) of the examples' summed loss at the slots' input embeddings, and their mean loss."""
        stack = self.base.stacks[0]
        embedding = self.base.module(stack.embedding)
        total_SH: Tensor | None = None
        loss = 0.0
        for chunk in self._chunks(examples, _KEPT):
            own = [examples[i] for i in chunk]
            batch, slots_NS = self._batch(own, trigger_S[None])
            with torch.enable_grad(), _leaf(embedding, batch.inputs["input_ids"]) as leaves:
                states = attached.states(batch.inputs, batch.answer_N)
                losses_N = self._losses(states, batch, own, 1)
                (gradient_NTH,) = torch.autograd.grad(losses_N.sum(), leaves)
            rows_N1 = torch.arange(len(own), device=slots_NS.device)[:, None]
            part_SH = gradient_NTH[rows_N1, slots_NS].float().sum(0)
            total_SH = part_SH if total_SH is None else total_SH + part_SH
            loss += float(losses_N.detach().double().sum())
        assert total_SH is not None
        return total_SH, loss / len(examples)

    def measured(self, attached: Attached, examples: Sequence[Prompted], trigger_S: Tensor) -> tuple[Tensor, float]:
        """The readout's own scores (B, C) of examples under a trigger, and their mean loss."""
        parts: dict[int, Tensor] = {}
        loss = 0.0
        with torch.no_grad():
            for chunk in self._chunks(examples, 1):
                own = [examples[i] for i in chunk]
                batch, _ = self._batch(own, trigger_S[None])
                states = attached.states(batch.inputs, batch.answer_N)
                parts.update(zip(chunk, attached.scores(0, states, batch).float().cpu(), strict=True))
                loss += float(self._losses(states, batch, own, 1).double().sum())
        return torch.stack([parts[i] for i in range(len(examples))]), loss / len(examples)

    def _chunks(self, examples: Sequence[Prompted], each: int) -> Iterator[list[int]]:
        """Numbers of examples for one forward, of like length."""
        order = sorted(range(len(examples)), key=lambda i: (-examples[i].item.length, i))
        size = max(1, self.rows // each)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _parts(self, triggers_AS: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers (P, 1) of the triggers of one forward, and these (P, S)."""
        for part in torch.split(torch.arange(len(triggers_AS), device=self.base.device), self.rows):
            yield part[:, None], triggers_AS[part]

    def _batch(self, examples: Sequence[Prompted], triggers_AS: Tensor) -> tuple[Batch, Tensor]:
        """Every example with every trigger, example by example; and the positions of the slots (N, S)."""
        batch = self.reading.collate([one.item for one in examples]).to(self.base.device)
        count = len(triggers_AS)
        slots_NS = torch.tensor([one.slots for one in examples], device=self.base.device).repeat_interleave(count, 0)
        batch = batch.rows([i for i in range(len(examples)) for _ in range(count)])
        ids_NT = batch.inputs["input_ids"].scatter(1, slots_NS, triggers_AS.repeat(len(examples), 1))
        return replace(batch, inputs={**batch.inputs, "input_ids": ids_NT}), slots_NS

    def _losses(self, states: States, batch: Batch, examples: Sequence[Prompted], count: int) -> Tensor:
        """-log Σ p(w) of every sequence (N,)."""
        read_NH = read_states(states.last_NTH, batch)[:, 0]
        labels_N1 = torch.tensor([one.label for one in examples], device=read_NH.device).repeat_interleave(count)[:, None]
        words = self.words_CW.flatten()
        if self.over == "labels":
            chosen_NW = self.base.lm_logits(read_NH, words).float()
        else:
            logits_NV = self.base.lm_logits(read_NH).float()
            chosen_NW = logits_NV[:, words]
        labels_NC = chosen_NW.view(-1, *self.words_CW.shape).masked_fill(~self.real_CW, -torch.inf).logsumexp(2)
        all_N = labels_NC.logsumexp(1) if self.over == "labels" else logits_NV.logsumexp(1)
        return all_N - labels_NC.gather(1, labels_N1)[:, 0]


@contextmanager
def _leaf(embedding: nn.Module, ids_NT: Tensor) -> Iterator[list[Tensor]]:
    """Make the embeddings of these ids a leaf that has a gradient; passes of other ids, such as a prompt's, are left alone."""
    leaves: list[Tensor] = []

    def cut(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if leaves or args[0].shape != ids_NT.shape or not torch.equal(args[0], ids_NT):
            return None
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    handle = embedding.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()
