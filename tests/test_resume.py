"""A run that was cut off anywhere goes on to the bits of a run that was not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tunesmith
from killer import Done, Server, Trap

STATE = "tunesmith.training.state"
LOOP = "tunesmith.training.loop"
NEVER_EQUAL = ("seconds", "tokens_per_s", "peak_memory_mb")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


def multi_rows() -> list[dict[str, str]]:
    """Texts of up to four times 16 tokens, with any of three labels."""
    parts = [tiny.rows(128, seed=seed, labels=("animal", "colour", "neither")) for seed in (1, 2, 3)]
    return [
        {
            "text": " . ".join(row["text"] for row in rows[: 1 + i % 3]),
            "label": "|".join(dict.fromkeys(row["label"] for row in (rows[0], parts[1][(i * 7) % 128]))),
        }
        for i, rows in enumerate(zip(*parts, strict=True))
    ]


class Run:
    """Settings of a run, and what comes out of it when nobody interrupts."""

    def __init__(self, server: Server, directory: Path, model: Path, rows: list[dict[str, str]], **settings: object) -> None:
        self.server, self.directory = server, directory
        self.data = tiny.write_csv(directory / "data.csv", rows)
        common = {"model": model, "epochs": 2, "batch-size": 8, "max-length": 24, "precision": "fp32", "lr": 0.005}
        merged = {**common, "checkpoint-steps": 1, "eval-steps": 3, **settings}
        self.flags = [word for name, value in merged.items() for word in (f"--{name}", value)]
        self.count = 0
        assert self.train(directory / "whole").code == 0
        self.whole = outcome(directory / "whole")

    def train(self, out: Path, *more: object, **named: Any) -> Done:
        return self.server.run("train", self.data, "--out", out, *self.flags, *more, **named)

    def resume(self, out: Path, **named: Any) -> Done:
        return self.server.run("train", "--resume", "--out", out, **named)

    def cut(self, *traps: Trap, code: int = -signal.SIGKILL) -> Path:
        """Start a run that ends in a trap; returns its directory."""
        self.count += 1
        out = self.directory / f"cut{self.count}"
        done = self.train(out, traps=traps)
        assert done.code == code, done.err
        assert not (out / "tunesmith.json").exists()
        return out

    def check(self, out: Path, **named: Any) -> str:
        """Resume, compare everything with the uninterrupted run, and return what was printed."""
        done = self.resume(out, **named)
        assert done.code == 0, done.err
        assert outcome(out) == self.whole
        left = {file.name for file in out.iterdir()} - {file.name for file in (self.directory / "whole").iterdir()}
        assert not left, "nothing of the interrupted run stays behind"
        return done.err


def outcome(out: Path) -> dict[str, Any]:
    """All that a run decides: weights, evaluations, history, and predictions for new texts."""
    result = json.loads((out / "tunesmith.json").read_text(encoding="utf-8"))
    report = result["result"]
    bundle = tunesmith.load(out)
    return {
        "weights": (out / "model.safetensors").read_bytes(),
        "head": (out / "head.safetensors").read_bytes() if (out / "head.safetensors").exists() else b"",
        "task": result["task"],
        "training": {key: value for key, value in report["training"].items() if key not in NEVER_EQUAL},
        "evaluations": report["evaluations"],
        "data": report["data"],
        "predictions": bundle.predict([row["text"] for row in tiny.rows(9, seed=5)]),
    }


@pytest.fixture(scope="module")
def plain(server: Server, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """AdamW with dropout, 24 steps."""
    return Run(server, tmp_path_factory.mktemp("plain"), tiny_bert, tiny.rows(120), metric="log_loss")


@pytest.fixture(scope="module")
def rich(server: Server, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """SGD, windows, several labels a row, balanced weights, a head of our own, batches in parts, patience."""
    settings = {
        "optimizer": "sgd",
        "truncation": "windows",
        "max-length": 16,
        "stride": 4,
        "class-weights": "balanced",
        "pooling": "attention",
        "max-tokens": 256,
        "warmup": 0.2,
        "schedule": "cosine",
        "dropout": 0.2,
        "patience": 4,
        "lr": 0.1,
    }
    return Run(server, tmp_path_factory.mktemp("rich"), tiny_bert, multi_rows(), **settings)


def test_the_runs_are_worth_interrupting(plain: Run, rich: Run) -> None:
    assert plain.whole["training"]["steps"] == 24 and len(plain.whole["training"]["evaluations"]) == 10
    assert plain.whole["training"]["best_step"] not in (3, 24), "the best weights are neither the first nor the last"
    assert rich.whole["task"]["kind"] == "multi" and rich.whole["task"]["separator"] == "|"
    assert rich.whole["data"]["splits"]["train"]["account"]["windows"] > rich.whole["data"]["splits"]["train"]["rows"]


PLACES = {
    "before the first step": (f"{LOOP}:clip", 1),
    "before the first checkpoint": (f"{STATE}:save_file", 1),
    "in the middle of an epoch": (f"{LOOP}:clip", 6),
    "weights of a checkpoint written": (f"{STATE}:write_manifest", 7),
    "a checkpoint synced but not renamed": ("pathlib:Path.rename", 9),
    "best weights kept but no checkpoint yet": (f"{LOOP}:Checkpoints.save", 3),
    "in an evaluation": ("tunesmith.recipe:single_label", 4),
    "at the end of an epoch": (f"{LOOP}:Checkpoints.save", 12),
    "the last checkpoint": (f"{LOOP}:Checkpoints.save", 25),
    "testing": ("tunesmith.recipe:assess", 2),
    "the model saved to its temporary directory": ("tunesmith.recipe:write_report", 1),
    "the model's files half in place": ("pathlib:Path.replace", 4),
    "all but tunesmith.json": ("tunesmith.bundle:write_json", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_killed_at(place: str, plain: Run) -> None:
    name, call = PLACES[place]
    plain.check(plain.cut((name, call, "kill")))
