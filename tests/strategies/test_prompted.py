"""Words and demonstrations as adapters: the same answers as the verbalizer that shows them, in any batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import plain_adapter, predict_split
from lmtailor.infer.predict import predict
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.hard_prompt import HardPrompt
from lmtailor.methods.lora import LoRA
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.methods.union import Union
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.prompted import Prompted, as_prompt
from tests.edits.worn import base_of
from tests.fit.tasks import sentiment
from tests.readouts.examples import line_break_base
from tests.store.adapters import moved_adapter

TASK = sentiment(24, 12)
WORDS = {"pos": ("great",), "neg": ("bad",)}
KEYS = ["bert", "roberta", "modernbert", "gpt2", "llama", "opt", "t5", "bart"]


def shown(key: str, k: int = 3, **settings: Any) -> Verbalizer:
    """Demonstrations; a pattern that goes on behind the gap where the model can read that."""
    end = " ." if key in ("bert", "roberta") else ""
    separator = settings.pop("separator", "\n\n")
    return Verbalizer(
        pattern=f"{{sentence}} it was {{mask}}{end}",
        words=WORDS,
        demonstrations=Demonstrations(k=k, seed=1, separator=separator),
        **settings,
    )


def scores(base: Base, adapter: Adapter) -> Any:
    return predict_split(base, TASK, adapter, split="dev").scores_NC


def assert_equal(found: Any, wanted: Any) -> None:
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("key", KEYS)
def test_demonstrations_answer_the_same_as_a_prompt(key: str, tmp_path: Path) -> None:
    base = base_of(key)
    plain = plain_adapter(base, TASK, shown(key))
    adapter = as_prompt(base, plain)
    assert isinstance(adapter.method, HardPrompt)
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.demonstrations is None
    assert not adapter.reading.prompt()  # type: ignore[union-attr]
    wanted = scores(base, plain)
    assert_equal(scores(base, adapter), wanted)
    zero = plain_adapter(base, TASK, Verbalizer(pattern=shown(key).pattern, words=WORDS))
    assert np.abs(scores(base, zero) - wanted).max() > 1e-3 * np.abs(wanted).max(), "demonstrations change nothing"
    save_adapter(adapter, tmp_path / "a")
    again = load_adapter(tmp_path / "a", base)
    assert not again.state
    assert_equal(scores(base, again), wanted)
    first = again.provenance["search"]["demonstrations"][0]
    assert first["fields"]["sentence"] in {example.fields["sentence"] for example in TASK.split("train")}


@pytest.mark.parametrize(
    "settings",
    [
        {"words": {"pos": ("very good", "fun"), "neg": ("awful", "so bad")}},
        {"normalise": "pmi"},
        {"calibration": Calibration()},
        {"max_length": 90},
        {"separator": " {} "},
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["bert", "gpt2", "t5"])
def test_whatever_else_the_verbalizer_does(key: str, settings: dict[str, Any]) -> None:
    base = base_of(key)
    readout = shown(key, 1, **{name: value for name, value in settings.items() if name != "words"})
    if "words" in settings:
        readout = Verbalizer(pattern=readout.pattern, words=settings["words"], demonstrations=readout.demonstrations)
    plain = plain_adapter(base, TASK, readout)
    assert_equal(scores(base, as_prompt(base, plain)), scores(base, plain))


def test_a_text_is_cut_at_the_same_place() -> None:
    """What demonstrations take is taken from the longest input."""
    base = base_of("gpt2")
    long = {"sentence": "the movie was good " * 60}
    for settings in ({}, {"max_length": 60}):
        plain = plain_adapter(base, TASK, shown("gpt2", 1, **settings))
        one, other = (predict(base, adapter, [long])[0] for adapter in (plain, as_prompt(base, plain)))
        assert one.cut == other.cut > 0
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_a_tokenizer_that_joins_line_breaks() -> None:
    base = line_break_base()
    plain = plain_adapter(base, TASK, shown("gpt2", 1))
    assert_equal(scores(base, as_prompt(base, plain)), scores(base, plain))


def test_among_trained_rows() -> None:
    """Demonstrations, a soft prompt, LoRA and the plain base in one batch, each as alone; also to write."""
    base = base_of("llama")
    plain = plain_adapter(base, TASK, shown("llama"))
    zero = Verbalizer(pattern="{sentence} it was {mask}", words=WORDS)
    adapters = [
        as_prompt(base, plain),
        *(moved_adapter(base, method, zero) for method in (LoRA(rank=2), SoftPrompt(length=4), Frozen())),
    ]
    inputs = [{"sentence": f"the cat was sad {number}"} for number in range(8)]
    mixed = predict(base, adapters, inputs, rows=[0, 1, 2, 3, 3, 2, 1, 0])
    wanted = predict(base, plain, [inputs[0], inputs[7]])
    for found, one in zip((mixed[0], mixed[7]), wanted, strict=True):
        assert found.scores == pytest.approx(one.scores, abs=1e-5)
    for number, slot in enumerate([0, 1, 2, 3, 3, 2, 1, 0]):
        assert mixed[number].scores == pytest.approx(predict(base, adapters[slot], [inputs[number]])[0].scores, abs=1e-5)
    ids = torch.tensor([[20, 21, 22]] * 4)
    how: dict[str, Any] = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    with torch.no_grad(), attach(base, adapters, [3, 0, 2, 1]):
        written = base.model.generate(input_ids=ids, **how)  # type: ignore[operator]
    for row, slot in enumerate([3, 0, 2, 1]):
        with torch.no_grad(), attach(base, adapters[slot]):
            assert torch.equal(base.model.generate(input_ids=ids[:1], **how)[0], written[row])  # type: ignore[operator]


@pytest.mark.parametrize("key", ["bert", "gpt2"])
@pytest.mark.parametrize("method", [LoRA(rank=2), SoftPrompt(length=3), Union(parts=(LoRA(rank=2), BitFit(add_missing=True)))])
def test_what_was_trained_stays(key: str, method: Any, tmp_path: Path) -> None:
    base = base_of(key)
    trained = fit(base, TASK, method=method, readout=shown(key, 1), training=Training(max_steps=2, batch_size=4, lr=0.05))
    adapter = as_prompt(base, trained)
    assert adapter.num_parameters == trained.num_parameters > 0
    assert_equal(scores(base, adapter), scores(base, trained))
    save_adapter(adapter, tmp_path / "a")
    assert_equal(scores(base, load_adapter(tmp_path / "a", base)), scores(base, trained))


# the strategy


@pytest.mark.parametrize("key", ["bert", "gpt2", "t5"])
def test_demonstrations_by_the_strategy(key: str, tmp_path: Path) -> None:
    base = base_of(key)
    readout = Verbalizer(pattern="{sentence} it was {mask}", words=WORDS)
    adapter = adapt(base, TASK, strategy=Prompted(k=2), readout=readout, seed=5, out=tmp_path / "a")
    wanted = plain_adapter(
        base, TASK, Verbalizer(pattern=readout.pattern, words=WORDS, demonstrations=Demonstrations(k=2, seed=5)), seed=5
    )
    assert_equal(scores(base, load_adapter(tmp_path / "a", base)), scores(base, wanted))
    assert adapter.scores["dev"]["accuracy"].n == 12
    assert len(adapter.provenance["search"]["demonstrations"]) == 2
    assert adapter.provenance["data"] == TASK.digest


def test_words_by_the_strategy() -> None:
    base, readout = base_of("gpt2"), Verbalizer(pattern="{sentence} it was {mask}", words=WORDS)
    adapter = adapt(base, TASK, strategy=Prompted(text="is the movie good or bad?"), readout=readout)
    assert adapter.method == HardPrompt.of(base, "is the movie good or bad?")
    assert_equal(scores(base, adapter), scores(base, new_adapter(base, method=adapter.method, readout=readout, task=TASK)))


def test_the_task_s_own_pattern() -> None:
    task = TASK.from_records(
        text="sentence",
        train=[{"sentence": f"a movie {i}", "label": "neg" if i % 2 else "pos"} for i in range(6)],
        patterns=["{sentence} so {mask}"],
        verbalizer=WORDS,
    )
    adapter = adapt(base_of("gpt2"), task, strategy=Prompted(k=1))
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.pattern == "\n\n{sentence} so {mask}"


def test_what_is_refused() -> None:
    base, readout = base_of("gpt2"), Verbalizer(pattern="{sentence} it was {mask}", words=WORDS)
    refusals: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"method": LoRA()}, UnsupportedError, "LoRA was asked for"),
        ({"training": Training()}, InputError, "no settings of training"),
        ({"readout": Head()}, InputError, "Head must be trained"),
        ({"readout": None}, InputError, "no pattern and label words"),
        ({"strategy": Prompted(text="good"), "readout": shown("gpt2")}, InputError, "Give one of the two"),
    ]
    for choices, error, message in refusals:
        with pytest.raises(error, match=message):
            adapt(base, TASK, **{"strategy": Prompted(k=1), "readout": readout, **choices})
    with pytest.raises(InputError, match="k is 0"):
        Prompted(k=0)
    with pytest.raises(InputError, match="has none"):
        as_prompt(base, plain_adapter(base, TASK, readout))
    several = Verbalizer(pattern=readout.pattern, words=WORDS, demonstrations=Demonstrations(k=1, sets=2))
    with pytest.raises(InputError, match="2 sets"):
        as_prompt(base, plain_adapter(base, TASK, several))
    with pytest.raises(InputError, match="Give an adapter with a Verbalizer"):
        as_prompt(base, new_adapter(base, method=Frozen(), readout=Head(), task=TASK))
    with pytest.raises(InputError, match="no demonstrations of their own"):
        Verbalizer(pattern=readout.pattern, words=WORDS, after="x", demonstrations=Demonstrations(k=1))


@pytest.mark.parametrize(("key", "message"), [("bert", "Begin the pattern with a line break"), ("gpt2", "together")])
def test_an_end_that_is_joined_with_the_input(key: str, message: str) -> None:
    joined = Verbalizer(pattern="{sentence} it was {mask}", words=WORDS, after="the movie goo")
    adapter = new_adapter(base_of(key), method=Frozen(), readout=joined, task=TASK)
    with pytest.raises(InputError, match=message):
        predict(base_of(key), adapter, [{"sentence": "d cat"}])
