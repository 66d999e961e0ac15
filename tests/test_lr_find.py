"""The probe for a learning rate: checked on validation rows, repeatable, and without a trace in what is trained afterwards."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tunesmith
from killer import Server
from running import Run, told
from tunesmith.lr_find import suggestions

COMMON: dict[str, Any] = {"max_length": 16, "precision": "fp32", "batch_size": 8, "epochs": 2, "dropout": 0.1}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_csv(tmp_path_factory.mktemp("few") / "few.csv", tiny.rows(80, seed=3))


def test_a_found_rate_trains_the_same_model_as_a_given_one(run: Run, tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    command = ("train", few, "--model", tiny_bert, *told(COMMON))
    done = run(*command, "--lr", "find", "--out", "found")
    assert done.code == 0, done.err
    assert "lr find: at most 160 steps before the run's 16" in done.err
    assert "accuracy after 16 steps" in done.err and "does best on the validation rows" in done.err
    result = json.loads((tmp_path / "found" / "tunesmith.json").read_text())["result"]
    probe = result["lr_find"]
    rate = result["recipe"]["lr"]
    assert rate == probe["chosen"] and f"lr {rate:g}" in done.err
    assert not (tmp_path / "found" / "checkpoints").exists()
    assert run(*command, "--lr", rate, "--out", "given").code == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("found", "given")]
    assert weights[0] == weights[1]
    assert 'id="lr-find"' in (tmp_path / "found" / "report.html").read_text()

    rates = [one["rate"] for one in probe["candidates"]]
    assert {2e-5, 5e-5} <= set(rates) and 3 <= len(rates) <= 5 and rates == sorted(rates)
    assert [one["outcome"] for one in probe["candidates"]].count("chosen") == 1
    assert probe["steps"] <= 160
    first = {one["rate"]: (float(f"{one['rounds'][0]['value']:.2g}"), -abs(np.log(one["rate"] / 5e-5))) for one in probe["candidates"]}
    left = [one["rate"] for one in probe["candidates"] if len(one["rounds"]) == 2]
    assert all(first[rate] <= min(first[one] for one in left) for rate in first if rate not in left)

    again = run("train", "--resume", "--out", "found")
    assert again.code == 0 and "finished already" in again.err


@pytest.mark.timeout(300)
def test_a_run_killed_in_the_probe_or_after_it_ends_as_one_that_was_not(server: Server, tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    command = ("train", few, "--model", tiny_bert, "--lr", "find", *told({**COMMON, "checkpoint_steps": 2}))
    assert server.run(*command, "--out", tmp_path / "whole").code == 0
    cut = server.run(*command, "--out", tmp_path / "cut", traps=[("tunesmith.training.loop:clip", 25, "kill")])
    assert cut.code == -signal.SIGKILL
    cut = server.run("train", "--resume", "--out", tmp_path / "cut", traps=[("tunesmith.recipe:fit", 1, "kill")])
    assert cut.code == -signal.SIGKILL and "lr find: at most" in cut.err
    cut = server.run("train", "--resume", "--out", tmp_path / "cut", traps=[("tunesmith.training.loop:clip", 5, "kill")])
    assert cut.code == -signal.SIGKILL and "lr find" not in cut.err, "what was found is not looked for again"
    done = server.run("train", "--resume", "--out", tmp_path / "cut")
    assert done.code == 0 and "resuming after step" in done.err, done.err
    results = [json.loads((tmp_path / name / "tunesmith.json").read_text())["result"] for name in ("whole", "cut")]
    for result in results:
        result["lr_find"].pop("seconds")
    assert results[0]["lr_find"] == results[1]["lr_find"]
    assert results[0]["evaluations"] == results[1]["evaluations"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    other = server.run("train", few, "--model", tiny_bert, "--lr", "1e-4", *told(COMMON), "--resume", "--out", tmp_path / "cut")
    assert other.code == 2 and "--lr was 'find', now 0.0001" in other.err


def test_ctrl_c_in_the_probe_says_how_to_go_on(server: Server, tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    command = ("train", few, "--model", tiny_bert, "--lr", "find", *told(COMMON), "--out", tmp_path / "m")
    done = server.run(*command, traps=[("tunesmith.training.loop:clip", 3, "int")])
    assert done.code == 130 and "tunesmith train --resume --out" in done.err and "Traceback" not in done.err


def test_each_way_of_tuning_has_a_probe_around_its_own_usual_rate(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    settings = {**COMMON, "epochs": 1}
    found = tunesmith.train(few, lr="find", tuning="head", model=tiny_bert, out=tmp_path / "m", progress="quiet", **settings)
    probe = found.result["lr_find"]
    assert probe["usual"] == 5e-3 and 5e-3 in [one["rate"] for one in probe["candidates"]]


def test_without_validation_rows_there_is_no_probe(run: Run, tiny_bert: Path, few: Path) -> None:
    done = run("train", few, "--model", tiny_bert, "--lr", "find", "--valid-size", "0")
    assert done.code == 2 and "--lr find checks rates on validation rows, and there are none" in done.err
    done = run("train", few, "--model", tiny_bert, "--lr", "fnid")
    assert done.code == 2 and "--lr is 'fnid'; it must be a number above 0 and at most 10, or 'find'. Did you mean 'find'?" in done.err


def test_where_nothing_is_learned_the_usual_rate_stays(tiny_bert: Path, tmp_path: Path) -> None:
    words = [row["text"] for row in tiny.rows(60, seed=3)]
    labels = ["yes" if i % 2 else "no" for i in range(60)]  # by the row's number, which no text tells
    settings = {**COMMON, "epochs": 1, "metric": "log_loss"}
    found = tunesmith.train(words, labels=labels, lr="find", model=tiny_bert, out=tmp_path / "m", progress="quiet", **settings)
    assert found.result["recipe"]["lr"] == 5e-5
    assert all(5e-7 <= one["rate"] <= 5e-3 for one in found.result["lr_find"]["candidates"])


def test_suggestions_of_a_curve() -> None:
    rates = np.geomspace(1e-6, 1, 25)
    losses = [*np.linspace(2, 1.9, 10), *np.linspace(1.4, 1, 5), *np.linspace(1.2, 9, 10)]
    falling = [[float(rate), float(loss)] for rate, loss in zip(rates, losses, strict=True)]
    found = suggestions(falling)
    assert found["steepest"] == pytest.approx(rates[10], rel=0.8)
    assert found["minimum"] == pytest.approx(rates[14] / 10)
    assert suggestions([[rate, loss] for (rate, _), loss in zip(falling, range(25), strict=True)]) == {}, "the loss never fell"
    assert suggestions(falling[:3]) == {}
