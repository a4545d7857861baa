"""A mixture of soft prompts: the paper's formula on the plain model, in logits, in scores of readouts, and while generating."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, StateError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.predict import predict
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method, Words
from lmtailor.methods.soft_prompt_mixture import SoftPromptMixture
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from tests.edits.worn import Worn, apart, base_of, generated, left_padded, logits, wear
from tests.fit.tasks import grades, sentiment
from tests.readouts.examples import sentences
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_inputs

TEXTS = ["a great movie", "the cat was sad and boring", "so good that the text was very very very long", "no"]
WORDS = Verbalizer("{sentence} it was {mask}", {"neg": ("bad", "sad"), "pos": ("great",)}, aggregate="sum")
PIECES = Verbalizer("{sentence} it was {mask}", {"neg": ("so bad",), "pos": ("great",)})
MIXTURE = SoftPromptMixture(prompts=3, length=2)


def count(method: SoftPromptMixture, base: Base) -> int:
    """T (L N H + 1), of the only stack or of the encoder."""
    layers = len(base.stacks[0].blocks) if method.deep else 1
    return method.prompts * (layers * method.length * base.hidden_size + 1)


def members(edits: Edits) -> tuple[list[dict[str, Any]], Any]:
    """Each member's tensors by field, blocks in order, and the shares."""
    out = []
    for part in edits.split():
        tensors: dict[str, Any] = {"deltas": []}
        for name, value in part.state().items():
            field = name.rpartition(".")[2]
            if field == "delta_NH":
                tensors["deltas"].append(value)
            else:
                tensors[field] = value
        out.append(tensors)
    weights = np.array([float(one["weight_1"]) for one in out])
    return out, np.exp(weights) / np.exp(weights).sum()


def concatenated(base: Base, member: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    """Log-probabilities of one member: the plain model on prompt and input as one sequence, states of the prompt perturbed."""
    stack, length = base.stacks[0], len(member["prompt_NH"])
    words = base.module(stack.embedding)(inputs["input_ids"]) * stack.embedding_scale
    embeds = torch.cat([member["prompt_NH"].expand(len(words), -1, -1), words], 1)
    mask = torch.cat([torch.ones(len(words), length, dtype=torch.long), inputs["attention_mask"]], 1)
    handles = [hooked(base.module(path), delta) for path, delta in zip(stack.blocks, member["deltas"], strict=False)]
    rest = {name: value for name, value in inputs.items() if name.startswith("decoder")}
    try:
        out: Tensor = base.model(inputs_embeds=embeds, attention_mask=mask, **rest).logits
    finally:
        for handle in handles:
            handle.remove()
    return (out if rest else out[:, length:]).log_softmax(-1)


def hooked(block: nn.Module, delta: Tensor) -> Any:
    """A hook that adds Δ to the first states of a block's output."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        new = torch.cat([state[:, : len(delta)] + delta, state[:, len(delta) :]], 1)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return block.register_forward_hook(add)


@pytest.mark.parametrize("key", ["bert", "roberta", "modernbert", "gpt2", "llama", "gemma2", "t5", "bart"])
def test_the_logits_are_those_of_the_formula(key: str) -> None:
    base = base_of(key)
    worn = wear(base, "soft_prompt_mixture", prompts=3, length=2)
    inputs = {name: value for name, value in tiny_inputs(base).items() if name != "token_type_ids"}
    inputs |= {"input_ids": inputs["input_ids"].clamp_min(9), "attention_mask": torch.ones_like(inputs["attention_mask"])}
    each, shares = members(worn.edits)
    with torch.no_grad():
        p = np.stack([concatenated(base, member, inputs).exp().double().numpy() for member in each])
        with attach(base, worn):
            found = logits(base, inputs)
    wanted = torch.tensor(np.log((p * shares[:, None, None, None]).sum(0))).float()
    assert apart(found, wanted) < 1e-5
    assert apart(torch.tensor(np.log(p[0])).float(), wanted) > 1e-2, "the members do not differ"


def test_shares_that_are_all_one_member_s_leave_that_member() -> None:
    base = base_of("gpt2")
    edits = wear(base, "soft_prompt_mixture", prompts=3, length=2).edits
    state = {
        name: torch.full((1,), 50.0 * name.endswith("weight_1#1")) if "weight" in name else v for name, v in edits.state().items()
    }
    with torch.no_grad():
        with attach(base, Worn(edits.with_state(state))):
            found = logits(base, tiny_inputs(base))
        with attach(base, Worn(edits.split()[1])):
            wanted = logits(base, tiny_inputs(base)).log_softmax(-1)
    assert apart(found, wanted) < 1e-5


def member_adapters(adapter: Adapter) -> list[tuple[Adapter, float]]:
    """The members as adapters of their own, with the mixture's readout, and their shares."""
    parts = [replace(adapter, edits=part) for part in adapter.edits.split()]
    return list(zip(parts, members(adapter.edits)[1].tolist(), strict=True))


def batch_of(adapter: Adapter) -> tuple[Any, Any]:
    """Its readout, and a batch of sentences."""
    assert adapter.reading is not None
    return adapter.reading, adapter.reading.collate([adapter.reading.encode(example) for example in sentences()])


def scores_of(base: Base, adapter: Adapter) -> Tensor:
    """Scores of a batch of sentences."""
    _, batch = batch_of(adapter)
    with torch.no_grad(), attach(base, adapter) as attached:
        return attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch)


