"""`lmtailor predict`."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import WRITING, MachineOptions, WritingOptions
from lmtailor.core.errors import InputError
from lmtailor.tasks.file_formats import FormatName

if TYPE_CHECKING:
    from lmtailor.base.base import Base
    from lmtailor.cli.texts import Input
    from lmtailor.infer.decoding import Decoding
    from lmtailor.infer.predict import Answer
    from lmtailor.store.adapter import Adapter

CHUNK = 512
"""Inputs that are read before the first are answered."""

INPUT = Group("Input", sort_key=1)


@Parameter(name="*", group=INPUT)
@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Where the texts are."""

    file: Path | None = None
    """File of texts: .txt with one a line, or CSV, TSV, JSON, JSONL, Parquet … with the columns that the adapter reads."""
    text: tuple[str, ...] = ()
    """The file's text column, where it is not called as in training; twice for a pair."""
    format: FormatName | None = None
    """Of the file, where its suffix does not say it: such as squad or dart."""
    encoding: str = "utf-8"
    """Of the file or of stdin."""
    delimiter: str | None = None
    """Of a CSV or TSV file."""


_INPUT, _WRITING, _MACHINE = InputOptions(), WritingOptions(), MachineOptions()


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    adapter: Path | None = None,
    /,
    *texts: str,
    adapters: Annotated[tuple[str, ...], Parameter(name="--adapter")] = (),
    batch_size: PositiveInt = 32,
    any_base: bool = False,
    source: InputOptions = _INPUT,
    writing: WritingOptions = _WRITING,
    seed: Annotated[int, Parameter(group=WRITING)] = 0,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Answer new texts, as JSON Lines.

    Texts are arguments, else the rows of a file, else the lines of stdin. For each there is one line with its id (its number
    from 1, or the file's column "id"), and what the adapter answers: the label with the share of each, the value, the text that
    is written, the tag of each word, or the part of the text with the character at which it starts. An adapter that reads several
    columns, such as a pair or a pattern's, takes as many arguments for each input, and lines with tabs between the texts.

    ```
    lmtailor predict MODEL adapters/mine "a gripping film" "a dull one"
    lmtailor predict MODEL adapters/mine < texts.txt > answers.jsonl
    lmtailor predict MODEL --adapter a=adapters/a --adapter b=adapters/b --file rows.csv
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        adapter: Folder of an adapter.
        texts: What to answer.
        adapters: NAME=FOLDER: one of several adapters that answer in the same batches. The file's column "adapter" has the
            name for each row.
        batch_size: Inputs in a batch.
        any_base: Take this base although the adapters were made for another.
        source: Where the texts are.
        writing: How text is written, by adapters that write.
        seed: Of the draws.
        machine: How the base is loaded.
    """
    from lmtailor.cli import answering, choices, results

    folders = _folders(adapter, adapters)
    if texts and source != _INPUT:
        raise InputError("Texts are given as arguments; leave --file, --text, --encoding and --delimiter out.")
    if adapters and source.file is None:
        raise InputError('Several adapters need --file, with a column "adapter" that names one for each row.')
    decoding = answering.the_decoding(writing, seed)
    loaded = choices.the_base(base, machine)
    ready = {name: choices.the_adapter(folder, loaded, any_base=any_base) for name, folder in folders.items()}
    with ExitStack() as stack:
        inputs = _inputs(stack, texts, source, ready, tuple(ready) if adapters else ())
        cut, total = _answer(loaded, ready, inputs, batch_size, decoding)
    results.tell_cuts(cut, total, "input")


def _folders(adapter: Path | None, named: tuple[str, ...]) -> dict[str, Path]:
    """The adapters' folders by name; the name of a single one is empty."""
    if (adapter is None) == (not named):
        raise InputError("Give one adapter after the base, or several as --adapter NAME=FOLDER.")
    if adapter is not None:
        return {"": adapter}
    folders: dict[str, Path] = {}
    for text in named:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder or name in folders:
            raise InputError(f"Cannot read --adapter {text!r}. Write NAME=FOLDER, each name once.")
        folders[name] = Path(folder)
    return folders


def _columns(adapters: "Mapping[str, Adapter]") -> tuple[str, ...]:
    """The text columns that the adapters read.

    Raises:
        InputError: they differ, or one gives no answers.
    """
    read: dict[str, tuple[str, ...]] = {}
    for name, adapter in adapters.items():
        if adapter.reading is None:
            raise InputError(f"The adapter {name} has no readout, so it gives no answers.".replace("  ", " "))
        read[name] = adapter.reading.label_set.texts
    if len(set(read.values())) > 1:
        shown = "; ".join(f"{name} reads {', '.join(columns)}" for name, columns in read.items())
        raise InputError(f"Adapters that share a file must read the same columns: {shown}. Predict with them apart.")
    return next(iter(read.values()))


def _inputs(
    stack: ExitStack, given: tuple[str, ...], source: InputOptions, ready: "Mapping[str, Adapter]", adapters: tuple[str, ...]
) -> "Iterator[Input]":
    """The inputs, as they come. A file's rows bring what a pattern names besides; arguments and lines must have it."""
    from lmtailor.cli import texts
    from lmtailor.readouts.columns import columns_read
    from lmtailor.tasks.read import Format

    named = _columns(ready)
    reading = next(iter(ready.values())).reading
    assert reading is not None, "_columns refuses it"
    columns = columns_read(reading.readout, reading.label_set)
    if given:
        return texts.from_arguments(given, columns)
    if source.file is None or (source.format is None and source.file.suffix.lower() == texts.LINES):
        if source.text or source.delimiter is not None or source.format is not None or adapters:
            raise InputError("Lines have no columns: --text, --format, --delimiter and --adapter are for files with columns.")
        if source.file is not None:
            return texts.from_lines(stack.enter_context(source.file.open("rb")), columns, str(source.file), source.encoding)
        if sys.stdin.isatty():
            say.plain("One text a line; Ctrl-D ends.")
        return texts.from_lines(sys.stdin.buffer, columns, "stdin", source.encoding)
    form = Format(format=source.format, encoding=source.encoding, delimiter=source.delimiter)
    return texts.from_table(source.file, named, source.text, form, adapters)


def _answer(
    base: "Base",
    adapters: "Mapping[str, Adapter]",
    inputs: "Iterator[Input]",
    batch_size: int,
    decoding: "Decoding | None",
) -> tuple[list[str], int]:
    """Write the answers as they come; which inputs were cut, and of how many."""
    from lmtailor.cli import texts
    from lmtailor.infer.predict import predict

    names, total = list(adapters), 0
    cut: list[str] = []
    for chunk in texts.in_chunks(inputs, CHUNK):
        slots = [names.index(one.adapter or "") for one in chunk]
        rows = [one.fields for one in chunk]
        many = list(adapters.values())
        answers = predict(base, many, rows, rows=slots, batch_size=batch_size, decoding=decoding, first=total)
        for one, answer in zip(chunk, answers, strict=True):
            say.json_line(_line(one, answer))
        sys.stdout.flush()
        cut += [f"input {one.id!r}" for one, answer in zip(chunk, answers, strict=True) if answer.cut]
        total += len(chunk)
    return cut, total


def _line(one: "Input", answer: "Answer") -> dict[str, object]:
    """One line of output."""
    who = {} if one.adapter is None else {"adapter": one.adapter}
    if answer.value is not None:
        return {"id": one.id, **who, "value": round(answer.value, 6)}
    if answer.tags:
        return {"id": one.id, **who, "tags": list(answer.tags)}
    if answer.text is not None:
        place = {} if answer.start is None else {"start": answer.start}
        return {"id": one.id, **who, "text": answer.text, **place}
    return {
        "id": one.id,
        **who,
        "label": answer.label,
        "scores": {name: round(share, 6) for name, share in answer.scores.items()},
    }
