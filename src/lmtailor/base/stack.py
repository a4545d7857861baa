"""How a model's stacks of blocks are entered, and how they number positions."""

from dataclasses import dataclass
from typing import Literal

PositionRule = Literal["argument", "mask", "ids", "embedding", "relative"]
"""How a stack learns positions, and so how a prefix shifts them:

argument   the root's forward takes `position_ids`; default 0, 1, 2, … (BERT, GPT-2, Llama)
mask       likewise, but the default counts the attention mask's ones (OPT)
ids        likewise, but the default counts the tokens that are not padding, from padding_idx + 1 (RoBERTa)
embedding  the root takes none: the output of its position-embedding module is replaced (BART, mBART, Marian)
relative   there are none, only a bias by distance in the attention (T5, umT5)
"""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One tower of blocks. Paths are of modules in `base.model`."""

    name: str
    """"" (one stack), "encoder" or "decoder"."""
    root: str
    """The module whose forward is one pass through this stack."""
    blocks: tuple[str, ...]
    """The block modules in call order; repeated where blocks share weights."""
    causal: bool
    positions: PositionRule
    position_embedding: str | None = None
    """The module of learned or sinusoidal absolute positions, where there is one."""
    position_offset: int = 0
    """Added to a position before it is looked up (2 in BART and OPT; padding_idx + 1 in RoBERTa)."""
    max_positions: int | None = None
    """Largest number of positions (tokens); None where only memory limits it."""
    embedding: str = ""
    """The word-embedding module."""
    embedding_scale: float = 1.0
    """The root's factor on the embeddings of ids, which it does not apply to embeddings that are given (Marian's encoder)."""
