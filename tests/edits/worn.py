"""What tests attach: edits without a readout, far from their start, and small edits of every kind that do as they are told."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.base.views import LinearView, NormView
from lmtailor.core.rng import generator
from lmtailor.edits.edit import Context, Edit, per_row, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import HiddenEdit, NormEdit, ProjectionEdit, PromptEdit
from lmtailor.methods import method_class
from lmtailor.methods.method import Method
from tests.tiny import tiny_base, tiny_inputs


@dataclass(frozen=True)
class Worn:
    """An adapter without a readout."""

    edits: Edits
    reading: None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shift(HiddenEdit):
    """h + d."""

    delta_H: Tensor = trained()

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        return h_RTH + self.delta_H[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Replace(HiddenEdit):
    """c · sublayer's input + d · residual: what stands there now is thrown away."""

    needs_entry: ClassVar[bool] = True

    of_entry: float = per_row()
    of_residual: float = per_row()

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        assert x_RTH is not None
        assert residual_RTH is not None
        return self.of_entry * x_RTH + self.of_residual * residual_RTH


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(ProjectionEdit):
    """W (x · s) + b: the input is changed."""

    changes_input: ClassVar[bool] = True

    gain_I: Tensor = trained()

    def input(self, x_RTI: Tensor, ctx: Context) -> Tensor:
        return x_RTI * self.gain_I[:, None]

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        return y_RTO

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight_OI * self.gain_I, bias_O


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine(ProjectionEdit):
    """y · s + d: composing two of them depends on their order."""

    gain_O: Tensor = trained()
    shift_O: Tensor = trained()

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        return y_RTO * self.gain_O[:, None] + self.shift_O[:, None]

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        bias = self.shift_O if bias_O is None else bias_O * self.gain_O + self.shift_O
        return weight_OI * self.gain_O[:, None], bias


@dataclass(frozen=True, kw_only=True, eq=False)
class Added(ProjectionEdit):
    """y + d."""

    shift_O: Tensor = trained()

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        return y_RTO + self.shift_O[:, None]

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight_OI, self.shift_O if bias_O is None else bias_O + self.shift_O


@dataclass(frozen=True, kw_only=True, eq=False)
class Regain(NormEdit):
    """The norm with another gain and another shift, from its input."""

    gain_H: Tensor = trained()
    shift_H: Tensor = trained()

    def normed(self, x_RTH: Tensor, y_RTH: Tensor, norm: NormView, ctx: Context) -> Tensor:
        return norm.normalised(x_RTH) * self.gain_H[:, None] + self.shift_H[:, None]

    def fold(self, gain_H: Tensor, shift_H: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.gain_H, self.shift_H


@dataclass(frozen=True, kw_only=True, eq=False)
class Given(PromptEdit):
    """Given embeddings as a prompt."""

    prompt_NH: Tensor = trained()

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        return self.prompt_NH


def worn(*edits: Edit) -> Worn:
    """An adapter of these edits."""
    return Worn(Edits(edits))


def noise(*shape: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    """A random tensor."""
    return torch.randn(*shape, generator=generator(seed, "noise")) * scale


def perturbed(edits: Edits, seed: int = 0, *, scale: float = 0.1, grad: bool = False) -> Edits:
    """Edits away from their start, so that one that does nothing is found out."""
    rng = generator(seed, "perturbed")
    state = {name: value + scale * torch.randn(value.shape, generator=rng) for name, value in edits.state().items()}
    return edits.with_state({name: value.requires_grad_(grad) for name, value in state.items()})


def wear(base: Base, name: str, seed: int = 0, *, grad: bool = False, **settings: Any) -> Worn:
    """A perturbed adapter of a method."""
    return Worn(perturbed(method(name, **settings).edits(base.sites, generator(seed)), seed, grad=grad))


def method(name: str, **settings: Any) -> Method:
    """A method of the catalogue by name."""
    return method_class(name)(**settings)


@cache
def base_of(key: str) -> Base:
    """A tiny base that tests share: they must leave it as it was."""
    return tiny_base(key)


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest wanted value."""
    assert found.shape == wanted.shape
    found, wanted = found.detach().float(), wanted.detach().float()
    return float((found - wanted).abs().max() / wanted.abs().max())


def all_apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference between gradients, relative to each one's largest value.

    Gradients that are nothing but rounding beside the others (a key's bias, which the softmax does not see) count as small.
    """
    least = 1e-2 * max(float(one.abs().max()) for one in wanted)
    differences = [float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True)]
    return max(difference / max(float(other.abs().max()), least) for difference, other in zip(differences, wanted, strict=True))


def backward(loss: Tensor) -> None:
    """Gradients of a loss."""
    loss.backward()  # type: ignore[no-untyped-call]


def logits(base: Base, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
    """The model's logits."""
    out: Tensor = base.model(**inputs, **options).logits
    return out


def row(inputs: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """One row of a batch, without its padding."""
    keep = inputs["attention_mask"][number].bool()
    return {
        name: value[number : number + 1] if name.startswith("decoder") else value[number : number + 1, keep]
        for name, value in inputs.items()
    }


def left_padded(base: Base, lengths: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
    """Prompts of these lengths for `generate`, padded on the side where the model's kind wants it."""
    full = tiny_inputs(base, rows=len(lengths), tokens=max(lengths), seed=seed)["input_ids"].clamp_min(9)
    mask = torch.ones_like(full)
    for number, length in enumerate(lengths):
        pad = slice(0, max(lengths) - length) if base.kind == "decoder" else slice(length, None)
        full[number, pad], mask[number, pad] = 0, 0
    return {"input_ids": full, "attention_mask": mask}


def generated(base: Base, inputs: Mapping[str, Tensor], *, tokens: int = 5, **options: Any) -> Tensor:
    """New tokens, all of the same number; of encoder-decoders without the start token."""
    out = base.model.generate(  # type: ignore[operator]
        **inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, pad_token_id=0, **options
    )
    return out[:, -tokens:]  # type: ignore[no-any-return]


BEAMS: Mapping[str, Any] = {"num_beams": 3, "num_return_sequences": 2}


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first input of each call of a module, in order."""
    calls: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(args[0] if args else kwargs["hidden_states"])

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The (first) output of each call of a module, in order."""
    calls: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.append(output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(keep)
    try:
        yield calls
    finally:
        handle.remove()
