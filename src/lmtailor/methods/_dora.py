"""DoRA's edit: m · V / ‖V‖ with V = W + s · B A.  Liu et al. 2024, arXiv:2402.09353, equation 5.

‖V‖ is the norm of each output's weights (the paper calls them columns). As in its section 4.3, the norm is a constant for
the gradient. It depends on the weights alone, so it is computed once a set of weights, not once a token.
Dropout acts on the input of A alone; the paper's code and PEFT drop the input of W in (m / ‖V‖ − 1) · W x too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmtailor.base.views import LinearView
from lmtailor.edits.edit import Context, trained
from lmtailor.methods._lora import LowRank, row_norms


@dataclass(frozen=True, kw_only=True, eq=False)
class DoRAEdit(LowRank):
    """A low-rank change of a projection's directions, and its magnitudes."""

    m_O: Tensor = trained()
    """The magnitudes."""

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """m / ‖V‖ · (W x + s · B A dropout(x)) + b."""
        norm_RO = self.once("norm", lambda: self._norms(lin))
        live = torch.is_grad_enabled() and self.m_O.requires_grad
        ratio_R1O = self._ratio(norm_RO) if live else self.once("ratio", lambda: self._ratio(norm_RO))
        v_RTO = self.added(x_RTI, y_RTO, ctx)
        bias_O = lin.bias_O
        if bias_O is None:
            return v_RTO * ratio_R1O
        # y holds the bias already, which is no part of V.
        rest_R1O = (1 - ratio_R1O) * bias_O if live else self.once("rest", lambda: (1 - ratio_R1O) * bias_O)
        return torch.addcmul(rest_R1O, v_RTO, ratio_R1O)

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """m · V / ‖V‖."""
        v_OI = weight_OI.double() + self.change()
        ratio_O = self.m_O.double() / torch.linalg.vector_norm(v_OI, dim=1)
        return (v_OI * ratio_O[:, None]).to(weight_OI.dtype), bias_O

    def _norms(self, lin: LinearView) -> Tensor:
        a_RKI, b_ROK = self.factors()
        return row_norms(lin.weight_OI, a_RKI, b_ROK * self.scale)

    def _ratio(self, norm_RO: Tensor) -> Tensor:
        return (self.m_O / norm_RO).to(self.m_O.dtype)[:, None]
