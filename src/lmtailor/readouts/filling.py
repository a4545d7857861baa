"""How a model fills the gap of a pattern, by its kind."""

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.readouts.batch import InputForm
from lmtailor.readouts.gaps import CausalGap, DecoderGap, Gap, MaskedGap
from lmtailor.readouts.prompting import Style
from lmtailor.readouts.seq2seq import Fill, decoder_start, resolve_fill


def gap_of(base: Base, form: InputForm, fill: Fill) -> tuple[Gap, Style]:
    """The gap of a base's patterns, and the style of what it is put into.

    Args:
        base: the model.
        form: how it takes batches.
        fill: where an encoder-decoder writes what fills the gap.

    Raises:
        UnsupportedError: `fill` has no meaning for this model, or a masked model's tokenizer has no mask.
    """
    where = resolve_fill(base, fill)
    if where is not None:
        return DecoderGap(decoder_start(base, form, where)), where
    if base.kind == "encoder":
        return MaskedGap(_mask_id(base)), "masked"
    return CausalGap(), "causal"


def _mask_id(base: Base) -> int:
    if base.tokenizer.mask_token_id is None:
        raise UnsupportedError(
            f"A pattern needs a mask token in masked models, and the tokenizer of {base.source or base.family.name} has none. "
            "Put the model's own tokenizer files beside the weights, or use Head."
        )
    return int(base.tokenizer.mask_token_id)
