"""Writing files so that a crash, a full disk or a flipped bit never leaves something that looks whole but is not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tunesmith.errors import StorageError, TunesmithError, setting

MANIFEST = "manifest.json"
LOCK = ".lock"
"""In a directory that one process holds for itself."""
UNFINISHED = (".*.????????.tmp", ".*.????????.old")
"""Names of what a killed process leaves half-written, or half-replaced. Other files that end so are somebody's."""

_ADVICE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied. Choose a place you may write to, or change its permissions",
    errno.EPERM: "permission denied. Choose a place you may write to, or change its permissions",
    errno.EROFS: "the file system is read-only. Choose another place",
    errno.ENOTDIR: "a part of this path is a file, not a directory. Choose another place",
    errno.EEXIST: "a file is in the way. Choose another place, or move that file",
    errno.ENOENT: "it cannot be made there. Check the path, or choose another place",
    errno.EFBIG: "the file grew past the largest size allowed here. Choose another place, or raise the limit",
}


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn operating-system errors of the block that writes `path` into a `StorageError` that says what to do."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        advice = _ADVICE.get(number, f"{os.strerror(number) if number else error}. Choose another place, or try again")
        if number in (errno.ENOSPC, errno.EDQUOT):
            again = f"then do the same again (a training goes on with {setting('resume', True)})"
            advice += f". Free some space or choose another place, {again}"
        raise StorageError(f"cannot write {path}: {advice}.") from error


def _error_number(error: Exception) -> int | None:
    """Return the errno of an operating-system error, 0 for an unnamed one, None when it is of another kind."""
    if isinstance(error, TunesmithError):
        return None
    # safetensors and pyarrow tell of a full disk in words only, the former in an exception of its own
    told = re.search(r"\(os error (\d+)\)", str(error))
    if told is not None:
        return int(told[1])
    if not isinstance(error, OSError):
        return None
    if error.errno is None:
        # the second is numpy's
        return errno.ENOSPC if "No space left" in str(error) or re.search(r"\d+ requested and \d+ written", str(error)) else 0
    return error.errno


def _unfinished(path: Path) -> Path:
    """Return a new name beside `path` that fits `UNFINISHED`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def new_directory(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling directory that becomes `path` when the block ends well, and vanishes when it does not.

    All files and the directory are synced to disk before the rename, so `path` either does not exist or is whole.
    replace: an existing `path` is replaced; else it is kept, and the new one dropped
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _unfinished(path)
        temporary.mkdir()
    former = temporary.with_suffix(".old")
    try:
        with writing(path):
            yield temporary
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            if path.exists() and replace:
                path.rename(former)
            try:
                temporary.rename(path)
            except OSError:
                if former.exists() and not path.exists():
                    former.rename(path)  # it is whole, and stays
                # another process was faster
                if replace or not path.is_dir():
                    raise
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and renamed to `path`.

    Who may read it is what the process's umask says, or what `path` allowed before.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _unfinished(path)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with writing(path):
            if path.exists():
                os.chmod(temporary, path.stat().st_mode & 0o777)
            yield temporary
            sync(temporary)
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


def read_json(path: Path, cure: str) -> Any:
    """Return what the JSON in `path` says. Raises `StorageError` for what cannot be read, with `cure`, a sentence on what to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}). {cure}") from None


def sweep(directory: Path, *patterns: str) -> None:
    """Remove what killed processes left half-written: files and directories in `directory` whose names fit one of `patterns`."""
    for pattern in patterns:
        for path in directory.glob(pattern):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it, as far as that can be done."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone. Raises `StorageError` when another run is writing into it."""
    import fcntl

    path = directory / LOCK
    while True:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                file = open(path, "w")  # noqa: SIM115 - closed below
            except FileNotFoundError:
                continue  # another run ended and removed the directory
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StorageError(f"another run is writing into {directory}. Wait for it, or choose another {setting('out')}.") from None
        if _is_open_at(file, path):
            break
        file.close()  # the run that held it removed it: it locks nothing any more
    with file:
        try:
            sweep(directory, *UNFINISHED)
            yield
        finally:
            if _is_open_at(file, path):
                path.unlink(missing_ok=True)


def _is_open_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is the one that is at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


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
        if not entries:
            return f"{MANIFEST} names no files"
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
