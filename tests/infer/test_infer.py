"""Evaluation and prediction: the same answers alone and in mixed batches."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.infer import passes, run
from lmtailor.infer.evaluate import evaluate, predict_examples
from lmtailor.infer.predict import Answer, predict
from lmtailor.methods import method_class
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.tasks.task import Task
from tests.fit.tasks import grades, sentiment
from tests.infer.conftest import Taken
from tests.tiny import tiny_base

TEXTS = ["a great movie", "the cat was sad and boring", "so good that the text was very very very long", "no", "fun fun fun"]
WORDS = Verbalizer(pattern="{sentence} it was {mask}", words={"pos": ("great",), "neg": ("terrible", "bad")})


def worn(base: Base, name: str, readout: Readout, task: Task, seed: int, **settings: object) -> Adapter:
    """An adapter far from its start."""
    adapter = new_adapter(base, method=method_class(name)(**settings), readout=readout, task=task, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    return adapter.with_state({k: v.detach() + 0.1 * torch.randn(v.shape, generator=rng) for k, v in adapter.state.items()})


def mixture(base: Base) -> list[Adapter]:
    missing = {"add_missing": True}
    return [
        worn(base, "lora", Head(), sentiment(), 0),
        worn(base, "prefix", Head(hidden=6), sentiment(), 1, length=3),
        worn(base, "bitfit", WORDS, sentiment(), 2, **missing),
        worn(base, "soft_prompt", Head(pooling="mean", layer=1), sentiment(), 3, length=4),
        worn(base, "houlsby", Head(), grades(), 4, bottleneck=5),
    ]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_rows_of_different_adapters_and_heads_equal_their_solo_runs(family: str) -> None:
    base = tiny_base(family)
    adapters = mixture(base)
    rows = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    mixed = predict(base, adapters, TEXTS * 2, rows=rows, batch_size=10)
    for text, row, answer in zip(TEXTS * 2, rows, mixed, strict=True):
        (solo,) = predict(base, adapters[row], [text])
        assert answer.label == solo.label
        assert answer.scores == pytest.approx(solo.scores, rel=1e-4, abs=1e-6)
        assert answer.value == (None if solo.value is None else pytest.approx(solo.value, rel=1e-4, abs=1e-6))


def test_full_fine_tuning_is_predicted_in_batches_of_its_own() -> None:
    base = tiny_base("bert")
    adapters = [worn(base, "lora", Head(), sentiment(), 0), worn(base, "full", Head(), sentiment(), 1)]
    mixed = predict(base, adapters, TEXTS[:4], rows=[0, 1, 0, 1])
    for i in range(4):
        assert mixed[i].scores == pytest.approx(predict(base, adapters[i % 2], [TEXTS[i]])[0].scores, rel=1e-4)


def test_evaluation_agrees_with_prediction() -> None:
    base, task = tiny_base("bert"), sentiment()
    adapter = worn(base, "lora", Head(), task, 0)
    scores = evaluate(base, task, adapter, split="test", batch_size=3)
    answers = predict(base, adapter, [dict(example.fields) for example in task.split("test")], batch_size=7)
    right = [task.labels.index(a.label or "") == example.label for a, example in zip(answers, task.split("test"), strict=True)]
    assert scores["accuracy"].value == pytest.approx(sum(right) / len(right))
    assert scores["accuracy"].n == 20


def test_zero_shot_needs_no_fit_and_a_head_does() -> None:
    base, task = tiny_base("gpt2"), sentiment()
    assert evaluate(base, task, readout=WORDS, split="test")["accuracy"].n == 20
    with pytest.raises(InputError, match="must be trained"):
        evaluate(base, task, readout=Head())
    with pytest.raises(InputError, match="one of the two"):
        evaluate(base, task)


def test_predictions_keep_the_order_of_the_examples() -> None:
    base, task = tiny_base("bert"), sentiment()
    adapter = worn(base, "lora", Head(), task, 0)
    examples = task.split("dev").examples
    found = predict_examples(base, adapter, examples, batch_size=4)
    alone = [predict_examples(base, adapter, [example]).scores_NC[0] for example in examples]
    torch.testing.assert_close(torch.tensor(found.scores_NC), torch.tensor(np.stack(alone)), rtol=1e-4, atol=1e-6)
    assert found.ids == tuple(example.id for example in examples)


@pytest.mark.parametrize(
    ("inputs", "rows", "message"),
    [
        ("a text", None, "one string"),
        (["a"], [0, 0], "1 inputs and 2 rows"),
        (["a"], [3], "there are 1 adapters"),
        ([("a", "b")], None, "reads 1"),
        ([{"sentense": "a"}], None, "sentence"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Sequence[str], rows: Sequence[int] | None, message: str) -> None:
    base = tiny_base("bert")
    adapter = worn(base, "lora", Head(), sentiment(), 0)
    with pytest.raises(InputError, match=message):
        predict(base, [adapter], inputs, rows=rows)


def _worn_verbalizer(base: Base, name: str, seed: int, **settings: object) -> Adapter:
    words = Verbalizer(
        pattern="{sentence} it was {mask}",
        words={"pos": ("great", "so so good"), "neg": ("terrible text", "not good", "terrible book")},
        demonstrations=None if seed else Demonstrations(k=4),
    )
    return worn(base, name, words, sentiment(), seed, **settings)


def _plain_predict(monkeypatch: pytest.MonkeyPatch, base: Base, adapter: Adapter, text: str) -> Answer:
    with monkeypatch.context() as patched:
        patched.setattr(run, "by_position", lambda base, edits: False)
        patched.setattr(passes, "packs", lambda base, edits, longest: False)
        return predict(base, adapter, [text])[0]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_label_words_of_several_tokens_run_as_trees_alone_and_in_mixed_batches(
    family: str, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(family)
    adapters = [
        _worn_verbalizer(base, "lora", 0),
        _worn_verbalizer(base, "prefix", 1, length=3),
        worn(base, "bitfit", Head(), sentiment(), 2, add_missing=True),
    ]
    rows = [0, 1, 2, 2, 1, 0, 0, 1, 2, 0]
    solo = [_plain_predict(monkeypatch, base, adapters[row], text) for text, row in zip(TEXTS * 2, rows, strict=True)]
    assert not taken.packed
    mixed = predict(base, adapters, TEXTS * 2, rows=rows, batch_size=10)
    assert taken.packed == [10]
    for one, own in zip(mixed, solo, strict=True):
        assert one.scores == pytest.approx(own.scores, rel=1e-4, abs=1e-6)
    alone = predict(base, adapters[0], TEXTS)
    assert taken.packed == [10, 5]
    plain = [_plain_predict(monkeypatch, base, adapters[0], text) for text in TEXTS]
    for one, own in zip(alone, plain, strict=True):
        assert one.scores == pytest.approx(own.scores, rel=1e-4, abs=1e-6)


def test_what_inputs_begin_with_is_run_once_for_a_verbalizer(taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    adapter = _worn_verbalizer(base, "lora", 0)
    lead = "the book was boring and sad no good in it the movie was fun and the cat was happy so very good to me "
    texts = [lead + text for text in TEXTS * 2]
    found = predict(base, adapter, texts)
    assert len(taken.prefixes) == 1
    for one, text in zip(found, texts, strict=True):
        assert one.scores == pytest.approx(_plain_predict(monkeypatch, base, adapter, text).scores, rel=1e-4, abs=1e-6)


def test_the_encoder_runs_once_for_all_label_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("t5", "bart", "mbart"):
        base = tiny_base(family)
        encoder, seen = base.module(base.stacks[0].root), []
        hook = encoder.register_forward_hook(lambda module, args, output: seen.append(output[0].shape[0]))  # noqa: B023
        adapters = [_worn_verbalizer(base, "lora", 1), _worn_verbalizer(base, "soft_prompt", 2, length=2)]
        mixed = predict(base, adapters, TEXTS, rows=[0, 1, 1, 0, 1], batch_size=5)
        assert seen == [5]
        hook.remove()
        for one, text, row in zip(mixed, TEXTS, [0, 1, 1, 0, 1], strict=True):
            with monkeypatch.context() as patched:
                patched.setattr(passes, "_one_encoding", lambda attached, inputs, sizes: False)
                (own,) = predict(base, adapters[row], [text])
            assert one.scores == pytest.approx(own.scores, rel=1e-4, abs=1e-6)


def test_progress_counts_inputs_over_adapters_that_share_no_batch() -> None:
    base = tiny_base("bert")
    adapters = [worn(base, "lora", Head(), sentiment(), 0), worn(base, "full", Head(), sentiment(), 1)]
    told: list[tuple[int, int]] = []
    predict(base, adapters, TEXTS[:4], rows=[0, 1, 0, 1], batch_size=1, progress=lambda *now: told.append(now))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
