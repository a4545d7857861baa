"""Automatic templates: the text around the answer, written by a model that fills spans, or by a causal base itself.

A model with span sentinels (T5) is given every training example with its label's word and fills what is missing around it:

    one text        S <X> word(y) <Y>        and        <X> word(y) <Y> S
    a pair          S₁ <X> word(y) <Y> S₂

A template is what it writes for all examples at once: see `_lm_bff_beam`.  Gao et al. 2021, arXiv:2012.15723, section 5.2. The
paper's forms leave the answer within the text. A model that answers at its end is given S <X> word(y), and for a pair
S₁ <X> S₂ <Y> word(y). The authors' code averages logits over examples before the softmax, and ends a template at T5's </s> too;
here it is the paper's sum of log-probabilities, and a template ends at its sentinel. Of each form the best are taken in turn, as
there.

Without such a model, a causal base writes the templates: t behind the text, by Σ log p(t, word(y) | S), where the label's word
stands for the sentinel that ends it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.base.load import load_base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.cutting import Gapped, tokenise_within
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.seq2seq import resolve_fill
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.readouts.words import plain_ids
from lmtailor.strategies._lm_bff_beam import Writer, Written, begin_spans, begin_texts, shared_beam
from lmtailor.strategies._lm_bff_words import plain
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task

Part = int | Literal["span", "word"]
"""Of a form: a text column by its number, a span that is written, or the label's word."""
Form = tuple[Part, ...]

_SENTINELS = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")


@dataclass(frozen=True, kw_only=True)
class Template:
    """One pattern that was found."""

    pattern: str
    likelihood: float
    """Σ over training examples of its log-probability."""


def forms(base: Base, task: Task, readout: Verbalizer) -> tuple[Form, ...]:
    """The forms of templates that a base can answer in."""
    at_the_end = base.kind == "decoder" or resolve_fill(base, readout.fill) == "answer"
    if len(task.text) == 1:
        return ((0, "span", "word"),) if at_the_end else ((0, "span", "word", "span"), ("span", "word", "span", 0))
    return ((0, "span", 1, "span", "word"),) if at_the_end else ((0, "span", "word", "span", 1),)


def get_filler(source: str | None, base: Base) -> Base | None:
    """The model that fills spans: one that is named, or the base if it can; None if a causal base is to write by itself.

    Raises:
        InputError: none is named, and the base cannot.
        UnsupportedError: what is named cannot.
    """
    if source is None:
        if base.kind == "decoder":
            return None
        if _fills(base):
            return base
        raise InputError(
            f"Templates are written by a model that fills spans, which {base.source or base.family.name} is not. Name one: "
            "filler, a folder or hub id of a T5."
        )
    filler = load_base(source, device=base.device)
    if not _fills(filler):
        raise UnsupportedError(
            f"The filler {source} is {filler.family.name}, of kind {filler.kind}, "
            + ("without LM head" if not filler.has_lm_head else f"without the sentinels {', '.join(_SENTINELS)}")
            + ". Name an encoder-decoder that was trained to fill spans, such as T5."
        )
    return filler


def search_templates(
    base: Base, task: Task, readout: Verbalizer, form: Form, filler: Base | None, *, beam: int, longest: int
) -> tuple[Template, ...]:
    """The likeliest templates of a form, the best first.

    Args:
        base: whose templates they are to be.
        task: with a train split.
        readout: gives the words of the labels; the first of each is used.
        form: of the templates.
        filler: writes them; None: the base itself, a causal model, behind the texts.
        beam: hypotheses that are kept, and found at most.
        longest: tokens of a template.

    Raises:
        InputError: words of several tokens, where the base itself writes.
    """
    examples = task.split("train").examples
    words = [readout.words[task.labels[int(example.label or 0)]][0] for example in examples]
    if filler is None:
        writer, tokenizer = _continuing(base, task, readout, examples, longest), base.tokenizer
        form = (*range(len(task.text)), "span", "word")
    else:
        writer, tokenizer = _filling(filler, task, examples, words, form), filler.tokenizer
    found = shared_beam(writer, width=beam, longest=longest)
    made = [Template(pattern=pattern, likelihood=one.score) for one in found for pattern in _patterns(tokenizer, form, task, one)]
    best: dict[str, Template] = {}
    for one in made:
        best.setdefault(one.pattern, one)
    return tuple(best.values())


def in_turn(each: Sequence[Sequence[Template]]) -> Iterator[Template]:
    """The best of each form, then the second of each, and so on; each pattern once."""
    seen: set[str] = set()
    for row in itertools.zip_longest(*each):
        for one in row:
            if one is not None and one.pattern not in seen:
                seen.add(one.pattern)
                yield one


