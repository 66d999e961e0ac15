"""What a study found: the best trial as a recipe, and all trials, with what mattered, as plain values for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith import strategies
from tunesmith.config import Config
from tunesmith.errors import counted
from tunesmith.resolve import absolute
from tunesmith.seeds import seed_for
from tunesmith.storage import write_text
from tunesmith.study.trials import PRUNED, Trials, storing

_FEW = 4
"""Fewer complete trials than these say nothing of what mattered."""


def write_recipe(path: Path, config: Config, said: str) -> None:
    """Write the settings that were told, which those that were searched are, as a recipe for `tunesmith train`; said: a comment on top."""
    idle = strategies.meaningless(config.tuning)  # what was told for other ways among those that were searched
    lines = [f"# {line}" for line in said.splitlines()]
    if config.train is None:
        lines.append("# the rows were in memory; name a file of them with: train = ...")
    for name, value in absolute(config).items():
        if value is not None and name not in idle:
            lines.append(f"{name} = {_toml(value)}")
    write_text(path, "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # strings of TOML are escaped as those of JSON, but for DEL and for surrogates, which no setting holds
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def summary(trials: Trials) -> dict[str, Any]:
    """Return the study as plain values: metric, greater, ranges, pruner, trials, best, usual, importances, seconds, jobs.

    trials: number (from 1), state, value, settings, epochs, seconds, outcome and the scores after each epoch
    best, usual: numbers of the best trial, and of the one with the settings as they were, None where there was none
    importances: share of each setting in the differences between complete trials, greatest first; None where they are too few
    """
    plan = trials.plan
    with storing(trials.path):
        records = [trial for trial in trials.all() if trial.state.is_finished()]
    best = trials.best()
    found = [
        {
            "number": record.number + 1,
            "state": record.state.name.lower() if record.user_attrs.get("outcome") != "diverged" else "diverged",
            "value": record.value,
            "settings": dict(record.params),
            "epochs": record.user_attrs.get("epochs"),
            "seconds": record.user_attrs.get("seconds", 0.0),
            "outcome": record.user_attrs.get("outcome", ""),
            "same_as": record.user_attrs["twin"] + 1 if "twin" in record.user_attrs else None,
            "scores": [[epoch, value] for epoch, value in sorted(record.intermediate_values.items())],
        }
        for record in records
    ]
    importances, note = _importances(trials, records)
    return {
        "metric": plan.metric,
        "greater": plan.greater,
        "ranges": [{"name": r.name, "words": str(r), "log": r.log, "choice": bool(r.values)} for r in trials.ranges],
        "pruner": plan.pruner,
        "trials": found,
        "best": None if best is None else best.number + 1,
        "usual": 1 if plan.usual and records and records[0].number == 0 and found[0]["value"] is not None else None,
        "importances": importances,
        "note": note,
        "seconds": sum(trial["seconds"] for trial in found),
    }


def _importances(trials: Trials, records: list[Any]) -> tuple[dict[str, float] | None, str]:
    """Return each setting's share in how the values of complete trials differ, and a note on how far that can be trusted.

    fANOVA: Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance", as Optuna has it.
    """
    import optuna

    complete = [record for record in records if record.state.name == "COMPLETE" and "twin" not in record.user_attrs]
    few = f"{counted(len(complete), 'trial')} ran to the end"
    if len(complete) < _FEW:
        return None, f"only {few}, too few to say what mattered"
    if len({record.value for record in complete}) == 1:
        return None, f"all of the {few}, and with the same value: nothing mattered"
    study = optuna.create_study(direction=trials.study.direction)
    study.add_trials(complete)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed_for(trials.plan.config().seed, "importances") % 2**32)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError) as error:
        return None, f"what mattered could not be computed: {error}"
    searched = {range_.name for range_ in trials.ranges}
    found = {name: float(value) for name, value in found.items() if name in searched}
    pruned = sum(record.state.name.lower() == PRUNED for record in records)
    left_out = f"; the {counted(pruned, 'trial')} that {'was' if pruned == 1 else 'were'} stopped early are left out" if pruned else ""
    rough = ", a rough guess" if len(complete) < 5 * len(searched) else ""
    return found, f"from {counted(len(complete), 'trial')} that ran to the end{rough}{left_out}"
