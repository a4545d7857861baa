"""Tiny models that were taught what to write: a word for each label into a pattern's gap, or a template around one."""

import functools

import torch
from torch.nn.functional import cross_entropy

from lmtailor.base.base import Base
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.tasks.task import Task
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base, tiny_model, tiny_tokenizer

PATTERN = "{sentence} so it was {mask}"


def words_of(family: str) -> dict[str, tuple[str, ...]]:
    """The words that are taught. BART's decoder writes them without a space before them, and then only letters are one token."""
    return {"neg": ("n",), "pos": ("y",)} if family == "bart" else {"neg": ("no",), "pos": ("yes",)}


@functools.cache
def the_task() -> Task:
    """What is taught, in train and dev."""
    return sentiment(16, 12)


@functools.cache
def taught(family: str, *, steps: int = 60) -> Base:
    """A tiny model that writes `words_of` it into the gap of `PATTERN`, for the texts of `the_task`."""
    base, task = tiny_base(family), the_task()
    reading = Verbalizer(PATTERN, words_of(family)).bind(base, LabelSet.of(task), None)
    pieces = torch.tensor([word.pieces[0] for word in reading.words])
    batch = reading.collate([reading.encode(example) for name in ("train", "dev") for example in task.split(name)])
    assert batch.labels_B is not None
    base.model.requires_grad_(True)
    optimizer = torch.optim.Adam(base.model.parameters(), lr=3e-3)
    for _ in range(steps):
        states = base.hidden(batch.inputs)
        loss = cross_entropy(base.lm_logits(read_states(states.last_NTH, batch)[:, 0]), pieces[batch.labels_B])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Base.from_model(base.model, base.tokenizer, source=f"taught-{family}")


@functools.cache
def tiny_filler(steps: int = 60) -> Base:
    """A tiny T5 with three sentinels that writes "it was <Y> so", whatever the text."""
    tokenizer = tiny_tokenizer("encoder-decoder")
    model = tiny_model("t5", vocab_size=len(tokenizer) + 1)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<extra_id_2>"]})
    texts = [f"a {what} <extra_id_0> {word} <extra_id_1>" for what in ("book", "cat", "movie") for word in ("good", "bad")]
    texts += [f"<extra_id_0> {word} <extra_id_1> the {what}" for what in ("book", "text") for word in ("great", "sad")]
    inputs = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    target = tokenizer("<extra_id_0> it was<extra_id_1> so<extra_id_2>", add_special_tokens=False, return_tensors="pt")
    model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model(inputs[step % len(inputs)], labels=target["input_ids"]).loss.backward()
        optimizer.step()
    return Base.from_model(model, tokenizer, source="tiny-filler")
