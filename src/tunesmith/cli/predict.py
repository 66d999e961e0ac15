"""`tunesmith predict` and `tunesmith evaluate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.options import Device, check_device, check_is_no_pipe
from tunesmith.errors import DataError, ModelError, UsageError, counted, listing, setting
from tunesmith.progress import Progress

if TYPE_CHECKING:
    from tunesmith.data.schema import RowSource

_STDIN_CHUNK = 64  # rows answered together when they come through a pipe, whose writer may wait for answers

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The model directory, as written by train.")]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")]
TextColumn = Annotated[str | None, typer.Option("--text", help="Name of the text column, where it is not that of training.")]
SecondColumn = Annotated[
    str | None, typer.Option("--text-pair", help="Name of the column with the second text of a pair, where it is not that of training.")
]
Encoding = Annotated[str | None, typer.Option("--encoding", help="Character encoding of the file, UTF-8 unless told.")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision", metavar="fp32|bf16|auto", help="bf16 is faster on devices made for it, and less exact; auto takes the faster one."
    ),
]

Constrain = Annotated[
    bool | None,
    typer.Option(
        "--constrain/--no-constrain", help="Tagging: predict only what the scheme of the tags allows; as in training unless told."
    ),
]


def predict(
    directory: Directory,
    data: Annotated[str, typer.Argument(metavar="FILE", help="Rows to predict; - reads standard input.")] = "-",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write (.csv .tsv .jsonl .conll .parquet); else stdout.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Write every label's probability in CSV, too.")] = False,
    text: TextColumn = None,
    text_pair: SecondColumn = None,
    encoding: Encoding = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="Format of standard input: csv, tsv, jsonl, json, txt, conll, conllu.")
    ] = None,
    constrain: Constrain = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file in --output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Predict every row of a file. Input columns and row order are kept; label and probabilities, or tags and spans, are added."""
    _check(precision, device)
    from tunesmith.data.readers import open_file, open_stdin
    from tunesmith.data.writers import open_writer

    if directory.is_file() and Path(data).is_dir():
        raise UsageError(f"the model directory comes first: tunesmith predict {data} {directory}")
    progress = Progress("quiet" if quiet else "auto")
    if data == "-" and not directory.is_dir():
        raise ModelError(f"there is no model directory {directory}: usage is tunesmith predict DIR FILE, or ... | tunesmith predict DIR")
    if data == "-" and sys.stdin.isatty():
        progress.say("reading standard input; end it with Ctrl-D. To predict a file, name it after the directory.")
    source = (
        open_stdin(sys.stdin.buffer, file_format, encoding=encoding)
        if data == "-"
        else open_file(data, encoding=encoding, file_format=file_format)
    )
    if output is not None:
        _check_output(output, data, overwrite)
        open_writer(output, ())  # raises for an extension that says no format, before any work is done
    from tunesmith import bundle as bundles
    from tunesmith.accounting import Tally

    bundle = bundles.Bundle.load(directory, device=device, precision=precision, **_changed(constrain))
    schema = bundle.schema_for(source, text, text_pair=text_pair)
    if data == "-" and text is None and file_format is None and schema.texts != bundle.schema.texts:
        raise DataError(
            f"standard input has no column {bundle.schema.texts[0]!r} as in training; its first line was read as the header "
            f"{listing(source.columns, 5)!r}. For plain texts, one a line, pass --format txt; else name the column with --text."
        )
    if text is None and schema.texts != bundle.schema.texts:
        missing = next(name for name in bundle.schema.texts if name not in schema.texts)
        progress.say(f"there is no column {missing!r} as in training; the text is taken from {' and '.join(map(repr, schema.texts))}.")
    columns, late, last = set(source.columns), set[str](), 0
    out_format = output.suffix.lstrip(".").lower() if output is not None else _stdout_format(source, data)
    task, flat = bundle.task, out_format in ("csv", "tsv")
    names = _added_names(source.columns, task.added, progress)
    added = [name for key, name in names.items() if everything or not flat or key not in task.bulky]
    target: Any = output if output is not None else sys.stdout
    chunk = _STDIN_CHUNK if data == "-" else bundles.CHUNK
    tally = Tally()
    quiet_on_screen = output is None and sys.stdout.isatty()
    if quiet_on_screen:
        progress = Progress("quiet")  # the rows themselves show how far it is
    with (
        open_writer(
            target, [*source.columns, *added], None if output is not None else out_format, other_keys=True, dialect=_dialect(source)
        ) as writer,
        progress.track("predicting", _rows_in(source, progress) if Path(data).is_file() else None, "rows") as tracker,
    ):
        rows = bundles.stream_rows(bundle, source, schema, tally, precision=precision, chunk=chunk, advance=tracker.advance)
        for row, place, prediction in rows:
            last = place.line
            if out_format != "jsonl":
                late.update(row.keys() - columns)
            values = task.columns(prediction, flat=flat)
            writer.write({**row, **{name: values[key] for key, name in names.items()}})
    blank = last - writer.rows if getattr(source, "file_format", "") == "txt" else 0
    for sentence in (*tally.sentences(), *_left_out(source.name, blank, late)):
        print(f"note: {sentence}", file=sys.stderr)  # what is lost is said even where progress is not wanted
    if output is not None:
        progress.say(f"wrote {counted(writer.rows, 'row')} to {output}")


