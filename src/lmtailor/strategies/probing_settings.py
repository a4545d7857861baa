"""What a probing study varies, and how its probes are trained."""

from dataclasses import dataclass
from typing import Literal

from lmtailor.core.errors import InputError

Words = Literal["auto", "first", "last", "mean"]
"""Which of a word's tokens stands for it. auto: the first where every token sees the whole text, the last in causal decoders, in
which only that one has seen the whole word."""

Texts = Literal["auto", "cls", "mean", "last"]
"""Which state stands for a text. auto: the mean where every token sees the whole text, the last in causal decoders."""


@dataclass(frozen=True, kw_only=True)
class Probing:
    """Probes, control tasks and training."""

    hidden: tuple[int, ...] = (0,)
    """Widths of the probes' hidden layers; 0 is a linear probe. Several are probes of their own on the same states."""
    controls: tuple[int, ...] = (0, 1, 2)
    """Seeds of the control tasks; () leaves them out, and selectivity with them."""
    words: Words = "auto"
    """In labelling: which of a word's tokens is read."""
    pooling: Texts = "auto"
    """In classification and regression: which state of the text is read."""
    standardise: bool = True
    """Whether each feature of each layer is shifted by its median over train and divided by half of what lies between the 16 %
    and 84 % quantiles, which is the deviation of a normal one. Penalty, rate and mix then mean the same at all layers. Mean and
    deviation would not do: in decoders the first token's state can be some hundred times as large as all others (Sun et al.
    2024, arXiv:2402.17762), would decide alone what deviation 1 is, and hide what the other words' states tell."""
    clip: float | None = 5.0
    """Where standardised features are cut, so that those states do not rule the probes either; None: nowhere."""
    lr: float = 3e-3
    """Rate of Adam; it halves after an epoch without a new least loss on dev."""
    mix_lr: float = 1e-2
    """Rate of the mix's scalars and γ: a share of many layers moves slowly at the rate of weights."""
    l2: float = 0.0
    """λ of a penalty λ / 2 · |weights|² to the mean loss; biases are free."""
    batch_size: int = 256
    """Items (words or texts) of a step."""
    epochs: int = 40
    """The most passes through train."""
    patience: int = 4
    """Epochs in a row without a new least loss on dev after which a probe ends."""
    early_stopping: bool = True
    """Whether dev ends a probe and chooses its epoch; else all train to the end at a rate that falls to 0, the end is kept."""
    seed: int = 0
    """Of order, of hidden layers' starts, and of the texts that are held out where there is no dev."""
    memory: int = 1_000_000_000
    """Bound on the states kept in memory (bytes); the others go to a file."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 0 or len(set(self.hidden)) < len(self.hidden):
            raise InputError(f"The widths of hidden layers must be distinct, and 0 or more; found {list(self.hidden)}.")
        if len(set(self.controls)) < len(self.controls) or min(self.controls, default=0) < 0:
            raise InputError(f"The seeds of control tasks must be distinct and none negative; found {list(self.controls)}.")
        if min(self.lr, self.mix_lr) <= 0 or self.l2 < 0:
            raise InputError(
                f"lr and mix_lr must be above 0, and l2 at least 0; found lr={self.lr}, mix_lr={self.mix_lr}, l2={self.l2}."
            )
        if self.clip is not None and (self.clip <= 0 or not self.standardise):
            raise InputError(
                f"clip must be above 0, and is for standardised features; found {self.clip}. Give clip=none without."
            )
        if min(self.batch_size, self.epochs, self.patience) < 1 or self.memory < 0:
            raise InputError(
                "batch_size, epochs and patience must be at least 1, and memory at least 0; found "
                f"batch_size={self.batch_size}, epochs={self.epochs}, patience={self.patience}, memory={self.memory}."
            )
