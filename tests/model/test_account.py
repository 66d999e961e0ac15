"""No road is silent: what computes, and why, is said with --verbose and stands in the report."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
import torch

import tiny
from running import Run
from tunesmith.model import varlen
from tunesmith.model.devices import CPU

FEW = ["--epochs", 1, "--precision", "fp32"]


def road_of(out: Path) -> dict[str, str]:
    return json.loads((out / "tunesmith.json").read_text())["result"]["training"]["road"]


def test_what_is_said_and_reported(run: Run, reviews: Path, tiny_bert: Path, tmp_path: Path) -> None:
    ended = run("train", reviews, "--model", tiny_bert, "--out", "m", "-v", *FEW)
    assert ended.code == 0, ended.err
    road = road_of(tmp_path / "m")
    assert list(road) == ["attention", "matrix products", "table of words", "in memory at once", "processor"]
    page = html.unescape((tmp_path / "m" / "report.html").read_text(encoding="utf-8"))
    for name, words in road.items():
        assert f"{name}: {words}" in ended.err.splitlines()
        assert name.capitalize() in page and words in page
    assert "trained in fp32 (as asked for), packed tokens without padding" in ended.err
    assert road["attention"] == "sequences of like length together, as torch's kernel for sequences of any lengths runs on GPUs alone"
    assert road["matrix products"] == "all 8 on packed tokens"
    assert "'s kernels; freed memory is " in road["processor"] and "; float32 products by " in road["processor"]
    silent = run("train", reviews, "--model", tiny_bert, "--out", "n", *FEW)
    assert silent.code == 0 and "matrix products" not in silent.err
    both = run("train", reviews, "--out", "k", "-v", "-q")
    assert both.code == 2 and "--quiet and --verbose exclude each other" in both.err


@pytest.mark.parametrize(
    ("kind", "settings", "name", "says"),
    [
        ("bert", ["--tuning", "lora"], "matrix products", "8 by modules of their own, such as an adapter's"),
        ("bert", ["--engine", "padded", "--max-length", 32], "attention", "eager, the fastest in training up to 256 tokens on a processor"),
        ("mpnet", [], "attention", "as this model adds a learned number for the distance of each pair of tokens"),
        ("albert", [], "attention", "eager, the fastest in training"),
        ("bert", [], "table of words", "updated by the rows that a step used"),
        ("bert", ["--optimizer", "sgd"], "table of words", "updated whole, as sgd has it"),
        ("bert", ["--tuning", "last:1"], "table of words", "not updated"),
        ("bert", ["--max-tokens", 300], "in memory at once", "300 tokens of a step, or one sequence; more are worked off in parts"),
    ],
)
def test_other_roads(run: Run, reviews: Path, tmp_path: Path, kind: str, settings: list[object], name: str, says: str) -> None:
    encoder = tiny.save_encoder(tmp_path / "e", kind)
    ended = run("train", reviews, "--model", encoder, "--out", "m", *FEW, *settings)
    assert ended.code == 0, ended.err
    assert says in road_of(tmp_path / "m")[name]


def test_why_a_kernel_of_a_gpu_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if device.index == 0 else (7, 5))
    card, older = torch.device("cuda", 0), torch.device("cuda", 1)
    assert varlen.why_not(card, torch.bfloat16, 32) is None
    assert varlen.why_not(card, torch.float32, 32) == "has no float32"
    assert varlen.why_not(card, torch.bfloat16, 26) == "takes no heads of 26 numbers"
    assert varlen.why_not(older, torch.bfloat16, 32) == "does not run on a card as old as this"
    assert varlen.why_not(CPU, torch.bfloat16, 32) == "runs on GPUs alone"
