"""The rows of a file that can be read, for an audit that has something to say of the others, too."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.data.audit_types import Finding
from tunesmith.data.schema import Row, RowSource, Schema, Source
from tunesmith.errors import DataError, counted
from tunesmith.progress import QUIET, Progress

_SHOWN = 10


class Readable:
    """A `RowSource` of those rows of another that `schema` can read; what the last pass found wrong with the others is kept."""

    def __init__(self, source: RowSource, schema: Schema) -> None:
        self.name, self.columns = source.name, source.columns
        self._source, self._schema = source, schema
        self.unreadable, self.faults = 0, list[str]()

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        """Raises the first row's `DataError` where not a single row can be read."""
        self.unreadable, self.faults, read = 0, [], False
        first: DataError | None = None
        for row, place in self._source:
            try:
                self._schema.parse(row, place)
            except DataError as error:
                first = first or error
                self.unreadable += 1
                if len(self.faults) < _SHOWN:
                    self.faults.append(str(error))
                continue
            read = True
            yield row, place
        if first is not None and not read:
            raise first

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return that of the whole source."""
        return self._source.fingerprint(progress)

    def stamp(self) -> tuple[int, int] | None:
        """Return that of the whole source."""
        return self._source.stamp()

    def findings(self) -> Iterator[Finding]:
        """Yield what is to be said of the rows that the last pass could not read."""
        if not self.unreadable:
            return
        shown = "told below" if self.unreadable == len(self.faults) else f"the first {len(self.faults)} are told below"
        yield Finding(
            "error",
            f"{counted(self.unreadable, 'row')} of {self.name} cannot be read ({shown}); no other figure here counts such rows.",
            "Training stops at the first.",
        )
        for fault in self.faults:
            yield Finding("error", fault, "")
