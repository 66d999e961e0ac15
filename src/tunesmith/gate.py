"""What an update did: scores before and after on the same rows, and whether the old ones allow it.

C outputs, R resamples, U units that a metric is a mean or a count over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.bounds import RESAMPLES, bounds
from tunesmith.config import Config
from tunesmith.errors import counted, setting
from tunesmith.evaluate import outputs_for
from tunesmith.feedback import Feedback
from tunesmith.lineage import now
from tunesmith.metrics import greater_is_better
from tunesmith.model.heads import TextModel
from tunesmith.progress import Progress
from tunesmith.seeds import seed_for
from tunesmith.tasks.base import Measured, Task
from tunesmith.tasks.rows import Part

_CHUNK = 100
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Scored:
    """A model on one part: its metrics, the value of the chosen one (None where it has none), and how that is computed on resamples."""

    metrics: dict[str, float]
    value: float | None
    measured: Measured | None


@dataclass
class Gate:
    """Scores of the model before, by the part's name: `test` (rows whose score may not fall), `feedback` (new rows held out)."""

    metric: str
    parts: dict[str, Part]
    scored: dict[str, Scored]
    config: Config
    progress: Progress

    @classmethod
    def before(cls, model: TextModel, feedback: Feedback, config: Config, progress: Progress) -> Gate:
        """Score the model that is to be updated. A label that it does not know it never predicts.

        The old test rows choose the metric where none is told, so that no new row decides by what the update is judged.
        """
        task = feedback.task
        found = {"test": feedback.test, "feedback": feedback.held_out}
        parts = {name: part for name, part in found.items() if part is not None and len(part.rows)}
        metric = config.metric if config.metric is not None else task.default_metric
        decisive = parts.get("test", parts.get("feedback"))
        possible = list(task.computable(decisive.rows)) if decisive is not None else []
        if metric not in possible and possible and config.metric is None:
            metric = possible[0]
        gate = cls(metric, parts, {}, config, progress)
        gate.scored = {name: gate._score(model, task, name, "before") for name in parts}
        return gate

    def after(self, model: TextModel, task: Task) -> dict[str, dict[str, Any]]:
        """Return for each part rows, before, after, difference and its 95% interval, and all metrics before and after."""
        found: dict[str, dict[str, Any]] = {}
        for name, part in self.parts.items():
            old, new = self.scored[name], self._score(model, task, name, "after")
            before, after = old.value, new.value
            known = before is not None and after is not None
            found[name] = {
                "file": part.source.name,
                "rows": len(part.rows),
                "before": before,
                "after": after,
                "difference": after - before if known else None,  # type: ignore[operator]
                "interval": paired_interval(old.measured, new.measured, seed=seed_for(self.config.seed, "paired", len(part.rows))),
                "metrics_before": old.metrics,
                "metrics_after": new.metrics,
            }
        return found

    def _score(self, model: TextModel, task: Task, name: str, when: str) -> Scored:
        part = task.judged(self.parts[name])
        what = f"{'old test' if name == 'test' else 'new rows held out'}, {when} the update"
        grown = when == "before"  # labels that only the new rows have are not among this model's outputs yet
        outputs = outputs_for(model, task, part.rows, max_tokens=self.config.tokens_at_once, what=what, progress=self.progress, grown=grown)
        metrics = task.evaluation(outputs, part, self.progress)["metrics"]
        if self.metric not in task.computable(part.rows):
            return Scored(metrics, None, None)
        return Scored(metrics, metrics.get(self.metric), task.measured(outputs, part, self.metric))


def paired_interval(before: Measured | None, after: Measured | None, *, seed: int) -> list[float] | None:
    """Return [low, high] of a metric's difference after - before, by percentile bootstrap over the units, the same for both.

    None where the metric has no quick way, and where no resample has a difference: a width of 0 would be false certainty.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    if before is None or after is None or before[0] != after[0]:
        return None
    units = before[0]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(0, RESAMPLES, _CHUNK):
        drawn = generator.multinomial(units, np.full(units, 1 / units), _CHUNK).astype(np.float64)
        found.append(after[1](drawn) - before[1](drawn))
    return bounds(np.concatenate(found))


def record_of(
    feedback: Feedback, scores: dict[str, dict[str, Any]], margin: float, metric: str, *, force: bool, given: dict[str, Any], **told: Any
) -> dict[str, Any]:
    """Return what lineage and report say of an update, with the decision and its reason; given: its settings."""
    decision, reason = decide(scores.get("test"), metric, feedback.task.kind, margin, force=force)
    return {
        "kind": "update",
        "date": now(),
        **told,
        "data": feedback.name,
        "fingerprint": feedback.fingerprint,
        "rows": {
            name: getattr(feedback, name)
            for name in ("rows", "held", "replayed", "corrected", "repeated", "withheld", "leaked", "disputed")
        },
        "new_labels": feedback.new_labels,
        "settings": given,
        "metric": metric,
        "margin": margin,
        "scores": scores,
        "decision": decision,
        "reason": reason,
    }  # fmt: skip


def decide(found: dict[str, Any] | None, metric: str, kind: str, margin: float, *, force: bool) -> tuple[str, str]:
    """Return `accepted`, `refused` or `forced`, and a sentence with the reason.

    An update is refused when the metric is worse on the old test rows than before by more than `margin`, in the metric's own unit.
    """
    if found is None:
        if force:
            return "forced", f"There are no old test rows to judge by; {setting('force', True)} accepts that."
        return "refused", f"There are no old test rows, so nothing says whether the update forgets; name some with {setting('test')}."
    rows, before, after = counted(found["rows"], "old test row"), found["before"], found["after"]
    if before is None or after is None:
        if force:
            return "forced", f"{metric} has no value on the {rows}; {setting('force', True)} accepts that."
        return "refused", f"{metric} has no value on the {rows}, so nothing says whether the update forgets; choose a {setting('metric')}."
    sign = 1 if greater_is_better(metric, kind) else -1
    worse = sign * (before - after)
    change = f"{metric} on the {rows} went from {before:.4f} to {after:.4f}"
    if worse <= margin + _ROUNDING:
        how = f"which is {worse:.4f} worse, within the margin of {margin:g}" if worse > 0 else "which is no worse"
        return "accepted", f"{change}, {how}."
    said = f"{change}, which is {worse:.4f} worse, more than the margin of {margin:g}"
    return ("forced", f"{said}; {setting('force', True)} accepts that.") if force else ("refused", f"{said}.")
