"""What the tests of the command line share: a base in a folder, data in files, and a way to run a command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmtailor.cli import run
from tests.cli.inputs import ROWS, Outcome, save_base, write_csv


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer."""
    return save_base("bert", tmp_path_factory.mktemp("bases") / "tiny-bert")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with its tokenizer."""
    return save_base("llama", tmp_path_factory.mktemp("bases") / "tiny-llama")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with train, dev and test files, and a card; the working folder of nobody."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in ROWS.items():
        write_csv(folder / f"{split}.csv", ("sentence", "label"), rows)
    (folder / "card.toml").write_text(
        'name = "films"\n[files]\ntrain = "train.csv"\ndev = "dev.csv"\ntest = "test.csv"\n[columns]\ntext = "sentence"\n'
        '[[patterns]]\ntext = "{sentence} it was {mask}"\n[verbalizer]\nneg = ["bad"]\npos = ["good"]\n',
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def lmtailor(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command in this process."""

    def command(*words: object) -> Outcome:
        capsys.readouterr()
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return Outcome(code=code, out=out, err=err)

    return command
