"""`tunesmith tune`: searches, then trains with the best settings that were found."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import recipe, strategies
from tunesmith.bundle import DESCRIPTION
from tunesmith.config import Config
from tunesmith.data.given import NOTHING, Given
from tunesmith.errors import Interrupted, ModelError, StorageError, UsageError, counted, listing, setting
from tunesmith.fitting import computable
from tunesmith.metrics import greater_is_better
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.devices import CPU
from tunesmith.model.names import locate
from tunesmith.prepare import Prepared, prepare
from tunesmith.progress import QUIET, Progress
from tunesmith.resolve import absolute
from tunesmith.rundir import CHECKPOINTS, check_same_settings, is_started, keep_record, named_after, output_directory, stopped_in
from tunesmith.storage import sweep, writing
from tunesmith.study.best import summary, write_recipe
from tunesmith.study.plan import BEST, DATABASE, LOCK, PLAN, TRIALS, Plan, Pruner, digest_of
from tunesmith.study.space import default_space, read_space, written
from tunesmith.study.trial import IMPOSSIBLE, run_trials
from tunesmith.study.trials import Trials
from tunesmith.study.workers import threads_each, work

PRUNERS = ("median", "hyperband", "none")
USUAL_TRIALS = 20


@dataclass(frozen=True)
class TuneResult:
    """A finished search: the model trained with the best settings, and the study as plain values.

    best: the settings that were searched, as the best trial had them; value: its validation score
    study: every trial, its settings, score and end, and what mattered; see `tunesmith.study.best.summary`
    """

    directory: Path
    best: dict[str, Any]
    value: float
    study: dict[str, Any]
    trained: recipe.TrainResult

    @property
    def importances(self) -> dict[str, float]:
        """The share of each setting in how the trials' scores differ, greatest first; empty where the trials were too few."""
        found: dict[str, float] | None = self.study["importances"]
        return {} if found is None else found


