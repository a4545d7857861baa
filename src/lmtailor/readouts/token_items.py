"""Sequences of which single tokens are read, for readouts that answer of them in one pass: tags, spans."""

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.readouts.batch import Encoded, InputForm
from lmtailor.readouts.readout import input_limit


def token_item(
    form: InputForm,
    ids: tuple[int, ...],
    segments: tuple[int, ...] | None,
    positions: tuple[int, ...],
    *,
    units: int,
    cut: int,
    name: str,
) -> Encoded:
    """A sequence of which the tokens at some positions are read.

    A decoder is fed with the whole sequence behind its start, and what is read of a token is the state that was fed with it:
    one place on. So it has seen the token, as in other models.
    """
    decoder = None
    if form.decoder:
        start = ids[-1] if form.decoder_start is None else form.decoder_start
        decoder, positions = ((start, *ids),), tuple(position + 1 for position in positions)
    return Encoded(
        sequences=(ids,),
        segments=None if segments is None else (segments,),
        decoder=decoder,
        read=(positions,),
        units=units,
        cut=cut,
        id=name,
    )


def sequence_limit(base: Base, form: InputForm, max_length: int | None, reserve: int) -> int:
    """The longest sequence (tokens): see `input_limit`; a decoder is fed with one token more.

    Raises:
        InputError: as `input_limit`.
    """
    return input_limit(base, max_length, reserve + form.decoder)


def check_offsets(base: Base) -> None:
    """See that the tokenizer says where in a text its tokens stand.

    Raises:
        UnsupportedError: it does not.
    """
    if not base.tokenizer.is_fast:
        raise UnsupportedError(
            f"The tokenizer of {base.source or base.family.name} does not say where in a text its tokens stand. Use a fast one "
            "(tokenizer.json)."
        )
