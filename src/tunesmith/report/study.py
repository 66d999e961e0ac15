"""What terminal and page say of a search for settings: its trials, the best of them, and what mattered."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup, escape

from tunesmith.errors import counted
from tunesmith.report.charts import Frame, svg
from tunesmith.report.view import LOWER_IS_BETTER
from tunesmith.report.wording import DASH, aligned, duration, figure, one_line, shorten, title

_SHOWN = 30
"""Trials that the terminal lists; the page lists all."""

Study = dict[str, Any]
"""What `tunesmith.study.best.summary` gives."""


def value_words(value: Any) -> str:
    """Return a searched value as people write it: numbers short, words as they are."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else one_line(str(value), 40)


def ordered(study: Study) -> list[dict[str, Any]]:
    """Return the trials, the best first: the complete ones by their value, then those that were stopped, then those without a value."""
    sign = -1 if study["greater"] else 1

    def place(trial: dict[str, Any]) -> tuple[bool, bool, bool, float]:
        value = trial["value"]
        return trial["number"] != study["best"], trial["state"] != "complete", value is None, 0.0 if value is None else sign * value

    return sorted(study["trials"], key=place)


def remark(study: Study, trial: dict[str, Any]) -> str:
    """Return what is to be said of a trial beside its figures."""
    said = []
    if trial["number"] == study["best"]:
        said.append("best")
    if trial["number"] == study["usual"]:
        said.append("the settings as they were")
    if trial["same_as"] is not None:
        said.append(f"as trial {trial['same_as']}")
    elif trial["outcome"] not in ("finished", ""):
        said.append(trial["outcome"])
    return ", ".join(said)


def study_lines(study: Study) -> list[str]:
    """Return the study for the terminal: a table of trials, the best first, what mattered, and the best settings."""
    names = [searched["name"] for searched in study["ranges"]]
    trials = ordered(study)
    rows = [["trial", *names, study["metric"], ""]]
    for trial in trials[:_SHOWN]:
        values = [value_words(trial["settings"][name]) if name in trial["settings"] else DASH for name in names]
        score = DASH if trial["value"] is None else f"{trial['value']:.4f}"
        rows.append([str(trial["number"]), *values, score, remark(study, trial)])
    lines = aligned(rows)
    if len(trials) > _SHOWN:
        lines.append(f"and {counted(len(trials) - _SHOWN, 'trial')} more, in the report")
    return [*lines, "", f"what mattered: {mattered(study)}", verdict(study), ""]


def mattered(study: Study) -> str:
    """Return each setting's share in the differences between trials, in words."""
    if study["importances"] is None:
        return str(study["note"])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in study["importances"].items())
    return f"{shares} ({study['note']})"


def verdict(study: Study) -> str:
    """Return which trial was best, and how far it is above the settings as they were."""
    best = next(trial for trial in study["trials"] if trial["number"] == study["best"])
    settings = ", ".join(f"{name} {value_words(value)}" for name, value in best["settings"].items())
    metric = study["metric"]
    said = f"best: trial {best['number']}, {settings}: validation {metric} {figure(metric, best['value'])}"
    if best["number"] == study["usual"]:
        return f"{said}. These are the settings as they were; no other trial did better."
    usual = next((trial for trial in study["trials"] if trial["number"] == study["usual"]), None)
    if usual is None:
        return f"{said}."
    if best["value"] == usual["value"]:
        return f"{said}, as with the settings as they were; the log loss, else the order, decided between them."
    gain = abs(best["value"] - usual["value"])
    more = "less" if metric in LOWER_IS_BETTER else "more"
    return (
        f"{said}, {figure(metric, gain)} {more} than with the settings as they were. "
        "Validation flatters the best of many; the test does not."
    )


def page(study: Study) -> dict[str, Any]:
    """Return what the report page shows of a study."""
    return {
        "verdict": verdict(study),
        "mattered": mattered(study),
        "names": [searched["name"] for searched in study["ranges"]],
        "ranges": [searched["words"] for searched in study["ranges"]],
        "trials": [{**trial, "remark": remark(study, trial)} for trial in ordered(study)],
        "time": duration(study["seconds"]),
        "history": history(study),
        "importances": importances(study),
        "slices": [chart for searched in study["ranges"] if (chart := values_of(study, searched)) is not None],
    }


