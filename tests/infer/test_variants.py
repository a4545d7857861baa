"""Several sets of demonstrations: each answers apart, and probabilities are averaged."""

from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.fit.fit import fit
from lmtailor.infer.calibrate import measured
from lmtailor.infer.evaluate import plain_adapter, predict_examples
from lmtailor.infer.predict import predict
from lmtailor.infer.variants import averaged
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base

TASK = sentiment(12, 4)
WORDS = {"neg": ("bad",), "pos": ("good", "so very fun")}
PATTERNS = {"bert": "{sentence} it was {mask} .", "gpt2": "{sentence} it was {mask}", "t5": "{sentence} it was {mask} ."}
TEXTS = ["a good movie", "the cat was so sad and boring", "no"]


def verbalizer(key: str, **settings: Any) -> Verbalizer:
    return Verbalizer(PATTERNS[key], WORDS, **settings)


def probabilities(base: Base, adapter: Adapter, text: str) -> torch.Tensor:
    (answer,) = predict(base, adapter, [text])
    return torch.tensor([answer.scores[label] for label in TASK.labels])


@pytest.mark.parametrize("calibration", [None, Calibration()], ids=["plain", "calibrated"])
@pytest.mark.parametrize("key", PATTERNS)
def test_probabilities_are_averaged_over_the_sets(key: str, calibration: Calibration | None) -> None:
    base = tiny_base(key)
    shown = Demonstrations(k=1, sets=3)
    adapter = plain_adapter(base, TASK, verbalizer(key, demonstrations=shown, calibration=calibration))
    assert adapter.reading is not None
    alone = [plain_adapter(base, TASK, one.readout) for one in adapter.reading.variants()]
    examples = TASK.split("test").examples
    several = torch.tensor(predict_examples(base, adapter, examples).scores_NC).softmax(1)
    each = [torch.tensor(predict_examples(base, one, examples).scores_NC).softmax(1) for one in alone]
    torch.testing.assert_close(several, torch.stack(each).mean(0), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(each[0], each[1], atol=1e-4)
    for text in TEXTS:
        wanted = torch.stack([probabilities(base, one, text) for one in alone]).mean(0)
        torch.testing.assert_close(probabilities(base, adapter, text), wanted, rtol=1e-4, atol=1e-6)


def test_in_mixed_rows_and_alone() -> None:
    base = tiny_base("gpt2")
    several = verbalizer("gpt2", demonstrations=Demonstrations(k=1, sets=2), calibration=Calibration())
    adapters = [
        measured(base, new_adapter(base, method=LoRA(rank=2), readout=several, task=TASK)),
        new_adapter(base, method=BitFit(), readout=Head(), task=TASK),
        plain_adapter(base, TASK, verbalizer("gpt2")),
    ]
    rng = generator(0)
    adapters[0] = measured(
        base, adapters[0].with_state({k: v + 0.1 * torch.randn(v.shape, generator=rng) for k, v in adapters[0].state.items()})
    )
    rows, seen = [0, 1, 2, 1, 0, 2], list[tuple[int, int]]()
    mixed = predict(base, adapters, TEXTS * 2, rows=rows, batch_size=4, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (8, 8)  # two inputs are asked twice
    for text, row, answer in zip(TEXTS * 2, rows, mixed, strict=True):
        (solo,) = predict(base, adapters[row], [text])
        assert answer.scores == pytest.approx(solo.scores, rel=1e-4, abs=1e-6)


def test_one_prompt_s_scores_stay_as_they_are() -> None:
    scores = torch.tensor([[1.0, 2.0]])
    assert averaged([scores]) is scores


def test_a_fit_shows_one_set() -> None:
    with pytest.raises(InputError, match=r"shows one set of demonstrations, and these are 2.*Fit with sets=1"):
        fit(tiny_base("bert"), TASK, method=LoRA(), readout=verbalizer("bert", demonstrations=Demonstrations(k=1, sets=2)))
