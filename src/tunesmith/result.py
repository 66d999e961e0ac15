"""What a finished run tells: everything that report, model card and `tunesmith.json` say, as plain values."""

from __future__ import annotations

import datetime
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tunesmith import __version__
from tunesmith.config import Config
from tunesmith.model.arithmetic import cpu_name
from tunesmith.model.heads import TextModel
from tunesmith.model.hub import versions
from tunesmith.prepare import Prepared, part_account
from tunesmith.tasks.base import Task
from tunesmith.training.state import TrainState


def pooling_of(task: Task, config: Config) -> str:
    """Return how a text's token vectors become one: that of the settings, or of the vectors that are to be learned."""
    return "mean" if task.head.kind == "embedding" else config.pooling


def result_of(
    config: Config,
    prepared: Prepared,
    model: TextModel,
    task: Task,
    state: TrainState,
    evaluations: dict[str, Any],
    directory: Path,
    metric: str,
    computed: tuple[str, str],
    examples: int,
    what: dict[str, Any],
) -> dict[str, Any]:
    """Everything that report, model card and `tunesmith.json` say, as plain values."""
    splits: dict[str, Any] = {"train": None, "valid": None, "test": None}
    for name, part in prepared.parts.items():
        splits[name] = {
            "file": part.source.name,
            "rows": len(part.rows),
            "how": part.how,
            "targets": part.rows.targets.summary(part.rows.index),
            "account": part_account(prepared, name),
        }
    return {
        "task": task.name,
        "kind": task.kind,
        "name": directory.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "base_model": prepared.pretrained.located.name,
        "pooling": pooling_of(task, config),
        "head": task.head.kind,
        "outputs": task.head.outputs,
        "loads_in_transformers": model.loads_in_transformers,
        "sentence": task.sentence(),
        "hub": asdict(task.hub(prepared.parts["train"].schema)),
        "labels": task.labels,
        "thresholds": getattr(task, "thresholds", None),
        "recipe": config.model_dump(mode="json"),
        "versions": {"tunesmith": __version__, **versions()},
        "machine": {"cpu": cpu_name(), "threads": torch.get_num_threads(), "precision": computed[0], "note": computed[1]},
        "data": {
            "columns": prepared.parts["train"].schema.roles,
            "splits": splits,
            "notes": prepared.notes,
        },
        "training": {
            "epochs": state.step / max(-(-examples // config.batch_size), 1),
            "steps": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "tokens_per_s": state.tokens / max(state.seconds, 1e-9),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **what,
            "best_step": state.best_step,
            "stopped": state.stopped,
            "history": state.history,
            "evaluations": state.evaluations,
        },
        "metric": metric,
        "evaluations": evaluations,
    }
