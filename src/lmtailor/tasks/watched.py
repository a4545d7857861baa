"""Questions of a task that is held out: a fit is asked them as it goes, and never learns from them."""

import hashlib
import json
from dataclasses import dataclass, field

from lmtailor.core.errors import InputError
from lmtailor.tasks.example import Example


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Examples of a held-out task through one template."""

    name: str
    """Such as "rte/can_infer"."""
    examples: tuple[Example, ...] = field(repr=False)
    """With the columns that the fit's readout reads; the reference is the right answer."""
    choices: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """For each example all answers to choose from, each once, the right one among them; () where any text may be written."""
    cluster: str = ""
    """Of tasks that are alike."""

    def __post_init__(self) -> None:
        if not self.examples:
            raise InputError(f"The held-out task {self.name} has no examples.")
        if self.choices and len(self.choices) != len(self.examples):
            raise InputError(f"{self.name} has {len(self.examples)} examples and choices for {len(self.choices)}.")
        for example, own in zip(self.examples, self.choices or [()] * len(self.examples), strict=True):
            if not example.references or (self.choices and example.references[0] not in own):
                raise InputError(f"{example.id} of {self.name} has no right answer{' among its choices' if own else ''}.")
            if len(set(own)) < len(own):
                raise InputError(
                    f"{example.place or example.id} of {self.name} has two equal choices among {list(own)}: no text could tell "
                    "them apart. Name each once, or leave the example out."
                )

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked and of the answers, in hexadecimal."""
        asked = [[sorted(example.fields.items()), example.references] for example in self.examples]
        return hashlib.sha256(json.dumps([asked, self.choices]).encode()).hexdigest()

    @property
    def ranked(self) -> bool:
        """Whether accuracy is measured, the likeliest choice being the answer; else the perplexity of the right texts."""
        return bool(self.choices)
