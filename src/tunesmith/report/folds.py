"""What terminal and page say of a cross-validation: each metric's mean and spread, each fold, and the yardsticks beside."""

from __future__ import annotations

from typing import Any

from tunesmith.errors import counted
from tunesmith.report.view import LEADING, LOWER_IS_BETTER, Result, is_cross_validated
from tunesmith.report.view import verdict as judgement
from tunesmith.report.wording import DASH, count, figure, title

_COLUMNS = 5
"""Metrics that the table of folds has room for on a terminal."""

Folds = dict[str, Any]
"""What `tunesmith.folds.summary` gives."""


def spread(name: str, found: dict[str, Any] | None) -> str:
    """Return mean ± standard deviation of a metric."""
    if found is None or found["mean"] is None:
        return DASH
    return figure(name, found["mean"]) + (f" ± {figure(name, found['sd'])}" if found["sd"] is not None else "")


def names(folds: Folds) -> list[str]:
    """Return the metrics, the one that chose the checkpoints first, then as reports order them."""
    order = {name: i for i, name in enumerate(LEADING)}
    return sorted(folds["metrics"], key=lambda name: (name != folds["metric"], order.get(name, len(order))))


def metric_rows(folds: Folds) -> list[list[str]]:
    """Return a table: a row per metric with mean ± standard deviation, lowest and highest fold, and the yardsticks."""
    rows = [[f"{folds['folds']} folds, {counted(folds['rows'], folds['unit'])}", "mean ± sd", "lowest", "highest",
             *(yardstick["name"] for yardstick in folds["yardsticks"])]]  # fmt: skip
    for name in names(folds):
        found = folds["metrics"][name]
        values = [value for value in found["values"] if value is not None]
        ends = [figure(name, pick(values)) if values else DASH for pick in (min, max)]
        others = [spread(name, yardstick["metrics"].get(name)) for yardstick in folds["yardsticks"]]
        rows.append([name, spread(name, found), *ends, *others])
    return rows


def fold_rows(folds: Folds, most: int | None = None) -> list[list[str]]:
    """Return a table: a row per fold with its rows and its value of each metric, or of the `most` first."""
    shown = names(folds)[:most]
    rows = [["fold", counted(0, folds["unit"]).removeprefix("0 "), *shown]]
    for i, tested in enumerate(folds["tested"]):
        rows.append([str(i + 1), count(tested), *(figure(name, folds["metrics"][name]["values"][i]) for name in shown)])
    return rows


def tables(folds: Folds) -> list[list[list[str]]]:
    """Return the tables for the terminal."""
    return [metric_rows(folds), fold_rows(folds, _COLUMNS)]


def verdict(folds: Folds) -> str:
    """Return how good models trained this way are, and in how many folds they were ahead of the best yardstick."""
    name = folds["metric"]
    ours = folds["metrics"][name]
    said = (
        f"{title(name)} {spread(name, ours)}: mean and standard deviation over {counted(folds['folds'], 'fold')}, "
        f"{counted(folds['rows'], folds['unit'])}, each tested by a model that had not seen it."
    )
    sign = -1 if name in LOWER_IS_BETTER else 1
    rivals = [y for y in folds["yardsticks"] if y["metrics"][name]["mean"] is not None]
    if not rivals:
        return said
    best = max(rivals, key=lambda y: sign * y["metrics"][name]["mean"])
    pairs = [(a, b) for a, b in zip(ours["values"], best["metrics"][name]["values"], strict=True) if a is not None and b is not None]
    ahead = sum(sign * a > sign * b for a, b in pairs)
    where = "no fold" if not ahead else "every fold" if ahead == len(pairs) else f"{ahead} of {counted(len(pairs), 'fold')}"
    return f"{said} It is ahead of the best yardstick, {best['name']}, at {spread(name, best['metrics'][name])}, in {where}."


def verdict_of(result: Result) -> str:
    """Return the verdict on a result: that of the cross-validation, unless there was a test as well."""
    return verdict(result["cross_validation"]) if is_cross_validated(result) else judgement(result)


def page(folds: Folds) -> dict[str, Any]:
    """Return what the report page shows of a cross-validation."""
    return {"verdict": verdict(folds), "metrics": metric_rows(folds), "folds": fold_rows(folds), "how": folds["how"]}
