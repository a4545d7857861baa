"""CoNLL-U: the words of a sentence and their annotation, one word a line, as Universal Dependencies has them.

The format is that of https://universaldependencies.org/format.html: ten fields a line with a tab between, a blank line after each
sentence, comments before it. Lines of several numbers (2-3) are surface tokens that stand for several words, and lines of decimal
numbers (8.1) are empty nodes of enhanced graphs; neither is a word, and neither is read.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmtailor.core.errors import DataError, near
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.table import Table

FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""What the ten fields of a line are."""

UPOS = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())
"""The universal parts of speech."""

_COMPLETE = ("upos", "xpos", "head", "deprel")
"""Fields that a word has or that nobody gave it: an underscore there is a missing value, elsewhere it is one."""

_WORD = re.compile(r"[1-9][0-9]{0,8}")
_RANGE = re.compile(r"([1-9][0-9]{0,8})-([1-9][0-9]{0,8})")
_EMPTY_NODE = re.compile(r"(0|[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")


def read_conllu(path: Path, *, encoding: str = "utf-8") -> Table:
    """Read a whole file: one row a sentence, whose cells are the words' values with one space between.

    The columns are `text` (FORM; whitespace inside a word becomes a no-break space) and, under their own names, lemma, upos,
    xpos, feats, head, deprel, deps and misc. A sentence in which a word has no upos, xpos, head or deprel has no cell there.

    Raises:
        InputError: see `read_text`.
        DataError: see `read_text`; with the line: another number of fields than ten, an empty one, numbers of words that do not
            count from 1, a range or an empty node out of place, an unknown part of speech, a head that is no word, a comment
            inside a sentence, a sentence without words.
    """
    columns: dict[str, list[object]] = {"text": [], **{name: [] for name in FIELDS[2:]}}
    lines: list[int] = []
    for sentence in _sentences(path, read_text(path, encoding).split("\n")):
        lines.append(sentence.numbers[0])
        columns["text"].append(" ".join(unspaced(word[1]) for word in sentence.words))
        for index, name in enumerate(FIELDS[2:], start=2):
            values = [word[index] for word in sentence.words]
            missing = name in _COMPLETE and "_" in values
            columns[name].append(None if missing else " ".join(map(unspaced, values)))
    return Table(source=str(path), columns=columns, lines=lines)


def unspaced(value: str) -> str:
    """A value without whitespace at its ends, and inside with no-break spaces, so that spaces stand between words only."""
    return "\u00a0".join(value.split())


@dataclass(kw_only=True)
class _Sentence:
    """A sentence as it is read, line by line."""

    words: list[Sequence[str]] = field(default_factory=list)
    """The fields of each word."""
    numbers: list[int] = field(default_factory=list)
    """The line on which each stands."""
    covered: int = 0
    """The last word of the last range."""
    nodes: int = 0
    """Empty nodes after the last word."""
    comment: int = 0
    """The line of the last comment before it; 0: there is none."""

    @property
    def begun(self) -> bool:
        """Whether a line that is no comment was read."""
        return bool(self.words or self.covered or self.nodes)

    def take(self, fields: Sequence[str], number: int) -> str:
        """Take one line. Returns what is wrong with it, or an empty text."""
        if len(fields) != len(FIELDS):
            return f"has {len(fields)} fields, but words have {len(FIELDS)} with a tab between"
        blank = next((name for name, value in zip(FIELDS, fields, strict=True) if not value.strip()), None)
        if blank is not None:
            return f"has an empty {blank.upper()}; an underscore stands for what is not there"
        if _WORD.fullmatch(fields[0]):
            return self._word(fields, number)
        return self._other(fields[0])

    def _word(self, fields: Sequence[str], number: int) -> str:
        if int(fields[0]) != len(self.words) + 1:
            return f"is word {fields[0]}, but word {len(self.words) + 1} comes next; is a blank line missing?"
        if fields[3] != "_" and fields[3] not in UPOS:
            return f"has the universal part of speech {fields[3]!r}. {near(fields[3], UPOS)}"
        self.words.append(fields)
        self.numbers.append(number)
        self.nodes = 0
        return ""

    def _other(self, id_: str) -> str:
        """A line that is no word: a range, or an empty node."""
        next_word = len(self.words) + 1
        if span := _RANGE.fullmatch(id_):
            first, last = map(int, span.groups())
            if first != next_word or last < first or first <= self.covered:
                return f"has the range {id_}, which does not begin with the next word, {next_word}, after other ranges"
            self.covered = last
            return ""
        if node := _EMPTY_NODE.fullmatch(id_):
            after, count = map(int, node.groups())
            if after != len(self.words) or count != self.nodes + 1:
                return f"has the empty node {id_}, but {len(self.words)}.{self.nodes + 1} would come next"
            self.nodes = count
            return ""
        return f"has the ID {id_!r}, which is no number of a word (3), of several (3-4) or of an empty node (3.1)"

    def unfinished(self) -> tuple[str, int]:
        """What is wrong with the whole sentence, and the line of it; an empty text where nothing is."""
        if not self.words:
            return "belongs to a sentence without words", self.comment
        if self.covered > len(self.words):
            return f"ends a sentence of {len(self.words)} words, but a range goes on to word {self.covered}", self.numbers[-1]
        for fields, number in zip(self.words, self.numbers, strict=True):
            head = fields[6]
            if head not in ("_", "0") and not (_WORD.fullmatch(head) and int(head) <= len(self.words)):
                return f"has the head {head!r}, but the sentence has words 1 to {len(self.words)}, and 0 is its root", number
        return "", 0


def _sentences(path: Path, lines: Iterable[str]) -> Iterator[_Sentence]:
    sentence = _Sentence()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if sentence.begun or sentence.comment:
                yield _checked(path, sentence)
                sentence = _Sentence()
            continue
        if line.startswith("#"):
            wrong = "is a comment inside a sentence; comments stand before it" if sentence.begun else ""
            sentence.comment = number
        else:
            wrong = sentence.take(line.removesuffix("\r").split("\t"), number)
        if wrong:
            raise DataError(f"{path}: line {number} {wrong}{'' if wrong.endswith(('.', '?')) else '.'} This is no CoNLL-U.")
    if sentence.begun or sentence.comment:
        yield _checked(path, sentence)


def _checked(path: Path, sentence: _Sentence) -> _Sentence:
    wrong, number = sentence.unfinished()
    if wrong:
        raise DataError(f"{path}: line {number} {wrong}. This is no CoNLL-U.")
    return sentence
