"""`lmtailor generate`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import WRITING, MachineOptions, WritingOptions
from lmtailor.core.errors import InputError

if TYPE_CHECKING:
    from lmtailor.base.base import Base
    from lmtailor.cli.prompts import Asked
    from lmtailor.infer.decoding import Decoding
    from lmtailor.infer.score import Progress
    from lmtailor.infer.written import Generated, Stream
    from lmtailor.store.adapter import Adapter

CHUNK = 1024
"""Prompts that are read before the first text is written. What more of them begin with is not shared."""

INPUT = Group("Input", sort_key=1)


@Parameter(name="*", group=INPUT)
@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Where the prompts are."""

    prompt: tuple[str, ...] = ()
    """A prompt; repeated."""
    file: Path | None = None
    """File of prompts: .jsonl with one `{"prompt": "…"}` a line, with an "id" if it has one, or with the columns that the adapter
    reads; or .txt with one prompt a line."""
    json: bool = False
    """The lines of stdin are records as in .jsonl, so that prompts may have line breaks."""


_PROMPTS, _WRITING, _MACHINE = PromptOptions(), WritingOptions(), MachineOptions()


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    adapter: Path | None = None,
    /,
    *,
    output: Literal["auto", "text", "json"] = "auto",
    batch_size: PositiveInt = 16,
    any_base: bool = False,
    source: PromptOptions = _PROMPTS,
    writing: WritingOptions = _WRITING,
    seed: Annotated[int, Parameter(group=WRITING)] = 0,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Write text behind prompts.

    Prompts are options, else those of a file, else the lines of stdin. A terminal gets each text as it comes, one prompt after
    the other. Programs get JSON Lines, one for each prompt with its id (its number from 1, or the record's "id"), the text, why
    it ended (end: an end token, stop: a stop string, length: as many tokens as were asked for), and how many tokens were
    written.

    An adapter of a task whose answers are written has a pattern of its own. Records that have the columns it reads, instead of a
    "prompt", are put into that pattern, as `lmtailor predict` does; a prompt is taken as it is.

    What prompts begin with is run once for all, so many demonstrations cost little.

    ```
    lmtailor generate MODEL --prompt "The capital of France is"
    lmtailor generate MODEL adapters/mine --file prompts.jsonl --beams 5 > texts.jsonl
    lmtailor generate MODEL --temperature 0.7 --top-p 0.9 --stop "." < prompts.txt
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model, causal or encoder-decoder.
        adapter: Folder of an adapter. Its readout plays a part for records with its columns alone.
        output: text, as it comes, one prompt at a time; json, a line a prompt; auto is text in a terminal.
        batch_size: Prompts in a batch.
        any_base: Take this base although the adapter was made for another.
        source: Where the prompts are.
        writing: How text is written.
        seed: Of the draws.
        machine: How the base is loaded.
    """
    from lmtailor.cli import answering, choices, texts

    if source.prompt and (source.file is not None or source.json):
        raise InputError("Prompts are given as options; leave --file and --json out.")
    if source.file is not None and source.json:
        raise InputError("--json is for stdin; a file of records ends in .jsonl.")
    decoding = answering.the_decoding(writing, seed)
    loaded = choices.the_base(base, machine)
    adapters = () if adapter is None else (choices.the_adapter(adapter, loaded, any_base=any_base),)
    live = say.in_terminal() if output == "auto" else output == "text"
    with ExitStack() as stack:
        for chunk in texts.in_chunks(_prompts(stack, source, _columns(adapters)), 1 if live else CHUNK):
            _write(loaded, adapters, chunk, decoding, batch_size, live=live)
            sys.stdout.flush()


def _columns(adapters: "Sequence[Adapter]") -> tuple[str, ...]:
    """The columns of which the adapter's pattern makes a prompt, if it has one."""
    from lmtailor.readouts.columns import columns_read
    from lmtailor.readouts.text import TextReading

    readings = [one.reading for one in adapters if isinstance(one.reading, TextReading)]
    return next((columns_read(one.readout, one.label_set) for one in readings), ())


def _prompts(stack: ExitStack, source: PromptOptions, columns: tuple[str, ...]) -> "Iterator[Asked]":
    """The prompts, as they come."""
    from lmtailor.cli import prompts

    if source.prompt:
        return prompts.from_arguments(source.prompt)
    if source.file is None:
        if sys.stdin.isatty():
            say.plain(f"{prompts.SHAPE if source.json else 'One prompt'} a line; Ctrl-D ends.")
        if source.json:
            return prompts.from_json_lines(sys.stdin.buffer, "stdin", columns)
        return prompts.from_lines(sys.stdin.buffer, "stdin")
    if source.file.suffix.lower() not in prompts.FILES:
        raise InputError(f"{source.file} has no known suffix ({', '.join(prompts.FILES)}). Rename it, or give it by stdin.")
    if not source.file.is_file():
        found = "it is a folder" if source.file.is_dir() else "there is no such file"
        raise InputError(f"Cannot read {source.file}: {found}.")
    return prompts.from_file(stack.enter_context(source.file.open("rb")), source.file, columns)


def _write(
    base: "Base",
    adapters: "Sequence[Adapter]",
    chunk: "Sequence[Asked]",
    decoding: "Decoding | None",
    batch_size: int,
    *,
    live: bool,
) -> None:
    """Write behind some prompts: the text as it comes, or a line of JSON for each."""
    if live:
        _written(base, adapters, chunk, decoding, batch_size, stream=lambda _, piece: _tell(piece))
        say.result()
        return
    with say.progress("writing") as progress:
        written = _written(base, adapters, chunk, decoding, batch_size, progress=progress)
    for one, text in zip(chunk, written, strict=True):
        say.json_line({"id": one.id, "text": text.text, "ended": text.ended, "tokens": len(text.tokens)})


def _written(
    base: "Base",
    adapters: "Sequence[Adapter]",
    chunk: "Sequence[Asked]",
    decoding: "Decoding | None",
    batch_size: int,
    *,
    stream: "Stream | None" = None,
    progress: "Progress | None" = None,
) -> "list[Generated]":
    """What is written behind prompts, and behind what the adapter's pattern makes of rows; in their order."""
    from lmtailor.cli import results
    from lmtailor.cli.prompts import Row
    from lmtailor.infer.decoding import Decoding
    from lmtailor.infer.generate import generate_prompts
    from lmtailor.infer.variants import beyond
    from lmtailor.infer.written_answers import write_answers
    from lmtailor.tasks.example import Example

    out: list[Generated] = []
    for _, group in groupby((one.prompt for one in chunk), key=lambda one: isinstance(one, Row)):
        own = list(group)
        tell = None if progress is None else beyond(progress, len(out), len(chunk))
        rows = [one for one in own if isinstance(one, Row)]
        if rows:
            found = write_answers(
                base,
                adapters,
                [Example(id=row.name, fields=row.fields) for row in rows],
                slots=[0] * len(rows),
                decoding=decoding,
                batch_size=batch_size,
                numbers=[row.number for row in rows],
                stream=stream,
                progress=tell,
            )
            results.tell_cuts([row.name for row, one in zip(rows, found, strict=True) if one.cut], len(found), "input")
            out += [replace(one.written, text=one.text) for one in found]
        else:
            prompts = [one for one in own if not isinstance(one, Row)]
            out += generate_prompts(
                base, adapters, prompts, decoding=decoding or Decoding(), batch_size=batch_size, stream=stream, progress=tell
            )
    return out


def _tell(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
