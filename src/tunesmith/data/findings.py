"""From the figures of an audit to the sentences that a user should act upon."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tunesmith.data.audit_types import Audit, Finding, Issue, Labels, Lengths
from tunesmith.errors import counted, listing

_SEVERITIES = ("error", "warning", "note")
_IMBALANCE = 10.0  # from this ratio on accuracy says little
_LEAK_SHARE = 0.01  # of the test rows: from here on its figures are false rather than somewhat flattered
_LOST_SHARE = 0.05  # of the tokens
_HEADROOM = 1.25  # times the longest text, as the texts of use may be longer


def findings(audit: Audit) -> list[Finding]:
    """Return what to act upon, most severe first; empty for a file without fault."""
    found = [Finding("error", f"{audit.name} has no rows.", "Check the path, and the delimiter with which the file was written.")]
    if audit.rows:
        found = [*audit.remarks, *_leakage(audit), *_texts(audit), *_characters(audit)]
        if audit.labels is not None:
            found += _labels(audit, audit.labels)
        if audit.lengths is not None:
            found += _lengths(audit.lengths, audit.rows)
    return sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))


def _rows(count: int, kind: str = "row") -> str:
    return counted(count, kind)


def _verb(count: int, singular: str, plural: str) -> str:
    return singular if count == 1 else plural


def _share(part: float) -> str:
    return "under 0.1%" if 0 < part < 0.001 else f"{part:.1%}"


def _at(issue: Issue, limit: int = 3) -> str:
    """Return the places of the first examples, in brackets."""
    places = [example.places[0] for example in issue.examples[:limit]]
    return f" ({', '.join(places)}{', …' if issue.rows > len(places) else ''})" if places else ""


def _pairs(issue: Issue, word: str) -> str:
    return f" (first: {issue.examples[0].places[0]} {word} {issue.examples[0].places[1]})" if issue.examples else ""


def _counted(counts: Mapping[str, int], limit: int = 5) -> str:
    return listing([f"{label!r} ({rows:,})" for label, rows in counts.items()], limit)


def _leakage(audit: Audit) -> Iterator[Finding]:
    leak = audit.leakage
    if leak is None or not leak.rows:
        return
    if leak.exact.rows:
        share = leak.exact.rows / leak.rows
        contradicted = f"; {leak.contradicted:,} of them with another label than there" if leak.contradicted else ""
        yield Finding(
            "error" if share >= _LEAK_SHARE else "warning",
            f"{_rows(leak.exact.rows, 'test row')} of {leak.rows:,} ({_share(share)})"
            f" {_verb(leak.exact.rows, 'repeats', 'repeat')} a text of {audit.name}{_pairs(leak.exact, '=')}{contradicted}.",
            "Test figures are flattered by what was learned by heart: train with --dedupe, which drops these texts from training.",
        )
    if leak.near.rows:
        share = leak.near.rows / leak.rows
        yield Finding(
            "warning" if share >= _LEAK_SHARE else "note",
            f"{_rows(leak.near.rows, 'more test row')} ({_share(share)}) nearly {_verb(leak.near.rows, 'repeats', 'repeat')}"
            f" a text of {audit.name}{_pairs(leak.near, '~')}.",
            "Look at the pairs: where they are one document in two versions, take one out, or split by a --group column.",
        )
    if leak.unseen:
        yield Finding(
            "error",
            f"{_rows(len(leak.unseen), 'label')} of {leak.name} never {_verb(len(leak.unseen), 'occurs', 'occur')}"
            f" in {audit.name}: {_counted(leak.unseen)}.",
            "A model cannot learn them: correct the spelling, or add such rows to the training file.",
        )


def _texts(audit: Audit) -> Iterator[Finding]:
    if audit.empty.rows:
        yield Finding(
            "warning" if audit.empty.rows < audit.rows else "error",
            f"{_rows(audit.empty.rows)} {_verb(audit.empty.rows, 'has', 'have')} no text{_at(audit.empty)}.",
            "Training leaves them out. Fill them in or delete them. Is --text the right column?",
        )
    if audit.conflicts.rows and (audit.labels is None or audit.labels.kind not in ("number", "value")):
        first = audit.conflicts.examples[0]
        yield Finding(
            "warning",
            f"{_rows(audit.conflicts.groups, 'text')} ({_rows(audit.conflicts.rows)})"
            f" {_verb(audit.conflicts.groups, 'stands', 'stand')} under different labels"
            f" (first: {' and '.join(first.places[:2])}: {first.note}).",
            "Decide for one label each; until then no model can be right on all of them."
            if audit.labels is None or audit.labels.kind != "text"
            else "Decide for one each. Of passages that are ranked the highest grade counts.",
        )
    if audit.repeats.rows:
        share = audit.repeats.rows / audit.rows
        first = audit.repeats.examples[0]
        yield Finding(
            "warning" if share >= _LEAK_SHARE else "note",
            f"{_rows(audit.repeats.rows)} ({_share(share)})"
            f" {_verb(audit.repeats.rows, 'repeats', 'repeat')} an earlier text; the most frequent stands {first.note}"
            f" ({', '.join(first.places[:3])}).",
            "tunesmith's own splits keep copies on one side, a random split made elsewhere would not; --dedupe trains on one of each.",
        )
    if audit.near.rows:
        share = audit.near.rows / audit.rows
        yield Finding(
            "warning" if share >= _LEAK_SHARE else "note",
            f"{_rows(audit.near.rows)} ({_share(share)}) are near duplicates, in {_rows(audit.near.groups, 'group')}"
            f"{_pairs(audit.near, '~')}.",
            "Versions of one text on both sides of a split flatter the figures: keep them together with a --group column.",
        )
    if audit.huge.rows:
        yield Finding(
            "warning",
            f"{_rows(audit.huge.rows, 'text')} {_verb(audit.huge.rows, 'is', 'are')} longer than a million characters{_at(audit.huge)}.",
            "Check for a quote that was never closed: it joins all the rows behind it.",
        )


def _characters(audit: Audit) -> Iterator[Finding]:
    if audit.undecoded.rows:
        yield Finding(
            "warning",
            f"{_rows(audit.undecoded.rows)} {_verb(audit.undecoded.rows, 'holds', 'hold')}"
            f" the replacement character U+FFFD{_at(audit.undecoded)}.",
            "Letters were lost when the file was converted: export it again as UTF-8.",
        )
    if audit.mojibake.rows:
        yield Finding(
            "warning",
            f"{_rows(audit.mojibake.rows)} {_verb(audit.mojibake.rows, 'looks', 'look')}"
            f" like UTF-8 that was read in another encoding{_at(audit.mojibake)}: {audit.mojibake.examples[0].texts[0]!r}.",
            "Export the file again as UTF-8; if it was converted twice, undo one (text.encode('cp1252').decode('utf-8')).",
        )
    if audit.control.rows:
        yield Finding(
            "warning",
            f"{_rows(audit.control.rows)} {_verb(audit.control.rows, 'holds', 'hold')} control characters{_at(audit.control)}.",
            r"\x80 to \x9f are the euro, quotes and dashes of Windows-1252: read the file again with --encoding cp1252. Remove others.",
        )
    if audit.html.rows:
        yield Finding(
            "note",
            f"{_rows(audit.html.rows)} ({_share(audit.html.rows / audit.rows)})"
            f" {_verb(audit.html.rows, 'holds', 'hold')} HTML tags or entities{_at(audit.html)}.",
            "They cost tokens: strip them, in training and in use alike.",
        )


def _labels(audit: Audit, labels: Labels) -> Iterator[Finding]:
    if labels.missing.rows:
        yield Finding(
            "error",
            f"{_rows(labels.missing.rows)} of {audit.rows:,} {_verb(labels.missing.rows, 'has', 'have')} no label{_at(labels.missing)}.",
            "Label them, or leave them out with --drop-unlabelled.",
        )
    if labels.kind == "number":
        beside = f", but for what is no number: {_counted(labels.placeholders)}" if labels.placeholders else ""
        yield Finding(
            "error",
            f"column {labels.column!r} holds {labels.distinct - len(labels.placeholders):,} different numbers{beside}: "
            "it is a measured value, not a class.",
            "Choose another --label column, turn the numbers into classes, or predict numbers with --task regression.",
        )
        return
    if labels.kind == "value":
        if labels.placeholders:
            yield Finding(
                "error",
                f"column {labels.column!r} holds what is not a number: {_counted(labels.placeholders)}.",
                "Correct it, or take --task classification if these are labels.",
            )
        elif labels.distinct < 2:
            yield Finding("error", f"all values of column {labels.column!r} are the same.", "There is nothing to learn. Is --label right?")
        return
    labelled = audit.rows - labels.missing.rows
    if labels.distinct < 2:
        only = f"only the label {next(iter(labels.counts))!r}" if labels.distinct else "no label at all"
        yield Finding("error", f"column {labels.column!r} holds {only}.", "A classifier needs two. Is --label the right column?")
    elif labels.kind == "single" and labels.distinct > 20 and 2 * labels.distinct > labelled:
        yield Finding(
            "error",
            f"column {labels.column!r} holds {labels.distinct:,} different labels in {labelled:,} rows: it reads like an identifier"
            " or free text.",
            "Choose another --label column.",
        )
        return
    for variant in labels.variants[:10]:
        yield Finding(
            "warning",
            f"label {variant.label!r} ({_rows(variant.rows)}) may be {variant.like!r} ({_rows(variant.like_rows)}): {variant.why}.",
            "Spell them alike, unless they are two labels.",
        )
    if len(labels.variants) > 10:
        yield Finding(
            "warning",
            f"{_rows(len(labels.variants) - 10, 'more pair')} of labels {_verb(len(labels.variants) - 10, 'looks', 'look')} alike.",
            "--json lists them all.",
        )
    if labels.placeholders:
        yield Finding(
            "note",
            f"labels that read like a missing value: {_counted(labels.placeholders)}.",
            "If they mean 'no label', empty these cells and use --drop-unlabelled.",
        )
    if labels.single and labels.distinct > 1:
        yield Finding(
            "warning",
            f"{_rows(len(labels.single), 'label')} with one row only: {listing(map(repr, labels.single), 5)}.",
            "They cannot be in training and in test both: add rows, or join them with another label.",
        )
    if labels.few:
        yield Finding(
            "note",
            f"{_rows(len(labels.few), 'label')} with fewer than 10 rows: {_counted(labels.few)}.",
            "Their scores will mean little: add rows or join labels.",
        )
    if labels.imbalance is not None and labels.imbalance >= _IMBALANCE:
        most, least = next(iter(labels.counts)), list(labels.counts)[-1]
        yield Finding(
            "note",
            f"labels are imbalanced {labels.imbalance:,.0f} : 1 ({most!r} {labels.counts[most]:,}, {least!r} {labels.counts[least]:,}).",
            "Judge by macro F1 instead of accuracy, and try --class-weights balanced.",
        )
    if labels.in_text:
        named = listing([f"{found.label!r} ({found.share:.0%} of {labels.counts[found.label]:,})" for found in labels.in_text], 5)
        yield Finding(
            "warning",
            f"the label's own name stands in most of its texts: {named}.",
            "If the texts were collected by that word, or the label was written into them, scores will not hold for other texts.",
        )


def _lengths(lengths: Lengths, rows: int) -> Iterator[Finding]:
    only = lengths.policies.get("windows") if "head" not in lengths.policies else None
    if only is not None and only.rows:
        yield Finding(
            "warning",
            f"{_rows(only.rows)} ({_share(only.share_of_rows)}) {_verb(only.rows, 'needs', 'need')} more than {lengths.max_windows:,}"
            f" windows; {_share(only.share_of_tokens)} of all tokens are in none.",
            "Raise --max-windows or --max-length.",
        )
    if "head" not in lengths.policies:
        return
    head = lengths.policies["head"]
    if not head.rows:
        spare = lengths.percentiles["max"] + (lengths.max_length - lengths.budget)
        roomy = min(max(16, math.ceil(_HEADROOM * spare / 16) * 16), lengths.max_length)
        if 2 * spare < lengths.max_length and roomy < lengths.max_length:
            yield Finding(
                "note",
                f"no text needs more than {spare:,} of {lengths.max_length:,} tokens.",
                f"--max-length {roomy} leaves headroom, as new texts may be longer. It saves time only where texts are longer than that.",
            )
        return
    windows = lengths.policies.get("windows")
    other = ""
    if windows is not None:
        extra = windows.sequences / rows
        lost = _share(windows.share_of_tokens) if windows.tokens else "nothing"
        limit = f" (raise --max-windows, now {lengths.max_windows:,}, to lose less)" if windows.tokens else ""
        other = f" --truncation windows loses {lost} at {extra:.1f} sequences a row{limit};"
    yield Finding(
        "warning" if head.share_of_tokens >= _LOST_SHARE else "note",
        f"{_rows(head.rows)} ({_share(head.share_of_rows)})"
        f" {_verb(head.rows, 'is', 'are')} longer than {lengths.budget:,} tokens of text; cutting them loses"
        f" {_share(head.share_of_tokens)} of all tokens (95% of the texts have at most {lengths.percentiles['95']:,}).",
        f"Raise --max-length if the model allows;{other} --truncation head-tail keeps both ends of a text.",
    )