@pytest.mark.parametrize("key", ["bert", "gpt2"])
@pytest.mark.parametrize("readout", [Head(), Head(layer=1, hidden=5), PIECES], ids=["head", "hidden", "pieces"])
def test_the_scores_of_labels_are_mixed(key: str, readout: Any) -> None:
    """A head's probabilities are over the labels, a word's of several tokens over all words."""
    base = base_of(key)
    adapter = moved_adapter(base, MIXTURE, readout, by=0.3)
    found = scores_of(base, adapter)
    each = [(scores_of(base, one), share) for one, share in member_adapters(adapter)]
    if isinstance(readout, Head):
        each = [(scores.log_softmax(1), share) for scores, share in each]
    wanted = torch.stack([share * scores.double().exp() for scores, share in each]).sum(0).log().float()
    assert apart(found, wanted) < 1e-5


@pytest.mark.parametrize("key", ["bert", "gpt2", "gemma2"])
def test_words_of_one_token_count_by_their_probability_among_all_words(key: str) -> None:
    base = base_of(key)
    adapter = moved_adapter(base, MIXTURE, WORDS, by=0.3)
    reading, batch = batch_of(adapter)
    assert reading.single
    with torch.no_grad(), attach(base, adapter):
        p_NV = base.model(**batch.inputs).logits[torch.arange(batch.size), batch.read_NP[:, 0]].softmax(-1)
    bad, sad, great = (p_NV[:, word.pieces[0]] for word in reading.words)
    wanted = torch.stack([bad + sad, great], 1).log()
    assert apart(scores_of(base, adapter), wanted) < 1e-5


def test_numbers_are_averaged() -> None:
    base, task = base_of("bert"), grades()
    start = new_adapter(base, method=MIXTURE, readout=Head(), task=task)
    rng = generator(1)
    adapter = start.with_state({name: v.detach() + 0.1 * torch.randn(v.shape, generator=rng) for name, v in start.state.items()})
    (found,) = predict(base, adapter, TEXTS[:1])
    each = [(predict(base, one, TEXTS[:1])[0].value, share) for one, share in member_adapters(adapter)]
    assert found.value == pytest.approx(sum(share * value for value, share in each if value is not None), rel=1e-5)


@pytest.mark.parametrize("key", ["bert", "gpt2"])
def test_rows_beside_other_adapters_answer_as_alone(key: str) -> None:
    base = base_of(key)
    adapters = [
        moved_adapter(base, MIXTURE, Head(), seed=0),
        moved_adapter(base, LoRA(rank=2), Head(hidden=4), seed=1),
        moved_adapter(base, SoftPromptMixture(prompts=2, length=3, deep=False), WORDS, seed=2),
    ]
    rows = [0, 2, 1, 0, 2, 1, 1, 0]
    mixed = predict(base, adapters, TEXTS * 2, rows=rows, batch_size=8)
    for text, row, answer in zip(TEXTS * 2, rows, mixed, strict=True):
        (solo,) = predict(base, adapters[row], [text])
        assert answer.scores == pytest.approx(solo.scores, rel=1e-4, abs=1e-6)


