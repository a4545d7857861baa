"""A desk keeps finished parts, and nothing else."""

from pathlib import Path

import pytest
import torch

from lmtailor.core.errors import InputError, TrainingError
from lmtailor.strategies.desk import Desk


def test_a_result_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, object]:
        made.append(1)
        return {"n": (1, 2), "third": 1 / 3}

    first = Desk(tmp_path / "desk", "a").result("part", make)
    second = Desk(tmp_path / "desk", "a").result("part", make)
    assert first == second == {"n": [1, 2], "third": 1 / 3}
    assert len(made) == 1
    assert Desk(None).result("part", make) == first, "it goes through JSON either way"
    assert len(made) == 2


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    value = {"x": torch.randn(3, 4).T, "n": torch.arange(3)}
    desk = Desk(tmp_path / "desk", "a")
    first = desk.tensors("t", lambda: value)
    again = Desk(tmp_path / "desk", "a").tensors("t", lambda: pytest.fail("it is done"))
    for name, tensor in value.items():
        assert torch.equal(first[name], tensor)
        assert torch.equal(again[name], tensor)


def test_how_far_a_part_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk", "a")
    assert desk.latest("search") is None
    desk.put("search", {"step": 1})
    desk.put("search", {"step": 2})
    assert Desk(tmp_path / "desk", "a").latest("search") == {"step": 2}
    assert Desk(None).latest("search") is None


def test_parts_within_parts_and_no_way_out(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk", "a")
    inner = desk.part("generation-1").part("fits")
    assert inner.path("0") == (tmp_path / "desk" / "generation-1" / "fits" / "0").resolve()
    assert Desk(None).part("x").path("y") is None
    with pytest.raises(InputError, match="leads out"):
        desk.path("../other")


def test_a_desk_of_other_settings(tmp_path: Path) -> None:
    Desk(tmp_path / "desk", "a").put("search", {"step": 1})
    with pytest.raises(TrainingError, match="unfinished work of other settings"):
        Desk(tmp_path / "desk", "b")
    fresh = Desk(tmp_path / "desk", "b", overwrite=True)
    assert fresh.latest("search") is None
    fresh.clear()
    assert not (tmp_path / "desk").exists()
    fresh.clear()


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_part_is_told(tmp_path: Path, content: str) -> None:
    desk = Desk(tmp_path / "desk", "a")
    (tmp_path / "desk" / "part.json").write_text(content)
    with pytest.raises(InputError, match="Remove its folder to begin anew"):
        desk.result("part", dict)


def test_a_desk_with_nothing_on_it_binds_nobody(tmp_path: Path) -> None:
    Desk(tmp_path / "desk", "a")
    Desk(tmp_path / "desk", "b").leave()
    assert not (tmp_path / "desk").exists()
    kept = Desk(tmp_path / "desk", "a")
    kept.result("part", lambda: {"n": 1})
    kept.leave()
    assert Desk(tmp_path / "desk", "a").latest("part") == {"n": 1}
