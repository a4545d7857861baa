"""Parquet files."""

from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.table import Table


def read_parquet(path: Path) -> Table:
    """Read a whole file.

    Raises:
        InputError: the file is missing or cannot be read.
        DataError: it is damaged or no Parquet file, a column's name stands twice, or it has no rows.
    """
    try:
        with path.open("rb") as stream:
            data = pyarrow.parquet.ParquetFile(stream).read()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no Parquet file, or it is damaged: {str(error).splitlines()[0]}") from error
    except OSError as error:  # Arrow's own reader raises it too, for damaged pages
        detail = error.strerror or str(error).splitlines()[0]
        raise InputError(f"Cannot read {path}: {detail}.") from error
    twice = [name for name, count in Counter(data.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} stands there twice. Every column needs a name of its own.")
    return Table(source=str(path), columns=data.to_pydict())
