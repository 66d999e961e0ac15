"""One trial: an ordinary training with the settings that were drawn, judged on the validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith import recipe
from tunesmith.bundle import DESCRIPTION
from tunesmith.data.given import NOTHING, Given
from tunesmith.errors import DataError, Diverged, Interrupted, ModelError, UsageError
from tunesmith.prepare import Prepared
from tunesmith.progress import Bars, Progress
from tunesmith.report.study import value_words
from tunesmith.rundir import CHECKPOINTS, RECORD, keep_record, stopped_in
from tunesmith.storage import write_json
from tunesmith.study.trials import PRUNED, Trials
from tunesmith.training.loop import Watch

IMPOSSIBLE = "not possible: "


def run_trials(trials: Trials, left: list[int], hint: str, progress: Progress, given: Given = NOTHING) -> None:
    """Go on with the unfinished trials `left`, then begin new ones until there are as many as planned.

    hint: how to go on, for the message of an interruption; given: as `recipe.train` takes it
    Raises what a training raises but `UsageError`, `ModelError`, and `DataError` of rows that can be read, which end their trial alone: as
    one that is not possible, or, where the training diverged, as one that is worse than all others.
    """
    for number in left:
        _run(trials, trials.again(number), hint, progress, given)
    while (trial := trials.claim()) is not None:
        _run(trials, trial, hint, progress, given)


def _run(trials: Trials, trial: Any, hint: str, progress: Progress, given: Given) -> None:
    place = trials.place(trial.number)
    twin = trials.twin(trial)
    if twin is not None:
        for epoch, value in twin.intermediate_values.items():
            trial.report(value, epoch)
        notes = {**twin.user_attrs, "seconds": 0.0, "twin": twin.number}
        record = trials.tell(trial, twin.state.name.lower(), twin.value, **notes)
    else:
        try:
            record = _trained(trials, trial, place, progress, given)
        except Interrupted as error:
            where = f"trial {trial.number + 1:,} of {trials.plan.trials:,}"
            raise stopped_in(where, error, hint) from None
    keep_record(place)
    best = trials.best()
    progress.say(line(record, trials) + (" · best so far" if best is not None and best.number == record.number else ""))


def _trained(trials: Trials, trial: Any, place: Path, progress: Progress, given: Given) -> Any:
    metric = trials.plan.metric
    try:
        config = trials.plan.config(**trial.params, out=str(place))
    except UsageError as error:  # settings that exclude each other in a way that no check of pairs has shown
        return _impossible(trials, trial, error)

    checked = False

    def begin(prepared: Prepared) -> Watch:
        nonlocal checked
        trials.plan.check_rows(prepared)
        checked = True
        # few-shot tuning makes one of its epochs, which ends by itself
        return trials.watch(trial, 1 if config.tuning == "fewshot" else config.epochs)

    started = (place / CHECKPOINTS).is_dir() or (place / DESCRIPTION).is_file()
    try:
        result = recipe.train(config, given, resume=started, overwrite=not started, trial=begin, progress=Bars(progress.mode)).result
    except Diverged as error:
        # as one that is worse than all others, which a failed trial would not be to the sampler
        return trials.tell(trial, PRUNED, outcome="diverged", why=str(error))
    except (UsageError, ModelError, DataError) as error:  # settings that do not suit this task, encoder or data
        if isinstance(error, DataError) and not checked:  # no trial could read them
            raise
        return _impossible(trials, trial, error)
    write_json(place / RECORD, result)
    training, scores = result["training"], result["evaluations"]["valid"]["metrics"]
    notes = {"epochs": training["epochs"], "planned": config.epochs, "seconds": training["seconds"], "outcome": training["stopped"]}
    if "log_loss" in scores:
        notes["log_loss"] = scores["log_loss"]
    pruned = training["stopped"].startswith(PRUNED)
    return trials.tell(trial, PRUNED if pruned else "complete", scores[metric], **notes)


def _impossible(trials: Trials, trial: Any, error: UsageError | ModelError | DataError) -> Any:
    why = error.faults[0] if isinstance(error, UsageError) else str(error)
    return trials.tell(trial, "fail", outcome=f"{IMPOSSIBLE}{why}")


def line(record: Any, trials: Trials) -> str:
    """Return what became of a trial, in a line."""
    names = {range_.name for range_ in trials.ranges}
    settings = ", ".join(f"{name} {value_words(value)}" for name, value in record.params.items() if name in names)
    value = f"validation {trials.plan.metric} {record.value:.4f}" if record.value is not None else "no value"
    return f"trial {record.number + 1:,} of {trials.plan.trials:,} · {settings} · {value}{_ending(record)}"


def _ending(record: Any) -> str:
    notes = record.user_attrs
    if "twin" in notes:
        return f", as trial {notes['twin'] + 1:,}, which had the same settings"
    told = notes.get("outcome", "")
    return "" if told == "finished" else f", {told}"
