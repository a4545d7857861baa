"""`lmtailor score`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions
from lmtailor.core.errors import InputError

if TYPE_CHECKING:
    from lmtailor.base.base import Base
    from lmtailor.cli.questions import Record
    from lmtailor.edits.edits import Edits
    from lmtailor.infer.choices import Normalise, Scored

CHUNK = 4096
"""Prompts that are read before the first are scored. What more of them begin with is not shared."""

INPUT = Group("Input", sort_key=1)


@Parameter(name="*", group=INPUT)
@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Where prompts and choices are."""

    prompt: tuple[str, ...] = ()
    """A prompt; repeated."""
    choice: tuple[str, ...] = ()
    """A choice, for all prompts that name none; repeated."""
    domain: str | None = None
    """pmi: the prompt without what it asks about, for all prompts that name none."""
    file: Path | None = None
    """JSON Lines with prompts."""


_PROMPTS, _MACHINE = PromptOptions(), MachineOptions()


def run(
    base: str,
    adapter: Path | None = None,
    /,
    *,
    normalise: Literal["none", "length", "bytes", "pmi"] = "none",
    batch_tokens: PositiveInt = 1024,
    any_base: bool = False,
    source: PromptOptions = _PROMPTS,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Say how probable each of several choices is after a prompt, or in its gap, as JSON Lines.

    Prompts are options, else the records of a file, else those of stdin: one `{"prompt": "…", "choices": ["…", "…"]}` a line,
    with an "id" and a "domain" if they have them. For each there is one line with the best choice, the scores that are compared,
    and log p (nats), tokens and bytes of every choice. A choice follows its prompt directly, so it begins with the space
    between the two. Prompts for masked models have the tokenizer's mask token where the choice goes.

    What prompts begin with is run once for all, so many demonstrations cost little.

    ```
    lmtailor score MODEL --prompt "A gripping film. It was" --choice " great" --choice " terrible"
    lmtailor score MODEL adapters/mine --choice " great" --choice " terrible" < prompts.jsonl > scores.jsonl
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        adapter: Folder of an adapter. Its readout plays no part.
        normalise: What is compared: log p; log p by token (length) or by byte of the choice; or less log p(choice | domain
            prompt) (pmi).
        batch_tokens: Tokens in a batch.
        any_base: Take this base although the adapter was made for another.
        source: Where prompts and choices are.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices, texts
    from lmtailor.edits.edits import Edits

    if source.prompt and source.file is not None:
        raise InputError("Prompts are given as options; leave --file out.")
    if (source.prompt and not source.choice) or (source.domain is not None and normalise != "pmi"):
        raise InputError("--prompt needs --choice, and --domain needs --normalise pmi.")
    loaded = choices.the_base(base, machine)
    edits = Edits() if adapter is None else choices.the_adapter(adapter, loaded, any_base=any_base).edits
    with ExitStack() as stack:
        for chunk in texts.in_chunks(_records(stack, source, pmi=normalise == "pmi"), CHUNK):
            for record, one in zip(chunk, _scored(loaded, edits, chunk, normalise, batch_tokens), strict=True):
                say.json_line(_line(record, one))
            sys.stdout.flush()


def _scored(
    base: "Base", edits: "Edits", records: Sequence["Record"], normalise: "Normalise", batch_tokens: int
) -> "list[Scored]":
    """Score some prompts, with progress.

    Raises:
        InputError: pmi, and one has no domain prompt; or see `score`.
    """
    from lmtailor.infer.choices import score_questions

    domains = [record.domain for record in records if record.domain is not None]
    if normalise == "pmi" and len(domains) < len(records):
        lacking = next(record.question.name for record in records if record.domain is None)
        raise InputError(f"pmi needs a domain prompt, and {lacking} has none. Give --domain for all of them.")
    with say.progress("scoring") as progress:
        return score_questions(
            base,
            [record.question for record in records],
            edits=edits,
            normalise=normalise,
            domains=domains,
            batch_tokens=batch_tokens,
            progress=progress,
        )


def _records(stack: ExitStack, source: PromptOptions, *, pmi: bool) -> "Iterator[Record]":
    """The prompts, as they come."""
    from lmtailor.cli import questions

    if source.prompt:
        return questions.from_arguments(source.prompt, source.choice, source.domain)
    if source.file is None:
        if sys.stdin.isatty():
            say.plain('One {"prompt": "…", "choices": ["…"]} a line; Ctrl-D ends.')
        return questions.from_json_lines(sys.stdin.buffer, "stdin", source.choice, source.domain, pmi=pmi)
    if not source.file.is_file():
        found = "it is a folder" if source.file.is_dir() else "there is no such file"
        raise InputError(f"Cannot read {source.file}: {found}.")
    stream = stack.enter_context(source.file.open("rb"))
    return questions.from_json_lines(stream, str(source.file), source.choice, source.domain, pmi=pmi)


def _line(record: "Record", one: "Scored") -> dict[str, object]:
    """One line of output."""
    return {
        "id": record.id,
        "best": one.choices[one.best],
        "choices": list(one.choices),
        "scores": [round(value, 6) for value in one.scores],
        "log_p": [round(value, 6) for value in one.log_p],
        "tokens": list(one.tokens),
        "bytes": list(one.bytes),
    }
