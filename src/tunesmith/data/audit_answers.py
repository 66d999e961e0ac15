"""What an audit says of questions on passages: how many have an answer, and which answers are not where they are said to be."""

from __future__ import annotations

from collections import defaultdict

from tunesmith.data.audit_types import SHOWN, Finding
from tunesmith.data.likeness import text_key
from tunesmith.data.schema import Row, RowSource, Schema
from tunesmith.errors import counted, listing, setting

HOW_TO_SAY_NONE = "A question that its passage does not answer has is_impossible true, or an empty list of answers."


def examine_answers(source: RowSource, schema: Schema) -> list[Finding]:
    """Return a note on questions, passages and answers of `source`, and warnings on misplaced answers and missing parts."""
    if schema.target is None:
        return []
    rows = has = none = 0
    passages: set[int] = set()
    odd: defaultdict[str, list[str]] = defaultdict(list)
    for row, place in source:
        example = schema.parse(row, place)
        rows += 1
        has += bool(example.target)
        none += example.target == []
        passages.add(text_key(example.texts[1]))
        wrong = [f"have an {what}" for what in example.mended]
        wrong += [f"have no {kind}" for kind, text in zip(("question", "passage"), example.texts, strict=True) if not text.strip()]
        if example.target == [] and _says_an_answer(row, schema.target):
            wrong.append("have answers, and is_impossible beside them")
        if example.target is None:
            wrong.append("have no answer, and do not say so")
        for what in wrong:
            odd[what].append(str(place))
    both = "Both kinds are learned." if none else "A model says that there is no answer only where training has such questions."
    asked = f"{counted(rows, 'question')} on {counted(len(passages), 'passage')}"
    found = [Finding("note", f"{asked}: {has:,} with an answer, {none:,} without one in the passage.", both)]
    advice = {
        "have an answer moved to where its text is": "Correct answer_start, which counts characters from 0; the nearest place is taken.",
        "have an answer not in the passage": "It is compared with in tests, and not learned.",
        "have no answer, and do not say so": f"{HOW_TO_SAY_NONE} {setting('drop_unlabelled')} leaves other rows out.",
        "have answers, and is_impossible beside them": "They are taken as questions without an answer, as in SQuAD 2.0.",
    }
    for what, places in odd.items():
        text = f"{counted(len(places), 'row')} {what if len(places) > 1 else what.replace('have', 'has').replace('do not', 'does not')}"
        text += f" ({listing(places, SHOWN)})."
        found.append(Finding("warning", text, advice.get(what, "Fill it in, or leave these rows out: nothing can be learned of them.")))
    return found


def _says_an_answer(row: Row, target: str) -> bool:
    value = row.get(target)
    value = value.get("text") if isinstance(value, dict) else value
    return bool(value.strip(" []{}") if isinstance(value, str) else value)
