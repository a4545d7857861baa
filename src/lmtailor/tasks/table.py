"""A table as it was read: columns of plain values, before a task gives them meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmtailor.core.errors import DataError, near

_SHOWN = 5
"""How many rows a message lists."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of equal length. Cells are text, numbers, booleans or None (missing)."""

    source: str
    """The file or data set, for messages."""
    columns: Mapping[str, Sequence[object]]
    lines: Sequence[int] | None = None
    """The line of the file on which each row begins, from 1; None where rows have no lines."""

    def __post_init__(self) -> None:
        assert len({len(cells) for cells in self.columns.values()}) <= 1, "columns differ in length"
        if not self.size:
            raise DataError(f"{self.source} has no rows. A split needs at least one example.")

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str) -> Sequence[object]:
        """The cells of a column.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.columns:
            raise DataError(f"{self.source} has no column {name!r}. {near(name, self.columns)}{self._separator_hint()}")
        return self.columns[name]

    def where(self, rows: Sequence[int]) -> str:
        """Row numbers (from 0) as a message shows them: "lines 3, 9 and 2 more"."""
        unit = "line" if self.lines is not None else "row"
        numbers = [str(row + 1 if self.lines is None else self.lines[row]) for row in rows[:_SHOWN]]
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        return f"{unit}{'s' if len(rows) > 1 else ''} {', '.join(numbers)}{more}"

    def _separator_hint(self) -> str:
        """Advice where the whole header was taken for one column."""
        if len(self.columns) != 1 or self.lines is None:
            return ""
        only = next(iter(self.columns))
        found = next((char for char in "\t;,|" if char in only), None)
        return f" Its only column holds {found!r}: is that the delimiter? Set delimiter = {found!r}." if found else ""


def table_of_records(records: Sequence[object], source: str, lines: Sequence[int] | None = None) -> Table:
    """A table of mappings. Its columns are all their keys; a key that a record lacks is a missing cell.

    Raises:
        DataError: no records, or one that is no mapping.
    """
    rows: list[Mapping[str, object]] = []
    names: dict[str, None] = {}
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            place = f"line {lines[number]}" if lines is not None else f"row {number + 1}"
            raise DataError(f"{source}: {place} is {type(record).__name__}, not a mapping of column names to values.")
        rows.append(record)
        names.update(dict.fromkeys(record))
    return Table(source=source, columns={name: [row.get(name) for row in rows] for name in names}, lines=lines)
