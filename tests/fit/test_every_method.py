"""Every method through the one loop: fitted, interrupted, saved, loaded, and the same answers."""

from pathlib import Path

import pytest
import torch

from lmtailor.core.errors import InputError
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.predict import predict
from lmtailor.methods import catalogue
from lmtailor.readouts.head import Head
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import build_adapter
from lmtailor.store.folder import load_adapter
from tests.edits.worn import base_of
from tests.fit.tasks import sentiment
from tests.fit.test_fit import Recorder, same

BASE = base_of("bert")
TASK = sentiment(24, 8)
TEXTS = ["the movie was good", "the cat was awful and it is so very text"]
WORDS = Verbalizer(pattern="{sentence} it was {mask} .", words={"pos": ("great",), "neg": ("bad",)})
TRAINING = Training(epochs=1, batch_size=8, lr=1e-3, checkpoint_every=1)


def readout_for(name: str) -> Readout | None:
    """Head, or the verbalizer where a method needs the LM head; None where the method has no example for this model."""
    method = catalogue()[name](**catalogue()[name].examples[0])
    for readout in (Head(), WORDS):
        try:
            build_adapter(BASE, method, readout, TASK_LABELS, None, TASK)
        except InputError:
            continue
        return readout
    return None


TASK_LABELS = LabelSet.of(TASK)


@pytest.mark.parametrize("name", catalogue())
def test_a_fit_of_any_method_goes_on_to_the_same_bits_and_is_kept(name: str, tmp_path: Path) -> None:
    readout = readout_for(name)
    if readout is None:
        pytest.skip("its first example is for other models")
    method = catalogue()[name](**catalogue()[name].examples[0])
    whole = fit(BASE, TASK, method=method, readout=readout, training=TRAINING, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(BASE, TASK, method=method, readout=readout, training=TRAINING, out=tmp_path / "cut", callbacks=[Recorder(2)])
    cut = fit(BASE, TASK, method=method, readout=readout, training=TRAINING, out=tmp_path / "cut")
    assert same(whole, cut)
    assert all(torch.equal(value, cut.fixed[key]) for key, value in whole.fixed.items())
    loaded = load_adapter(tmp_path / "cut", BASE)
    assert same(whole, loaded)
    answers = [predict(BASE, adapter, TEXTS) for adapter in (whole, loaded)]
    assert answers[0] == answers[1]
