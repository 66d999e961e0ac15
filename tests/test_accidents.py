"""What goes wrong round a run costs nobody their work, and is not called a fault of the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tunesmith
from running import Run
from tunesmith.errors import ModelError
from tunesmith.tasks.classification import Classification
from tunesmith.training.gradients import Gradients


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried ...")],
)
def test_memory_that_is_used_up_is_no_fault_of_ours(
    error: Exception, run: Run, tiny_bert: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(Gradients, "add", full)
    ended = run("train", reviews, "--model", tiny_bert, "--out", "m")
    assert ended.code == 4 and "the memory is used up. Lower --max-tokens, --batch-size or --max-length." in ended.err


def test_yardsticks_that_fail_keep_no_model_from_being_saved(
    run: Run, tiny_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise ModelError("the encoder is gone")

    monkeypatch.setattr(Classification, "yardsticks", failing)
    ended = run("train", reviews, "--model", tiny_bert, "--out", "m", "--epochs", 1)
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "m" / "tunesmith.json").read_text())["result"]
    assert result["evaluations"]["test"]["yardsticks"][0]["note"] == "skipped: ModelError: the encoder is gone"


def test_files_of_a_model_that_is_replaced_are_gone(run: Run, tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    settings = ["train", reviews, "--model", tiny_bert, "--out", "m", "--epochs", 1]
    assert run(*settings).code == 0
    told = tmp_path / "m" / "tunesmith.json"
    described = json.loads(told.read_text())
    for name in ("vocab.txt", "1_Pooling/config.json", "notes.txt"):
        (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text("old")
    described["files"] += ["vocab.txt", "1_Pooling/config.json", "../outside", "/etc/hostname"]
    told.write_text(json.dumps(described))
    (tmp_path / "outside").write_text("not ours")
    assert run(*settings, "--overwrite").code == 0
    left = {str(path.relative_to(tmp_path / "m")) for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert "notes.txt" in left and not left & {"vocab.txt", "1_Pooling/config.json"} and (tmp_path / "outside").exists()


def test_output_in_any_encoding(reviews: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """What goes into another program is UTF-8 wherever the terminal is."""
    rows = "text\nкрасный кот 猫\n".encode()
    tunesmith.train(reviews, model=tiny_bert, out=tmp_path / "m", epochs=1, progress="quiet")
    line = [sys.executable, "-m", "tunesmith", "predict", str(tmp_path / "m"), "-"]
    done = subprocess.run(line, input=rows, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1", "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    assert "красный кот 猫" in done.stdout.decode("utf-8")
