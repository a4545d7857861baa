"""Tiny models that write a known word into a pattern's gap for each label."""

import torch
from torch.nn.functional import cross_entropy

from lmtailor.base.base import Base
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

PATTERN = "{sentence} so it was {mask}"


def words_of(family: str) -> dict[str, tuple[str, ...]]:
    """The planted words. BART's decoder writes them without a space before them, and then only letters are one token."""
    return {"neg": ("n",), "pos": ("y",)} if family == "bart" else {"neg": ("no",), "pos": ("yes",)}


def planted(family: str, task: Task, *, steps: int = 60) -> Base:
    """A tiny model that was trained to write `words_of` it into the gap of `PATTERN`, and nothing else."""
    base = tiny_base(family)
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
    return Base.from_model(base.model, base.tokenizer, source=f"planted-{family}")
