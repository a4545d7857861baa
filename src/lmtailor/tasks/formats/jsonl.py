"""JSON Lines: one JSON object a line."""

import json
from pathlib import Path

from lmtailor.core.errors import DataError
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.table import Table, table_of_records


def read_jsonl(path: Path, *, encoding: str = "utf-8") -> Table:
    """Read a whole file; its columns are the keys of all objects. Blank lines are skipped.

    Raises:
        InputError: see `read_text`.
        DataError: see `read_text`; a line that is no JSON object.
    """
    records: list[object] = []
    lines: list[int] = []
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: line {number} is no JSON ({error.msg}, column {error.colno}). Write one object a line."
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is no JSON that can be read ({error}).") from error
        lines.append(number)
    return table_of_records(records, str(path), lines)
