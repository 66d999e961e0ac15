"""What terminal, page and card say of an update and of the versions of a model."""

from __future__ import annotations

from typing import Any

from tunesmith.errors import counted, listing
from tunesmith.report import wording
from tunesmith.report.wording import aligned

Record = dict[str, Any]
HEADER = ("rows", "metric", "before", "after", "difference [95% interval]")
_PARTS = {"test": "old test", "feedback": "new rows held out"}


def update_rows(record: Record) -> list[list[str]]:
    """Return a row of `HEADER`'s cells for the old test rows and for the new rows held out."""
    metric, rows = record["metric"], []
    for name, words in _PARTS.items():
        found = record["scores"].get(name)
        if found is None:
            continue
        cells = [wording.DASH if found[when] is None else wording.figure(metric, found[when]) for when in ("before", "after")]
        change = wording.DASH
        if found["difference"] is not None:
            bounds = found["interval"]
            change = f"{found['difference']:+.3f}" + (f" [{bounds[0]:+.3f}, {bounds[1]:+.3f}]" if bounds else "")
        rows.append([f"{words}, {counted(found['rows'], 'row')}", wording.title(metric), *cells, change])
    return rows


def update_sentences(record: Record, *, reason: bool = True) -> list[str]:
    """Return sentences on what the update learned from, and on the decision; `reason`: with the reason for it."""
    rows = record["rows"]
    held = f", {rows['held']:,} of them held out" if rows["held"] else ""
    parent = f"from version {record['parent']}" if record["parent"] is not None else "from a model without versions"
    said = [
        f"Updated {parent} with {counted(rows['rows'], 'new row')} ({record['data']}{held}) and {counted(rows['replayed'], 'replayed row')}"
        + (f", and with distillation of weight {record['distillation']:g}." if record["distillation"] else ".")
    ]
    if record["new_labels"]:
        said.append(f"New labels: {listing(map(repr, record['new_labels']), 12)}.")
    leaked = "its text is" if rows["leaked"] == 1 else "their texts are"
    told = [
        f"{counted(rows[name], noun)} {words}"
        for name, noun, words in (
            ("corrected", "kept training row", "corrected"),
            ("repeated", "kept training row", "repeated"),
            ("withheld", "kept training row", "not replayed for the sake of the test"),
            ("leaked", "new row", f"left out as {leaked} in the test"),
        )
        if rows.get(name)
    ]
    if rows["disputed"]:
        told[-1] += f" ({rows['disputed']:,} with another target there)"
    if told:
        said.append(f"Rows that met old ones: {', '.join(told)}.")
    return [*said, f"Decision: {record['decision']}." + (f" {record['reason']}" if reason else "")]


def render_update(record: Record) -> str:
    """Return the table of scores before and after, and the sentences, as plain text; why it is refused the error says."""
    rows = update_rows(record)
    table = [*aligned([list(HEADER), *rows]), ""] if rows else []
    return "\n".join([*table, *update_sentences(record, reason=record["decision"] != "refused")]) + "\n"


def render_history(story: dict[str, Any]) -> str:
    """Return the versions and events of a model directory as a table; `story`: that of `versions.story`."""
    rows = []
    for entry in story["versions"]:
        change = _change(entry)
        if change == wording.DASH:
            value = (entry.get("tests") or {}).get(entry.get("metric"))
            change = wording.DASH if value is None else f"{entry['metric']} {value:.4f}, {counted(entry['rows'].get('test', 0), 'row')}"
        mark = "*" if entry["version"] == story["current"] else ""
        parent = wording.DASH if entry["parent"] is None else str(entry["parent"])
        decision = entry.get("decision", "trained")
        rows.append((entry["date"], [f"{entry['version']}{mark}", parent, entry["date"][:16], decision, str(entry.get("data")), change]))
    for event in story["events"]:
        if event["event"] == "refused":
            cells = [wording.DASH, str(event["parent"]), event["date"][:16], "refused", str(event["data"]), _change(event)]
        else:
            cells = [wording.DASH, wording.DASH, event["date"][:16], "rolled back", f"{event['from']} -> {event['to']}", wording.DASH]
        rows.append((event["date"], cells))
    rows.sort(key=lambda row: row[0])
    lines = aligned([["version", "parent", "date", "decision", "data", "old test"], *(cells for _, cells in rows)])
    waiting = [
        f"version {number} was accepted and never became the current one: tunesmith rollback {story['directory']} --to {number}"
        for number in story["waiting"]
    ]
    return "\n".join([*lines, "* current", *waiting]) + "\n"


def _change(record: Record) -> str:
    """Return the score on the old test rows before and after, and how many these are: versions are tested on different ones."""
    found = (record.get("scores") or {}).get("test")
    if found is None or found["before"] is None or found["after"] is None:
        return wording.DASH
    return f"{record['metric']} {found['before']:.4f} -> {found['after']:.4f}, {counted(found['rows'], 'row')}"
