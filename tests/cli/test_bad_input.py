"""Bad input ends in one clear line and exit code 2, and nothing half-written."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from lmtailor.base.load import load_base
from lmtailor.methods.houlsby import Houlsby
from lmtailor.readouts.head import Head
from lmtailor.store import whole_folder
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import save_adapter
from tests.cli.inputs import ROWS, Command, Outcome, fit_words, write_csv
from tests.readouts.examples import sentiment_task


def _refused(outcome: Outcome, *told: str) -> str:
    """The one line of a command that was refused."""
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    (line,) = outcome.errors
    assert outcome.err.splitlines()[-1] == line
    for text in told:
        assert text in line, line
    return line


def _nothing_written(tmp_path: Path) -> None:
    """No adapter, no part of one, no temporary file."""
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*") if path.suffix in (".part", ".old")] == []


def _missing(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _only_a_header(path: Path) -> None:
    path.write_text("sentence,label\n", encoding="utf-8")


def _not_utf8(path: Path) -> None:
    path.write_bytes("sentence,label\ncaf\u00e9,pos\n".encode("latin-1"))


def _ragged(path: Path) -> None:
    path.write_text("sentence,label\ngood,pos\nbad, really bad,neg\n", encoding="utf-8")


def _empty_text(path: Path) -> None:
    write_csv(path, ("sentence", "label"), [("good", "pos"), ("  ", "neg"), ("bad", "neg")])


def _no_label(path: Path) -> None:
    write_csv(path, ("sentence", "label"), [("good", "pos"), ("bad", ""), ("sad", "neg")])


def _other_columns(path: Path) -> None:
    write_csv(path, ("sentences", "labels"), ROWS["train"])


BROKEN: list[tuple[Callable[[Path], None], tuple[str, ...]]] = [
    (_missing, ("train.csv", "no such file")),
    (_empty, ("train.csv is empty",)),
    (_only_a_header, ("train.csv", "no rows")),
    (_not_utf8, ("train.csv is not utf-8", "line 2", "latin-1")),
    (_ragged, ("train.csv", "line 3 has 3 fields")),
    (_empty_text, ("train.csv", "1 of 3 rows", "line 3")),
    (_no_label, ("train.csv", "1 of 3 rows have no label", "line 3")),
    (_other_columns, ("no column 'sentence'", "Did you mean sentences?")),
]


@pytest.mark.parametrize(("damage", "told"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_files(
    lmtailor: Command, data: Path, tmp_path: Path, damage: Callable[[Path], None], told: tuple[str, ...]
) -> None:
    damage(data / "train.csv")
    _refused(lmtailor(*fit_words(Path("nobase"), data, tmp_path / "out")), *told)
    _nothing_written(tmp_path)


def test_an_encoding_that_is_named_is_read(lmtailor: Command, encoder: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.csv"
    train.write_bytes("sentence;label\ncaf\u00e9;pos\nbad;neg\n".encode("latin-1"))
    words = ("--train", train, "--text", "sentence", "--encoding", "latin-1", "--delimiter", ";", "--method", "frozen")
    outcome = lmtailor("fit", encoder, *words, "--epochs", 1, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("split", ["dev", "test"])
def test_labels_that_train_lacks(lmtailor: Command, data: Path, tmp_path: Path, split: str) -> None:
    write_csv(data / f"{split}.csv", ("sentence", "label"), [*ROWS[split], ("so so", "mixed")])
    _refused(lmtailor(*fit_words(Path("nobase"), data, tmp_path / "out")), f"{split}.csv", "'mixed' (1 row)", "neg, pos")
    _nothing_written(tmp_path)


def test_one_class_only(lmtailor: Command, data: Path, tmp_path: Path) -> None:
    write_csv(data / "train.csv", ("sentence", "label"), [(text, "pos") for text, _ in ROWS["train"]])
    _refused(lmtailor(*fit_words(Path("nobase"), data, tmp_path / "out")), "All 24 examples", "'pos'", "nothing can be learned")


def test_the_same_text_in_train_and_test_is_a_loud_warning(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    write_csv(data / "test.csv", ("sentence", "label"), [*ROWS["test"], *ROWS["train"][:3]])
    outcome = lmtailor(*fit_words(encoder, data, tmp_path / "out", method="frozen"))
    assert outcome.code == 0, outcome.err
    (line,) = outcome.warnings
    assert "test: 3 of 11 examples have a text that is also in train" in line


def test_cut_texts_are_counted(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    write_csv(data / "test.csv", ("sentence", "label"), [*ROWS["test"], ("good " * 300, "pos"), ("bad " * 300, "neg")])
    words = fit_words(encoder, data, tmp_path / "out", "--set", "max_length=126", method="frozen")
    outcome = lmtailor(*words)
    assert outcome.code == 0, outcome.err
    (line,) = outcome.warnings
    assert "test: 2 of 10 examples are longer than the model takes" in line
    assert line.endswith(f"first example 'test/8' ({data / 'test.csv'}, line 10).")
    scored = lmtailor("eval", encoder, tmp_path / "out", "--task", data / "card.toml")
    assert "test: 2 of 10 examples" in scored.warnings[0]
    answered = lmtailor("predict", encoder, tmp_path / "out", "good " * 300, "bad")
    assert "input: 1 of 2 examples" in answered.warnings[0]
    assert answered.warnings[0].endswith("first input 1.")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "lorra"], ("no method 'lorra'", "Did you mean lora")),
        (["--readout", "heads"], ("no readout 'heads'", "Did you mean head?")),
        (["--set", "rnak=3"], ("no setting rnak", "rank")),
        (["--set", "method.rnak=3"], ("no setting method.rnak", "method.rank")),
        (["--set", "rank"], ("Cannot read the setting 'rank'",)),
        (["--set", "rank=many"], ("method.rank must be an integer", "many")),
        (["--set", "rank=0"], ("rank is 0",)),
        (["--set", "dropout=0.1"], ("dropout is ambiguous", "method.dropout", "readout.dropout")),
        (["--set", "training.epochs=2"], ("training.epochs is given twice", "--epochs")),
        (["--set", "training.schedule=lineal"], ("training.schedule must be one of linear", "Did you mean linear?")),
        (["--set", "task.limits.trian=5"], ("trian",)),
        (["--lr", "-1"], ("training.lr is -1",)),
        (["--train", "a.csv"], ("--train and --task are both given",)),
        (["--pattern", "{sentence} {mask}"], ("--readout verbalizer",)),
        (["--readout", "verbalizer", "--word", "pos"], ("Cannot read --word 'pos'",)),
        (["--readout", "verbalizer", "--word", "pos=good"], ("neg",)),
        (["--readout", "verbalizer", "--pattern", "{sentense} {mask}"], ("sentense",)),
        (["--set", "at=block.*.attn.{qq}"], ("block.*.attn.{qq}", "selects no site")),
        (["--set", "at=blok.*.attn.q"], ("Did you mean block.*.attn.q",)),
        (["--dtype", "float23"], ("no dtype 'float23'", "float32")),
        (["--device", "cuda:9"], ("cuda:9",)),
        (["--threads", "0"], ("--threads", "Must be > 0")),
        (["--batch-size", "0"], ("training.batch_size is 0",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_names_and_values(
    lmtailor: Command, decoder: Path, data: Path, tmp_path: Path, words: list[str], told: tuple[str, ...]
) -> None:
    given = fit_words(decoder, data, tmp_path / "out")
    if words[0] in given:
        place = given.index(words[0])
        del given[place : place + 2]
    _refused(lmtailor(*given, *words), *told)
    _nothing_written(tmp_path)


def test_an_unknown_metric(lmtailor: Command, data: Path) -> None:
    words = ("--train", data / "train.csv", "--text", "sentence", "--method", "lora")
    _refused(lmtailor("fit", "nobase", *words, "--metric", "acuracy"), "no metric 'acuracy'", "Did you mean accuracy?")
    _refused(lmtailor("fit", "nobase", *words, "--metric", "pearson"), "pearson is for regression")


def test_no_data_or_no_column(lmtailor: Command, data: Path) -> None:
    _refused(lmtailor("fit", "nobase", "--method", "lora"), "--task card.toml", "--train")
    _refused(lmtailor("fit", "nobase", "--method", "lora", "--train", data / "train.csv"), "--text COLUMN")
    words = ("--train", data / "train.csv", "--text", "sentense")
    _refused(lmtailor("fit", "nobase", "--method", "lora", *words), "no column 'sentense'", "Did you mean sentence?")
    _refused(lmtailor("fit", "nobase", "--method", "lora", *words, "--set", "task.seed=1"), "there is none")


def test_a_card_that_is_none(lmtailor: Command, data: Path, tmp_path: Path) -> None:
    (data / "card.toml").write_text("text = [", encoding="utf-8")
    _refused(lmtailor(*fit_words(Path("nobase"), data, tmp_path / "out")), "card.toml is no TOML")


def test_a_base_that_is_none(lmtailor: Command, data: Path, tmp_path: Path) -> None:
    _refused(lmtailor(*fit_words(tmp_path / "models" / "none", data, tmp_path / "out")), "no file or folder")
    (tmp_path / "empty").mkdir()
    _refused(lmtailor(*fit_words(tmp_path / "empty", data, tmp_path / "out")), "empty")


def test_out_that_is_a_file(lmtailor: Command, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    _refused(lmtailor(*fit_words(Path("nobase"), data, tmp_path / "out")), "out is a file")
    assert (tmp_path / "out").read_text("utf-8") == "mine"


def test_a_loss_that_is_not_a_number(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    words = fit_words(encoder, data, tmp_path / "out", "--lr", "1e30", "--set", "checkpoint_every=1", method="full")
    line = _refused(lmtailor(*words), "at step", "lower learning rate")
    assert re.search(r"The loss is (nan|inf) at step \d of 3", line)
    _nothing_written(tmp_path)
    assert (tmp_path / ".out.checkpoint" / "state.safetensors").exists()


def _full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_disk_space_for_a_checkpoint(
    lmtailor: Command, encoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _full_disk)
    _refused(lmtailor(*fit_words(encoder, data, tmp_path / "out")), "No space left on the disk", "free some space")
    _nothing_written(tmp_path)


def test_no_disk_space_for_the_adapter(
    lmtailor: Command, encoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_folder, "_sync", _full_disk)
    words = fit_words(encoder, data, tmp_path / "out")
    _refused(lmtailor(*words), "No space left on the disk", str(tmp_path / "out"))
    _nothing_written(tmp_path)
    monkeypatch.undo()
    again = lmtailor(*words)
    assert again.code == 0, again.err
    assert "resumed at step 3" in again.err  # what was trained is not lost


@pytest.fixture(scope="module")
def fitted(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter in our own form."""
    folder = tmp_path_factory.mktemp("fitted") / "adapter"
    base = load_base(encoder)
    save_adapter(new_adapter(base, method=Houlsby(bottleneck=2), readout=Head(), task=sentiment_task()), folder)
    return folder


