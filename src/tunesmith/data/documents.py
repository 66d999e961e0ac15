"""Raw text as rows: the lines of a plain text file put together to the documents that blank lines divide."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.data.schema import Row, RowSource, Source
from tunesmith.progress import QUIET, Progress

_DOCUMENT_CHARACTERS = 1_000_000  # of one row: a longer document goes on in the next, so that memory stays bounded


def documents_of(source: RowSource, **_: object) -> RowSource:
    """Return the documents of a plain text file as rows, any other source as it is.

    A document is the lines between two blank lines, joined by line breaks; in a file without blank lines between its texts every
    line is one. A document of more than a million characters is continued in further rows.
    """
    if getattr(source, "file_format", None) != "txt" or source.stamp() is None:
        return source
    return DocumentSource(source)


def is_raw_text(source: RowSource, label: str | None) -> bool:
    """Whether `source` is a file of texts and nothing else, of which nothing but its language can be learned."""
    return label is None and source.stamp() is not None and [name.strip().casefold() for name in source.columns] == ["text"]


class DocumentSource:
    """A `RowSource` of documents, over one of lines; a row's line is that on which its document begins."""

    def __init__(self, lines: RowSource) -> None:
        self.lines, self.name, self.columns = lines, lines.name, lines.columns
        self._divided: bool | None = None

    def stamp(self) -> tuple[int, int] | None:
        """Return that of the lines."""
        return self.lines.stamp()

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return that of the lines, and that they were put together."""
        return f"{self.lines.fingerprint(progress)} documents"

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        # the reader skips blank lines, which leave gaps between line numbers
        if self._divided is None:
            self._divided = self._has_gaps()
        if not self._divided:
            yield from self.lines
            return
        texts: list[str] = []
        size, begin, last = 0, Source(self.name, 0), -1
        for row, place in self.lines:
            if texts and (place.line > last + 1 or size > _DOCUMENT_CHARACTERS):
                yield {"text": "\n".join(texts)}, begin
                texts, size = [], 0
            if not texts:
                begin = place
            texts.append(row["text"])
            size += len(row["text"])
            last = place.line
        if texts:
            yield {"text": "\n".join(texts)}, begin

    def _has_gaps(self) -> bool:
        last = None
        for _, place in self.lines:
            if last is not None and place.line > last + 1:
                return True
            last = place.line
        return False
