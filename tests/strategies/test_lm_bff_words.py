"""Label words: what the model would write into the gap."""

import numpy as np
import pytest
import torch

from lmtailor.core.errors import InputError
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.strategies._lm_bff_words import Gap, search_words
from tests.fit.tasks import sentiment
from tests.strategies.taught import PATTERN, taught, the_task, words_of
from tests.tiny import tiny_base

FAMILIES = ["bert", "gpt2", "llama", "t5", "bart"]
ANY = {"neg": ("neg",), "pos": ("pos",)}


@pytest.mark.parametrize("family", FAMILIES)
def test_words_that_the_model_was_taught_are_found(family: str) -> None:
    task, base = the_task(), taught(family)
    found = search_words(base, task, Verbalizer(PATTERN, ANY), top=5, count=3, width=100)
    words = words_of(family)
    assert found.assignments[0].words == (*words["neg"], *words["pos"])
    assert found.assignments[0].accuracy == 1.0
    assert found.exact
    assert tuple(own[:1] for own in found.lists) == (words["neg"], words["pos"])
    assert all(len(own) == 5 for own in found.lists)


@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_and_likelihood_are_those_of_the_verbalizer_with_these_words(family: str) -> None:
    task, base = sentiment(15, 4), tiny_base(family)
    found = search_words(base, task, Verbalizer(PATTERN, ANY), top=8, count=10, width=100)
    for one in found.assignments[::3]:
        reading = Verbalizer(PATTERN, {label: (word,) for label, word in zip(task.labels, one.words, strict=True)}).bind(
            base, LabelSet.of(task), None
        )
        right, total = 0, 0.0
        for example in task.split("train"):  # one at a time, as plainly as can be
            batch = reading.collate([reading.encode(example)])
            states = base.hidden(batch.inputs)
            log_p = base.lm_logits(read_states(states.last_NTH, batch)[:, 0]).log_softmax(1)[0]
            own = torch.stack([log_p[word.pieces[0]] for word in reading.words])
            right += int(own.argmax()) == example.label
            total += float(own[int(example.label or 0)])
        assert one.accuracy == pytest.approx(right / 15)
        assert one.likelihood == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_only_whole_words_are_considered(family: str) -> None:
    base = tiny_base(family)
    gap = Gap(base, sentiment(12, 4), Verbalizer(PATTERN, ANY))
    # Equal scores: all that may be chosen, in the order of the vocabulary.
    tokens = gap.likeliest(np.zeros(base.vocab_size), 10_000).tolist()
    words = [gap.word(token) for token in tokens]
    assert {"yes", "no", "great", "happy"} <= set(words)
    assert all(word.isalpha() for word in words)
    assert not set(tokens) & set(base.tokenizer.all_special_ids)
    assert len(set(words)) == len(words)
    reading = Verbalizer(PATTERN, {"neg": tuple(words), "pos": ("yes",)}).bind(base, LabelSet.of(sentiment(12, 4)), None)
    assert [word.pieces for word in reading.words[:-1]] == [(token,) for token in tokens]


def test_a_tokenizer_without_words() -> None:
    base = tiny_base("bert")
    vocab = base.tokenizer.get_vocab()
    base.tokenizer.add_special_tokens({"additional_special_tokens": [word for word in vocab if word.isalpha()]})
    with pytest.raises(InputError, match="fewer than 2 words that are one token"):
        search_words(base, sentiment(12, 4), Verbalizer(PATTERN, ANY), top=5, count=3, width=100)
