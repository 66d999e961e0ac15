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
import datetime
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.kept import KEPT_FILES
from tunesmith.errors import ModelError, StorageError, UsageError, listing, setting
from tunesmith.places import DESCRIPTION, HEAD_FILE
from tunesmith.storage import MANIFEST, checksum, locked, new_directory, sync, verify, write_json, write_manifest, writing

VERSIONS = "versions"
LINEAGE = "lineage.json"
NEXT = ".next"
"""In `versions`: a version that is being made."""
_CURRENT = ".current"
_FORMAT = 1
_FREE = ("README.md", "report.html", *KEPT_FILES)  # people may edit these, and delete the rows; no model is damaged by it


def lineage(directory: Path) -> dict[str, Any]:
    """Return what is known of the versions of a model directory: `versions`, one entry each, oldest first, and `events`.

    An entry has `version`, `parent` (None for one that was trained), `kind` (train or update), `date` and what `publish` was given. An
    event is an update that was refused or a rollback. A version whose directory was deleted is left out.
    Raises `ModelError` when the file is damaged.
    """
    path = directory / VERSIONS / LINEAGE
    found: dict[str, Any] = {"format": _FORMAT, "versions": [], "events": []}
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] > _FORMAT:
                raise ModelError(f"{path} has format {found['format']}; this tunesmith reads up to {_FORMAT}. Update tunesmith.")
            for entry in found["versions"]:
                entry["version"], entry["parent"], entry["kind"], entry["date"], entry["digest"]
            list(found["events"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path} is damaged ({type(error).__name__}: {error}). The versions beside it are whole without it: move it away, and they "
                "are listed by what their directories say."
            ) from error
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    known = {entry["version"]: entry for entry in found["versions"]}
    there = {int(place.name): place for place in (directory / VERSIONS).glob("[0-9]*") if place.name.isdigit()}
    entries = [known[number] if number in known else _entry_of(place, number) for number, place in sorted(there.items())]
    return {**found, "versions": entries}


def story(directory: Path) -> dict[str, Any]:
    """Return `lineage` with `current`, the number of the version at the top level; a model never updated is its version 1.

    Raises `ModelError` when `directory` is no model directory.
    """
    if not (directory / DESCRIPTION).is_file():
        raise ModelError(f"{directory} is no model directory: it has no {DESCRIPTION}. Name one that `tunesmith train` wrote.")
    found = lineage(directory)
    number = current(directory, found["versions"])
    if number is None:
        number = _free(found["versions"])
        found["versions"] = [*found["versions"], _entry_of(directory, number)]
    return {"current": number, **found}


def current(directory: Path, entries: Iterable[dict[str, Any]] | None = None) -> int | None:
    """Return the number of the version that is at the top level; None when that is none of them, as after a new training."""
    entries = lineage(directory)["versions"] if entries is None else entries
    try:
        digest = checksum(directory / DESCRIPTION)
    except OSError:
        return None
    return next((int(entry["version"]) for entry in reversed(list(entries)) if entry["digest"] == digest), None)


def place_of(directory: Path, number: int) -> Path:
    """Return where version `number` is."""
    return directory / VERSIONS / f"{number:03}"


def adopt(directory: Path) -> int:
    """Make sure that what is at the top level is kept as a version, and return its number. Raises `StorageError`."""
    recover(directory)
    entries = lineage(directory)["versions"]
    number = current(directory, entries)
    if number is not None:
        _refresh(directory, place_of(directory, number))
        return number
    number = _free(entries)
    with new_directory(place_of(directory, number), replace=False) as temporary:
        _link_all(directory, temporary)
        _close(temporary)
    _write(directory, [*entries, _entry_of(place_of(directory, number), number)])
    return number


def publish(directory: Path, candidate: Path, entry: dict[str, Any]) -> int:
    """Make the model directory `candidate` (below `directory`) a version of `directory` and its top level; return its number.

    entry: what the lineage is to say of it, `parent` among it. Whenever this is cut off, the top level is the old version or the new one.
    Raises `StorageError`.
    """
    entries = lineage(directory)["versions"]
    number = _free(entries)
    with writing(candidate):
        _close(candidate)
        sync(candidate)
    _write(directory, [*entries, {"version": number, "kind": "update", **_told(candidate), **entry}])
    place = place_of(directory, number)
    with writing(place):
        candidate.rename(place)
        sync(place.parent)
    _switch(directory, place)
    return number


def note(directory: Path, event: dict[str, Any]) -> None:
    """Add an event to the lineage: an update that was refused, a rollback."""
    found = lineage(directory)
    write_json(directory / VERSIONS / LINEAGE, {**found, "events": [*found["events"], event]})


def rollback(directory: Path, to: int | None = None) -> tuple[int, int]:
    """Make an earlier version the current one, or with `to` any; return the numbers of the version before and the one now.

    The version that was current stays among the others. Raises `ModelError` when there is none to go back to or it is damaged,
    `UsageError` for a number that is none, `StorageError`.
    """
    if not story(directory)["versions"][1:]:
        raise ModelError(f"{directory} has one version, the current one: it was never updated, so there is nothing to go back to.")
    with locked(directory / VERSIONS):
        return _rolled_back(directory, to)