def tune(
    config: Config,
    given: Given = NOTHING,
    *,
    search: Mapping[str, Any] | None = None,
    where: str = "search:",
    told: Collection[str] = (),
    trials: int | None = None,
    jobs: int = 1,
    pruner: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> TuneResult:
    """Search for settings that do best on the validation rows, train with them, test, and write the model directory.

    search: what is searched, as in a recipe's [search]; None: usual ranges around the settings at hand
    where: how messages name the place of `search`
    told: settings that the usual ranges leave as they are
    trials: how many trainings are compared, 20 unless told; on a resume: how many there shall be in all
    jobs: so many processes share the trials, and the processors
    pruner: "median" (unless told), "hyperband" or "none"
    given, resume, overwrite: as `recipe.train` takes them

    Raises what a training raises, and `Interrupted` after Ctrl-C: then, and after a crash, `resume` loses no trial.
    """
    _check_arguments(trials, jobs, pruner, resume, overwrite)
    directory = _directory(config, given, resume=resume, overwrite=overwrite)
    if jobs > 1 and given.in_memory:
        raise UsageError(
            f"{setting('jobs')} above 1 needs data in files, which each process opens; tables in memory need {setting('jobs', 1)}."
        )
    if resume:
        plan = Plan.read(directory)
        plan.check_same(directory, config, None if search is None else dict(search), pruner)
        plan.check_rows(prepare(plan.config(), given.opened(plan.config()), progress))
    else:
        plan = _plan(config, search, where, told, trials, pruner, given, progress)
    with _held(directory) as lock:
        if overwrite:
            _clear(directory)
        if not resume:
            plan.write(directory)
        elif trials is not None and trials != plan.trials:
            plan = Plan(**{**vars(plan), "trials": trials})
            plan.write(directory)
        return _run(directory, plan, jobs, given, lock, progress)


def _run(directory: Path, plan: Plan, jobs: int, given: Given, lock: int, progress: Progress) -> TuneResult:
    hint = _hint(directory)
    trials = Trials(directory, plan, jobs=jobs)
    left = trials.unfinished()
    done = sum(trial.state.is_finished() for trial in trials.all())
    if done or left:
        begun = f"; {counted(len(left), 'trial')} that began will go on" if left else ""
        progress.say(f"resuming the study after {counted(done, 'finished trial')}{begun}.")
    for number in range(done + len(left)):  # a process killed between the end of a trial and this
        if number not in left:
            keep_record(trials.place(number))
    _say_plan(trials, progress)
    try:
        if jobs == 1:
            run_trials(trials, left, hint, progress, given)
        elif done + len(left) < plan.trials or left:
            choose_precision("auto", CPU)  # measured while nothing runs beside it
            progress.say(f"{jobs} processes with {counted(threads_each(jobs), 'thread')} each")
            work(directory, jobs, left, hint, progress, lock)
            if still := trials.unfinished():
                raise ModelError(f"{listing([f'trial {number + 1}' for number in still])} did not end. {hint}")
        found = summary(trials)
        best = trials.best()
        if best is None:
            raise _nothing_found(found["trials"])
        values = {range_.name: best.params[range_.name] for range_ in trials.ranges}
        config = plan.config(**values)
        said = f"trial {best.number + 1} of {len(found['trials'])}, the best: validation {plan.metric} {best.value:.4f}"
        write_recipe(directory / BEST, config, f"Written by tunesmith tune: {said}.")
        trained = _train_best(directory, plan, config, found, given, progress)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped at once; all trials are saved as far as they went. {hint}") from None
    return TuneResult(directory, values, float(best.value), found, trained)


def _nothing_found(trials: list[dict[str, Any]]) -> ModelError:
    """Return the error of a study none of whose trials has a value."""
    numbers: dict[str, list[int]] = {}
    for trial in trials:
        numbers.setdefault(trial["outcome"], []).append(trial["number"])
    lines = [f"trial{'s' if len(which) > 1 else ''} {listing(which, 6)}: {why}" for why, which in numbers.items()]
    cures = [f"a lower range of {setting('lr')}"] * ("diverged" in numbers) + ["ranges that can be trained"] * (
        any(why.startswith(IMPOSSIBLE) for why in numbers)
    )
    return ModelError(
        f"none of {counted(len(trials), 'trial')} ran to its end.\n  - " + "\n  - ".join(lines) + f"\nStart anew with "
        f"{' and '.join(cures) if cures else 'other ranges'} and {setting('overwrite', True)}, or try more: {setting('resume', True)} and "
        f"{setting('trials')} above {len(trials):,}."
    )


def _train_best(directory: Path, plan: Plan, config: Config, found: dict[str, Any], given: Given, progress: Progress) -> recipe.TrainResult:
    """Train once more with the best settings, test, and write the model directory."""
    config = config.model_copy(update={"out": str(directory)})
    started = is_started(directory)
    if (directory / DESCRIPTION).is_file() and not started:
        kept = recipe.train(config, given, resume=True) if _same(directory, found) else None
        if kept is not None:
            progress.say(f"{directory} is finished already; {setting('trials')} above {plan.trials:,} would go on searching.")
            return kept
    if started:
        try:
            check_same_settings(directory, config)
        except UsageError:  # more trials were asked for after it was cut off, and one of them is better
            started = False
            progress.say("the training that was cut off had the settings of a trial that is the best no longer; it is left.")
    progress.say("training with the best settings anew, and testing:")
    try:
        return recipe.train(config, given, resume=started, overwrite=not started, progress=progress, beside={"study": found})
    except Interrupted as error:
        raise stopped_in("", error, _hint(directory)) from None


def _same(directory: Path, found: dict[str, Any]) -> bool:
    """Whether the model in `directory` is that of the study as it stands."""
    import json

    try:
        return bool(json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))["result"]["study"]["trials"] == found["trials"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _plan(
    config: Config,
    search: Mapping[str, Any] | None,
    where: str,
    told: Collection[str],
    trials: int | None,
    pruner: str | None,
    given: Given,
    progress: Progress,
) -> Plan:
    """Check ranges and data, and return what the study is begun with."""
    if config.lr == "find":
        raise UsageError(
            f"{setting('lr', 'find')} and tune both look for the rate. Leave it out; lr is searched unless ranges without it are declared."
        )
    if config.folds is not None:
        raise UsageError(f"{setting('folds')} and tune exclude each other: trials are compared on the validation rows. Leave it out.")
    both = [name for name in told if search is not None and name in {key.replace("-", "_") for key in search}]
    if both:
        raise UsageError(f"{listing(map(setting, both))}: set and searched at once. Leave the setting or its range out.")
    specs = dict(search) if search is not None else default_space(config, told)
    ranges = read_space(specs, config, where)
    ways = next((range_.values for range_ in ranges if range_.name == "tuning"), (config.tuning,))
    for way in (way for way in (strategies.AUTO, "none") if way in ways):
        what = "chooses a way by trials of its own" if way == strategies.AUTO else "trains nothing that settings could better"
        raise UsageError(f"{setting('tuning', way)} {what}. Name the ways to compare instead: {setting('search', 'tuning=full,last:2')}.")
    for range_ in ranges:
        if range_.name == "model":
            for name in range_.values:
                locate(name)
    prepared = prepare(config, given.opened(config), progress)
    valid, task = prepared.parts.get("valid"), prepared.task
    if valid is None:
        raise UsageError(
            f"there are no validation rows to compare trials on. Raise {setting('valid_size')}, or name a file of them with "
            f"{setting('valid')}."
        )
    if task.name == "masked-lm" and any(range_.name == "model" for range_ in ranges):
        raise UsageError("model cannot be searched for masked-lm: perplexities of encoders with other vocabularies cannot be compared.")
    _check_ways([way for way in ways if isinstance(way, str)], prepared, one_model=all(range_.name != "model" for range_ in ranges))
    metric = computable(
        config.metric if config.metric is not None else task.default_metric, task, valid, [], told=config.metric is not None
    )
    settings = absolute(config.model_copy(update={"metric": metric}))
    if len(ways) > 1:  # some have a usual split of their own, and all are judged by the same rows
        settings = {"valid_size": config.valid_size, "test_size": config.test_size, **settings}
    return Plan(
        settings=settings,
        search={range_.name: range_.spec() for range_ in ranges},
        metric=metric,
        greater=greater_is_better(metric, task.kind),
        trials=trials if trials is not None else USUAL_TRIALS,
        pruner=_pruner(pruner),
        usual=all(range_.holds(getattr(config, range_.name)) for range_ in ranges),
        data=digest_of(prepared),
    )


def _check_ways(ways: list[str], prepared: Prepared, *, one_model: bool) -> None:
    """Raise `UsageError` for ways to tune that the task, or the only encoder, has no use for, before anything is trained."""
    layers = getattr(prepared.pretrained.config, "num_hidden_layers", None)
    faults = []
    for way in ways:
        try:
            strategies.check_task(way, prepared.task.name)
        except UsageError as error:
            faults.append(str(error))
        last = strategies.parse(way)[1]
        if one_model and last is not None and isinstance(layers, int) and last > layers:
            faults.append(f"{setting('tuning', way)}: the encoder has {counted(layers, 'layer')}. Take at most last:{layers}.")
    if faults:
        raise UsageError(*faults)


def _pruner(name: str | None) -> Pruner:
    return {"median": "median", "hyperband": "hyperband", "none": "none"}[name if name is not None else "median"]  # type: ignore[return-value]


def _say_plan(trials: Trials, progress: Progress) -> None:
    progress.say(f"searching, {counted(trials.plan.trials, 'trial')} by validation {trials.plan.metric}:")
    for range_ in trials.ranges:
        progress.say(f"  {range_}")
    kind = {"median": "median of the others after the same share of their epochs", "hyperband": "Hyperband", "none": "none"}[
        trials.plan.pruner
    ]
    first = ""
    if trials.plan.usual:
        base = trials.plan.config()
        first = f"; trial 1 has the settings at hand ({listing(f'{r.name} {written(getattr(base, r.name))}' for r in trials.ranges)})"
    progress.say(f"  early stop: {kind}{first}")


def _check_arguments(trials: int | None, jobs: int, pruner: str | None, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        both = f"{setting('resume')} and {setting('overwrite')}"
        raise UsageError(f"{both} exclude each other: go on with what is in the directory, or replace it.")
    faults = [
        f"{setting(name)} is {value}; it must be a whole number from 1 to {most:,}."
        for name, value, most in (("trials", trials, 100_000), ("jobs", jobs, 1000))
        if value is not None and not 1 <= value <= most
    ]
    if pruner is not None and pruner not in PRUNERS:
        faults.append(f"{setting('pruner')} is {pruner!r}; it must be {listing(map(repr, PRUNERS))}.")
    if faults:
        raise UsageError(*faults)


def _directory(config: Config, given: Given, *, resume: bool, overwrite: bool) -> Path:
    """Return where the study and its model go. Raises `StorageError` when something is there that may not be replaced."""
    if resume:
        if config.out is not None:
            return Path(config.out)
        data = given.of("train", config)
        stem = Path(data).name.split(".")[0] if isinstance(data, str | Path) else "model"
        found = [path for path in named_after(stem) if (path / PLAN).is_file()]
        if not found:
            raise UsageError(f"there is no study of {stem} in runs/ to resume. Name its directory with {setting('out')}.")
        return max(found, key=lambda path: (path / PLAN).stat().st_mtime)
    if config.out is not None and (Path(config.out) / PLAN).is_file() and not overwrite:
        raise StorageError(
            f"{config.out} holds a study. Use {setting('resume', True)} to go on with it, {setting('overwrite', True)} to replace it, "
            f"or another {setting('out')}."
        )
    if config.out is not None and overwrite and (Path(config.out) / PLAN).is_file():
        return Path(config.out)
    directory = output_directory(config, given, resume=False, overwrite=overwrite)
    if (directory / TRIALS).exists():
        raise StorageError(f"{directory / TRIALS} is of no study, and would be written into. Choose another {setting('out')}.")
    return directory


def _clear(directory: Path) -> None:
    """Delete a former study in `directory`; a model in it stays whole until the new one is."""
    shutil.rmtree(directory / TRIALS, ignore_errors=True)
    shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
    sweep(directory, PLAN, f"{DATABASE}*", BEST)


def _hint(directory: Path) -> str:
    how = setting("resume", True)
    if how.startswith("--"):
        return f"Go on with: tunesmith tune {how} --out {shlex.quote(str(directory))}"
    return f"Go on with the same call and {how}, {setting('out', str(directory))}."


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[int]:
    """Hold the study in `directory` for this process and those it starts; yields the lock's handle."""
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"another search is writing into {directory}. Wait for it, or choose another {setting('out')}.") from None
        sweep(directory, f".{PLAN}.*.tmp", f".{BEST}.*.tmp")
        yield handle
    finally:
        os.close(handle)
