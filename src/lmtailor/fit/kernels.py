"""What torch computes a fit with on a CPU, where it has a faster way than the one it takes by itself.

Products. `x Wᵀ` in float32 goes to a BLAS, which mostly is MKL; on CPUs that are not Intel's it leaves half of the vector units
idle. oneDNN, which torch has too, uses them: the same product, rounded in another order, in half the time. Under autocast, the
weight of a frozen module is rounded anew in every pass; here it is rounded once. So while a fit runs, linear modules have a
`forward` of their own instance. Nothing else of a module changes: its hooks act, and a replaced weight is the one that counts.

Attention. In bfloat16, the backward of torch's fused attention takes several times as long as products and a softmax, which short
sequences have the memory for. So they run by transformers' "eager" attention, whose softmax is in float32.

Shapes: M rows, I inputs, O outputs.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmtailor.base.base import Base

FEWEST = 8
"""Rows of a product from which on oneDNN pays."""

SHORT = 256
"""Tokens up to which attention in bfloat16 is not fused."""

Plain = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def fast_kernels(base: Base, *, longest: int, bfloat16: bool) -> Iterator[None]:
    """Inside, a base's passes are computed the faster way. Enter it before anything is attached.

    Args:
        base: the model; off the CPU nothing changes.
        longest: tokens of the longest sequence that will come.
        bfloat16: whether passes run under autocast.
    """
    bfloat16 = bfloat16 or base.dtype == torch.bfloat16
    with contextlib.ExitStack() as stack:
        if base.device.type == "cpu":
            stack.enter_context(_products(base))
        if base.device.type == "cpu" and bfloat16 and longest <= SHORT:
            stack.enter_context(_eager_attention(base))
        yield


@functools.cache
def has_fast_products() -> bool:
    """Whether this CPU has the wide vectors that make the difference, and this torch the operator."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return torch.equal(_product(torch.ones(2, 3), torch.ones(4, 3), None), torch.full((2, 4), 3.0))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


@contextlib.contextmanager
def _products(base: Base) -> Iterator[None]:
    """The linear modules of a base have a `forward` of their own instance."""
    chosen = [module for module in base.model.modules() if type(module) in (nn.Linear, Conv1D)]
    chosen = [module for module in chosen if "forward" not in module.__dict__]
    for module in chosen:
        module.forward = _LinearForward(module, module.forward)
    try:
        yield
    finally:
        for module in chosen:
            module.__dict__.pop("forward", None)


class _LinearForward:
    """What a linear module's `forward` is meanwhile."""

    def __init__(self, module: nn.Module, plain: Plain) -> None:
        self.module, self.plain = module, plain
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
        few = x.numel() < FEWEST * x.shape[-1]
        if few or x.dtype != torch.float32 or weight.dtype != torch.float32 or not has_fast_products():
            return self.plain(x)
        weight_OI = weight.t() if self.turned else weight
        out: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight_OI, bias)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], len(weight_OI))

    def _as(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        if self._rounded is None or self._rounded[0] is not weight or self._rounded[1] != dtype:
            self._rounded = weight, dtype, weight.detach().to(dtype)
        return self._rounded[2]


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


@contextlib.contextmanager
def _eager_attention(base: Base) -> Iterator[None]:
    """The attention of a base that is torch's is transformers' "eager"."""
    configs: dict[int, Any] = {id(m.config): m.config for m in base.model.modules() if isinstance(m, PreTrainedModel)}
    chosen = [config for config in configs.values() if config._attn_implementation_internal == "sdpa"]
    for config in chosen:
        config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        for config in chosen:
            config._attn_implementation_internal = "sdpa"
