"""SPoT: which source is taken, where the fit starts, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, TrainingError
from lmtailor.fit.callbacks.callback import Stepped
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.prompt_closeness import prompt_closeness
from lmtailor.strategies.spot import SPoT, average_shares, averaged
from tests.edits.worn import base_of
from tests.fit.tasks import sentiment
from tests.fit.test_fit import Recorder, same
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

TASK = sentiment(24, 8)
WORDS = Verbalizer(pattern="{sentence} it was {mask}", words={"pos": ("great",), "neg": ("bad",)})
SHORT = Training(max_steps=3, batch_size=8, lr=0.1, checkpoint_every=1)
STILL = Training(max_steps=1, batch_size=8, lr=1e-30, optimizer="adamw", weight_decay=0.0)
"""A fit that stays where it starts."""


class StopsOnce(Recorder):
    """Stops a fit that begins, after its second step."""

    def stepped(self, event: Stepped) -> None:
        if self.first == 0 and event.step == 2:
            raise KeyboardInterrupt


def source(base: Base, folder: Path, seed: int, method: Method | None = None) -> str:
    save_adapter(moved_adapter(base, method or SoftPrompt(length=4), by=0.5, seed=seed), folder)
    return str(folder)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, ...]:
    return tuple(source(base_of("gpt2"), tmp_path / f"source-{seed}", seed) for seed in (1, 2, 3))


def prompt_of(adapter: Adapter) -> torch.Tensor:
    return adapter.state["embed.prompt_NH"]


def run(strategy: SPoT, training: Training = SHORT, **more: Any) -> Adapter:
    return adapt(base_of(more.pop("base", "gpt2")), TASK, strategy=strategy, readout=WORDS, training=training, **more)


@pytest.mark.parametrize("key", ["bert", "gpt2", "t5"])
def test_one_source_is_the_start(key: str, tmp_path: Path) -> None:
    base = base_of(key)
    folder = source(base, tmp_path / "source", 1)
    adapter = run(SPoT(sources=(folder,)), STILL, base=key)
    assert torch.allclose(next(iter(adapter.state.values())), next(iter(load_adapter(folder, base).state.values())))
    assert adapter.method == SoftPrompt(length=4)
    assert adapter.provenance["search"]["chosen"] == [0]
    assert adapter.provenance["search"]["closeness"] is None
    trained = run(SPoT(sources=(folder,)), base=key)
    assert not same(trained, adapter)


def test_the_closest_source_is_taken(sources: tuple[str, ...]) -> None:
    base = base_of("gpt2")
    adapter = run(SPoT(sources=sources, probe_steps=2), STILL)
    probe = fit(base, TASK, method=SoftPrompt(length=4), readout=WORDS, training=Training(max_steps=2, batch_size=8, lr=1e-30))
    wanted = [prompt_closeness(base, probe, load_adapter(folder, base)).per_token for folder in sources]
    found = adapter.provenance["search"]
    assert found["closeness"] == pytest.approx(wanted, abs=1e-6)
    assert found["chosen"] == [wanted.index(max(wanted))]
    assert torch.allclose(prompt_of(adapter), prompt_of(load_adapter(sources[found["chosen"][0]], base)))


def test_of_several_starts_dev_decides(sources: tuple[str, ...]) -> None:
    adapter = run(SPoT(sources=sources, top=3))
    found = adapter.provenance["search"]
    assert found["closeness"] is None
    assert len(found["dev"]) == 3
    assert found["dev"][found["best"]] == max(found["dev"]) == adapter.scores["dev"]["accuracy"].value


def test_the_average_start(sources: tuple[str, ...]) -> None:
    base = base_of("gpt2")
    adapter = run(SPoT(sources=sources, top=2, combine="average", measure="neurons", probe_steps=1), STILL)
    found = adapter.provenance["search"]
    assert sum(found["shares"]) == pytest.approx(1)
    prompts = [prompt_of(load_adapter(sources[i], base)) for i in found["chosen"]]
    wanted = found["shares"][0] * prompts[0] + found["shares"][1] * prompts[1]
    assert torch.allclose(prompt_of(adapter), wanted, atol=1e-6)
    assert found["shares"] == average_shares([found["closeness"][i] for i in found["chosen"]])


def test_shares() -> None:
    assert average_shares([0.6, 0.2]) == pytest.approx([0.75, 0.25])
    assert average_shares([0.5, -0.3]) == [1.0, 0.0]
    assert average_shares([-0.1, -0.3]) == [0.5, 0.5]
    edits = [moved_adapter(base_of("gpt2"), Prefix(length=2), seed=seed).edits for seed in (1, 2)]
    (one,), (other,) = (part.state().values() for part in edits)
    (mixed,) = averaged(edits, [0.25, 0.75]).state().values()
    assert torch.allclose(mixed, 0.25 * one + 0.75 * other)


def test_a_prefix_too(tmp_path: Path) -> None:
    folder = source(base_of("bert"), tmp_path / "source", 1, Prefix(length=3))
    adapter = run(SPoT(sources=(folder,)), STILL, base="bert")
    own, wanted = (next(iter(one.state.values())) for one in (adapter, load_adapter(folder, base_of("bert"))))
    assert torch.allclose(own, wanted)


def test_it_goes_on_to_the_same_bits(sources: tuple[str, ...], tmp_path: Path) -> None:
    strategy = SPoT(sources=sources, top=2, probe_steps=3)
    whole = run(strategy)
    for _ in range(3):  # the fit that finds where the task lies, and one from each start
        with pytest.raises(KeyboardInterrupt):
            run(strategy, out=tmp_path / "out", callbacks=[StopsOnce()])
    cut = run(strategy, out=tmp_path / "out", callbacks=[StopsOnce()])
    assert same(whole, cut)
    assert cut.provenance["search"] == whole.provenance["search"]


def test_another_source_under_the_same_name(sources: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(SPoT(sources=sources[:1]), out=tmp_path / "out", callbacks=[Recorder(1)])
    source(base_of("gpt2"), Path(sources[0]), 9)
    with pytest.raises(TrainingError, match="not the one that this work began with"):
        run(SPoT(sources=sources[:1]), out=tmp_path / "out")


def test_sources_that_are_none(sources: tuple[str, ...], tmp_path: Path) -> None:
    other = source(tiny_base("gpt2", n_layer=2), tmp_path / "other", 1)
    with pytest.raises(AdapterFileError, match="made for"):
        run(SPoT(sources=(other,)))
    lora = source(base_of("gpt2"), tmp_path / "lora", 1, LoRA(rank=2))
    with pytest.raises(InputError, match=r"lora, which changes block.0.attn.q; prompts are transferred from soft prompts"):
        run(SPoT(sources=(lora,)))
    longer = source(base_of("gpt2"), tmp_path / "longer", 1, SoftPrompt(length=5))
    with pytest.raises(InputError, match=r"longer holds .* no start for soft_prompt as it is asked for. .*shape"):
        run(SPoT(sources=(sources[0], longer)))
    with pytest.raises(InputError, match="no start for prefix"):
        run(SPoT(sources=sources[:1]), method=Prefix(length=4))
    with pytest.raises(AdapterFileError, match="no folder"):
        run(SPoT(sources=(str(tmp_path / "none"),)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ()}, "needs sources"),
        ({"sources": ("a",), "top": 2}, "top is 2; of 1 sources"),
        ({"sources": ("a",), "top": 0}, "top is 0"),
        ({"sources": ("a",), "probe_steps": 0}, "probe_steps is 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SPoT(**settings)


def test_a_start_of_another_method_is_refused_by_the_fit() -> None:
    base = base_of("gpt2")
    with pytest.raises(InputError, match="The start is not one of soft_prompt with these settings"):
        fit(base, TASK, method=SoftPrompt(length=4), start=new_adapter(base, method=SoftPrompt(length=3)).edits)


def test_fits_with_other_starts_are_other_fits(tmp_path: Path) -> None:
    base = base_of("gpt2")
    starts = [moved_adapter(base, SoftPrompt(length=3), seed=seed).edits for seed in (1, 2)]
    fit(base, TASK, method=SoftPrompt(length=3), start=starts[0], training=STILL, out=tmp_path / "a")
    with pytest.raises(TrainingError, match="another fit"):
        fit(base, TASK, method=SoftPrompt(length=3), start=starts[1], training=STILL, out=tmp_path / "a")
    both = fit(base, TASK, method=SoftPrompt(length=3), start=starts, training=STILL)
    for one, start in zip(both, starts, strict=True):
        assert torch.allclose(prompt_of(one), start.state()["embed.prompt_NH"])
