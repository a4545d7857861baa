"""WARP against the paper's formula in NumPy, on the plain model's features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PromptEdit
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.predict import predict
from lmtailor.methods.method import Words
from lmtailor.methods.warp import WARP, ClassEdit
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from tests.edits.worn import Worn, apart, base_of, inputs_of, logits, perturbed
from tests.fit.tasks import sentiment
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
    default = 8 if method.front is None and method.before is None and method.after is None else 0
    tokens = (default or sum(count or 0 for count in (method.front, method.before, method.after))) * table.shape[1]
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


@pytest.mark.parametrize("key", ["bert", "roberta", "gpt2", "llama", "t5", "bart"])
def test_the_classes_are_the_verbalizer_s_words(key: str, tmp_path: Path) -> None:
    """Nothing but `WARP()` is said; scores are V f + b, and all of it is trained, kept and read."""
    base, task = base_of(key), sentiment(24, 8)
    good, bad = ("a", "i") if key == "bart" else ("great", "bad")  # a decoder that answers writes a word without a space
    words = Verbalizer(pattern="{sentence} it was {mask}", words={"pos": (good,), "neg": (bad,)})
    start = new_adapter(base, method=WARP(bias=True), readout=words, task=task)
    training = Training(max_steps=3, batch_size=8, lr=0.05)
    adapter = fit(base, task, method=WARP(bias=True), readout=words, training=training)
    assert isinstance(adapter.method, WARP)
    assert set(adapter.method.words) == {good, bad}
    assert all((adapter.state[name] - value).abs().max() > 1e-3 for name, value in start.state.items())
    reading, classes = adapter.reading, adapter.edits[-1]
    assert isinstance(classes, ClassEdit)
    assert classes.bias_C is not None
    assert reading is not None
    batch = reading.collate([reading.encode(example) for example in task.split("dev").examples])
    with torch.no_grad(), attach(base, adapter) as attached, inputs_of(base.module(base.sites["lm_head"].module)) as calls:
        found = attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch)
    by_id = dict(zip(classes.index_C.tolist(), (calls[-1] @ classes.class_CF.T + classes.bias_C).T, strict=True))
    ids = [word.pieces[0] for word in reading.words]  # type: ignore[attr-defined]
    behind = dict(base.model.named_buffers()).get("final_logits_bias", torch.zeros(1, base.vocab_size))[0, ids]
    assert apart(found, torch.stack([by_id[i] for i in ids], 1) + behind) < 1e-5
    save_adapter(adapter, tmp_path)
    again = load_adapter(tmp_path, base)
    assert again.method == adapter.method
    texts = [{"sentence": "the movie was fun"}]
    assert predict(base, again, texts) == predict(base, adapter, texts)


def test_where_tokens_stand_by_itself() -> None:
    """Around the gap; between text and answer; before the encoder."""
    places = {}
    for key in ("bert", "gpt2", "t5"):
        prompts = [edit for edit in start(base_of(key), WARP(words=("bad", "good"))) if isinstance(edit, PromptEdit)]
        places[key] = [(edit.site, edit.place, edit.length) for edit in prompts]
    assert places["bert"] == [("embed", "before_gap", 4), ("embed", "after_gap", 4)]
    assert places["gpt2"] == [("embed", "infix", 8)]
    assert places["t5"] == [("encoder.embed", "front", 8)]


@pytest.mark.parametrize(
    ("key", "settings", "message"),
    [
        ("gpt2", {"after": 1}, "gpt2 is a causal decoder. Set after=0"),
        ("t5", {"before": 2, "after": 0}, "t5 is an encoder-decoder. Set both to 0"),
    ],
)
def test_places_that_a_model_has_not(key: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        WARP(words=("bad", "good"), **settings).edits(base_of(key).sites, None)


def test_a_verbalizer_that_has_no_classes() -> None:
    base, task = base_of("bert"), sentiment(24, 8)

    def made(words: dict[str, tuple[str, ...]], method: WARP = WARP()) -> None:  # noqa: B008
        new_adapter(base, method=method, readout=Verbalizer(pattern="{sentence} {mask}", words=words), task=task)

    with pytest.raises(InputError, match="the label 'pos' has 2 words"):
        made({"pos": ("good", "great"), "neg": ("bad",)})
    with pytest.raises(InputError, match=r"WARP's words are \['awful', 'good'\], and the verbalizer's"):
        made({"pos": ("good",), "neg": ("bad",)}, method=WARP(words=("awful", "good")))
    with pytest.raises(InputError, match="'xq' is"):
        made({"pos": ("good",), "neg": ("xq",)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"before": -1}, "none can be below 0"),
        ({"words": ("a", "b"), "ids": (1,)}, "1 ids for 2 words"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WARP(**settings)


def test_it_needs_a_token() -> None:
    with pytest.raises(InputError, match="WARP needs at least 1 token"):
        WARP(words=("bad", "good"), before=0, after=0).edits(base_of("bert").sites, None)


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