def test_read_gives_each_row_its_own_answer() -> None:
    base = base_of("bert")
    adapters = [moved_adapter(base, MIXTURE, Head(), seed=0), moved_adapter(base, LoRA(rank=2), Head(), seed=1)]
    _, batch = batch_of(adapters[0])
    with torch.no_grad():
        with attach(base, adapters, [1, 0, 1, 0]) as attached:
            mixed = attached.read(batch)
        for row, slot in enumerate([1, 0, 1, 0]):
            with attach(base, adapters[slot]) as attached:
                assert apart(mixed[row][None], attached.read(batch)[row][None]) < 1e-5


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("key", ["gpt2", "llama", "t5", "bart"])
def test_generated_tokens_are_those_of_the_mixture_without_a_cache(key: str, options: dict[str, Any]) -> None:
    base = base_of(key)
    worn = wear(base, "soft_prompt_mixture", prompts=3, length=2)
    inputs = left_padded(base, [3, 5, 4])
    with torch.no_grad(), attach(base, worn):
        cached = generated(base, inputs, tokens=5, **options)
        plain = generated(base, inputs, tokens=5, use_cache=False, **options)
    assert torch.equal(cached, plain)
    with torch.no_grad():
        assert not torch.equal(cached, generated(base, inputs, tokens=5, **options))


def test_it_is_fitted_beside_another_as_it_is_alone() -> None:
    """In shared batches its rows run three times, the other's once; what pays is learned, and shares move."""
    base, task = base_of("gpt2"), sentiment(24, 8)
    training = Training(epochs=2, batch_size=8, lr=3e-2, optimizer="adamw")
    methods: list[Method] = [LoRA(rank=2), MIXTURE]
    readouts: list[Readout] = [Head(), WORDS]
    together = fit(base, [task, task], method=methods, readout=readouts, training=training, seed=[1, 2])
    alone = fit(base, task, method=MIXTURE, readout=WORDS, training=training, seed=2)
    assert isinstance(together, list)
    for name, tensor in together[1].state.items():
        assert apart(tensor, alone.state[name]) < 2e-3, name
    _, shares = members(alone.edits)
    assert max(abs(shares - 1 / 3)) > 1e-3


# starts and refusals


def test_the_members_start_apart_and_count_alike() -> None:
    base = base_of("bert")
    for init in ("normal", "vocab", "random"):
        method = SoftPromptMixture(prompts=3, length=4, init=init)
        edits = method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))
        each, shares = members(edits)
        assert shares == pytest.approx([1 / 3] * 3)
        prompts = torch.stack([one["prompt_NH"] for one in each])
        assert all(not torch.equal(prompts[0], other) for other in prompts[1:])
        assert all(not delta.any() for one in each for delta in one["deltas"])
        table = base.module(base.stacks[0].embedding).get_parameter("weight")
        if init == "vocab":
            assert torch.eq(prompts.flatten(0, 1)[:, None], table).all(-1).any(-1).all()
        if init == "normal":
            assert prompts.std() == pytest.approx(float(table.std()), rel=0.3)


def test_what_a_mixture_cannot_be() -> None:
    base = base_of("gpt2")
    with pytest.raises(InputError, match=r"prompts is 1; .* at least 2.*SoftPrompt"):
        SoftPromptMixture(prompts=1)
    with pytest.raises(InputError, match=r"prompts is 1000000000; every input runs once for each, and 1000 are the most"):
        SoftPromptMixture(prompts=10**9)
    with pytest.raises(InputError, match="length is 0"):
        SoftPromptMixture(length=0)
    with pytest.raises(UnsupportedError, match=r"runs each row once for each of its members.*Fit it alone"):
        (MIXTURE + LoRA(rank=2)).edits(base.sites, None)
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, wear(base, "soft_prompt_mixture", prompts=2, length=2)):
        with pytest.raises(UnsupportedError, match="Call it without labels"):
            logits(base, inputs, labels=inputs["input_ids"])
        with pytest.raises(StateError, match="return_dict=True"):
            logits(base, inputs, return_dict=False)
    worn = [wear(base, "soft_prompt_mixture", prompts=2, length=2), wear(base, "lora", rank=2)]
    with torch.no_grad(), attach(base, worn, [0, 1]), pytest.raises(InputError, match="3 sequences cannot be divided into the 2"):
        logits(base, inputs)
