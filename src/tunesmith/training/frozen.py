"""Outputs of frozen layers for a run: whether they are kept, how large they get, and what the user is told of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tunesmith.config import Config
from tunesmith.data.table import TokenTable, cache_directory
from tunesmith.errors import setting
from tunesmith.model.features import Frozen, are_kept, joined, open_features, size_of
from tunesmith.model.heads import TextModel
from tunesmith.progress import Progress
from tunesmith.storage import writing
from tunesmith.tasks.base import Task

_SPARE = 0.9  # of the free disk space, the most that is taken


def keep_outputs(
    model: TextModel,
    task: Task,
    frozen_layers: int | None,
    tables: Sequence[tuple[TokenTable, np.ndarray]],
    config: Config,
    precision: str,
    progress: Progress,
) -> str:
    """Compute the outputs of the frozen layers for all rows that the run reads, and have `model` use them; return what was done in words.

    frozen_layers: how many layers, from the bottom, are frozen; None: training changes all of them
    tables: token tables with the numbers int64[E] of their rows
    Where they cannot be kept the layers run in every epoch, and the sentence says why. Raises `StorageError`.
    """
    if frozen_layers is None:
        return ""
    kept = precision if config.features == "auto" else config.features
    if config.features == "off":
        return f"frozen layers run in every epoch, as {setting('features', 'off')} asks for"
    frozen = Frozen(frozen_layers, kept, precision)
    root = Path(config.features_dir) / "tunesmith-features" if config.features_dir is not None else cache_directory() / "features"
    tables = joined(tables)
    reason = ""
    if not task.fixed_sequences:
        reason = f"{task.name} makes new sequences in every epoch"
    elif frozen_layers < model.encoder.layers and not model.encoder.runs_in_parts:
        reason = f"the layers of a {model.encoder.config.model_type} run one by one only with the packed engine, which does not know it"
        if model.encoder.packed is not None:
            reason = f"the layers run one by one only with the packed engine, and {setting('engine', config.engine)} was asked for"
    size = size_of(model, frozen, tables)
    limit = int(config.features_gb * 2**30)
    if not reason and not are_kept(model, frozen, tables, root):
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(root).free
        if size > limit:
            reason = f"they would take {_gb(size)}, more than {setting('features_gb')} {config.features_gb:g} allows"
        elif size > _SPARE * free:
            reason = f"they would take {_gb(size)}, and {root} has {_gb(free)} left; {setting('features_dir')} names another place"
    if reason:
        said = f"frozen layers run in every epoch: {reason}"
        progress.say(f"note: {said}.")
        return said
    progress.say(f"outputs of the frozen layers: at most {_gb(size)} in {kept}, kept in {root}")
    model.features = open_features(model, frozen, tables, root, limit, progress)
    return f"outputs of the frozen layers computed once and kept in {kept}, {_gb(model.features.bytes)}"


def _gb(size: int) -> str:
    return f"{size / 2**30:.2f} GB" if size >= 2**27 else f"{size / 2**20:.1f} MB"
