"""The way to tune, chosen by trial: the cheapest first, within a budget of time, and the one that validation prefers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith import recipe, strategies
from tunesmith.bundle import DESCRIPTION
from tunesmith.config import Config
from tunesmith.data.given import NOTHING, Given
from tunesmith.errors import Interrupted, ModelError, UsageError, setting
from tunesmith.evaluate import outputs_of
from tunesmith.fitting import new_model
from tunesmith.folds import cross_validate
from tunesmith.metrics import greater_is_better
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.devices import choose_device
from tunesmith.model.moving import move
from tunesmith.prepare import Prepared, prepare
from tunesmith.progress import QUIET, Bars, Progress
from tunesmith.report.wording import duration, figure
from tunesmith.resolve import absolute, from_here, resolve
from tunesmith.rundir import (
    CHECKPOINTS,
    RECORD,
    WAYS,
    check_same_settings,
    is_started,
    output_directory,
    resume_hint,
    stopped_in,
    store_settings,
)
from tunesmith.storage import locked, read_json, write_json
from tunesmith.training.loop import Watch
from tunesmith.training.state import PROBE, Checkpoints

_PLAN = "plan.json"
_LONG = 128  # tokens of a text on average from which keeping the outputs of lower layers pays most
_FEW = 64  # rows a label up to which tuning by pairs pays
_SAMPLE = 64  # rows whose run gives the speed where no other did
_OVERHEAD = 1.3  # on top of the products: optimizer, validation, checkpoints


def kind_of_run(config: Config, *, resume: bool) -> Callable[..., recipe.TrainResult]:
    """Return what `config` asks for: one training, a cross-validation, or trials of several ways to tune."""
    if config.folds is not None:
        return cross_validate
    # the settings of a run whose way was chosen, but which was cut off before its test, name that way
    decided = resume and config.out is not None and (Path(config.out) / WAYS / _PLAN).is_file()
    return choose_way if config.tuning == strategies.AUTO or decided else recipe.train


def choose_way(
    config: Config,
    given: Given = NOTHING,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> recipe.TrainResult:
    """Try ways to tune, the cheapest first, keep the one with the best validation score, test it, and write its directory.

    A way that would not end within what is left of `config.budget` is left out, and one that takes longer than was expected ends at the
    next validation. Test rows choose nothing: only the way that was chosen runs on them. The result has `ways`, what each reached.

    Arguments and errors: as of `recipe.train`; `resume` goes on in the way that was cut off.
    """
    directory = output_directory(config, given, resume=resume, overwrite=overwrite)
    if resume and (directory / DESCRIPTION).is_file() and not is_started(directory):
        result = _read(directory / DESCRIPTION)["result"]
        if config.tuning == strategies.AUTO and "ways" in result:  # the same call once more
            config = _settings_of(result["recipe"]["tuning"], from_here(_told(config)), config, directory)
        finished = recipe.train(config.model_copy(update={"out": str(directory)}), given, resume=True, progress=progress)
        _remove_ways(directory)  # it was cut off behind its last write
        return finished
    if resume and not any((directory / CHECKPOINTS).glob("step-*")):
        check_same_settings(directory, config)
    with locked(directory / WAYS):
        if not resume:
            for old in (directory / WAYS).iterdir():
                if old.is_dir():
                    shutil.rmtree(old, ignore_errors=True)
            Checkpoints(directory / CHECKPOINTS, "", []).clear()
            store_settings(directory, config)
            # a resumed run is given every setting, and would not know which ones were left to the ways
            write_json(directory / WAYS / _PLAN, _told(config))
        trials = _Trials(config, directory, given, progress)
        chosen = trials.run()
    target, source = directory / CHECKPOINTS, directory / WAYS / _folder(chosen["way"]) / CHECKPOINTS
    if not any(target.glob("step-*")):
        # what a checkpoint names before the checkpoints
        for path in [path for kind in (PROBE, "best-*", "weights-*", "step-*") for path in source.glob(kind)]:
            path.rename(target / path.name)
    final = trials.config_of(chosen["way"], directory)
    store_settings(directory, final)
    result = recipe.train(final, given, resume=True, progress=Bars(progress.mode), beside={"ways": trials.records})
    _remove_ways(directory)
    return result


def _told(config: Config) -> dict[str, Any]:
    """Return the settings that were told to every way."""
    return {name: value for name, value in absolute(config).items() if name not in ("tuning", "budget", "out")}


def _settings_of(way: str, told: dict[str, Any], config: Config, directory: Path) -> Config:
    # every way is judged by the same rows
    split = {"valid_size": config.valid_size, "test_size": config.test_size}
    return resolve(told, split, {"tuning": way, "out": str(directory)})


def _remove_ways(directory: Path) -> None:
    """Delete the models that were tried; the plan last, by which a resumed run knows that there is something to delete."""
    for way in (directory / WAYS).iterdir() if (directory / WAYS).is_dir() else ():
        if way.is_dir():
            shutil.rmtree(way, ignore_errors=True)
    shutil.rmtree(directory / WAYS, ignore_errors=True)


class _Trials:
    """The trials of one run in its directory. records: way, value, metric, seconds and stopped of each, or why it was left out."""

    def __init__(self, config: Config, directory: Path, given: Given, progress: Progress) -> None:
        self._config, self._directory, self._given, self._progress = config, directory, given, progress
        self._told = from_here(_read(directory / WAYS / _PLAN))
        self._ends = None if config.budget_s is None else time.monotonic() + config.budget_s
        self.records: list[dict[str, Any]] = []
        self._told_of_data = False
        config = self.config_of("full", directory)
        self._data_seen = prepare(config, given.opened(config), Bars(progress.mode))
        if not len(self._data_seen.parts["valid"].rows if "valid" in self._data_seen.parts else ()):
            raise UsageError(f"{setting('tuning', 'auto')} chooses by validation rows, and there are none. Raise {setting('valid_size')}.")

    def config_of(self, way: str, directory: Path) -> Config:
        """Return the settings of a trial: those that were told, else those that suit the way."""
        return _settings_of(way, self._told, self._config, directory)

    def run(self) -> dict[str, Any]:
        """Try the ways, and return the record of the one that did best. Raises `UsageError` when there is nothing to choose by."""
        for way in self._ways():
            self.records.append(self._tried(way))
        done = [record for record in self.records if "value" in record]
        if not done:
            raise UsageError(
                f"{setting('tuning', 'auto')} could try no way: " + "; ".join(f"{one['way']}: {one['why']}" for one in self.records)
            )
        metric, kind = done[0]["metric"], done[0]["kind"]
        sign = 1 if greater_is_better(metric, kind) else -1
        # the first of equals is the cheapest
        best = max(done, key=lambda record: sign * record["value"])
        others = ", ".join(f"{figure(metric, one['value'])} of {one['way']}" for one in done if one is not best)
        self._progress.say(
            f"auto: {best['way']} is chosen by validation {metric}, {figure(metric, best['value'])}{f' against {others}' if others else ''}"
        )
        return best

    def _ways(self) -> list[str]:
        """Return what is tried, the cheaper first, by what the task allows, how many rows there are and how long the texts are."""
        task, rows = self._data_seen.task, self._data_seen.parts["train"].rows
        if not task.fixed_sequences:
            self._progress.say(f"auto: {task.name} makes new sequences in every epoch, so that no way is cheaper than full")
            return ["full"]
        if task.few_shot and len(rows) <= _FEW * len(task.labels):
            return ["head", "fewshot", "full"]
        return ["head", "last:2", "full"] if task.tokens_an_example(task.arrange(rows)) >= _LONG else ["head", "full"]

    def _tried(self, way: str) -> dict[str, Any]:
        place = self._directory / WAYS / _folder(way)
        if (place / RECORD).is_file():
            record = _read(place / RECORD)
        else:
            try:
                why = self._too_long(way, self.config_of(way, place))
            except UsageError as error:  # a setting that was told means nothing for this way
                why = str(error)
            record = {"way": way, "why": why} if why else self._trial(way, place)
            write_json(place / RECORD, record)
        self._progress.say(_sentence(record))
        return record

    def _too_long(self, way: str, config: Config) -> str:
        """Return why `way` would not end within the budget; empty where it may, or where nothing is known of the speed."""
        speed = self.records[0].get("forward_tokens_per_s") if self.records else None
        if self._ends is None:
            return ""
        left = self._ends - time.monotonic()
        if left <= 0 and self.records:
            return "the budget is spent"
        if speed is None:
            return ""
        task, rows = self._data_seen.task, self._data_seen.parts["train"].rows
        layers = int(self._data_seen.pretrained.config.num_hidden_layers)
        tokens = task.tokens_an_example(task.arrange(rows)) * len(task.arrange(rows))
        trained = strategies.parse(way)[1]
        # a pass forward and one of twice the work back, of the layers that are trained; those below run forward once
        passes = 3 * config.epochs if trained is None else 3 * config.epochs * trained / layers + (layers - trained) / layers
        needed = _OVERHEAD * passes * tokens / speed
        return f"it would take about {duration(needed)}, and {duration(left)} of the budget are left" if needed > left else ""

    def _watch(self, prepared: Prepared) -> Watch:
        return lambda epoch, scores: "the budget is spent" if self._ends is not None and time.monotonic() > self._ends else ""

    def _trial(self, way: str, place: Path) -> dict[str, Any]:
        began = time.monotonic()
        started = any((place / CHECKPOINTS).glob("step-*"))
        # what there is to say of the data is said once
        shown = Bars(self._progress.mode) if self._told_of_data else self._progress
        self._told_of_data = True
        own = self.config_of(way, place)
        try:
            trained = recipe.train(own, self._given, resume=started, overwrite=not started, progress=shown, trial=self._watch, keep=True)
        except Interrupted as error:
            raise stopped_in(f"way {way}", error, resume_hint(self._directory)) from None
        except (UsageError, ModelError) as error:
            return {"way": way, "why": str(error)}
        found = trained.result
        training, metric = found["training"], found["metric"]
        value = next(one["metrics"][metric] for one in training["evaluations"] if one["step"] == training["best_step"])
        return {
            "way": way, "metric": metric, "kind": found["kind"], "value": value, "seconds": time.monotonic() - began,
            "stopped": training["stopped"], "forward_tokens_per_s": self._speed(own, training["forward_tokens_per_s"]),
        }  # fmt: skip

    def _speed(self, config: Config, known: float | None) -> float | None:
        """Return tokens a second on their way forward, by a few rows where the budget asks for it and a cache held all outputs."""
        if known is not None or self._ends is None or self.records:
            return known
        model, rows = new_model(config, self._data_seen), self._data_seen.parts["train"].rows
        device, _ = choose_device(config.device)
        precision, _ = choose_precision(config.precision, device)
        model.encoder.choose_engine(config.engine)
        move(model, device, precision)
        examples = [rows.table.example(row) for row in rows.index[:_SAMPLE].tolist()]
        began = time.monotonic()
        outputs_of(model, self._data_seen.task, examples, precision=precision, max_tokens=config.tokens_at_once)
        return sum(len(ids) for example in examples for ids in example.sequences) / (time.monotonic() - began)


def _folder(way: str) -> str:
    return way.replace(":", "-")


def _sentence(record: dict[str, Any]) -> str:
    if "why" in record:
        return f"auto: {record['way']} is left out: {record['why']}"
    value = figure(record["metric"], record["value"])
    return f"auto: {record['way']} reached validation {record['metric']} {value} in {duration(record['seconds'])}"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path, f"Start anew with {setting('overwrite', True)}.")
    return found
