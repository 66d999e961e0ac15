"""Writing files so that a crash, a full disk or a flipped bit never leaves something that looks whole but is not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import StorageError

MANIFEST = "manifest.json"

_ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space or choose another place, then run the same command again",
    errno.EDQUOT: "the disk quota is used up. Free some space or choose another place, then run the same command again",
    errno.EACCES: "permission denied. Choose a place you may write to, or change its permissions",
    errno.EPERM: "permission denied. Choose a place you may write to, or change its permissions",
    errno.EROFS: "the file system is read-only. Choose another place",
    errno.ENOTDIR: "a part of this path is a file, not a directory. Choose another place",
    errno.EFBIG: "the file grew past the largest size allowed here. Choose another place, or raise the limit",
}


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn operating-system errors of the block that writes `path` into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _ADVICE:
            raise StorageError(f"cannot write {path}: {_ADVICE[error.errno]}.") from error
        # pyarrow and safetensors report a full disk in words, without an errno
        if "No space left" in str(error):
            raise StorageError(f"cannot write {path}: {_ADVICE[errno.ENOSPC]}.") from error
        raise StorageError(f"cannot write {path}: {error}.") from error


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling directory that becomes `path` when the block ends well, and vanishes when it does not.

    All files and the directory are synced to disk before the rename, so `path` either does not exist or is whole.
    An existing `path` is replaced.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with writing(path):
            yield temporary
            os.chmod(temporary, 0o755)
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and renamed to `path`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with writing(path):
            yield temporary
            sync(temporary)
            os.chmod(temporary, 0o644)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, all or nothing."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON to `path`, all or nothing."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync(path: Path) -> None:
    """Ask the operating system to put the file or directory on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(directory: Path) -> None:
    """Record size and checksum of every file in `directory`, so that `verify` can tell damage later."""
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file.name != MANIFEST)
    entries = {str(file.relative_to(directory)): [file.stat().st_size, checksum(file)] for file in files}
    (directory / MANIFEST).write_text(json.dumps(entries, indent=1), encoding="utf-8")


def verify(directory: Path) -> str | None:
    """Return what is wrong with a directory that `write_manifest` closed, or None when every byte is as written."""
    try:
        entries = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        for name, (size, digest) in entries.items():
            file = directory / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size:,} bytes where {size:,} were written"
            if checksum(file) != digest:
                return f"{name} has another checksum than when it was written"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    except OSError as error:
        return f"it cannot be read: {error}"
    return None
