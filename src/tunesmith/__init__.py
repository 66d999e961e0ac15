"""tunesmith: fine-tune a text encoder, from a file of labelled rows to a tested, saved model.

`train` fine-tunes, `tune` searches for settings, `load` opens a trained model, `TextClassifier` is the scikit-learn estimator. They are
imported on first use, since torch takes seconds to load.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Threads that wait for each other should spin for a moment and then sleep: sleeping at once halves the speed of small batches, and
# spinning for long makes them 30 to 40 times slower on a machine that has other work (docs/lab-notes.md). The OpenMP runtime reads
# this once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tunesmith.api import add_examples as add_examples
    from tunesmith.api import history as history
    from tunesmith.api import load as load
    from tunesmith.api import rollback as rollback
    from tunesmith.api import train as train
    from tunesmith.api import tune as tune
    from tunesmith.api import update as update
    from tunesmith.bundle import Bundle as Bundle
    from tunesmith.estimator import TextClassifier as TextClassifier
    from tunesmith.recipe import TrainResult as TrainResult
    from tunesmith.study.tune import TuneResult as TuneResult
    from tunesmith.tasks.classification import Prediction as Prediction
    from tunesmith.tasks.qa import Answer as Answer
    from tunesmith.updating import UpdateResult as UpdateResult

_PLACES = {
    "add_examples": "tunesmith.api",
    "train": "tunesmith.api",
    "tune": "tunesmith.api",
    "load": "tunesmith.api",
    "update": "tunesmith.api",
    "history": "tunesmith.api",
    "rollback": "tunesmith.api",
    "Bundle": "tunesmith.bundle",
    "TextClassifier": "tunesmith.estimator",
    "TrainResult": "tunesmith.recipe",
    "TuneResult": "tunesmith.study.tune",
    "Prediction": "tunesmith.tasks.classification",
    "Answer": "tunesmith.tasks.qa",
    "UpdateResult": "tunesmith.updating",
}

__all__ = [
    "Answer", "Bundle", "Prediction", "TextClassifier", "TrainResult", "TuneResult", "UpdateResult", "add_examples", "history", "load",
    "rollback", "train", "tune", "update",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