def _rolled_back(directory: Path, to: int | None) -> tuple[int, int]:
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
    if to == before:
        raise UsageError(f"version {to} is the current one of {directory} already.")
    place = place_of(directory, to)
    fault = verify(place)
    if fault is not None:
        raise ModelError(f"version {to} of {directory} is damaged: {fault}. Version {before} stays; restore {place} from a copy.")
    _switch(directory, place)
    note(directory, {"event": "rollback", "date": now(), "from": before, "to": to})
    return before, to


def recover(directory: Path) -> None:
    """Finish what was cut off: make every link of the top level that leads through `.current` a file again."""
    pointer = directory / VERSIONS / _CURRENT
    if not pointer.is_symlink():
        return
    with writing(directory):
        for link in [path for path in _below(directory) if path.is_symlink() and _CURRENT in Path(os.readlink(path)).parts]:
            if link.is_file():
                _replace(Path(os.path.realpath(link)), link)
            else:
                link.unlink()  # the version has no such file
        for path in sorted(directory.iterdir()):
            if path.is_dir() and path.name != VERSIONS:
                with contextlib.suppress(OSError):
                    path.rmdir()  # empty ones only
        sync(directory)
        pointer.unlink()


def now() -> str:
    """Return the moment, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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


def _refresh(directory: Path, place: Path) -> None:
    """Take into the version at `place` what was replaced at the top level since, such as a model card that was edited."""
    changed = []
    for name in _files(directory):
        top, kept = directory / name, place / name
        if not kept.is_file() or not (top.samefile(kept) or _alike(top, kept)):
            changed.append(name)
    if changed:
        with writing(place):
            for name in changed:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                _replace(directory / name, place / name)
            _close(place)


def _alike(one: Path, two: Path) -> bool:
    return one.stat().st_size == two.stat().st_size and checksum(one) == checksum(two)


def _close(directory: Path) -> None:
    """Write the manifest of a version, without what people may edit or delete."""
    (directory / MANIFEST).unlink(missing_ok=True)
    write_manifest(directory)
    path = directory / MANIFEST
    entries = {name: entry for name, entry in json.loads(path.read_text(encoding="utf-8")).items() if name not in _FREE}
    write_json(path, entries)


def _files(directory: Path) -> list[str]:
    """Return the files of the model in `directory` by their names in it; what else lies there is not touched."""
    try:
        told = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8")).get("files")
    except (OSError, ValueError, AttributeError) as error:
        raise StorageError(f"{directory / DESCRIPTION} cannot be read ({error}). Restore it from a copy.") from error
    if told is None:  # written before files were listed
        names = {path.name for path in directory.iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja")}
        told = [*names, "README.md", "report.html", *KEPT_FILES, "1_Pooling/config.json", "2_Normalize/config.json"]
    kept = [name for name in {*told, *KEPT_FILES, HEAD_FILE, DESCRIPTION} if (directory / name).is_file() and name != MANIFEST]
    return sorted(kept)


def _below(directory: Path) -> Iterator[Path]:
    """Yield the files and links of `directory` but for those of its versions and checkpoints."""
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or path.is_file():
            yield path
        elif path.is_dir() and path.name not in (VERSIONS, "checkpoints"):
            yield from (inside for inside in sorted(path.iterdir()) if inside.is_symlink() or inside.is_file())


def next_number(directory: Path) -> int:
    """Return the number that the next version of `directory` gets."""
    return _free(lineage(directory)["versions"])


def _free(entries: list[dict[str, Any]]) -> int:
    return max((int(entry["version"]) for entry in entries), default=0) + 1


def _told(place: Path) -> dict[str, Any]:
    """Return what the description of a model says for the lineage."""
    try:
        description = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
        result = description.get("result", {})
        scores = result.get("evaluations", {}).get("test")
        return {
            "date": result.get("created", ""),
            "digest": checksum(place / DESCRIPTION),
            "tests": scores["metrics"] if scores is not None else None,
            "metric": result.get("metric"),
            "rows": {name: part["rows"] for name, part in result.get("data", {}).get("splits", {}).items() if part},
            "data": result.get("data", {}).get("splits", {}).get("train", {}).get("file"),
            "fingerprints": description.get("fingerprints", {}),
            "settings": result.get("recipe", {}),
        }
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {"date": "", "digest": "", "tests": None, "metric": None, "rows": {}, "data": None, "fingerprints": {}, "settings": {}}


def _entry_of(place: Path, number: int) -> dict[str, Any]:
    """Return the entry of a version of which the lineage does not tell."""
    return {"version": number, "parent": None, "kind": "train", **_told(place)}


def _write(directory: Path, entries: list[dict[str, Any]]) -> None:
    write_json(directory / VERSIONS / LINEAGE, {**lineage(directory), "versions": entries})
