"""How the base answers, of options: the readout's settings that have options of their own, and how text is written."""

from collections.abc import Mapping, Sequence

from lmtailor.cli.options import ReadoutOptions, WritingOptions
from lmtailor.core.errors import InputError
from lmtailor.infer.decoding import Decoding
from lmtailor.readouts.options import Options
from lmtailor.readouts.registry import get_readout
from lmtailor.readouts.text import Text
from lmtailor.readouts.usual import usual_readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.strategies.strategy import Strategy
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task


def readout_name_of(task: Task, options: ReadoutOptions) -> str:
    """The readout that is asked for; else the usual one for tasks of this kind."""
    return options.readout or usual_readout(task)


def readout_settings(task: Task, options: ReadoutOptions, strategy: Strategy | None = None) -> dict[str, object]:
    """Settings of the readout that have options of their own, or that the card proposes; a strategy may find the others.

    Raises:
        InputError: options that are not for this readout, or something that is missing.
    """
    cls = get_readout(readout_name_of(task, options))
    if options.target is not None and cls is not Text:
        raise InputError("--target is for --readout text. Add it, or leave it out.")
    if cls is Verbalizer:
        return _verbalizer(task, options, strategy)
    if options.word:
        raise InputError("--word is for --readout verbalizer. Add it, or leave it out.")
    if cls is Text:
        return _text(task, options)
    if cls is Options:
        return _options(task, options)
    if options.pattern is not None or options.pattern_name is not None:
        raise InputError("--pattern and --pattern-name are for --readout verbalizer, text or options. Add it, or leave them out.")
    return {}


def the_decoding(writing: WritingOptions, seed: int, task: Task | None = None) -> Decoding | None:
    """How text is written; None where nobody says it.

    Raises:
        InputError: options out of range, or that would be ignored, such as any in a task of another kind.
    """
    if writing == WritingOptions():
        return None
    if task is not None and task.kind != "generation":
        raise InputError(
            f"An option such as --max-new-tokens says how text is written; {task.name} is a task of {task.kind}. Leave it out."
        )
    return Decoding(**vars(writing), seed=seed)


def _text(task: Task, options: ReadoutOptions) -> dict[str, object]:
    """The input's pattern and what is written behind it; what is not here may be among the settings."""
    proposed = _proposed(task, options)
    found = {} if proposed is None else {"pattern": proposed.pattern, "target": proposed.target}
    if options.target is not None:
        found["target"] = options.target
    return {name: value for name, value in found.items() if value is not None}


def _options(task: Task, options: ReadoutOptions) -> dict[str, object]:
    """The pattern and its options: the card's, which a pattern of one's own may take too."""
    proposed = _proposed(task, options)
    if proposed is None:
        return {}
    own = proposed.options or next((prompt.options for prompt in task.prompts if prompt.options), {})
    return {"pattern": proposed.pattern, **({"options": own} if own else {})}


def _proposed(task: Task, options: ReadoutOptions) -> Prompt | None:
    """The pattern that is asked for, else the card's first one; None where there is none."""
    if options.pattern_name is not None:
        if options.pattern is not None:
            raise InputError("--pattern-name stands for a pattern. Leave it out, or --pattern.")
        return task.prompt(options.pattern_name)
    if options.pattern is not None:
        return Prompt(name="asked", pattern=options.pattern)
    return next(iter(task.prompts), None)


def _verbalizer(task: Task, options: ReadoutOptions, strategy: Strategy | None) -> dict[str, object]:
    if options.pattern_name is not None:
        if options.pattern is not None or options.word:
            raise InputError("--pattern-name stands for a pattern and its words. Leave it out, or --pattern and --word.")
        own = {prompt.name: prompt for prompt in task.prompts if not (prompt.words or task.verbalizer)}
        if strategy is not None and "words" in strategy.finds and options.pattern_name in own:
            return strategy.filled({"pattern": own[options.pattern_name].pattern}, task)
        named = task.prompt(options.pattern_name)
        return {"pattern": named.pattern, "words": named.words}
    pattern = options.pattern if options.pattern is not None else next(iter(task.patterns), None)
    words = _words(options.word) if options.word else _own_words(task, pattern)
    known: dict[str, object] = {} if pattern is None else {"pattern": pattern}
    known |= {"words": words} if words else {}
    known = known if strategy is None else strategy.filled(known, task)
    if len(known) < 2:
        what, flag = ("a pattern", "--pattern") if "pattern" not in known else ("words for the labels", "--word LABEL=WORD")
        raise InputError(f"The verbalizer needs {what}: give {flag}, or a card with [[patterns]] and [verbalizer].")
    return known


def _own_words(task: Task, pattern: str | None) -> Mapping[str, Sequence[str]]:
    """The card's words for a pattern: its own, or else the verbalizer's."""
    return next((prompt.words for prompt in task.prompts if prompt.pattern == pattern and prompt.words), task.verbalizer)


def _words(given: Sequence[str]) -> dict[str, list[str]]:
    words: dict[str, list[str]] = {}
    for text in given:
        label, equals, word = text.partition("=")
        if not equals or not label.strip() or not word.strip():
            raise InputError(f"Cannot read --word {text!r}. Write LABEL=WORD, such as positive=great.")
        words.setdefault(label.strip(), []).append(word.strip())
    return words
