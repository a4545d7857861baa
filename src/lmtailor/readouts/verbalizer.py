"""Verbalizer: the task as the model's own: a pattern asks, words answer, the LM head scores the words.

    masked LM    s_w = Σ_i log p(w_i | text with as many masks as w has tokens), all at once
    causal LM    s_w = Σ_i log p(w_i | text, w_1 … w_{i-1})

Where every word is one token, s_w is the LM head's logit of it (equal up to a constant), and only those rows of the
head are multiplied. Zero-shot and few-shot it has nothing to train; with a method it is prompt-based fine-tuning.
Schick & Schütze 2021, arXiv:2001.07676, section 3.1; Gao et al. 2021, arXiv:2012.15723, section 4.

Words of several tokens are scored in masked models with all masks open at once; filling the most probable first needs
a run for each token, which one pass over a batch cannot give.

Shapes: B examples, W label words, K runs an example, N = B · K sequences, P positions, M positions in all, S states,
V vocabulary, C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.batch import Batch, Encoded, InputForm, collate
from lmtailor.readouts.cutting import Gapped, tokenise_within
from lmtailor.readouts.demonstrations import Demonstrations, Shown, check_shown, choose
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.pattern import Pattern, parse_pattern
from lmtailor.readouts.prompts import CausalPrompter, MaskedPrompter, Prompter, solved
from lmtailor.readouts.readout import check_parameters, input_form, input_limit, read_states, virtual_tokens
from lmtailor.readouts.runs import Run, plan_runs
from lmtailor.readouts.words import LabelWord, check_labels, label_words
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task, TaskKind

Aggregate = Literal["mean", "max", "sum"]


@dataclass(frozen=True)
class Verbalizer:
    """A pattern with one gap, and for each label the words that may fill it."""

    pattern: str
    """Such as "{sentence} It was {mask}."; see `lmtailor.readouts.pattern`. Causal models: it ends with {mask}."""
    words: Mapping[str, tuple[str, ...]]
    """Label -> words, each of any number of tokens. The first is the one that demonstrations show."""
    _: KW_ONLY
    demonstrations: Demonstrations | None = None
    """Solved examples before each input; None: zero-shot."""
    aggregate: Aggregate = "mean"
    """Several words of a label: the mean of their scores, the largest, or the score of the sum of their probabilities."""
    normalise: Literal["none", "length"] = "none"
    """length: a word's score is divided by its number of tokens, before words are aggregated."""
    max_length: int | None = None
    """Longest input with demonstrations and word (tokens); a column loses its end if it is longer. None: what the model takes."""

    def __post_init__(self) -> None:
        parse_pattern(self.pattern)
        if not self.words:
            raise InputError('A verbalizer needs words for every label, such as {"0": ["terrible"], "1": ["great"]}.')
        for label, words in dict[str, object](self.words).items():  # text would be taken for a list of its letters
            if isinstance(words, str) or not words:
                raise InputError(f"The words of the label {label!r} must be a list of at least one; found {words!r}.")
        object.__setattr__(self, "words", {str(label): tuple(words) for label, words in self.words.items()})
        if self.max_length is not None and self.max_length < 1:
            raise InputError(f"max_length must be at least 1 token; found {self.max_length}.")

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> "VerbalizerReading":
        """See `Readout.bind`. Nothing here is random, so `rng` has no effect.

        Raises:
            InputError: words or columns that do not fit the labels or the data; demonstrations that are too many or too long.
            UnsupportedError: regression, an encoder-decoder, or a model without LM head.
        """
        check_base(base, labels)
        pattern = parse_pattern(self.pattern)
        pattern.check_columns(labels.columns)
        check_labels(self.words, labels.labels)
        words = label_words(base.tokenizer, pattern, self.words, labels.labels)
        limit = input_limit(base, self.max_length, reserve) - max(len(word.pieces) for word in words) + 1
        shown = self._shown(pattern, labels, task)
        prompter = self._prompter(base, pattern, shown)
        if _least(prompter, pattern) > limit:
            raise self._too_long(base, pattern, shown, limit)
        mask_id = base.tokenizer.mask_token_id if base.kind == "encoder" else None
        settings = None if self.demonstrations is None else replace(self.demonstrations, shown=shown)
        return VerbalizerReading(
            readout=replace(self, demonstrations=settings),
            label_set=labels,
            form=input_form(base),
            prompter=prompter,
            pattern=pattern,
            words=words,
            limit=limit - len(prompter.prompt()),
            mask_id=mask_id,
            prompt_ids=prompter.prompt(),
            runs=plan_runs(words, mask_id),
        )

    def _shown(self, pattern: Pattern, labels: LabelSet, task: Task | None) -> tuple[Shown, ...]:
        settings = self.demonstrations
        if settings is None:
            return ()
        if settings.shown is not None:
            check_shown(settings.shown, labels, pattern.fields)
            return settings.shown
        if task is None:
            raise InputError(
                "Demonstrations are drawn from a task's training split. Give the task, or the demonstrations (shown=…)."
            )
        return choose(settings, task.split("train"), labels, pattern.fields)

    def _prompter(self, base: Base, pattern: Pattern, shown: Sequence[Shown]) -> Prompter:
        texts = solved(pattern, shown, {label: words[0] for label, words in self.words.items()})
        separator = "" if self.demonstrations is None else self.demonstrations.separator
        if base.kind == "encoder":
            return MaskedPrompter(base.tokenizer, pattern, "".join(text + separator for text in texts))
        return CausalPrompter(base.tokenizer, pattern, tuple(texts), separator)

    def _too_long(self, base: Base, pattern: Pattern, shown: Sequence[Shown], limit: int) -> InputError:
        """The error that says how many demonstrations fit."""
        for count in range(len(shown) - 1, -1, -1):
            if _least(self._prompter(base, pattern, shown[:count]), pattern) <= limit:
                break
        else:
            return InputError(
                f"The pattern {self.pattern!r} alone is longer than the {limit} tokens that an input may have. Shorten it."
            )
        k = len(shown) if self.demonstrations is None else self.demonstrations.k
        most = count * k // len(shown)
        return InputError(
            f"{len(shown)} demonstrations are longer than the {limit} tokens that an input may have; the first {count} fit. "
            + (f"Use k of {most} or less." if most else "Show none.")
        )


