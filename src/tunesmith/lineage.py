"""What is known of the versions of a model directory, kept in `versions/lineage.json` and told by the versions' own directories, too."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.places import DESCRIPTION
from tunesmith.storage import checksum, write_json

VERSIONS = "versions"
LINEAGE = "lineage.json"
_FORMAT = 1
_WAITING = "waiting"  # of a version that has not been at the top level
_BEGUN = "begun"  # the change of the top level that goes on


def lineage(directory: Path) -> dict[str, Any]:
    """Return what is known of the versions of a model directory: `versions`, one entry each, oldest first, and `events`.

    An entry has `version`, `parent` (None for one that was trained), `kind` (train or update), `date` and what it was given; `waiting` when
    it has never become the current one. An event is an update that was refused or a rollback. A version whose directory was deleted is left
    out. `begun`: the change of the top level that goes on, or was cut off.
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
    entries = [known[number] if number in known else entry_of(place, number) for number, place in sorted(there.items())]
    return {**found, "versions": entries}


def story(directory: Path) -> dict[str, Any]:
    """Return `lineage` with `current`, the number of the version at the top level; a model never updated is its version 1.

    `waiting`: the numbers of versions that have never become the current one, as the command that made them was cut off.
    Raises `ModelError` when `directory` is no model directory.
    """
    if not (directory / DESCRIPTION).is_file():
        raise ModelError(f"{directory} is no model directory: it has no {DESCRIPTION}. Name one that `tunesmith train` wrote.")
    found = lineage(directory)
    number = current(directory, found["versions"])
    if number is None:
        number = free_number(found["versions"])
        found["versions"] = [*found["versions"], entry_of(directory, number)]
    begun = found.pop(_BEGUN, None)
    events = [*found["events"], *([begun] if begun is not None and begun["to"] == number else [])]
    waiting = [entry["version"] for entry in found["versions"] if entry.get(_WAITING) and entry["version"] != number]
    return {"directory": str(directory), "current": number, _WAITING: waiting, **found, "events": events}


def current(directory: Path, entries: Iterable[dict[str, Any]] | None = None) -> int | None:
    """Return the number of the version that is at the top level; None when that is none of them, as after a new training."""
    entries = lineage(directory)["versions"] if entries is None else entries
    return numbered(entries, digest_of(directory))


def digest_of(directory: Path) -> str | None:
    """Return by which a model is told from others, at the top level or as a version: the checksum of its description; None without one."""
    try:
        return checksum(directory / DESCRIPTION)
    except OSError:
        return None


def numbered(entries: Iterable[dict[str, Any]], digest: str | None) -> int | None:
    """Return the number of the last version with this digest."""
    found = (int(entry["version"]) for entry in reversed(list(entries)) if entry["digest"] == digest)
    return next(found, None) if digest is not None else None


def next_number(directory: Path) -> int:
    """Return the number that the next version of `directory` gets."""
    return free_number(lineage(directory)["versions"])


def free_number(entries: list[dict[str, Any]]) -> int:
    """Return the first number behind those of the entries."""
    return max((int(entry["version"]) for entry in entries), default=0) + 1


def entry_of(place: Path, number: int) -> dict[str, Any]:
    """Return the entry of a version of which the lineage does not tell."""
    return {"version": number, "parent": None, "kind": "train", **told_by(place)}


def told_by(place: Path) -> dict[str, Any]:
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


def add(directory: Path, entry: dict[str, Any], *, waiting: bool) -> None:
    """Add a version; `waiting`: it is to become the current one. Raises `StorageError`."""
    found = lineage(directory)
    _write(directory, {**found, "versions": [*found["versions"], entry | ({_WAITING: True} if waiting else {})]})


def note(directory: Path, event: dict[str, Any]) -> None:
    """Add an event: an update that was refused. Raises `StorageError`."""
    found = lineage(directory)
    _write(directory, {**found, "events": [*found["events"], event]})


def begin(directory: Path, event: dict[str, Any]) -> None:
    """Say which event begins, one whose `to` is the version that is to become the current one. Raises `StorageError`."""
    _write(directory, {**lineage(directory), _BEGUN: event})


def begun(directory: Path) -> dict[str, Any] | None:
    """Return the event that began and has not been settled."""
    event: dict[str, Any] | None = lineage(directory).get(_BEGUN)
    return event


def settle(directory: Path) -> None:
    """Say that what began has become true, or that it has not, by the version that is at the top level. Raises `StorageError`."""
    found = lineage(directory)
    number = current(directory, found["versions"])
    waited = [entry for entry in found["versions"] if entry["version"] == number and entry.pop(_WAITING, False)]
    event = found.pop(_BEGUN, None)
    if event is not None and event["to"] == number:
        found["events"] = [*found["events"], event]
    if waited or event is not None:
        _write(directory, found)


def now() -> str:
    """Return the moment, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _write(directory: Path, content: dict[str, Any]) -> None:
    write_json(directory / VERSIONS / LINEAGE, content)
