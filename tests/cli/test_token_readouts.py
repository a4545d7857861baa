"""Tags, spans and options from the command line: fit, eval and predict."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmtailor.tasks.task import Task
from tests.cli.inputs import Command
from tests.readouts.token_tasks import answered, chosen, tagged


def _tags(task: Task, split: str) -> list[dict[str, Any]]:
    return [{**one.fields, "tags": one.references[0]} for one in task.split(split)]


def _spans(task: Task, split: str) -> list[dict[str, Any]]:
    answers = [
        [{"text": text, "answer_start": start} for text, start in zip(one.references, one.starts, strict=True)]
        for one in task.split(split)
    ]
    return [{**one.fields, "answers": own} for one, own in zip(task.split(split), answers, strict=True)]


def _options(task: Task, split: str) -> list[dict[str, Any]]:
    return [{**one.fields, "label": one.label} for one in task.split(split)]


CARDS = {
    "tags": 'kind = "labelling"\n[columns]\ntext = "text"\nlabel = "tags"\n',
    "span": 'kind = "span"\n[columns]\ntext = ["question", "context"]\nlabel = "answers"\n',
    "options": 'labels = [0, 1]\n[columns]\ntext = "premise"\nextra = ["choice1", "choice2"]\n[[patterns]]\nname = "so"\n'
    'text = "{premise} so {mask}."\noptions = { 0 = "choice1", 1 = "choice2" }\n',
}
CASES: list[tuple[str, Task, Callable[[Task, str], list[dict[str, Any]]], set[str]]] = [
    ("tags", tagged(16, 4), _tags, {"tags"}),
    ("span", answered(16, 4), _spans, {"text", "start"}),
    ("options", chosen(16, 4), _options, {"label", "scores"}),
]


@pytest.mark.parametrize(("readout", "task", "rows", "keys"), CASES, ids=list(CARDS))
def test_fit_eval_and_predict(
    readout: str,
    task: Task,
    rows: Callable[[Task, str], list[dict[str, Any]]],
    keys: set[str],
    lmtailor: Command,
    encoder: Path,
    tmp_path: Path,
) -> None:
    for split in ("train", "dev", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows(task, split))
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    named = "".join(f'{split} = "{split}.jsonl"\n' for split in ("train", "dev", "test"))
    head, columns = CARDS[readout].split("\n", 1)
    (tmp_path / "card.toml").write_text(f"{head}\n[files]\n{named}{columns}", encoding="utf-8")
    card, out = ("--task", tmp_path / "card.toml"), tmp_path / "out"
    done = lmtailor("fit", encoder, *card, "--readout", readout, "--method", "lora", "--epochs", 1, "--out", out)
    assert done.code == 0, done.err
    assert json.loads((out / "adapter.json").read_text())["readout"]["name"] == readout
    (told,) = (line.strip() for line in done.out.splitlines() if line.strip().startswith("lmtailor predict "))
    done = lmtailor(*shlex.split(told)[1:])
    assert done.code == 0, done.err
    assert set(json.loads(done.out)) - {"id"} == keys
    done = lmtailor("eval", encoder, out, *card, "--json")
    assert done.code == 0, done.err
    assert next(iter(json.loads(done.out)["scores"]["test"])) == task.metrics[0]
    done = lmtailor("predict", encoder, out, "--file", tmp_path / "test.jsonl")
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert len(answers) == 4
    assert all(set(answer) - {"id"} == keys for answer in answers)
    if readout == "tags":
        assert [len(answer["tags"]) for answer in answers] == [len(row["text"].split()) for row in rows(task, "test")]
