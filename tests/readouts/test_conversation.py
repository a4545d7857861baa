"""Chat: the text is the template's own, what is learned is what the assistant says, and nothing else."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.core.errors import DataError, InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.predict import predict
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.conversation import Chat, ConversationPieces, PlainTurns, TemplateTurns
from lmtailor.readouts.text import TextReading
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.tasks.conversations import conversation_task
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from lmtailor.tasks.turns import Turn, turns_text
from tests.tiny import kind_of, tiny_base, tiny_model, tiny_tokenizer

SMOL = os.environ.get("LMTAILOR_SMOLLM2", "")
"""A folder of SmolLM2 as transformers has it."""
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}" + (
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
TURNS = [("user", "a cat?"), ("assistant", "it was  very good "), ("user", "and a dog"), ("assistant", "no")]


def chats(*turns: tuple[str, str], **settings: Any) -> Task:
    return conversation_task(train=[{"messages": [{"role": role, "content": text} for role, text in turns]}], **settings)


def chat_base(template: str | None = TEMPLATE, key: str = "llama") -> Base:
    tokenizer = tiny_tokenizer(kind_of(key))
    tokenizer.chat_template, tokenizer.model_max_length = template, 512
    positions: dict[str, Any] = {} if key == "t5" else {"max_position_embeddings": 512}
    return Base.from_model(tiny_model(key, **positions), tokenizer, source=f"tiny-{key}")


def reading_of(base: Base, readout: Chat, task: Task) -> TextReading:
    reading = new_adapter(base, method=LoRA(rank=2), readout=readout, task=task).reading
    assert isinstance(reading, TextReading)
    return reading


def item_of(base: Base, readout: Chat, task: Task) -> Encoded:
    (item,) = reading_of(base, readout, task).items(task.split("train").examples[0])
    return item


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def learned(base: Base, item: Encoded) -> str:
    return decoded(base.tokenizer, item.targets[0])


def whole(item: Encoded) -> tuple[int, ...]:
    """The tokens that are run, and the last that is learned."""
    return (*item.sequences[0], item.targets[0][-1])


def test_tokens_are_the_templates_and_only_the_assistants_are_learned() -> None:
    base = chat_base()
    item = item_of(base, Chat(), chats(*TURNS))
    said = [{"role": role, "content": text} for role, text in TURNS]
    ids = tuple(base.tokenizer.apply_chat_template(said, return_dict=False))
    assert ids[: len(whole(item))] == whole(item)
    assert decoded(base.tokenizer, ids[len(whole(item)) :]) == "\n"
    assert learned(base, item) == "it was  very good </s>no</s>"
    assert item.targets[0] == tuple(whole(item)[place + 1] for place in item.read[0])
    assert item.units == len(item.read[0])


def test_the_loss_is_that_of_the_model_with_the_assistants_labels() -> None:
    base, task = chat_base(), chats(*TURNS)
    adapter = new_adapter(base, method=LoRA(rank=2), readout=Chat(), task=task)
    item = item_of(base, Chat(), task)
    labels = [-100] * len(whole(item))
    for place, target in zip(item.read[0], item.targets[0], strict=True):
        labels[place + 1] = target
    expected = base.model(input_ids=torch.tensor([whole(item)]), labels=torch.tensor([labels])).loss
    reading = adapter.reading
    assert isinstance(reading, TextReading)
    batch = reading.collate([item])
    with attach(base, adapter) as attached, torch.no_grad():
        log_p = reading.scores(base, attached.own_states(0, attached.states(batch.inputs, batch.answer_N)), batch)
    torch.testing.assert_close(-log_p.mean(), expected.detach(), rtol=1e-5, atol=1e-6)


def test_without_a_template_it_is_alpacas_prompt() -> None:
    base = chat_base(None)
    rows = [{"instruction": "say no", "input": "to a cat", "output": "no"}, {"instruction": "sit", "output": "i sat"}]
    task = conversation_task(train=rows)
    reading = reading_of(base, Chat(), task)
    assert isinstance(reading.readout, Chat)
    assert reading.readout.form == "plain"
    with_input, without = (reading.items(example)[0] for example in task.split("train"))
    assert decoded(base.tokenizer, whole(with_input)) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
        "that appropriately completes the request.\n\n### Instruction:\nsay no\n\n### Input:\nto a cat\n\n### Response:no</s>"
    )
    assert decoded(base.tokenizer, whole(without)) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nsit\n\n### Response:i sat</s>"
    )
    assert (learned(base, with_input), learned(base, without)) == ("no</s>", "i sat</s>")


def test_plain_conversations_go_on_and_a_system_takes_the_first_sentence() -> None:
    base = chat_base()
    item = item_of(base, Chat(form="plain", system="be good"), chats(*TURNS))
    assert decoded(base.tokenizer, whole(item)) == (
        "be good\n\n### Instruction:\na cat?\n\n### Response:it was  very good </s>\n\n### Instruction:\nand a dog\n\n"
        "### Response:no</s>"
    )
    assert learned(base, item) == "it was  very good </s>no</s>"


def test_what_is_asked_is_the_beginning_of_what_was_learned_from() -> None:
    for template in (TEMPLATE, None):
        base, task = chat_base(template), chats(*TURNS)
        reading, example = reading_of(base, Chat(), task), task.split("train").examples[0]
        asked, item = reading.encode(example), reading.items(example)[0]
        assert item.sequences[0][: len(asked.sequences[0])] == asked.sequences[0]
        assert asked.read[0][0] in item.read[0]


def test_the_oldest_exchanges_go_first_and_are_counted() -> None:
    base = chat_base()
    full = item_of(base, Chat(), chats(("system", "be good"), *TURNS))
    limit = len(whole(full)) - 1
    item = item_of(base, Chat(max_length=limit), chats(("system", "be good"), *TURNS))
    rest = item_of(base, Chat(), chats(("system", "be good"), *TURNS[2:]))
    assert (item.sequences, item.targets) == (rest.sequences, rest.targets)
    said = [{"role": role, "content": text} for role, text in (("system", "be good"), *TURNS)]
    ids = base.tokenizer.apply_chat_template(said, return_dict=False)
    assert item.cut == len(ids) - len(whole(item)) - 1  # the line break behind the last end token


def test_a_single_exchange_loses_its_end_and_is_refused_where_no_answer_is_left(tmp_path: Path) -> None:
    base = chat_base()
    full = item_of(base, Chat(), chats(*TURNS[:2]))
    item = item_of(base, Chat(max_length=len(whole(full)) - 2), chats(*TURNS[:2]))
    assert whole(item) == whole(full)[:-2]
    assert item.cut == 2
    path = tmp_path / "chats.jsonl"
    path.write_text("\n" + json.dumps({"messages": [{"role": role, "content": text} for role, text in TURNS[:2]]}))
    task = conversation_task(train=path)
    with pytest.raises(DataError, match=r"chats\.jsonl, line 2: the conversation has .* nothing of what the assistant"):
        item_of(base, Chat(max_length=5), task)


def test_a_question_that_is_too_long_to_be_answered_loses_its_end() -> None:
    base, task = chat_base(), chats(("user", "a cat and a dog and a cat and a dog"), ("assistant", "no"))
    reading, example = reading_of(base, Chat(max_length=32), task), task.split("train").examples[0]
    item = reading.input(example, 10)
    assert len(item.sequences[0]) <= 22
    assert item.cut > 0
    assert decoded(base.tokenizer, item.sequences[0]).endswith("</s>\n<s>assistant\n")


def test_templates_that_refuse_or_hide_turns_are_named_with_the_record(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    twice = [("user", "a"), ("user", "b"), ("assistant", "no")]
    path.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in twice]}))
    task = conversation_task(train=path)
    with pytest.raises(DataError, match=r"chats\.jsonl, line 1: .*refuses the turns \['user', 'user', 'assistant'\].*alternate"):
        item_of(chat_base(STRICT), Chat(), task)
    assert item_of(chat_base(), Chat(), task).units > 0
    hidden = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}</s>"
    with pytest.raises(UnsupportedError, match="does not write what the assistant says"):
        item_of(chat_base(hidden), Chat(), task)
    last = "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}<s>{{ m.content }}</s>{% endif %}{% endfor %}"
    with pytest.raises(DataError, match=r"row 1: .*writes turn 2, the assistant's, so that it cannot be told"):
        item_of(chat_base(last), Chat(), chats(*TURNS))
    endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + (
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(DataError, match="does not end turn 3"):
        item_of(chat_base(endless), Chat(), task)


def test_other_models_and_tasks_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="fills gaps"):
        reading_of(tiny_base("bert"), Chat(), chats(*TURNS))
    with pytest.raises(UnsupportedError, match="no chat template"):
        reading_of(chat_base(None), Chat(form="template"), chats(*TURNS))
    pair = Task.from_records(train=[{"a": "x", "b": "y", "c": "z"}], kind="generation", text=("a", "b"), label="c")
    with pytest.raises(InputError, match="one text column"):
        reading_of(chat_base(), Chat(), pair)


@pytest.mark.parametrize("key", ["t5", "bart"])
@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["template", "plain"])
def test_an_encoder_reads_what_was_said_and_a_decoder_writes_the_last_answer(key: str, template: str | None) -> None:
    base, task = chat_base(template, key), chats(*TURNS)
    reading, example = reading_of(base, Chat(), task), task.split("train").examples[0]
    (item,) = reading.items(example)
    shown = decoded(base.tokenizer, item.sequences[0])
    if template is None:
        assert shown.endswith(
            "### Instruction:\na cat?\n\n### Response:it was  very good </s>\n\n### Instruction:\nand a dog\n\n### Response:</s>"
        )
        assert item.sequences[0] == tuple(base.tokenizer(shown.removesuffix("</s>")).input_ids)
    else:
        said = [{"role": role, "content": text} for role, text in TURNS[:3]]
        asked = base.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        assert item.sequences[0] == tuple(asked)
    assert reading.encode(example).sequences == item.sequences
    assert learned(base, item) == "no</s>"
    expected = base.model(
        input_ids=torch.tensor([item.sequences[0]]), labels=torch.tensor([base.tokenizer("no").input_ids])
    ).loss.detach()
    batch = reading.collate([item])
    adapter = new_adapter(base, method=LoRA(rank=2), readout=Chat(), task=task)
    with attach(base, adapter) as attached, torch.no_grad():
        log_p = reading.scores(base, attached.own_states(0, attached.states(batch.inputs, batch.answer_N)), batch)
    torch.testing.assert_close(-log_p.mean(), expected, rtol=1e-5, atol=1e-6)


def test_what_an_encoder_reads_and_a_decoder_writes_are_cut_apart() -> None:
    base, task = chat_base(key="t5"), chats(*TURNS)
    full, last = (item_of(base, Chat(), chats(*turns)) for turns in (TURNS, TURNS[2:]))
    item = item_of(base, Chat(max_length=len(last.sequences[0])), task)
    assert (item.sequences, item.targets) == (last.sequences, last.targets)
    assert item.cut == len(full.sequences[0]) - len(last.sequences[0])
    long = chats(("user", "a"), ("assistant", "no " * 60))
    limit = len(item_of(base, Chat(), chats(("user", "a"), ("assistant", "no"))).sequences[0])
    whole_item, item = item_of(base, Chat(), long), item_of(base, Chat(max_length=limit), long)
    assert item.targets[0] == whole_item.targets[0][: limit - 1]
    assert item.cut == whole_item.units - item.units
    assert item.decoder is not None
    assert len(item.decoder[0]) <= limit
    bare = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}" + (
        "{% if add_generation_prompt %}a{% endif %}"
    )
    with pytest.raises(InputError, match="1 tokens leave no room for an answer"):
        item_of(chat_base(bare, "t5"), Chat(max_length=1), long)


@pytest.mark.parametrize("key", ["llama", "t5"])
def test_a_chat_is_fitted_stored_and_answers(key: str, tmp_path: Path) -> None:
    base, task = chat_base(key=key), chats(*TURNS)
    training = Training(max_steps=150, lr=2e-2, batch_size=1)
    adapter = fit(base, task, method=LoRA(rank=8, alpha=32), readout=Chat(), training=training)
    save_adapter(adapter, tmp_path / "chat")
    adapter = load_adapter(tmp_path / "chat", base)
    first = turns_text([Turn(role=role, content=text) for role, text in TURNS[:3]])
    answers = predict(base, adapter, [first, "a cat?"])
    assert answers[0].text == "no"
    assert base.kind == "encoder-decoder" or answers[1].text == "it was  very good"  # a decoder learns the last answer alone


@pytest.mark.skipif(not SMOL, reason="LMTAILOR_SMOLLM2 names no folder of SmolLM2")
def test_smollm2s_own_template_is_met_token_by_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SMOL)
    turns = [
        Turn(role="system", content="You are terse."),
        Turn(role="user", content="¿Qué? 🙂 <|im_end|> x", input="1+1"),
        Turn(role="assistant", content="Dos.\n\n  ```py\nx = 1\n```\n"),
        Turn(role="user", content="assistant"),
        Turn(role="assistant", content="assistant\nlmtailor"),
    ]
    for shown in (turns, turns[1:], turns[1:3]):
        said = [{"role": t.role, "content": t.content + (f"\n\n{t.input}" if t.input else "")} for t in shown]
        ids = tuple(tokenizer.apply_chat_template(said, return_dict=False))
        writer = TemplateTurns(tokenizer, int(tokenizer.eos_token_id))
        pieces = ConversationPieces(writer=writer, column="c", tokenizer=tokenizer, system=None, end=writer.end, limit=8192)
        example = Example(id="x", fields={"c": turns_text(shown[:-1])}, references=(shown[-1].content,))
        (item,) = pieces.items(example)
        assert ids[: len(whole(item))] == whole(item)
        assert decoded(tokenizer, ids[len(whole(item)) :]) == "\n"
        answers = [t.content + "<|im_end|>" for t in shown if t.role == "assistant"]
        assert decoded(tokenizer, item.targets[0]) == "".join(answers)
        assert decoded(tokenizer, whole(item)[: item.read[0][0] + 1]).endswith("<|im_start|>assistant\n")
        asked = tuple(tokenizer.apply_chat_template(said[:-1], add_generation_prompt=True, return_dict=False))
        assert pieces.input(example, 64).sequences[0] == asked
    pieces = ConversationPieces(writer=writer, column="c", tokenizer=tokenizer, system=None, end=writer.end, limit=8192)
    (item,) = pieces.items(Example(id="x", fields={"c": "Hi"}, references=("  Yo",)))
    assert decoded(tokenizer, item.targets[0]) == " Yo<|im_end|>"  # the first space is one token with the line break before it
    apart = ConversationPieces(
        writer=PlainTurns(tokenizer), column="c", tokenizer=tokenizer, system=None, end=writer.end, limit=8192
    )
    example = Example(id="x", fields={"c": turns_text(turns[1:4])}, references=('": x',))
    (item,) = apart.items(example)
    assert decoded(tokenizer, item.targets[0]) == turns[2].content + '<|im_end|>": x<|im_end|>'
    asked = apart.input(example, 64).sequences[0]
    assert item.sequences[0][: len(asked)] == asked
    plain = PlainTurns(tokenizer).script([Turn(role="user", content="Hi"), Turn(role="assistant", content="Yo")], asks=False)
    assert plain.text.endswith("### Instruction:\nHi\n\n### Response:Yo<|im_end|>")
