"""What a card proposes reaches the readout that it is for."""

from dataclasses import replace
from typing import Any

import pytest

from lmtailor.cli.answering import readout_settings
from lmtailor.cli.options import ReadoutOptions
from lmtailor.core.errors import InputError
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task

WRITTEN = Task.from_records(
    train=[{"data": "a", "ref": "b"}],
    text="data",
    label="ref",
    kind="generation",
    patterns=[
        Prompt(name="first", pattern="Data: {data}\nText:", target=" {ref}"),
        Prompt(name="second", pattern="{data} ="),
    ],
)
CHOSEN = Task.from_records(
    train=[{"p": "a", "x": "b", "y": "c", "label": "0"}, {"p": "d", "x": "e", "y": "f", "label": "1"}],
    text="p",
    extra=["x", "y"],
    patterns=[Prompt(name="so", pattern="{p} so {mask}", options={"0": "x", "1": "y"})],
)


@pytest.mark.parametrize(
    ("task", "options", "settings"),
    [
        (WRITTEN, {}, {"pattern": "Data: {data}\nText:", "target": " {ref}"}),
        (WRITTEN, {"pattern_name": "second"}, {"pattern": "{data} ="}),
        (WRITTEN, {"pattern": "{data}:"}, {"pattern": "{data}:"}),
        (CHOSEN, {"readout": "options"}, {"pattern": "{p} so {mask}", "options": {"0": "x", "1": "y"}}),
        (
            CHOSEN,
            {"readout": "options", "pattern": "{p} then {mask}"},
            {"pattern": "{p} then {mask}", "options": {"0": "x", "1": "y"}},
        ),
        (CHOSEN, {}, {"pattern": "{p} so {mask}", "options": {"0": "x", "1": "y"}}),
        (replace(CHOSEN, prompts=()), {}, {}),
    ],
)
def test_what_a_card_proposes(task: Task, options: dict[str, Any], settings: dict[str, object]) -> None:
    assert readout_settings(task, ReadoutOptions(**options)) == settings


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (WRITTEN, {"pattern": "{data}", "pattern_name": "first"}, "--pattern-name stands for a pattern"),
        (WRITTEN, {"pattern_name": "frist"}, "no pattern named 'frist'. Did you mean first"),
        (replace(CHOSEN, prompts=()), {"pattern": "{p}"}, "are for --readout verbalizer, text or options"),
        (CHOSEN, {"readout": "options", "word": ("0=a",)}, "--word is for --readout verbalizer"),
    ],
)
def test_what_is_refused(task: Task, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        readout_settings(task, ReadoutOptions(**options))
