"""Several adapters vote in one forward."""

from collections import Counter

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.infer.predict import predict
from lmtailor.methods.lora import LoRA
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.strategies.ensemble import predict_together
from tests.fit.tasks import grades
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

TEXTS = ["the movie was good", "the book was awful and it is text", "a cat", "fun", "boring but so good"]


def made(base: Base, count: int = 3) -> list[Adapter]:
    """Soft prompts that disagree, and LoRA among them."""
    methods = [SoftPrompt(length=3), LoRA(rank=2), SoftPrompt(length=5)]
    return [moved_adapter(base, methods[i % 3], Head(), by=1.0, seed=i) for i in range(count)]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_votes_are_those_of_the_adapters_alone(family: str) -> None:
    base = tiny_base(family)
    adapters = made(base)
    alone = [predict(base, adapter, TEXTS) for adapter in adapters]
    assert len({tuple(answer.label for answer in own) for own in alone}) > 1, "they disagree somewhere"
    majority, mean = (predict_together(base, adapters, TEXTS, vote=vote) for vote in ("majority", "mean"))
    for place, (most, middle) in enumerate(zip(majority, mean, strict=True)):
        votes = Counter(own[place].label for own in alone)
        assert most.label == votes.most_common(1)[0][0]
        assert most.scores[str(most.label)] == pytest.approx(votes[most.label] / 3)
        for label, score in middle.scores.items():
            assert score == pytest.approx(sum(own[place].scores[label] for own in alone) / 3, rel=1e-4)
        assert middle.label == max(middle.scores, key=middle.scores.__getitem__)


def test_of_equal_votes_the_surer_wins() -> None:
    base = tiny_base("bert")
    adapters = made(base, 2)
    alone = zip(*(predict(base, one, TEXTS) for one in adapters), strict=True)
    for own, joint in zip(alone, predict_together(base, adapters, TEXTS), strict=True):
        means = {label: sum(answer.scores[label] for answer in own) for label in own[0].scores}
        if own[0].label != own[1].label:
            assert joint.label == max(means, key=means.__getitem__)


def test_numbers_are_averaged_and_the_base_runs_once_a_batch() -> None:
    base = tiny_base("bert")
    adapters = [new_adapter(base, method=LoRA(), readout=Head(), task=grades(), seed=seed) for seed in range(3)]
    calls: list[int] = []
    handle = base.trunk.register_forward_hook(lambda module, args, kwargs, out: calls.append(len(out[0])), with_kwargs=True)
    try:
        joint = predict_together(base, adapters, TEXTS)
    finally:
        handle.remove()
    assert calls == [15]
    alone = torch.tensor([[answer.value or 0.0 for answer in predict(base, one, TEXTS)] for one in adapters])
    torch.testing.assert_close(torch.tensor([answer.value or 0.0 for answer in joint]), alone.mean(0), rtol=1e-4, atol=1e-5)


def test_what_cannot_vote() -> None:
    base = tiny_base("bert")
    other = new_adapter(base, method=LoRA(), readout=Head(), task=grades())
    with pytest.raises(InputError, match="two adapters or more; found 1"):
        predict_together(base, made(base, 1), TEXTS)
    with pytest.raises(InputError, match=r"must have the same labels; found .*; no labels"):
        predict_together(base, [made(base, 1)[0], other], TEXTS)
    with pytest.raises(InputError, match="vote is 'best'"):
        predict_together(base, made(base), TEXTS, vote="best")  # type: ignore[arg-type]
