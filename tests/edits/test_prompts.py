"""Virtual tokens before bidirectional stacks, against the plain model on concatenated embeddings."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, StateError, UnsupportedError
from lmtailor.edits import prefixes
from lmtailor.edits.attach import attach
from lmtailor.edits.kinds import TokenPrompt
from tests.edits.worn import BEAMS, Given, Worn, apart, base_of, generated, inputs_of, left_padded, logits, noise, row, wear, worn
from tests.tiny import FAMILIES, kind_of, tiny_base, tiny_inputs

ENCODERS = [key for key in FAMILIES if kind_of(key) == "encoder"]
SEQ2SEQ = [key for key in FAMILIES if kind_of(key) == "encoder-decoder"]
LENGTH = 5


def site_of(base: Base) -> str:
    return "embed" if base.kind == "encoder" else "encoder.embed"


def prompted(base: Base, length: int = LENGTH, seed: int = 0) -> tuple[Tensor, Worn]:
    """A prompt and what wears it."""
    prompt = noise(length, base.sites[site_of(base)].width, seed=seed).requires_grad_()
    return prompt, worn(Given(site=site_of(base), length=length, prompt_NH=prompt))


def concatenated(base: Base, inputs: dict[str, Tensor], prompt_NH: Tensor) -> dict[str, Tensor]:
    """The inputs as embeddings behind a prompt's."""
    out = dict(inputs)
    stack = base.stacks[0]
    own = base.module(stack.embedding)(out.pop("input_ids")) * stack.embedding_scale
    out["inputs_embeds"] = torch.cat([prompt_NH.expand(len(own), -1, -1), own], 1)
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        if name in out:
            out[name] = F.pad(out[name], (len(prompt_NH), 0), value=value)
    return out


@pytest.mark.parametrize("key", [*ENCODERS, *SEQ2SEQ])
def test_a_prompt_is_a_concatenation_and_is_taken_off_again(key: str) -> None:
    """Equal in the forward and in the gradient; the output has the input's length."""
    base = base_of(key)
    inputs = tiny_inputs(base)
    prompt, adapter = prompted(base)
    real = inputs["attention_mask"].bool() if base.kind == "encoder" else slice(None)
    drop = LENGTH if base.kind == "encoder" else 0
    wanted = logits(base, concatenated(base, inputs, prompt))[:, drop:][real]
    weight = noise(*wanted.shape)
    (reference,) = torch.autograd.grad((wanted * weight).sum(), [prompt])
    with attach(base, adapter):
        found = logits(base, inputs)[real]
        (gradient,) = torch.autograd.grad((found * weight).sum(), [prompt])
    assert apart(found, wanted) < 1e-5
    assert apart(gradient, reference) < 1e-4


@pytest.mark.parametrize("key", ENCODERS)
def test_a_hard_prompt_is_its_tokens(key: str) -> None:
    base = base_of(key)
    inputs, ids = tiny_inputs(base), (20, 31, 25)
    longer = {
        "input_ids": torch.cat([torch.tensor(ids).expand(3, -1), inputs["input_ids"]], 1),
        "attention_mask": F.pad(inputs["attention_mask"], (3, 0), value=1),
    }
    with torch.no_grad(), attach(base, worn(TokenPrompt(site="embed", length=3, ids=ids))):
        found = logits(base, inputs)
    real = inputs["attention_mask"].bool()
    assert apart(found[real], logits(base, longer)[:, 3:][real]) < 1e-5


