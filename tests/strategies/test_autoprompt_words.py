"""Label words by a classifier, on models in which the right ones are known."""

from typing import Any

import pytest
import torch

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.fit.training import Training
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.strategies._autoprompt_words import WordSearch, assigned, train_classifier, whole_words
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.autoprompt import AutoPrompt
from lmtailor.strategies.autoprompt_words import AutoPromptWords
from lmtailor.tasks.task import Task
from tests.fit.tasks import grades, sentiment
from tests.strategies.planted import planted_base, planted_task
from tests.tiny import tiny_base

SEARCH = WordSearch(count=2, lr=1e-2, epochs=100)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_it_finds_the_words_that_the_model_ties_to_the_labels(kind: Any) -> None:
    base, task = planted_base(kind), planted_task()
    adapter = adapt(base, task, strategy=AutoPromptWords(words=SEARCH))
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.words["pos"][0] == "great"
    assert adapter.readout.words["neg"][0] == "awful"
    assert [len(words) for words in adapter.readout.words.values()] == [2, 2]
    assert adapter.scores["dev"]["accuracy"].value == 1.0
    found = adapter.provenance["search"]["label_words"]
    assert all(own[0]["score"] > own[1]["score"] for own in found.values())


def test_autoprompt_searches_words_in_the_place_of_the_given_ones() -> None:
    base, task = planted_base("encoder"), planted_task()
    wrong = Verbalizer("{sentence} {trigger} {mask}", {"neg": ("cat",), "pos": ("dog",)})
    strategy = AutoPrompt(label_words="search", words=SEARCH, candidates=4, accumulation=1, batch_size=16, iterations=3)
    adapter = adapt(base, task, strategy=strategy, readout=wrong)
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.words["pos"][0] == "great"
    assert adapter.provenance["search"]["label_words"]["pos"][0]["word"] == "great"


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "t5", "bart"])
def test_words_are_whole_and_one_token_in_the_gap(key: str) -> None:
    base = tiny_base(key)
    pattern = parse_pattern("{sentence} it was {mask}")
    words = whole_words(base, pattern)
    labels = sentiment().labels
    assert {"good", "awful"} <= set(words.values()) or key == "bart"
    assert all(word.isalpha() for word in words.values())
    for token, word in list(words.items())[::11]:
        other = next(one for one in words.values() if one != word)
        reading = Verbalizer(pattern.source, {labels[0]: (word,), labels[1]: (other,)}).bind(base, LabelSet.of(sentiment()), None)
        assert reading.words[0].pieces == (token,)


def test_the_classifier_is_logistic_regression() -> None:
    rng = torch.Generator().manual_seed(0)
    h_NF = torch.randn(200, 5, generator=rng)
    y_N = (h_NF[:, 0] - 2 * h_NF[:, 3] > 0).long()
    weight_CF, bias_C = train_classifier(h_NF, y_N, 2, WordSearch(lr=1e-2, epochs=60), 0)
    direction = weight_CF[1] - weight_CF[0]
    wanted = torch.tensor([1.0, 0, 0, -2, 0])
    assert float(torch.nn.functional.cosine_similarity(direction, wanted, dim=0)) > 0.99
    again = train_classifier(h_NF, y_N, 2, WordSearch(lr=1e-2, epochs=60), 0)
    assert torch.equal(again[0], weight_CF)
    assert torch.equal(again[1], bias_C)


def test_no_two_labels_share_a_word() -> None:
    scores_CV = torch.tensor([[-0.1, -0.5, -3.0, -2.0], [-0.2, -0.4, -5.0, -2.5], [-9.0, -9.5, -0.1, -9.9]])
    assert assigned(scores_CV, 1) == [[0], [1], [2]]
    assert assigned(scores_CV, 9) == [[0, 3], [1], [2]]


def test_refusals() -> None:
    base, task = planted_base("encoder"), planted_task()
    for error, match, given in (
        (UnsupportedError, "found Head", {"readout": Head()}),
        (UnsupportedError, "LoRA was asked for", {"method": LoRA()}),
        (UnsupportedError, "words.lr and words.epochs", {"training": Training(epochs=1)}),
    ):
        with pytest.raises(error, match=match):
            adapt(base, task, strategy=AutoPromptWords(), **given)
    with pytest.raises(UnsupportedError, match="this is a task of regression"):
        adapt(tiny_base("bert"), grades(), strategy=AutoPromptWords())
    empty = Task.from_records(text="sentence", dev=[{"sentence": "a", "label": "x"}, {"sentence": "b", "label": "y"}])
    with pytest.raises(InputError, match="has no train examples"):
        adapt(base, empty, strategy=AutoPromptWords())
    for setting in ("count", "epochs", "batch_size"):
        with pytest.raises(InputError, match=f"{setting} must be at least 1; found 0"):
            WordSearch(**{setting: 0})
    with pytest.raises(InputError, match="lr must be above 0"):
        WordSearch(lr=0.0)
    with pytest.raises(InputError, match="rows must be at least 1"):
        AutoPromptWords(rows=0)
