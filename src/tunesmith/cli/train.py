"""`tunesmith train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith import registry, strategies
from tunesmith.cli.options import check_is_no_pipe, takes_settings
from tunesmith.config import Config
from tunesmith.errors import UsageError
from tunesmith.progress import Progress
from tunesmith.resolve import read_recipe, resolve

Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.", rich_help_panel="Output")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.", rich_help_panel="Output")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.", rich_help_panel="Output")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.", rich_help_panel="Output")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Say which kernels, parts and threads compute, and why.", rich_help_panel="Output"),
]


@takes_settings()
def train(
    data: Annotated[
        str | None, typer.Argument(help="Labelled rows (CSV, TSV, JSONL, Parquet, Arrow), or a recipe (.toml).", show_default=False)
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Fine-tune an encoder on labelled texts, test it, and write the model directory.

    DATA is a file of labelled rows, or a recipe: a TOML file with any of the settings below, which flags override.
    """
    given = settings if settings is not None else {}
    progress = progress_of(quiet, verbose)
    run_training("tunesmith train", data, given, resume=resume, overwrite=overwrite, as_json=as_json, progress=progress)


def progress_of(quiet: bool, verbose: bool) -> Progress:
    """Return where the work is told of. Raises `UsageError` for both flags at once."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other. Leave one out.")
    return Progress("quiet" if quiet else "auto", verbose=verbose)


def run_training(
    command: str, data: str | None, settings: dict[str, Any], *, resume: bool, overwrite: bool, as_json: bool, progress: Progress
) -> None:
    """Train as the flags of `command` say, and print the result; see `train`."""
    check_is_no_pipe(command, data, settings.get("valid"), settings.get("test"))
    out = settings.get("out")
    stored = _stored(Path(out)) if resume and out is not None else {}
    layers: list[dict[str, Any]] = [stored]
    if data is not None:
        layers.append(read_recipe(data) if data.endswith(".toml") else {"train": data})
        if getattr(layers[-1], "search", None) is not None and progress.mode != "quiet":
            print(f"note: [search] of {data} is for tunesmith tune; here the settings above it hold.", file=sys.stderr)
    elif resume and out is not None and "train" not in stored:
        raise UsageError(
            f"there is nothing in {out} that can be resumed by itself: it holds no settings of an unfinished run on files. "
            "Name the right --out, or give the data and the settings again."
        )
    elif resume and out is None:
        raise UsageError("--resume needs --out DIR, the directory of the run to go on with, or the data and settings that it began with.")
    elif not stored and settings.get("tuning") != "none":
        raise UsageError(
            f"no data: name a file of {'raw texts' if command.endswith('pretrain') else 'labelled rows'} or a recipe. Example: "
            + (
                "tunesmith pretrain corpus.txt"
                if command.endswith("pretrain")
                else "tunesmith train reviews.csv --text review --label sentiment"
            )
        )
    config = resolve(*layers, settings, told=settings)
    if not resume:
        look_at(config)
    from tunesmith.automatic import kind_of_run
    from tunesmith.report import render_table

    result = kind_of_run(config, resume=resume)(config, resume=resume, overwrite=overwrite, progress=progress)
    where = f"model: {result.directory}\nreport: {result.directory / 'report.html'}"
    print("\n" + render_table(result.result) + "\n" + where, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        evaluations = result.result["evaluations"]
        training = {key: value for key, value in result.result["training"].items() if key not in ("history", "evaluations")}
        line = {
            "out": str(result.directory),
            "report": str(result.directory / "report.html"),
            "labels": result.bundle.labels,
            "test": evaluations["test"]["metrics"] if evaluations["test"] is not None else None,
            "valid": evaluations["valid"]["metrics"] if evaluations["valid"] is not None else None,
            "training": training,
            **({"cross_validation": result.result["cross_validation"]} if "cross_validation" in result.result else {}),
        }
        print(json.dumps(line, ensure_ascii=False))


def look_at(config: Config) -> None:
    """Raise for files, columns and models that are not there before torch is imported, which takes seconds."""
    from tunesmith.data.readers import open_file
    from tunesmith.data.schema import choose_task, guess_schema, rows_of
    from tunesmith.model.names import locate

    family = None
    for name in (config.train, config.valid, config.test):
        if name is not None:
            source = open_file(name, encoding=config.encoding)
            if family is None:
                chosen = choose_task(source, config)
                strategies.check_task(config.tuning, chosen)
                family = registry.family(chosen)
            source = rows_of(source, family)
            guess_schema(source, **config.columns, group=config.group if name == config.train else None, family=family)
    if not config.from_scratch:
        locate(config.model)


def _stored(out: Path) -> dict[str, Any]:
    """The settings of the run that is to be resumed."""
    from tunesmith.rundir import stored_settings

    return stored_settings(out)
