"""What a run may neither touch nor take for something else: files of others, other rows, texts that went away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tunesmith
from tunesmith.recipe import TrainResult


def train(data: Any, out: Path, model: Path, **settings: Any) -> TrainResult:
    defaults = {"epochs": 1, "lr": 5e-3, "batch_size": 8, "max_length": 24, "precision": "fp32"}
    return tunesmith.train(data, out=out, model=model, progress="quiet", **{**defaults, **settings})


def test_a_directory_named_checkpoints_keeps_what_others_put_there(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    out = tmp_path / "project"
    for path in (out / "checkpoints" / "mine.pt", out / "checkpoints" / "exp-1" / "weights"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("years of work")
    for more in ({}, {"overwrite": True}):
        train(reviews, out, tiny_bert, **more)
        found = {str(path.relative_to(out / "checkpoints")) for path in (out / "checkpoints").rglob("*")}
        assert found == {"mine.pt", "exp-1", "exp-1/weights"}