def _corrupt(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[-3] ^= 0xFF
    path.write_bytes(bytes(text))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _oversized(path: Path) -> None:
    with path.open("ab") as stream:
        stream.truncate(1 << 40)  # a sparse file


def _of_other_shape(path: Path) -> None:
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name][..., :1].copy()}, path)


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_corrupt, _truncated, _oversized, _of_other_shape, _gone])
@pytest.mark.parametrize("verb", ["predict", "inspect"])
def test_a_damaged_adapter(
    lmtailor: Command, encoder: Path, fitted: Path, tmp_path: Path, verb: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in fitted.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder / "adapter.safetensors")
    words = (verb, encoder, folder, "a text") if verb == "predict" else (verb, folder)
    _refused(lmtailor(*words), "adapter.safetensors")


def test_a_damaged_manifest(lmtailor: Command, encoder: Path, fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    manifest = json.loads((fitted / "adapter.json").read_text("utf-8"))
    place = tmp_path / "adapter" / "adapter.json"
    for text, told in (
        ("{", "not the JSON"),
        (json.dumps({**manifest, "sizes": 3}), "'sizes' is no key"),
        (json.dumps({**manifest, "format": 99}), "newer version"),
    ):
        place.write_text(text, encoding="utf-8")
        for words in (("predict", encoder, tmp_path / "adapter", "a text"), ("inspect", tmp_path / "adapter")):
            _refused(lmtailor(*words), told)


def test_an_adapter_that_is_not_there_or_of_another_base(lmtailor: Command, encoder: Path, decoder: Path, fitted: Path) -> None:
    _refused(lmtailor("predict", encoder, f"{fitted}s", "a text"), "Did you mean", str(fitted))
    _refused(lmtailor("predict", encoder, encoder, "a text"), "is a model, not an adapter")
    _refused(lmtailor("predict", decoder, fitted, "a text"), "was made for", "--any-base")
