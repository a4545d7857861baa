"""The gap of a pattern as a model sees it: masks in the text, the end of the text, or the decoder's own sequence."""

from dataclasses import dataclass
from typing import Protocol

from lmtailor.readouts.cutting import Gapped


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A text with something in its gap."""

    sequence: tuple[int, ...]
    """What the model, or its encoder, is fed with."""
    decoder: tuple[int, ...] | None = None
    """What its decoder is fed with."""
    first: int
    """The position of the state that predicts the word's first token; those of the others follow."""


class Gap(Protocol):
    """How a gap is filled."""

    @property
    def mask_id(self) -> int | None:
        """What stands for one token of a word while it is predicted; None where words are written from left to right."""

    @property
    def in_text(self) -> bool:
        """Whether the word's tokens lengthen the text."""

    def fill(self, text: Gapped, filling: tuple[int, ...]) -> Filled:
        """Put tokens into the gap."""


@dataclass(frozen=True)
class MaskedGap:
    """Masked LMs: one mask a token."""

    mask_id: int
    in_text: bool = True

    def fill(self, text: Gapped, filling: tuple[int, ...]) -> Filled:
        """Masks in place of the one that the text has."""
        return Filled(sequence=text.ids[: text.gap] + filling + text.ids[text.gap + 1 :], first=text.gap)


@dataclass(frozen=True)
class CausalGap:
    """Causal LMs: the word follows the text."""

    mask_id: None = None
    in_text: bool = True

    def fill(self, text: Gapped, filling: tuple[int, ...]) -> Filled:
        """The word's beginning behind the text. The text's last state predicts its first token."""
        return Filled(sequence=text.ids + filling, first=len(text.ids) - 1)


@dataclass(frozen=True)
class DecoderGap:
    """Encoder-decoders: the encoder reads the text, the decoder writes the word behind its start."""

    start: tuple[int, ...]
    """The decoder's first tokens: its start, and the sentinel of the gap, or what every answer begins with."""
    mask_id: None = None
    in_text: bool = False

    def fill(self, text: Gapped, filling: tuple[int, ...]) -> Filled:
        """The word's beginning behind the decoder's start."""
        return Filled(sequence=text.ids, decoder=self.start + filling, first=len(self.start) - 1)
