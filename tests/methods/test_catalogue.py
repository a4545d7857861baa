"""Methods are found by their files, and by entry points of other packages."""

import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import lmtailor.methods
from lmtailor.core import discovery
from lmtailor.core.discovery import discovered
from lmtailor.core.errors import InputError
from lmtailor.methods import catalogue, method_class, method_name
from lmtailor.methods.lora import LoRA

SOURCE = '''
"""Nothing at all, under the name of its file."""

from dataclasses import dataclass

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method


@dataclass(frozen=True, kw_only=True)
class Nothing(Method):
    """No edits."""

    strength: int = 3

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """None."""
        return Edits()
'''


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The catalogue is read anew before and after each test."""
    discovered.cache_clear()
    yield
    discovered.cache_clear()


def add(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str) -> None:
    """A file in the folder of methods."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source), "utf-8")
    monkeypatch.setattr(lmtailor.methods, "__path__", [*lmtailor.methods.__path__, str(folder)])


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An entry point of somebody's package."""
    points = EntryPoints([EntryPoint(name=name, value=value, group="lmtailor.methods")])
    monkeypatch.setattr(discovery, "entry_points", lambda group: points.select(group=group))


def test_every_file_is_a_method_under_its_name() -> None:
    folder = Path(lmtailor.methods.__path__[0])
    files = {path.stem for path in folder.glob("[a-z]*.py")} - {"method"}
    assert set(catalogue()) == files
    assert list(catalogue()) == sorted(files)
    for name, method in catalogue().items():
        assert method.__module__ == f"lmtailor.methods.{name}"
        assert getattr(lmtailor.methods, method.__name__) is method
        assert method_class(name) is method_class(method.__name__) is method


def test_a_new_file_is_a_new_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add(monkeypatch, tmp_path, "nothing", SOURCE)
    found = catalogue()["nothing"]
    assert found.__name__ == "Nothing"
    assert lmtailor.methods.Nothing is found
    assert method_name(found(strength=4)) == "nothing"  # type: ignore[call-arg]
    assert "Nothing" in dir(lmtailor.methods)


@pytest.mark.parametrize("source", ["x = 1", SOURCE + "\nclass Second(Nothing):\n    pass\n"], ids=["none", "two"])
def test_a_file_holds_one_method(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, request: pytest.FixtureRequest
) -> None:
    name = f"odd_{request.node.callspec.id}"
    add(monkeypatch, tmp_path, name, source)
    with pytest.raises(InputError, match=f"lmtailor.methods.{name} must define exactly one Method"):
        catalogue()


def test_a_package_of_somebody_else_adds_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "theirs", "lmtailor.methods.lora:LoRA")
    assert catalogue()["theirs"] is LoRA
    assert method_class("theirs") is LoRA


def test_an_entry_point_that_is_no_method_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "theirs", "lmtailor.core.errors:near")
    with pytest.raises(InputError, match=r"theirs = lmtailor\.core\.errors:near is not a Method"):
        catalogue()


def test_an_entry_point_cannot_take_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "lora", "lmtailor.methods.bitfit:BitFit")
    with pytest.raises(InputError, match="There is a method 'lora' already"):
        catalogue()


def test_unknown_names_show_near_ones() -> None:
    with pytest.raises(InputError, match=r"There is no method 'lorra'. Did you mean lora"):
        method_class("lorra")
    with pytest.raises(AttributeError, match=r"no 'LoRa'. Did you mean LoRA"):
        _ = lmtailor.methods.LoRa
    assert method_name(LoRA()) == "lora"
