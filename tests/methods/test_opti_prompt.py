"""OptiPrompt against the plain model with the vectors as new words of its vocabulary, which is how its paper's code has them."""

from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import plain_adapter, predict_split
from lmtailor.methods.method import Words
from lmtailor.methods.opti_prompt import OptiPrompt
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.tasks.task import Task
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.tiny import tiny_base


def count(method: OptiPrompt, base: Base) -> int:
    """N · H."""
    table = base.module(base.stacks[0].embedding).weight
    assert isinstance(table, torch.Tensor)
    return method.length * table.shape[1]


@pytest.mark.parametrize("key", ["bert", "roberta", "albert"])
def test_new_words_of_the_vocabulary_do_the_same(key: str) -> None:
    base, longer = base_of(key), tiny_base(key)
    edits = perturbed(OptiPrompt(length=3).edits(base.sites, generator(0)), scale=0.5)
    old = base.vocab_size
    longer.model.resize_token_embeddings(old + 3)
    table = longer.model.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    with torch.no_grad():
        (prompt,) = edits.state().values()
        table[old:] = prompt
    mask = int(base.tokenizer.mask_token_id)
    ids = torch.tensor([[5, 20, 21, mask, 22, 6], [5, 30, 31, 32, mask, 6]])
    new = torch.arange(old, old + 3)
    rows = [torch.cat([one[:gap], new, one[gap:]]) for one, gap in zip(ids, (3, 4), strict=True)]
    with torch.no_grad():
        theirs = logits(longer, {"input_ids": torch.stack(rows)})
        with attach(base, Worn(edits)):
            found = logits(base, {"input_ids": ids})
    for number, gap in enumerate((3, 4)):
        assert apart(found[number, gap], theirs[number, gap + 3, :old]) < 1e-5


def test_a_manual_start_is_the_template_s_words() -> None:
    base, method = base_of("bert"), OptiPrompt(length=4, init="manual", text="is a very good movie")
    (edit,) = method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))
    table = base.module(base.stacks[0].embedding).weight
    assert isinstance(table, torch.Tensor)
    ids = base.tokenizer.convert_tokens_to_ids(["is", "a", "very", "good"])
    assert torch.equal(edit.trained()["prompt_NH"], table[ids])


def test_a_random_start_is_that_of_added_words() -> None:
    (edit,) = OptiPrompt(length=200).edits(base_of("bert").sites, generator(0))
    assert abs(float(edit.trained()["prompt_NH"].std()) - 0.02) < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length is 0; a prompt needs at least 1"),
        ({"init": "manual"}, "init='manual' needs `text`"),
        ({"text": "good"}, "`text` needs init='manual'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OptiPrompt(**settings)


@pytest.mark.parametrize(("key", "what"), [("gpt2", "gpt2 is a causal decoder"), ("t5", "t5 is an encoder-decoder")])
def test_a_model_without_a_gap_is_refused(key: str, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        OptiPrompt().edits(base_of(key).sites, None)


@pytest.mark.parametrize("key", ["bert", "roberta"])
def test_before_training_a_manual_start_is_the_template(key: str) -> None:
    """One of a relation's many objects, asked for by vectors and by the words that these start from."""
    base = base_of(key)
    objects = (
        "cat",
        "dog",
        "movie",
        "book",
        "text",
        "review",
        "answer",
        "sentiment",
        "great",
        "awful",
        "happy",
        "sad",
        "yes",
        "no",
    )
    rows = [{"subject": f"the {objects[i % 14]} {i}", "object": objects[(i + 1) % 14]} for i in range(42)]
    task = Task.from_records(text="subject", label="object", train=rows[:28], dev=rows[28:])
    words = {name: (name,) for name in task.labels}
    method = OptiPrompt(length=3, init="manual", text="is a very")
    adapter = new_adapter(base, method=method, readout=Verbalizer(pattern="{subject} {mask} .", words=words), task=task)
    manual = plain_adapter(base, task, Verbalizer(pattern="{subject} is a very {mask} .", words=words))
    found, wanted = (predict_split(base, task, one, split="dev").scores_NC for one in (adapter, manual))
    assert found.shape == (14, 14)
    assert abs(found - wanted).max() < 1e-5 * abs(wanted).max()
    training = Training(max_steps=20, batch_size=14, lr=0.1)
    fitted = fit(base, task, method=method, readout=adapter.readout, training=training)
    loss = [cross_entropy(base, task, one) for one in (adapter, fitted)]
    assert loss[1] < loss[0]


def cross_entropy(base: Base, task: Task, adapter: Adapter) -> float:
    """Of an adapter's answers on the training split."""
    made = predict_split(base, task, adapter, split="train")
    assert made.reference is not None
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(made.scores_NC), torch.from_numpy(made.reference)))
