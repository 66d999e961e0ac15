"""`tunesmith pretrain`: masked-language-model pretraining under a name of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunesmith import registry
from tunesmith.cli.options import PANELS, takes_settings
from tunesmith.cli.train import AsJson, Overwrite, Quiet, Resume, Verbose, progress_of, run_training

_OWN = registry.family("masked-lm").settings
# what only labels, cut texts or other heads have a use for
_WITHOUT = {
    "task", "text_pair", "label", "drop_unlabelled", "truncation", "stride", "max_windows", "aggregation", "pooling", "folds",
    "replay_rows", *PANELS["Without training"],
    *(name for family in registry.TASKS.values() for name in family.settings - _OWN),
}  # fmt: skip
_SETTINGS = [name for names in PANELS.values() for name in names if name not in _WITHOUT]


@takes_settings(_SETTINGS)
def pretrain(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Raw texts: .txt (one text a line, blank lines between documents), CSV, TSV, JSONL, Parquet, Arrow; or a recipe (.toml).",
            show_default=False,
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train an encoder on raw texts by hiding words and having them guessed, before it is fine-tuned.

    The directory that it writes is an encoder like any other: tunesmith train DATA --model DIR. It is the same as train --task masked-lm.
    """
    given = settings if settings is not None else {}
    told, progress = {**given, "task": "masked-lm"}, progress_of(quiet, verbose)
    run_training("tunesmith pretrain", data, told, resume=resume, overwrite=overwrite, as_json=as_json, progress=progress)
