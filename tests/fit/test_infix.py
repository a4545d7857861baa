"""What stands between text and answer is trained where the answer's words are in the input."""

from pathlib import Path

import pytest

from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.predict import predict
from lmtailor.methods.method import Method
from lmtailor.methods.p_tuning import PTuning
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.folder import load_adapter
from tests.fit.tasks import sentiment
from tests.fit.test_fit import Recorder, same
from tests.tiny import tiny_base

SPOKEN = Verbalizer("{sentence} it was {mask}", {"pos": ("utterly good",), "neg": ("terrible",)})
TEXTS = ["the movie was good", "the cat was awful and it is so very text"]


@pytest.mark.parametrize("readout", [SPOKEN, Head()], ids=["words", "head"])
@pytest.mark.parametrize(
    "method",
    [SoftPrompt(length=3, place="infix"), Prefix(length=3, place="infix"), PTuning(length=2, hidden=8, place="infix")],
    ids=lambda method: type(method).__name__,
)
def test_it_learns_and_is_kept(method: Method, readout: Readout, tmp_path: Path) -> None:
    base, recorder = tiny_base("gpt2"), Recorder()
    training = Training(epochs=4, batch_size=12, lr=3e-2, keep="last")
    adapter = fit(
        base, sentiment(), method=method, readout=readout, training=training, out=tmp_path / "own", callbacks=[recorder]
    )
    assert sum(recorder.losses[-5:]) < 0.99 * sum(recorder.losses[:5])
    loaded = load_adapter(tmp_path / "own", base)
    assert same(adapter, loaded)
    answers = predict(base, adapter, TEXTS)
    assert predict(base, loaded, TEXTS) == answers
    together = predict(base, [adapter, loaded], TEXTS, rows=[0, 1])
    for one, other in zip(together, answers, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4)


def test_blocks_below_a_prefix_run_once() -> None:
    base, runs = tiny_base("llama"), []
    for cached in (True, False):
        recorder = Recorder()
        training = Training(epochs=2, batch_size=8, lr=1e-2, cache_trunk=cached)
        prefix = Prefix(length=3, place="infix", at="block.[2:].attn")
        fit(base, sentiment(24, 8), method=prefix, readout=SPOKEN, training=training, callbacks=[recorder])
        runs.append(recorder.losses)
        assert any("they ran once" in note for note in recorder.notes) == cached
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
