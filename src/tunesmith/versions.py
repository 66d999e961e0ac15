"""The versions of a model directory: all that it ever was stays below `versions/`, and one of them is at its top level.

    DIR/                      the current version, an ordinary model directory
    DIR/versions/lineage.json what each version came from, and what was refused or rolled back
    DIR/versions/001/ ...     every version whole, sharing the files of the top level by hard links

The top level changes from one version to another at one instant, whatever is killed when: its files are first made links that lead
through `versions/.current` to the version that they are already, then `.current` is turned round by one rename, then the links become
files again. Whoever opens the directory, with transformers too, finds one version or the other, whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.kept import KEPT_FILES
from tunesmith.errors import ModelError, StorageError, UsageError, listing, setting
from tunesmith.lineage import (
    VERSIONS,
    add,
    begin,
    begun,
    current,
    digest_of,
    entry_of,
    free_number,
    lineage,
    next_number,
    now,
    settle,
    story,
    told_by,
)  # fmt: skip
from tunesmith.places import CHECKPOINTS, DESCRIPTION, HEAD_FILE
from tunesmith.storage import MANIFEST, checksum, locked, new_directory, sync, verify, write_json, writing

_CURRENT = ".current"
_FREE = ("README.md", "report.html", *KEPT_FILES)  # people may edit these, and delete the rows; no model is damaged by it


def place_of(directory: Path, number: int) -> Path:
    """Return where version `number` is."""
    return directory / VERSIONS / f"{number:03}"


def adopt(directory: Path) -> int:
    """Make sure that what is at the top level is kept as a version, and return its number. Raises `StorageError`, and as `check_top`."""
    recover(directory)
    check_top(directory)
    entries = lineage(directory)["versions"]
    number = current(directory, entries)
    if number is not None:
        settle(directory)
        return number
    number = free_number(entries)
    with new_directory(place_of(directory, number), replace=False) as temporary:
        _link_all(directory, temporary)
        _close(temporary)
    add(directory, entry_of(place_of(directory, number), number), waiting=False)
    settle(directory)
    return number


def publish(directory: Path, candidate: Path, entry: dict[str, Any], *, over: str | None) -> int:
    """Make the model directory `candidate` (below `directory`) a version of `directory` and its top level; return its number.

    entry: what the lineage is to say of it, `parent` among it; over: the digest that the top level must still have, None for no model.
    Whenever this is cut off, the top level is the old version or the new one, and the new one is lost at no time.
    Raises `StorageError`, also when the top level has become another one: it then stays, and the new version waits beside it.
    """
    number = next_number(directory)
    with writing(candidate):
        _close(candidate)
        sync(candidate)
    add(directory, {"version": number, "kind": "update", **told_by(candidate), **entry}, waiting=True)
    place = place_of(directory, number)
    with writing(place):
        candidate.rename(place)
        sync(place.parent)
    _sweep_checkpoints(directory)
    saved = f"The updated model is saved as version {number}: tunesmith rollback {directory} --to {number} makes it the current one."
    if digest_of(directory) != over:
        raise StorageError(f"another command changed the model in {directory} during the update, so it stays as it is now. {saved}")
    try:
        _switch(directory, place)
    except StorageError as error:
        raise StorageError(f"{error} {saved}") from error
    with contextlib.suppress(StorageError):
        settle(directory)  # what it says is found out from the directory, too
    return number


def rollback(directory: Path, to: int | None = None) -> tuple[int, int]:
    """Make an earlier version the current one, or with `to` any; return the numbers of the version before and the one now.

    The version that was current stays among the others. With `to` the current one, files of it that were changed since are put back. A
    rollback that was cut off after the change is only brought to its end by the next one.
    Raises `ModelError` when there is none to go back to or it is damaged, `UsageError` for a number that is none, `StorageError`.
    """
    if not story(directory)["versions"][1:]:
        raise ModelError(f"{directory} has one version, the current one: it was never updated, so there is nothing to go back to.")
    with locked(directory / VERSIONS):
        recover(directory)
        return _rolled_back(directory, to)


def _rolled_back(directory: Path, to: int | None) -> tuple[int, int]:
    number, event = current(directory), begun(directory)
    if event is not None and event["to"] == number and to in (None, number):
        settle(directory)
        return int(event["from"]), int(event["to"])
    if to is not None and to == number:
        place = place_of(directory, to)
        if not _changes(directory, place)[1]:
            raise UsageError(f"version {to} is the current one of {directory} already.")
        _check_whole(directory, to)
        _switch(directory, place)
        return to, to
    before = adopt(directory)
    entries = lineage(directory)["versions"]
    numbers = [int(entry["version"]) for entry in entries]
    if to is None:
        parent = next(entry["parent"] for entry in entries if entry["version"] == before)
        if parent not in numbers:
            raise ModelError(
                f"version {before} of {directory} did not come from another one that is there. Name the version to go to with "
                f"{setting('to')}: {listing(number for number in numbers if number != before)}."
            )
        to = int(parent)
    if to not in numbers:
        raise UsageError(f"{setting('to')} is {to}, but {directory} has the versions {listing(numbers, 40)}.")
    _check_whole(directory, to)
    begin(directory, {"event": "rollback", "date": now(), "from": before, "to": to})
    _switch(directory, place_of(directory, to))
    settle(directory)
    return before, to


def _check_whole(directory: Path, number: int) -> None:
    """Raise `ModelError` when a version is damaged."""
    place = place_of(directory, number)
    fault = verify(place)
    if fault is not None:
        raise ModelError(f"version {number} of {directory} is damaged: {fault}. What is current stays; restore {place} from a copy.")


def recover(directory: Path) -> None:
    """Finish what was cut off: make every link of the top level that leads through `.current` a file again."""
    _sweep_checkpoints(directory)
    pointer = directory / VERSIONS / _CURRENT
    if not pointer.is_symlink():
        return
    with writing(directory):
        for link in [path for path in _below(directory) if path.is_symlink() and _CURRENT in Path(os.readlink(path)).parts]:
            if link.is_file():
                _replace(Path(os.path.realpath(link)), link)
            else:
                link.unlink()  # the version has no such file
        places = [place for place in (directory / VERSIONS).glob("[0-9]*") if (place / DESCRIPTION).is_file()]
        for name in {Path(name).parent for place in places for name in _names(place)} - {Path()}:
            with contextlib.suppress(OSError):
                (directory / name).rmdir()  # empty ones only
        sync(directory)
        pointer.unlink()


def _sweep_checkpoints(directory: Path) -> None:
    """Remove the checkpoints of updates that have become versions."""
    for place in (directory / VERSIONS).glob(f"[0-9]*/{CHECKPOINTS}"):
        shutil.rmtree(place, ignore_errors=True)


def _switch(directory: Path, place: Path) -> None:
    """Make the version at `place` the top level, at one instant."""
    number = current(directory)
    pointer = directory / VERSIONS / _CURRENT
    before = place_of(directory, number) if number is not None else directory / VERSIONS / "none"
    files = {*(_files(before) if number is not None else ()), *_files(place)}
    with writing(directory):
        _point(pointer, before.name)
        for name in sorted(files):
            link = directory / name
            link.parent.mkdir(parents=True, exist_ok=True)
            up = Path(*[".."] * (len(Path(name).parts) - 1), VERSIONS, _CURRENT, name)
            _point(link, str(up))
        sync(directory)
        _point(pointer, place.name)  # the instant
        sync(pointer.parent)
    recover(directory)


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _replace(source: Path, place: Path) -> None:
    """Put a hard link to `source` in place of what is at `place`."""
    temporary = place.with_name(f".{place.name}.link")
    temporary.unlink(missing_ok=True)
    _link(source, temporary)
    temporary.replace(place)


def _link(source: Path, place: Path) -> None:
    """Make `place` a hard link to `source`, or a copy where the file system has none."""
    try:
        os.link(source, place)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            raise
        shutil.copy2(source, place)
        sync(place)


def _link_all(directory: Path, into: Path) -> None:
    for name in _files(directory):
        place = into / name
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(directory / name, place)


def check_top(directory: Path) -> None:
    """Take what people may edit at the top level into its version. Raises `ModelError` when the model itself is not as it was saved."""
    number = current(directory)
    if number is None:
        return
    place = place_of(directory, number)
    free, others = _changes(directory, place)
    if others:
        good = verify(place) is None
        cure = f"tunesmith rollback {directory} --to {number} puts them back" if good else f"neither is {place}; restore both from a copy"
        raise ModelError(
            f"{listing(others)} of {directory} {'is' if len(others) == 1 else 'are'} not as version {number} was saved (damaged, edited or "
            f"deleted), so nothing is done with the model: {cure}."
        )
    if free:
        with writing(place):
            for name in free:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                _replace(directory / name, place / name)


def _changes(directory: Path, place: Path) -> tuple[list[str], list[str]]:
    """Return which files differ from those of the version at `place`: those to be taken into it, and those not as they were saved."""
    listed = _listed(place)
    free, others = [], []
    for name in sorted({*_files(place), *listed, *_FREE}):
        top, kept = directory / name, place / name
        if top.is_file() and kept.is_file() and (top.samefile(kept) or _alike(top, kept)):
            continue
        if name in _FREE:
            free += [name] if top.is_file() else []
        elif top.is_file() and listed.get(name) == _sum(top):
            free.append(name)  # it is the version's own that is damaged
        else:
            others.append(name)
    return free, others


def _listed(place: Path) -> dict[str, Any]:
    """Return the manifest of a version, empty when it cannot be read."""
    try:
        found = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sum(path: Path) -> list[Any]:
    return [path.stat().st_size, checksum(path)]


def _alike(one: Path, two: Path) -> bool:
    return one.stat().st_size == two.stat().st_size and checksum(one) == checksum(two)


def _close(directory: Path) -> None:
    """Write the manifest of a version, without what people may edit or delete."""
    kept = [directory / name for name in _files(directory) if name not in _FREE]
    write_json(directory / MANIFEST, {str(path.relative_to(directory)): _sum(path) for path in kept})


def _files(directory: Path) -> list[str]:
    """Return the files of the model in `directory` by their names in it; what else lies there is not touched."""
    return sorted(name for name in _names(directory) if (directory / name).is_file() and name != MANIFEST)


def _names(directory: Path) -> set[str]:
    """Return the names that files of the model in `directory` may have."""
    try:
        told = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8")).get("files")
    except (OSError, ValueError, AttributeError) as error:
        raise StorageError(f"{directory / DESCRIPTION} cannot be read ({error}). Restore it from a copy.") from error
    if told is None:  # written before files were listed
        names = {path.name for path in directory.iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja")}
        told = [*names, "README.md", "report.html", "1_Pooling/config.json", "2_Normalize/config.json"]
    return {*told, *KEPT_FILES, HEAD_FILE, DESCRIPTION}


def _below(directory: Path) -> Iterator[Path]:
    """Yield the files and links of `directory` but for those of its versions and checkpoints."""
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or path.is_file():
            yield path
        elif path.is_dir() and path.name not in (VERSIONS, CHECKPOINTS):
            yield from (inside for inside in sorted(path.iterdir()) if inside.is_symlink() or inside.is_file())