def _least(prompter: Prompter, pattern: Pattern) -> int:
    """Tokens of an input with one token in each column, prompt included."""
    return len(prompter.prompt()) + len(prompter.tokens(dict.fromkeys(pattern.fields, "")).ids) + len(pattern.fields)


@dataclass(frozen=True, kw_only=True, eq=False)
class VerbalizerReading:
    """A verbalizer bound to a base; see `Reading`."""

    readout: Verbalizer
    label_set: LabelSet
    form: InputForm
    prompter: Prompter
    pattern: Pattern
    words: tuple[LabelWord, ...]
    limit: int
    """Longest input before a word is put in (tokens)."""
    mask_id: int | None
    """The mask token of masked models; None in causal ones."""
    prompt_ids: tuple[int, ...]
    runs: tuple[Run, ...]
    """The sequences of an example."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""
        return self.label_set.labels

    @property
    def kind(self) -> TaskKind:
        """classification."""
        return self.label_set.kind

    @property
    def layers(self) -> tuple[int, ...]:
        """None: the LM head reads the last states."""
        return ()

    @property
    def reads_lm_head(self) -> bool:
        """A verbalizer asks the LM head for words."""
        return True

    @property
    def virtual(self) -> bool:
        """False: virtual tokens are never read."""
        return False

    @property
    def single(self) -> bool:
        """Whether every word is one token, so that its logit is enough."""
        return all(len(word.pieces) == 1 for word in self.words)

    @property
    def demonstrations(self) -> tuple[Shown, ...]:
        """The demonstrations that are shown."""
        settings = self.readout.demonstrations
        return settings.shown or () if settings is not None else ()

    def parameters(self) -> Mapping[str, Tensor]:
        """None: the LM head belongs to the base."""
        return {}

    def with_parameters(self, tensors: Mapping[str, Tensor]) -> "VerbalizerReading":
        """See `Reading.with_parameters`."""
        check_parameters({}, tensors)
        return self

    def prompt(self) -> tuple[int, ...]:
        """The demonstrations in causal models; nothing in masked ones, where they are part of each input."""
        return self.prompt_ids

    def encode(self, example: Example) -> Encoded:
        """An example as one sequence, or as several where words of several tokens need runs of their own.

        Raises:
            InputError: a column is missing, or the text does not fit.
        """
        values = column_texts(example, self.pattern.fields)
        tokenizer = self.prompter.tokenizer
        text = tokenise_within(self.prompter.tokens, values, tokenizer, self.limit, marked=self.pattern.cut, name=example.id)
        if not text.gap:
            raise InputError(
                f"Nothing stands before the gap in example {example.id!r}, and a causal model answers only to something."
            )
        return Encoded(
            sequences=tuple(self._filled(text, run) for run in self.runs),
            read=tuple(self._spots(text, run) for run in self.runs),
            targets=()
            if self.single
            else tuple(tuple(piece for i in run.words for piece in self.words[i].pieces) for run in self.runs),
            label=example.label,
            cut=text.cut,
            id=example.id,
        )

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Encoded examples as one batch. Causal models begin to answer behind the first state that is read."""
        batch = collate(items, self.form)
        return batch if self.mask_id is not None else replace(batch, answer_N=batch.read_NP[:, 0] + 1)

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """See `Reading.scores`. There is no dropout of its own, so `training` has no effect."""
        virtual_tokens(states.last_NTH, batch, False)
        scores_BW = self._one_token(base, states, batch, normalised) if self.single else self._many_tokens(base, states, batch)
        if self.readout.normalise == "length":
            scores_BW = scores_BW / torch.tensor([len(word.pieces) for word in self.words], device=scores_BW.device)
        return self._aggregated(scores_BW)

    def _filled(self, text: Gapped, run: Run) -> tuple[int, ...]:
        """The sequence of a run."""
        after = text.ids[text.gap + 1 :] if self.mask_id is not None else ()
        return text.ids[: text.gap] + run.filling + after

    def _spots(self, text: Gapped, run: Run) -> tuple[int, ...]:
        """The positions whose states predict the run's words, word by word; of words of one token the one for all."""
        start = text.gap if self.mask_id is not None else text.gap - 1
        if self.single:
            return (start,)
        return tuple(start + i for word in run.words for i in range(len(self.words[word].pieces)))

    def _one_token(self, base: Base, states: States, batch: Batch, normalised: bool) -> Tensor:
        """The words' logits (B, W), or their log-probabilities, for which the whole vocabulary is asked."""
        words_W = torch.tensor([word.pieces[0] for word in self.words], device=states.last_NTH.device)
        read_BH = read_states(states.last_NTH, batch)[:, 0]
        if normalised:
            return base.lm_logits(read_BH).float().log_softmax(1)[:, words_W]
        return base.lm_logits(read_BH, words_W).float()

    def _many_tokens(self, base: Base, states: States, batch: Batch) -> Tensor:
        """The words' log-probabilities (B, W). The vocabulary's logits are computed once for each state that is read."""
        there_NP = batch.targets_NP >= 0
        width = states.last_NTH.shape[1]
        rows_N1 = torch.arange(there_NP.shape[0], device=there_NP.device)[:, None]
        spots_S, which_M = torch.unique((rows_N1 * width + batch.read_NP)[there_NP], return_inverse=True)
        logits_SV = base.lm_logits(states.last_NTH.flatten(0, 1)[spots_S]).float()
        log_p_M = logits_SV[which_M, batch.targets_NP[there_NP]] - logits_SV.logsumexp(1)[which_M]
        log_p_NP = torch.zeros(there_NP.shape, device=log_p_M.device).masked_scatter(there_NP, log_p_M)
        log_p_BKP = log_p_NP.view(-1, batch.per_row, log_p_NP.shape[1])
        columns: dict[int, Tensor] = {}
        for k, run in enumerate(self.runs):
            counts = [len(self.words[i].pieces) for i in run.words]
            parts = torch.split(log_p_BKP[:, k, : sum(counts)], counts, dim=1)
            columns |= {i: part.sum(1) for i, part in zip(run.words, parts, strict=True)}
        return torch.stack([columns[i] for i in range(len(self.words))], dim=1)

    def _aggregated(self, scores_BW: Tensor) -> Tensor:
        columns = []
        for label in range(len(self.labels)):
            own = scores_BW[:, [i for i, word in enumerate(self.words) if word.label == label]]
            if self.readout.aggregate == "mean":
                columns.append(own.mean(1))
            else:
                columns.append(own.amax(1) if self.readout.aggregate == "max" else own.logsumexp(1))
        return torch.stack(columns, dim=1)


def check_base(base: Base, labels: LabelSet) -> None:
    """See that label words can be read from this model for this task.

    Raises:
        UnsupportedError: they cannot.
    """
    if labels.kind == "regression":
        raise UnsupportedError("A verbalizer chooses among words, and regression has no labels. Use Head.")
    if base.kind == "encoder-decoder":
        raise UnsupportedError(
            f"{base.family.name} is an encoder-decoder, whose decoder writes what is missing: a verbalizer reads masked and "
            "causal models only. Use Head."
        )
    if not base.has_lm_head:
        raise UnsupportedError(
            f"{base.source or base.family.name} has no LM head, so it cannot score words. Use Head, or a checkpoint with one."
        )
