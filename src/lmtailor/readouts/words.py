"""Label words as the tokenizer writes them in a pattern's gap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lmtailor.core.errors import InputError, near
from lmtailor.readouts.pattern import Pattern

_PROBES = ("a", ".", "0")
"""Ends of texts that a column before the gap may have: a letter, a mark, a digit."""


@dataclass(frozen=True, kw_only=True)
class LabelWord:
    """One word that stands for a label."""

    label: int
    """The label's index."""
    word: str
    pieces: tuple[int, ...]
    """Its token ids in the gap."""


def check_labels(words: Mapping[str, Sequence[str]], labels: Sequence[str]) -> None:
    """See that every label has words and every word a label.

    Raises:
        InputError: it is not so; the message offers near names.
    """
    for label in words:
        if label not in labels:
            raise InputError(f"The verbalizer has words for {label!r}, which is no label of the task. {near(label, labels)}")
    missing = [label for label in labels if label not in words]
    if missing:
        raise InputError(
            f"The verbalizer has no words for the label {missing[0]!r}. {near(missing[0], words)} Every label needs some."
        )


def label_words(
    tokenizer: PreTrainedTokenizerBase,
    pattern: Pattern,
    words: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    *,
    alone: bool = False,
) -> tuple[LabelWord, ...]:
    """All label words, label by label, as token ids in the place of the gap.

    A space before the gap belongs to the word: byte-level and sentence-piece tokenizers write it into the word's first token.

    Args:
        tokenizer: the model's.
        pattern: what stands before the gap.
        words: label -> words.
        labels: in the order of the scores.
        alone: whether a word is a text of its own, which a decoder writes, with nothing before it.

    Raises:
        InputError: a word that the tokenizer does not know or cannot tell from another, or that it writes together
            with what stands before the gap.
    """
    found = [
        LabelWord(label=index, word=word, pieces=pieces_in_gap(tokenizer, pattern, word, alone=alone, what="label word"))
        for index, label in enumerate(labels)
        for word in words[label]
    ]
    for index, label in enumerate(labels):
        own = [word for word in found if word.label == index]
        for number, word in enumerate(own):
            twin = next((other for other in own[:number] if other.pieces == word.pieces), None)
            if twin is not None:
                raise InputError(
                    f"The words {twin.word!r} and {word.word!r} of the label {label!r} are the same tokens. Name each once."
                )
        for other in range(index):
            if {word.pieces for word in own} == {word.pieces for word in found if word.label == other}:
                raise InputError(
                    f"The labels {labels[other]!r} and {label!r} have the same words, "
                    f"{', '.join(repr(word.word) for word in own)}: their scores would always be equal. Use different words."
                )
    return tuple(found)


def single_pieces(tokenizer: PreTrainedTokenizerBase, words: Sequence[LabelWord], *, who: str, instead: str) -> tuple[int, ...]:
    """The one token of each label word, for what reads words of one token only.

    Args:
        tokenizer: the model's.
        words: the label words.
        who: what reads them, such as "AutoPrompt".
        instead: what to do where one has several, a sentence.

    Raises:
        InputError: a word of several tokens; the message shows them.
    """
    for word in words:
        if len(word.pieces) > 1:
            pieces = tokenizer.convert_ids_to_tokens(list(word.pieces))
            raise InputError(
                f"The label word {word.word!r} is {pieces} to the tokenizer, and {who} reads words of one token. {instead}"
            )
    return tuple(word.pieces[0] for word in words)


def pieces_in_gap(tokenizer: PreTrainedTokenizerBase, pattern: Pattern, word: str, *, alone: bool, what: str) -> tuple[int, ...]:
    """The token ids of a word, or of a longer text, in the place of the gap.

    Args:
        tokenizer: the model's.
        pattern: what stands before the gap.
        word: what fills it.
        alone: whether it is a text of its own, which a decoder writes, with nothing before it.
        what: what it is, for messages, such as "label word".

    Raises:
        InputError: it is empty, or the tokenizer does not know it, or writes it together with what stands before the gap.
    """
    if not word or word != word.strip():
        raise InputError(
            f"The {what} {word!r} is empty or begins or ends with space. Write the space before the word into the pattern."
        )
    pieces = plain_ids(tokenizer, word, target=True) if alone else pieces_behind(tokenizer, pattern, word)
    if pieces is None:
        raise InputError(
            f"The tokenizer writes the {what} {word!r} together with what stands before the gap in {pattern.source!r}. "
            "Put one space or one line break before {mask}."
        )
    shown = tokenizer.convert_ids_to_tokens(list(pieces))
    if tokenizer.unk_token_id in pieces:
        raise InputError(f"The tokenizer does not know the {what} {word!r}; it makes {shown} of it. Choose another word.")
    if not pieces or set(pieces) & set(tokenizer.all_special_ids):
        raise InputError(f"The {what} {word!r} is no word to the tokenizer; it makes {shown} of it. Choose another word.")
    return pieces


def pieces_behind(tokenizer: PreTrainedTokenizerBase, pattern: Pattern, text: str) -> tuple[int, ...] | None:
    """A text's tokens behind what stands before the gap; None where the tokenizer writes the two together."""
    edge, follows = pattern.edge
    lead = " " if edge.endswith(" ") else ""
    anchor = edge.removesuffix(" ")
    variants = {_after(tokenizer, probe + anchor, lead + text) for probe in (_PROBES if follows else ("",))}
    pieces = variants.pop()
    return None if variants else pieces


def _after(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> tuple[int, ...] | None:
    """The tokens that `text` adds to those of `before`; None where it changes these."""
    head = plain_ids(tokenizer, before)
    whole = plain_ids(tokenizer, before + text)
    return whole[len(head) :] if whole[: len(head)] == head else None


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, target: bool = False) -> tuple[int, ...]:
    """A text's tokens without the special ones that the tokenizer adds; with `target` as one that a decoder writes."""
    given = {"text_target" if target else "text": text}
    return tuple(tokenizer(**given, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
