"""A prompt as an adapter: words or demonstrations that stand before every input, without any training.

The prompt is a `HardPrompt`: the adapter stores its tokens, and its keys and values are computed when it is attached. So rows
with demonstrations share batches with rows of trained adapters. Demonstrations are those of a verbalizer (drawn here if it has
none), and the adapter's answers are equal to that verbalizer's: in causal models its demonstrations are the same prefix, and in
the encoders of the others the same tokens in the same places, with the special tokens that a text begins with in front of them.
`as_prompt` is that conversion; it takes adapters with a trained method too.

Brown et al. 2020, arXiv:2005.14165, section 2.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.settings import to_mapping
from lmtailor.edits.edits import Edits
from lmtailor.infer.evaluate import measure, plain_adapter, predict_split
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.hard_prompt import HardPrompt
from lmtailor.methods.method import Method, Unites
from lmtailor.methods.union import Union
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.prompts import solved
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.store.adapter import Adapter, build_adapter, new_adapter
from lmtailor.strategies.strategy import Strategy, Work
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Prompted(Strategy):
    """Words or demonstrations as an adapter; nothing is trained."""

    paper: ClassVar[str] = "Brown et al. 2020, section 2"

    text: str = ""
    """Words before every input, such as an instruction; "": demonstrations."""
    k: int = 16
    """Demonstrations that are drawn by the seed from the training split, where the readout has none of its own."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"k is {self.k}; demonstrations are 1 or more.")

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            InputError: training settings, text for a readout with demonstrations, or a readout that must be trained.
            UnsupportedError: a method was asked for, or the readout has no meaning on this base.
        """
        work.refuse_method("A prompt as an adapter trains nothing.")
        if work.training is not None:
            raise InputError("A prompt as an adapter trains nothing, so it takes no settings of training. Leave them out.")
        readout = _readout(work.readout, work.task)
        if self.text:
            adapter = self._words(work, readout)
        else:
            shown = readout.demonstrations or Demonstrations(k=self.k, seed=work.seed)
            adapter = as_prompt(
                work.base, plain_adapter(work.base, work.task, replace(readout, demonstrations=shown), seed=work.seed)
            )
        if "dev" not in work.task.splits:
            return adapter
        return replace(adapter, scores={"dev": measure(work.task, predict_split(work.base, work.task, adapter, split="dev"))})

    def _words(self, work: Work, readout: Verbalizer) -> Adapter:
        if readout.demonstrations is not None:
            raise InputError(
                "The prompt has words (text), and the readout demonstrations. Give one of the two; words before demonstrations "
                "can stand in the pattern."
            )
        adapter = new_adapter(work.base, method=HardPrompt(text=self.text), readout=readout, task=work.task, seed=work.seed)
        return replace(adapter, provenance={"search": {"text": self.text}})


def as_prompt(base: Base, adapter: Adapter) -> Adapter:
    """An adapter whose verbalizer's demonstrations stand in a hard prompt instead, with equal answers.

    Args:
        base: what it was made for.
        adapter: with a verbalizer that shows fixed demonstrations, as one set. What it has trained stays.

    Raises:
        InputError: it has no such verbalizer, or its tokenizer writes demonstrations and input together.
    """
    reading = adapter.reading
    if not isinstance(reading, VerbalizerReading) or not isinstance(reading.readout, Verbalizer):
        raise InputError("A prompt is made of a verbalizer's demonstrations. Give an adapter with a Verbalizer that has some.")
    readout = reading.readout
    settings = readout.demonstrations
    if settings is None or settings.similar is not None or settings.sets > 1:
        found = "none" if settings is None else f"{settings.sets} sets" if settings.sets > 1 else "others for each input"
        raise InputError(f"A prompt is made of demonstrations that are the same for all inputs; this verbalizer has {found}.")
    texts = solved(reading.pattern, reading.demonstrations, {label: words[0] for label, words in readout.words.items()})
    prompt = HardPrompt(text=settings.separator.join(texts), special=True).resolved(base, None)
    shorter = None if readout.max_length is None else readout.max_length - len(prompt.ids)
    escaped = settings.separator.replace("{", "{{").replace("}", "}}")
    plain = replace(readout, pattern=escaped + readout.pattern, after=texts[-1], demonstrations=None, max_length=shorter)
    method = prompt if isinstance(adapter.method, Frozen) else Union(parts=(*_parts(adapter.method), prompt))
    made = build_adapter(base, method, plain, reading.label_set, None)
    own = prompt.edits(base.sites, None)
    edits = own if isinstance(adapter.method, Frozen) else Edits.joined([*_split(adapter), own])
    origin = {"demonstrations": [to_mapping(one) for one in reading.demonstrations], "readout": to_mapping(readout)}
    return replace(made, edits=edits, scores=adapter.scores, provenance={**adapter.provenance, "search": origin})


def _parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Unites) else (method,)


def _split(adapter: Adapter) -> tuple[Edits, ...]:
    return adapter.edits.split() if isinstance(adapter.method, Unites) else (adapter.edits,)


def _readout(readout: Readout | None, task: Task) -> Verbalizer:
    """The verbalizer that is asked for, or the task's own.

    Raises:
        InputError: it is another readout, or the task proposes none.
    """
    if isinstance(readout, Verbalizer):
        return readout
    if readout is not None:
        raise InputError(f"A prompt without training is answered by label words; {type(readout).__name__} must be trained.")
    prompt = task.prompts[0] if task.prompts else None
    words = task.verbalizer if prompt is None else prompt.words or task.verbalizer
    if prompt is None or not words:
        raise InputError(f"The task {task.name} has no pattern and label words of its own. Give a readout: a Verbalizer.")
    return Verbalizer(pattern=prompt.pattern, words=words)