def evaluate(
    directory: Directory,
    data: Annotated[str, typer.Argument(metavar="FILE", help="Labelled rows to test on.")],
    text: TextColumn = None,
    text_pair: SecondColumn = None,
    label: Annotated[str | None, typer.Option("--label", help="Name of the label column, where it is not that of training.")] = None,
    drop_unlabelled: Annotated[bool, typer.Option("--drop-unlabelled", help="Leave rows without a label out instead of stopping.")] = False,
    encoding: Encoding = None,
    constrain: Constrain = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Test a trained model on labelled rows."""
    check_is_no_pipe("tunesmith evaluate DIR", data)
    _check(precision, device)
    from tunesmith.data.readers import open_file
    from tunesmith.data.schema import for_test

    source = for_test(open_file(data, encoding=encoding))
    from tunesmith.bundle import Bundle
    from tunesmith.report import render_table

    bundle = Bundle.load(directory, device=device, precision=precision, **_changed(constrain))
    found = bundle.evaluate(
        source,
        text=text,
        text_pair=text_pair,
        label=label,
        drop_unlabelled=drop_unlabelled,
        precision=precision,
        progress=Progress("quiet" if quiet else "auto"),
    )
    trained = bundle.description["result"]
    split = {"file": source.name, "rows": found["rows"], "how": "given", "account": found["account"]}
    result = {
        **trained,
        "data": {**trained["data"], "splits": {"train": None, "valid": None, "test": split}, "notes": found["notes"]},
        "evaluations": {"valid": None, "test": {**found, "yardsticks": []}},
    }
    print(render_table(result), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps({"file": source.name, **{key: value for key, value in found.items() if key != "mistakes"}}, ensure_ascii=False))


def _changed(constrain: bool | None) -> dict[str, Any]:
    return {} if constrain is None else {"constrain": constrain}


def _check(precision: str, device: str) -> None:
    check_device(device)
    if precision not in ("fp32", "bf16", "auto"):
        raise UsageError(f"{setting('precision')} is {precision!r}; it must be fp32, bf16 or auto.")


def _stdout_format(source: Any, data: str) -> str:
    """Standard output has the format of the input where that is text by lines, else JSONL."""
    chosen = getattr(source, "file_format", "jsonl")
    return chosen if chosen in ("csv", "tsv", "jsonl") else "jsonl"


def _check_output(output: Path, data: str, overwrite: bool) -> None:
    """Raise `UsageError` for a file that would be lost."""
    if data != "-" and output.exists() and output.samefile(data):
        raise UsageError(f"--output names the input file {data}. Name another file.")
    if not overwrite and output.is_file() and output.stat().st_size:
        raise UsageError(f"{output} is there already. Name another file with --output, or replace this one with --overwrite.")


def _left_out(name: str, blank: int, late: set[str]) -> Iterator[str]:
    """Yield a sentence on the blank lines of a text file, and one on the keys that the first row does not have."""
    if blank:
        have = "has" if blank == 1 else "have"
        yield f"{counted(blank, 'blank line')} between the texts of {name} {have} no row in what was written."
    if late:
        yield f"not written, as the first row does not have them: {listing(sorted(late))}. Give the first row every key."


def _dialect(source: Any) -> tuple[str, bool]:
    """Return how CSV is written: as the input is, where that is a CSV file."""
    is_file = getattr(source, "file_format", "") == "csv" and hasattr(source, "dialect")
    found: tuple[str, bool] = source.dialect() if is_file else (",", False)
    return found


def _rows_in(source: RowSource, progress: Progress) -> int | None:
    """Return how many rows a file has, which takes little beside predicting them; None where nobody looks, or one cannot be read."""
    if progress.mode == "quiet":
        return None
    rows = 0
    with progress.track("counting rows", None, "rows") as tracker:
        try:
            for rows, _ in enumerate(source, 1):  # noqa: B007 - the last one is how many there are
                tracker.advance()
        except DataError:  # is told when its turn comes, behind the rows that can be read
            return None
    return rows


def _added_names(columns: tuple[str, ...], added: tuple[str, ...], progress: Progress) -> dict[str, str]:
    """Names of the columns that are added. A column of the input is never overwritten: ours gets a prefix instead."""
    names = {}
    for name in added:
        free = name
        while free in columns:
            free = f"predicted_{free}"
        if free != name:
            progress.say(f"the input has a column {name!r} already; the predicted one is written as {free!r}.")
        names[name] = free
    return names
