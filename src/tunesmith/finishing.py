"""The end of a run: the model is tested beside simple methods, and its directory is written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.accounting import sketch_of
from tunesmith.bundle import save_bundle
from tunesmith.config import Config
from tunesmith.prepare import Prepared
from tunesmith.progress import Progress
from tunesmith.replay import keep_rows
from tunesmith.report import model_card, write_report
from tunesmith.result import Fitted, evaluation_of, pooling_of, result_of
from tunesmith.start import Start
from tunesmith.storage import write_json


def finish(
    config: Config, prepared: Prepared, fitted: Fitted, directory: Path, beside: dict[str, Any], progress: Progress, *,
    compared: bool = False, start: Start | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a model, write its directory, and return the report's content.

    compared: it is one of several trials: no simple methods beside it, and no rows kept
    beside, start: as in `recipe.train` and `fitting.fit`
    Raises `StorageError`, and what `start.judge` raises, before anything is written.
    """
    model, task = fitted.model, fitted.task
    # simple methods learn from rows, and an update has not got those of the training before
    judged = "none" if compared or start is not None else "test" if "test" in prepared.parts else "valid"
    evaluations = {name: evaluation_of(model, task, prepared, name, config, progress, judged=name == judged) for name in ("valid", "test")}
    kept = None if compared else keep_rows(prepared.parts, task, config, prepared.notes, progress) if start is None else start.kept
    result = result_of(config, prepared, fitted, evaluations, directory) | beside
    if start is not None:
        start.judge(model, task, result)
    train_rows = prepared.parts["train"].rows
    description = {
        "task": task.to_dict(),
        "schema": prepared.parts["train"].schema.to_dict(),
        "tokens": {
            "truncation": asdict(prepared.encoder.truncation),
            "fallback_token": prepared.pretrained.fallback_token,
            "settings": type(task).encoding(config),
            "max_tokens": config.tokens_at_once,
        },
        "pooling": pooling_of(task, config),
        "head": task.head.kind,
        "outputs": task.head.outputs,
        "loads_in_transformers": model.loads_in_transformers,
        "last_token": getattr(model.head, "last", False),
        "prompting": fitted.prompting,
        "adapter": model.adapter.describe(directory, model.own_head) if model.adapter is not None and model.apart else None,
        "seen": sketch_of(train_rows.table.text_key[train_rows.index], None if start is None else start.sketch),
        "fingerprints": {name: part.rows.table.key for name, part in prepared.parts.items()},
        "result": result,
    }

    def reports(where: Path) -> None:
        result["kept"] = kept.write(where) if kept is not None else None
        for name, content in ({} if model.apart else task.extra_files(model)).items():
            write_json(where / name, content)
        write_report(result, where)
        (where / "README.md").write_text(model_card(result), encoding="utf-8")

    model.cpu()  # a shared file knows no device
    save_bundle(directory, model, description, reports)
    return result
