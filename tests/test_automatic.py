"""The way to tune chosen by trial: the order, the budget, what is kept, resume, wrong use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from cutting import cut_off_at
from running import Run
from tiny import rows, save_encoder, write_csv
from tunesmith import automatic, finishing, lr_find
from tunesmith.data.given import Given
from tunesmith.errors import Interrupted, UsageError
from tunesmith.progress import Progress
from tunesmith.resolve import resolve

TABLE = rows(150, seed=2)
QUICK: dict[str, Any] = {"tuning": "auto", "epochs": 2, "batch_size": 16, "max_length": 48, "precision": "fp32", "valid_size": 0.2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("auto"), "bert")


def train(encoder: Path, out: Path, **settings: Any) -> tunesmith.TrainResult:
    return tunesmith.train(TABLE, model=str(encoder), out=str(out), **{**QUICK, **settings})


def ways(result: tunesmith.TrainResult) -> dict[str, Any]:
    return {record["way"]: record for record in result.result["ways"]}


def test_what_validation_prefers_is_kept_and_tested(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(encoder, tmp_path / "out", lr=3e-3, progress="lines")
    found = ways(result)
    assert next(iter(found)) == "head" and "full" in found
    best = max(found.values(), key=lambda record: record["value"])["way"]
    assert result.result["recipe"]["tuning"] == best
    said = capsys.readouterr().err
    assert f"auto: {best} is chosen by validation accuracy" in said and "auto: head reached validation accuracy" in said
    assert result.result["evaluations"]["test"] is not None
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} <= {"adapter", "kept"}
    assert tunesmith.load(tmp_path / "out").predict("a red house") is not None
    assert "Ways tried" in (tmp_path / "out" / "report.html").read_text()


def test_the_chosen_way_is_what_it_is_when_it_is_named(encoder: Path, tmp_path: Path) -> None:
    chosen = train(encoder, tmp_path / "auto", lr=3e-3)
    way = chosen.result["recipe"]["tuning"]
    named = train(encoder, tmp_path / "named", lr=3e-3, tuning=way)
    assert chosen.result["training"]["history"] == named.result["training"]["history"]
    assert chosen.metrics == named.metrics


def test_averaged_weights_and_a_probe_go_along_with_the_chosen_way(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, original = [], lr_find._Probe.run
    monkeypatch.setattr(lr_find._Probe, "run", lambda self: probes.append(self) or original(self))
    result = train(encoder, tmp_path / "out", lr="find", epochs=4, average=2)
    tried = [way for way, record in ways(result).items() if "value" in record]
    assert len(probes) == len(tried) >= 2, "one for each way, and none for the chosen one again"
    assert result.result["lr_find"]["chosen"] > 0 and result.result["evaluations"]["test"] is not None


def test_test_rows_are_seen_once_at_the_end(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[int] = []
    original = finishing.evaluation_of

    def counting(model: Any, task: Any, prepared: Any, name: str, *rest: Any, **more: Any) -> Any:
        found = original(model, task, prepared, name, *rest, **more)
        tested.extend([found["rows"]] if name == "test" and found is not None else [])
        return found

    monkeypatch.setattr(finishing, "evaluation_of", counting)
    train(encoder, tmp_path / "out", test=rows(20, seed=9))
    assert tested == [20]


def test_settings_that_suit_a_way_are_its_own_unless_told(encoder: Path, tmp_path: Path) -> None:
    config = resolve({"tuning": "auto", "model": str(encoder), "batch_size": 8, "out": str(tmp_path)})
    (tmp_path / "ways").mkdir()
    (tmp_path / "ways" / "plan.json").write_text('{"batch_size": 8}')
    given = Given(TABLE)
    trials = automatic._Trials(config, tmp_path, given, Progress("quiet"))
    head, full = (trials.config_of(way, tmp_path / way) for way in ("head", "full"))
    assert (head.lr, head.epochs, head.pooling, head.batch_size) == (5e-3, 20, "mean", 8)
    assert (full.lr, full.epochs, full.pooling, full.batch_size) == (5e-5, 3, "cls", 8)


def test_what_the_budget_does_not_allow_is_left_out_and_said(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic, "_OVERHEAD", 1e9)
    result = train(encoder, tmp_path / "out", budget="10m")
    assert ways(result)["full"]["why"].startswith("it would take about")
    assert result.result["recipe"]["tuning"] == "head"


def test_the_budget_holds_where_a_cache_spares_the_first_way_its_work(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few-shot tuning could not be ended early."""
    train(encoder, tmp_path / "first", tuning="head")
    monkeypatch.setattr(automatic, "_OVERHEAD", 1e9)
    found = ways(train(encoder, tmp_path / "out", budget="10m"))
    assert list(found) == ["head", "fewshot", "full"] and "value" in found["head"]
    assert all(found[way]["why"].startswith("it would take about") for way in ("fewshot", "full"))


