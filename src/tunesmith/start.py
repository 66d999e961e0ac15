"""What a training begins with that goes on from a trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunesmith.model.heads import TextModel
from tunesmith.replay import Kept
from tunesmith.tasks.base import Task


@dataclass(frozen=True)
class Start:
    """What a training has that goes on from a trained model, in place of a pretrained encoder with a fresh head.

    model: with outputs for all labels of the task, which are those of the task before
    identity: what tells this training from others, beside settings and rows; resume_hint: how to go on after an interruption
    learner: the task as the loop is to see it, for the model and the precision
    judge: gets the trained model, its task and the result, to which it may add; what it raises keeps anything from being saved
    kept: the rows to keep; sketch: of the texts trained on before
    """

    model: TextModel
    identity: str
    resume_hint: str
    learner: Callable[[Task, str], Task]
    judge: Callable[[TextModel, Task, dict[str, Any]], None]
    kept: Kept | None
    sketch: dict[str, Any] | None
