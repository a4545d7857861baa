"""Templates written by a span filler, or by a causal model, for all training examples at once."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.methods.frozen import Frozen
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.readouts.words import plain_ids
from lmtailor.strategies import _lm_bff_templates as templates
from lmtailor.strategies._lm_bff_beam import Writer, Written, shared_beam
from lmtailor.strategies._lm_bff_templates import Form, Template, as_pattern, forms, get_filler, in_turn, search_templates
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.lm_bff import LMBFF
from lmtailor.tasks.task import Task
from tests.fit.tasks import sentiment
from tests.strategies.taught import tiny_filler
from tests.tiny import tiny_base

WORDS: dict[str, tuple[str, ...]] = {"neg": ("bad",), "pos": ("good",)}
START = Verbalizer("{sentence} {mask}", WORDS)
ONE: Form = (0, "span", "word", "span")
OTHER: Form = ("span", "word", "span", 0)


def pairs() -> Task:
    """Two texts an example."""
    rows = [{"a": f"the cat {i}", "b": "a good book" if i % 2 else "a bad dog", "label": i % 2} for i in range(6)]
    return Task.from_records(text=["a", "b"], train=rows[:4], dev=rows[4:], verbalizer={"0": ["no"], "1": ["yes"]})


def written(search: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Written, ...]:
    """What the beam gave in a search."""
    kept: list[Written] = []

    def beam(*args: Any, **named: Any) -> tuple[Written, ...]:
        found = shared_beam(*args, **named)
        kept.extend(found)
        return found

    monkeypatch.setattr(templates, "shared_beam", beam)
    search()
    return tuple(kept)


def source(form: Form, example: Any, words: dict[str, tuple[str, ...]], task: Task) -> str:
    """The text that the filler is given, written out by hand."""
    sentence, word = example.fields["sentence"], words[task.labels[int(example.label)]][0]
    if form == ONE:
        return f"{sentence} <extra_id_0> {word} <extra_id_1>"
    return f"<extra_id_0> {word} <extra_id_1> {sentence}"


@pytest.mark.parametrize("form", [ONE, OTHER])
def test_scores_of_the_span_beam_are_those_of_plain_scoring(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    task, filler = sentiment(12, 4), tiny_filler()
    found = written(lambda: search_templates(tiny_base("bert"), task, START, form, filler, beam=30, longest=5), monkeypatch)
    assert len(found) == 30
    assert filler.tokenizer.decode(list(found[0].tokens)) == " it was<extra_id_1> so"
    first, second, third = (filler.tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(3))
    for one in [*found[:4], *found[-4:]]:
        assert one.tokens.count(second) == 1
        assert third not in one.tokens
        total = 0.0
        for example in task.split("train"):
            ids = filler.tokenizer(source(form, example, WORDS, task), return_tensors="pt")
            labels = torch.tensor([[first, *one.tokens, third]])
            log_p = filler.model(**ids, labels=labels).logits[0].log_softmax(1)
            total += float(log_p.gather(1, labels[0][:, None])[1:].sum())  # <X> itself is given
        assert one.score == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mistral"])
def test_scores_of_the_causal_beam_are_those_of_plain_scoring(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, base = sentiment(12, 4), tiny_base(family)
    found = written(lambda: search_templates(base, task, START, (0, "span", "word"), None, beam=5, longest=3), monkeypatch)
    assert len(found) == 5
    for one in found:
        total = 0.0
        for example in task.split("train"):
            text = plain_ids(base.tokenizer, example.fields["sentence"])
            word = plain_ids(base.tokenizer, " " + WORDS[task.labels[int(example.label or 0)]][0])
            ids = torch.tensor([[*text, *one.tokens, *word]])
            log_p = base.model(ids).logits[0].log_softmax(1)
            total += float(log_p[len(text) - 1 : -1].gather(1, ids[0][len(text) :, None]).sum())
        assert one.score == pytest.approx(total, rel=1e-5)


class Told(Writer):
    """A writer of three tokens by a table; the last one ends."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def next(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for tokens in tokens_BT.tolist():
            rng = torch.Generator().manual_seed(hash((self.seed, *tokens)) % 2**31)
            rows.append(torch.randn(4, generator=rng, dtype=torch.float64).log_softmax(0))
        log_p = torch.stack(rows)
        return log_p.index_fill(1, torch.tensor([3]), float("-inf")), log_p[:, 3]

    def score(self, tokens: tuple[int, ...]) -> float:
        """Σ log p with the end."""
        total = 0.0
        for i in range(len(tokens)):
            total += float(self.next(torch.tensor([tokens[:i]], dtype=torch.long).reshape(1, i))[0][0, tokens[i]])
        return total + float(self.next(torch.tensor([tokens], dtype=torch.long).reshape(1, len(tokens)))[1][0])


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_best_of_all(seed: int) -> None:
    told = Told(seed)
    every = [tokens for length in range(4) for tokens in itertools.product(range(3), repeat=length)]
    best = sorted(every, key=lambda tokens: -told.score(tokens))[:30]
    found = shared_beam(told, width=30, longest=3)
    assert [one.tokens for one in found] == best
    assert [one.score for one in found] == pytest.approx([told.score(tokens) for tokens in best])
    narrow = shared_beam(told, width=2, longest=3)
    assert len(narrow) == 2
    assert all(one.score == pytest.approx(told.score(one.tokens)) for one in narrow)


