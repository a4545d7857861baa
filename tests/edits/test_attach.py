"""The context manager: rows, nesting, threads, and leaving the base as it was."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, SiteError, StateError, UnsupportedError
from lmtailor.edits.attach import attach
from tests.edits.worn import BEAMS, Given, Shift, apart, base_of, generated, logits, noise, wear, worn
from tests.tiny import FAMILIES, tiny_base, tiny_inputs

MODEL = "gpt2"


@pytest.fixture
def base() -> Base:
    return base_of(MODEL)


MIXED = ("lora", "houlsby", "prefix", "soft_prompt")
"""Methods that together make the kinds of edit that share a batch."""


def traces(model: nn.Module) -> Iterator[object]:
    """Everything that attaching touches."""
    for name, module in model.named_modules():
        yield name, tuple(module._forward_hooks.values()), tuple(module._forward_pre_hooks.values()), sorted(module.__dict__)
        yield tuple((key, id(value)) for key, value in module._parameters.items())
        config = getattr(module, "config", None)
        yield getattr(config, "_attn_implementation_internal", None)


@pytest.mark.parametrize("key", FAMILIES)
def test_the_base_is_bitwise_what_it_was(key: str) -> None:
    base = base_of(key)
    adapters = [wear(base, name, i) for i, name in enumerate(MIXED)]
    inputs = tiny_inputs(base, rows=5)
    before, plain = list(traces(base.model)), logits(base, inputs)
    with torch.no_grad(), attach(base, adapters, [0, 1, 2, 3, None]):
        edited = logits(base, inputs)
    assert list(traces(base.model)) == before
    assert torch.equal(logits(base, inputs), plain)
    assert all(apart(edited[i], plain[i]) > 1e-2 for i in range(4)), "an adapter did nothing"
    assert apart(edited[4], plain[4]) < 1e-5


@pytest.mark.parametrize("name", ["lora", "prefix", "soft_prompt", "full"])
def test_an_exception_inside_detaches(base: Base, name: str) -> None:
    inputs = tiny_inputs(base)
    before, plain = list(traces(base.model)), logits(base, inputs)

    def fail() -> None:
        with attach(base, wear(base, name)):
            assert apart(logits(base, inputs), plain) > 1e-2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(traces(base.model)) == before
    assert torch.equal(logits(base, inputs), plain)


def test_an_exception_in_the_forward_leaves_counters_right() -> None:
    base = base_of("albert")  # shared blocks are told apart by counting calls
    adapter, inputs = wear(base, "houlsby", bottleneck=3), tiny_inputs(base)
    fail = True

    def stop(module: nn.Module, args: object) -> None:
        if fail:
            raise ZeroDivisionError

    with torch.no_grad(), attach(base, adapter):
        wanted = logits(base, inputs)
        handle = base.module(base.sites["block.0.ffn.down"].module).register_forward_pre_hook(stop)
        with pytest.raises(ZeroDivisionError):
            logits(base, inputs)
        fail = False
        assert torch.equal(logits(base, inputs), wanted)
        handle.remove()


def test_a_nested_attach_raises_and_the_outer_one_goes_on(base: Base) -> None:
    adapter, inputs = wear(base, "lora"), tiny_inputs(base)
    with torch.no_grad(), attach(base, adapter):
        edited = logits(base, inputs)
        with pytest.raises(StateError, match="attached to this base already"), attach(base, adapter):
            pass
        assert torch.equal(logits(base, inputs), edited)


def test_another_thread_cannot_attach_meanwhile(base: Base) -> None:
    raised: list[BaseException] = []

    def other() -> None:
        try:
            with attach(base, wear(base, "lora", 1)):
                pass
        except StateError as error:
            raised.append(error)

    with attach(base, wear(base, "lora")):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(raised) == 1
    other()
    assert len(raised) == 1


def test_two_bases_can_be_worn_at_once() -> None:
    one, two = tiny_base(MODEL), tiny_base(MODEL)
    inputs = tiny_inputs(one)
    with torch.no_grad(), attach(one, wear(one, "lora")), attach(two, wear(two, "lora", 1)):
        assert not torch.equal(logits(one, inputs), logits(two, inputs))


def test_an_attached_can_be_entered_again(base: Base) -> None:
    inputs, attached = tiny_inputs(base), attach(base, wear(base, "prefix", length=3))
    with torch.no_grad():
        with attached:
            first = logits(base, inputs)
        with attached:
            assert torch.equal(logits(base, inputs), first)


def test_rows_are_checked(base: Base) -> None:
    one = wear(base, "lora")
    with pytest.raises(InputError, match=r"rows\[1\] is 2, but there are 2 adapters"):
        attach(base, [one, one], [0, 2])
    with pytest.raises(InputError, match=r"rows\[0\] is -1"):
        attach(base, [one], [-1])
    with pytest.raises(InputError, match="2 adapters need `rows`"):
        attach(base, [one, one])
    with pytest.raises(InputError, match="0 adapters need `rows`"):
        attach(base, [])
    with pytest.raises(InputError, match="`rows` is empty"):
        attach(base, [one], [])


@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_a_batch_that_does_not_divide_raises(base: Base, name: str) -> None:
    with attach(base, [wear(base, name)], [0, None]), pytest.raises(InputError, match="3 sequences cannot be divided into the 2"):
        logits(base, tiny_inputs(base, rows=3))


def test_a_row_may_have_several_sequences(base: Base) -> None:
    adapters = [wear(base, "lora", 0), wear(base, "prefix", 1, length=3)]
    inputs = tiny_inputs(base, rows=4)
    with torch.no_grad(), attach(base, adapters, [0, 1]):
        mixed = logits(base, inputs)
    for slot, adapter in enumerate(adapters):
        part = {key: value[2 * slot : 2 * slot + 2] for key, value in inputs.items()}
        with torch.no_grad(), attach(base, adapter):
            assert apart(mixed[2 * slot : 2 * slot + 2], logits(base, part)) < 1e-5


def test_one_adapter_serves_any_number_of_rows(base: Base) -> None:
    adapter = wear(base, "lora")
    with torch.no_grad(), attach(base, adapter):
        for rows in (1, 3):
            inputs = tiny_inputs(base, rows=rows)
            found = logits(base, inputs)
            with_beams = generated(base, inputs, **BEAMS)
            assert len(found) == rows
            assert len(with_beams) == 2 * rows


@pytest.mark.parametrize("name", ["lora", "houlsby", "prefix", "soft_prompt", "full"])
def test_edits_of_another_architecture_raise(base: Base, name: str) -> None:
    """An edit whose place is not there must not be left out."""
    with pytest.raises(SiteError, match=r"gpt2 has no site|The base has no parameter"):
        attach(base, wear(base_of("t5"), name))


def test_a_prompt_acts_on_embeddings_alone(base: Base) -> None:
    with pytest.raises(UnsupportedError, match=r"embedding sites; block\.0 is a block"):
        attach(base, worn(Given(site="block.0", length=1, prompt_NH=noise(1, 48))))


def test_a_state_edit_at_a_site_of_another_kind_raises(base: Base) -> None:
    with pytest.raises(UnsupportedError, match=r"block\.0\.attn\.o is a projection"):
        attach(base, worn(Shift(site="block.0.attn.o", delta_H=noise(48))))


def test_the_model_needs_an_input(base: Base) -> None:
    with attach(base, wear(base, "lora")), pytest.raises(InputError, match="without input_ids"):
        base.model()
