"""Searching for settings: nothing that was tried is lost, the test chooses nothing, and what is printed can be used."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

import tiny
import tunesmith
from cutting import cut_off_at
from killer import Server
from running import Run, told
from tunesmith.config import Config
from tunesmith.errors import DataError, ModelError, StorageError, UsageError
from tunesmith.study.plan import Plan
from tunesmith.study.pruning import is_behind
from tunesmith.study.space import Range, default_space, read_flags, read_space

COMMON: dict[str, Any] = {"max_length": 16, "precision": "fp32", "batch_size": 8, "checkpoint_steps": 2, "dropout": 0.1}
SEARCH = {"lr": {"low": 1e-3, "high": 5e-2}, "epochs": [1, 2], "warmup": [0.0, 0.2]}
FLAGS = ["--search", "lr=1e-3..5e-2", "--search", "epochs=1,2", "--search", "warmup=0,0.2"]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_csv(tmp_path_factory.mktemp("few") / "few.csv", tiny.rows(60, seed=3))


def outcome(out: Path) -> dict[str, Any]:
    """All that a study decides: every trial, and the model."""
    result = json.loads((out / "tunesmith.json").read_text())["result"]
    trials = [{key: value for key, value in trial.items() if key != "seconds"} for trial in result["study"]["trials"]]
    return {
        "trials": trials,
        "best": result["study"]["best"],
        "importances": result["study"]["importances"],
        "evaluations": result["evaluations"],
        "weights": (out / "model.safetensors").read_bytes(),
        "recipe": (out / "best.toml").read_text(),
    }


def test_settings_that_the_rows_do_not_suit_end_their_trial_alone(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"query": f"{word} {n}", "passage": f"the {word} cat {n}", "label": 1} for n, word in enumerate(tiny.COLOURS * 4)]
    settings = {"task": "ranking", "trials": 5, "epochs": 1, "model": tiny_bert, "progress": "quiet", "max_length": 16, "valid_size": 0.3}
    found = tunesmith.tune(rows, search={"negatives": ["given", "random"]}, out=tmp_path / "m", **settings)
    outcomes = {trial["settings"]["negatives"]: trial["outcome"] for trial in found.study["trials"]}
    assert outcomes["random"] == "finished" and "no training query has both" in outcomes["given"]


@pytest.mark.timeout(300)
def test_a_search_killed_again_and_again_ends_as_one_that_was_not(server: Server, tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    started = ("tune", few, "--model", tiny_bert, "--trials", 4, "--metric", "log_loss", *FLAGS, *told(COMMON))
    whole = server.run(*started, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    expected = outcome(tmp_path / "whole")
    assert len(expected["trials"]) == 4 and len({trial["value"] for trial in expected["trials"]}) > 1
    # in a step of a trial; in the middle of a draw; between the end of a training and its entry; after the entry; in the last training
    places = [
        ("tunesmith.training.loop:clip", 5),
        ("tunesmith.study.trials:_suggest", 5),  # of which the first three read again what trial 1 has
        ("tunesmith.study.trial:write_json", 1),
        ("tunesmith.study.trial:keep_record", 1),
        ("tunesmith.training.loop:clip", 9),
        ("tunesmith.finishing:save_bundle", 2),
    ]
    for i, (place, call) in enumerate(places):
        command = started if i == 0 else ("tune", "--resume")
        done = server.run(*command, "--out", tmp_path / "cut", traps=[(place, call, "kill")])
        assert done.code == -signal.SIGKILL, f"{place}: {done.err}"
        assert not (tmp_path / "cut" / "tunesmith.json").exists()
    done = server.run("tune", "--resume", "--out", tmp_path / "cut")
    assert done.code == 0, done.err
    assert "resuming the study after" in done.err
    assert outcome(tmp_path / "cut") == expected
    kept = {path.name for trial in (tmp_path / "cut" / "trials").iterdir() for path in trial.iterdir()}
    assert kept == {"result.json", "report.html"}, "trials keep their records, not their weights"


def test_ctrl_c_saves_the_trial_and_says_how_to_go_on(server: Server, tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    started = ("tune", few, "--model", tiny_bert, "--trials", 2, *FLAGS, *told(COMMON), "--out", tmp_path / "m")
    done = server.run(*started, traps=[("tunesmith.training.loop:clip", 4, "int")])
    assert done.code == 130
    assert "trial 1 of 2: stopped after step 4 of" in done.err and "tunesmith tune --resume --out" in done.err
    assert "tunesmith train" not in done.err
    again = server.run(*started)
    assert again.code == 5 and "holds a study" in again.err and "--resume" in again.err
    other = server.run("tune", "--resume", "--out", tmp_path / "m", "--max-length", 20)
    assert other.code == 2 and "--max-length was 16, now 20" in other.err
    ranges = server.run("tune", "--resume", "--out", tmp_path / "m", "--search", "lr=1e-3..1e-2")
    assert ranges.code == 2 and "search was" in ranges.err
    full = server.run("tune", "--resume", "--out", tmp_path / "m", traps=[("tunesmith.training.state:save_file", 2, "full")])
    assert full.code == 5 and "the disk is full" in full.err
    more = server.run("tune", "--resume", "--out", tmp_path / "m", "--trials", 3)
    assert more.code == 0, more.err
    assert "resuming the study after 0 finished trials; 1 trial that began will go on" in more.err
    assert len(outcome(tmp_path / "m")["trials"]) == 3
    finished = server.run("tune", "--resume", "--out", tmp_path / "m")
    assert finished.code == 0 and "finished already" in finished.err
    (tmp_path / "m" / "study.db").write_bytes(b"no database at all" * 100)
    damaged = server.run("tune", "--resume", "--out", tmp_path / "m")
    assert damaged.code == 5 and "study.db cannot be read or written: file is not a database. It is damaged" in damaged.err
    small = server.run(*started[:-1], tmp_path / "n", file_limit=60_000)
    assert small.code == 5 and "Free some space" in small.err, small.err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_several_processes_share_the_trials_and_none_outlives_a_kill(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    command = [sys.executable, "-m", "tunesmith", "tune"]
    started = [*command, str(few), "--model", str(tiny_bert), "--trials", "4", "--jobs", "2", *FLAGS, *told({**COMMON, "eval_steps": 1})]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([*started, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("trials/*/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    resumed = [*command, "--resume", "--jobs", "2", "--out", str(out)]
    while "another search" in (done := subprocess.run(resumed, env=environment, capture_output=True, text=True)).stderr:
        assert time.monotonic() < deadline, "processes of the killed search hold the study"
    assert done.returncode == 0, done.stderr
    assert "will go on" in done.stderr and "2 processes with 1 thread each" in done.stderr
    trials = outcome(out)["trials"]
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4]
    assert all(trial["state"] in ("complete", "pruned") for trial in trials)
    with sqlite3.connect(out / "study.db") as database:
        assert database.execute("select count(*) from trials").fetchone() == (4,), "no trial is counted twice"


def test_the_best_recipe_trains_the_same_model(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    found = tunesmith.tune(few, search=SEARCH, trials=3, model=tiny_bert, out=tmp_path / "m", progress="quiet", **COMMON)
    recipe = tomllib.loads((tmp_path / "m" / "best.toml").read_text())
    assert {name: recipe[name] for name in SEARCH} == found.best
    settings = {key: value for key, value in recipe.items() if key != "train"}
    trained = tunesmith.train(recipe["train"], **settings, out=tmp_path / "again", progress="quiet")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()
    assert trained.metrics == found.trained.metrics
    best = next(trial for trial in found.study["trials"] if trial["number"] == found.study["best"])
    assert found.value == best["value"] == found.trained.result["evaluations"]["valid"]["metrics"]["accuracy"]
    assert found.value == max(trial["value"] for trial in found.study["trials"])


def test_trials_never_see_the_test_rows(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    search = {"max_length": [8, 16], "truncation": ["head", "tail"], "batch_size": [4, 8], "dedupe": [False, True]}
    settings = {key: value for key, value in COMMON.items() if key not in search}
    found = tunesmith.tune(few, search=search, trials=4, epochs=1, model=tiny_bert, out=tmp_path / "m", progress="quiet", **settings)
    rows = []
    for trial in found.study["trials"]:
        if trial["same_as"] is None:
            result = json.loads((tmp_path / "m" / "trials" / str(trial["number"]) / "result.json").read_text())
            assert result["evaluations"]["test"] is None and result["data"]["splits"]["test"] is None
            rows.append(result["data"]["splits"]["valid"]["targets"])
    assert len(rows) > 1 and all(row == rows[0] for row in rows)
    assert found.trained.result["evaluations"]["test"]["rows"] == 6


def test_other_rows_than_those_of_the_beginning_are_refused(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    data = tiny.rows(60, seed=3)
    settings: dict[str, Any] = {**COMMON, "epochs": 1, "model": tiny_bert, "out": tmp_path / "m", "progress": "quiet"}
    first = tunesmith.tune(data, search={"lr": [1e-3, 1e-2]}, trials=1, **settings)
    assert first.importances == {} and "too few" in first.study["note"]
    with pytest.raises(DataError, match="rows are others"):
        tunesmith.tune([*data, data[0]], trials=2, resume=True, **settings)
    assert "# the rows were in memory" in (tmp_path / "m" / "best.toml").read_text()


def test_a_rate_that_is_too_high_ends_its_trial_and_not_the_search(tiny_bert: Path, few: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from tunesmith.training import loop

    real = loop.set_lr
    monkeypatch.setattr(loop, "set_lr", lambda optimizer, lr: real(optimizer, float("nan") if lr > 0.5 else lr))
    settings: dict[str, Any] = {**COMMON, "model": tiny_bert, "epochs": 1, "schedule": "constant"}
    found = tunesmith.tune(few, search={"lr": [0.01, 1.0]}, trials=10, out=tmp_path / "m", progress="quiet", **settings)
    states = {trial["settings"]["lr"]: trial["state"] for trial in found.study["trials"]}
    assert states == {0.01: "complete", 1.0: "diverged"}
    assert found.best == {"lr": 0.01}
    assert any(trial["same_as"] for trial in found.study["trials"]), "equal settings are not trained again"


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"text": row["text"], "value": i % 7 / 3} for i, row in enumerate(tiny.rows(count, seed=3))]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_rate_that_blows_up_in_the_last_step_ends_its_trial_and_not_the_search(
    tiny_bert: Path, few: Path, tmp_path: Path, monkeypatch: Any, task: str
) -> None:
    from tunesmith.training import loop

    real = loop.set_lr
    monkeypatch.setattr(loop, "set_lr", lambda optimizer, lr: real(optimizer, float("nan") if lr > 0.5 else lr))
    # one step an epoch: only validation sees what became of the weights
    settings: dict[str, Any] = {**COMMON, "batch_size": 60, "model": tiny_bert, "epochs": 2, "schedule": "constant"}
    data: Any = few if task == "classification" else numbered(60)
    columns = {} if task == "classification" else {"task": task, "text": "text", "label": "value"}
    found = tunesmith.tune(data, search={"lr": [0.01, 1.0]}, trials=10, out=tmp_path / "m", progress="quiet", **settings, **columns)
    assert {trial["settings"]["lr"]: trial["state"] for trial in found.study["trials"]} == {0.01: "complete", 1.0: "diverged"}


def test_ways_with_a_usual_split_of_their_own_are_judged_by_the_same_rows(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**COMMON, "model": tiny_bert, "epochs": 1, "progress": "quiet"}
    found = tunesmith.tune(few, search={"tuning": ["full", "fewshot"]}, trials=4, out=tmp_path / "m", **settings)
    assert {trial["settings"]["tuning"]: trial["state"] for trial in found.study["trials"]} == {"full": "complete", "fewshot": "complete"}


def test_a_trial_that_is_not_possible_is_passed_over(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    """Reinit of more layers than there are is known only when the encoder is there."""
    settings: dict[str, Any] = {**COMMON, "model": tiny_bert, "epochs": 1, "tuning": "layerwise", "progress": "quiet"}
    found = tunesmith.tune(few, search={"reinit": [0, 9]}, trials=3, out=tmp_path / "m", **settings)
    states = {trial["settings"]["reinit"]: trial["state"] for trial in found.study["trials"]}
    assert states == {0: "complete", 9: "fail"} and found.best == {"reinit": 0}
    assert any("not possible: reinit=9: the encoder has 2 layers" in trial["outcome"] for trial in found.study["trials"])
    with pytest.raises(ModelError) as error:
        tunesmith.tune(few, search={"reinit": [8, 9]}, trials=2, out=tmp_path / "n", **settings)
    assert "none of 2 trials" in str(error.value) and "the encoder has 2 layers" in str(error.value) and "lr" not in str(error.value)


def test_ways_that_do_not_suit_are_refused_when_the_search_is_planned(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**COMMON, "model": tiny_bert, "out": tmp_path / "m", "progress": "quiet"}
    with pytest.raises(UsageError, match="tuning='fewshot' learns labels of texts"):
        tunesmith.tune(numbered(60), search={"tuning": ["full", "fewshot"]}, task="regression", text="text", label="value", **settings)
    with pytest.raises(UsageError, match=r"tuning=.last:9.: the encoder has 2 layers\. Take at most last:2"):
        tunesmith.tune(few, search={"tuning": ["last:1", "last:9"]}, **settings)
    assert not (tmp_path / "m").exists()


def test_hopeless_trials_are_stopped_early_and_shown(tiny_bert: Path, tmp_path: Path) -> None:
    found = tunesmith.tune(
        tiny.rows(80, seed=3), search={"lr": {"low": 1e-6, "high": 1e-2}}, trials=9, model=tiny_bert, epochs=4, metric="log_loss",
        out=tmp_path / "m", progress="quiet", **{**COMMON, "batch_size": 16},
    )  # fmt: skip
    pruned = [trial for trial in found.study["trials"] if trial["state"] == "pruned" and trial["same_as"] is None]
    assert pruned and all(trial["epochs"] < 4 and trial["outcome"].startswith("pruned after epoch") for trial in pruned)
    assert found.value == min(trial["value"] for trial in found.study["trials"] if trial["state"] == "complete")
    assert all(trial["epochs"] == 4 for trial in found.study["trials"][:4]), "the first ones are the measure of the others"
    page = (tmp_path / "m" / "report.html").read_text()
    assert 'id="study"' in page and "pruned after epoch" in page and 'class="hollow"' in page
    assert sum(found.importances.values()) == pytest.approx(1)


def test_repeated_draws_are_no_measure_of_others(tiny_bert: Path, tmp_path: Path) -> None:
    """Of two choices a third trial is a repetition, and so not one of the four that others are measured by."""
    found = tunesmith.tune(
        tiny.rows(40, seed=3), search={"lr": [2e-3, 1e-5]}, trials=8, model=tiny_bert, epochs=3, metric="log_loss",
        out=tmp_path / "m", progress="quiet", **{**COMMON, "batch_size": 16},
    )  # fmt: skip
    trials = found.study["trials"]
    assert sum(trial["same_as"] is None for trial in trials) == 2
    assert all(trial["state"] == "complete" for trial in trials)


def test_trials_of_other_lengths_are_compared_after_the_same_share_of_their_schedule() -> None:
    short, long = {1: 0.6}, {1: 0.3, 2: 0.5, 3: 0.55, 4: 0.6, 5: 0.7, 6: 0.8, 7: 0.85}
    others = [(short, 2)] * 4
    # an eighth of the way against one half of it
    assert not is_behind({1: 0.3}, 8, others, greater=True)
    assert not is_behind(long, 8, others, greater=True)
    assert is_behind({1: 0.3, 2: 0.4, 3: 0.5, 4: 0.5}, 8, others, greater=True)
    assert not is_behind({1: 0.3, 2: 0.4, 3: 0.5, 4: 0.5}, 8, others, greater=False)
    # one half against the fourth epoch of eight
    assert is_behind({1: 0.59}, 2, [(long, 8)] * 4, greater=True) and not is_behind({1: 0.6}, 2, [(long, 8)] * 4, greater=True)
    # of equal length: the epoch itself; what was reached before counts
    assert is_behind({1: 0.29}, 8, [(long, 8)] * 4, greater=True)
    assert not is_behind({1: 0.55, 2: 0.1}, 8, [(long, 8)] * 4, greater=True)
    assert not is_behind({1: 0.0}, 8, [(long, 8)] * 3 + others, greater=True), "three are no measure"
    assert not is_behind({1: 0.0}, 8, [], greater=True)


class _Killed(BaseException):
    pass


def test_a_draw_that_was_cut_in_the_middle_goes_on_as_it_would_have(tmp_path: Path, monkeypatch: Any) -> None:
    from tunesmith.study import trials

    search = {"lr": {"low": 1e-4, "high": 1e-2}, "dropout": {"low": 0.0, "high": 0.5}, "warmup": {"low": 0.0, "high": 0.5}}
    plan = Plan({}, search, "accuracy", greater=True, trials=5, pruner="none", usual=False, data="")
    real = trials._suggest
    whole = trials.Trials(tmp_path / "whole", plan).claim().params
    assert len(set(whole.values())) == 3
    for cut in range(3):
        calls = 0

        def killed(*given: Any, cut: int = cut) -> Any:
            nonlocal calls
            calls += 1
            if calls > cut:
                raise _Killed
            return real(*given)

        monkeypatch.setattr(trials, "_suggest", killed)
        with pytest.raises(_Killed):
            trials.Trials(tmp_path / str(cut), plan).claim()
        monkeypatch.setattr(trials, "_suggest", real)
        resumed = trials.Trials(tmp_path / str(cut), plan)
        assert len(resumed.all()[0].params) == cut
        assert resumed.again(0).params == whole


def test_a_last_training_that_was_cut_off_gives_way_to_a_better_trial(tiny_bert: Path, few: Path, tmp_path: Path, capsys: Any) -> None:
    settings: dict[str, Any] = {**COMMON, "epochs": 2, "model": tiny_bert, "metric": "log_loss"}
    search = {"lr": [5e-5, 5e-3]}  # the usual one, which is tried first, teaches nothing in two epochs
    whole = tunesmith.tune(few, search=search, trials=2, out=tmp_path / "whole", progress="quiet", **settings)
    assert whole.best == {"lr": 5e-3} and whole.study["trials"][0]["settings"] == {"lr": 5e-5}
    with cut_off_at(16):  # twelve steps of the trial, and four with the best settings
        tunesmith.tune(few, search=search, trials=1, out=tmp_path / "cut", progress="quiet", **settings)
    assert list((tmp_path / "cut" / "checkpoints").glob("step-*"))
    capsys.readouterr()
    tunesmith.tune(few, search=search, trials=2, resume=True, out=tmp_path / "cut", **settings)
    assert "the best no longer" in capsys.readouterr().err
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


WRONG = {
    "no step": (["--search", "lr=1e-5..1e-4:nan"], "step is nan; it must be a finite number"),
    "endless": (["--search", "lr=1e-5..inf:0.1"], "high is inf; it must be a finite number"),
    "endless steps": (["--search", "dropout=0..0.3:inf"], "step is inf; it must be a finite number"),
    "three points": (["--search", "lr=1e-5...2e-4"], "'lr=1e-5...2e-4' has three points"),
    "the same twice": (["--search", "epochs=2,2.0"], "a choice needs two or more different values; found 2, 2"),
    "what is kept": (["--search", "replay_rows=0,1000"], "replay_rows cannot be searched: it changes nothing that a trained model does"),
    "find again": (["--search", "lr=find,1e-4"], "find looks for a rate itself"),
    "unknown": (["--search", "learning_rate=1..2"], "--search learning_rate: unknown setting 'learning_rate'"),
    "mistyped": (["--search", "warmpu=0,0.1"], "Did you mean 'warmup'?"),
    "impossible": (["--search", "lr=1e-5..20"], "--lr is 20.0; it must be a number above 0 and at most 10"),
    "no range": (["--search", "lr"], "is not NAME=RANGE"),
    "upside down": (["--search", "lr=1e-3..1e-5"], "low 0.001 must be below high 1e-05"),
    "no number": (["--search", "truncation=1..2"], "truncation is no number; write a list of values"),
    "one value": (["--search", "epochs=3"], "a choice needs two or more different values"),
    "a choice that is none": (["--search", "truncation=head,haed"], "--truncation is 'haed'"),
    "half an epoch": (["--search", "epochs=1.5..3"], "low is 1.5; it must be a whole number"),
    "a step too far": (["--search", "batch_size=8..30:8"], "is not low 8 plus whole steps of 8; take 24"),
    "seeds": (["--search", "seed=1,2"], "seed cannot be searched: a seed that does better does so by chance"),
    "rows": (["--search", "valid_size=0.1,0.2"], "valid_size cannot be searched"),
    "together": (["--search", "truncation=head,windows", "--search", "max_length=16,64"], "stride"),
    "set and searched": (["--search", "epochs=1,2", "--epochs", "3"], "--epochs: set and searched at once"),
    "find": (["--lr", "find"], "both look for the rate"),
    "ways": (["--tuning", "auto"], "--tuning auto chooses a way by trials of its own"),
    "no way": (["--search", "tuning=full,none"], "--tuning none trains nothing that settings could better"),
    "no validation": (["--valid-size", "0"], "there are no validation rows"),
    "no trials": (["--trials", "0"], "--trials is 0; it must be a whole number from 1"),
    "pruner": (["--pruner", "best"], "--pruner is 'best'; it must be 'median', 'hyperband', 'none'"),
    "twice": (["--search", "epochs=1,2", "--search", "epochs=3,4"], "given twice"),
    "folds": (["--folds", "3"], "No such option"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_told_before_anything_is_trained(run: Run, few: Path, tiny_bert: Path, tmp_path: Path, name: str) -> None:
    flags, said = WRONG[name]
    done = run("tune", few, "--model", tiny_bert, "--out", "m", *flags)
    assert done.code == 2 and said in done.err, done.err
    assert not (tmp_path / "m").exists()


def test_faults_of_a_recipe_are_told_together_and_where_they_stand(run: Run, few: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'train = "{few}"\n[search]\nlr = {{low = 0, high = 1}}\nepochz = [1, 2]\nwarmup = {{low = 0.1}}\ndropout = 0.1\n')
    done = run("tune", recipe)
    assert done.code == 2
    for said in (
        f"{recipe}: [search] lr: low is 0; by the logarithm only numbers above 0 are searched",
        f"{recipe}: [search] epochz: unknown setting 'epochz'. Did you mean 'epochs'?",
        "warmup: a range needs low and high; high is missing",
        "dropout: 0.1 is no range",
    ):
        assert said in done.err
    recipe.write_text('train = "x.csv"\nsearch = 3\n')
    assert "search is a section" in run("tune", recipe).err


def test_nothing_to_resume_and_no_data(run: Run, few: Path) -> None:
    assert "holds no study.json" in run("tune", "--resume", "--out", "nowhere").err
    assert "no data" in run("tune").err
    assert "--resume needs --out" in run("tune", "--resume").err


def test_a_directory_that_is_not_a_study_is_left_alone(few: Path, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="is not empty"):
        tunesmith.tune(few, trials=1, model=tiny_bert, out=tmp_path / "m", progress="quiet")
    (tmp_path / "m" / "trials").mkdir()
    with pytest.raises(StorageError, match="is of no study"):
        tunesmith.tune(few, trials=1, model=tiny_bert, out=tmp_path / "m", progress="quiet", overwrite=True)
    with pytest.raises(UsageError, match="need jobs=1"):
        tunesmith.tune(tiny.rows(30), trials=1, jobs=2, model=tiny_bert, out=tmp_path / "n", progress="quiet")


def test_ranges_of_flags_and_recipes_are_the_same() -> None:
    texts = ["lr=1e-5..2e-4", "batch-size=8..64:8", "epochs=2,3,4", "dropout=0..0.3:linear", "model=../a,../b", "warmup=0.1..0.5:0.1"]
    flags = read_flags(texts)
    ranges = {found.name: found for found in read_space(flags, Config(), "--search")}
    assert ranges["lr"] == Range("lr", (), 1e-5, 2e-4, None, True), "rates are searched by their logarithm"
    assert ranges["batch_size"] == Range("batch_size", (), 8, 64, 8)
    assert ranges["epochs"].values == (2, 3, 4) and ranges["model"].values == ("../a", "../b")
    assert ranges["dropout"] == Range("dropout", (), 0.0, 0.3, None)
    again = read_space({name: found.spec() for name, found in ranges.items()}, Config(), "search")
    assert again == list(ranges.values())
    assert ranges["warmup"].holds(0.3) and not ranges["warmup"].holds(0.35) and not ranges["warmup"].holds(0)


def test_usual_ranges_leave_what_was_set() -> None:
    space = default_space(Config(lr=1e-4, epochs=1), {"epochs", "warmup"})
    assert set(space) == {"lr", "batch_size"}
    assert space["lr"] == {"low": pytest.approx(2e-5), "high": pytest.approx(5e-4), "log": True}
    with pytest.raises(UsageError, match="nothing to search"):
        default_space(Config(), {"lr", "epochs", "batch_size", "warmup"})