def test_the_beam_ends_when_nothing_can_get_better() -> None:
    lengths: list[int] = []

    class Counting(Told):
        def next(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
            lengths.append(tokens_BT.shape[1])
            return super().next(tokens_BT)

    shared_beam(Counting(0), width=1, longest=50)
    assert max(lengths) < 20


@pytest.mark.parametrize(
    ("form", "spans", "pattern"),
    [
        (ONE, [" It was", "."], "{sentence} It was {mask}."),
        (OTHER, [" It's", " !"], "It's {mask} ! {sentence}"),
        (ONE, ["", ""], "{sentence} {mask}"),
        (OTHER, ["", " {x}"], "{mask} {{x}} {sentence}"),
        (ONE, ["? A", ", really"], "{sentence}? A {mask}, really"),
    ],
)
def test_what_is_written_becomes_a_pattern(form: Form, spans: list[str], pattern: str) -> None:
    assert as_pattern(form, ("sentence",), spans) == pattern
    Verbalizer(pattern, WORDS)


def sentence_pieces() -> PreTrainedTokenizerFast:
    """A tokenizer as T5's: pieces that begin with ▁ where a space stands, and single marks."""
    pieces = ["<pad>", "<unk>", "▁", "▁It", "▁was", "▁a", "s", ".", "▁'", "?", "{"]
    inner = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=1))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [(["▁It", "▁was"], " It was"), (["."], "."), (["s", "▁a", "?"], "s a?"), (["▁'", "s"], " 's"), ([], ""), (["{"], "{")],
)
def test_pieces_of_a_t5_keep_their_spaces(pieces: list[str], text: str) -> None:
    tokenizer = sentence_pieces()
    assert templates._text(tokenizer, [tokenizer.get_vocab()[one] for one in pieces]) == text


def test_what_is_in_no_template() -> None:
    base = tiny_base("gpt2")
    banned = templates._banned(base)
    vocab = base.tokenizer.get_vocab()
    assert all(banned[token] for token in base.tokenizer.all_special_ids)
    assert [bool(banned[vocab[piece]]) for piece in ("Ġit", "a", ".", "{")] == [False] * 4
    assert [bool(banned[vocab[piece]]) for piece in ("Ġ", "Ċ", "ĉ", "Ã")] == [True] * 4


def test_the_forms_of_the_paper_and_those_that_end_with_the_answer() -> None:
    one, two = sentiment(12, 4), pairs()
    assert forms(tiny_base("bert"), one, START) == (ONE, OTHER)
    assert forms(tiny_base("t5"), two, START) == ((0, "span", "word", "span", 1),)
    for family in ("gpt2", "bart"):
        assert forms(tiny_base(family), one, START) == ((0, "span", "word"),)
        assert forms(tiny_base(family), two, START) == ((0, "span", 1, "span", "word"),)


