"""Outputs of the frozen part of a model, computed once for every sequence of a run and kept on disk.

S sequences, T tokens, H width, N rows of all sequences together.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.batches import PackedBatch, by_length, pack
from tunesmith.data.table import TokenTable, evict
from tunesmith.model.arithmetic import arithmetic
from tunesmith.model.chance import without_dropout
from tunesmith.model.devices import to_device
from tunesmith.model.heads import TextModel
from tunesmith.progress import Progress
from tunesmith.storage import new_directory, writing

_FORMAT = 2
_CHUNK = 2048  # rows that are sorted by length together
_TOKENS = 16384  # at once
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Frozen:
    """What is kept: outputs of which part, in which numbers.

    layers: how many of the encoder's layers, from the bottom, are frozen
    kept: `fp32` or `bf16`, the number format on disk; precision: that of the arithmetic
    """

    layers: int
    kept: str
    precision: str


class Features:
    """Outputs of the frozen part by the content of a sequence, memory-mapped. `open_features` finds or computes them.

    What is kept for a sequence is what the trained part reads: its tokens' hidden states, one row for each, or, where nothing but the
    head is trained and reads one vector, that vector.
    """

    fresh = True
    """Whether this run computed them."""

    def __init__(self, path: Path, frozen: Frozen, width: int) -> None:
        self.path, self.frozen = path, frozen
        self._dtype = _DTYPES[frozen.kept]
        with open(path / "index.npz", "rb") as file, np.load(file) as index:
            self._keys, self._starts, self._counts = index["keys"], index["starts"], index["counts"]
            self.checksum = int(index["checksum"])
        kind = np.float32 if frozen.kept == "fp32" else np.int16  # numpy has no bf16; its bits are kept as whole numbers
        raw = np.memmap(path / "rows.bin", kind, "r") if len(self._keys) else np.zeros(0, kind)
        self._rows = np.asarray(raw).reshape(-1, width)  # plain views: each of a memory map's own kind costs microseconds
        if len(self._keys) and int((self._starts + self._counts).max()) > len(self._rows):
            raise ValueError(f"{path} is shorter than its index says")

    @property
    def bytes(self) -> int:
        """How much disk space they take."""
        return int(self._rows.nbytes)

    def of(self, batch: PackedBatch, model: TextModel) -> Tensor:
        """Return what the trained part of `model` reads for `batch`, float32[T, H] or float32[S, H].

        What is not kept is computed, which changes nothing but the time.
        """
        keys = np.fromiter(_keys(batch), np.uint64, len(batch.lengths))
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        if len(self._keys) == 0 or (self._keys[places] != keys).any():
            with torch.no_grad():
                return model.below(batch, self.frozen.layers).to(self._dtype).float()
        parts = [self._rows[start : start + count] for start, count in zip(self._starts[places], self._counts[places], strict=True)]
        return to_device(np.concatenate(parts), model.encoder.device).view(self._dtype).float()


def open_features(
    model: TextModel, frozen: Frozen, tables: Sequence[tuple[TokenTable, np.ndarray]], root: Path, limit: int, progress: Progress
) -> Features:
    """Return what the frozen part of `model` gives for all rows of `tables`, from `root` if it is there, else computed and kept there.

    tables: token tables with the numbers int64[E] of their rows that the run reads
    limit: in bytes; of other runs' outputs those used longest ago are removed until all take no more
    The same arguments give the same bits, whenever they are computed. Raises `StorageError`.
    """
    path = root / _name_of(model, frozen, tables)
    width = model.encoder.width
    if (found := _find(path, frozen, width)) is not None:
        found.fresh = False
        return found
    with new_directory(path, replace=False) as directory:
        _compute(directory, model, frozen, tables, progress)
    made = Features(path, frozen, width)
    with writing(root):
        evict(root, keep=path, limit=limit)
    return made


def are_kept(model: TextModel, frozen: Frozen, tables: Sequence[tuple[TokenTable, np.ndarray]], root: Path) -> bool:
    """Return whether `open_features` finds something for these arguments."""
    return (root / _name_of(model, frozen, tables)).is_dir()


def joined(tables: Sequence[tuple[TokenTable, np.ndarray]]) -> list[tuple[TokenTable, np.ndarray]]:
    """Return each table once, with the rows int64[E], ascending, that any of `tables` has of it: the same however they are split."""
    rows: dict[str, tuple[TokenTable, list[np.ndarray]]] = {}
    for table, index in tables:
        rows.setdefault(table.key, (table, []))[1].append(index)
    return [(table, np.unique(np.concatenate(parts))) for table, parts in rows.values()]


def size_of(model: TextModel, frozen: Frozen, tables: Sequence[tuple[TokenTable, np.ndarray]]) -> int:
    """Return how many bytes `open_features` would write at most."""
    tokens = sum(int(table.kept[index].sum()) for table, index in tables)
    sequences = sum(int(table.sequences[index].sum()) for table, index in tables)
    rows = tokens if model.reads_tokens_above(frozen.layers) else sequences
    return rows * model.encoder.width * _DTYPES[frozen.kept].itemsize + 24 * sequences


def digest_of(model: TextModel) -> str:
    """Return a digest of what the encoder's configuration says, and of all parameters that are not trained."""
    digest = hashlib.blake2b(model.encoder.form.encode(), digest_size=16)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def _name_of(model: TextModel, frozen: Frozen, tables: Sequence[tuple[TokenTable, np.ndarray]]) -> str:
    told = [_FORMAT, torch.__version__, frozen, model.encoder.engine, digest_of(model), [table.key for table, _ in tables]]
    if model.encoder.device.type != "cpu":
        told.append(model.encoder.device.type)
    if not model.reads_tokens_above(frozen.layers):  # what the head reads of the hidden states
        told += [model.reads, type(model.head).__name__, getattr(model.head, "pooling", None)]
    digest = hashlib.blake2b(repr(told).encode(), digest_size=16)
    for _, index in tables:
        digest.update(index.astype("<i8").data)
    return digest.hexdigest()


