"""How to train: the settings of one fit, and how a method's recipe fills what they leave open."""

from dataclasses import dataclass, replace
from typing import Literal

from lmtailor.core.errors import InputError
from lmtailor.methods.method import Recipe


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a fit. None takes the value of the method's recipe."""

    epochs: float = 3
    """Passes through the training set; a fraction stops within one."""
    max_steps: int | None = None
    """Optimizer steps, instead of `epochs`."""
    batch_size: int = 16
    """Examples a micro-batch; where an example has several references to write, each is one."""
    accumulate: int = 1
    """Micro-batches a step; the gradient is the mean over their answers: labels, target tokens, words' tags, ends of spans."""
    lr: float | None = None
    """Peak learning rate."""
    optimizer: Literal["adamw", "adafactor"] | None = None
    weight_decay: float | None = None
    """Decoupled; not applied to tensors with fewer than two axes (biases, gains)."""
    schedule: Literal["linear", "cosine", "constant"] | None = None
    """After the warmup: to zero in a line, to zero in half a cosine, or constant."""
    warmup: float | None = None
    """Share of the steps in which the learning rate rises from zero."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None does not clip."""
    eval_every: int | Literal["epoch"] = "epoch"
    """Steps between evaluations on dev."""
    patience: int | None = None
    """Evaluations without a better score before the fit stops; None never stops early."""
    keep: Literal["best", "last"] = "best"
    """Which weights the fit returns; best on dev by the first metric, or by perplexity where text is written, the
    earliest of equals."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, besides those at evaluations. Only with `out`."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the forward under autocast; trained tensors and optimizer stay in float32."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass to save memory."""
    share_inputs: bool = False
    """Run what the texts of a micro-batch begin with once: the references of one input stay together, as far as a batch holds
    them, and run as trees of tokens in common rows; encoder-decoders encode each input once. Losses and gradients are those of
    the same batches run plainly, but for dropout's draws. Refused where a state depends on more than what is before it."""
    cache_trunk: bool = True
    """Run blocks below the lowest edit once an example and keep their output."""
    cache_memory: int = 2 * 1024**3
    """Bound on what the cache keeps in memory (bytes)."""
    cache_disk: int = 8 * 1024**3
    """Bound on what it spills to disk beyond that (bytes); if it does not fit, nothing is cached."""

    def __post_init__(self) -> None:
        positive = ("epochs", "max_steps", "batch_size", "accumulate", "lr", "clip", "eval_every", "patience", "checkpoint_every")
        for name in positive:
            value = getattr(self, name)
            if value is not None and value != "epoch" and not value > 0:
                raise InputError(f"training.{name} is {value}; it must be greater than 0.")
        for name in ("weight_decay", "cache_memory", "cache_disk"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"training.{name} is {value}; it must not be negative.")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise InputError(f"training.warmup is {self.warmup}; it is a share of the steps, at least 0 and less than 1.")

    def resolved(self, recipe: Recipe) -> "Training":
        """These settings with the recipe in place of None."""
        return replace(
            self,
            lr=recipe.lr if self.lr is None else self.lr,
            optimizer=self.optimizer or recipe.optimizer,
            weight_decay=recipe.weight_decay if self.weight_decay is None else self.weight_decay,
            schedule=self.schedule or recipe.schedule,
            warmup=recipe.warmup if self.warmup is None else self.warmup,
        )
