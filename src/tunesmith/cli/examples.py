"""`tunesmith add-examples`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tunesmith.cli.options import check_is_no_pipe
from tunesmith.cli.predict import Directory, Encoding, Json, TextColumn
from tunesmith.errors import counted
from tunesmith.progress import Progress


def add_examples(
    directory: Directory,
    data: Annotated[str, typer.Argument(metavar="FILE", help="Labelled rows to add.")],
    text: TextColumn = None,
    label: Annotated[str | None, typer.Option("--label", help="Name of the label column, where it is not that of the model.")] = None,
    encoding: Encoding = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Add labelled rows to the examples of a model that train --tuning none made. Nothing is trained."""
    check_is_no_pipe("tunesmith add-examples DIR", data)
    from tunesmith.data.readers import open_file

    source = open_file(data, encoding=encoding)
    from tunesmith import prompting

    progress = Progress("quiet" if quiet else "auto")
    found = prompting.add_examples(directory, source, text=text, label=label, progress=progress)
    there = found["read"] - found["added"]
    known = f" ({counted(there, 'row')} there already)" if there else ""
    if as_json:
        print(json.dumps({"out": str(directory), **found}))
    else:
        print(f"{counted(found['added'], 'example')} added to {directory}{known}; it has {found['examples']:,} now")
