"""Vectors of texts for search: by a bi-encoder, or by any encoder as it is; and the index that finds the nearest. H width."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.bundle import DESCRIPTION, Bundle
from tunesmith.data.tokens import TextEncoder
from tunesmith.errors import ModelError, UsageError
from tunesmith.model.adapted import digest_of_base
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.devices import choose_device
from tunesmith.model.encoder import Encoder
from tunesmith.model.heads import embed
from tunesmith.model.moving import move
from tunesmith.model.pretrained import open_pretrained
from tunesmith.storage import checksum, writing

_CHUNK = 1024  # as many are lost at most when a build is cut off
_LITTLE = 2**20  # bytes


class Embedder:
    """Turns texts into vectors float32[N, H] of length 1: means of an encoder's hidden states.

    name: the model's, as it was given; device: what computes
    stamp: changes when its weights do; key: when anything does that the vectors depend on
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        self.name = name
        self._model: Encoder
        if (Path(name) / DESCRIPTION).is_file():
            bundle = Bundle.load(name)
            if getattr(bundle.task, "ranker", None) != "bi-encoder":
                raise UsageError(
                    f"the model in {name} is for {bundle.task.sentence()}, and has no vectors. Train one with --task ranking --ranker "
                    "bi-encoder, name an encoder, or pass a cross-encoder as --reranker."
                )
            fallback = bundle.description["tokens"]["fallback_token"]
            self._encoder = TextEncoder(bundle.encoder.tokenizer, bundle.encoder.truncation, fallback)
            self._model, weights = bundle.model.encoder, Path(name)
        else:
            pretrained = open_pretrained(name)
            self._encoder = pretrained.reader()
            self._model, weights = pretrained.load(), Path(pretrained.located.place)
        self._model.eval()
        place, _ = choose_device(device)
        self._precision = choose_precision("auto", place)[0]
        move(self._model, place, self._precision)
        file = weights / "model.safetensors"
        beside = [checksum(one) for one in sorted(weights.glob("*.safetensors"))]  # of an adapter; a hub's name is no directory
        self.stamp = checksum(file) if file.is_file() else "-".join([digest_of_base(self._model), *beside])
        self.key = f"{self.stamp} {self._encoder.truncation} {self._precision}"

    @property
    def width(self) -> int:
        """H."""
        return self._model.width

    def vectors(self, texts: Sequence[str], advance: Any = lambda count: None) -> np.ndarray:
        """Return float32[N, H]."""
        found = embed(self._model, self._encoder.encode(list(texts)), advance, precision=self._precision)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def chunked(texts: Iterator[str]) -> Iterator[list[str]]:
    """Cut texts into lists that are worked off together."""
    while part := list(islice(texts, _CHUNK)):
        yield part


class Nearest:
    """An HNSW graph over vectors (Malkov and Yashunin 2018; usearch), by cosine, in half precision, mapped into memory when opened."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    @classmethod
    def new(cls, width: int) -> Nearest:
        """Return an empty one for vectors of `width`."""
        from usearch.index import Index

        return cls(Index(ndim=width, metric="ip", dtype="f16", connectivity=16, expansion_add=128, expansion_search=128))

    @classmethod
    def load(cls, path: Path, *, view: bool) -> Nearest:
        """Open what `save` wrote; `view`: mapped, to be searched only. Raises `ModelError` when it cannot be read."""
        from usearch.index import Index

        try:
            graph = Index.restore(str(path), view=view)
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{path} cannot be read ({error}). Build the index again.") from error
        if graph is None:
            raise ModelError(f"{path} is no index of vectors. Build the index again.")
        return cls(graph)

    def __len__(self) -> int:
        return len(self._graph)

    def add(self, numbers: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors float16[N, H] under `numbers` int64[N]."""
        self._graph.add(numbers.astype(np.uint64), vectors, threads=1 if len(numbers) < 1000 else 0)

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove the vectors with these numbers."""
        for number in numbers:
            self._graph.remove(number)

    def top(self, vector: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers int64[k] of the nearest vectors, nearest first, and their cosines."""
        if not len(self._graph):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        found = self._graph.search(vector, min(count, len(self._graph)))
        return np.asarray(found.keys).astype(np.int64), 1 - np.asarray(found.distances, np.float32)

    def save(self, path: Path) -> None:
        """Write the graph to a new file. Raises `StorageError`."""
        with writing(path):
            try:
                self._graph.save(str(path))
            except RuntimeError as error:  # which says no more than that it failed
                full = shutil.disk_usage(path.parent).free < _LITTLE
                raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error
