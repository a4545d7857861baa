"""A table as it was read: columns of plain values, before a task gives them meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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

    def place(self, row: int) -> str:
        """Where a row (from 0) was read: "films.csv, line 3"."""
        return f"{self.source}, {self.where([row])}"

    def renamed(self, names: Mapping[str, str]) -> "Table":
        """The table with other names for some columns.

        Args:
            names: column -> its new name.

        Raises:
            DataError: there is no such column, or two would have one name.
        """
        for name in names:
            self.column(name)
        columns = {names.get(name, name): cells for name, cells in self.columns.items()}
        if len(columns) < len(self.columns):
            raise DataError(f"{self.source}: renamed, two columns would have the same name: {list(names.values())}.")
        return replace(self, columns=columns)

    def only(self, where: Mapping[str, Sequence[str]]) -> "Table":
        """The rows whose cells, as text, are among some values.

        Args:
            where: column -> the values that stay.

        Raises:
            DataError: there is no such column, or no such row.
        """
        kept: Sequence[int] = range(self.size)
        for name, values in where.items():
            cells = self.column(name)
            kept = [row for row in kept if _as_text(cells[row]) in values]
        if not kept:
            asked = " and ".join(f"{name} is one of {list(values)}" for name, values in where.items())
            raise DataError(f"{self.source} has no rows where {asked}.")
        return replace(
            self,
            columns={name: [cells[row] for row in kept] for name, cells in self.columns.items()},
            lines=None if self.lines is None else [self.lines[row] for row in kept],
        )

    def _separator_hint(self) -> str:
        """Advice where the whole header was taken for one column."""
        if len(self.columns) != 1 or self.lines is None:
            return ""
        only = next(iter(self.columns))
        found = next((char for char in "\t;,|" if char in only), None)
        return f" Its only column holds {found!r}: is that the delimiter? Set delimiter = {found!r}." if found else ""


def _as_text(cell: object) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


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
