"""K-fold cross-validation: a training for each fold, tested on its rows, and then the model, trained on all of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import recipe
from tunesmith.bundle import DESCRIPTION
from tunesmith.config import Config
from tunesmith.data.given import NOTHING, Given
from tunesmith.errors import DataError, Interrupted, setting
from tunesmith.prepare import prepare
from tunesmith.progress import QUIET, Bars, Progress
from tunesmith.report.wording import figure
from tunesmith.rundir import (
    CHECKPOINTS,
    FOLDS,
    RECORD,
    check_same_settings,
    is_started,
    keep_record,
    output_directory,
    resume_hint,
    stopped_in,
    store_settings,
)
from tunesmith.storage import locked, read_json, write_json
from tunesmith.training.state import Checkpoints


def cross_validate(
    config: Config,
    given: Given = NOTHING,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> recipe.TrainResult:
    """Train and test on each of `config.folds` folds, then train the model on all rows, and write its directory.

    Every row is tested once, by a model that has seen neither it, nor its text, nor its group. In each fold a part of the other rows is
    split off to choose the checkpoint, as in any training, unless there are validation rows. Test rows that were given are tested once,
    with the model at the end; no others are split off. The result has `cross_validation`, see `summary`.

    Arguments and errors: as of `recipe.train`; `resume` goes on in the fold that was cut off.
    """
    directory = output_directory(config, given, resume=resume, overwrite=overwrite)
    if resume:
        check_same_settings(directory, config)
        if (directory / DESCRIPTION).is_file() and not is_started(directory):
            return recipe.train(config, given, resume=True, progress=progress)
        _check_same_rows(config, directory, given)
    with locked(directory / FOLDS):
        if not resume:
            for old in (directory / FOLDS).glob("[0-9]*"):
                shutil.rmtree(old, ignore_errors=True)
            Checkpoints(directory / CHECKPOINTS, "", []).clear()
        if not any((directory / CHECKPOINTS).glob("step-*")):
            store_settings(directory, config)
        assert config.folds is not None
        results = [_fold(config, number, directory, given, progress) for number in range(1, config.folds + 1)]
    found = summary(results, config.folds)
    write_json(directory / FOLDS / "folds.json", found)
    progress.say("training the model on all rows:")
    started = any((directory / CHECKPOINTS).glob("step-*"))
    return recipe.train(config, given, resume=started, overwrite=not started, progress=progress, beside={"cross_validation": found})


def _fold(config: Config, number: int, directory: Path, given: Given, progress: Progress) -> dict[str, Any]:
    """Return the result of a fold: read where it is finished, trained or trained on where it is not."""
    place = directory / FOLDS / str(number)
    told = f"fold {number} of {config.folds}"
    if (place / RECORD).is_file():
        keep_record(place)
        result = _read(place / RECORD)
    else:
        progress.say(f"{told}:")
        started = (place / CHECKPOINTS).is_dir() or (place / DESCRIPTION).is_file()
        own = config.model_copy(update={"out": str(place), "test": None})
        # what there is to say of the data is said once
        shown = progress if number == 1 else Bars(progress.mode)
        try:
            trained = recipe.train(
                own, replace(given, test=None), resume=started, overwrite=not started, progress=shown, fold=(number, config.folds or 0)
            )
        except Interrupted as error:
            raise stopped_in(told, error, resume_hint(directory)) from None
        result = {**trained.result, "rows": trained.bundle.description["fingerprints"]["train"]}
        write_json(place / RECORD, result)
        keep_record(place)
    test = result["evaluations"]["test"]
    name = _leading(result)
    progress.say(f"{told}: {test['rows']:,} rows tested, {name} {figure(name, test['metrics'].get(name))}")
    return result


def _leading(result: dict[str, Any]) -> str:
    test: dict[str, float] = result["evaluations"]["test"]["metrics"]
    return str(result["metric"] if result["metric"] in test else next(iter(test)))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path, f"Remove its directory, and go on with {setting('resume', True)}.")
    return found


def _check_same_rows(config: Config, directory: Path, given: Given) -> None:
    """Raise `DataError` when folds that are finished were made of other training rows."""
    for path in sorted((directory / FOLDS).glob(f"*/{RECORD}"))[:1]:
        prepared = prepare(config, given.opened(config), QUIET)
        if _read(path)["rows"] != prepared.parts["train"].rows.table.key:
            raise DataError(
                f"{prepared.parts['train'].source.name}: the rows are others than those that the folds were begun with. Bring the former "
                f"ones back, or start anew with {setting('overwrite', True)}."
            )


def summary(results: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Return what the folds say together, as plain values: folds, rows, unit, metric, tested, metrics, yardsticks, notes.

    tested: for each fold its rows; metrics: by name the mean over the folds, sd (the standard deviation between them, of a sample) and
    values, None in folds that have none; yardsticks: name and metrics alike
    """
    tests = [result["evaluations"]["test"] for result in results]
    names = list(dict.fromkeys(name for test in tests for name in test["metrics"]))
    yardsticks = list(dict.fromkeys(y["name"] for test in tests for y in test["yardsticks"] if y["metrics"]))

    def of(yardstick: str, test: dict[str, Any]) -> dict[str, float]:
        return next((y["metrics"] for y in test["yardsticks"] if y["name"] == yardstick), {})

    return {
        "folds": count,
        "rows": sum(test["rows"] for test in tests),
        "unit": tests[0].get("unit", "row"),
        "metric": _leading(results[0]),
        "how": results[0]["data"]["splits"]["test"]["how"].split(" of ", 2)[-1],
        "tested": [test["rows"] for test in tests],
        "metrics": {name: _spread([test["metrics"].get(name) for test in tests]) for name in names},
        "yardsticks": [
            {"name": y, "metrics": {name: _spread([of(y, test).get(name) for test in tests]) for name in names}} for y in yardsticks
        ],
    }


def _spread(values: list[float | None]) -> dict[str, Any]:
    there = [value for value in values if value is not None and np.isfinite(value)]
    return {
        "mean": float(np.mean(there)) if there else None,
        "sd": float(np.std(there, ddof=1)) if len(there) > 1 else None,
        "values": values,
    }
