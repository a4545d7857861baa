"""Matrix products on a CPU, where torch has a faster way than the one it takes by itself.

`x Wᵀ` in float32 goes to a BLAS, which mostly is MKL; on CPUs that are not Intel's it leaves half of the vector units idle.
oneDNN, which torch has too, uses them: the same product, rounded in another order, in half the time. Under autocast, the weight
of a frozen module is rounded anew in every pass; here it is rounded once. So while something is attached, linear modules have a
`forward` of their own instance. Nothing else of a module changes: its hooks act, and a replaced weight is the one that counts.

Another order of rounding is another result: behind the large states of an untrained prefix, logits of one model move by up to
1e-3 of the largest. So where users run the model themselves, texts that are read without gradients keep the product that torch
takes, and their logits are those of another program that has the same weights. Training, and writing one token after the other,
are fast.

Shapes: B rows of T tokens, M of them in all, I inputs, O outputs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

WEIGHTS = 2**15
"""Weights of a module from which on its products are oneDNN's: whether a row is alone or one of many, it is rounded alike."""

Plain = Callable[[Tensor], Tensor]


class FastProducts:
    """The products of a model's linear modules, while installed. Off the CPU nothing changes."""

    def __init__(self, model: nn.Module, *, reading: bool) -> None:
        """Find the modules.

        Args:
            model: whose.
            reading: also where texts of several tokens are read without gradients.
        """
        self._model, self._reading = model, reading
        self._installed: list[nn.Module] = []

    def install(self) -> None:
        """Give them a `forward` of their own instance."""
        for module in self._model.modules():
            if type(module) in (nn.Linear, Conv1D) and "forward" not in module.__dict__:
                weight = module._parameters["weight"]
                if weight is not None and weight.device.type == "cpu":
                    module.forward = _LinearForward(module, module.forward, reading=self._reading)
                    self._installed.append(module)

    def remove(self) -> None:
        """Take it away."""
        for module in self._installed:
            module.__dict__.pop("forward", None)
        self._installed = []


@functools.cache
def has_fast_products() -> bool:
    """Whether this CPU has the wide vectors that make the difference, and this torch the operator."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return torch.equal(_product(torch.ones(2, 3), torch.ones(4, 3), None), torch.full((2, 4), 3.0))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


class _LinearForward:
    """What a linear module's `forward` is meanwhile."""

    def __init__(self, module: nn.Module, plain: Plain, *, reading: bool) -> None:
        self.module, self.plain, self.reading = module, plain, reading
        self.turned = isinstance(module, Conv1D)
        """Whether the module holds Wᵀ (I, O)."""
        self._rounded: tuple[Tensor, torch.dtype, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ + b."""
        weight, bias = self.module._parameters["weight"], self.module._parameters["bias"]
        assert weight is not None
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            if weight.requires_grad or weight.dtype == dtype:
                return self.plain(x)
            rounded = self._as(weight, dtype)
            return nn.functional.linear(x, rounded.t() if self.turned else rounded, bias)
        small = weight.numel() < WEIGHTS or {x.dtype, weight.dtype} != {torch.float32} or not x.numel()
        if small or not (self.reading or _learns_or_writes(x, weight)) or not has_fast_products():
            return self.plain(x)
        weight_OI = weight.t() if self.turned else weight
        multiply = _Linear.apply if torch.is_grad_enabled() else _product
        out: Tensor = multiply(x.reshape(-1, x.shape[-1]), weight_OI, bias)
        return out.view(*x.shape[:-1], len(weight_OI))

    def _as(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        if self._rounded is None or self._rounded[0] is not weight or self._rounded[1] != dtype:
            self._rounded = weight, dtype, weight.detach().to(dtype)
        return self._rounded[2]


def _learns_or_writes(x_BTI: Tensor, weight: Tensor) -> bool:
    return x_BTI.requires_grad or weight.requires_grad or (x_BTI.dim() > 2 and x_BTI.shape[-2] == 1)


class _Linear(Function):
    """y = x Wᵀ + b and its gradients."""

    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        """Keep the input only for a weight that is trained."""
        ctx.save_for_backward(x_MI if ctx.needs_input_grad[1] else None, weight_OI)
        return _product(x_MI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MO: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """dx = g W, dW = gᵀ x, db = Σ g."""
        x_MI, weight_OI = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(grad_MO, weight_OI.t(), None) if to_x else None,
            _product(grad_MO.t(), x_MI.t(), None) if to_weight else None,
            grad_MO.sum(0) if to_bias else None,
        )


def _product(x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x Wᵀ + b by oneDNN, which takes transposed views as they are."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_MI, weight_OI, bias_O, "none", [], "")
    return out
