"""A training step with LoRA on the queries and values of an encoder, beside PEFT's, on the same weights and tokens."""

import argparse
import copy
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from timing import alternate

import lmtailor as lt
from lmtailor.base.base import Base
from lmtailor.edits.attach import attach

ROWS, TOKENS = 16, 32


def ours(base: Base, inputs: dict[str, torch.Tensor]) -> tuple[Callable[[], float], list[torch.Tensor]]:
    """Forward and backward, and the trained tensors."""
    adapter = lt.new_adapter(base, method=lt.methods.method_class("lora")(rank=8))
    rng = torch.Generator().manual_seed(0)
    adapter = adapter.with_state(
        {name: (value + 0.01 * torch.randn(value.shape, generator=rng)).requires_grad_() for name, value in adapter.state.items()}
    )
    attached = attach(base, adapter)

    def step() -> float:
        with attached:
            loss = base.hidden(inputs).last_NTH.square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    return step, list(adapter.state.values())


def theirs(base: Base, inputs: dict[str, torch.Tensor], tensors: list[torch.Tensor]) -> Callable[[], float]:
    """The same in PEFT, on the same numbers."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
    model = get_peft_model(copy.deepcopy(base.model), config).eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter, tensor in zip(trained, tensors, strict=True):
            parameter.copy_(tensor)

    def step() -> float:
        loss = model(**inputs).last_hidden_state.square().mean()
        loss.backward()
        return float(loss.detach())

    return step


def main() -> None:
    """Print both."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", help="an encoder such as BERT")
    arguments.add_argument("--threads", type=int, default=2)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    base = lt.load_base(chosen.model)
    ids = torch.randint(1000, 20_000, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    our_step, tensors = ours(base, inputs)
    their_step = theirs(base, inputs, tensors)
    one, other = our_step(), their_step()
    assert abs(one - other) < 1e-5 * abs(other), f"the losses differ: {one} and {other}"
    times = alternate({"ours": our_step, "peft": their_step})
    print(
        f"{ROWS} x {TOKENS} tokens: ours {times['ours'] * 1e3:.0f} ms, PEFT {times['peft'] * 1e3:.0f} ms, "
        f"PEFT / ours {times['peft'] / times['ours']:.2f}"
    )


if __name__ == "__main__":
    main()
