"""Span: the answer is a part of a text, from the token that is most probably its first to the one that is most probably its last.

    P_start(i) = softmax_i(S · h_i),  P_end(j) = softmax_j(E · h_j),  L = −½ (log P_start(i*) + log P_end(j*))

over the tokens of the context alone; the answer is the span with the largest S · h_i + E · h_j, i ≤ j. Devlin et al. 2019,
arXiv:1810.04805, section 4.2; here dropout may act before the two. The paper's code and transformers take the softmax over the
question and the padding too, and add biases, which a softmax over places does not see; the paper's own text is followed.

A context that is longer than the model is read in overlapping windows (see `span_windows`). A window without the whole answer
is left out of the fit; run_squad points it at its first token, which is none of the context's. At prediction the largest sum
over all windows wins, of spans whose first token has no more context in another window.

The answer is cut out of the text as it stands there, by the tokens' characters.

Shapes: N sequences, P positions read in one (the context's tokens), H features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, near
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.inquiry import Finding, Inquires
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.linear import blocks_read, linear_scores, linear_tensors, state_width, states_read
from lmtailor.readouts.readout import Reading, check_dropout, check_lengths, input_form, read_states, virtual_tokens
from lmtailor.readouts.span_windows import Window, Windows
from lmtailor.readouts.token_items import check_offsets, sequence_limit, token_item
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task

NEVER = -1e30
"""The score of what is no token of the context: never chosen, and finite, so that no product with it is undefined."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Two scores for each token of a context: that the answer begins here, and that it ends here.

    They start normal with the family's `initializer_range`. Parameters: `head.weight` (2, H): S, then E.
    """

    context: str | None = None
    """The text column that holds the answers; None: the last of the text columns. The other one, if any, is the question."""
    max_answer: int = 30
    """Longest answer (tokens), as run_squad's max_answer_length. Longer ones are learned from, but not given."""
    max_question: int = 64
    """Longest question (tokens), as run_squad's max_query_length; longer ones lose their end."""
    stride: int = 128
    """Tokens of the context from one window to the next, as run_squad's doc_stride."""
    layer: int | None = None
    """The block whose output is read, as Python indexes lists; None: the last states, after the final norm."""
    dropout: float = 0.0
    """Probability at the input of the layer, in training."""
    max_length: int | None = None
    """Longest sequence (tokens), question included; longer contexts are read in windows. None: what the model takes."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_lengths(max_length=self.max_length, max_answer=self.max_answer, max_question=self.max_question, stride=self.stride)

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> "SpanReading":
        """See `Readout.bind`.

        Raises:
            InputError: there is no such block or column, or an impossible length.
            UnsupportedError: a task of another kind, or a tokenizer without offsets.
        """
        labels.check_kind("span", what='Span is for tasks whose answers are a part of the text (kind = "span")')
        if self.context is not None and self.context not in labels.texts:
            raise InputError(f"context={self.context!r} is no text column of the task. {near(self.context, labels.texts)}")
        check_offsets(base)
        form = input_form(base)
        context = self.context or labels.texts[-1]
        return SpanReading(
            readout=self,
            label_set=labels,
            form=form,
            layers=blocks_read(base, self.layer),
            drop=self.dropout,
            tensors=linear_tensors(base, {"head": (2, state_width(base, self.layer))}, rng, bias=False),
            windows=Windows(
                tokenizer=base.tokenizer,
                limit=sequence_limit(base, form, self.max_length, reserve),
                stride=self.stride,
                most_question=self.max_question,
                segments=form.segments,
            ),
            context=context,
            question=next((name for name in labels.texts if name != context), None),
            max_answer=self.max_answer,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SpanReading(Reading, Inquires):
    """`Span` bound to a base; see `Reading`."""

    windows: Windows
    context: str
    question: str | None
    """The columns."""
    max_answer: int
    drop: float

    def encode(self, example: Example) -> Encoded:
        """The first window of an example. Raises as `inquiry`."""
        return self.inquiry(example).items[0]

    def inquiry(self, example: Example) -> "SpanInquiry":
        """See `Inquires.inquiry`.

        Raises:
            InputError: a column is missing, the question leaves no room, or the context has no token.
        """
        texts = column_texts(example, self.label_set.texts)
        question = None if self.question is None else texts[self.question]
        windows, cut = self.windows.of(question, texts[self.context], example.called)
        items = tuple(
            token_item(self.form, window.ids, window.segments, window.positions, units=2, cut=cut, name=example.id)
            for window in windows
        )
        return SpanInquiry(items=items, windows=windows, context=texts[self.context], max_answer=self.max_answer)

    def items(self, example: Example) -> tuple[Encoded, ...]:
        """For each different reference the windows that have it whole; none where no window has.

        Raises:
            InputError: as `inquiry`; no reference, or one that does not stand where the example says.
        """
        asked = self.inquiry(example)
        if not example.references or len(example.references) != len(example.starts):
            raise InputError(f"The {example.called} has no answer with its place to learn from. Use a labelled split.")
        found = []
        for text, start in dict.fromkeys(zip(example.references, example.starts, strict=True)):
            if asked.context[start : start + len(text)] != text:
                raise InputError(f"The answer {text!r} of {example.called} does not stand at character {start} of its text.")
            for item, window in zip(asked.items, asked.windows, strict=True):
                places = window.places(start, start + len(text))
                if places is not None:
                    found.append(replace(item, targets=(places,)))
        return tuple(found)

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """Two rows a sequence, of the start and of the end; one column a token of the context (2 · N, P). See `Reading.scores`.

        Where a sequence has fewer tokens, the scores are `NEVER`.
        """
        states_NTH = states_read(states, self.layers)
        extra = virtual_tokens(states_NTH, batch, self.virtual)
        scores_NP2 = linear_scores(self.tensors, read_states(states_NTH, batch, extra), self.drop, training)
        scores_N2P = scores_NP2.transpose(1, 2).masked_fill((batch.read_NP < 0)[:, None], NEVER)
        return (scores_N2P.log_softmax(2) if normalised else scores_N2P).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class SpanInquiry:
    """See `Inquiry`."""

    items: tuple[Encoded, ...]
    """One for each window."""
    windows: tuple[Window, ...]
    context: str
    """The text."""
    max_answer: int

    def finding(self, scores: Sequence[Tensor]) -> Finding:
        """The best legal span of all windows; the empty text where there is none."""
        best, found = NEVER, Finding(text="")
        for window, scores_2P in zip(self.windows, scores, strict=True):
            count = len(window.offsets)
            if not any(window.begins):
                continue
            start_P, end_P = scores_2P[:, :count]
            start_P = start_P.masked_fill(~torch.tensor(window.begins), NEVER)
            legal_PP = torch.ones(count, count, dtype=torch.bool).triu().tril(min(self.max_answer, count) - 1)
            sums_PP = (start_P[:, None] + end_P[None]).masked_fill(~legal_PP, NEVER)
            value = float(sums_PP.max())
            if value > best:
                first, last = divmod(int(sums_PP.argmax()), count)
                begin, end = window.offsets[first][0], window.offsets[last][1]
                best, found = value, Finding(text=self.context[begin:end], start=begin)
        return found
