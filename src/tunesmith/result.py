"""What a finished run tells: everything that report, model card and `tunesmith.json` say, as plain values."""

from __future__ import annotations

import datetime
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith import __version__
from tunesmith.bundle import assess
from tunesmith.config import Config
from tunesmith.model.arithmetic import cpu_name
from tunesmith.model.devices import peak_gpu_mb
from tunesmith.model.heads import TextModel
from tunesmith.model.hub import versions
from tunesmith.prepare import Prepared, part_account
from tunesmith.progress import Progress
from tunesmith.seeds import seed_for
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part
from tunesmith.training.state import TrainState

_YARDSTICK_ROWS = 50_000


@dataclass(frozen=True)
class Fitted:
    """A model that is ready to be tested and saved.

    metric: that chose the weights; computed: the device and the precision of training, and why with which engine
    per_epoch: optimizer steps of an epoch; what: words and figures on what was trained, for the report
    prompting: what opens a model of prompts again; None for one that was trained
    """

    model: TextModel
    task: Task
    state: TrainState
    metric: str
    computed: tuple[str, str, str]
    per_epoch: float
    what: dict[str, Any]
    prompting: dict[str, Any] | None = None


def pooling_of(task: Task, config: Config) -> str:
    """Return how a text's token vectors become one: that of the settings, or of the vectors that are to be learned."""
    return "mean" if task.head.kind == "embedding" else config.pooling


def result_of(config: Config, prepared: Prepared, fitted: Fitted, evaluations: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Return everything that report, model card and `tunesmith.json` say, as plain values."""
    model, task, state = fitted.model, fitted.task, fitted.state
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
        "machine": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            **dict(zip(("device", "precision", "note"), fitted.computed, strict=True)),
        },
        "data": {
            "columns": prepared.parts["train"].schema.roles,
            "splits": splits,
            "notes": prepared.notes,
        },
        "training": {
            "epochs": state.step / max(fitted.per_epoch, 1e-9),
            "steps": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "tokens_per_s": state.tokens / max(state.seconds, 1e-9),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peak_gpu_memory_mb": peak_gpu_mb(model.encoder.device),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **fitted.what,
            "adapter": model.adapter.summary(model.own_head) if model.adapter is not None else None,
            "best_step": state.best_step,
            "stopped": state.stopped,
            "history": state.history,
            "evaluations": state.evaluations,
        },
        "metric": fitted.metric,
        "evaluations": evaluations,
    }


def evaluation_of(
    model: TextModel, task: Task, prepared: Prepared, name: str, config: Config, progress: Progress, *, judged: bool
) -> dict[str, Any] | None:
    """Evaluate the chosen weights on one part; the yardsticks too, on the part that the report judges by."""
    part = prepared.parts.get(name)
    if part is None or len(part.rows) == 0:
        return None
    what = {"valid": "validating", "test": "testing"}[name]
    result = assess(model, task, part, max_tokens=config.tokens_at_once, what=what, progress=progress)
    return {**result, "yardsticks": _yardsticks(task, prepared, part, config, progress) if judged else []}


def _yardsticks(task: Task, prepared: Prepared, part: Part, config: Config, progress: Progress) -> list[dict[str, Any]]:
    """What simple methods reach on `part` that learn from the training rows, or from a sample where these are many."""
    train = prepared.parts["train"]
    rows, sample = train.rows, train.rows.index
    if len(sample) > _YARDSTICK_ROWS:
        generator = np.random.default_rng(seed_for(config.seed, "yardstick rows"))
        sample = np.sort(generator.choice(sample, _YARDSTICK_ROWS, replace=False))
        train = train.with_index(sample)
    learned, tested = (train.examples(progress), part.examples(progress)) if task.needs_texts else ([], [])
    if learned is None or tested is None:
        return [_skipped("the data have changed since the training began")]
    try:
        found = task.yardsticks(train, learned, part, tested, prepared.pretrained, config.seed, progress)
    except Exception as error:  # whatever goes wrong here, the trained model must still be saved
        return [_skipped(f"{type(error).__name__}: {error}")]
    if len(sample) < len(rows):
        for yardstick in found:
            yardstick["note"] += f"; trained on a random {len(sample):,} of the {len(rows):,} training rows"
    return found


def _skipped(why: str) -> dict[str, Any]:
    """Return what stands in the place of yardsticks that there are none of."""
    return {"name": "yardsticks", "note": f"skipped: {why}", "metrics": {}, "intervals": {}}
