"""The functions of the package's face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.bundle import Bundle
from tunesmith.progress import Mode, Progress
from tunesmith.prompting import add_examples as _add_examples
from tunesmith.recipe import TrainResult
from tunesmith.recipe import train as _train
from tunesmith.resolve import resolve


def train(
    data: Any = None,
    *,
    labels: Any = None,
    valid: Any = None,
    test: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Mode = "auto",
    **settings: Any,
) -> TrainResult:
    """Fine-tune an encoder on labelled texts, test it, and write the model directory.

    data: a path; a list of texts with `labels=`; a list of dicts, a dict of columns, a NumPy array, a pandas or Arrow table,
        a `datasets.Dataset`; None with `tuning="none"` and `prompts`
    labels: one label per text of `data`, or a list of labels per text
    valid, test: more data of the same kinds; without them parts of the training rows are split off
    resume: go on from the newest checkpoint in `out`; overwrite: replace what is in `out`
    progress: "auto" (a bar on a terminal, else lines), "bar", "lines" or "quiet"
    settings: those of the recipe, by the same names: text, label, model, epochs, lr, batch_size, max_length, truncation,
        pooling, seed, out, ... (see `tunesmith.config.Config`)

    Returns a `TrainResult` with `directory`, `metrics`, `result` (the whole report) and `bundle` (ready to predict).
    Raises `UsageError`, `DataError`, `ModelError`, `StorageError` (all `tunesmith.errors.TunesmithError`), `Interrupted`.
    """
    files = {name: str(value) for name, value in (("train", data), ("valid", valid), ("test", test)) if isinstance(value, str | Path)}
    tables = {
        f"{name}_data": value
        for name, value in (("train", data), ("valid", valid), ("test", test))
        if value is not None and name not in files
    }
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return _train(resolve(settings, files), **tables, labels=labels, resume=resume, overwrite=overwrite, progress=Progress(progress))


def load(directory: Path | str, **settings: Any) -> Bundle:
    """Open the model directory that `train` wrote. Raises `ModelError`, `UsageError`.

    settings: of prediction, in place of those of training; `constrain` for a tagger
    """
    return Bundle.load(directory, **settings)


def add_examples(
    directory: Path | str, data: Any, *, text: str | None = None, label: str | None = None, progress: Mode = "quiet"
) -> dict[str, int]:
    """Add labelled rows to the examples of a model made with `tuning="none"`, without any training; see `prompting.add_examples`."""
    return _add_examples(directory, data, text=text, label=label, progress=Progress(progress))
