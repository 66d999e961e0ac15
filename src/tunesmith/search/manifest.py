"""`index.json`, what an index says of itself: the files of its current state with size and checksum, and whether they are as written."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, UsageError, counted
from tunesmith.storage import checksum

MANIFEST = "index.json"
FORMAT = 2
_SMALL = 1 << 24
"""Bytes of a file up to which its checksum is looked at whenever the index is opened: a fiftieth of a second each."""


def generation_of(directory: Path) -> int:
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        return int(json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["generation"])
    return 0


def check_place(directory: Path, overwrite: bool) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is a file. Name a directory for the index.")
    if (directory / MANIFEST).is_file():
        if not overwrite:
            raise UsageError(
                f"{directory} holds an index already. Add to it with --add, replace it with --overwrite, or choose another -o."
            )
    elif any(not path.name.startswith(".") for path in directory.iterdir()):
        torn = any(path.name.startswith("state-") or path.name.startswith("texts-") for path in directory.iterdir())
        if not (torn and overwrite):
            what = (
                "an index whose building was cut short; --overwrite builds it, with the vectors that it has"
                if torn
                else "other files; choose another -o"
            )
            raise UsageError(f"{directory} holds {what}.")


def read_manifest(directory: Path, *, whole: bool = False) -> dict[str, Any]:
    """Return what the index says of itself, its files verified: sizes, and checksums of small ones, or with `whole` of all."""
    path = directory / MANIFEST
    if directory.is_file():
        raise ModelError(f"{directory} is a file; an index is a directory. Build one with: tunesmith index {directory} -o DIR")
    if not directory.is_dir():
        raise ModelError(f"there is no index {directory}. Build one with: tunesmith index CORPUS -o {directory}")
    if not path.is_file():
        torn = any(file.name.startswith(("texts-", "state-")) for file in directory.iterdir())
        if torn:
            raise ModelError(f"{directory}: the building of this index was cut short. --overwrite builds it, with the vectors that it has.")
        raise ModelError(f"{directory} is no index: it has no {MANIFEST}. Build one with: tunesmith index CORPUS -o DIR")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] > FORMAT:
            raise ModelError(f"{path} has format {manifest['format']}; this tunesmith reads up to {FORMAT}. Update tunesmith.")
        if manifest["format"] < FORMAT:
            raise ModelError(f"{path} has format {manifest['format']}, of an earlier tunesmith. Build the index again with --overwrite.")
        for name, (size, digest) in manifest["files"].items():
            file = directory / name
            found = file.stat().st_size if file.is_file() else None
            if found is None:
                what = "is missing"
            elif found != size:
                what = f"has {counted(found, 'byte')} where {size:,} were written"
            elif (whole or size <= _SMALL) and checksum(file) != digest:
                what = "has another checksum than when it was written"
            else:
                continue
            raise ModelError(f"{directory}: the index is damaged: {name} {what}. Restore it from a copy, or build it again.")
        for key in ("generation", "segments", "passages", "model", "reranker", "stamp"):
            manifest[key]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged ({type(error).__name__}: {error}). Build the index again with --overwrite.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    return manifest
