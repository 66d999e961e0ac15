"""What is said of the answers of a table: those that were put right, and those that no prediction can be."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.passages import PER_WINDOW
from tunesmith.data.text_faults import script
from tunesmith.errors import counted, listing, setting
from tunesmith.qa_metrics import Match
from tunesmith.tasks.rows import Rows

_CHINESE = ("Han", "Japanese")


def notes_on_answers(rows: Rows, max_answer_tokens: int) -> list[str]:
    """Return notes on answers of `rows` that were put right, and on those that are in no window or longer than `max_answer_tokens`."""
    table = rows.table
    said = []
    for what, found in table.mended().items():
        places = listing([f"{table.name}:{table.line[row]}" for row in found[:5]]) + (", ..." if len(found) > 5 else "")
        said.append(f"{counted(len(found), 'row')} with an {what} ({places}).")
    has = rows.gold()
    apart = long = 0
    for row in rows.index[has].tolist():
        answers = table.points(row)[PER_WINDOW * table.sequences[row] :].reshape(-1, 2)
        apart += not len(answers)
        long += len(answers) > 0 and int((answers[:, 1] - answers[:, 0]).min()) >= max_answer_tokens
    if apart:
        said.append(
            f"the answers of {counted(apart, 'row')} of {len(rows):,} are in no window as a whole; raise {setting('stride')}, "
            f"{setting('max_length')} or {setting('max_windows')}."
        )
    if long:
        said.append(
            f"the answers of {counted(long, 'row')} of {len(rows):,} are longer than {setting('max_answer_tokens')} "
            f"{max_answer_tokens}; they can never be predicted."
        )
    return said


def match_of(passages: Sequence[str]) -> Match:
    """Return how answers of these passages are compared: by characters where most are Chinese or Japanese, else by words."""
    chinese = sum(script(text) in _CHINESE for text in passages)
    return "characters" if 2 * chinese > len(passages) else "words"
