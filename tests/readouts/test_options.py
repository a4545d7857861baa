"""Options: scores against a plain loop, one sequence at a time, through the model's own LM head."""

from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.infer.evaluate import plain_adapter, predict_split
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.options import Options, OptionsReading
from lmtailor.store.adapter import new_adapter
from lmtailor.tasks.example import Example
from tests.readouts.token_tasks import chosen, tagged
from tests.tiny import tiny_base

COLUMNS = {"0": "choice1", "1": "choice2"}


def plain(base: Base, example: Example, column: str, kind: str, normalise: str) -> float:
    """The score of one option, by hand."""
    option, premise = example.fields[column], example.fields["premise"]
    log_p, tokens = run(base, f"{premise} so", option, kind)
    if normalise == "pmi":
        return log_p - run(base, " so", option, kind)[0]
    return log_p / {"none": 1, "length": tokens, "bytes": len(option.encode())}[normalise]


def run(base: Base, prompt: str, option: str, kind: str) -> tuple[float, int]:
    """log p of one option behind a prompt, and its tokens."""
    tokenizer: Any = base.tokenizer
    model: Any = base.model
    if kind == "encoder-decoder":
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        own = tokenizer(option, add_special_tokens=False).input_ids
        fed = torch.tensor([[base.trunk.config.decoder_start_token_id, *own[:-1]]])
        logits = model(input_ids=ids, decoder_input_ids=fed).logits[0]
    elif kind == "decoder":
        head = tokenizer(prompt).input_ids
        own = tokenizer(f" {option}").input_ids
        logits = model(input_ids=torch.tensor([head + own])).logits[0, len(head) - 1 : -1]
    else:
        own = tokenizer(option, add_special_tokens=False).input_ids
        ids = tokenizer(f"{prompt} {'[MASK]' * len(own)} .").input_ids
        places = [place for place, token in enumerate(ids) if token == tokenizer.mask_token_id]
        logits = model(input_ids=torch.tensor([ids])).logits[0, places]
    return float(logits.log_softmax(-1)[torch.arange(len(own)), own].sum()), len(own)


@pytest.mark.parametrize("normalise", ["none", "length", "bytes", "pmi"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart"])
def test_scores_are_those_of_one_sequence_at_a_time(family: str, normalise: Any) -> None:
    base, task = tiny_base(family), chosen()
    end = " ." if base.kind == "encoder" else ""
    readout = Options("{premise} so {mask}" + end, COLUMNS, normalise=normalise)
    adapter = plain_adapter(base, task, readout)
    found = predict_split(base, task, adapter, split="test", batch_size=5)
    with torch.no_grad():
        expected = [[plain(base, one, column, base.kind, normalise) for column in COLUMNS.values()] for one in task.split("test")]
    torch.testing.assert_close(torch.tensor(found.scores_NC), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert list(found.predicted) == torch.tensor(expected).argmax(1).tolist()


def test_a_sentinel_is_filled_by_models_that_were_trained_so() -> None:
    base, task = tiny_base("t5"), chosen()
    reading = plain_adapter(base, task, Options("{premise} so {mask} .", COLUMNS)).reading
    assert isinstance(reading, OptionsReading)
    item = reading.encode(task.split("test").examples[0])
    assert item.decoder is not None
    sentinel = base.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert sentinel in item.sequences[0]
    assert [own[1] for own in item.decoder] == [sentinel] * 2


def test_the_prompt_is_cut_and_never_the_option() -> None:
    base, task = tiny_base("gpt2"), chosen()
    reading = plain_adapter(base, task, Options("{premise} so {mask}", COLUMNS, max_length=40)).reading
    assert isinstance(reading, OptionsReading)
    one = task.split("test").examples[0]
    long = Example(id="own", fields={**one.fields, "premise": "you and i sat on the cat " * 9}, label=0)
    short, item = reading.encode(one), reading.encode(long)
    assert item.targets == short.targets
    assert item.cut > 0
    assert max(map(len, item.sequences)) <= 40
    with pytest.raises(InputError, match="the model takes 3 with its prompt"):
        plain_adapter(base, task, Options("{premise} so {mask}", COLUMNS, max_length=3)).reading.encode(one)  # type: ignore[union-attr]


def test_pmi_is_measured_under_the_adapter_and_needs_words_of_the_pattern() -> None:
    base, task = tiny_base("gpt2"), chosen()
    example = task.split("train").examples[0]
    adapter = new_adapter(base, method=LoRA(rank=2), readout=Options("{premise} so {mask}", COLUMNS, normalise="pmi"), task=task)
    adapter = adapter.with_state({name: value.detach() + 0.2 for name, value in adapter.state.items()})
    assert isinstance(adapter.reading, OptionsReading)
    batch = adapter.reading.collate([adapter.reading.encode(example)])
    with torch.no_grad(), attach(base, adapter) as attached:
        scores = attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch)
        expected = torch.tensor([[plain(base, example, column, "decoder", "pmi") for column in COLUMNS.values()]])
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    bare = plain_adapter(base, task, Options("{premise} {mask}", COLUMNS, normalise="pmi")).reading
    with pytest.raises(InputError, match=r"Nothing stands before the gap in example '.* \(premise\)'"):
        bare.encode(example)  # type: ignore[union-attr]


def test_refusals_name_what_is_wrong() -> None:
    base, task = tiny_base("gpt2"), chosen()

    def bind(pattern: str, options: dict[str, str], on: Base = base) -> None:
        new_adapter(on, method=Frozen(), readout=Options(pattern, options), task=task)

    with pytest.raises(InputError, match=r"is in 'choise1'.*Did you mean choice1"):
        bind("{premise} {mask}", {"0": "choise1", "1": "choice2"})
    with pytest.raises(InputError, match="no label of the task"):
        bind("{premise} {mask}", {"a": "choice1", "1": "choice2"})
    with pytest.raises(InputError, match="no such column"):
        bind("{premiss} {mask}", COLUMNS)
    with pytest.raises(InputError, match="at least two labels"):
        Options("{premise} {mask}", {"0": "choice1"})
    with pytest.raises(UnsupportedError, match="no LM head"):
        bind("{premise} {mask}", COLUMNS, tiny_base("gpt2", head=False))
    with pytest.raises(UnsupportedError, match="something stands after"):
        bind("{premise} {mask} .", COLUMNS)
    with pytest.raises(UnsupportedError, match="Use Tags"):
        new_adapter(base, method=Frozen(), readout=Options("{text} {mask}", COLUMNS), task=tagged())
    reading = plain_adapter(base, task, Options("{premise} so {mask}", COLUMNS)).reading
    assert reading is not None
    empty = Example(id="dev/3", fields={"premise": "a cat", "choice1": " ", "choice2": "a cat"})
    with pytest.raises(InputError, match="choice1 of example 'dev/3' '' is empty"):
        reading.encode(empty)