def _valued(study: Study) -> list[dict[str, Any]]:
    return [trial for trial in study["trials"] if trial["value"] is not None and math.isfinite(trial["value"])]


def _span(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or max(abs(high) * 0.05, 0.01)
    return low - margin, high + margin


def _dot(frame: Frame, study: Study, trial: dict[str, Any], x: float) -> None:
    chosen, whole = trial["number"] == study["best"], trial["state"] == "complete"
    css = "dot picked" if chosen else "dot" if whole else "hollow"
    settings = ", ".join(f"{name} {value_words(value)}" for name, value in trial["settings"].items())
    said = f"trial {trial['number']}: {settings}: {figure(study['metric'], trial['value'])} {remark(study, trial)}"
    frame.add(f'<circle class="{css}" cx="{frame.x(x):.1f}" cy="{frame.y(trial["value"]):.1f}" r="{5 if chosen else 3.5}">')
    frame.add(f"<title>{escape(said)}</title></circle>")


def history(study: Study) -> Markup | None:
    """Draw the trials' scores in their order, those stopped early hollow, with the best so far as a line."""
    trials = _valued(study)
    if not trials:
        return None
    frame = Frame(
        (0, max(trial["number"] for trial in trials) + 1),
        _span([t["value"] for t in trials]),
        "trial",
        f"validation {title(study['metric'])}",
    )
    best: float | None = None
    points: list[tuple[float, float]] = []
    for trial in (trial for trial in trials if trial["state"] == "complete"):
        value = trial["value"]
        if best is None or (value > best if study["greater"] else value < best):
            if best is not None:
                points.append((trial["number"], best))
            best = value
        points.append((trial["number"], best))
    if len(points) > 1:
        frame.line(points, "faint")
    for trial in trials:
        _dot(frame, study, trial, trial["number"])
    return frame.done("Validation score of each trial")


def values_of(study: Study, searched: dict[str, Any]) -> Markup | None:
    """Draw the scores over the values of one setting; None when there is nothing to draw."""
    name = searched["name"]
    trials = [trial for trial in _valued(study) if name in trial["settings"]]
    if not trials:
        return None
    values = [trial["settings"][name] for trial in trials]
    marks: list[tuple[float, str]] | None = None
    if searched["choice"]:
        names = sorted(set(values), key=lambda value: (isinstance(value, str), value))
        place = {value: float(i) for i, value in enumerate(names)}
        xs, span = [place[value] for value in values], (-0.5, len(names) - 0.5)
        marks = [(float(i), shorten(value_words(value), 60 // len(names) + 2)) for i, value in enumerate(names)]
    elif searched["log"]:
        xs = [math.log10(value) for value in values]
        span = _span(xs)
        marks = [(math.log10(tick), f"{tick:.3g}") for tick in logarithmic(*span)]
    else:
        xs = [float(value) for value in values]
        span = _span(xs)
    frame = Frame(span, _span([trial["value"] for trial in trials]), name, f"validation {title(study['metric'])}", marks=marks)
    for trial, x in zip(trials, xs, strict=True):
        _dot(frame, study, trial, x)
    return frame.done(f"Validation score over {name}")


def logarithmic(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of each power of ten between 10**low and 10**high; at wide ranges the powers alone."""
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    found = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [tick for tick in found if low <= math.log10(tick) <= high]


def importances(study: Study) -> Markup | None:
    """Draw each setting's share in the differences between trials as a bar; None where it is not known."""
    if study["importances"] is None:
        return None
    body, left, width = [], 130, 440
    for i, (name, share) in enumerate(study["importances"].items()):
        y = 10 + 26 * i
        long = max(1.0, share * (width - left - 50))
        body.append(f'<text class="label" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(shorten(name, 20))}</text>')
        body.append(f'<rect class="bar" x="{left}" y="{y}" width="{long:.1f}" height="18"/>')
        body.append(f'<text class="tick" x="{left + long + 6:.1f}" y="{y + 13}">{share:.0%}</text>')
    height = 10 + 26 * len(study["importances"])
    return svg(width, height, "Share of each setting in the differences between trials", body, f"width:100%;max-width:{width + 60}px")
