"""Comparisons on tasks whose answers are texts, end to end on tiny models, and what is made of them."""

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lmtailor.compare import answers_file
from lmtailor.compare.answers import Texts, answers_of
from lmtailor.compare.answers_file import LARGEST, TEXTS, read_answers, write_answers
from lmtailor.compare.cell import Job, Outcome, run_cell
from lmtailor.compare.compare import Comparison, compare, open_comparison
from lmtailor.compare.default_plan import default_plan
from lmtailor.compare.plan import Budget, Cell, Plan
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.compare.report.answers import confusion
from lmtailor.compare.report.examples import EACH, text_examples
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.fit.training import Training
from lmtailor.infer.decoding import Decoding
from lmtailor.methods.lora import LoRA
from lmtailor.methods.prefix import Prefix
from lmtailor.readouts.conversation import Chat
from lmtailor.readouts.span import Span
from lmtailor.readouts.tagging import Tags
from lmtailor.readouts.text import Text
from lmtailor.tasks.conversations import conversation_task
from lmtailor.tasks.metrics.text.evaluate import evaluate_texts, paired_text_difference
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

SHORT = Training(epochs=2, batch_size=4, lr=5e-3)
READOUT = Text("about {about}")


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    things = ("movie", "book", "dog", "cat", "review")
    words = ("good", "bad", "boring", "happy", "sad", "great", "awful")
    return [
        {
            "about": f"a {words[number % 7]} {things[number % 5]}",
            "said": [f"the {things[number % 5]} was {words[number % 7]}", f"a {words[number % 7]} {things[number % 5]} it was"],
        }
        for number in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.from_records(
        train=rows(12),
        dev=rows(4, 12),
        test=rows(9, 16),
        ood={"other": rows(5, 25)},
        kind="generation",
        text="about",
        label="said",
        metrics=["rouge_l", "bleu"],
        name="things",
    )


PLAN = Plan(
    cells=(
        Cell(name="LoRA", readout=READOUT, method=LoRA(rank=2), training=SHORT, seeds=(0, 1)),
        Cell(name="<i>prefix</i>", readout=READOUT, method=Prefix(length=2), training=SHORT, seeds=(0, 1)),
        Cell(name="zero-shot", readout=READOUT, seeds=(0, 1)),
    ),
    decoding=Decoding(max_new_tokens=6),
    batch_size=4,
)


def run(task: Task, out: Path, plan: Plan = PLAN, runner: object = run_cell) -> Comparison:
    console = Console(file=io.StringIO(), width=100)
    return compare(tiny_base("llama"), task, plan=plan, out=out, console=console, runner=runner)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return run(task, tmp_path_factory.mktemp("texts") / "out")


def texts_of(comparison: Comparison, cell: str, split: str = "test") -> list[Texts]:
    found = [run.answers[split] for run in comparison.runs if run.record.cell == cell]
    return [one for one in found if isinstance(one, Texts)]


def test_all_cells_run_and_are_measured_as_texts(done: Comparison, task: Task) -> None:
    assert not done.leaderboard.failures
    assert {row.cell: len(row.seeds) for row in done.leaderboard.rows} == {
        "LoRA": 2,
        "<i>prefix</i>": 2,
        "zero-shot": 1,
        "most typical text": 1,
    }
    row = done.leaderboard.row("LoRA")
    own = texts_of(done, "LoRA")
    values = [evaluate_texts(["rouge_l"], one.predicted, task.split("test").references)["rouge_l"].value for one in own]
    assert row.by_seed == pytest.approx(values)
    assert row.score.value == pytest.approx(sum(values) / 2)
    assert row.score.low <= row.score.value <= row.score.high
    assert {split: set(scores) for split, scores in row.scores.items()} == {
        "test": {"rouge_l", "bleu"},
        "other": {"rouge_l", "bleu"},
    }
    assert [one.asked[0] for one in own] == [task.split("test").examples[0].fields["about"]] * 2


def test_tests_between_cells_are_those_of_texts(done: Comparison, task: Task) -> None:
    best = done.leaderboard.best
    assert best is not None
    other = next(row for row in done.leaderboard.rows if row.to_best is not None)
    a, b = ([one.predicted for one in texts_of(done, cell)] for cell in (other.cell, best.cell))
    expected = paired_text_difference("rouge_l", a, b, task.split("test").references)
    assert other.to_best == expected


def test_the_baseline_writes_a_reference_of_train(done: Comparison, task: Task) -> None:
    (own,) = texts_of(done, "most typical text")
    assert len(set(own.predicted)) == 1
    assert own.predicted[0] in {text for texts in task.split("train").references for text in texts}
    note = next(run.record.notes for run in done.runs if run.record.cell == "most typical text")
    assert own.predicted[0] in note[0]


def test_curves_are_of_perplexity_on_dev_and_commands_take_the_lowest(done: Comparison) -> None:
    records = [run.record for run in done.runs if run.record.cell == "LoRA"]
    assert all(point.score is not None and point.score > 1 for record in records for point in record.history)
    assert set(records[0].scores["dev"]) == {"perplexity"}
    chosen = done.commands("LoRA")
    assert chosen is not None
    best = min(records, key=lambda record: record.scores["dev"]["perplexity"].value)
    assert chosen.seed == best.seed


def test_commands_write_as_the_comparison_did(done: Comparison) -> None:
    chosen = done.commands("LoRA")
    assert chosen is not None
    assert [line.partition("seed-")[2][2:] for line in chosen.lines] == [
        "adapter 'your text' --max-new-tokens 6",
        "adapter --max-new-tokens 6 < texts.txt > answers.jsonl",
    ]
    assert "decoding=Decoding(max_new_tokens=6)" in chosen.python
    drawn = {"max_new_tokens": 64, "temperature": 0.7, "stop": ["\n", "- b"]}
    runs = [replace(run, record=replace(run.record, settings={**run.record.settings, "decoding": drawn})) for run in done.runs]
    told = replace(done, runs=tuple(runs)).commands("LoRA")
    assert told is not None
    assert shlex.split(told.lines[0])[5:] == ["--temperature", "0.7", "--stop", "\n", "--stop", "- b"]
    assert "\nfrom lmtailor.infer.decoding import Decoding\n" in told.python
    assert "decoding=Decoding(temperature=0.7, stop=('\\n', '- b'))" in told.python


def test_a_comparison_that_was_killed_goes_on_to_the_same(done: Comparison, task: Task, tmp_path: Path) -> None:
    begun: list[str] = []

    def dies(job: Job) -> Outcome:
        begun.append(job.cell.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return run_cell(job)

    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path / "out", runner=dies)
    second = run(task, tmp_path / "out")
    for cell in ("LoRA", "<i>prefix</i>", "zero-shot", "most typical text"):
        assert [one.predicted for one in texts_of(second, cell)] == [one.predicted for one in texts_of(done, cell)]
    assert [(row.cell, row.score) for row in second.leaderboard.rows] == [(row.cell, row.score) for row in done.leaderboard.rows]


def test_what_is_kept_makes_the_same_report(done: Comparison, tmp_path: Path) -> None:
    again = open_comparison(done.folder)
    assert again.leaderboard == done.leaderboard
    page, other = (one.to_html(tmp_path / f"{number}.html").read_text() for number, one in enumerate((done, again)))
    assert page == other
    assert '<section id="examples">' in page
    assert "<i>prefix" not in page
    assert "&lt;i&gt;prefix&lt;/i&gt;" in page
    assert "most typical text" in page
    assert "Perplexity on dev against seconds" in page


def test_changed_decoding_runs_again_and_is_in_the_settings(done: Comparison, task: Task) -> None:
    begun: list[str] = []

    def notes(job: Job) -> Outcome:
        begun.append(job.cell.name)
        return run_cell(job)

    run(task, done.folder, runner=notes)
    assert not begun
    record = next(run.record for run in done.runs)
    assert record.settings["decoding"]["max_new_tokens"] == 6
    assert len(texts_of(done, "zero-shot")[0].predicted[0].split()) <= 6


def test_examples_go_from_the_worst_to_the_best(done: Comparison) -> None:
    found = text_examples(done.leaderboard, done.runs, "LoRA")
    assert found is not None
    assert len(found.lines) == 3 * EACH
    values = [next(float(one.score) for one in line.said if one.cell == "LoRA") for line in found.lines]
    assert values == sorted(values)
    assert found.lines[0].said[-1].cell == "most typical text", "the baseline comes last"
    assert {len(line.references) + line.more for line in found.lines} == {2}


def test_texts_with_markup_are_escaped(done: Comparison, tmp_path: Path) -> None:
    nasty = '<script>alert(1)</script> & "quotes" \''
    runs = tuple(
        replace(run, answers={split: _saying(one, nasty) for split, one in run.answers.items() if isinstance(one, Texts)})
        for run in done.runs
    )
    page = replace(done, runs=runs).to_html(tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page


def _saying(one: Texts, text: str) -> Texts:
    return Texts(asked=(text,) * len(one.asked), predicted=(text,) * len(one.asked), reference=((text,),) * len(one.asked))


def test_sizes_are_drawn_without_labels(task: Task, tmp_path: Path) -> None:
    plan = replace(PLAN, cells=tuple(replace(PLAN.cells[0], name=f"LoRA {n}", examples=n, seeds=(0,)) for n in (3, 6)))
    comparison = run(task, tmp_path / "out", plan)
    assert not comparison.leaderboard.failures


def test_seeds_with_dev_sets_of_their_own_are_measured_on_their_own_references(tmp_path: Path) -> None:
    few = Task.from_records(train=rows(24), kind="generation", text="about", label="said", metrics=["rouge_l"])
    plan = replace(PLAN, cells=(PLAN.cells[0],), budget=Budget(shots=3))
    comparison = run(few, tmp_path / "out", plan)
    own = texts_of(comparison, "LoRA", "dev")
    assert len(own) == 2
    assert own[0].reference != own[1].reference
    values = [evaluate_texts(["rouge_l"], one.predicted, one.reference)["rouge_l"].value for one in own]
    row = comparison.leaderboard.row("LoRA")
    assert row.score.value == pytest.approx(sum(values) / 2)
    assert (row.score.n, row.to_baseline is not None) == (3, True)


def test_a_plan_says_how_text_is_written() -> None:
    cells = [{"readout": {"name": "text", "pattern": "{about}", "target": " {said}"}, "method": "lora"}]
    plan = plan_from_mapping({"decoding": {"max_new_tokens": 9, "beams": 2}, "cells": cells})
    assert plan.decoding == Decoding(max_new_tokens=9, beams=2)
    assert plan.cells[0].readout == Text("{about}", target=" {said}")
    with pytest.raises(InputError, match=r"decoding\.beam\b"):
        plan_from_mapping({"decoding": {"beam": 2}, "cells": cells})
    with pytest.raises(InputError, match="Give a temperature above 0"):
        plan_from_mapping({"decoding": {"top_k": 2}, "cells": cells})


def test_decoding_where_nothing_is_written_is_refused(tmp_path: Path) -> None:
    labelled = Task.from_records(
        train=[{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], dev=[{"text": "c", "label": "x"}], text="text"
    )
    with pytest.raises(InputError, match="says how text is written"):
        run(labelled, tmp_path / "out", Plan(cells=(Cell(name="probe"),), decoding=Decoding()))


def test_perplexity_does_not_rank(task: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="measures what routes answer"):
        run(task, tmp_path / "out", replace(PLAN, metrics=("perplexity",)))


def test_without_a_plan_prompts_and_three_methods_write(task: Task) -> None:
    plan = default_plan(tiny_base("gpt2"), task, name="tiny")
    assert [cell.name for cell in plan.cells] == ["zero-shot", "LoRA", "prefix", "top layers"]
    assert plan.cells[0].readout == Text("{about}\n")
    with pytest.raises(UnsupportedError, match="fills gaps"):
        default_plan(tiny_base("bert"), task, name="tiny")


def test_without_a_plan_a_card_s_target_is_written_and_conversations_are_turns(task: Task) -> None:
    proposed = replace(task, prompts=(Prompt(name="said", pattern="{about}:", target=" {said}."),))
    plan = default_plan(tiny_base("gpt2"), proposed, name="tiny")
    assert {cell.readout for cell in plan.cells} == {Text("{about}:", target=" {said}.")}
    talks = conversation_task(train=[{"instruction": "Say a.", "output": "a"}, {"instruction": "Say b.", "output": "b"}])
    assert {cell.readout for cell in default_plan(tiny_base("gpt2"), talks, name="tiny").cells} == {Chat()}


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b'{"test": 3}',
        b'{"test": {"asked": ["a"], "predicted": ["b"]}}',
        b'{"test": {"asked": ["a"], "predicted": ["b", "c"], "reference": [["d"]]}}',
        b'{"test": {"asked": ["a"], "predicted": [1], "reference": [["d"]]}}',
        b'{"test": {"asked": ["a"], "predicted": ["b"], "reference": ["d"]}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_of_texts_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / TEXTS).write_bytes(content)
    assert read_answers(tmp_path) is None


def test_texts_are_kept_whole_half_surrogates_too(tmp_path: Path) -> None:
    one = Texts(asked=("é\ud800",), predicted=("line\nbreak",), reference=(("a", "b"),))
    write_answers(tmp_path, {"test": one})
    assert json.loads((tmp_path / TEXTS).read_bytes())["test"]["reference"] == [["a", "b"]]
    found = read_answers(tmp_path)
    assert found is not None
    kept = found["test"]
    assert isinstance(kept, Texts)
    assert (kept.asked, kept.predicted, kept.reference) == (one.asked, one.predicted, one.reference)


def test_texts_that_are_too_large_are_refused(tmp_path: Path) -> None:
    text = "x" * 2**20
    many = LARGEST // 2**20 + 1
    with pytest.raises(InputError, match="256 are kept at most"):
        write_answers(tmp_path, {"test": Texts(asked=("",) * many, predicted=(text,) * many, reference=(("a",),) * many)})
    with (tmp_path / TEXTS).open("wb") as file:
        file.truncate(LARGEST + 1)
    assert read_answers(tmp_path) is None


def test_texts_that_are_too_large_fail_their_own_run_alone(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(job: Job) -> Outcome:
        text = "x" * (2**20 if job.cell.name == "LoRA" else 2)
        return Outcome(answers={split: answers_of(task, split, [text] * len(task.split(split))) for split in job.splits})

    monkeypatch.setattr(answers_file, "LARGEST", 2**20)
    done = run(task, tmp_path / "out", runner=answers)
    assert {run.record.cell for run in done.runs if run.record.status == "failed"} == {"LoRA"}
    assert "are kept at most" in (done.leaderboard.failures[0].reason or "")
    assert {row.cell for row in open_comparison(tmp_path / "out").leaderboard.rows} == {row.cell for row in done.leaderboard.rows}


def tagged(count: int, start: int = 0) -> list[dict[str, object]]:
    things = {"movie": "N", "book": "N", "dog": "N", "was": "V", "is": "V", "good": "A", "bad": "A", "the": "D"}
    texts = [
        f"the {('movie', 'book', 'dog')[i % 3]} {('was', 'is')[i % 2]} {('good', 'bad')[i // 3 % 2]}"
        for i in range(start, start + count)
    ]
    return [{"words": text, "tags": " ".join(things[word] for word in text.split(" "))} for text in texts]


TAGGED = Plan(
    cells=(
        Cell(name="probe", readout=Tags(), training=SHORT, seeds=(0, 1)),
        Cell(name="LoRA", readout=Tags(), method=LoRA(rank=2), training=SHORT, seeds=(0, 1)),
    ),
    batch_size=4,
)


@pytest.fixture(scope="module")
def tags_done(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    task = Task.from_records(
        train=tagged(12),
        dev=tagged(6, 3),
        test=[*tagged(8, 5), {"words": "you sat", "tags": "D V"}],
        kind="labelling",
        text="words",
        label="tags",
        metrics=["tag_accuracy"],
        name="parts",
    )
    console = Console(file=io.StringIO(), width=100)
    out = tmp_path_factory.mktemp("tags") / "out"
    return compare(tiny_base("bert"), task, plan=TAGGED, out=out, console=console)


def test_tags_are_compared_with_the_most_frequent_ones(tags_done: Comparison) -> None:
    assert not tags_done.leaderboard.failures
    (own,) = texts_of(tags_done, "most frequent tags")
    assert own.predicted[0] == own.reference[0][0], "every word of these is in train with one tag"
    assert own.predicted[-1] in {"A A", "N N", "V V", "D D"}, "unseen words get the one tag that is most frequent"
    assert tags_done.leaderboard.row("most frequent tags").score.value > 0.9


def test_confusions_of_tags_count_words(tags_done: Comparison, tmp_path: Path) -> None:
    found = confusion(tags_done.leaderboard, tags_done.runs, "LoRA")
    own = texts_of(tags_done, "LoRA")[0]
    assert sum(line.n for line in found.lines) == sum(len(reference[0].split()) for reference in own.reference)
    page = tags_done.to_html(tmp_path / "page.html").read_text()
    assert "Rows are true tags" in page
    assert 'class="word"' in page
    assert "giving each word its most frequent tag" in page


def spanned(count: int, start: int = 0) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for i in range(start, start + count):
        thing = ("movie", "book", "dog", "cat", "review")[i % 5]
        context = f"it was a {('good', 'bad', 'great')[i % 3]} {thing} and i love you"
        answers = {"text": [thing], "answer_start": [context.index(thing)]}
        found.append({"question": "is it?", "context": context, "answers": answers})
    return found


def test_spans_are_compared_with_the_whole_text(tmp_path: Path) -> None:
    task = Task.from_records(
        train=spanned(12),
        dev=spanned(4, 12),
        test=spanned(8, 16),
        kind="span",
        text=["question", "context"],
        label="answers",
        name="parts",
    )
    plan = Plan(
        cells=(
            Cell(name="head alone", readout=Span(), training=SHORT, seeds=(0,)),
            Cell(name="LoRA", readout=Span(), method=LoRA(rank=2), training=SHORT, seeds=(0, 1)),
        )
    )
    done = compare(tiny_base("bert"), task, plan=plan, out=tmp_path / "out", console=Console(file=io.StringIO(), width=100))
    assert not done.leaderboard.failures
    (own,) = texts_of(done, "whole text")
    assert own.predicted[0] == task.split("test").examples[0].fields["context"]
    assert own.asked[0].startswith("question: is it?\ncontext: ")
    row = done.leaderboard.row("LoRA")
    assert 0 <= row.score.value <= 1
    assert "answering with the whole text" in done.to_html(tmp_path / "page.html").read_text()


@pytest.mark.parametrize(("kind", "rows_of", "text", "label"), [("labelling", tagged, "words", "tags")])
def test_without_a_plan_tags_are_read_by_every_method(kind: Any, rows_of: Any, text: str, label: str) -> None:
    task = Task.from_records(train=rows_of(6), dev=rows_of(3), kind=kind, text=text, label=label)
    plan = default_plan(tiny_base("bert"), task, name="tiny")
    assert len(plan.cells) > 8
    assert all(isinstance(cell.readout, Tags) for cell in plan.cells)


def test_a_metric_that_cannot_be_measured_is_told_before_anything_is_fitted(tmp_path: Path) -> None:
    task = Task.from_records(
        train=tagged(6), dev=tagged(3), kind="labelling", text="words", label="tags", metrics=["tag_accuracy", "span_f1"]
    )

    def never(job: Job) -> Outcome:
        raise AssertionError(job.cell.name)

    with pytest.raises(InputError, match="Spans are read from tags such as"):
        compare(
            tiny_base("bert"),
            task,
            plan=TAGGED,
            out=tmp_path / "out",
            console=Console(file=io.StringIO()),
            runner=never,
        )


def test_a_run_whose_answers_cannot_be_measured_stops_no_other(task: Task, tmp_path: Path) -> None:
    def empties(job: Job) -> Outcome:
        done = run_cell(job)
        if job.cell.name != "LoRA" or job.seed != 0:
            return done
        one = done.answers["test"]
        assert isinstance(one, Texts)
        return replace(done, answers={**done.answers, "test": replace(one, reference=((),) * len(one.asked))})

    comparison = run(task, tmp_path / "out", runner=empties)
    assert [(record.cell, record.seed) for record in comparison.leaderboard.failures] == [("LoRA", 0)]
    assert "has no reference" in (comparison.leaderboard.failures[0].reason or "")
    assert comparison.leaderboard.row("LoRA").seeds == (1,)
