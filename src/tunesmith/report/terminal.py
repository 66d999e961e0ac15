"""The result as plain text for the terminal."""

from __future__ import annotations

from tunesmith.errors import counted
from tunesmith.report import folds, study, view, wording


def render_table(result: view.Result) -> str:
    """Return the model beside the yardsticks, what the figures do not show, and the data account; at most 100 columns of ASCII rules.

    Plain text without escape codes, so that it reads the same on a terminal, in a log and in a file.
    """
    lines: list[str] = []
    for table in folds.tables(result["cross_validation"]) if "cross_validation" in result else []:
        lines += [*wording.aligned(table), ""]
    if "study" in result:
        lines += study.study_lines(result["study"])
    found = None if view.is_cross_validated(result) else view.judged(result)
    if found:
        split, evaluation = found
        rivals = view.computed(evaluation)
        header = [
            f"{view.split_name(split)}, {counted(evaluation['rows'], view.unit(evaluation))}",
            "model [95% interval]",
            *(y["name"] for y in rivals),
        ]
        rows = [
            [
                row["name"] + (" *" if row["chosen"] else ""),
                f"{wording.figure(row['name'], row['model'])} {wording.interval(row['interval'], row['name'])}".rstrip(),
                *(wording.figure(row["name"], other["value"]) for other in row["others"]),
            ]
            for row in view.comparison(result, evaluation)
            if row["leading"]
        ]
        lines += wording.aligned([header, *rows])
        if any(row[0].endswith(" *") for row in rows):
            lines.append("* chose the checkpoint")
        lines += [f"{y['name']}: {y['note']}" for y in evaluation.get("yardsticks", []) if not y["metrics"]]
        lines += evaluation.get("remarks", [])
        lines.append("")
    lines += [folds.verdict_of(result), ""]
    lines += [f"- {sentence}" for sentence in view.limitations(result)]
    lines += account_lines(result)
    kept = view.kept_rows(result)
    lines += ["", kept] if kept and result["data"]["splits"]["train"] else []
    return "\n".join(lines) + "\n"


def account_lines(result: view.Result) -> list[str]:
    """Return one line per split on what happened to its rows and tokens."""
    lines = []
    for split, part in result["data"]["splits"].items():
        if not part:
            continue
        account = part["account"]
        said = [f"{wording.count(account['rows_used'])} of {counted(account['rows_read'], 'row')} used{view.split_off(result, split)}"]
        for key, words in (
            ("dropped_empty", "empty dropped"),
            ("dropped_unlabelled", "unlabelled dropped"),
            ("dropped_duplicates", "duplicates dropped"),
        ):
            if account[key]:
                said.append(f"{wording.count(account[key])} {words}")
        if account["duplicates_found"] > account["dropped_duplicates"]:
            said.append(f"{counted(account['duplicates_found'], 'duplicate')} found")
        if account["rows_truncated"]:
            said.append(
                f"{wording.count(account['rows_truncated'])} cut at {wording.count(account['max_length'])} tokens "
                f"({wording.share(account['tokens_lost'], account['tokens_read'])} of tokens lost)"
            )
        else:
            said.append("none cut")
        lines.append(f"{view.split_name(split)} ({part['file']}, {part['how']}): {', '.join(said)}")
    return lines
