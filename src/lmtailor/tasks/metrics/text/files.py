"""Files of predictions and references: plain lines, as the E2E challenge's script takes them, or JSON Lines."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmtailor.core.errors import DataError, InputError, near
from lmtailor.tasks.formats.text import read_text

PREDICTION, REFERENCES = "prediction", "references"
"""Keys of a record."""

JSON_LINES = (".jsonl", ".ndjson")

FORM = f'{{"{PREDICTION}": "…", "{REFERENCES}": ["…"]}}'


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Predictions with references."""

    predictions: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    """For each prediction its references; empty where no references are given."""
    lines: tuple[int, ...]
    """Of the file of predictions, the line of each."""

    @property
    def empty(self) -> tuple[int, ...]:
        """Lines on which the prediction is empty."""
        return tuple(line for line, text in zip(self.lines, self.predictions, strict=True) if not text.strip())


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What one line, or one block of lines, says."""

    line: int
    texts: tuple[str, ...]


def read_outputs(predictions: Path, references: Path | None = None, *, encoding: str = "utf-8") -> Outputs:
    """Read predictions, and their references from a file of their own or from the same records.

    In plain files a prediction is a line, an empty line an empty prediction. References are blocks of lines with a blank line
    between; without any blank line each is the only one of its example. In JSON Lines a record has "prediction", "references" (a
    list of texts, or one text), or both. Other keys are not read.

    Args:
        predictions: .jsonl, .ndjson, or plain text under any other name.
        references: likewise; None: those of the records, if they have any.
        encoding: of both files.

    Raises:
        InputError: a file that is missing, or an encoding that does not exist.
        DataError: an empty file, a line that is not as said above, references given twice, or counts that differ; with
            file and line.
    """
    if predictions.suffix.lower() in JSON_LINES:
        said, own = _records(predictions, encoding, both=references is None)
        if references is not None and own:
            raise DataError(f'{predictions}, line {own[0].line} has "{REFERENCES}" of its own. Leave {references} out, or those.')
    else:
        said, own = _lines(predictions, encoding), []
    if references is not None:
        own = _references(references, len(said), encoding)
        _check_counts(predictions, said, references, own)
    return Outputs(
        predictions=tuple(each.texts[0] for each in said),
        references=tuple(each.texts for each in own),
        lines=tuple(each.line for each in said),
    )


def _check_counts(predictions: Path, said: Sequence[_Read], references: Path, own: Sequence[_Read]) -> None:
    """Every prediction has its references."""
    if len(said) == len(own):
        return
    longer, path = (said, predictions) if len(said) > len(own) else (own, references)
    first = longer[min(len(said), len(own))].line
    lines, found = sum(len(each.texts) for each in own), f"references for {len(own)} example{'s' if len(own) > 1 else ''}"
    if len(own) == 1 and lines > 1 and references.suffix.lower() not in JSON_LINES:
        found, first = f"{lines} lines without a blank line between", min(lines, len(said)) + 1
        path = references if lines > len(said) else predictions
    raise DataError(
        f"{predictions} has {len(said)} prediction{'s' if len(said) > 1 else ''}, but {references} has {found}: {path}, line "
        f"{first} is the first without a partner. In a plain file each line is the reference of one prediction, or examples have "
        "a blank line between."
    )


def _lines(path: Path, encoding: str) -> list[_Read]:
    lines = _text(path, encoding).split("\n")
    if not lines[-1]:
        del lines[-1]
    return [_Read(line=number, texts=(line.rstrip("\r"),)) for number, line in enumerate(lines, start=1)]


def _references(path: Path, examples: int, encoding: str) -> list[_Read]:
    """The references of each example."""
    if path.suffix.lower() in JSON_LINES:
        return [
            _Read(line=number, texts=_reference_texts(record, f"{path}, line {number}"))
            for number, record in _objects(path, encoding)
        ]
    lines = [line.rstrip("\r") for line in _text(path, encoding).rstrip().split("\n")]
    if all(line.strip() for line in lines) and len(lines) == examples:
        return [_Read(line=number, texts=(line,)) for number, line in enumerate(lines, start=1)]
    return list(_blocks(path, lines))


def _blocks(path: Path, lines: Sequence[str]) -> Iterator[_Read]:
    """Lines up to a blank one, again and again."""
    start = 0
    for end, line in enumerate((*lines, "")):
        if line.strip():
            continue
        if end == start:
            raise DataError(f"{path}, line {end + 1} is blank where references are to begin. Every example needs at least one.")
        yield _Read(line=start + 1, texts=tuple(lines[start:end]))
        start = end + 1


def _records(path: Path, encoding: str, *, both: bool) -> tuple[list[_Read], list[_Read]]:
    """Predictions, and the references of records that have them.

    Args:
        path: the file.
        encoding: its encoding.
        both: whether references are expected here: if one record has them, all must.
    """
    said, own = [], []
    for number, record in _objects(path, encoding):
        place = f"{path}, line {number}"
        if PREDICTION not in record:
            raise DataError(f'{place} has no "{PREDICTION}". {near(PREDICTION, list(record))}')
        prediction = record[PREDICTION]
        if not isinstance(prediction, str):
            raise DataError(f"{place}: the prediction must be a text; found {json.dumps(prediction, ensure_ascii=False)}.")
        said.append(_Read(line=number, texts=(prediction,)))
        if REFERENCES in record:
            own.append(_Read(line=number, texts=_reference_texts(record, place)))
        if both and own and len(own) < len(said):
            lacking, has = (said[0].line, number) if len(own) == 1 and REFERENCES in record else (number, own[0].line)
            raise DataError(f'{path}, line {lacking} has no "{REFERENCES}", but line {has} has. Give them to all, or a file.')
    return said, own


def _objects(path: Path, encoding: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """The number of each line that is not blank, and its object."""
    for number, line in enumerate(_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is no JSON ({error}). Write one object a line: {FORM}.") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number} is no JSON object. Write {FORM}.")
        yield number, record


def _reference_texts(record: Mapping[str, object], place: str) -> tuple[str, ...]:
    if REFERENCES not in record:
        raise DataError(f'{place} has no "{REFERENCES}". {near(REFERENCES, list(record))}')
    given = record[REFERENCES]
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        shown = json.dumps(given, ensure_ascii=False)
        raise DataError(f"{place}: references must be a list of texts, none of them empty; found {shown}.")
    return tuple(texts)


def _text(path: Path, encoding: str) -> str:
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise InputError(f"Cannot read {path}: {found}.")
    return read_text(path, encoding)
