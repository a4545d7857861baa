"""JSON files whose shape is a data set's own."""

import json
from pathlib import Path

from lmtailor.core.errors import DataError
from lmtailor.tasks.formats.text import read_text


def load_json(path: Path, *, encoding: str = "utf-8") -> object:
    """What a JSON file holds.

    Raises:
        InputError: see `read_text`.
        DataError: see `read_text`; no JSON, with the line.
    """
    try:
        return json.loads(read_text(path, encoding))
    except json.JSONDecodeError as error:
        lines = " If every line is an object, it is JSON Lines: name it .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{path}: line {error.lineno} is no JSON ({error.msg}, column {error.colno}).{lines}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON that can be read ({error}).") from error
