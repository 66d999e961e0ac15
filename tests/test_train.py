"""Training from the command line's point of view: files in, model directory out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
import tunesmith
from tunesmith.errors import Interrupted


def train(data, out: Path, model: Path, **settings):
    defaults = {"epochs": 3, "lr": 5e-3, "batch_size": 8, "max_length": 32, "precision": "fp32"}
    return tunesmith.train(data, out=out, model=model, progress="quiet", **{**defaults, **settings})


def test_learns_and_reports(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    trained = train(reviews, tmp_path / "m", tiny_bert, epochs=8)
    assert trained.metrics["accuracy"] == 1.0
    result = trained.result
    assert {name: part["rows"] for name, part in result["data"]["splits"].items()} == {"train": 96, "valid": 12, "test": 12}
    names = [yardstick["name"] for yardstick in result["evaluations"]["test"]["yardsticks"]]
    assert names[0].startswith("majority") and names[1].startswith("TF-IDF")
    files = {file.name for file in (tmp_path / "m").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tunesmith.json", "report.html", "README.md"} <= files
    assert not any("checkpoint" in name or name.startswith(".") for name in files)


def test_evaluation_of_the_saved_model_equals_the_report(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    test = tiny.write_csv(tmp_path / "test.csv", tiny.rows(60, seed=7))
    trained = train(reviews, tmp_path / "m", tiny_bert, test=test, epochs=1)
    found = tunesmith.load(tmp_path / "m").evaluate(test)
    assert found["metrics"] == trained.result["evaluations"]["test"]["metrics"]
    assert found["confusion"] == trained.result["evaluations"]["test"]["confusion"]


def test_same_seed_same_bits(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    for name in "ab":
        train(reviews, tmp_path / name, tiny_bert, epochs=1)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_predicting_nothing_gives_nothing(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    model = train(reviews, tmp_path / "m", tiny_bert, epochs=1).bundle
    assert model.predict([]) == []
    assert [prediction.label in model.labels for prediction in model.predict(["a red cat", ""])] == [True, True]


def test_a_model_that_is_to_be_replaced_stays_whole_until_the_new_one_is(
    tmp_path: Path, tiny_bert: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith import result

    old = train(reviews, tmp_path / "m", tiny_bert, epochs=1).bundle.predict(["a red cat"])

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(result, "assess", fail)
        train(reviews, tmp_path / "m", tiny_bert, overwrite=True, seed=1, epochs=2)
    assert tunesmith.load(tmp_path / "m").predict(["a red cat"]) == old
    resumed = train(reviews, tmp_path / "m", tiny_bert, resume=True, seed=1, epochs=2)
    assert resumed.result["training"]["epochs"] == 2
    assert not (tmp_path / "m" / "checkpoints").exists()


def test_with_several_labels_a_row_training_begins_at_their_shares(tmp_path: Path, tiny_bert: Path) -> None:
    labels = ["common"] * 9 + ["common|rare"]
    data = [{"text": row["text"], "label": label} for row, label in zip(tiny.rows(40), labels * 4, strict=True)]
    trained = train(
        data, tmp_path / "m", tiny_bert, epochs=1, batch_size=40, label_separator="|", valid_size=0.0, test_size=0.0, dropout=0.0
    )
    share = np.array([40.5 / 41, 4.5 / 41])  # smoothed by half a row
    expected = -(np.array([1.0, 0.1]) * np.log(share) + np.array([0.0, 0.9]) * np.log(1 - share)).mean()
    assert trained.result["training"]["history"][0]["loss"] == pytest.approx(expected, abs=0.05)
