"""The functions of the package's face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.automatic import kind_of_run
from tunesmith.bundle import Bundle
from tunesmith.data.given import Given
from tunesmith.data.memory import open_data
from tunesmith.lineage import story
from tunesmith.progress import Mode, Progress
from tunesmith.prompting import add_examples as _add_examples
from tunesmith.recipe import TrainResult
from tunesmith.resolve import resolve
from tunesmith.study.tune import TuneResult
from tunesmith.study.tune import tune as _tune
from tunesmith.updating import UpdateResult
from tunesmith.updating import update as _update
from tunesmith.versions import rollback as _rollback


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
    files, given, settings = _sorted(data, valid, test, labels, settings)
    config = resolve(settings, files, told=settings)
    run = kind_of_run(config, resume=resume)
    return run(config, given, resume=resume, overwrite=overwrite, progress=Progress(progress))


def tune(
    data: Any,
    *,
    search: Mapping[str, Any] | None = None,
    trials: int | None = None,
    jobs: int = 1,
    pruner: str | None = None,
    labels: Any = None,
    valid: Any = None,
    test: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Mode = "auto",
    **settings: Any,
) -> TuneResult:
    """Search for settings that do best on the validation rows, train with them, test, and write the model directory.

    search: what is searched: for each setting a list of values, or a dict with low, high and, where wanted, step or log; without it
        usual ranges of lr, epochs, batch_size and warmup, but for those given in `settings`
    trials: how many trainings are compared, 20 unless told; with `resume` how many there shall be in all
    jobs: so many processes share the trials; above 1 the data must be files
    pruner: how hopeless trials are stopped: "median" (unless told), "hyperband" or "none"
    data, labels, valid, test, resume, overwrite, progress, settings: as `train` takes them

    Returns a `TuneResult` with `best`, `value`, `importances`, `study` (every trial) and `trained` (what `train` returns).
    Raises what `train` raises; after `Interrupted` and after a crash `resume` loses no trial.
    """
    files, given, settings = _sorted(data, valid, test, labels, settings)
    return _tune(
        resolve(settings, files, told=settings), given, search=search, told=settings, trials=trials, jobs=jobs, pruner=pruner,
        resume=resume, overwrite=overwrite, progress=Progress(progress),
    )  # fmt: skip


def _sorted(data: Any, valid: Any, test: Any, labels: Any, settings: dict[str, Any]) -> tuple[dict[str, Any], Given, dict[str, Any]]:
    """Return the names of files, the tables in memory, and the settings as a recipe has them."""
    parts = {"train": data, "valid": valid, "test": test}
    files = {name: str(value) for name, value in parts.items() if isinstance(value, str | Path)}
    given = Given(**{name: value for name, value in parts.items() if name not in files}, labels=labels)
    return files, given, {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}


def update(
    directory: Path | str,
    data: Any,
    *,
    labels: Any = None,
    test: Any = None,
    margin: float = 0.01,
    distill: float | None = None,
    force: bool = False,
    out: Path | str | None = None,
    keep_refused: Path | str | None = None,
    resume: bool = False,
    progress: Mode = "auto",
    **settings: Any,
) -> UpdateResult:
    """Train the model in `directory` further on corrected or new rows and make the result its new version.

    data: anything that `train` takes; labels that the model does not know become new ones
    test: rows whose score may not fall by more than `margin`, in place of those that were kept at training
    distill: weight of the term that holds outputs on the new rows where they were; None: 1 where no old rows are replayed, else 0
    force: accept whatever the test says; out: write the updated model there; keep_refused: write a refused one there
    resume: go on with an update that was interrupted
    settings: epochs, lr, batch_size, ...: those of `tunesmith.updating.SETTINGS`; all others are as the model was trained

    Returns an `UpdateResult` with `directory`, `version`, `record` and `bundle`.
    Raises `UpdateRefused` when the score falls by more, and leaves the model as it was; and what `train` raises.
    """
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    rows = data if isinstance(data, str | Path) and labels is None else open_data(data, labels=labels)
    return _update(
        directory, rows, test=test, margin=margin, distill=distill, force=force, out=out, keep_refused=keep_refused, resume=resume,
        progress=Progress(progress), settings=settings,
    )  # fmt: skip


def history(directory: Path | str) -> dict[str, Any]:
    """Return the versions of a model directory: `current`, its number, `versions` and `events`. Raises `ModelError`."""
    return story(Path(directory))


def rollback(directory: Path | str, to: int | None = None) -> tuple[int, int]:
    """Make an earlier version of a model the current one, or version `to`; return the numbers of the version before and the one now.

    Raises `ModelError`, `UsageError`, `StorageError`.
    """
    return _rollback(Path(directory), to)


def load(directory: Path | str, *, device: str = "auto", **settings: Any) -> Bundle:
    """Open the model directory that `train` wrote. Raises `ModelError`, `UsageError`.

    device: what computes: `cpu`, `cuda` or `cuda:N`; auto: the GPU where torch finds one
    settings: of prediction, in place of those of training; `constrain` for a tagger
    """
    return Bundle.load(directory, device=device, **settings)


def add_examples(
    directory: Path | str, data: Any, *, text: str | None = None, label: str | None = None, progress: Mode = "quiet"
) -> dict[str, int]:
    """Add labelled rows to the examples of a model made with `tuning="none"`, without any training; see `prompting.add_examples`."""
    return _add_examples(directory, data, text=text, label=label, progress=Progress(progress))
