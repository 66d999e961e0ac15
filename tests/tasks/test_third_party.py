"""A task of another package: an entry point that names it is all that it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny
import tunesmith
from running import Run
from tunesmith import registry
from tunesmith.tasks.classification import Classification, Prediction


@dataclass(frozen=True)
class Shouting(Classification):
    """Classification that answers in capitals."""

    name: str = field(default="shouting", init=False)

    def columns(self, prediction: Prediction, *, flat: bool) -> dict[str, Any]:
        return {**super().columns(prediction, flat=flat), "label": prediction.label.upper()}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = SimpleNamespace(load=lambda: registry.Family(f"{__name__}:Shouting"), value="another.package:family")
    monkeypatch.setattr(registry, "_others", lambda: {"shouting": point})
    registry.family.cache_clear()
    yield
    registry.family.cache_clear()


def test_it_trains_tests_predicts_and_walks_by_the_same_commands(tiny_bert: Path, tmp_path: Path, run: Run) -> None:
    data = tiny.write_csv(tmp_path / "d.csv", tiny.rows(120))
    settings = ["--model", tiny_bert, "--epochs", 4, "--lr", 5e-3, "--batch-size", 8, "--max-length", 24, "--out", "m"]
    done = run("train", data, "--task", "shouting", *settings)
    assert done.code == 0, done.err
    kept = json.loads((tmp_path / "m" / "tunesmith.json").read_text(encoding="utf-8"))
    assert kept["task"]["name"] == "shouting"
    assert run("predict", "m", data, "-o", "p.jsonl").code == 0
    said = {json.loads(line)["predicted_label"] for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()}
    assert said == {"ANIMAL", "COLOUR"}
    assert type(tunesmith.load(tmp_path / "m").task) is Shouting
    assert run("evaluate", "m", data).code == run("walk", data, "--model", "m").code == run("check", data, "--task", "shouting").code == 0


def test_without_its_package_the_model_says_so(tiny_bert: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.write_csv(tmp_path / "d.csv", tiny.rows(60))
    tunesmith.train(data, task="shouting", model=tiny_bert, epochs=1, max_length=24, out=tmp_path / "m", progress="quiet")
    monkeypatch.setattr(registry, "_others", dict)
    registry.family.cache_clear()
    done = run("predict", "m", data)
    assert done.code == 4 and "shouting" in done.err and "Traceback" not in done.err