def fits(base: Base, task: Task, readout: Verbalizer, pattern: str) -> bool:
    """Whether the base can take a pattern with the readout's words: its tokenizer may write the gap together with the text."""
    try:
        replace(plain(readout), pattern=pattern).bind(base, LabelSet.of(task), None)
    except InputError:
        return False
    return True


def _fills(base: Base) -> bool:
    vocab = base.tokenizer.get_vocab()
    return base.kind == "encoder-decoder" and base.has_lm_head and all(sentinel in vocab for sentinel in _SENTINELS)


def _filling(filler: Base, task: Task, examples: Sequence[Example], words: Sequence[str], form: Form) -> Writer:
    """A span filler before all examples."""
    tokenizer = filler.tokenizer
    spans = sum(part == "span" for part in form)
    sources = []
    for example, word in zip(examples, words, strict=True):

        def tokens(values: dict[str, str], word: str = word) -> Gapped:
            sentinels = iter(_SENTINELS)
            made = [
                next(sentinels) if part == "span" else word if part == "word" else values[task.text[int(part)]] for part in form
            ]
            ids = tokenizer(" ".join(made), return_attention_mask=False, verbose=False)["input_ids"]
            return Gapped(ids=tuple(ids), gap=0)

        values = column_texts(example, task.text)
        text = tokenise_within(tokens, values, tokenizer, filler.max_length, marked=None, name=example.called)  # type: ignore[arg-type]
        sources.append(text.ids)
    first, *others = (int(tokenizer.get_vocab()[sentinel]) for sentinel in _SENTINELS[: spans + 1])
    begun = begin_spans(filler, sources, (int(filler.trunk.config.decoder_start_token_id), first))
    return Writer(filler, begun, [others[-1]] * len(sources), _banned(filler), others[:-1])


def _continuing(base: Base, task: Task, readout: Verbalizer, examples: Sequence[Example], longest: int) -> Writer:
    """A causal base behind all examples."""
    pattern = " ".join([*(f"{{{name}}}" for name in task.text), "{mask}"])
    single = replace(plain(readout), pattern=pattern, words={label: own[:1] for label, own in readout.words.items()})
    reading = single.bind(base, LabelSet.of(task), None, reserve=longest)
    for word in reading.words:
        if len(word.pieces) > 1:
            raise InputError(
                f"A causal model writes templates up to label words of one token; {word.word!r} is "
                f"{base.tokenizer.convert_ids_to_tokens(list(word.pieces))}. Choose other words, or name a filler."
            )
    texts = [reading.encode(example).sequences[0] for example in examples]
    ends = [reading.words[int(example.label or 0)].pieces[0] for example in examples]
    return Writer(base, begin_texts(base, texts), ends, _banned(base))


def _banned(model: Base) -> Tensor:
    """(V,) the tokens that are in no template: special ones, ends of characters, and space that is more than a word's own."""
    size, tokenizer = model.vocab_size, model.tokenizer
    banned_V = torch.ones(size, dtype=torch.bool)
    special = set(tokenizer.all_special_ids)
    for token in range(min(size, len(tokenizer))):
        text = str(tokenizer.decode([token]))
        plain = text.removeprefix(" ")
        banned_V[token] = token in special or not plain or "\ufffd" in plain or any(char.isspace() for char in plain)
    for sentinel in _SENTINELS:
        if sentinel in tokenizer.get_vocab():
            banned_V[int(tokenizer.get_vocab()[sentinel])] = True
    return banned_V


def _patterns(tokenizer: PreTrainedTokenizerBase, form: Form, task: Task, written: Written) -> Iterator[str]:
    """What was written as a pattern; none if the tokenizer does not give its text back."""
    vocab = tokenizer.get_vocab()
    separators = {int(vocab[sentinel]) for sentinel in _SENTINELS if sentinel in vocab}
    spans: list[list[int]] = [[]]
    for token in written.tokens:
        if token in separators:
            spans.append([])
        else:
            spans[-1].append(token)
    texts = [_text(tokenizer, span) for span in spans]
    known = [text for text in texts if text is not None]
    if len(known) == len(texts):
        yield as_pattern(form, task.text, known)


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str | None:
    """Tokens as text, with the space before the first where it has one: as they stand behind a word."""
    word = list(plain_ids(tokenizer, "a"))
    before, whole = (str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for ids in (word, [*word, *tokens]))
    return whole.removeprefix(before) if whole.startswith(before) else None


def as_pattern(form: Form, columns: Sequence[str], spans: Sequence[str]) -> str:
    """A form with its spans filled, as a pattern: columns and the gap are words, with a space before them."""
    out, texts = "", iter(spans)
    for part in form:
        if part == "span":
            text = next(texts).replace("{", "{{").replace("}", "}}")
            out += text if out else text.lstrip()
        else:
            out += (" " if out else "") + ("{mask}" if part == "word" else f"{{{columns[int(part)]}}}")
    return out
