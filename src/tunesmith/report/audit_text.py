"""An audit of a data file as plain text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from tunesmith.data.audit_types import Audit, Example, Finding, Issue, Labels, Lengths
from tunesmith.data.findings import findings
from tunesmith.errors import counted
from tunesmith.report.wording import columns_wide, count, one_line, share, shorten

_WIDTH = 100  # columns
_BAR = 32  # columns of the longest bar
_LABELS = 20  # shown; of more, the most and the least frequent
_LABEL_WIDTH = 34
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SHOWN = 3  # examples of each kind


def render_audit(audit: Audit) -> str:
    """Return the audit in sections, with what to act upon at the end, where a terminal's reader looks first.

    Plain text without escape codes, about 100 columns wide, so that it reads the same on a terminal, in a log and in a file.
    """
    found = findings(audit)
    lines = [f"{audit.name}: {counted(audit.rows, 'row')}, columns {one_line(', '.join(audit.columns), 70)}"]
    if audit.rows:
        if audit.labels is not None:
            lines += ["", *_labels(audit.labels, audit.rows)]
        if audit.lengths is not None:
            lines += ["", *_lengths(audit.lengths, audit.rows)]
        lines += ["", *_texts(audit)]
    lines += ["", *_findings(found)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _pad(text: str, width: int) -> str:
    return text + " " * (width - columns_wide(text))


def _bar(part: float) -> str:
    """Return a bar whose length is the share `part` of the longest; something is never shown as nothing."""
    eighths = max(round(part * _BAR * 8), 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _labels(labels: Labels, rows: int) -> Iterator[str]:
    if labels.values is not None:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in labels.values.items())
        yield f"Values: {count(labels.distinct)} different in column {one_line(labels.column)!r}, {figures}"
        return
    kind = {
        "single": "one per row",
        "multi": "any number per row",
        "tags": "one for each word; rows that have each",
        "number": "numbers",
        "value": "no numbers",
    }[labels.kind]
    joined = f", joined by {labels.separator!r}" if labels.separator is not None else ""
    yield f"Labels: {count(labels.distinct)} in column {one_line(labels.column)!r}, {kind}{joined}"
    if not labels.counts:
        return
    items = list(labels.counts.items())
    half = _LABELS // 2
    shown = [*items[:half], None, *items[-half:]] if len(items) > _LABELS else items
    name_width = max(columns_wide(shorten(item[0], _LABEL_WIDTH)) for item in shown if item is not None)
    number_width = len(count(items[0][1]))
    for item in shown:
        if item is None:
            yield f"  … {count(len(items) - 2 * half)} more labels …"
        else:
            label, number = item
            name = _pad(shorten(label, _LABEL_WIDTH), name_width)
            yield f"  {name}  {count(number):>{number_width}}  {share(number, rows):>6}  {_bar(number / items[0][1])}"


def _lengths(lengths: Lengths, rows: int) -> Iterator[str]:
    yield f"Tokens per text: {count(lengths.total)} in all, mean {lengths.mean:,.1f} (special tokens not counted)"
    marks = [(name if name in ("min", "max") else f"{name}%", count(value)) for name, value in lengths.percentiles.items()]
    widths = [max(len(name), len(value)) for name, value in marks]
    yield "  " + "  ".join(f"{name:>{width}}" for (name, _), width in zip(marks, widths, strict=True))
    yield "  " + "  ".join(f"{value:>{width}}" for (_, value), width in zip(marks, widths, strict=True))
    yield ""
    special = lengths.max_length - lengths.budget
    yield f"Lost at {count(lengths.max_length)} tokens, {count(special)} of them special, by truncation policy"
    if lengths.percentiles["max"] <= lengths.budget:
        yield "  nothing: every text fits"
        return
    table = [("policy", "rows cut", "", "tokens lost", "", "sequences")]
    for policy, loss in lengths.policies.items():
        table.append(
            (policy, count(loss.rows), share(loss.rows, rows), count(loss.tokens), share(loss.tokens, lengths.total), count(loss.sequences))
        )
    yield from _table(table)
    if "windows" in lengths.policies:
        yield f"  windows overlap by {count(lengths.stride)} tokens, at most {count(lengths.max_windows)} to a text"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(columns_wide(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  " + _pad(row[0], widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))


def _texts(audit: Audit) -> Iterator[str]:
    yield f"Texts in column {one_line(audit.text)!r}"
    scripts = ", ".join(f"{name} {share(part, 1)}" for name, part in list(audit.scripts.items())[:4])
    yield f"  script         {scripts if scripts else 'no letters'}"
    for name, issue, grouped in (
        ("empty", audit.empty, ""),
        ("repeated", audit.repeats, "rows repeat {} text{}"),
        ("near repeats", audit.near, "rows in {} group{}"),
        ("conflicts", audit.conflicts, "rows, {} text{} under different labels"),
        ("U+FFFD", audit.undecoded, ""),
        ("mojibake", audit.mojibake, ""),
        ("control", audit.control, ""),
        ("HTML", audit.html, ""),
        ("over 1M chars", audit.huge, ""),
    ):
        if issue.rows:
            words = grouped.format(count(issue.groups), "" if issue.groups == 1 else "s") if grouped else "rows"
            yield f"  {name:13}  {count(issue.rows):>7}  {share(issue.rows, audit.rows):>6}  {words}"
            if name not in ("empty", "HTML", "control"):
                yield from _examples(issue)
    leak = audit.leakage
    if leak is not None:
        yield ""
        yield f"Test file {leak.name}: {counted(leak.rows, 'row')}"
        for name, issue in (("same text", leak.exact), ("near repeats", leak.near)):
            yield f"  {name:13}  {count(issue.rows):>7}  {share(issue.rows, leak.rows):>6}  of its rows stand in {audit.name}"
            yield from _examples(issue)


def _examples(issue: Issue) -> Iterator[str]:
    for example in issue.examples[:_SHOWN]:
        yield from _example(example)


def _example(example: Example) -> Iterator[str]:
    places = ", ".join(example.places[:4]) + (", …" if len(example.places) > 4 else "")
    note = f" ({example.note})" if example.note else ""
    yield f"      {places}{note}"
    for text in example.texts:
        yield f"        {_clip(text)}"


def _clip(text: str) -> str:
    text = one_line(text)
    kept = len(text)
    while columns_wide(text[:kept]) > _WIDTH - 10:
        kept -= 1
    return text[:kept].removesuffix("…") + "…" if kept < len(text) else text


def _findings(found: Sequence[Finding]) -> Iterator[str]:
    if not found:
        yield "Nothing to correct was found."
        return
    totals = [(severity, sum(finding.severity == severity for finding in found)) for severity in ("error", "warning", "note")]
    yield "What to act upon: " + ", ".join(f"{number} {name}{'s' if number > 1 else ''}" for name, number in totals if number)
    for finding in found:
        head = f"  {finding.severity:7}  "
        yield from _wrapped(finding.text, head)
        yield from _wrapped(finding.advice, " " * len(head) + "→ ")


def _wrapped(text: str, head: str) -> list[str]:
    # paths and flags stay in one piece, so that they can be copied
    return textwrap.wrap(
        one_line(text), _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False, break_on_hyphens=False
    )