def _find(path: Path, frozen: Frozen, width: int) -> Features | None:
    """Return what is kept at `path`, None when nothing is or when it is damaged, and then it is removed."""
    if not path.is_dir():
        return None
    try:
        found = Features(path, frozen, width)
        if found.checksum != _checksum(path / "rows.bin"):
            raise ValueError(f"{path} holds other bytes than were written")
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(path)
        return found
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        shutil.rmtree(path, ignore_errors=True)
        return None


def _compute(
    directory: Path, model: TextModel, frozen: Frozen, tables: Sequence[tuple[TokenTable, np.ndarray]], progress: Progress
) -> None:
    keys: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    checksum = 0
    total = sum(len(index) for _, index in tables)
    with (
        open(directory / "rows.bin", "wb") as file,
        without_dropout(model),
        progress.track("running the frozen layers", total, "rows") as tracker,
    ):
        for table, index in tables:
            for start in range(0, len(index), _CHUNK):
                rows = index[start : start + _CHUNK]
                for chosen in by_length(table.longest[rows], table.sequences[rows], _TOKENS):
                    batch = pack([table.example(row) for row in rows[chosen].tolist()])
                    with torch.no_grad(), arithmetic(frozen.precision, model.encoder.device):
                        values = model.below(batch, frozen.layers).to(_DTYPES[frozen.kept])
                    content = values.contiguous().cpu().view(torch.uint8).numpy().data
                    file.write(content)
                    checksum = zlib.crc32(content, checksum)
                    keys.append(np.fromiter(_keys(batch), np.uint64, len(batch.lengths)))
                    counts.append(batch.lengths if len(values) == len(batch.ids) else np.ones(len(batch.lengths), np.int32))
                    tracker.advance(len(chosen))
    all_keys, all_counts = np.concatenate([np.zeros(0, np.uint64), *keys]), np.concatenate([np.zeros(0, np.int32), *counts])
    unique, first = np.unique(all_keys, return_index=True)
    starts = np.cumsum(all_counts, dtype=np.int64) - all_counts
    np.savez(directory / "index.npz", keys=unique, starts=starts[first], counts=all_counts[first], checksum=checksum)


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file, read once: far quicker than what is in it was computed."""
    found = 0
    with open(path, "rb") as file:
        while content := file.read(1 << 24):
            found = zlib.crc32(content, found)
    return found


def _keys(batch: PackedBatch) -> Iterator[int]:
    """Yield a number for each sequence, equal for equal tokens in equal segments."""
    borders = np.zeros(len(batch.lengths), np.int32) if batch.borders is None else batch.borders
    ids, ends = batch.ids, batch.cu_seqlens.tolist()
    for i, border in enumerate(borders.tolist()):
        digest = hashlib.blake2b(ids[ends[i] : ends[i + 1]].tobytes(), digest_size=8, key=border.to_bytes(4, "little"))
        yield int.from_bytes(digest.digest(), "little")