def test_segments_of_a_pair_stay_with_their_tokens() -> None:
    base = base_of("bert")
    inputs = {**tiny_inputs(base), "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1, 1]]).expand(3, -1)}
    prompt, adapter = prompted(base)
    with torch.no_grad(), attach(base, adapter):
        found = logits(base, inputs)
    real = inputs["attention_mask"].bool()
    assert apart(found[real], logits(base, concatenated(base, inputs, prompt))[:, LENGTH:][real]) < 1e-5


@pytest.mark.parametrize("key", ENCODERS)
def test_hidden_states_have_the_length_of_the_input(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    prompt, adapter = prompted(base)
    wanted = base.model(**concatenated(base, inputs, prompt), output_hidden_states=True).hidden_states
    with torch.no_grad(), attach(base, adapter):
        found = base.model(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert apart(one[real], other[:, LENGTH:][real]) < 1e-5


@pytest.mark.parametrize("key", [*ENCODERS, *SEQ2SEQ])
def test_rows_with_prompts_of_several_lengths(key: str) -> None:
    """Beside a tuned prefix, and a row with nothing."""
    base = base_of(key)
    inputs = tiny_inputs(base, rows=4, seed=2)
    adapters = [prompted(base, 2)[1], prompted(base, 6, seed=1)[1]]
    adapters.append(worn(*prompted(base, 3, seed=2)[1].edits, *wear(base, "prefix", length=4).edits))
    slots = [1, 2, None, 0]
    with torch.no_grad(), attach(base, adapters, slots):
        mixed = logits(base, inputs)
    for number, slot in enumerate(slots):
        one = row(inputs, number)
        with torch.no_grad(), attach(base, adapters, [slot]):
            alone = logits(base, one)
        assert apart(mixed[number : number + 1, : alone.shape[1]], alone) < 1e-5, number


@pytest.mark.parametrize("beams", [False, True], ids=["greedy", "beams"])
@pytest.mark.parametrize("key", SEQ2SEQ)
def test_the_decoder_sees_the_encoder_s_virtual_tokens_in_generate(key: str, beams: bool) -> None:
    base = base_of(key)
    inputs, options = left_padded(base, [4, 7, 2]), BEAMS if beams else {}
    prompt, adapter = prompted(base)
    with torch.no_grad(), attach(base, adapter):
        found = generated(base, inputs, **options)
    per_row = 2 if beams else 1
    for number in range(3):
        whole = concatenated(base, row(inputs, number), prompt.detach())
        assert torch.equal(found[number * per_row : (number + 1) * per_row], generated(base, whole, **options))
    assert not torch.equal(found, generated(base, inputs, **options))


@pytest.mark.parametrize("key", SEQ2SEQ)
def test_without_a_mask_all_is_seen(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    with torch.no_grad(), attach(base, prompted(base)[1]):
        wanted = logits(base, inputs)
        del inputs["attention_mask"]
        assert apart(logits(base, inputs), wanted) < 1e-6


def test_a_prompt_needs_room_among_the_positions() -> None:
    base = base_of("bart")
    with torch.no_grad(), attach(base, prompted(base, 120)[1]):
        logits(base, tiny_inputs(base, tokens=8))
        with pytest.raises(InputError, match="129 positions; the model has 128"):
            logits(base, tiny_inputs(base, tokens=9))


def test_a_mask_for_each_query_cannot_be_widened() -> None:
    base = base_of("bert")
    inputs = tiny_inputs(base)
    inputs["attention_mask"] = torch.ones(3, 7, 7, dtype=torch.long)
    with attach(base, prompted(base)[1]), pytest.raises(UnsupportedError, match="two-dimensional"):
        logits(base, inputs)


def test_a_tuple_cannot_be_shortened() -> None:
    base = base_of("bert")
    with attach(base, prompted(base)[1]), pytest.raises(StateError, match="return_dict=True"):
        base.trunk(**tiny_inputs(base), return_dict=False)


@pytest.mark.parametrize("room", [32, 12])
def test_a_prompt_is_run_as_wide_as_a_vector_where_there_is_room(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind it is padding: it changes nothing of what the prompt leaves."""
    base = tiny_base("gpt2", n_positions=room)
    inputs, prompt = tiny_inputs(base), wear(base, "soft_prompt", length=5)
    with torch.no_grad(), inputs_of(base.module(base.stacks[0].blocks[1])) as seen, attach(base, prompt):
        wide = logits(base, inputs)
    assert seen[0].shape[1] == min(prefixes.LANES, room)
    monkeypatch.setattr(prefixes, "LANES", 1)
    with torch.no_grad(), inputs_of(base.module(base.stacks[0].blocks[1])) as seen, attach(base, prompt):
        assert apart(logits(base, inputs), wide) < 1e-5
    assert seen[0].shape[1] == 5
