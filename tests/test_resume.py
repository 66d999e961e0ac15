"""A run that was cut off anywhere goes on to the bits of a run that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import tunesmith
from cutting import cut_off_at
from killer import Done, Server, Trap
from tunesmith.data import table
from tunesmith.errors import UsageError
from tunesmith.storage import locked, verify
from tunesmith.training import state
from tunesmith.training.optim import clip

STATE = "tunesmith.training.state"
LOOP = "tunesmith.training.loop"
NEVER_EQUAL = ("seconds", "tokens_per_s", "peak_memory_mb")


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
        merged = {**common, "checkpoint-steps": 2, "eval-steps": 5, **settings}
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
    return Run(server, tmp_path_factory.mktemp("plain"), tiny_bert, tiny.rows(120), metric="log_loss", lr=0.02, schedule="constant")


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
    assert plain.whole["training"]["steps"] == 24 and len(plain.whole["training"]["evaluations"]) == 6
    assert plain.whole["training"]["best_step"] not in (5, 24), "the best weights are neither the first nor the last"
    assert rich.whole["task"]["kind"] == "multi" and rich.whole["task"]["separator"] == "|"
    assert rich.whole["data"]["splits"]["train"]["account"]["windows"] > rich.whole["data"]["splits"]["train"]["rows"]


PLACES = {
    "before the first step": (f"{LOOP}:clip", 1),
    "before the first checkpoint": (f"{STATE}:save_file", 1),
    "in the middle of an epoch": (f"{LOOP}:clip", 8),
    "in the middle of writing a checkpoint": (f"{STATE}:write_manifest", 5),
    "a checkpoint written but not renamed": ("pathlib:Path.rename", 7),
    "at an evaluation": ("tunesmith.tasks.classification:single_label", 4),
    "best weights kept but not yet in a checkpoint": (f"{LOOP}:Checkpoints.save", 3),
    "at the end of an epoch": (f"{LOOP}:Checkpoints.save", 6),
    "at the last checkpoint": (f"{LOOP}:Checkpoints.save", 12),
    "at the test": ("tunesmith.result:assess", 2),
    "the model saved to its temporary directory": ("tunesmith.finishing:write_report", 1),
    "the model's files half in place": ("pathlib:Path.replace", 4),
    "all in place but tunesmith.json": ("tunesmith.bundle:write_json", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_killed(place: str, plain: Run) -> None:
    name, call = PLACES[place]
    plain.check(plain.cut((name, call, "kill")))


def test_killed_after_the_model_was_finished(plain: Run) -> None:
    out = plain.directory / "late"
    assert plain.train(out, traps=[("tunesmith.recipe:Checkpoints.remove", 1, "kill")]).code == -signal.SIGKILL
    assert outcome(out) == plain.whole
    assert (out / "checkpoints").is_dir()
    said = plain.check(out)
    assert "resuming after step" in said and not (out / "checkpoints").exists()


def test_killed_when_the_last_checkpoint_is_put_in_place(plain: Run) -> None:
    # as many renames as there are checkpoints and best weights: each is written once
    kept, best = 0, float("inf")
    for evaluation in plain.whole["training"]["evaluations"]:
        loss = evaluation["metrics"]["log_loss"]
        kept, best = kept + (loss < best), min(loss, best)
    out = plain.cut(("pathlib:Path.rename", 12 + kept, "kill"))
    assert newest(out)[0].name == "step-22" and list((out / "checkpoints").glob(".step-24.*.tmp"))
    plain.check(out)


def test_killed_twice_and_three_times(plain: Run) -> None:
    out = plain.cut((f"{STATE}:write_manifest", 3, "kill"))
    for trap in ((f"{LOOP}:clip", 1, "kill"), (f"{LOOP}:Checkpoints.save", 5, "kill")):
        assert plain.resume(out, traps=[trap]).code == -signal.SIGKILL
    plain.check(out)


def test_killed_from_outside_on_sight_of_a_half_written_checkpoint(plain: Run) -> None:
    out = plain.directory / "outside"

    def kill(pid: int) -> None:
        deadline = time.monotonic() + 60
        while not list((out / "checkpoints").glob(".step-6.*.tmp/*.safetensors")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    done = plain.train(out, traps=[(f"{STATE}:write_manifest", 4, "hold")], meanwhile=kill)
    assert done.code == -signal.SIGKILL
    assert {path.name for path in (out / "checkpoints").glob("step-*")} == {"step-2", "step-4"}
    assert "resuming after step 4" in plain.check(out)


@pytest.mark.parametrize("trap", [(f"{LOOP}:clip", 9), (f"{LOOP}:Checkpoints.save", 6), ("tunesmith.result:assess", 1)])
def test_killed_with_windows_and_several_labels(trap: tuple[str, int], rich: Run) -> None:
    rich.check(rich.cut((*trap, "kill")))


def test_a_run_that_ended_before_its_first_checkpoint_is_not_taken_for_a_finished_one(
    server: Server, tiny_bert: Path, tmp_path: Path
) -> None:
    data = tiny.write_csv(tmp_path / "d.csv", tiny.rows(20))
    common = ("train", data, "--model", tiny_bert, "--out", tmp_path / "m")
    done = server.run(*common, "--tuning", "last:9")
    assert done.code == 2 and "the encoder has 2 layers" in done.err
    done = server.run(*common, "--tuning", "head", "--resume")
    assert done.code == 2 and "ended before its first checkpoint" in done.err and "Leave --resume out" in done.err
    assert server.run(*common, "--tuning", "head", "--epochs", 1).code == 0


def test_patience_survives(server: Server, tiny_bert: Path, tmp_path: Path) -> None:
    settings = {"eval-steps": 2, "patience": 4, "lr": 1e-9, "metric": "accuracy", "optimizer": "sgd", "checkpoint-steps": 1}
    run = Run(server, tmp_path, tiny_bert, tiny.rows(120), **settings)
    training = run.whole["training"]
    assert training["stopped"].startswith("early") and training["steps"] < 24
    # killed when two of the four chances were gone, and again when three were
    out = run.cut((f"{LOOP}:clip", training["steps"] - 3, "late"))
    state = json.loads((out / "checkpoints" / f"step-{training['steps'] - 4}" / "state.json").read_text(encoding="utf-8"))["state"]
    assert state["evaluations_since_best"] == 2
    assert run.resume(out, traps=[(f"{LOOP}:clip", 4, "kill")]).code == -signal.SIGKILL
    run.check(out)


def newest(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*"), key=lambda path: -int(path.name.split("-")[1]))


def truncate(checkpoint: Path) -> str:
    path = checkpoint / "optimizer.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    return "bytes where"


def flip(checkpoint: Path) -> str:
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "another checksum"


def delete(checkpoint: Path) -> str:
    (checkpoint / "state.json").unlink()
    return "state.json is missing"


def delete_manifest(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").unlink()
    return "manifest.json is missing"


def empty_manifest(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").write_bytes(b"")
    return "manifest.json cannot be read"


def no_entries(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").write_text("{}")
    return "manifest.json"


def all_gone(checkpoint: Path) -> str:
    for path in checkpoint.iterdir():
        path.unlink()
    return "manifest.json is missing"


@pytest.fixture(scope="module")
def stopped(plain: Run) -> Path:
    """A run that was killed at step 14 of 24, with two checkpoints."""
    return plain.cut((f"{LOOP}:clip", 15, "late"))


@pytest.mark.parametrize("damage", [truncate, flip, delete, delete_manifest, empty_manifest, no_entries, all_gone])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage: Any, plain: Run, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    shutil.copytree(stopped, out)
    checkpoint, before = newest(out)
    fault = damage(checkpoint)
    said = plain.check(out)
    line = next(line for line in said.splitlines() if "damaged" in line)
    assert str(checkpoint) in line and fault in line and "the one before" in line
    assert f"resuming after step {before.name.split('-')[1]}." in said


def test_damaged_best_weights_take_back_to_a_checkpoint_that_does_without(plain: Run, tmp_path: Path) -> None:
    # the second best evaluation is in the newest checkpoint only, the first one in the one before
    best = plain.whole["training"]["best_step"]
    out = plain.cut((f"{LOOP}:clip", best + (best % 2) + 1, "late"))
    checkpoint, before = newest(out)
    flip(out / "checkpoints" / f"best-{best}")
    said = plain.check(out)
    assert f"best-{best}" in said and str(checkpoint) in said and f"resuming after step {before.name.split('-')[1]}." in said


def test_no_whole_checkpoint_left(plain: Run, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    shutil.copytree(stopped, out)
    for checkpoint in newest(out):
        flip(checkpoint)
    done = plain.resume(out)
    assert done.code == 5 and "Traceback" not in done.err
    error = done.err[done.err.index("error: ") :]
    assert "no whole checkpoint is left" in error and "--overwrite" in error
    assert all(str(checkpoint) in error for checkpoint in newest(out)), "they are named, and still there"
    assert len(newest(out)) == 2


def test_other_settings_or_data_are_refused_and_nothing_is_lost(plain: Run, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    shutil.copytree(stopped, out)
    other = tiny.write_csv(tmp_path / "other.csv", tiny.rows(120, seed=3))
    for arguments, what in (
        (("--lr", "0.001", "--seed", 1), "--lr was 0.02, now 0.001, --seed was 0, now 1."),
        (("--class-weights", "animal=2"), "--class-weights was 'none', now 'animal=2'."),
        (("--patience", 3), "--patience was not set, now 3."),
    ):
        done = plain.server.run("train", "--resume", "--out", out, *arguments)
        assert done.code == 2 and f"{out} holds an unfinished run with other settings: {what}" in done.err, done.err
        assert "--overwrite" in done.err and "tokenising" not in done.err
    done = plain.server.run("train", "--resume", "--out", out, other)
    assert done.code == 5 and "made with other data" in done.err and str(newest(out)[0]) in done.err and "--overwrite" in done.err
    settings = out / "checkpoints" / "run.json"
    kept = settings.read_text(encoding="utf-8")
    settings.write_text("{", encoding="utf-8")
    done = plain.server.run("train", "--resume", "--out", out, plain.data, *plain.flags, "--seed", 1)
    assert done.code == 5 and "made with other settings" in done.err, "the checkpoint itself knows"
    settings.write_text(kept, encoding="utf-8")
    plain.check(out)


def test_a_finished_run_says_so(plain: Run) -> None:
    out = plain.directory / "whole"
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = plain.resume(out)
    assert done.code == 0 and f"{out} is finished already" in done.err
    assert str(out / "report.html") in done.out
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_from_another_directory(plain: Run, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "bert").symlink_to(tiny_bert)
    shutil.copy(plain.data, tmp_path / "d.csv")
    flags = [word if word != tiny_bert else "bert" for word in plain.flags]
    done = plain.server.run("train", "d.csv", "--out", "m", *flags, cwd=tmp_path, traps=[(f"{LOOP}:clip", 9, "kill")])
    assert done.code == -signal.SIGKILL
    done = plain.resume(tmp_path / "m")
    assert done.code == 0, done.err
    assert outcome(tmp_path / "m")["weights"] == plain.whole["weights"]


def test_from_python_with_data_in_memory(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = zip(*(row.values() for row in tiny.rows(60)), strict=True)

    def train(name: str, **more: Any) -> bytes:
        settings = {"model": tiny_bert, "epochs": 2, "batch_size": 8, "max_length": 24, "checkpoint_steps": 1, "progress": "quiet"}
        tunesmith.train(list(texts), labels=list(labels), out=tmp_path / name, **{**settings, **more})
        return (tmp_path / name / "model.safetensors").read_bytes()

    whole, done = train("whole"), []

    def stop(*arguments: Any) -> float:
        done.append(1)
        if len(done) == 5:
            raise MemoryError
        return clip(*arguments)

    monkeypatch.setattr(f"{LOOP}.clip", stop)
    with pytest.raises(MemoryError):
        train("cut")
    assert train("cut", resume=True) == whole
    with pytest.raises(UsageError, match="exclude each other"):
        train("cut", resume=True, overwrite=True)


def test_nothing_to_resume(plain: Run, tmp_path: Path) -> None:
    for more in ((), (plain.data,)):
        done = plain.server.run("train", "--resume", "--out", tmp_path / "nowhere", *more)
        assert done.code == 2 and "nothing" in done.err and str(tmp_path / "nowhere") in done.err and "--out" in done.err, done.err
    assert not (tmp_path / "nowhere").exists()


def test_another_run_in_the_same_directory(plain: Run, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    shutil.copytree(stopped, out)
    with locked(out / "checkpoints"):
        for done in (plain.resume(out), plain.train(out, "--overwrite")):
            assert done.code == 5 and "another run is writing into" in done.err and str(out) in done.err
    assert len(newest(out)) == 2, "the run that holds it lost nothing"


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(plain: Run) -> None:
    out = plain.cut((f"{LOOP}:clip", 9, "int"), code=130)
    assert newest(out)[0].name == "step-9"
    done = plain.resume(out, traps=[(f"{LOOP}:clip", 4, "int")])
    assert done.code == 130 and "Traceback" not in done.err
    assert "stopped after step 13 of 24" in done.err and f"tunesmith train --resume --out {out}" in done.err
    plain.check(out)


def test_ctrl_c_on_the_last_step(plain: Run) -> None:
    plain.check(plain.cut((f"{LOOP}:clip", 24, "int"), code=130))


def test_ctrl_c_twice_stops_at_once(plain: Run) -> None:
    out = plain.directory / "twice"
    done = plain.train(out, traps=[(f"{LOOP}:clip", 9, "int2")])
    assert done.code == 130 and "Traceback" not in done.err
    assert "stopped" in done.err and f"tunesmith train --resume --out {out}" in done.err
    assert newest(out)[0].name == "step-8", "the step was not finished"
    plain.check(out)


def test_ctrl_c_behind_the_training(plain: Run) -> None:
    out = plain.directory / "testing"
    done = plain.train(out, "--json", traps=[("tunesmith.result:assess", 2, "int")])
    assert done.code == 130 and f"tunesmith train --resume --out {out}" in done.err and "Traceback" not in done.err
    assert json.loads(done.out)["exit_code"] == 130
    plain.check(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_full_disk_leaves_the_checkpoints_before_whole(plain: Run) -> None:
    out = plain.directory / "full"
    done = plain.train(out, traps=[(f"{STATE}:write_manifest", 4, "full")])
    assert done.code == 5 and "Traceback" not in done.err
    assert "cannot write" in done.err and "the disk is full" in done.err and "--resume" in done.err
    assert {path.name for path in newest(out)} == {"step-2", "step-4"}
    assert not list((out / "checkpoints").glob(".*.tmp")), "what was half written makes room"
    plain.check(out)


def test_a_disk_that_fills_up_during_the_run(plain: Run, small_disk: Path) -> None:
    out = small_disk / "m"
    whole = {path.name: path.read_bytes() for path in (plain.directory / "whole").rglob("*") if path.is_file()}
    (small_disk / "filler").write_bytes(bytes(2_400_000))
    done = plain.train(out)
    assert done.code == 5 and "Traceback" not in done.err, done.err
    assert "the disk is full. Free some space" in done.err and str(out) in done.err
    assert all(verify(path) is None for path in newest(out))
    assert {path.name: path.read_bytes() for path in (plain.directory / "whole").rglob("*") if path.is_file()} == whole
    (small_disk / "filler").unlink()
    plain.check(out)


def test_full_disk_while_the_model_is_saved(plain: Run) -> None:
    out = plain.directory / "full2"
    done = plain.train(out, "--json", traps=[("tunesmith.finishing:write_report", 1, "full")])
    assert done.code == 5 and json.loads(done.out)["exit_code"] == 5 and "the disk is full" in json.loads(done.out)["error"]
    plain.check(out)


def test_a_limit_of_file_size_met_by_the_library_that_writes_weights(plain: Run, tmp_path: Path) -> None:
    out = tmp_path / "m"
    done = plain.train(out, file_limit=50_000)
    assert done.code == 5 and "Traceback" not in done.err, done.err
    assert "the file grew past the largest size allowed" in done.err and "checkpoints" in done.err
    plain.check(out)  # no checkpoint was written, so it starts from the first step


@pytest.mark.parametrize(
    ("precision", "budget", "parallel", "chunk"),
    [("fp32", 40, "false", 7), ("bf16", 40, "false", 7), ("fp32", 16, "true", 13), ("bf16", 4096, "false", 1)],
)
def test_steps_in_parts_tokenised_by_other_workers(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, budget: int, parallel: str, chunk: int
) -> None:
    """AdamW by rows, steps cut by a budget, and after the cut the tokens made anew by one thread or several, in other chunks."""
    data = tiny.write_csv(tmp_path / "data.csv", tiny.rows(60, seed=5))
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))

    def train(name: str, **more: Any) -> bytes:
        settings = {"model": tiny_bert, "epochs": 2, "batch_size": 12, "max_tokens": budget, "checkpoint_steps": 2, "precision": precision}
        tunesmith.train(data, out=tmp_path / name, progress="quiet", **settings, **more)
        return (tmp_path / name / "model.safetensors").read_bytes()

    whole = train("whole")
    with cut_off_at(5):
        train("cut")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
    monkeypatch.setattr(table, "_CHUNK_ROWS", chunk)
    assert train("cut", resume=True) == whole


def test_training_goes_on_while_a_checkpoint_is_brought_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = threading.Event()
    manifest = state.write_manifest

    def slow(directory: Path) -> None:
        assert allowed.wait(30)
        manifest(directory)

    monkeypatch.setattr(state, "write_manifest", slow)
    model = torch.nn.Linear(2, 2)
    checkpoints = state.Checkpoints(tmp_path / "c", "", [])
    with checkpoints.in_background():
        checkpoints.save_best(1, model)  # returns, though the disk is not done
        right = model.weight.detach().clone()
        with torch.no_grad():
            model.weight.zero_()  # the next step: what is being written is none of it
        assert not (tmp_path / "c" / "best-1").exists()
        allowed.set()
        checkpoints.load_best(1, model)
    assert model.weight.equal(right) and verify(tmp_path / "c" / "best-1") is None


def test_another_machine_is_said(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.write_csv(tmp_path / "data.csv", tiny.rows(60, seed=5))
    settings = {"model": tiny_bert, "epochs": 2, "batch_size": 12, "checkpoint_steps": 2, "out": tmp_path / "m", "progress": "lines"}
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(state, "_machine", lambda: "64 threads of another processor")
        with cut_off_at(5):
            tunesmith.train(data, **settings)
    capsys.readouterr()
    tunesmith.train(data, resume=True, **settings)
    told = capsys.readouterr().err
    assert f"note: this run began with 64 threads of another processor, and goes on with {state._machine()}: its model will differ" in told
