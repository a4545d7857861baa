"""Log-probabilities at the positions that are read."""

import pytest
import torch

from lmtailor.readouts import likelihood
from lmtailor.readouts.likelihood import log_probabilities
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
