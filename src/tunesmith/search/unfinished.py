"""Vectors of an index that is being built, kept on disk so that a build that was cut off goes on with them. H width."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

UNFINISHED = ".vectors-unfinished"
_DIGEST = 16


class Unfinished:
    """Parts of vectors in a file, in the order of the passages, each behind a digest of the model, of the part's texts and of its bytes.

    What does not fit any more (other texts, another model, a torn or damaged part) ends what is taken from the file; from there on it is
    written anew. A file that cannot be written is given up: it saves time, and nothing depends on it.
    taken, kept: passages whose vectors came from the file, and that have vectors in it
    """

    def __init__(self, path: Path, model: str, width: int) -> None:
        self.path, self.taken, self.kept = path, 0, 0
        self._model, self._width, self._reading = model, width, True
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")

    def part(self, texts: Sequence[str], compute: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
        """Return float16[N, H], the vectors of the next texts: from the file, or what `compute` makes of them, float32[N, H]."""
        vectors = None
        if self._reading:
            with self._given_up_on_failure():
                vectors = self._read(texts)
        if vectors is not None:
            self.taken += len(texts)
        else:
            self._reading = False
            vectors = compute(texts).astype(np.float16)
            with self._given_up_on_failure():
                self._write(texts, vectors)
        self.kept += len(texts) if self._file is not None else 0
        return vectors

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what waited to be written, on a full disk
                file.close()

    @contextlib.contextmanager
    def _given_up_on_failure(self) -> Iterator[None]:
        """Within the block, remove the file where it fails: the space is the index's."""
        try:
            yield
        except OSError:
            self.close()
            self.kept = 0
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _read(self, texts: Sequence[str]) -> np.ndarray | None:
        if self._file is None:
            return None
        begin, size = self._file.tell(), len(texts) * self._width * 2
        digest, raw = self._file.read(_DIGEST), self._file.read(size)
        if len(raw) == size and digest == self._digest(texts, raw):
            return np.frombuffer(raw, np.float16).reshape(len(texts), self._width)
        self._file.seek(begin)
        self._file.truncate()
        return None

    def _write(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        if self._file is None:
            return
        raw = vectors.tobytes()
        self._file.write(self._digest(texts, raw) + raw)
        self._file.flush()

    def _digest(self, texts: Sequence[str], raw: bytes) -> bytes:
        found = hashlib.blake2b(repr((self._model, self._width)).encode(), digest_size=_DIGEST)
        for text in texts:
            coded = text.encode("utf-8", "surrogatepass")
            found.update(len(coded).to_bytes(8, "little") + coded)
        found.update(raw)
        return found.digest()
