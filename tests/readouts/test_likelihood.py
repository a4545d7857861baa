"""Log-probabilities at the positions that are read."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.attach import attach
from lmtailor.methods import method_class
from lmtailor.readouts import likelihood
from lmtailor.readouts.likelihood import log_probabilities, token_log_probabilities
from lmtailor.store.adapter import Adapter
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base, tiny_inputs

READ = torch.tensor([[0, 2, 2, 5], [3, 0, -1, -1], [1, 1, 1, -1]])
TARGETS = torch.tensor([[20, 30, 31, 40], [50, 9, -1, -1], [11, 12, 11, -1]])


@pytest.mark.parametrize("most", [1, 900, 2**24])
@pytest.mark.parametrize("family", ["llama", "gemma2", "bert"])
def test_equal_to_the_softmax_over_the_whole_vocabulary(family: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(family)
    monkeypatch.setattr(likelihood, "LOGITS", most)
    targets = TARGETS % base.vocab_size * (TARGETS >= 0) - (TARGETS < 0).long()
    with torch.no_grad():
        states = base.hidden(tiny_inputs(base)).last_NTH
        found = log_probabilities(base, states, READ, targets)
        log_p = base.lm_logits(states).double().log_softmax(-1)
    assert found.dtype == torch.float32
    for row in range(3):
        for place in range(4):
            target = int(targets[row, place])
            expected = 0.0 if target < 0 else float(log_p[row, int(READ[row, place]), target])
            assert float(found[row, place]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_state_has_its_logits_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    seen: list[int] = []
    head = base.module(base.sites["lm_head"].module)
    hook = head.register_forward_hook(lambda module, args, out: seen.append(out.shape[0]))
    log_probabilities(base, base.hidden(tiny_inputs(base)).last_NTH, READ, TARGETS)
    hook.remove()
    assert seen == [6]


def test_nothing_expected_and_gradients() -> None:
    base = tiny_base("llama")
    states = base.hidden(tiny_inputs(base)).last_NTH
    assert log_probabilities(base, states, READ, torch.full_like(TARGETS, -1)).tolist() == [[0.0] * 4] * 3
    states = states.detach().requires_grad_()
    log_probabilities(base, states, READ, TARGETS).sum().backward()  # type: ignore[no-untyped-call]
    assert states.grad is not None
    assert (states.grad.abs().sum(-1) > 0).long().tolist() == [
        [1, 0, 1, 0, 0, 1, 0],
        [1, 0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0],
    ]


PROMPT, TARGET = " the movie was a very", " great movie and so good</s>"


def _one(base: Base) -> tuple[dict[str, Tensor], Tensor]:
    """A prompt and its target as transformers takes them: the trunk's arguments, and labels."""
    prompt, target = (base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (PROMPT, TARGET))
    if base.kind == "encoder-decoder":
        return {"input_ids": torch.tensor([prompt])}, torch.tensor([target])
    return {"input_ids": torch.tensor([prompt + target])}, torch.tensor([[-100] * len(prompt) + target])


def _own_loss(base: Base, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """The mean over the target's tokens, from the states that predict them alone."""
    if base.kind == "encoder-decoder":
        start = torch.full((1, 1), base.model.config.decoder_start_token_id)
        states = base.hidden({**inputs, "decoder_input_ids": torch.cat([start, labels[:, :-1]], 1)}).last_NTH[0]
        return -token_log_probabilities(base, states, labels[0]).mean()
    states, following = base.hidden(inputs).last_NTH[0, :-1], labels[0, 1:]
    return -token_log_probabilities(base, states[following >= 0], following[following >= 0]).mean()


def _gradients(adapter: Adapter, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(adapter.state.values()))
    return dict(zip(adapter.state, found, strict=True))


@pytest.mark.parametrize("most", [1, 900, 2**22])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "t5", "bart"])
def test_loss_and_gradients_are_those_of_the_models_own_loss(
    family: str, method: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "LOGITS_WITH_GRADIENT", most)
    base = tiny_base(family)
    adapter = moved_adapter(base, method_class(method)(), by=0.05)
    for tensor in adapter.state.values():
        tensor.requires_grad_()
    inputs, labels = _one(base)
    with attach(base, adapter):
        expected = base.model(**inputs, labels=labels).loss
        wanted = _gradients(adapter, expected)
        found = _own_loss(base, inputs, labels)
        gradients = _gradients(adapter, found)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-6 * largest, msg=name)


def test_what_is_kept_for_the_gradient_has_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    monkeypatch.setattr(likelihood, "LOGITS_WITH_GRADIENT", 4 * base.vocab_size)
    states = torch.randn(64, base.hidden_size, requires_grad=True)
    rows: list[int] = []
    head = base.module(base.sites["lm_head"].module)
    weight = next(head.parameters()).data_ptr()
    hook = head.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != weight:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        log_p = token_log_probabilities(base, states, torch.arange(64))
    hook.remove()
    assert rows == [1, *[4] * 16]
    assert max(kept) <= max(states.numel(), 4 * base.vocab_size)
    weights = torch.randn(64)
    (found,) = torch.autograd.grad(log_p @ weights, states)
    plain = base.lm_logits(states).log_softmax(1)[torch.arange(64), torch.arange(64)]
    torch.testing.assert_close(found, torch.autograd.grad(plain @ weights, states)[0], rtol=1e-4, atol=1e-6)


def test_tokens_without_gradient_and_no_tokens() -> None:
    base = tiny_base("llama")
    states = torch.randn(5, base.hidden_size)
    expected = base.lm_logits(states).log_softmax(1)[torch.arange(5), torch.arange(5)]
    for training in (True, False):
        with torch.set_grad_enabled(training):
            found = token_log_probabilities(base, states, torch.arange(5))
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)
    assert token_log_probabilities(base, states[:0], torch.arange(0)).shape == (0,)
