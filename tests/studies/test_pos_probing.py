"""The study of parts of speech by layer: its card and its record can be read, and its page is made of them."""

from pathlib import Path

import pytest

from lmtailor.compare.report.probing import probing_page
from lmtailor.strategies.probing_record import read_probing
from lmtailor.tasks.card import load_task
from lmtailor.tasks.formats.conllu import UPOS

FOLDER = Path(__file__).parents[2] / "studies" / "pos_probing"


def test_the_card_has_the_universal_tags(shared: Path) -> None:
    names = {"train": "train.sample", "dev": "dev", "test": "test"}
    files = [f"files.{own}={shared}/data/ud_ewt/en_ewt-ud-{theirs}.conllu" for own, theirs in names.items()]
    task = load_task(FOLDER / "card.toml", overrides=files)
    assert set(task.labels) == set(UPOS)
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 2000, "dev": 500, "test": 1000}


@pytest.mark.parametrize("path", sorted((FOLDER / "records").glob("*.json")), ids=lambda path: path.stem)
def test_the_records_can_be_read_and_shown(path: Path) -> None:
    record = read_probing(path)
    assert record.controlled
    assert [base.name for base in record.bases] == ["MiniLM", "SmolLM2-135M"]
    assert [len(base.probes[0].layers) for base in record.bases] == [7, 31]
    assert "Tag by tag" in probing_page(record)
