"""WARP against the paper's formula in NumPy, on the plain model's features."""

from typing import Any

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Words
from lmtailor.methods.warp import WARP, ClassEdit
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import new_adapter
from tests.edits.worn import Worn, apart, base_of, inputs_of, logits, perturbed
from tests.readouts.examples import sentences, sentiment_task
from tests.store.adapters import WORDS, moved_adapter
from tests.tiny import tiny_base

METHOD = WARP(words=("bad", "good"), before=2, after=1, front=1, bias=True)


def count(method: WARP, base: Base) -> int:
    """Tokens · H + C · F, and the biases."""
    table = base.module(base.stacks[0].embedding).weight
    assert isinstance(table, torch.Tensor)
    classes = len(method.words)
    features = base.sites["lm_head"].in_width
    assert features is not None
    tokens = (method.front + method.before + method.after) * table.shape[1]
    return tokens + classes * features + (classes if method.bias else 0)


def start(base: Base, method: WARP, seed: int = 0) -> Edits:
    rng = generator(seed)
    return method.started(method.edits(base.sites, rng), base, Words(), rng)


@pytest.mark.parametrize("key", ["bert", "roberta", "albert", "electra"])
def test_the_formula(key: str) -> None:
    """[P1] x [P2] [P3] [MASK] [P4] …, f by the plain model, exp(v · f + b) normalised."""
    base = base_of(key)
    edits = perturbed(start(base, METHOD), scale=0.5)
    front, before, after, classes = edits
    assert isinstance(classes, ClassEdit)
    mask = int(base.tokenizer.mask_token_id)
    ids = torch.tensor([5, 20, 21, mask, 22, 6])
    own = base.module(base.stacks[0].embedding)(ids)
    prompts = [edit.trained()["prompt_NH"] for edit in (front, before, after)]
    embeds = torch.cat([prompts[0], own[:3], prompts[1], own[3:4], prompts[2], own[4:]])
    with torch.no_grad():
        with inputs_of(base.module(base.sites["lm_head"].module)) as features:
            plain = logits(base, {"inputs_embeds": embeds[None]})[0, 6]
        f = features[0][0, 6].double().numpy()
        with attach(base, Worn(edits)):
            found = logits(base, {"input_ids": ids[None]})[0, 3]
    assert classes.bias_C is not None
    scores = classes.class_CF.double().numpy() @ f + classes.bias_C.double().numpy()
    wanted = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    words = torch.tensor(base.tokenizer(" bad good", add_special_tokens=False)["input_ids"])
    assert np.allclose(torch.softmax(found[words].double(), 0).numpy(), wanted, rtol=1e-5)
    rest = torch.ones(len(plain), dtype=torch.bool).index_fill(0, words, False)
    assert apart(found[rest], plain[rest]) < 1e-5


def test_a_verbalizer_reads_the_classes() -> None:
    """The label words' scores are the classes', and the words' own rows have no say."""
    base, changed = base_of("bert"), tiny_base("bert")
    method = WARP(words=("bad", "good"), before=2, after=1)
    adapter = moved_adapter(base, method, WORDS)
    reading = adapter.reading
    assert reading is not None
    ids = [changed.tokenizer.convert_tokens_to_ids(word) for word in method.words]
    head = changed.linear(changed.sites["lm_head"])
    with torch.no_grad():
        head.module.weight = torch.nn.Parameter(head.weight_OI.clone())  # no longer tied to the embeddings
        head.weight_OI[ids] += 1.0
    batch = reading.collate([reading.encode(example) for example in sentences()[:3]])
    found = []
    for one in (base, changed):
        with torch.no_grad(), attach(one, adapter) as attached:
            found.append(torch.stack(attached.read(batch)))
    assert apart(found[1], found[0]) < 1e-6
    with torch.no_grad(), attach(base, Worn(Edits(adapter.edits.items[:-1]))) as attached:
        words = reading.scores(base, attached.states(batch.inputs), batch)
    assert apart(words, found[0]) > 1e-2


def test_starts() -> None:
    base = base_of("bert")
    random, words = (start(base, WARP(words=("bad", "good"), before=300, init=init)) for init in ("random", "words"))
    table = base.module("bert.embeddings.word_embeddings").weight
    assert isinstance(table, torch.Tensor)
    prompt = random.state()["embed.prompt_NH"]
    assert abs(float(prompt.std() / table.std()) - 1) < 0.05
    assert random.state()["lm_head.class_CF"].abs().max() <= 48**-0.5
    assert torch.equal(words.state()["embed.prompt_NH"], table[[base.tokenizer.mask_token_id] * 300])
    ids = base.tokenizer.convert_tokens_to_ids(["bad", "good"])
    assert torch.equal(words.state()["lm_head.class_CF"], base.linear(base.sites["lm_head"]).weight_OI[ids])
    assert words.fixed()["lm_head.index_C"].tolist() == ids


def test_with_words_the_logits_start_where_they_were() -> None:
    """Rows and biases are the words' own."""
    base = base_of("bert")
    edits = start(base, WARP(words=("bad", "good"), bias=True, init="words"))
    ids = {"input_ids": torch.tensor([[5, 20, 21, 6]])}
    with torch.no_grad():
        plain = logits(base, ids)
        with attach(base, Worn(Edits(edits.items[-1:]))):
            assert apart(logits(base, ids), plain) < 1e-5
        with attach(base, Worn(perturbed(Edits(edits.items[-1:])))):
            assert apart(logits(base, ids), plain) > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"before": -1}, "WARP needs at least 1 token"),
        ({"before": 0, "after": 0}, "WARP needs at least 1 token"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WARP(**settings)


def test_words_must_be_classes() -> None:
    base = base_of("bert")
    with pytest.raises(InputError, match="one for each class"):
        WARP().edits(base.sites, None)
    with pytest.raises(InputError, match="'xq' is"):
        start(base, WARP(words=("good", "xq")))
    with pytest.raises(InputError, match="the same token"):
        start(base, WARP(words=("good", "good")))


@pytest.mark.parametrize("ids", [[3, 3], [-1, 2], [3, 10**6]])
def test_a_stranger_s_words_are_checked(ids: list[int]) -> None:
    base = base_of("bert")
    edit = start(base, METHOD)[-1].with_tensors({"index_C": torch.tensor(ids)})
    with pytest.raises(AdapterFileError, match="2 different ids"):
        edit.check(base.sites)


def test_a_head_reads_no_words() -> None:
    with pytest.raises(UnsupportedError, match="fit it with a Verbalizer"):
        new_adapter(base_of("bert"), method=METHOD, readout=Head(), task=sentiment_task())
