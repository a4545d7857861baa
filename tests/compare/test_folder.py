"""What is kept of a comparison comes back as it was."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmtailor.compare.answers import Answers
from lmtailor.compare.folder import Folder, RunFolder, folder_bytes, record_from_mapping, record_to_mapping, slug
from lmtailor.core.errors import InputError
from tests.compare.synthetic import demo_about, demo_runs


def test_records_answers_and_the_task_come_back(tmp_path: Path) -> None:
    about = demo_about(n=50)
    run = demo_runs(about)[3]
    folder = Folder(tmp_path)
    folder.write_about(about)
    place = folder.run(run.record.cell, run.record.seed)
    place.write(run.record, run.answers)
    assert folder.about() == about
    assert place.record() == run.record
    answers = place.answers()
    assert answers is not None
    assert answers.keys() == run.answers.keys()
    for split, one in answers.items():
        kept = run.answers[split]
        assert isinstance(one, Answers)
        assert isinstance(kept, Answers)
        assert np.array_equal(one.predicted, kept.predicted)
        assert one.predicted.dtype == kept.predicted.dtype
    assert [one.path for one in folder.runs(about)] == [place.path]


def test_a_record_of_another_version_is_none() -> None:
    values = record_to_mapping(demo_runs(demo_about(n=50))[0].record)
    assert record_from_mapping(json.loads(json.dumps(values))).cell == "probe"
    with pytest.raises(InputError, match="A record has the fields"):
        record_from_mapping({key: value for key, value in values.items() if key != "digest"})
    with pytest.raises(InputError, match="no record"):
        record_from_mapping({**values, "scores": 3})


def test_only_the_same_settings_keep_a_run_folder(tmp_path: Path) -> None:
    place = RunFolder(tmp_path / "run")
    place.claim("a")
    (place.path / "checkpoint").touch()
    place.claim("a")
    assert (place.path / "checkpoint").exists()
    place.claim("b")
    assert not (place.path / "checkpoint").exists()


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("[" * 100_000)
    assert RunFolder(tmp_path).record() is None


def test_half_written_answers_are_none(tmp_path: Path) -> None:
    about = demo_about(n=50)
    run = demo_runs(about)[0]
    place = RunFolder(tmp_path)
    place.write(run.record, {"test": Answers(predicted=np.zeros(3), reference=np.zeros(3))})
    file = tmp_path / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert place.answers() is None
    place.write(replace(run.record, status="failed", reason="No."), {})
    assert place.answers() == {}


def test_names_become_folders_of_any_script_and_stay_apart() -> None:
    assert slug("lora") == "lora"
    assert slug("top 2 layers") == "top-2-layers"
    names = [
        "LoRA",
        "lora",
        "lo ra",
        "lo-ra",
        "lo/ra",
        "../ra",
        "★",
        "☆",
        "настроение",
        "语气",
        "a" * 200,
        "a" * 201,
        "x" * 48,
        ".",
    ]
    folders = [slug(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder and "/" not in folder and not folder.startswith(".") and len(folder) < 64 for folder in folders)
    assert slug("настроение") == "настроение"


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub" / "b").write_bytes(b"123")
    assert folder_bytes(tmp_path) == 8
    assert folder_bytes(tmp_path / "absent") == 0
