"""A verbalizer's settings from a plan's TOML and from `--set`, and back."""

import tomllib

import pytest

from lmtailor.core.errors import InputError
from lmtailor.core.settings import apply_overrides, from_mapping, settings_hash, to_mapping
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.demonstrations import Demonstrations, Shown, Similar
from lmtailor.readouts.verbalizer import Verbalizer

PLAIN = {"pattern": "{sentence} It was {mask}", "words": {"neg": ["bad"], "pos": ["good"]}}

PLAN = """
pattern = "{sentence} It was {mask}"
normalise = "pmi"
masks = "one_by_one"
fill = "answer"
[words]
neg = ["bad", "awful"]
pos = ["good"]
[calibration]
inputs = ["N/A", ""]
[demonstrations]
k = 2
per_class = true
order_seed = 4
sets = 3
"""


def test_from_a_plan() -> None:
    settings = from_mapping(Verbalizer, tomllib.loads(PLAN))
    assert settings == Verbalizer(
        "{sentence} It was {mask}",
        {"neg": ("bad", "awful"), "pos": ("good",)},
        normalise="pmi",
        masks="one_by_one",
        fill="answer",
        calibration=Calibration(inputs=("N/A", "")),
        demonstrations=Demonstrations(k=2, per_class=True, order_seed=4, sets=3),
    )
    assert from_mapping(Verbalizer, to_mapping(settings)) == settings


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["calibration={}"], {"calibration": Calibration()}),
        (["calibration.inputs=N/A,nothing"], {"calibration": Calibration(inputs=("N/A", "nothing"))}),
        (["normalise=bytes", "aggregate=sum"], {"normalise": "bytes", "aggregate": "sum"}),
        (["demonstrations.k=4", "demonstrations.sets=2"], {"demonstrations": Demonstrations(k=4, sets=2)}),
        (
            ["demonstrations.k=1", "demonstrations.similar.encoder=some/encoder", "demonstrations.similar.pick=nearest"],
            {"demonstrations": Demonstrations(k=1, similar=Similar(encoder="some/encoder", pick="nearest"))},
        ),
    ],
)
def test_from_the_command_line(overrides: list[str], wanted: dict[str, object]) -> None:
    found = from_mapping(Verbalizer, apply_overrides(PLAIN, overrides))
    assert to_mapping(found) == to_mapping(from_mapping(Verbalizer, PLAIN)) | {
        name: to_mapping(value) if not isinstance(value, str) else value  # type: ignore[arg-type]
        for name, value in wanted.items()
    }


def test_what_was_measured_and_drawn_is_stored_exactly() -> None:
    shown = tuple(Shown(fields={"sentence": text}, label="neg") for text in ("a", "b"))
    settings = Verbalizer(
        "{sentence} It was {mask}",
        {"neg": ("bad",), "pos": ("good",)},
        normalise="pmi",
        prior=((0.1 + 0.2, -1e-300), (1 / 3, 2.0)),
        calibration=Calibration(shares=((1e-300, 1.0), (0.3, 0.7))),
        demonstrations=Demonstrations(k=1, sets=2, shown=shown),
    )
    again = from_mapping(Verbalizer, to_mapping(settings))
    assert again == settings
    assert settings_hash(again) == settings_hash(settings)


def test_words_of_the_field_s_own_when_they_are_wrong() -> None:
    with pytest.raises(InputError, match=r"normalise must be one of none, length, bytes, pmi.*Did you mean pmi"):
        from_mapping(Verbalizer, PLAIN | {"normalise": "pmmi"})
    with pytest.raises(InputError, match=r"is not a setting of Calibration. Did you mean inputs"):
        from_mapping(Verbalizer, PLAIN | {"calibration": {"input": ["N/A"]}})
