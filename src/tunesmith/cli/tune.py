"""`tunesmith tune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import PANELS, check_is_no_pipe, takes_settings
from tunesmith.cli.train import AsJson, Overwrite, Quiet, look_at
from tunesmith.errors import UsageError
from tunesmith.progress import Progress
from tunesmith.resolve import read_recipe, resolve

_PANEL = "Search"
_SETTINGS = [name for names in PANELS.values() for name in names if name != "folds"]

Number = Annotated[
    int | None,
    typer.Option("--trials", help="Trainings to compare (default: 20); with --resume: in all.", rich_help_panel=_PANEL, metavar="NUMBER"),
]
Search = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        help="A range to search, once for each setting: lr=1e-5..2e-4 (:log, :linear or :STEP behind it), epochs=2,3,4. Takes the place "
        "of a recipe's [search]. Without any: usual ranges of lr, epochs, batch_size and warmup, but for those that are set by a flag.",
        rich_help_panel=_PANEL,
        metavar="NAME=RANGE",
        show_default=False,
    ),
]
Jobs = Annotated[
    int, typer.Option("--jobs", help="Processes that share the trials, and the processors.", rich_help_panel=_PANEL, metavar="NUMBER")
]
Pruner = Annotated[
    str | None,
    typer.Option(
        "--pruner", help="How trials that do badly are stopped (default: median).", rich_help_panel=_PANEL, metavar="median|hyperband|none"
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the study in --out; no trial is lost.", rich_help_panel="Output")]


@takes_settings(_SETTINGS)
def tune(
    data: Annotated[
        str | None, typer.Argument(help="Labelled rows, or a recipe (.toml), whose [search] holds the ranges.", show_default=False)
    ] = None,
    trials: Number = None,
    search: Search = None,
    jobs: Jobs = 1,
    pruner: Pruner = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Search for the settings that do best on the validation rows, then train with them and test.

    The test rows choose nothing: they are split off once, the same for all trials. All trials are kept in OUT/study.db; the best settings
    are written to OUT/best.toml, a recipe for tunesmith train.
    """
    given = settings if settings is not None else {}
    check_is_no_pipe("tunesmith tune", data, given.get("valid"), given.get("test"))
    out = given.get("out")
    layers: list[Any] = []
    specs, where = None, "--search"
    if data is not None and data.endswith(".toml"):
        recipe = read_recipe(data)
        layers.append(recipe)
        out = out if out is not None else recipe.get("out")
        specs, where = recipe.search, f"{data}: [search]"
    elif data is not None:
        layers.append({"train": data})
    elif not resume:
        raise UsageError("no data: name a file of labelled rows or a recipe. Example: tunesmith tune reviews.csv --trials 20")
    elif out is None:
        raise UsageError("--resume needs --out DIR, the directory of the study to go on with, or the data that it began with.")
    from tunesmith.study.space import read_flags

    if search:
        specs, where = read_flags(search), "--search"
    if resume and out is not None:
        layers.insert(0, _stored(Path(out)))
    config = resolve(*layers, {**given, **({} if out is None else {"out": out})}, told=given)
    if not resume:
        look_at(config)
    from tunesmith.report import render_table
    from tunesmith.study import tune as study

    progress = Progress("quiet" if quiet else "auto")
    found = study.tune(
        config, search=specs, where=where, told=given, trials=trials, jobs=jobs, pruner=pruner, resume=resume, overwrite=overwrite,
        progress=progress,
    )  # fmt: skip
    where = f"best settings: {found.directory / 'best.toml'}\nmodel: {found.directory}\nreport: {found.directory / 'report.html'}"
    print("\n" + render_table(found.trained.result) + "\n" + where, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        evaluations = found.trained.result["evaluations"]
        line = {
            "out": str(found.directory),
            "best": found.best,
            "value": found.value,
            "metric": found.study["metric"],
            "importances": found.study["importances"],
            "trials": found.study["trials"],
            "test": evaluations["test"]["metrics"] if evaluations["test"] is not None else None,
        }
        print(json.dumps(line, ensure_ascii=False))


def _stored(out: Path) -> dict[str, Any]:
    """The settings that the study in `out` was begun with."""
    from tunesmith.study.plan import Plan

    return {name: value for name, value in Plan.read(out).settings.items() if value is not None}
