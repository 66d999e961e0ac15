"""Cross-validation: each row is tested once by a model that has not seen it, and a killed run goes on in its fold."""

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
from tunesmith.config import Config
from tunesmith.data.given import Given
from tunesmith.data.split import folds_of, units_of
from tunesmith.errors import DataError, StorageError, UsageError
from tunesmith.prepare import prepare
from tunesmith.progress import QUIET

COMMON: dict[str, Any] = {"max_length": 16, "precision": "fp32", "batch_size": 8, "epochs": 2, "lr": 0.01, "checkpoint_steps": 2}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_csv(tmp_path_factory.mktemp("few") / "few.csv", tiny.rows(60, seed=3))


def outcome(out: Path) -> dict[str, Any]:
    result = json.loads((out / "tunesmith.json").read_text())["result"]
    return {
        "folds": result["cross_validation"],
        "evaluations": result["evaluations"],
        "weights": (out / "model.safetensors").read_bytes(),
        "files": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()),
    }


@pytest.mark.timeout(300)
def test_a_cross_validation_killed_again_and_again_ends_as_one_that_was_not(
    server: Server, tiny_bert: Path, few: Path, tmp_path: Path
) -> None:
    started = ("train", few, "--folds", 3, "--model", tiny_bert, *told(COMMON))
    whole = server.run(*started, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert "3 folds, 60 rows" in whole.out and "mean ± sd" in whole.out and "TF-IDF" in whole.out
    assert "each tested by a model that had not seen it" in whole.out
    expected = outcome(tmp_path / "whole")
    assert expected["folds"]["tested"] == [20, 20, 20]
    # in a step of the first fold; between a fold's training and its record; in the second; in the training on all rows
    places = [
        ("tunesmith.training.loop:clip", 3),
        ("tunesmith.folds:write_json", 1),
        ("tunesmith.training.loop:clip", 7),
        ("tunesmith.finishing:save_bundle", 3),
    ]
    for i, (place, call) in enumerate(places):
        command = started if i == 0 else ("train", "--resume")
        done = server.run(*command, "--out", tmp_path / "cut", traps=[(place, call, "kill")])
        assert done.code == -signal.SIGKILL, f"{place}: {done.err}"
        assert not (tmp_path / "cut" / "tunesmith.json").exists()
    done = server.run("train", "--resume", "--out", tmp_path / "cut")
    assert done.code == 0, done.err
    assert outcome(tmp_path / "cut") == expected
    again = server.run("train", "--resume", "--out", tmp_path / "cut")
    assert again.code == 0 and "finished already" in again.err


def test_ctrl_c_names_the_fold_and_how_to_go_on(server: Server, tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    started = ("train", few, "--folds", 2, "--model", tiny_bert, *told({**COMMON, "epochs": 1}), "--out", tmp_path / "m")
    done = server.run(*started, traps=[("tunesmith.training.loop:clip", 5, "int")])
    assert done.code == 130
    assert "fold 2 of 2: stopped after step 2" in done.err
    assert f"tunesmith train --resume --out {tmp_path / 'm'}\n" in done.err
    again = server.run(*started)
    assert again.code == 5 and "--resume to go on" in again.err
    few.with_name("other.csv").write_text(few.read_text() + "one more red cat,animal\n")
    other = server.run("train", few.with_name("other.csv"), "--resume", "--out", tmp_path / "m")
    assert other.code == 3 and "the rows are others" in other.err
    anew = server.run(*started, "--overwrite", "--json")
    assert anew.code == 0, anew.err
    line = json.loads(anew.out)
    assert line["test"] is None and line["cross_validation"]["folds"] == 2


def test_every_row_is_tested_once_and_no_text_or_group_is_parted() -> None:
    words = tiny.rows(24, seed=3)
    data = [{**row, "customer": str(i // 3)} for i, row in enumerate([*words, *words[:6]])]
    config = Config(group="customer", model="all-minilm-l6-v2", folds=4)
    seen = []
    for number in range(1, 5):
        sources = Given(data).opened(config)
        prepared = prepare(config, sources, QUIET, fold=(number, 4))
        parts = {name: part.rows for name, part in prepared.parts.items()}
        assert set(parts) == {"train", "valid", "test"}
        for keys in (parts["train"].table.text_key, parts["train"].table.group):
            sides = [set(keys[rows.index].tolist()) for rows in parts.values()]
            assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
        assert sum(map(len, parts.values())) == len(data)
        seen += parts["test"].index.tolist()
        assert prepared.parts["test"].how.startswith(f"fold {number} of 4") and "groups of 'customer'" in prepared.parts["test"].how
    assert sorted(seen) == list(range(len(data)))


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_folds_are_even_in_size_and_label(count: int) -> None:
    generator = np.random.default_rng(count)
    stratum = generator.choice(4, 500, p=[0.6, 0.3, 0.08, 0.02])
    fold = folds_of(stratum, np.arange(500), count, seed=0)
    sizes = np.bincount(fold, minlength=count)
    assert sizes.max() - sizes.min() <= 1
    for label in range(4):
        shares = np.bincount(fold[stratum == label], minlength=count)
        assert shares.max() - shares.min() <= 1
    assert not np.array_equal(fold, folds_of(stratum, np.arange(500), count, seed=1))
    group = generator.integers(0, 40, 500).astype(np.uint64)
    units = units_of(np.arange(500, dtype=np.uint64), group)
    whole = folds_of(stratum, units, count, seed=0)
    assert all(len(set(whole[group == one])) == 1 for one in set(group.tolist()))
    assert len(set(whole.tolist())) == count
    assert set(folds_of(np.arange(count), np.arange(count), count, seed=0).tolist()) == set(range(count)), "no fold is empty"


def test_given_test_rows_are_seen_by_the_last_model_alone(tiny_bert: Path, few: Path, tmp_path: Path) -> None:
    test = tiny.write_csv(tmp_path / "test.csv", tiny.rows(20, seed=9))
    found = tunesmith.train(few, test=test, folds=2, model=tiny_bert, out=tmp_path / "m", progress="quiet", **{**COMMON, "epochs": 1})
    assert found.result["evaluations"]["test"]["rows"] == 20
    assert found.metrics == found.result["evaluations"]["test"]["metrics"]
    folds = found.result["cross_validation"]
    assert folds["rows"] == 60 and len(folds["metrics"]["accuracy"]["values"]) == 2
    for number in (1, 2):
        result = json.loads((tmp_path / "m" / "folds" / str(number) / "result.json").read_text())
        assert result["data"]["splits"]["test"]["file"] == str(few)
    values = folds["metrics"]["accuracy"]["values"]
    assert folds["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert folds["metrics"]["accuracy"]["sd"] == pytest.approx(np.std(values, ddof=1))


def test_without_test_rows_the_folds_are_the_measure(tiny_bert: Path, tmp_path: Path) -> None:
    found = tunesmith.train(
        tiny.rows(40, seed=3), folds=2, valid_size=0.0, model=tiny_bert, out=tmp_path / "m", progress="quiet", **{**COMMON, "epochs": 1}
    )
    assert found.metrics["accuracy"] == found.result["cross_validation"]["metrics"]["accuracy"]["mean"]
    assert found.result["data"]["splits"]["train"]["rows"] == 40, "the model is trained on all rows"
    page = (tmp_path / "m" / "report.html").read_text()
    assert 'id="folds"' in page and "each tested by a model that had not seen it" in page and "There is no test set" not in page


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--folds", "1"], 2, "--folds is '1'; it must be a whole number from 2 to 1,000"),
        (["--folds", "100"], 3, "100 folds cannot be made of 60 texts or groups"),
        (["--folds", "3", "--test-size", "0.2"], 2, "--test-size changes nothing beside --folds"),
    ],
)
def test_wrong_use(run: Run, few: Path, tiny_bert: Path, flags: list[str], code: int, said: str) -> None:
    done = run("train", few, "--model", tiny_bert, "--out", "m", *flags)
    assert done.code == code and said in done.err, done.err


def test_folds_of_somebody_else_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "m" / "folds" / "1").mkdir(parents=True)
    (tmp_path / "m" / "folds" / "1" / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="is not empty"):
        tunesmith.train(tiny.rows(12), folds=2, progress="quiet", out=tmp_path / "m")
    assert (tmp_path / "m" / "folds" / "1" / "letter.txt").read_text() == "dear"


def test_an_estimator_has_no_folds_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cross_val_score"):
        tunesmith.TextClassifier(settings={"folds": 3}).fit(["a", "b"], ["x", "y"])
    with pytest.raises(DataError, match="folds cannot be made"):
        tunesmith.train(["a", "b"], labels=["x", "y"], folds=3, progress="quiet", out=tmp_path / "m")
    with pytest.raises(DataError, match="folds cannot be made"):  # and nothing worth keeping is in the way of the next attempt
        tunesmith.train(["a", "b"], labels=["x", "y"], folds=4, progress="quiet", out=tmp_path / "m")
