"""Tasks whose answers are texts, from the command line: fit, eval, predict, generate and compare."""

import io
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmtailor.base.load import load_base
from lmtailor.infer.predict import predict
from lmtailor.store.folder import load_adapter
from tests.cli.inputs import Command, Outcome, write_csv

SHORT = ("--epochs", 1, "--batch-size", 4)
THINGS = ("movie", "book", "dog", "cat", "review")
WORDS = ("good", "bad", "boring", "happy", "sad", "great", "awful")


def _rows(count: int, start: int) -> list[tuple[str, str]]:
    return [(f"a {WORDS[i % 7]} {THINGS[i % 5]}", f"the {THINGS[i % 5]} was {WORDS[i % 7]}") for i in range(start, start + count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    for split, count, start in (("train", 12, 0), ("dev", 4, 12), ("test", 6, 16)):
        write_csv(folder / f"{split}.csv", ("about", "said"), _rows(count, start))
    (folder / "card.toml").write_text(
        'kind = "generation"\nname = "things"\nmetrics = ["rouge_l", "perplexity"]\n'
        '[files]\ntrain = "train.csv"\ndev = "dev.csv"\ntest = "test.csv"\n'
        '[columns]\ntext = "about"\nlabel = "said"\n[[patterns]]\nname = "about"\ntext = "about {about}"\n',
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def adapter(lmtailor: Command, decoder: Path, files: Path) -> Path:
    out = files / "adapter"
    done = lmtailor("fit", decoder, "--task", files / "card.toml", "--method", "lora", *SHORT, "--out", out)
    assert done.code == 0, done.err
    return out


def _lines(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def _files_of(folder: Path) -> Sequence[object]:
    return ("--train", folder / "train.csv", "--dev", folder / "dev.csv", "--text", "about", "--label", "said")


def test_fit_takes_pattern_and_target(lmtailor: Command, decoder: Path, files: Path, tmp_path: Path) -> None:
    words = ("fit", decoder, *_files_of(files), "--kind", "generation", "--method", "lora", *SHORT, "--out", tmp_path / "out")
    done = lmtailor(*words, "--readout", "text", "--pattern", "about {about}:", "--target", "\n {said}")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "out" / "adapter.json").read_text())
    assert "about {about}:" in json.dumps(manifest)
    assert "\\n {said}" in json.dumps(manifest)
    done = lmtailor(*words, "--overwrite", "--set", "pattern=about {about}:", "--set", 'readout.target="\\n {said}"')
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "adapter.json").read_text())["readout"] == manifest["readout"]
    assert "perplexity" in done.out


def test_without_a_pattern_it_says_what_is_missing(lmtailor: Command, decoder: Path, files: Path, tmp_path: Path) -> None:
    words = ("fit", decoder, *_files_of(files), "--kind", "generation", "--method", "lora", *SHORT, "--out", tmp_path / "out")
    done = lmtailor(*words)
    assert done.code == 2
    assert "pattern" in done.errors[0]
    done = lmtailor(*words, "--set", "readout.pattern=about {about}", "--word", "a=b")
    assert "--word is for --readout verbalizer" in done.errors[0]
    done = lmtailor(*words, "--readout", "chat", "--target", "{said}")
    assert "--target is for --readout text" in done.errors[0]
    done = lmtailor(*words, "--readout", "head", "--pattern", "about {about}")
    assert "for --readout verbalizer, text" in done.errors[0]


def test_eval_measures_what_is_written_and_how_probable_the_references_are(
    lmtailor: Command, decoder: Path, files: Path, adapter: Path
) -> None:
    words = ("eval", decoder, adapter, "--task", files / "card.toml", "--json")
    plain = json.loads(lmtailor(*words).out)["scores"]["test"]
    assert list(plain) == ["rouge_l", "perplexity"]
    assert plain["perplexity"]["value"] > 1
    short = json.loads(lmtailor(*words, "--max-new-tokens", 1).out)["scores"]["test"]
    assert short["perplexity"] == plain["perplexity"]
    assert short["rouge_l"] != plain["rouge_l"]
    only = lmtailor(*words, "--set", 'task.metrics=["perplexity"]')
    assert list(json.loads(only.out)["scores"]["test"]) == ["perplexity"]
    refused = lmtailor(*words, "--set", 'task.metrics=["perplexity"]', "--beams", 2)
    assert (refused.code, "says how text is written" in refused.errors[0]) == (2, True)
    assert lmtailor("eval", decoder, "--task", files / "card.toml", "--beams", 2, "--max-new-tokens", 4).code == 0


def test_predict_writes(lmtailor: Command, decoder: Path, adapter: Path) -> None:
    base = load_base(decoder)
    expected = predict(base, load_adapter(adapter, base), ["a good movie", "so"])
    found = _lines(lmtailor("predict", decoder, adapter, "a good movie", "so"))
    assert found == [{"id": number, "text": one.text} for number, one in enumerate(expected, start=1)]
    short = _lines(lmtailor("predict", decoder, adapter, "a good movie", "--max-new-tokens", 2))
    assert len(short[0]["text"]) < len(found[0]["text"])


