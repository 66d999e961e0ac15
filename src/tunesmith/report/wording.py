"""Figures, times and texts as people read them, the same on the page, the card and the terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime

DASH = "–"

_TITLES = {
    "accuracy": "Accuracy",
    "subset_accuracy": "Subset accuracy",
    "matthews": "Matthews correlation",
    "roc_auc": "ROC AUC",
    "lrap": "Label ranking AP",
    "ece": "Calibration error (ECE)",
    "log_loss": "Log loss",
    "loss": "Loss",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mse": "Mean squared error",
    "mae": "Mean absolute error",
    "perplexity": "Perplexity of hidden tokens",
    "masked_accuracy": "Hidden tokens guessed",
    "exact_match": "Exact match",
    "f1": "F1",
    "has_answer_exact_match": "Exact match, answerable",
    "has_answer_f1": "F1, answerable",
    "no_answer_accuracy": "Accuracy, unanswerable",
    "best_exact_match": "Exact match, best threshold",
    "best_f1": "F1, best threshold",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "map": "MAP",
    "recall@10": "Recall@10",
    "recall@100": "Recall@100",
}
IN_UNITS = ("mse", "mae", "perplexity")


def title(metric: str) -> str:
    """Return the name of a metric for people: ``f1_macro`` is "F1, macro"."""
    if metric in _TITLES:
        return _TITLES[metric]
    score, _, average = metric.rpartition("_")
    return f"{score.capitalize()}, {average}" if score in ("f1", "precision", "recall") else metric


def number(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` decimals, or a dash when there is no finite one."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def figure(metric: str, value: float | None) -> str:
    """Return the value of a metric: with three decimals, or with four significant digits where it is in the units of the data."""
    if metric not in IN_UNITS or value is None or not math.isfinite(value):
        return number(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def count(value: float | None) -> str:
    """Return a whole number with thousands separated, or a dash."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.0f}"


def interval(bounds: Sequence[float] | None, metric: str = "") -> str:
    """Return "[low, high]" of a metric, or nothing without bounds."""
    return f"[{figure(metric, bounds[0])}, {figure(metric, bounds[1])}]" if bounds else ""


def share(part: float, whole: float) -> str:
    """Return `part` of `whole` as a percentage that never rounds something to nothing."""
    if not whole:
        return DASH
    percent = 100 * part / whole
    return "<0.1%" if 0 < percent < 0.1 else f"{percent:.1f}%"


def duration(seconds: float) -> str:
    """Return seconds as "42 s", "3 min 5 s" or "1 h 2 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(iso: str) -> str:
    """Return an ISO time as "2025-03-01 12:00 UTC"; what is not one is returned as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


def setting(value: object) -> str:
    """Return a recipe value as it would be read aloud."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def one_line(text: str, limit: int | None = None) -> str:
    """Return `text` with white space collapsed and control characters shown as replacement characters, cut at `limit`."""
    clean = " ".join(text.split())
    clean = "".join("\ufffd" if unicodedata.category(char) in ("Cc", "Cs") else char for char in clean)
    return clean if limit is None or len(clean) <= limit else clean[:limit].rstrip() + "…"


def columns_wide(text: str) -> int:
    """Return how many terminal columns `text` takes: two for East Asian wide characters, none for combining marks."""
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with the middle left out: labels often differ at the end only."""
    text = one_line(text)
    if columns_wide(text) <= width:
        return text
    head, tail = text, text
    while columns_wide(head) > (width - 1) * 0.6:
        head = head[:-1]
    while columns_wide(tail) > width - 1 - columns_wide(head) or (tail and unicodedata.combining(tail[0])):
        tail = tail[1:]
    return f"{head}…{tail}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Return the rows with columns aligned and a rule under the first."""
    widths = [max(columns_wide(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell + " " * (width - columns_wide(cell)) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