def test_a_run_on_relative_paths_goes_on_from_another_directory(
    encoder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "rows.csv", TABLE)
    shutil.copytree(encoder, tmp_path / "encoder")
    with cut_off_at(6):
        tunesmith.train("rows.csv", model="encoder", out="m", progress="quiet", checkpoint_steps=2, **QUICK)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = run("train", "--resume", "--out", tmp_path / "m")
    assert done.code == 0, done.err


def test_a_run_killed_behind_its_last_write_leaves_no_tried_models(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(directory: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(automatic, "_remove_ways", killed)
        train(encoder, tmp_path / "out")
    assert (tmp_path / "out" / "tunesmith.json").is_file() and (tmp_path / "out" / "ways" / "head").is_dir()
    train(encoder, tmp_path / "out", resume=True)
    assert not (tmp_path / "out" / "ways").exists()


def test_a_way_that_overruns_the_budget_ends_at_a_validation(encoder: Path, tmp_path: Path) -> None:
    result = train(encoder, tmp_path / "out", budget="0.001s", epochs=8)
    found = ways(result)
    assert found["head"]["stopped"] == "the budget is spent" and found["full"]["why"] == "the budget is spent"
    assert result.result["training"]["steps"] == result.result["training"]["best_step"] < 8 * 8


def test_few_rows_are_tried_by_pairs_too_and_judged_by_the_same_rows(encoder: Path, tmp_path: Path) -> None:
    few = train(encoder, tmp_path / "out", batch_size=8)
    assert list(ways(few)) == ["head", "fewshot", "full"] and all("value" in record for record in few.result["ways"])


def test_a_way_that_a_setting_means_nothing_for_is_left_out(encoder: Path, tmp_path: Path) -> None:
    result = train(encoder, tmp_path / "out", label_smoothing=0.1)
    assert "label_smoothing" in ways(result)["fewshot"]["why"] and "value" in ways(result)["full"]


@pytest.mark.parametrize("cut", [6, 18])  # the first way takes 14 steps
def test_a_resumed_run_ends_as_an_uninterrupted_one(encoder: Path, tmp_path: Path, cut: int) -> None:
    settings = {"lr": 3e-3, "checkpoint_steps": 2}
    whole = train(encoder, tmp_path / "whole", **settings)
    with cut_off_at(cut):
        train(encoder, tmp_path / "cut", **settings)
    resumed = train(encoder, tmp_path / "cut", resume=True, **settings)
    assert resumed.result["training"]["history"] == whole.result["training"]["history"]
    assert resumed.metrics == whole.metrics
    assert [record.get("value") for record in resumed.result["ways"]] == [record.get("value") for record in whole.result["ways"]]


def test_a_run_cut_off_before_its_test_goes_on_with_the_way_that_was_chosen(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(encoder, tmp_path / "whole")
    original = finishing.evaluation_of

    def failing(model: Any, task: Any, prepared: Any, name: str, *rest: Any, **more: Any) -> Any:
        if name == "test" and name in prepared.parts:
            raise KeyboardInterrupt
        return original(model, task, prepared, name, *rest, **more)

    monkeypatch.setattr(finishing, "evaluation_of", failing)
    with pytest.raises(Interrupted):
        train(encoder, tmp_path / "cut")
    monkeypatch.setattr(finishing, "evaluation_of", original)
    resumed = train(encoder, tmp_path / "cut", resume=True)
    assert resumed.metrics == whole.metrics and len(resumed.result["ways"]) == len(whole.result["ways"])
    assert not (tmp_path / "cut" / "ways").exists()


def test_tasks_whose_sequences_are_new_in_every_epoch_train_in_full(encoder: Path, tmp_path: Path) -> None:
    table = [{"query": f"which animal {i // 4}", "passage": r["text"], "label": int(i % 4 == 0)} for i, r in enumerate(rows(48))]
    result = tunesmith.train(table, model=str(encoder), out=str(tmp_path / "o"), **{**QUICK, "epochs": 1})
    assert list(ways(result)) == ["full"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tuning": "auto", "folds": 3}, "trains on every row"),
        ({"tuning": "auto", "valid_size": 0}, "chooses by validation rows"),
        ({"tuning": "full", "budget": "5m"}, "it belongs to auto"),
        ({"tuning": "auto", "budget": "5 minutes"}, "is no time"),
    ],
)
def test_wrong_use(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(settings)


def test_faults_of_the_data_end_the_run_at_once(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(tunesmith.errors.DataError):
        tunesmith.train([{"text": "a", "label": ""}], model=str(encoder), out=str(tmp_path / "o"), **QUICK)
