"""Masks filled one by one, the most probable first: against a loop that runs one sequence at a time."""

from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import evaluate, plain_adapter, predict_examples
from lmtailor.infer.predict import predict
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base

TASK = sentiment(12, 4)
PATTERN = "{sentence} it was {mask} ."
WORDS = {"neg": ("terrible", "xyz"), "pos": ("splendid", "qrs")}
TEXTS = ["a great movie", "the cat was sad and so boring", "no"]


def verbalizer(**settings: Any) -> Verbalizer:
    return Verbalizer(PATTERN, WORDS, masks="one_by_one", **settings)


def filled(base: Base, text: str, word: str) -> tuple[float, list[int]]:
    """Σ log p of a word, and the order in which its masks were filled."""
    tokenizer = base.tokenizer
    pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
    ids = tokenizer(f"{text} it was {tokenizer.mask_token * len(pieces)} .", return_tensors="pt")["input_ids"]
    first = int((ids[0] == tokenizer.mask_token_id).nonzero()[0])
    total, order = 0.0, list[int]()
    while len(order) < len(pieces):
        log_p = base.model(input_ids=ids).logits[0].log_softmax(-1)
        left = [i for i in range(len(pieces)) if i not in order]
        best = max(left, key=lambda i: float(log_p[first + i, pieces[i]]))
        total += float(log_p[first + best, pieces[best]])
        ids[0, first + best] = pieces[best]
        order.append(best)
    return total, order


@pytest.mark.parametrize("key", ["bert", "roberta", "modernbert"])
def test_scores_are_those_of_a_loop_over_masks(key: str) -> None:
    base = tiny_base(key)
    adapter = plain_adapter(base, TASK, verbalizer())
    wanted = torch.tensor(
        [[sum(filled(base, text, word)[0] for word in WORDS[label]) / 2 for label in TASK.labels] for text in TEXTS]
    )
    orders = [filled(base, text, word)[1] for text in TEXTS for words in WORDS.values() for word in words]
    assert any(order != sorted(order) for order in orders), "not from left to right"
    answers = predict(base, adapter, TEXTS, batch_size=2)
    for answer, row in zip(answers, wanted.softmax(1), strict=True):
        assert [answer.scores[label] for label in TASK.labels] == pytest.approx(row.tolist(), rel=1e-4, abs=1e-6)
    scores, together = (
        torch.tensor(predict_examples(base, plain_adapter(base, TASK, readout), TASK.split("test").examples).scores_NC)
        for readout in (verbalizer(), Verbalizer(PATTERN, WORDS))
    )
    assert not torch.allclose(scores, together, rtol=1e-4)


def test_under_edits_in_mixed_rows_and_with_progress() -> None:
    base = tiny_base("bert")
    adapters: list[Adapter] = []
    readouts: tuple[Readout, ...] = (verbalizer(), Head())
    for seed, readout in enumerate(readouts):
        adapter = new_adapter(base, method=LoRA(rank=2), readout=readout, task=TASK)
        rng = torch.Generator().manual_seed(seed)
        adapters.append(
            adapter.with_state({k: v.detach() + 0.1 * torch.randn(v.shape, generator=rng) for k, v in adapter.state.items()})
        )
    told: list[tuple[int, int]] = []
    mixed = predict(base, adapters, TEXTS * 2, rows=[0, 1, 0, 1, 0, 1], progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (6, 6)
    for text, row, answer in zip(TEXTS * 2, [0, 1, 0, 1, 0, 1], mixed, strict=True):
        assert answer.scores == pytest.approx(predict(base, adapters[row], [text])[0].scores, rel=1e-4, abs=1e-6)
    with torch.no_grad(), attach(base, adapters[0]):
        total, _ = filled(base, TEXTS[0], "terrible")
        other, _ = filled(base, TEXTS[0], "xyz")
    one = Verbalizer(PATTERN, {"neg": ("terrible",), "pos": ("xyz",)}, masks="one_by_one")
    swapped = new_adapter(base, method=LoRA(rank=2), readout=one, task=TASK).with_state(adapters[0].state)
    wanted = torch.tensor([total, other]).softmax(0)
    found = predict(base, swapped, [TEXTS[0]])[0].scores
    assert [found["neg"], found["pos"]] == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-6)


def test_words_of_one_token_need_one_pass() -> None:
    base = tiny_base("bert")
    words = {"neg": ("bad",), "pos": ("good",)}
    both = [plain_adapter(base, TASK, Verbalizer(PATTERN, words, masks=masks)) for masks in ("one_by_one", "together")]
    assert predict(base, both[0], TEXTS) == predict(base, both[1], TEXTS)


def test_calibration_fills_as_the_scores_do() -> None:
    base = tiny_base("bert")
    adapter = plain_adapter(base, TASK, verbalizer(calibration=Calibration(inputs=("N/A",))))
    assert list(predict(base, adapter, ["N/A"])[0].scores.values()) == pytest.approx([0.5, 0.5], rel=1e-5)


def test_a_fit_has_all_masks_open_and_answers_one_by_one() -> None:
    base = tiny_base("bert")
    training = Training(max_steps=2, batch_size=4, lr=1e-3)
    fitted = fit(base, TASK, method=LoRA(rank=2), readout=verbalizer(), training=training)
    again = fit(base, TASK, method=LoRA(rank=2), readout=Verbalizer(PATTERN, WORDS), training=training)
    assert all(torch.equal(value, again.state[name]) for name, value in fitted.state.items())
    assert fitted.scores["dev"] == evaluate(base, TASK, fitted, split="dev")


def test_other_models_refuse_it_and_settings_round_trip() -> None:
    with pytest.raises(UnsupportedError, match=r"masks=one_by_one says in which order a masked model.*gpt2 writes from left"):
        plain_adapter(tiny_base("gpt2"), TASK, Verbalizer("{sentence} it was {mask}", WORDS, masks="one_by_one"))
    assert from_mapping(Verbalizer, to_mapping(verbalizer())) == verbalizer()
