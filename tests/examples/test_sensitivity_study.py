"""The card of the sensitivity study: ten formats, each a pattern for causal models with words of its own."""

from pathlib import Path

from lmtailor.readouts.pattern import parse_pattern
from lmtailor.tasks.card import load_task

CARD = Path(__file__).resolve().parents[2] / "studies" / "sst2_sensitivity" / "card.toml"


def test_ten_formats(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a fine film\t1\na mess\t0\n")
    task = load_task(CARD, overrides=[f"files.{split}={tmp_path / 'a.tsv'}" for split in ("train", "test")])
    assert task.labels == ("negative", "positive")
    assert len(task.prompts) == len(set(task.patterns)) == 10
    for prompt in task.prompts:
        pattern = parse_pattern(prompt.pattern)
        assert pattern.fields == ("sentence",)
        assert not pattern.after, "causal models answer at the end"
        assert set(prompt.words) == set(task.labels)
        assert prompt.words["negative"] != prompt.words["positive"]
