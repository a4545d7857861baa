"""Spans: windows, the best legal span, and the scores of transformers' own model with the same weights."""

import copy
from typing import Any

import pytest
import torch
from transformers import BertForQuestionAnswering

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods.frozen import Frozen
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.head import Head
from lmtailor.readouts.span import NEVER, Span, SpanInquiry, SpanReading
from lmtailor.readouts.span_windows import Window
from lmtailor.store.adapter import new_adapter
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from tests.readouts.token_tasks import answered, tagged
from tests.tiny import FAMILIES, tiny_base

QUESTION = "is it the best?"
CONTEXT = "the movie was good. the great cat sat on a zebra, and you love the book"


def example(context: str = CONTEXT, answer: str | None = None, question: str = QUESTION) -> Example:
    known = {} if answer is None else {"references": (answer,), "starts": (context.index(answer),)}
    return Example(id="own", fields={"question": question, "context": context}, **known)  # type: ignore[arg-type]


def bound(family: str = "bert", **settings: Any) -> SpanReading:
    reading = new_adapter(tiny_base(family), method=Frozen(), readout=Span(**settings), task=answered()).reading
    assert isinstance(reading, SpanReading)
    return reading


def inquired(window_scores: list[torch.Tensor], windows: tuple[Window, ...], max_answer: int = 30) -> tuple[str, int | None]:
    found = SpanInquiry(items=(), windows=windows, context=CONTEXT, max_answer=max_answer).finding(window_scores)
    return found.text, found.start


