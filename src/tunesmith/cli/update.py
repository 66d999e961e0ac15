"""`tunesmith update`, `tunesmith history` and `tunesmith rollback`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import check_is_no_pipe, takes_settings
from tunesmith.errors import UpdateRefused
from tunesmith.progress import Progress

# as in updating.SETTINGS, which cannot be imported here without torch; a test compares them
SETTINGS = [
    "text", "text_pair", "label", "group", "encoding", "drop_unlabelled", "valid_size", "test_size",
    "epochs", "lr", "batch_size", "seed", "schedule", "warmup", "optimizer", "weight_decay", "momentum", "max_grad_norm", "precision",
    "device", "engine", "max_tokens", "metric", "patience", "eval_steps", "replay_rows", "checkpoint_minutes", "checkpoint_steps",
]  # fmt: skip

_GATE = "The test that decides"
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The model directory, as written by train.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.", rich_help_panel="Output")]


@takes_settings(SETTINGS)
def update(
    directory: Directory,
    data: Annotated[str, typer.Argument(metavar="FILE", help="Corrected or new labelled rows.", show_default=False)],
    test: Annotated[
        str | None,
        typer.Option("--test", metavar="FILE", help="Rows whose score may not fall, in place of the kept ones.", rich_help_panel=_GATE),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", metavar="NUMBER", help="By how much the score on them may fall.", rich_help_panel=_GATE)
    ] = 0.01,
    force: Annotated[bool, typer.Option("--force", help="Accept the update whatever the test says.", rich_help_panel=_GATE)] = False,
    keep_refused: Annotated[
        Path | None,
        typer.Option("--keep-refused", metavar="DIR", help="Write a refused model there.", rich_help_panel=_GATE, show_default=False),
    ] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            "--distill",
            metavar="NUMBER",
            help="Weight of the term that holds outputs on new rows where they were (default: 1 where no old rows are replayed, else 0).",
            rich_help_panel="Training",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Write the updated model there instead.", rich_help_panel="Output", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an update that was interrupted.", rich_help_panel="Output")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.", rich_help_panel="Output")] = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train a model further on corrected or new rows, beside a sample of the old ones, and make the result its new version.

    The update is refused, and nothing changes, if the score on the old test rows falls by more than the margin. Labels that the model does
    not know become new ones. What is not told is as the model was trained. `history` lists the versions, `rollback` goes back.
    """
    check_is_no_pipe("tunesmith update DIR", data, test)
    from tunesmith.data.readers import open_file
    from tunesmith.updatable import check_updatable

    encoding = settings.get("encoding") if settings is not None else None
    for name in (data, test):
        if name is not None:
            open_file(name, encoding=encoding)  # raises before torch is imported, which takes seconds
    check_updatable(directory, out, resume=resume)
    from tunesmith import updating
    from tunesmith.report.changes import render_update

    shown = sys.stderr if as_json else sys.stdout
    try:
        done = updating.update(
            directory,
            data,
            test=test,
            margin=margin,
            distill=distill,
            force=force,
            out=out,
            keep_refused=keep_refused,
            resume=resume,
            progress=Progress("quiet" if quiet else "auto"),
            settings=settings,
        )
    except UpdateRefused as refused:
        print("\n" + render_update(refused.record), file=shown)
        raise
    where = f"model: {done.directory} (version {done.version})\nreport: {done.directory / 'report.html'}"
    print("\n" + render_update(done.record) + where, file=shown)
    if as_json:
        print(json.dumps({"out": str(done.directory), **done.record}, ensure_ascii=False))


def history(directory: Directory, as_json: AsJson = False) -> None:
    """List the versions of a model: what each came from, and its scores on the old test rows before and after."""
    from tunesmith.lineage import story

    found = story(directory)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    from tunesmith.report.changes import render_history

    print(render_history(found), end="")


def rollback(
    directory: Directory,
    to: Annotated[
        int | None, typer.Option("--to", metavar="NUMBER", help="The version to go to; else the one that this came from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier version of a model the current one. The others stay, and can be gone to in the same way."""
    from tunesmith.versions import rollback as roll_back

    before, now = roll_back(directory, to)
    if as_json:
        print(json.dumps({"from": before, "to": now}))
    elif before == now:
        print(f"{directory} is version {now} as it was saved")
    else:
        print(f"{directory} is version {now} again; version {before} is kept: tunesmith rollback {directory} --to {before}")
