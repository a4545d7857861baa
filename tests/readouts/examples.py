"""Small inputs that the tests of readouts share."""

from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.readouts.labels import LabelSet
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from tests.tiny import SPECIALS, tiny_model, tiny_tokenizer

SENTIMENT = LabelSet(kind="classification", labels=("neg", "pos"), texts=("sentence",))
PAIRS = LabelSet(kind="classification", labels=("no", "maybe", "yes"), texts=("first", "second"))
SCALE = LabelSet(kind="regression", labels=(), texts=("first", "second"))

TEXTS = ("a very good movie.", "bad", "the worst book, not fun at all", "so boring that the cat sat on this text. No!")


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Token ids as text."""
    return str(tokenizer.decode(list(ids)))


def sentences() -> list[Example]:
    """Texts of different lengths, with labels."""
    return [Example(id=f"dev/{i}", fields={"sentence": text}, label=i % 2) for i, text in enumerate(TEXTS)]


def pairs() -> list[Example]:
    """Pairs of texts, with labels."""
    return [Example(id=f"dev/{i}", fields={"first": text, "second": TEXTS[i - 1]}, label=i % 3) for i, text in enumerate(TEXTS)]


def sentiment_task(count: int = 12) -> Task:
    """A task with a training split; even rows are "pos"."""
    rows = [{"sentence": f"{TEXTS[i % 4]} {i}", "label": "neg" if i % 2 else "pos"} for i in range(count)]
    return Task.from_records(text="sentence", train=rows)


def line_break_base() -> Base:
    """A tiny GPT-2 whose tokenizer, as GPT-2's own, writes two line breaks as one token, but not before a word."""
    tokenizer = tiny_tokenizer("decoder")
    inner = tokenizer.backend_tokenizer
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIALS), initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(["a\n\n", " great awful good\n\n"] * 9, trainer)
    return Base.from_model(tiny_model("gpt2"), tokenizer)
