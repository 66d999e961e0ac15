"""Which file is meant, of which format it is, and whether it can be read at all."""

from __future__ import annotations

import contextlib
import difflib
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from tunesmith.errors import DataError, UsageError, did_you_mean, listing
from tunesmith.progress import QUIET, Progress

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
    ".conllu": "conllu",
    **dict.fromkeys((".conll", ".bio", ".iob", ".iob2", ".bmes", ".bioes", ".train", ".dev", ".test", ".testa", ".testb"), "conll"),
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TEXT_FORMATS = ("csv", "tsv", "jsonl", "json", "txt", "conll", "conllu")
BINARY_FORMATS = ("parquet", "arrow")
_PIECE_BYTES = 2**20

_ADVICE = {
    ".xlsx": "export the sheet as CSV (UTF-8)",
    ".xls": "export the sheet as CSV (UTF-8)",
    ".ods": "export the sheet as CSV (UTF-8)",
    ".zip": "unpack it first",
    ".bz2": "unpack it first (bunzip2)",
    ".xz": "unpack it first (unxz)",
    ".zst": "unpack it first (unzstd)",
}


def check_format(file_format: str, allowed: Sequence[str] = TEXT_FORMATS + BINARY_FORMATS) -> str:
    """Return `file_format` when it is one of `allowed`, else raise UsageError."""
    if file_format not in allowed:
        raise UsageError(f"format {file_format!r} is not one of {', '.join(allowed)}.{did_you_mean(file_format, allowed)}")
    return file_format


def format_of(path: Path, name: str) -> str:
    """Return the format that the extension of `path` stands for (.gz behind a text format is allowed)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == ".gz"
    suffix = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes and not packed else ""
    file_format = FORMATS.get(suffix)
    if file_format is not None and not (packed and file_format in BINARY_FORMATS):
        return file_format
    found = f"the extension {''.join(suffixes[-2:]) if packed else suffix} is" if suffixes else "a name without extension is"
    advice = _ADVICE.get(suffixes[-1] if suffixes else "", "rename the file, or state its format")
    raise DataError(f"{name}: {found} none that can be read. Allowed are {', '.join(FORMATS)}, and .gz behind those of text: {advice}.")


def check_readable(path: Path, name: str) -> None:
    """Raise DataError unless `path` is a regular file that holds something and may be read."""
    with reading(path, name):
        if path.is_dir():
            inside = sorted(file.name for file in path.iterdir() if FORMATS.get(file.suffix.lower()))
            hint = f" It holds {listing(inside, 5)}." if inside else ""
            raise DataError(f"{name}: this is a directory, where a file is needed. Name a file in it.{hint}")
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(f"{name}: this is a pipe or device, which can be read only once. Save its content to a file and name that.")
        with open(path, "rb"):
            pass
    if size == 0:
        raise DataError(f"{name}: the file is empty (0 bytes). Write the data to it, or name another file.")


@contextlib.contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn operating-system errors of the block that reads `path` into a DataError that says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{name}: there is no such file.{_similar(path)}") from None
    except PermissionError:
        raise DataError(f"{name}: permission denied. Change the permissions of the file, or name one that you may read.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: the compressed file is damaged or cut short ({error}). Pack or download it again.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        shown = name if len(name) <= 200 else name[:200] + "…"
        raise DataError(f"{shown}: the file cannot be read ({reason}). Check the path; texts themselves are passed as a list.") from None


def _similar(path: Path) -> str:
    parent = path.parent
    with contextlib.suppress(OSError):
        if not parent.is_dir():
            return f" Nor is there a directory {parent}. The working directory is {Path.cwd()}."
        names = {file.name.casefold(): file.name for file in parent.iterdir() if file.is_file()}
        close = [names[name] for name in difflib.get_close_matches(path.name.casefold(), names, n=3, cutoff=0.6)]
        # data.csv for data.tsv, or for data.csv.gz, is close whatever the length of the rest
        close += sorted(name for name in names.values() if name.split(".")[0] == path.stem.split(".")[0] and name not in close)
        if close:
            return f" Did you mean {' or '.join(str(parent / name) for name in close[:3])}?"
    return " Check the path; a relative one starts at the working directory."


def open_bytes(path: Path) -> IO[bytes]:
    """Open `path` for reading bytes, unpacked when it begins with the mark of gzip, whatever its name."""
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    try:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
    except BaseException:
        file.close()
        raise
    if not packed:
        return file
    file.close()
    return cast(IO[bytes], gzip.open(path, "rb"))


def file_stamp(path: Path, name: str) -> tuple[int, int]:
    """Return size and time of the last change of a file."""
    with reading(path, name):
        state = path.stat()
    return state.st_size, state.st_mtime_ns


def file_fingerprint(path: Path, name: str, how: tuple[object, ...], progress: Progress = QUIET) -> str:
    """Return a hash, in hexadecimal digits, of the file's bytes and of `how` they are read."""
    digest = hashlib.blake2b(digest_size=32)
    piece = memoryview(bytearray(_PIECE_BYTES))
    with reading(path, name), open(path, "rb") as file, progress.track(f"checking {name}", path.stat().st_size / 1e6, "MB") as tracker:
        while count := file.readinto(piece):
            digest.update(piece[:count])
            tracker.advance(count / 1e6)
    digest.update(repr(how).encode())
    return digest.hexdigest()