def test_scores_are_those_of_the_familys_model_for_question_answering() -> None:
    base = tiny_base("bert")
    adapter = new_adapter(base, method=Frozen(), readout=Span(), task=answered())
    config: Any = copy.deepcopy(base.trunk.config)
    config.num_labels = 2
    theirs: Any = BertForQuestionAnswering(config).train(False)
    assert not theirs.bert.load_state_dict(base.trunk.state_dict(), strict=False).missing_keys
    adapter = adapter.with_state({"readout.head.weight": theirs.qa_outputs.weight.detach()})
    theirs.qa_outputs.bias.data.zero_()
    reading = adapter.reading
    assert isinstance(reading, SpanReading)
    examples = [example(answer="great cat"), example("a cat. you love it", "love it")]
    items = [item for one in examples for item in reading.items(one)]
    batch = reading.collate(items)
    with torch.no_grad(), attach(base, adapter) as attached:
        scores = attached.scores(0, attached.states(batch.inputs), batch)
        out = theirs(**batch.inputs)
    losses = []
    for row, (item, (first, last)) in enumerate(zip(items, [item.targets[0] for item in items], strict=True)):
        own = list(item.read[0])
        for number, (logits, right) in enumerate(((out.start_logits, first), (out.end_logits, last))):
            torch.testing.assert_close(scores[2 * row + number, : len(own)], logits[row, own], rtol=1e-5, atol=1e-6)
            assert bool((scores[2 * row + number, len(own) :] == NEVER).all())
            losses.append(-logits[row, own].log_softmax(0)[right])
    ours = Supervised().losses(scores, batch.targets_NP[batch.targets_NP >= 0], "span")
    torch.testing.assert_close(ours, torch.stack(losses), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_the_tokens_of_the_answer(family: str) -> None:
    reading = bound(family)
    for answer in ("great cat", "zebra", "good.", "the movie", "book"):
        (item,) = reading.items(example(answer=answer))
        first, last = item.targets[0]
        fed = (item.decoder or item.sequences)[0]
        ids = [fed[place] for place in item.read[0][first : last + 1]]
        assert str(reading.windows.tokenizer.decode(ids)).strip() == answer
        (window,) = reading.inquiry(example()).windows
        assert CONTEXT[window.offsets[first][0] : window.offsets[last][1]] == answer


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_windows_overlap_and_cover_the_context(family: str) -> None:
    reading = bound(family, max_length=20, stride=4)
    whole = bound(family).inquiry(example()).windows[0]
    windows = reading.inquiry(example()).windows
    assert len(windows) > 2
    assert all(len(window.ids) <= 20 for window in windows)
    assert [window.first for window in windows] == [True] + [False] * (len(windows) - 1)
    assert [window.last for window in windows] == [False] * (len(windows) - 1) + [True]
    found = [span for window in windows for span in window.offsets]
    assert sorted(set(found)) == sorted(set(whole.offsets))
    begins = [span for window in windows for span, home in zip(window.offsets, window.begins, strict=True) if home]
    assert sorted(begins) == sorted(whole.offsets)  # each token begins an answer in one window
    if family == "bert":
        assert whole.offsets.index(windows[1].offsets[0]) == 4
        middle = windows[1].offsets[len(windows[1].offsets) // 2]
        assert windows[1].begins[windows[1].offsets.index(middle)]


def test_a_window_without_the_whole_answer_is_left_out_of_the_fit() -> None:
    reading = bound(max_length=20, stride=4)
    windows = reading.inquiry(example()).windows
    answer = "the book"
    items = reading.items(example(answer=answer))
    assert 0 < len(items) < len(windows)
    assert {item.sequences[0] for item in items} <= {window.ids for window in windows}
    for item in items:
        first, last = item.targets[0]
        ids = [item.sequences[0][place] for place in item.read[0][first : last + 1]]
        assert reading.windows.tokenizer.decode(ids) == answer
    assert reading.items(example(answer=CONTEXT)) == ()


def test_the_answer_is_the_best_legal_span() -> None:
    reading = bound()
    (window,) = reading.inquiry(example()).windows
    count = len(window.offsets)
    scores = torch.zeros(2, count + 3)
    scores[:, count:] = 99.0  # padding of a wider batch has no say
    scores[0, 6], scores[1, 2], scores[1, 9] = 5.0, 9.0, 6.0  # the best end stands before the best start
    begin, end = window.offsets[6][0], window.offsets[9][1]
    assert inquired([scores], (window,)) == (CONTEXT[begin:end], begin)
    assert inquired([scores], (window,), max_answer=3) == ("the movie was", 0)  # 0 + 9 within three tokens, the first of equals


def test_the_best_of_all_windows_wins_where_its_beginning_has_most_context() -> None:
    windows = bound(max_length=20, stride=4).inquiry(example()).windows
    scores = [torch.zeros(2, len(window.offsets)) for window in windows]
    place = next(i for i, home in enumerate(windows[1].begins) if not home)
    scores[1][0, place] = 50.0  # has more context in another window
    home = windows[2].begins.index(True)
    scores[2][:, home] = 7.0
    begin, end = windows[2].offsets[home]
    assert inquired(scores, windows) == (CONTEXT[begin:end], begin)


def test_text_without_question_and_a_context_that_is_named() -> None:
    rows: list[dict[str, object]] = [
        {"said": "a cat sat", "where": "so", "answers": [{"text": "cat", "answer_start": 2}]},
        {"said": "you sat", "where": "on", "answers": [{"text": "you", "answer_start": 0}]},
    ]
    task = Task.from_records(kind="span", text="said", label="answers", train=rows)
    reading = new_adapter(tiny_base("bert"), method=Frozen(), readout=Span(), task=task).reading
    assert isinstance(reading, SpanReading)
    assert reading.question is None
    (item,) = reading.items(task.split("train").examples[0])
    assert item.sequences[0][item.read[0][item.targets[0][0]]] == reading.windows.tokenizer.convert_tokens_to_ids("cat")
    named = new_adapter(tiny_base("bert"), method=Frozen(), readout=Span(context="context"), task=answered()).reading
    assert isinstance(named, SpanReading)
    assert (named.question, named.context) == ("question", "context")


def test_a_long_question_loses_its_end_and_is_counted() -> None:
    reading = bound(max_question=3)
    item = reading.encode(example())
    assert item.cut == 2
    assert "best" not in str(reading.windows.tokenizer.decode(list(item.sequences[0])))
    with pytest.raises(InputError, match="leaves none of 8 for the context"):
        bound(max_length=8).encode(example())


def test_refusals_name_what_is_wrong() -> None:
    reading = bound()
    with pytest.raises(InputError, match="no answer with its place"):
        reading.items(example())
    wrong = Example(id="own", fields=example().fields, references=("cat",), starts=(0,))
    with pytest.raises(InputError, match="does not stand at character 0"):
        reading.items(wrong)
    with pytest.raises(InputError, match="no token of the context"):
        reading.encode(example(""))
    with pytest.raises(InputError, match=r"no text column.*Did you mean context"):
        bound(context="contxt")
    with pytest.raises(InputError, match="max_answer must be at least 1"):
        Span(max_answer=0)
    with pytest.raises(UnsupportedError, match="Use Tags"):
        new_adapter(tiny_base("bert"), method=Frozen(), readout=Span(), task=tagged())
    with pytest.raises(UnsupportedError, match="Use Span"):
        new_adapter(tiny_base("bert"), method=Frozen(), readout=Head(), task=answered())
    with pytest.raises(InputError, match="no meaning for the ends of a span"):
        Supervised(label_smoothing=0.1).losses(torch.zeros(2, 3), torch.tensor([0, 1]), "span")
