"""What terminal and page say of the probe for a learning rate: the range test, the candidates, and why one was chosen."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from tunesmith.errors import counted
from tunesmith.report.charts import Frame
from tunesmith.report.study import logarithmic
from tunesmith.report.wording import DASH, aligned, figure

Probe = dict[str, Any]
"""What `tunesmith.lr_find.find_rate` gives."""


def lr_find_lines(probe: Probe) -> list[str]:
    """Return the probe for the terminal."""
    return [f"lr find: {sentence(probe)}", *aligned(rows(probe)), verdict(probe)]


def sentence(probe: Probe) -> str:
    """Return what the range test found, and what that was checked with."""
    suggested = probe["suggested"]
    said = "the range test found no rate at which the loss falls"
    if suggested:
        said = f"a range test suggests {suggested['steepest']:.2g} (steepest fall) and {suggested['minimum']:.2g} (a tenth of the best)"
    return (
        f"{said}; short trainings check that on {counted(probe['rows'], 'validation row')}. {probe['steps']:,} steps in all, the run "
        f"has {probe['of_steps']:,}"
    )


def rows(probe: Probe) -> list[list[str]]:
    """Return a table: a row per candidate with its score after each round."""
    rounds = max((one["rounds"] for one in probe["candidates"]), key=len)
    table = [["lr", "from", *(f"{probe['metric']} after {counted(one['steps'], 'step')}" for one in rounds), ""]]
    for one in probe["candidates"]:
        scores = ["diverged" if part["value"] is None else figure(probe["metric"], part["value"]) for part in one["rounds"]]
        table.append([f"{one['rate']:g}", one["from"], *scores, *[DASH] * (len(rounds) - len(scores)), one["outcome"]])
    return table


def verdict(probe: Probe) -> str:
    """Return which rate was chosen, and what became of the range test's suggestion."""
    chosen = next(one for one in probe["candidates"] if one["outcome"] == "chosen")
    said = f"lr {chosen['rate']:g} ({chosen['from']}) does best on the validation rows"
    if "range test" in chosen["from"] or not probe["suggested"]:
        return f"{said}."
    return f"{said}; what the range test suggests is no better, or too far off to be followed."


def curve(probe: Probe) -> Markup | None:
    """Draw the loss of the range test over the rate, the chosen rate marked; None when there is nothing to draw."""
    points = [(math.log10(rate), loss) for rate, loss in probe["curve"] if math.isfinite(loss)]
    if len(points) < 2:
        return None
    losses = sorted(loss for _, loss in points)
    top = max(2.5 * losses[len(losses) // 2] - 1.5 * losses[0], losses[0] + 0.01)  # the explosion at its end would flatten all else
    margin = (top - losses[0]) * 0.08
    chosen = math.log10(probe["chosen"])
    span = (min(points[0][0], chosen), max(points[-1][0], chosen))
    frame = Frame(
        span, (losses[0] - margin, top), "learning rate", "training loss", marks=[(math.log10(t), f"{t:g}") for t in logarithmic(*span)]
    )
    frame.line([(x, min(loss, top)) for x, loss in points], "line")
    frame.line([(chosen, losses[0] - margin), (chosen, top)], "mark")
    return frame.done("Training loss while the rate grows; the chosen rate is marked")


def page(probe: Probe) -> dict[str, Any]:
    """Return what the report page shows of a probe."""
    return {"verdict": verdict(probe), "sentence": sentence(probe), "rows": rows(probe), "curve": curve(probe)}
