"""Label words by a linear classifier on what the LM head reads.  Shin et al. 2020, arXiv:2010.15980, section 2.3.

    p(y | h) ∝ exp(w_y · h + b_y)          trained on h, what the LM head multiplies with its output embeddings
    s(y, w) = p(y | e_w)                   of a word's output embedding e_w in the place of h
    V_y = the top-k of s(y, w)

Ranks are by log p in double precision, since many words have a probability that single precision rounds to 1. The paper's code
leaves b out of s; here it is in, as in the paper's text. A word that is among the best of several labels stays with the one that
it scores highest for, so that no two share one. Words are whole words of letters, one token each in the place of the gap.

Shapes: N examples, F features, C labels, V words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.infer.evaluate import plain_adapter
from lmtailor.infer.score import by_length
from lmtailor.readouts.pattern import Pattern, parse_pattern
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.seq2seq import Fill, resolve_fill
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.readouts.words import plain_ids
from lmtailor.strategies.strategy import Work
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class WordSearch:
    """How label words are searched. The defaults are the paper's for SST-2, and its code's batch size."""

    count: int = 5
    """Words of a label."""
    lr: float = 3e-4
    """Adam's learning rate for the classifier."""
    epochs: int = 50
    batch_size: int = 32
    """Examples in a step."""

    def __post_init__(self) -> None:
        for name in ("count", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; found {getattr(self, name)}.")
        if not self.lr > 0:
            raise InputError(f"lr must be above 0; found {self.lr}.")


def find_words(work: Work, readout: Verbalizer, settings: WordSearch, rows: int) -> dict[str, Any]:
    """Label words for a verbalizer's pattern: label -> a list of {word, score}, the best first; score is log s.

    Args:
        work: base, labelled training examples, and the seed of the classifier.
        readout: its pattern counts, its words do not.
        settings: how to search.
        rows: examples in a forward.

    Raises:
        InputError: the vocabulary has fewer words than labels.
    """
    pattern = parse_pattern(readout.pattern)
    words = whole_words(work.base, pattern, readout.fill)
    labels = work.task.labels
    plain = replace(readout, words=provisional(labels, words), calibration=None, normalise="none", prior=None)
    h_NF, y_N = _features(work, plain, rows)
    weight_CF, bias_C = train_classifier(h_NF, y_N, len(labels), settings, work.seed)
    ids = sorted(words)
    out_VF = work.base.linear(work.base.sites["lm_head"]).weight_OI.detach()[ids]
    scores_CV = (out_VF.double() @ weight_CF.double().T + bias_C.double()).log_softmax(1).T.cpu()
    found = {
        label: [{"word": words[ids[place]], "score": float(row_V[place])} for place in places]
        for label, row_V, places in zip(labels, scores_CV, assigned(scores_CV, settings.count), strict=True)
    }
    work.tell("; ".join(f"{label}: {', '.join(str(one['word']) for one in own)}" for label, own in found.items()), 1, 1)
    return found


def assigned(scores_CV: Tensor, count: int) -> list[list[int]]:
    """For each label its `count` best words, the best first. A word that is among several' goes where it scores highest."""
    most = min(count * len(scores_CV), scores_CV.shape[1])
    best = torch.topk(scores_CV, most, dim=1)
    pairs = sorted(
        (-value, label, place)
        for label, (values, places) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        for value, place in zip(values, places, strict=True)
    )
    out: list[list[int]] = [[] for _ in scores_CV]
    taken: set[int] = set()
    for _, label, place in pairs:
        if place not in taken and len(out[label]) < count:
            out[label].append(place)
            taken.add(place)
    return out


def train_classifier(h_NF: Tensor, y_N: Tensor, labels: int, settings: WordSearch, seed: int) -> tuple[Tensor, Tensor]:
    """Weights (C, F) and biases (C,) of a classifier by cross-entropy, with Adam; they start as nn.Linear's."""
    rng = generator(seed, "label words")
    bound = h_NF.shape[1] ** -0.5
    weight_CF = (torch.rand(labels, h_NF.shape[1], generator=rng) * 2 - 1).mul_(bound).requires_grad_()
    bias_C = (torch.rand(labels, generator=rng) * 2 - 1).mul_(bound).requires_grad_()
    adam = torch.optim.Adam([weight_CF, bias_C], lr=settings.lr)
    with torch.enable_grad():
        for _ in range(settings.epochs):
            for part in torch.split(torch.randperm(len(h_NF), generator=rng), settings.batch_size):
                adam.zero_grad()
                F.cross_entropy(F.linear(h_NF[part], weight_CF, bias_C), y_N[part]).backward()  # type: ignore[no-untyped-call]
                adam.step()
    return weight_CF.detach(), bias_C.detach()


def _features(work: Work, readout: Verbalizer, rows: int) -> tuple[Tensor, Tensor]:
    """What the LM head multiplies with output embeddings, for every training example (N, F), and the labels (N,)."""
    adapter = plain_adapter(work.base, work.task, readout, seed=work.seed)
    reading = adapter.reading
    assert reading is not None
    train = work.task.split("train")
    items = [reading.encode(example) for example in train]
    parts: dict[int, Tensor] = {}
    with torch.no_grad(), attach(work.base, adapter, fast=True) as attached:
        for chunk in by_length(items, rows):
            batch = reading.collate([items[i] for i in chunk]).to(work.base.device)
            states = attached.states(batch.inputs, batch.answer_N)
            h_BF = work.base.lm_features(read_states(states.last_NTH, batch)[:, 0]).float().cpu()
            parts.update(zip(chunk, h_BF, strict=True))
            work.tell("features for label words", len(parts), len(items))
    return torch.stack([parts[i] for i in range(len(items))]), torch.tensor(train.labels, dtype=torch.long)


def whole_words(base: Base, pattern: Pattern, fill: Fill = "auto") -> dict[int, str]:
    """Token id -> word, of all words of letters that are one token in the gap."""
    tokenizer = base.tokenizer
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    ids = [i for i in ids if i < base.vocab_size]
    letters = [(i, text.strip()) for i, text in zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True)]
    letters = [(i, text) for i, text in letters if text.isalpha()]
    if not letters:
        return {}
    if resolve_fill(base, fill) == "answer":
        written = tokenizer(text_target=[text for _, text in letters], add_special_tokens=False)["input_ids"]
        stop: tuple[int, ...] = ()
    else:
        lead, stop = " " if pattern.edge[0].endswith(" ") else "", plain_ids(tokenizer, ".")
        written = tokenizer([f".{lead}{text}" for _, text in letters], add_special_tokens=False)["input_ids"]
    return {i: text for (i, text), own in zip(letters, written, strict=True) if tuple(own) == (*stop, i)}


def provisional(labels: Sequence[str], words: Mapping[int, str]) -> dict[str, tuple[str, ...]]:
    """Any words, one for each label, until real ones are found.

    Raises:
        InputError: the vocabulary has fewer words than labels.
    """
    if len(words) < len(labels):
        raise InputError(
            f"The tokenizer has {len(words)} whole words of one token in the pattern's gap, and {len(labels)} labels need one "
            "each. Put one space before {mask}, or give label words."
        )
    return {label: (word,) for label, word in zip(labels, words.values(), strict=False)}


def default_pattern(base: Base, task: Task, slots: int) -> str:
    """The task's columns, slots behind them, and the gap; a full stop behind it where something may stand there."""
    columns = " ".join(f"{{{column}}}" for column in task.text)
    return f"{columns} {'{trigger} ' * slots}{{mask}}{'.' if base.kind == 'encoder' else ''}"
