"""Virtual tokens between the text and the answer of causal decoders, against the plain model on rows put together by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.infer.shared import score_together
from lmtailor.methods._prompts import SoftPromptEdit
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.batch import InputForm
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from tests.edits.worn import BEAMS, Worn, apart, base_of, generated, left_padded, logits, noise, row, wear, worn
from tests.readouts.examples import sentences
from tests.store.adapters import moved_adapter, scores
from tests.tiny import FAMILIES, kind_of, tiny_config, tiny_inputs, tiny_tokenizer

DECODERS = [key for key in FAMILIES if kind_of(key) == "decoder"]
ANSWERS = (3, 5, 1)
"""Where the answers of three rows begin."""


def infix(base: Base, length: int = 4, seed: int = 0) -> tuple[Tensor, Worn]:
    """A prompt between text and answer, and what wears it."""
    prompt = noise(length, base.sites["embed"].width, seed=seed).requires_grad_()
    return prompt, worn(SoftPromptEdit(site="embed", length=length, place="infix", prompt_NH=prompt))


def by_hand(base: Base, ids_T: Tensor, start: int, prompt_NH: Tensor) -> Tensor:
    """The plain model's logits of one row (1, T, V); the text's last token is read at the last virtual one."""
    stack = base.stacks[0]
    own = base.module(stack.embedding)(ids_T) * stack.embedding_scale
    out = logits(base, {"inputs_embeds": torch.cat([own[:start], prompt_NH, own[start:]])[None]})
    return torch.cat([out[:, : start - 1], out[:, start - 1 + len(prompt_NH) :]], 1)


@pytest.mark.parametrize("key", DECODERS)
def test_it_is_a_concatenation(key: str) -> None:
    """In the forward and in the gradient."""
    base = base_of(key)
    inputs = tiny_inputs(base)
    prompt, adapter = infix(base)
    real = [own.bool() for own in inputs["attention_mask"]]
    wanted = [by_hand(base, inputs["input_ids"][i, real[i]], ANSWERS[i], prompt) for i in range(3)]
    weights = [noise(*one.shape, seed=i) for i, one in enumerate(wanted)]
    (reference,) = torch.autograd.grad(sum((w * one).sum() for w, one in zip(weights, wanted, strict=True)), [prompt])  # type: ignore[arg-type]
    with attach(base, adapter) as attached, attached.answering(torch.tensor(ANSWERS)):
        out = logits(base, inputs)
        assert out.shape[:2] == inputs["input_ids"].shape
        found = [out[i : i + 1, real[i]] for i in range(3)]
        (gradient,) = torch.autograd.grad(sum((w * one).sum() for w, one in zip(weights, found, strict=True)), [prompt])  # type: ignore[arg-type]
    for one, other in zip(found, wanted, strict=True):
        assert apart(one, other) < 1e-5
    assert apart(gradient, reference) < 1e-4


@pytest.mark.parametrize("key", DECODERS)
def test_an_answer_of_which_nothing_is_said_begins_behind_the_text(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    prompt, adapter = infix(base)
    with torch.no_grad(), attach(base, adapter):
        out = logits(base, inputs)
        states = base.model(**inputs, output_hidden_states=True).hidden_states
    assert all(state.shape[:2] == inputs["input_ids"].shape for state in states)
    for i, own in enumerate(inputs["attention_mask"].bool()):
        wanted = by_hand(base, inputs["input_ids"][i, own], int(own.sum()), prompt)
        assert apart(out[i : i + 1, own], wanted) < 1e-5


@pytest.mark.parametrize("key", DECODERS)
def test_greedy_decoding_is_the_forward_step_by_step(key: str) -> None:
    """With a cache, which holds the virtual tokens, and without one, where each step puts them again."""
    base = base_of(key)
    inputs = left_padded(base, [4, 7, 2])
    prompt, adapter = infix(base)
    with torch.no_grad(), attach(base, adapter):
        cached, uncached = generated(base, inputs), generated(base, inputs, use_cache=False)
    assert torch.equal(cached, uncached)
    for i, own in enumerate(inputs["attention_mask"].bool()):
        ids = inputs["input_ids"][i, own]
        start = len(ids)
        for _ in range(5):
            with torch.no_grad():
                scores = by_hand(base, ids, start, prompt)[0, -1]
            scores[2] = -torch.inf  # min_new_tokens forbids the end
            ids = torch.cat([ids, scores.argmax()[None]])
        assert torch.equal(cached[i], ids[start:]), i


def mixture(base: Base, prefix: bool) -> list[Worn]:
    """Infixes of several lengths, a prompt before the text, and both beside each other and a LoRA."""
    front = SoftPromptEdit(site="embed", length=3, prompt_NH=noise(3, base.sites["embed"].width, seed=7))
    two = worn(front, *infix(base, 2, seed=5)[1].edits, *wear(base, "lora", rank=2).edits)
    last = [wear(base, "prefix", 3, length=3, place="infix")] if prefix else []
    return [infix(base, 1)[1], infix(base, 6, seed=1)[1], worn(front), two, *last]


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("key", DECODERS)
def test_rows_of_a_mixture_are_what_they_are_alone(key: str, grad: bool) -> None:
    base = base_of(key)
    windows = any(site.attention and site.attention.window for site in base.sites.values())
    adapters = mixture(base, prefix=not windows)
    slots = [1, None, 3, 0, 2, 1, *([] if windows else [4])]
    inputs = tiny_inputs(base, rows=len(slots), tokens=9, seed=2)
    answers = torch.tensor([3, 5, -1, 2, 4, -1, 3][: len(slots)])
    with torch.set_grad_enabled(grad), attach(base, adapters, slots) as attached, attached.answering(answers):
        mixed = logits(base, inputs)
    for i, slot in enumerate(slots):
        real = inputs["attention_mask"][i].bool()
        with torch.no_grad(), attach(base, adapters, [slot]) as attached, attached.answering(answers[i : i + 1]):
            alone = logits(base, row(inputs, i))
        assert apart(mixed[i : i + 1, real], alone) < 1e-5, i


@pytest.mark.parametrize("options", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("key", DECODERS)
def test_rows_generate_what_they_do_alone(key: str, options: dict[str, Any]) -> None:
    base = base_of(key)
    windows = any(site.attention and site.attention.window for site in base.sites.values())
    adapters, slots = mixture(base, prefix=not windows), [3, None, 0, 1, 2 if windows else 4]
    inputs = left_padded(base, [4, 7, 2, 5, 6])
    with torch.no_grad(), attach(base, adapters, slots):
        mixed = generated(base, inputs, **options)
        assert torch.equal(mixed, generated(base, inputs, use_cache=False, **options))
    per_row = len(mixed) // len(slots)
    for i, slot in enumerate(slots):
        with torch.no_grad(), attach(base, adapters, [slot]):
            alone = generated(base, row(inputs, i), **options)
        assert torch.equal(mixed[i * per_row : (i + 1) * per_row], alone), i


@pytest.mark.parametrize("key", ["gpt2", "llama", "mistral", "opt"])
def test_tokens_behind_a_cache_are_as_in_one_pass(key: str) -> None:
    """Where it is said where the answers began; padded texts in the middle of the cache too."""
    base = base_of(key)
    adapters, slots = mixture(base, prefix=False), [0, 1, 3]
    inputs = tiny_inputs(base, rows=3, tokens=12)
    ids, mask = inputs["input_ids"], torch.ones_like(inputs["attention_mask"])
    with torch.no_grad(), attach(base, adapters, slots) as attached, attached.answering(torch.tensor([3, 4, 2])):
        whole = logits(base, {"input_ids": ids, "attention_mask": mask})
        out = base.model(input_ids=ids[:, :4], use_cache=True)
        assert apart(out.logits, whole[:, :4]) < 1e-5
        for part in (slice(4, 5), slice(5, 9)):
            out = base.model(input_ids=ids[:, part], past_key_values=out.past_key_values, use_cache=True)
            assert apart(out.logits, whole[:, part]) < 1e-5


@pytest.mark.parametrize(
    "words", [{"neg": ("bad",), "pos": ("good",)}, {"neg": ("terrible",), "pos": ("utterly good",)}], ids=str
)
@pytest.mark.parametrize("key", ["gpt2", "llama"])
def test_a_verbalizer_s_words_stand_behind(key: str, words: dict[str, tuple[str, ...]]) -> None:
    """Each word is scored where it follows the text and the virtual tokens."""
    base = base_of(key)
    adapter = moved_adapter(base, SoftPrompt(length=3, place="infix"), Verbalizer("{sentence} It was {mask}", words), by=0.3)
    (edit,) = adapter.edits
    assert isinstance(edit, SoftPromptEdit)
    prompt = edit.prompt_NH
    found, _ = scores(base, adapter)
    for example, own in zip(sentences(), found, strict=True):
        text = base.tokenizer(f"{example.fields['sentence']} It was")["input_ids"]
        wanted = []
        for label in words:
            pieces = base.tokenizer(" " + words[label][0], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                out = by_hand(base, torch.tensor([*text, *pieces]), len(text), prompt)[0].log_softmax(-1)
            wanted.append(sum(float(out[len(text) - 1 + i, piece]) for i, piece in enumerate(pieces)))
        # Of words of one token the logits are read, which are equal up to a constant.
        assert float(own[1] - own[0]) == pytest.approx(wanted[1] - wanted[0], rel=1e-4, abs=1e-5)


def test_parts_of_a_joined_batch_are_read_as_alone() -> None:
    """Verbalizers whose answers are in the input beside heads that answer behind it."""
    base = base_of("gpt2")
    method = SoftPrompt(length=3, place="infix")
    spoken = Verbalizer("{sentence} It was {mask}", {"neg": ("terrible",), "pos": ("utterly good",)})
    adapters = [
        moved_adapter(base, method, spoken, by=0.3),
        moved_adapter(base, method, Head(), by=0.3, seed=1),
        moved_adapter(base, Prefix(length=2, place="infix"), spoken, by=0.3, seed=2),
    ]
    readings = [adapter.reading for adapter in adapters]
    batches = [r.collate([r.encode(example) for example in sentences()]) for r in readings if r is not None]
    with torch.no_grad(), attach(base, adapters, [0, 1, 2]) as attached:
        joined = score_together(attached, [0, 1, 2], batches, InputForm(pad_id=0, segments=False))
    for adapter, (found, _) in zip(adapters, joined, strict=True):
        alone, _ = scores(base, adapter)
        assert apart(found, alone) < 1e-5
        with torch.no_grad(), attach(base, adapter) as attached:
            one = attached.read(batches[adapters.index(adapter)].rows([1]))
        assert apart(one[0], alone[1]) < 1e-5


def test_the_base_is_as_it_was() -> None:
    base = base_of("gpt2")
    inputs = tiny_inputs(base)
    before = logits(base, inputs)
    with attach(base, infix(base)[1]):
        assert "generate" in base.model.__dict__
        assert apart(logits(base, inputs), before) > 1e-3
    assert "generate" not in base.model.__dict__
    assert torch.equal(logits(base, inputs), before)


def test_what_cannot_be_is_refused() -> None:
    base = base_of("gpt2")
    inputs = tiny_inputs(base)
    ids = inputs["input_ids"]
    with torch.no_grad(), attach(base, infix(base)[1]) as attached:
        out = base.model(input_ids=ids, use_cache=True)
        with pytest.raises(InputError, match="Behind a cache it cannot be seen where the text ended"):
            base.model(input_ids=ids[:, :1], past_key_values=out.past_key_values)
        with attached.answering(20), pytest.raises(UnsupportedError, match="holds 7 tokens of a text that ends at 20"):
            base.model(input_ids=ids[:, :1], past_key_values=out.past_key_values)
        with attached.answering(0), pytest.raises(InputError, match="Answers begin at tokens 0 to 0, but an input has 7"):
            logits(base, inputs)
        with attached.answering(10), pytest.raises(InputError, match="Answers begin at tokens 10 to 10"):
            logits(base, inputs)
        with attached.answering(torch.tensor([1])), pytest.raises(InputError, match="The answers of 1 sequences"):
            logits(base, inputs)
        with pytest.raises(UnsupportedError, match="two-dimensional attention mask"):
            base.model(input_ids=ids, attention_mask=torch.ones(3, 1, 7, 7))
        with pytest.raises(InputError, match="129 positions; the model has 128"):
            logits(base, tiny_inputs(base, tokens=125))
    for key in ("bert", "t5"):
        site = next(site.name for site in base_of(key).sites.values() if site.kind == "embedding")
        with pytest.raises(UnsupportedError, match="between text and answer of a causal decoder"):
            attach(base_of(key), worn(SoftPromptEdit(site=site, length=2, place="infix", prompt_NH=noise(2, 48))))


def test_rotations_that_depend_on_the_batch_refuse_mixed_shifts() -> None:
    config = tiny_config("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    base = Base.from_model(model, tiny_tokenizer("decoder"))
    inputs = tiny_inputs(base)
    for adapter in (infix(base)[1], wear(base, "prefix", length=2, place="infix")):
        with attach(base, [adapter], [0, None, 0]), pytest.raises(UnsupportedError, match="depends on the longest sequence"):
            logits(base, inputs)
        with torch.no_grad(), attach(base, [adapter], [0, 0, 0]):
            assert logits(base, inputs).isfinite().all()
