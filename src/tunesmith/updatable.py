"""Whether a model can be updated at all: found out from its files alone, before anything heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith import registry
from tunesmith.errors import StorageError, UsageError, setting
from tunesmith.lineage import VERSIONS
from tunesmith.places import CHECKPOINTS, DESCRIPTION

NEXT = ".next"
"""In `versions`: a version that is being made."""


def check_updatable(directory: Path, out: Path | None, *, resume: bool) -> None:
    """Raise `UsageError` for a model that is not updated and for nothing to resume, `StorageError` where `out` is taken.

    A description that cannot be read says nothing here; loading the model says what is wrong with it.
    """
    try:
        description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        name, prompting, adapter = description["task"]["name"], description["prompting"], description["adapter"]
    except (OSError, ValueError, KeyError, TypeError):
        name, prompting, adapter = None, None, None
    if name in registry.names() and not registry.family(name).updatable:
        raise UsageError(
            f"{directory} is a model for {name}, which is not updated but pretrained further: tunesmith pretrain TEXTS --model {directory}"
        )
    if prompting is not None:
        raise UsageError(f"{directory} was made without any training. Give it more examples with: tunesmith add-examples {directory} FILE")
    if adapter is not None:
        raise UsageError(
            f"{directory} holds only what was added to an encoder that others share, which an update would change. Train again on all "
            f"rows, or with {setting('merge', True)} or {setting('tuning', 'full')}, whose models can be updated."
        )
    root = out if out is not None else directory
    if out is not None:
        _check_free(out)
    if resume and not any((root / VERSIONS / NEXT / CHECKPOINTS).glob("step-*")):
        raise UsageError(f"no update of {root} was interrupted after a checkpoint. Leave {setting('resume')} out to start one.")


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; {setting('out')} must name a directory to write.")
    if out.is_dir() and any(path.name != VERSIONS or (path / "001").exists() for path in out.iterdir()):
        raise StorageError(f"{out} is not empty. Name another {setting('out')}, or leave it out to update the model where it is.")
