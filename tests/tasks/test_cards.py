"""The cards of public data sets: every one is listed, loads, and counts what its page says."""

import re
import tomllib
from pathlib import Path

import pytest

from lmtailor.readouts.pattern import parse_pattern
from lmtailor.tasks.card import load_task

CARDS = Path(__file__).resolve().parents[2] / "cards"
PAGE = (CARDS / "README.md").read_text(encoding="utf-8")
NAMES = sorted(path.stem for path in CARDS.glob("*.toml"))
LISTED = dict(re.findall(r"^\| `(\w+)\.toml` \|.*\| ([^|]+) \|$", PAGE, flags=re.MULTILINE))

OTHERS = {
    "sst2": {"imdb": 1000, "yelp": 800},
    "snli": {"official_dev": 9842, "official_test": 9824},
    "webnlg2017": {"seen": 971, "unseen": 891},
}
TEXTS = {
    "e2e": 9365,
    "webnlg2017": 18025 + 2258 + 4928,
    "samsum": 818 + 819,
    "xsum": 1000,
    "alpaca_sample": 999,
    "squad11_text": 11282 + 595 + 17778,
}


def folder_of(card: str, shared: Path) -> Path:
    folder = tomllib.loads((CARDS / f"{card}.toml").read_text(encoding="utf-8"))["folder"]
    return shared / "data" / str(folder).removeprefix("../data/")


def test_the_page_lists_every_card() -> None:
    assert sorted(LISTED) == NAMES
    assert NAMES


@pytest.mark.parametrize("card", NAMES)
def test_a_card_of_a_public_set(card: str, shared: Path) -> None:
    task = load_task(CARDS / f"{card}.toml", overrides=[f"folder={folder_of(card, shared)}"])
    told = LISTED[card].split(";")[0].split(" / ")
    counts = [0 if "none" in one or "unlabelled" in one else int(re.sub(r"\D.*", "", one.replace(",", ""))) for one in told]
    found = {name: len(split) for name, split in task.splits.items()}
    assert [found.get(name, 0) for name in ("train", "dev", "test")] == counts
    assert {name: found[name] for name in task.ood} == OTHERS.get(card, {})
    if task.kind == "generation":
        texts = sum(len(one.references) for name, split in task.splits.items() if name not in task.ood for one in split)
        assert texts == TEXTS[card]
    for prompt in task.prompts:
        gap = "" if "{mask}" in prompt.pattern else "{mask}"
        parse_pattern(prompt.pattern + gap).check_columns(task.columns)
        assert bool(gap) == (task.kind == "generation")
        if prompt.target is not None:
            assert parse_pattern(prompt.target + "{mask}").fields == (task.label,)


def test_a_file_named_on_the_command_line_is_taken(shared: Path) -> None:
    folder = folder_of("e2e", shared)
    task = load_task(CARDS / "e2e.toml", overrides=[f"folder={folder}", f"files.train={folder / 'testset_w_refs.csv'}"])
    assert len(task.split("train")) + len(task.split("dev")) == 630
