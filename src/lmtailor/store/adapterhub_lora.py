"""AdapterHub's LoRA, DoRA, VeRA and IA3: where the tensors of our edits come from.

The library computes three of them otherwise than their papers, and a folder is read as what computes the same here:

DoRA    m / ‖W + B A‖ · (W x + s · B A x): the scale s is missing in the norm. Our magnitude is m · ‖W + s · B A‖ / ‖W + B A‖. The
        bias of a projection is multiplied too, which no edit here does: such a folder raises.
VeRA    s · B_v B D_v A x with whole matrices B_v and D_v in the place of vectors. That is LoRA with B_v B D_v as its B.
IA3     scales the output of the feed-forward network's first projection, before the activation.

Shapes: K rank, I inputs, O outputs.
"""

from collections.abc import Mapping

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.lookup import join
from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError
from lmtailor.methods._dora import DoRAEdit
from lmtailor.methods._lora import LowRank, row_norms
from lmtailor.methods.ia3 import OutputScale
from lmtailor.store.adapterhub_config import Asked
from lmtailor.store.adapterhub_source import Source
from lmtailor.store.outline import Outline


def low_rank_sources(edit: LowRank, asked: Asked, name: str, base: Base, outline: Outline) -> dict[str, Source]:
    """A and B of a projection, and the magnitudes of DoRA; of a part of a fused one, its rows of A and B of all parts.

    Raises:
        AdapterFileError: the library computes what no edit here does.
    """
    site = base.sites[edit.site]
    path = _path(site, name, outline)
    if asked.whole_scales:
        return _vera(edit, path, f"shared_parameters.{name}")
    a_name, b_name = f"{path}.lora_A", f"{path}.lora_B"
    pair = {"a_KI": _own(a_name, edit.a_KI, site, asked), "b_OK": _own(b_name, edit.b_OK, site, asked)}
    return pair | {"m_O": _magnitudes(edit, path, base)} if isinstance(edit, DoRAEdit) else pair


def scale_sources(edit: OutputScale, asked: Asked, name: str, base: Base, outline: Outline) -> dict[str, Source]:
    """l of a projection's output, which the library holds as (O, 1)."""
    site = base.sites[edit.site]
    column = _own(f"{_path(site, name, outline)}.lora_B", edit.scale_O[:, None], site, asked)
    return {"scale_O": Source(shapes=column.shapes, make=lambda file: column.make(file).flatten())}


def _path(site: Site, name: str, outline: Outline) -> str:
    return join(outline.in_trunk(site.module) or site.module, f"loras.{name}")


def _own(name: str, tensor: Tensor, site: Site, asked: Asked) -> Source:
    """A tensor of a projection, or the rows of a part in that of the whole: parts that are adapted stand one after the other."""
    if site.fused is None:
        return Source.same(name, tensor)
    parts = list(asked.matrices)
    place, count = parts.index(site.name.rsplit(".", 1)[1]), len(parts)
    rows, columns = tensor.shape
    return Source(
        shapes={name: (rows * count, columns)},
        make=lambda file: file[name][place * rows : (place + 1) * rows].clone(),
    )


def _vera(edit: LowRank, path: str, shared: str) -> dict[str, Source]:
    (rank, _), (outputs, _) = edit.a_KI.shape, edit.b_OK.shape
    a_name, b_name, outer, inner = f"{shared}.lora_A", f"{shared}.lora_B", f"{path}.vera_B", f"{path}.vera_D"
    shapes = {outer: (outputs, outputs), b_name: (outputs, rank), inner: (rank, rank)}

    def product(file: Mapping[str, Tensor]) -> Tensor:
        return (file[outer].double() @ file[b_name].double() @ file[inner].double()).float()

    return {"a_KI": Source.same(a_name, edit.a_KI), "b_OK": Source(shapes=shapes, make=product)}


def _magnitudes(edit: DoRAEdit, path: str, base: Base) -> Source:
    lin = base.sites.linear(base.sites[edit.site])
    if lin.bias_O is not None:
        raise AdapterFileError(
            f"It uses use_dora (True) at {edit.site}, which has a bias: there AdapterHub's DoRA multiplies the bias with the "
            "magnitudes too, which DoRA does not and nothing here does. Merge it with AdapterHub's library, and load the model."
        )
    a_name, b_name, m_name = f"{path}.lora_A", f"{path}.lora_B", f"{path}.m.weight"
    shapes = {m_name: (len(edit.m_O), 1), a_name: tuple(edit.a_KI.shape), b_name: tuple(edit.b_OK.shape)}

    def make(file: Mapping[str, Tensor]) -> Tensor:
        m_O = file[m_name].flatten()
        if edit.scale == 1:
            return m_O
        a_1KI, b_1OK = file[a_name][None], file[b_name][None]
        ours, theirs = (row_norms(lin.weight_OI, a_1KI, b_1OK * scale)[0] for scale in (edit.scale, 1.0))
        return m_O * ours / theirs

    return Source(shapes=shapes, make=make)
