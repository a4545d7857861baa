"""Text readouts: what is learned of a target, against transformers' own loss."""

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods.lora import LoRA
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.head import Head
from lmtailor.readouts.text import Text, TextReading
from lmtailor.store.adapter import new_adapter
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

ROWS = [
    {"about": "a good movie", "said": "it was very good"},
    {"about": "a good movie", "said": "i love the movie"},
    {"about": "a bad book that is so boring", "said": "no"},
]


def written(**settings: object) -> Task:
    return Task.from_records(train=ROWS, dev=ROWS, kind="generation", text="about", label="said", **settings)  # type: ignore[arg-type]


def reading_of(base: Base, readout: Text, task: Task | None = None) -> TextReading:
    reading = new_adapter(base, method=LoRA(rank=2), readout=readout, task=task or written()).reading
    assert isinstance(reading, TextReading)
    return reading


def text_of(base: Base, ids: tuple[int, ...]) -> str:
    return str(base.tokenizer.decode(list(ids))).strip()


def loss_of(base: Base, readout: Text, *, over_all_words: bool = False) -> Tensor:
    """The mean loss of all target tokens."""
    adapter = new_adapter(base, method=LoRA(rank=2), readout=readout, task=written())
    reading = adapter.reading
    assert isinstance(reading, TextReading)
    reading = reading.over_all_words() if over_all_words else reading
    items = [item for example in written().split("train") for item in reading.items(example)]
    batch = reading.collate(items)
    with attach(base, adapter) as attached:
        scores = reading.scores(base, attached.own_states(0, attached.states(batch.inputs, batch.answer_N)), batch)
    targets = batch.targets_NP[batch.targets_NP >= 0]
    assert len(scores) == sum(item.units for item in items) == len(targets)
    return Supervised().losses(scores, targets, "generation").mean()


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gemma2"])
def test_causal_loss_is_that_of_the_model_with_labels_of_the_target_alone(family: str) -> None:
    base = tiny_base(family)
    reading = reading_of(base, Text("about {about}"))
    items = [item for example in written().split("train") for item in reading.items(example)]
    total, count = 0.0, 0
    for item in items:
        ids = (*item.sequences[0], item.targets[0][-1])
        labels = [-100] * (len(ids) - item.units) + list(ids[-item.units :])
        out = base.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        total, count = total + float(out.loss) * item.units, count + item.units
    torch.testing.assert_close(float(loss_of(base, Text("about {about}"))), total / count, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_encoder_decoder_loss_is_that_of_the_model_with_labels(family: str) -> None:
    base = tiny_base(family)
    reading = reading_of(base, Text("about {about}"))
    items = [item for example in written().split("train") for item in reading.items(example)]
    total, count = 0.0, 0
    for item in items:
        assert item.decoder is not None
        start = len(item.decoder[0]) - item.units + 1
        labels = (*item.decoder[0][1:start], *item.targets[0])
        out = base.model(input_ids=torch.tensor([item.sequences[0]]), labels=torch.tensor([labels]))
        log_p = out.logits[0].log_softmax(-1)[torch.arange(len(labels)), torch.tensor(labels)][-item.units :]
        total, count = total - float(log_p.sum()), count + item.units
    torch.testing.assert_close(float(loss_of(base, Text("about {about}"))), total / count, rtol=1e-5, atol=1e-6)


def test_over_all_words_the_loss_is_the_same() -> None:
    base = tiny_base("llama")
    readout = Text("about {about}")
    torch.testing.assert_close(loss_of(base, readout, over_all_words=True), loss_of(base, readout), rtol=1e-5, atol=1e-6)


def test_rows_of_the_same_text_are_one_example_with_several_references() -> None:
    examples = written().split("train").examples
    assert [example.references for example in examples] == [("it was very good", "i love the movie"), ("no",)]
    base = tiny_base("gpt2")
    first, second = reading_of(base, Text("about {about}")).items(examples[0])
    assert first.id == second.id
    assert first.sequences[0][:4] == second.sequences[0][:4]
    assert text_of(base, first.targets[0]) == "it was very good</s>"


def test_the_input_that_is_written_behind_is_the_one_that_was_learned_from() -> None:
    for family in ("gpt2", "t5"):
        reading = reading_of(tiny_base(family), Text("about {about}"))
        for example in written().split("train"):
            asked, learned = reading.encode(example), reading.items(example)[0]
            assert learned.sequences[0][: len(asked.sequences[0])] == asked.sequences[0]
            if learned.decoder is None:
                assert learned.read[0][0] == asked.read[0][0]


def test_of_a_long_input_the_marked_column_loses_its_end_and_the_target_stays() -> None:
    base = tiny_base("gpt2")
    reading = reading_of(base, Text("about {about:cut}", max_length=9))
    item = reading.items(written().split("train").examples[1])[0]
    assert len(item.sequences[0]) + 1 <= 9
    assert item.cut > 0
    assert text_of(base, item.targets[0]) == "no</s>"


def test_a_target_that_leaves_no_room_is_refused_unless_it_may_be_cut() -> None:
    base, example = tiny_base("gpt2"), written().split("train").examples[0]
    with pytest.raises(InputError, match="Set max_target"):
        reading_of(base, Text("about {about}", max_length=4)).items(example)
    item = reading_of(base, Text("about {about}", max_target=2)).items(example)[0]
    assert (item.units, item.cut) == (2, 3)
    assert base.tokenizer.eos_token_id not in item.targets[0]


def test_refusals_name_what_is_wrong() -> None:
    base, task = tiny_base("gpt2"), written()
    with pytest.raises(InputError, match=r"leave \{mask\} out"):
        Text("about {about}{mask}")
    with pytest.raises(InputError, match="for a verbalizer's pattern"):
        Text("about {trigger} {about}")
    for target in (" {said:cut}", " {trigger} {said}"):
        with pytest.raises(InputError, match="the references alone"):
            reading_of(base, Text("{about}", target=target))
    with pytest.raises(InputError, match="no such column"):
        reading_of(base, Text("{abuot}"))
    with pytest.raises(InputError, match="the references alone"):
        reading_of(base, Text("{about}", target=" {about}"))
    with pytest.raises(InputError, match="Set chat=true"):
        Text("{about}", system="You are a critic.")
    with pytest.raises(UnsupportedError, match="no chat template"):
        reading_of(base, Text("{about}", chat=True))
    with pytest.raises(UnsupportedError, match="fills gaps"):
        reading_of(tiny_base("bert"), Text("{about}"))
    labels = Task.from_records(train=[{"t": "a", "label": "x"}, {"t": "b", "label": "y"}], text="t")
    with pytest.raises(UnsupportedError, match="whose answers are written"):
        reading_of(base, Text("{t}"), labels)
    with pytest.raises(UnsupportedError, match="Use Text"):
        new_adapter(base, method=LoRA(), readout=Head(), task=task)
    asked = Task.from_records(train=ROWS, unlabelled=[{"about": "a cat"}], kind="generation", text="about", label="said")
    reading, example = reading_of(base, Text("{about}")), asked.split("unlabelled").examples[0]
    with pytest.raises(InputError, match="no reference"):
        reading.items(example)


CHAT = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}" + (
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def test_a_chat_has_the_tokenizers_turns_and_ends_as_they_do() -> None:
    base = tiny_base("llama")
    base.tokenizer.chat_template = CHAT
    reading = reading_of(base, Text("about {about}", chat=True, system="be good"))
    example = written().split("train").examples[1]
    item = reading.items(example)[0]
    turns = [{"role": "system", "content": "be good"}, {"role": "user", "content": "about a bad book that is so boring"}]
    asked = base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = base.tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "no"}], tokenize=False)
    ids = base.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert (*item.sequences[0], item.targets[0][-1]) == tuple(ids)
    assert reading.encode(example).sequences[0] == tuple(base.tokenizer(asked, add_special_tokens=False)["input_ids"])
    assert reading.end == base.tokenizer.convert_tokens_to_ids("</s>")
