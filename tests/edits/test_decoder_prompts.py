"""Virtual tokens before the decoder of an encoder-decoder, against the plain model on concatenated embeddings."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.attach import attach
from lmtailor.edits.kinds import TokenPrompt
from tests.edits.worn import BEAMS, Given, Worn, apart, base_of, generated, left_padded, logits, noise, row, wear, worn
from tests.methods.theirs import wrapped
from tests.tiny import FAMILIES, kind_of, tiny_base, tiny_inputs

SEQ2SEQ = [key for key in FAMILIES if kind_of(key) == "encoder-decoder"]
LENGTH = 4


def prompted(base: Base, length: int = LENGTH, seed: int = 0) -> tuple[Tensor, Worn]:
    """A prompt before the decoder and what wears it."""
    prompt = noise(length, base.sites["decoder.embed"].width, seed=seed).requires_grad_()
    return prompt, worn(Given(site="decoder.embed", length=length, prompt_NH=prompt))


def concatenated(base: Base, inputs: dict[str, Tensor], prompt_NH: Tensor) -> Tensor:
    """The plain model's logits on the decoder's embeddings behind a prompt's."""
    rest = dict(inputs)
    own = base.module(base.read.embedding)(rest.pop("decoder_input_ids")) * base.read.embedding_scale
    rest["decoder_inputs_embeds"] = torch.cat([prompt_NH.expand(len(own), -1, -1), own], 1)
    return logits(base, rest)[:, len(prompt_NH) :]


@pytest.mark.parametrize("key", SEQ2SEQ)
def test_it_is_a_concatenation(key: str) -> None:
    """In the forward and in the gradient."""
    base = base_of(key)
    inputs = tiny_inputs(base)
    prompt, adapter = prompted(base)
    wanted = concatenated(base, inputs, prompt)
    weight = noise(*wanted.shape)
    (reference,) = torch.autograd.grad((wanted * weight).sum(), [prompt])
    with attach(base, adapter):
        found = logits(base, inputs)
        (gradient,) = torch.autograd.grad((found * weight).sum(), [prompt])
    assert apart(found, wanted) < 1e-5
    assert apart(gradient, reference) < 1e-4
    assert apart(found, logits(base, inputs)) > 1e-2


@pytest.mark.parametrize("key", SEQ2SEQ)
def test_greedy_decoding_is_the_forward_step_by_step(key: str) -> None:
    """The cache holds the virtual tokens; without it each step puts them again."""
    base = base_of(key)
    inputs = left_padded(base, [4, 7, 2])
    prompt, adapter = prompted(base)
    first = base.model.config.decoder_start_token_id
    ids = torch.full((3, 1), first)
    for _ in range(5):
        with torch.no_grad():
            scores = concatenated(base, {**inputs, "decoder_input_ids": ids}, prompt)[:, -1]
        scores[:, 2] = -torch.inf  # min_new_tokens forbids the end
        ids = torch.cat([ids, scores.argmax(1, keepdim=True)], 1)
    with torch.no_grad(), attach(base, adapter):
        assert torch.equal(generated(base, inputs), ids[:, 1:])
        assert torch.equal(generated(base, inputs, use_cache=False), ids[:, 1:])


def mixture(base: Base) -> list[Worn]:
    """Prompts of several lengths before the decoder; one beside a prefix and a prompt before the encoder."""
    both = [*wear(base, "prefix", 3, length=3).edits, TokenPrompt(site="encoder.embed", length=2, ids=(30, 41))]
    return [prompted(base, 2)[1], prompted(base, 6, seed=1)[1], worn(*prompted(base, 3, seed=2)[1].edits, *both)]


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("key", SEQ2SEQ)
def test_rows_with_prompts_of_several_lengths(key: str, grad: bool) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base, rows=4, seed=2)
    adapters, slots = mixture(base), [1, 2, None, 0]
    with torch.set_grad_enabled(grad), attach(base, adapters, slots):
        mixed = logits(base, inputs)
    for number, slot in enumerate(slots):
        with torch.no_grad(), attach(base, adapters, [slot]):
            alone = logits(base, row(inputs, number))
        assert apart(mixed[number : number + 1], alone) < 1e-5, number


@pytest.mark.parametrize("options", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("key", SEQ2SEQ)
def test_rows_generate_what_they_do_alone(key: str, options: dict[str, Any]) -> None:
    base = base_of(key)
    inputs, adapters, slots = left_padded(base, [4, 7, 2, 5]), mixture(base), [2, None, 0, 1]
    with torch.no_grad(), attach(base, adapters, slots):
        mixed = generated(base, inputs, **options)
        assert torch.equal(mixed, generated(base, inputs, use_cache=False, **options))
    per_row = len(mixed) // 4
    for number, slot in enumerate(slots):
        with torch.no_grad(), attach(base, adapters, [slot]):
            alone = generated(base, row(inputs, number), **options)
        assert torch.equal(mixed[number * per_row : (number + 1) * per_row], alone), number


@pytest.mark.parametrize("key", ["t5", "bart"])
def test_tokens_behind_a_cache_are_as_in_one_pass(key: str) -> None:
    base = base_of(key)
    adapters = mixture(base)
    inputs = tiny_inputs(base, rows=3, tokens=12)
    ids = inputs.pop("decoder_input_ids")
    with torch.no_grad(), attach(base, adapters, [0, 1, 2]):
        whole = logits(base, {**inputs, "decoder_input_ids": ids})
        out = base.model(**inputs, decoder_input_ids=ids[:, :4], use_cache=True)
        for part in (slice(4, 5), slice(5, 10)):
            states = out.encoder_last_hidden_state
            out = base.model(
                attention_mask=inputs["attention_mask"],
                encoder_outputs=(states,),
                decoder_input_ids=ids[:, part],
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            out.encoder_last_hidden_state = states
            assert apart(out.logits, whole[:, part]) < 1e-5


@pytest.mark.parametrize("key", ["t5", "bart"])
def test_peft_puts_the_same_before_both_stacks(key: str) -> None:
    """Of PEFT's prompts, only multitask prompt tuning uses those of the decoder, in a forward with labels."""
    base = base_of(key)
    width = base.hidden_size
    before, inside = noise(LENGTH, width), noise(LENGTH, width, seed=1)
    config = peft.MultitaskPromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=LENGTH, num_tasks=1, num_ranks=1)
    model = wrapped(tiny_base(key).model, config)
    encoder = model.prompt_encoder.default
    encoder.embedding.weight.data.copy_(torch.cat([before, inside]))
    encoder.prefix_task_cols.data.fill_(1.0)
    encoder.prefix_task_rows.data.fill_(1.0)
    inputs = tiny_inputs(base)
    labels = inputs.pop("decoder_input_ids")
    start = base.model.config.decoder_start_token_id
    shifted = torch.cat([torch.full((len(labels), 1), start), labels[:, :-1]], 1)
    with torch.no_grad():
        theirs = model(**inputs, labels=labels, task_ids=torch.zeros(len(labels), dtype=torch.long)).logits[:, LENGTH:]
        prompts = [("encoder.embed", before), ("decoder.embed", inside)]
        adapter = worn(*(Given(site=site, length=LENGTH, prompt_NH=prompt) for site, prompt in prompts))
        with attach(base, adapter):
            found = logits(base, {**inputs, "decoder_input_ids": shifted})
    assert apart(found, theirs) < 1e-5
