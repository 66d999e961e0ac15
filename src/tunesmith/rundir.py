"""The directory of a run: where it goes, what may be replaced, and with which settings it was begun."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from tunesmith.bundle import DESCRIPTION
from tunesmith.config import FILES, Config
from tunesmith.data.given import Given
from tunesmith.errors import Interrupted, StorageError, UsageError, listing, setting
from tunesmith.places import CHECKPOINTS
from tunesmith.resolve import resolve
from tunesmith.storage import write_json
from tunesmith.training.state import RUN, Checkpoints

FOLDS = "folds"
WAYS = "ways"
RECORD = "result.json"
"""What is kept, beside its report, of a training whose model is not: that of a fold or a trial."""
_MODEL_PLACE = "model directory"
_WRITTEN = ("README.md", "report.html", "config.json", "model.safetensors", "tokenizer.json")


def output_directory(config: Config, given: Given, *, resume: bool, overwrite: bool) -> Path:
    """Return where the model goes: `config.out`, else `runs/NAME` after the data file, numbered when that is taken.

    Raises `UsageError` when there is nothing to train on or to resume, `StorageError` when something is there that may not be replaced.
    """
    if resume and overwrite:
        both = f"{setting('resume')} and {setting('overwrite')}"
        raise UsageError(f"{both} exclude each other: go on with what is in the directory, or replace it.")
    data = given.named(config)
    if config.out is not None:
        directory = Path(config.out)
    else:
        stem = Path(data).name.split(".")[0] if isinstance(data, str | Path) else "model"
        directory, number = Path("runs") / stem, 1
        unfinished = [path for path in named_after(stem) if resume and is_started(path)]
        if unfinished:
            return max(unfinished, key=lambda path: (path / CHECKPOINTS).stat().st_mtime)
        while directory.exists() and not (resume or overwrite):
            number += 1
            directory = Path("runs") / f"{stem}-{number}"
    standing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not standing.is_dir():
        raise StorageError(f"{standing} is a file; {setting('out')} must name a directory to write.")
    if not os.access(standing, os.W_OK):
        raise StorageError(
            f"cannot write {directory}: permission denied in {standing}. Choose a place you may write to with {setting('out')}."
        )
    if resume and not (directory / DESCRIPTION).is_file() and not (directory / CHECKPOINTS).is_dir():
        raise UsageError(
            f"there is nothing to resume in {directory}: it has no checkpoints. Leave {setting('resume')} out to start, "
            f"or name the right {setting('out')}."
        )
    started = is_started(directory)
    # a run that ended before its first checkpoint left nothing worth keeping
    nothing = (CHECKPOINTS,) if any((directory / FOLDS).glob("[0-9]*")) else (CHECKPOINTS, FOLDS)
    taken = directory.is_dir() and any(started or path.name not in nothing for path in directory.iterdir())
    if taken and not resume and not overwrite:
        advice = f"{setting('resume', True)} to go on with the training that was started there, " if started else ""
        raise StorageError(
            f"{directory} is not empty. Use {advice}{setting('overwrite', True)} to replace it, or another {setting('out')}."
        )
    if taken and overwrite and not (directory / DESCRIPTION).is_file() and not Checkpoints(directory / CHECKPOINTS, "", []).of_a_run():
        in_the_way = [name for name in _WRITTEN if (directory / name).exists()]
        if in_the_way:
            raise StorageError(
                f"{directory} is no directory that tunesmith wrote, and its {listing(in_the_way)} would be replaced. "
                f"Choose another {setting('out')}."
            )
    return directory


def named_after(stem: str) -> list[Path]:
    """Return the directories in runs/ of trainings on the file of this stem, numbered or not."""
    name = re.compile(rf"{re.escape(stem)}(-[0-9]+)?")
    return sorted(path for path in Path("runs").iterdir() if name.fullmatch(path.name)) if Path("runs").is_dir() else []


def resume_hint(directory: Path) -> str:
    how = setting("resume", True)
    if how.startswith("--"):
        return f"Go on with: tunesmith train {how} --out {shlex.quote(str(directory))}"
    return f"Go on with the same call and {how}, {setting('out', str(directory))}."


def store_settings(directory: Path, config: Config) -> None:
    """Write the settings of a run that begins beside its checkpoints, files by their absolute paths."""
    values = config.model_dump(mode="json")
    stored = {key: str(Path(value).absolute()) if key in FILES and value is not None else value for key, value in values.items()}
    # as it was named, which the report repeats, and where it is when the run goes on from another directory
    place = str(Path(config.model).absolute()) if Path(config.model).is_dir() else None
    write_json(directory / CHECKPOINTS / RUN, {**stored, "out": None, _MODEL_PLACE: place})


def stored_settings(directory: Path) -> dict[str, Any]:
    """Return the settings of the run in `directory`, for a resume without any others; empty when they cannot be read."""
    try:
        if (directory / DESCRIPTION).is_file() and not is_started(directory):
            result = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))["result"]
            values = {**result["recipe"], **({"lr": "find"} if "lr_find" in result else {})}  # as it was asked for
        else:
            values = json.loads((directory / CHECKPOINTS / RUN).read_text(encoding="utf-8"))
            place = values.pop(_MODEL_PLACE, None)
            if place is not None and not Path(values["model"]).is_dir():
                values["model"] = place
        return resolve({key: value for key, value in values.items() if value is not None}).model_dump(mode="json", exclude_none=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
        return {}


def is_started(directory: Path) -> bool:
    """Whether a training with checkpoints, or a cross-validation, is under way in `directory`."""
    several = any((directory / FOLDS).glob("[0-9]*")) or any((directory / WAYS).glob("*"))
    begun = (directory / CHECKPOINTS / RUN).is_file() and several
    return begun or any((directory / CHECKPOINTS).glob("step-*"))


def keep_record(directory: Path) -> None:
    """Leave the record and the report of a training in `directory`, and nothing else: neither its weights nor its checkpoints."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (RECORD, "report.html"):
            path.unlink(missing_ok=True)


def what_is_saved(directory: Path) -> str:
    """Return what is left of a training in `directory` that was stopped at once."""
    if any((directory / CHECKPOINTS).glob("step-*")):
        return "what the last checkpoint holds is saved"
    return "there is no checkpoint yet, so that it will begin anew"


def stopped_in(where: str, error: Interrupted, hint: str) -> Interrupted:
    """Return the interruption of a training that is part of something larger, with the `hint` how to go on with that."""
    return Interrupted(f"{f'{where}: ' if where else ''}{str(error).split(' Go on with')[0]} {hint}")


def check_same_settings(directory: Path, config: Config) -> None:
    """Raise `UsageError` when the run in `directory` had other settings than those of the attempt to resume it.

    Settings that cannot be read say nothing here; the checkpoints of an unfinished run then still know that they differ.
    """
    stored = stored_settings(directory)
    if not stored:
        return
    before, finished = resolve(stored), not is_started(directory)
    begun = not finished or (directory / DESCRIPTION).is_file()
    other = config.changes_from(before)
    # checkpoints know the content of their files, wherever these lie; of a finished run only the places are left to compare
    other += config.files_changed_from(before) if finished else []
    if other and not begun:
        raise UsageError(
            f"the run in {directory} ended before its first checkpoint, so nothing of it is left to go on with, and its settings were "
            f"others: {listing(other)}. Leave {setting('resume')} out to start."
        )
    if other:
        raise UsageError(
            f"{directory} holds {'a finished' if finished else 'an unfinished'} run with other settings: {listing(other)}. "
            f"Leave them out to go on with it, or use {setting('overwrite', True)} or another {setting('out')}."
        )
