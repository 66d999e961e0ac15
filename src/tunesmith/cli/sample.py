"""`tunesmith sample`: the small labelled files that come with the package."""

from __future__ import annotations

import sys
from importlib import resources
from typing import Annotated

import typer

from tunesmith.errors import UsageError, did_you_mean, listing


def sample(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="The task; without it the samples are listed.", show_default=False)
    ] = None,
) -> None:
    """Print a small labelled file for a task, to try it on: tunesmith sample pair > pair.csv"""
    files = sample_files()
    if task is None:
        width = max(map(len, files))
        for name, file in files.items():
            print(f"{name:{width}}  tunesmith sample {name} > {file}")
        return
    if task not in files:
        raise UsageError(f"there is no sample for {task!r}; there is one for {listing(files, 40)}.{did_you_mean(task, files)}")
    # bytes as they lie in the package, whatever the terminal's encoding
    sys.stdout.flush()
    sys.stdout.buffer.write((resources.files("tunesmith.samples") / files[task]).read_bytes())


def sample_files() -> dict[str, str]:
    """Return the file name of each task's sample by the task's name."""
    names = sorted(file.name for file in resources.files("tunesmith.samples").iterdir())
    return {name.partition(".")[0]: name for name in names if not name.startswith(("_", ".")) and not name.endswith(".py")}