def test_forms_take_turns_and_no_pattern_comes_twice() -> None:
    each = [[Template(pattern=pattern, likelihood=0.0) for pattern in own] for own in ("abc", "dbe", "f")]
    assert "".join(one.pattern for one in in_turn(each)) == "adfbce"


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
@pytest.mark.parametrize("task", [sentiment(12, 6), pairs()], ids=["one text", "a pair"])
def test_templates_of_a_filler_are_chosen_on_dev(family: str, task: Task, tmp_path: Path) -> None:
    filler = tiny_filler()
    filler.model.save_pretrained(tmp_path / "filler")
    filler.tokenizer.save_pretrained(tmp_path / "filler")
    strategy = LMBFF(search="templates", candidates=4, beam=30, longest=5, filler=str(tmp_path / "filler"))
    words = {label: ("n" if i == 0 else "y",) for i, label in enumerate(task.labels)}
    start = Verbalizer(f"{{{task.text[0]}}} {{mask}}", words)
    adapter = adapt(tiny_base(family), task, strategy=strategy, method=Frozen(), readout=start)
    search = adapter.provenance["search"]
    rows = search["template_candidates"]
    best = max(rows, key=lambda row: (row["dev"]["accuracy"], row["likelihood"]))
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.pattern == search["pattern"] == best["pattern"]
    assert search["filler"] == filler.fingerprint
    assert len({row["pattern"] for row in rows}) == len(rows) == 4
    planted = {("bert", 1): "{sentence} it was {mask} so", ("bert", 2): "{a} it was {mask} so {b}"}
    if (family, len(task.text)) in planted:
        assert rows[0]["pattern"] == planted[family, len(task.text)]


@pytest.mark.parametrize("task", [sentiment(12, 6), pairs()], ids=["one text", "a pair"])
def test_a_causal_base_writes_its_own_templates_and_then_words(task: Task) -> None:
    strategy = LMBFF(search="both", candidates=3, beam=4, longest=2, top_words=4)
    words = {label: ("bad" if i == 0 else "good",) for i, label in enumerate(task.labels)}
    start = Verbalizer(f"{{{task.text[0]}}} {{mask}}", words)
    adapter = adapt(tiny_base("gpt2"), task, strategy=strategy, method=Frozen(), readout=start)
    search = adapter.provenance["search"]
    assert all(row["pattern"].endswith("{mask}") for row in search["template_candidates"])
    stages = [max(row["dev"]["accuracy"] for row in search[f"{name}_candidates"]) for name in ("template", "word")]
    assert adapter.scores["dev"]["accuracy"].value == max(stages)
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.pattern in [row["pattern"] for row in search["template_candidates"]]


def test_a_t5_is_its_own_filler() -> None:
    filler = tiny_filler()
    assert get_filler(None, filler) is filler
    assert get_filler(None, tiny_base("gpt2")) is None


def saved(base: Base, folder: Path) -> str:
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


def test_what_cannot_write_templates(tmp_path: Path) -> None:
    task = sentiment(12, 4)
    with pytest.raises(InputError, match=r"tiny-bert is not\. Name one: filler"):
        get_filler(None, tiny_base("bert"))
    with pytest.raises(UnsupportedError, match=r"is bert, of kind encoder, without the sentinels"):
        get_filler(saved(tiny_base("bert"), tmp_path / "bert"), tiny_base("bert"))
    with pytest.raises(UnsupportedError, match=r"is t5, of kind encoder-decoder, without the sentinels <extra_id_0>"):
        get_filler(saved(tiny_base("t5"), tmp_path / "t5"), tiny_base("bert"))
    words = {"neg": ("terribly",), "pos": ("good",)}
    with pytest.raises(InputError, match="up to label words of one token; 'terribly' is"):
        adapt(tiny_base("gpt2"), task, strategy=LMBFF(search="templates"), readout=Verbalizer("{sentence} {mask}", words))
    with pytest.raises(InputError, match="only words are searched for"):
        LMBFF(filler="t5-base")
    with pytest.raises(InputError, match="needs a word for each label"):
        adapt(tiny_base("gpt2"), task, strategy=LMBFF(search="templates"))