def test_inputs_of_later_chunks_have_draws_of_their_own(
    lmtailor: Command, decoder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("predict", decoder, adapter, "so", "so", "so", "--temperature", 2, "--max-new-tokens", 6)
    whole = _lines(lmtailor(*words))
    monkeypatch.setattr("lmtailor.cli.predict.CHUNK", 1)
    assert _lines(lmtailor(*words)) == whole
    assert len({line["text"] for line in whole}) == 3


def test_generate_puts_columns_into_the_pattern_and_takes_prompts_as_they_are(
    lmtailor: Command, decoder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"id": "x", "about": "a good movie"}, {"prompt": "about a good movie"}, {"about": "so"}]

    def answered(own: Sequence[object], *words: object) -> Outcome:
        text = "\n".join(json.dumps(record) for record in own)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        return lmtailor("generate", decoder, adapter, "--json", *words)

    found = _lines(answered(records))
    predicted = [line["text"] for line in _lines(lmtailor("predict", decoder, adapter, "a good movie", "so"))]
    assert [line["id"] for line in found] == ["x", 2, 3]
    assert [found[0]["text"], found[2]["text"]] == predicted
    assert found[1]["text"].strip() == predicted[0]
    told = answered(records[:1], "--output", "text")
    assert told.out.strip() == predicted[0]
    both = answered([{"about": "a", "prompt": "b"}])
    assert (both.code, "Leave one out" in both.errors[0]) == (2, True)
    assert '"about" must be a text' in answered([{"about": 3}]).errors[0]
    assert "The adapter reads about." in answered([{"abut": "a"}]).errors[0]


def test_options_of_writing_are_refused_where_nothing_is_written(
    lmtailor: Command, encoder: Path, data: Path, tmp_path: Path
) -> None:
    words = ("--task", data / "card.toml", "--beams", 2)
    for verb in (("eval", "--readout", "verbalizer"), ("fit", "--method", "lora"), ("compare",)):
        done = lmtailor(*verb, encoder, *words, *(() if verb[0] == "eval" else ("--out", tmp_path / "out")))
        assert done.code == 2
        assert "says how text is written" in done.errors[0]
        assert not (tmp_path / "out").exists()


def test_fit_scores_what_is_written_as_asked(lmtailor: Command, decoder: Path, files: Path, tmp_path: Path) -> None:
    writing = ("--beams", 2, "--max-new-tokens", 2, "--stop", "was")
    words = ("--task", files / "card.toml", "--set", "task.metrics=rouge_l")
    done = lmtailor("fit", decoder, *words, "--method", "lora", *SHORT, *writing, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    scores = json.loads(lmtailor("eval", decoder, tmp_path / "out", *words, *writing, "--json").out)["scores"]["test"]
    (told,) = (line.split("\t") for line in done.out.splitlines() if line.startswith("test\t"))
    assert told[2] == f"{scores['rouge_l']['value']:.4f}"
    plain = json.loads(lmtailor("eval", decoder, tmp_path / "out", *words, "--json").out)["scores"]["test"]
    assert plain != scores, "these options make a difference"
    (command,) = (line.strip() for line in done.out.splitlines() if line.strip().startswith("lmtailor predict"))
    assert command.endswith("--max-new-tokens 2 --beams 2 --stop was")
    assert lmtailor(*shlex.split(command)[1:]).code == 0


def test_compare_writes_as_asked_instead_of_as_planned(lmtailor: Command, decoder: Path, files: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('seeds = [0]\n[decoding]\nmax_new_tokens = 9\n[[cells]]\nname = "zero-shot"\n', encoding="utf-8")
    words = ("compare", decoder, "--plan", plan, "--task", files / "card.toml", "--set", "task.metrics=rouge_l")
    done = lmtailor(*words, "--max-new-tokens", 3, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    (file,) = (tmp_path / "out" / "runs").glob("zero-shot*/seed-0/record.json")
    record = json.loads(file.read_text())
    assert record["settings"]["decoding"]["max_new_tokens"] == 3


def test_compare_two_cells_with_two_seeds(lmtailor: Command, decoder: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        f'task = "{files / "card.toml"}"\nmetrics = ["rouge_l", "bleu"]\nseeds = [0, 1]\n[decoding]\nmax_new_tokens = 8\n'
        f'[bases]\ntiny = "{decoder}"\n[readouts]\nabout = {{ name = "text", pattern_name = "about" }}\n'
        "[trainings]\nshort = { epochs = 1, batch_size = 4 }\n"
        '[[cells]]\nreadout = "about"\nmethod = ["lora", "prefix"]\ntraining = "short"\n',
        encoding="utf-8",
    )
    done = lmtailor("compare", tmp_path / "plan.toml", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "most typical text" in done.out
    assert "lmtailor predict" in done.out or "Nothing is significantly better" in done.out
    assert '<section id="examples">' in (tmp_path / "out" / "report.html").read_text()
