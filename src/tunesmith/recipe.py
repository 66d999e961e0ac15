"""Training from data to model directory: the only place that wires the parts together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.bundle import DESCRIPTION, Bundle
from tunesmith.config import Config
from tunesmith.data.given import NOTHING, Given
from tunesmith.errors import Interrupted, UsageError, did_you_mean, listing, setting
from tunesmith.finishing import finish
from tunesmith.fitting import fit, metric_of, new_model
from tunesmith.lr_find import find_rate
from tunesmith.model.arithmetic import cpu_name
from tunesmith.model.devices import choose_device
from tunesmith.prepare import Prepared, prepare
from tunesmith.progress import QUIET, Progress
from tunesmith.prompting import prompted, rows_of_prompts
from tunesmith.replay import check_keeping
from tunesmith.result import Fitted
from tunesmith.rundir import (
    CHECKPOINTS,
    check_same_settings,
    is_started,
    output_directory,
    resume_hint,
    store_settings,
    what_is_saved,
)
from tunesmith.storage import locked, sweep
from tunesmith.training.loop import Watch
from tunesmith.training.state import Checkpoints, TrainState


class UnknownMetric(UsageError, KeyError):
    """There is no metric of this name: a `UsageError` like any other, and a `KeyError` as of any mapping."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it in quotes


class _Metrics(dict[str, float]):
    def __missing__(self, name: str) -> float:
        if not self:
            sizes = f"{setting('valid_size')} or {setting('test_size')} above 0"
            raise UnknownMetric(f"nothing was evaluated: there are no validation or test rows. Train with {sizes}, or use bundle.evaluate.")
        raise UnknownMetric(f"there is no metric {name!r}.{did_you_mean(name, self)} There are {listing(self, 40)}.")


@dataclass(frozen=True)
class TrainResult:
    """A finished training: its directory, the report's content as plain values, and the model ready to predict."""

    directory: Path
    result: dict[str, Any]
    bundle: Bundle

    @property
    def metrics(self) -> dict[str, float]:
        """The test metrics, or the means over the folds of a cross-validation; without either those of validation, which are optimistic.

        Empty where nothing was evaluated.

        Asking for one that is not there raises `UnknownMetric`.
        """
        evaluations = self.result["evaluations"]
        if evaluations["test"] is None and "cross_validation" in self.result:
            return _Metrics({name: spread["mean"] for name, spread in self.result["cross_validation"]["metrics"].items()})
        chosen = evaluations["test"] if evaluations["test"] is not None else evaluations["valid"]
        return _Metrics(chosen["metrics"] if chosen is not None else {})


def train(
    config: Config,
    given: Given = NOTHING,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = QUIET,
    fold: tuple[int, int] | None = None,
    trial: Callable[[Prepared], Watch] | None = None,
    keep: bool = False,
    beside: dict[str, Any] | None = None,
) -> TrainResult:
    """Fine-tune, test, and write the model directory.

    given: tables in memory, in place of the files that `config` names
    resume: go on from the newest whole checkpoint in `config.out`
    overwrite: replace what is in `config.out`
    fold: (i, K) tests on the i-th (from 1) of K folds of the training rows
    trial: leaves test rows and yardsticks alone, as a training does that is compared with others; with the data gives their watch
    keep: leave the checkpoints, of which the last is of a finished training, in the directory
    beside: plain values that go into the result, for the report

    Raises `UsageError`, `DataError`, `ModelError`, `StorageError`, and `Interrupted` after Ctrl-C.
    """
    choose_device(config.device)  # before anything is made, of a GPU that is not there
    directory = output_directory(config, given, resume=resume, overwrite=overwrite)
    if resume:
        check_same_settings(directory, config)
    if resume and (directory / DESCRIPTION).is_file() and not is_started(directory):
        progress.say(f"{directory} is finished already; nothing is left to resume.")
        return _finished(directory, config.device)
    sources = given.opened(config)
    if "train" not in sources:
        sources = {"train": rows_of_prompts(config, sources.get("test")), **sources}
        config = config.model_copy(update={"test_size": 0.0, "valid_size": 0.0})
    checkpoint_directory = directory / CHECKPOINTS
    prepared = prepare(config, sources, progress, fold=fold)
    check_keeping(prepared.task, config)
    watch = None if trial is None else trial(prepared)
    if trial is not None:
        prepared = replace(prepared, parts={name: part for name, part in prepared.parts.items() if name != "test"})
    with locked(checkpoint_directory):
        if not resume:
            # a model that is to be replaced stays whole until the new one is
            Checkpoints(checkpoint_directory, "", []).clear()
        sweep(directory, ".model.*", f".{DESCRIPTION}.*.tmp")
        # the settings of checkpoints stay beside them, whatever this attempt to resume was told
        if not resume or not any(checkpoint_directory.glob("step-*")):
            store_settings(directory, config)
        try:
            further = dict(beside if beside is not None else {})
            if config.tuning == "none":
                fitted = _prompted(config, prepared, progress)
            else:
                if config.lr == "find":
                    further["lr_find"] = _found(config, prepared, checkpoint_directory, resume, progress)
                    config = config.model_copy(update={"lr": further["lr_find"]["chosen"]})
                fitted = fit(config, prepared, directory, watch, progress, resume=resume)
            result = finish(config, prepared, fitted, directory, further, progress, compared=watch is not None)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped at once; {what_is_saved(directory)}. {resume_hint(directory)}") from None
    if not keep:
        Checkpoints(checkpoint_directory, "", []).remove()
    return TrainResult(directory, result, Bundle.load(directory, device=config.device))


def _found(config: Config, prepared: Prepared, directory: Path, resume: bool, progress: Progress) -> dict[str, Any]:
    """Return what a probe for the learning rate found; see `lr_find`."""
    metric = metric_of(config, replace(prepared, notes=[]))  # what is to be noted is, when it trains
    return find_rate(config, prepared, metric, lambda own: new_model(own, prepared), directory, resume=resume, progress=progress)


def _prompted(config: Config, prepared: Prepared, progress: Progress) -> Fitted:
    """Make a model of prompts or examples, of which nothing is trained."""
    metric = metric_of(config, prepared)
    made = prompted(config, prepared, progress)
    parameters = sum(parameter.numel() for parameter in made.model.parameters())
    progress.say(f"model {prepared.pretrained.located.name}: {parameters / 1e6:.1f} M parameters; tuning none: {made.sentence}")
    computed = (cpu_name(), "fp32", made.model.encoder.choose_engine(config.engine))
    what = {"tuning": made.sentence, "trained_parameters": 0, "frozen": ""}
    state = TrainState(stopped="nothing was trained")
    return Fitted(made.model, prepared.task, state, metric, computed, 1.0, what, made.prompting)


def _finished(directory: Path, device: str) -> TrainResult:
    bundle = Bundle.load(directory, device=device)
    return TrainResult(directory, bundle.description["result"], bundle)
