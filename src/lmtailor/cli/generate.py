"""`lmtailor generate`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Group, Parameter
from cyclopts.types import NonNegativeFloat, PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions
from lmtailor.core.errors import InputError

if TYPE_CHECKING:
    from lmtailor.base.base import Base
    from lmtailor.cli.prompts import Asked
    from lmtailor.infer.decoding import Decoding
    from lmtailor.store.adapter import Adapter

CHUNK = 1024
"""Prompts that are read before the first text is written. What more of them begin with is not shared."""

INPUT = Group("Input", sort_key=1)
WRITING = Group("Writing", sort_key=2)


@Parameter(name="*", group=INPUT)
@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Where the prompts are."""

    prompt: tuple[str, ...] = ()
    """A prompt; repeated."""
    file: Path | None = None
    """File of prompts: .jsonl with one `{"prompt": "…"}` a line, with an "id" if it has one; or .txt with one prompt a line."""
    json: bool = False
    """The lines of stdin are records as in .jsonl, so that prompts may have line breaks."""


@Parameter(name="*", group=WRITING)
@dataclass(frozen=True, kw_only=True)
class WritingOptions:
    """How text is written."""

    max_new_tokens: PositiveInt = 64
    """The most tokens that are written for a prompt."""
    beams: PositiveInt = 1
    """Texts that are followed at a time; 1 takes the likeliest token each time."""
    length_penalty: float = 1.0
    """With beams: above 1 favours long texts, below 1 short ones."""
    temperature: NonNegativeFloat = 0.0
    """Draw tokens from softmax(logits / temperature); 0 takes the likeliest."""
    top_k: PositiveInt | None = None
    """When drawing: only among so many of the likeliest tokens."""
    top_p: float | None = None
    """When drawing: only among the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""
    stop: tuple[str, ...] = ()
    """A string at which a text ends, and which is cut off; repeated."""


_PROMPTS, _WRITING, _MACHINE = PromptOptions(), WritingOptions(), MachineOptions()


def run(
    base: str,
    adapter: Path | None = None,
    /,
    *,
    output: Literal["auto", "text", "json"] = "auto",
    batch_size: PositiveInt = 16,
    any_base: bool = False,
    source: PromptOptions = _PROMPTS,
    writing: WritingOptions = _WRITING,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Write text behind prompts.

    Prompts are options, else those of a file, else the lines of stdin. A terminal gets each text as it comes, one prompt after
    the other. Programs get JSON Lines, one for each prompt with its id (its number from 1, or the record's "id"), the text, why
    it ended (end: an end token, stop: a stop string, length: as many tokens as were asked for), and how many tokens were
    written.

    What prompts begin with is run once for all, so many demonstrations cost little.

    ```
    lmtailor generate MODEL --prompt "The capital of France is"
    lmtailor generate MODEL adapters/mine --file prompts.jsonl --beams 5 > texts.jsonl
    lmtailor generate MODEL --temperature 0.7 --top-p 0.9 --stop "." < prompts.txt
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model, causal or encoder-decoder.
        adapter: Folder of an adapter. Its readout plays no part.
        output: text, as it comes, one prompt at a time; json, a line a prompt; auto is text in a terminal.
        batch_size: Prompts in a batch.
        any_base: Take this base although the adapter was made for another.
        source: Where the prompts are.
        writing: How text is written.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices, texts
    from lmtailor.infer.decoding import Decoding

    if source.prompt and (source.file is not None or source.json):
        raise InputError("Prompts are given as options; leave --file and --json out.")
    if source.file is not None and source.json:
        raise InputError("--json is for stdin; a file of records ends in .jsonl.")
    decoding = Decoding(**vars(writing))
    loaded = choices.the_base(base, machine)
    adapters = () if adapter is None else (choices.the_adapter(adapter, loaded, any_base=any_base),)
    live = say.in_terminal() if output == "auto" else output == "text"
    with ExitStack() as stack:
        for chunk in texts.in_chunks(_prompts(stack, source), 1 if live else CHUNK):
            _write(loaded, adapters, chunk, decoding, batch_size, live=live)
            sys.stdout.flush()


def _prompts(stack: ExitStack, source: PromptOptions) -> "Iterator[Asked]":
    """The prompts, as they come."""
    from lmtailor.cli import prompts

    if source.prompt:
        return prompts.from_arguments(source.prompt)
    if source.file is None:
        if sys.stdin.isatty():
            say.plain(f"{prompts.SHAPE if source.json else 'One prompt'} a line; Ctrl-D ends.")
        return (prompts.from_json_lines if source.json else prompts.from_lines)(sys.stdin.buffer, "stdin")
    suffix = source.file.suffix.lower()
    if suffix not in prompts.READERS:
        raise InputError(f"{source.file} has no known suffix ({', '.join(prompts.READERS)}). Rename it, or give it by stdin.")
    if not source.file.is_file():
        found = "it is a folder" if source.file.is_dir() else "there is no such file"
        raise InputError(f"Cannot read {source.file}: {found}.")
    return prompts.READERS[suffix](stack.enter_context(source.file.open("rb")), str(source.file))


def _write(
    base: "Base", adapters: "Sequence[Adapter]", chunk: "Sequence[Asked]", decoding: "Decoding", batch_size: int, *, live: bool
) -> None:
    """Write behind some prompts: the text as it comes, or a line of JSON for each."""
    from lmtailor.infer.generate import generate_prompts

    given = [one.prompt for one in chunk]
    if live:
        generate_prompts(base, adapters, given, decoding=decoding, stream=lambda _, piece: _tell(piece))
        say.result()
        return
    with say.progress("writing") as progress:
        written = generate_prompts(base, adapters, given, decoding=decoding, batch_size=batch_size, progress=progress)
    for one, text in zip(chunk, written, strict=True):
        say.json_line({"id": one.id, "text": text.text, "ended": text.ended, "tokens": len(text.tokens)})


def _tell(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
