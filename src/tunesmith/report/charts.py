"""Charts as SVG with real text: any script shows in the reader's own fonts, and colours follow the page's light or dark scheme.

Each function returns markup whose texts are escaped. Colours are CSS classes of `report.html.jinja`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from tunesmith.report.view import FEW_ROWS, MANY_LABELS
from tunesmith.report.wording import columns_wide, number, share, shorten

MOST_LABELS = 200  # a heat map of more has cells smaller than a pixel on most screens

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 40

Point = tuple[float, float]


def _isolate(text: str) -> str:
    # in a left-to-right chart the ellipsis of a shortened Arabic label would else stand on its wrong side
    return f"\u2068{text}\u2069"


def svg(width: float, height: float, title: str, body: Sequence[str], style: str) -> Markup:
    return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}" style="{}">{}</svg>').format(
        width, height, title, style, Markup("".join(body))
    )


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that cover most of [low, high]."""
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"


class Frame:
    """A plot area with axes; `x` and `y` turn data into pixels. marks: what stands below the x axis, unless round numbers do."""

    def __init__(
        self,
        xs: tuple[float, float],
        ys: tuple[float, float],
        x_title: str,
        y_title: str,
        bottom: float = _BOTTOM,
        marks: Sequence[tuple[float, str]] | None = None,
    ) -> None:
        self.xs, self.ys = xs, ys
        self.floor = _HEIGHT - bottom
        self.body: list[str] = []
        for value in _ticks(*ys):
            y = self.y(value)
            self.add(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            self.add(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
        for value, words in marks if marks is not None else [(value, _tick(value)) for value in _ticks(*xs)]:
            self.add(f'<text class="tick" x="{self.x(value):.1f}" y="{self.floor + 16:.1f}" text-anchor="middle">{escape(words)}</text>')
        self.add(f'<path class="axis" d="M{_LEFT} {_TOP}V{self.floor:.1f}H{_WIDTH - _RIGHT}"/>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        self.add(f'<text class="name" x="{middle}" y="{self.floor + 33:.1f}" text-anchor="middle">{escape(x_title)}</text>')
        place = f"translate(11 {(_TOP + self.floor) / 2:.1f}) rotate(-90)"
        self.add(f'<text class="name" transform="{place}" text-anchor="middle">{escape(y_title)}</text>')

    def x(self, value: float) -> float:
        return _LEFT + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (_WIDTH - _RIGHT - _LEFT)

    def y(self, value: float) -> float:
        return self.floor - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.floor - _TOP)

    def add(self, markup: str) -> None:
        self.body.append(markup)

    def line(self, points: Sequence[Point], css: str) -> None:
        path = "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        self.add(f'<path class="{css}" d="M{path}"/>')

    def done(self, title: str) -> Markup:
        return svg(_WIDTH, _HEIGHT, title, self.body, f"width:100%;max-width:{_WIDTH + 60}px")


def _thin(points: Sequence[Point], limit: int = 300) -> list[Point]:
    """Return at most `limit` points, each the mean of its neighbours."""
    size = math.ceil(len(points) / limit)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Return the mean of each value and its neighbours, a twentieth of the points in all; centred, so that it does not lag."""
    reach = max(1, len(points) // 40)
    values = [y for _, y in points]
    smoothed = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)  # narrower at the ends, where a one-sided mean would bend the curve
        window = values[i - near : i + near + 1]
        smoothed.append((x, sum(window) / len(window)))
    return smoothed


def curve(points: Sequence[Point], name: str, chosen: int | None, *, raw: bool = False) -> Markup | None:
    """Draw values over steps, with the step of the chosen checkpoint marked; None when there is nothing finite to draw.

    Args:
        points: (step, value).
        chosen: the step that the checkpoint was taken at.
        raw: the values are noisy (a training loss): show them faint under their moving average.
    """
    points = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    if not points:
        return None
    values = [y for _, y in points]
    low, high = (0.0 if raw else min(values)), max(values)
    margin = (high - low) * 0.08 or max(abs(high) * 0.05, 0.01)
    frame = Frame((0, max(points[-1][0], chosen or 0, 1)), (low if raw else low - margin, high + margin), "step", name)
    if chosen is not None:
        x = frame.x(chosen)
        frame.add(f'<path class="mark" d="M{x:.1f} {_TOP}V{frame.floor}"/>')
        anchor, shift = ("end", -6) if x > _WIDTH / 2 else ("start", 6)
        place = frame.floor - 8 if not raw else _TOP + 10
        frame.add(f'<text class="marked" x="{x + shift:.1f}" y="{place:.1f}" text-anchor="{anchor}">chosen: step {chosen:,}</text>')
    if raw:
        thinned = _thin(points)
        if len(thinned) > 20:
            frame.line(thinned, "faint")
            thinned = _smooth(thinned)
        frame.line(thinned, "line")
    else:
        frame.line(points, "line")
    if not raw or len(points) == 1:
        for x, y in points:
            css = "dot picked" if x == chosen else "dot"
            frame.add(f'<circle class="{css}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{5 if x == chosen else 3}">')
            frame.add(f"<title>step {x:,.0f}: {number(y, 4)}</title></circle>")
    return frame.done(f"{name} over training steps")


def reliability(bins: Sequence[dict[str, Any]]) -> Markup | None:
    """Draw the reliability diagram of `metrics.calibration_bins`, with the number of predictions in each bin below."""
    if not bins:
        return None
    frame = Frame((0, 1), (0, 1), "stated probability", "share that came true", bottom=82)
    frame.line([(0, 0), (1, 1)], "ideal")
    most = max(b["count"] for b in bins)
    base = _HEIGHT - 4.0
    for b in bins:
        left, width, top = frame.x(b["low"]) + 1, frame.x(b["high"]) - frame.x(b["low"]) - 2, frame.y(b["accuracy"])
        words = f"stated {number(b['confidence'])}, came true {number(b['accuracy'])}, {b['count']:,} predictions"
        tall = max(1.0, 30 * b["count"] / most)
        css = "bar" if b["count"] >= FEW_ROWS else "bar pale"
        frame.add(f'<g><rect class="{css}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{frame.floor - top:.1f}"/>')
        frame.add(f'<rect class="count" x="{left:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"/>')
        frame.add(f'<circle class="dot" cx="{frame.x(b["confidence"]):.1f}" cy="{top:.1f}" r="3.5"/><title>{escape(words)}</title></g>')
    return frame.done("Reliability diagram: stated probability against observed frequency")


def agreement(groups: Sequence[dict[str, Any]]) -> Markup | None:
    """Draw the groups of `regression_metrics.agreement_bins`: mean prediction against mean true value, with its spread."""
    if not groups:
        return None
    ends = [g["predicted"] for g in groups] + [g["gold"] + sign * g["spread"] for g in groups for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.04 or 1.0
    bounds = (low - margin, high + margin)
    frame = Frame(bounds, bounds, "predicted", "true value")
    frame.line([(bounds[0], bounds[0]), (bounds[1], bounds[1])], "ideal")
    for g in groups:
        x, y = frame.x(g["predicted"]), frame.y(g["gold"])
        words = f"predicted {number(g['predicted'])}, true {number(g['gold'])} ± {number(g['spread'])}, {g['count']:,} rows"
        frame.add(f'<g><path class="faint" d="M{x:.1f} {frame.y(g["gold"] - g["spread"]):.1f}V{frame.y(g["gold"] + g["spread"]):.1f}"/>')
        frame.add(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/><title>{escape(words)}</title></g>')
    return frame.done("Agreement: mean prediction against mean true value")


def heat_map(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup | None:
    """Draw a confusion matrix, gold in rows; shade is the share of the row, right in one colour and wrong in another.

    Up to `MANY_LABELS` labels each cell shows its count; above, columns are numbered like the rows. None above `MOST_LABELS`.
    """
    n = len(labels)
    if n > MOST_LABELS:
        return None
    numbered = n > MANY_LABELS
    size = 10 if n > 60 else 12 if numbered else 46 if n <= 8 else 34
    names = [shorten(label, 22) for label in labels]
    widest = max(columns_wide(name) for name in names)
    left = 30 + 5.4 * widest + 22 if numbered else 34 + 7 * widest
    top = 44 if numbered else 30 + 5.2 * widest
    right = 10 if numbered else max(12, 5.2 * widest - size / 2)
    width, height = left + n * size + right, top + n * size + 6
    body = [
        f'<text class="name" transform="translate(12 {top + n * size / 2:.0f}) rotate(-90)" text-anchor="middle">gold</text>',
        f'<text class="name" x="{left + n * size / 2:.0f}" y="12" text-anchor="middle">predicted</text>',
        f'<rect class="field" x="{left:.1f}" y="{top:.1f}" width="{n * size}" height="{n * size}"/>',
    ]
    css = "tiny" if numbered else "label"
    for i, (name, label) in enumerate(zip(names, labels, strict=True)):
        middle = (i + 0.5) * size
        text, full = escape(_isolate(name)), f"<title>{escape(label)}</title>"
        row_text = f"{text} {i + 1}" if numbered else text
        body.append(f'<text class="{css}" x="{left - 6:.1f}" y="{top + middle + 3.5:.1f}" text-anchor="end">{row_text}{full}</text>')
        if not numbered:
            body.append(f'<text class="label" transform="translate({left + middle + 3:.1f} {top - 7:.1f}) rotate(-45)">{text}{full}</text>')
        elif (i + 1) % 5 == 0 or i == 0:
            body.append(f'<text class="tiny" x="{left + middle:.1f}" y="{top - 6:.1f}" text-anchor="middle">{i + 1}{full}</text>')
        if numbered and (i + 1) % 5 == 0:
            x, y = left + (i + 1) * size, top + (i + 1) * size
            body.append(f'<path class="grid" d="M{left:.1f} {y:.1f}h{n * size}M{x:.1f} {top:.1f}v{n * size}"/>')
    for i, row in enumerate(matrix):
        total = sum(row)
        for j, cell in enumerate(row):
            if not cell:
                continue
            part = cell / total
            x, y = left + j * size, top + i * size
            shade = 0.12 + 0.88 * part**0.7  # below proportional, so that rare mistakes can be seen
            body.append(f'<g><rect class="{"right" if i == j else "wrong"}" x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" ')
            body.append(f'width="{size - 1}" height="{size - 1}" fill-opacity="{shade:.2f}"/>')
            if not numbered:
                ink = "on" if shade > 0.55 else "off"
                shown = f"{cell:,}" if cell < 100_000 else _tick(cell)
                body.append(
                    f'<text class="cell {ink}" x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" text-anchor="middle">{shown}</text>'
                )
            body.append(f"<title>{escape(labels[i])} → {escape(labels[j])}: {cell:,} ({share(cell, total)})</title></g>")
    # small maps shrink with the screen as far as their text stays readable, large ones scroll
    style = f"width:{width:.0f}px;max-width:none" if n > 8 else f"width:{width:.0f}px;max-width:100%;min-width:{min(width, 320):.0f}px"
    return svg(width, height, "Confusion matrix, gold labels in rows", body, style)
