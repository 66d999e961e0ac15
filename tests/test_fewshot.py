"""Few rows of each label: the encoder learns which texts belong together, then a logistic regression is the head."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import tunesmith
from killer import Server
from running import Run
from tunesmith.errors import DataError, UsageError
from tunesmith.training import fewshot
from tunesmith.training.fewshot import TEMPERATURE, Contrast, draw, holders_of, kinship, linear

SMALL = {"epochs": 6, "batch_size": 8, "lr": 3e-3, "precision": "fp32", "seed": 1}


def few(directory: Path, count: int = 24, labels: tuple[str, ...] = ("animal", "colour")) -> Path:
    return tiny.write_csv(directory / "few.csv", tiny.rows(count, seed=2, labels=labels))


def test_the_command(run: Run, tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    done = run(
        "train", few(tmp_path), "--test", reviews, "--model", tiny_bert, "--tuning", "fewshot", "--lr", "3e-3", "--epochs", "10",
        "--out", "model", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "which texts have the same label" in done.err
    assert "too few to learn" not in done.err and "valid:" not in done.err
    line = json.loads(done.out.splitlines()[-1])
    assert line["test"]["accuracy"] > 0.8 and line["valid"] is None
    assert line["training"]["steps"] == 8 and line["training"]["epochs"] == 10  # 24 rows ten times, 32 a step
    told = json.loads((tmp_path / "model" / "tunesmith.json").read_text())["result"]["training"]
    assert told["trained_parameters"] == told["parameters"]


def test_tuning_the_encoder_changes_it_and_beats_not_tuning_it(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    data, common = few(tmp_path), {"model": str(tiny_bert), "test": str(reviews), "tuning": "fewshot"}
    tuned = tunesmith.train(data, out=str(tmp_path / "tuned"), **common, **{**SMALL, "epochs": 20})
    still = tunesmith.train(data, out=str(tmp_path / "still"), **common, **{**SMALL, "lr": 1e-12, "epochs": 1})
    assert tuned.metrics["accuracy"] > still.metrics["accuracy"] + 0.05


def test_a_saved_model_predicts_what_was_evaluated(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    done = tunesmith.train(
        few(tmp_path), test=str(reviews), model=str(tiny_bert), tuning="fewshot", out=str(tmp_path / "m"), **SMALL
    )  # fmt: skip
    again = tunesmith.load(tmp_path / "m").evaluate(reviews)
    assert again["metrics"] == done.result["evaluations"]["test"]["metrics"]


def test_validation_rows_choose_the_checkpoint(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    done = tunesmith.train(
        few(tmp_path), valid=str(reviews), test_size=0.0, model=str(tiny_bert), tuning="fewshot", eval_steps=2, out=str(tmp_path / "m"),
        **SMALL,
    )  # fmt: skip
    scores = [one["metrics"]["accuracy"] for one in done.result["training"]["evaluations"]]
    assert len(scores) == 9
    assert done.result["evaluations"]["valid"]["metrics"]["accuracy"] == max(scores)


def test_several_labels_a_row_and_pairs(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [{"text": f"{a['text']} {b['text']}", "label": f"{a['label']}|{b['label']}" if a["label"] != b["label"] else a["label"]}
            for a, b in zip(tiny.rows(24, seed=1), tiny.rows(24, seed=2, labels=("neither", "colour")), strict=True)]  # fmt: skip
    data = tiny.write_csv(tmp_path / "several.csv", rows)
    done = tunesmith.train(
        data, test=str(data), label_separator="|", model=str(tiny_bert), tuning="fewshot", out=str(tmp_path / "s"), **SMALL
    )
    assert done.metrics["f1_micro"] > 0.7
    pairs = [{"premise": row["text"], "hypothesis": row["text"][:9], "label": row["label"]} for row in tiny.rows(24)]
    data = tiny.write_csv(tmp_path / "pairs.csv", pairs)
    done = tunesmith.train(data, out=str(tmp_path / "p"), test=str(data), model=str(tiny_bert), tuning="fewshot", **SMALL)
    assert done.result["task"] == "classification" and done.metrics["accuracy"] > 0.7


def test_long_texts_in_windows_and_steps_in_parts_give_the_same_head(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [{"text": " . ".join([row["text"]] * 3), "label": row["label"]} for row in tiny.rows(12)]
    data = tiny.write_csv(tmp_path / "long.csv", rows)
    common = {"model": str(tiny_bert), "test_size": 0.0, "tuning": "fewshot", "max_length": 16, "truncation": "windows", "stride": 2}
    found = [
        tunesmith.train(data, out=str(tmp_path / f"{size}"), **common, **SMALL, dropout=0.0, attention_dropout=0.0, max_tokens=size)
        for size in (10_000, 40)
    ]
    one, parts = (np.array(tunesmith.load(each.directory).probabilities([rows[0]["text"], rows[1]["text"]])) for each in found)
    assert np.allclose(one, parts, atol=2e-3)


# --- the loss and what is drawn --------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
    targets = torch.tensor([0, 0, 1, 1, 1, 2])
    wanted = []
    for i in range(5):  # the only row of label 2 has no pair
        others = [a for a in range(6) if a != i]
        below = sum(torch.exp(z[i] @ z[a] / TEMPERATURE) for a in others)
        same = [p for p in others if targets[p] == targets[i]]
        wanted.append(-sum(torch.log(torch.exp(z[i] @ z[p] / TEMPERATURE) / below) for p in same) / len(same))
    contrast = Contrast(None, 6, None, [])  # type: ignore[arg-type]
    found = contrast.loss(z, tiny.targets_only(targets))
    assert torch.allclose(found.sum() / 6, sum(wanted) / 5, atol=1e-5)


def test_rows_with_several_labels_are_kin_by_the_share_they_have_in_common() -> None:
    targets = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    assert kinship(targets).tolist() == [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_step_has_as_many_rows_of_each_of_its_labels_and_pairs_for_all() -> None:
    targets = np.repeat(np.arange(77), 8)
    holders = holders_of(targets)
    drawn = draw(holders, 32, seed=5)
    labels, counts = np.unique(targets[drawn], return_counts=True)
    assert len(drawn) == 32 and len(labels) == 8 and set(counts) == {4} and len(set(drawn.tolist())) == 32
    assert (draw(holders, 32, seed=5) == drawn).all() and (draw(holders, 32, seed=6) != drawn).any()
    skewed = draw(holders_of(np.array([0] * 50 + [1])), 8, seed=0)
    assert sorted(skewed.tolist())[-2:] == [50, 50], "the only row of a label is its own pair"


def test_rows_are_held_by_each_of_their_labels() -> None:
    assert [rows.tolist() for rows in holders_of(np.array([3, 0, 3, 1]))] == [[1], [3], [0, 2]]
    assert [rows.tolist() for rows in holders_of(np.array([[1.0, 0, 1], [1, 0, 0]]))] == [[0, 1], [0]]


def test_no_text_is_twice_in_a_step_of_a_run(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    original = fewshot.draw
    monkeypatch.setattr(fewshot, "draw", lambda *given: steps.append(original(*given)) or steps[-1])
    tunesmith.train(
        tiny.rows(24), model=tiny_bert, tuning="fewshot", epochs=5, batch_size=8, test_size=0, out=tmp_path / "m", progress="quiet"
    )
    assert len(steps) == 15 and all(len(set(drawn.tolist())) == len(drawn) == 8 for drawn in steps)


def test_an_average_needs_several_evaluations(tmp_path: Path, tiny_bert: Path) -> None:
    common = {"model": tiny_bert, "tuning": "fewshot", "epochs": 6, "batch_size": 8, "test_size": 0, "average": 3, "valid_size": 0.25}
    with pytest.raises(UsageError, match=r"the run has 14 steps\. Evaluate more often with eval_steps"):
        tunesmith.train(tiny.rows(24), out=tmp_path / "m", progress="quiet", **common)


def test_the_head_leaves_out_labels_without_a_row() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    weight, bias = linear(vectors, np.array([0, 2] * 6), 3)
    scores = vectors @ weight.T + bias
    assert weight.shape == (3, 3) and (scores.argmax(1) != 1).all()
    from sklearn.linear_model import LogisticRegression

    wanted = LogisticRegression(C=10.0).fit(vectors, np.array([0, 2] * 6)).predict_proba(vectors)[:, 1]
    odds = torch.softmax(torch.from_numpy(scores[:, [0, 2]]), 1)[:, 1].numpy()
    assert np.allclose(odds, wanted, atol=1e-4)


# --- resume ----------------------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_to_the_same_bits(server: Server, tmp_path: Path, tiny_bert: Path) -> None:
    flags = ["--model", tiny_bert, "--tuning", "fewshot", "--epochs", "8", "--batch-size", "8", "--lr", "3e-3", "--checkpoint-steps", "5"]
    data = few(tmp_path)
    assert server.run("train", data, "--out", tmp_path / "whole", *flags).code == 0
    trap = ("tunesmith.training.loop:clip", 13, "late")
    assert server.run("train", data, "--out", tmp_path / "cut", *flags, traps=[trap]).code == -signal.SIGKILL
    done = server.run("train", "--resume", "--out", tmp_path / "cut")
    assert done.code == 0 and "resuming after step 10" in done.err, done.err
    for name in ("model.safetensors", "head.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- wrong use -------------------------------------------------------------------------------------------------------------------


def test_one_row_of_a_label_is_compared_with_itself_and_said(run: Run, tmp_path: Path, tiny_bert: Path) -> None:
    data = few(tmp_path, 3, ("animal", "colour", "neither"))
    done = run("train", data, "--test-size", "0", "--model", tiny_bert, "--tuning", "fewshot", "--out", "model")
    assert done.code == 0, done.err
    assert "3 labels of 3 have a single row" in done.err


def test_many_rows_of_a_label_are_said(run: Run, tmp_path: Path, tiny_bert: Path) -> None:
    data = few(tmp_path, 200)
    done = run("train", data, "--model", tiny_bert, "--tuning", "fewshot", "--epochs", "1", "--out", "model")
    assert done.code == 0 and "is meant for 2 to 64 rows of a label" in done.err and "--tuning full" in done.err


def test_one_label_only(tmp_path: Path, tiny_bert: Path) -> None:
    data = few(tmp_path, 8, ("animal",))
    with pytest.raises(DataError, match="at least 2 different ones"):
        tunesmith.train(data, model=str(tiny_bert), tuning="fewshot", out=str(tmp_path / "m"))


def test_other_tasks_are_told_what_to_take(tmp_path: Path, tiny_bert: Path) -> None:
    data = tiny.write_csv(tmp_path / "scores.csv", [{"text": row["text"], "score": i / 7} for i, row in enumerate(tiny.rows(24))])
    with pytest.raises(
        UsageError, match=r"the task is regression. With few rows take tuning='last:2', which works for every task, or tuning='head'"
    ):
        tunesmith.train(data, model=str(tiny_bert), tuning="fewshot", task="regression", out=str(tmp_path / "m"))


@pytest.mark.parametrize("name, value", [("loss", "focal"), ("label_smoothing", 0.1), ("class_weights", "balanced")])
def test_settings_of_a_loss_that_is_not_used_are_refused(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name} changes nothing with tuning='fewshot'"):
        tunesmith.train(few(tmp_path), tuning="fewshot", out=str(tmp_path / "m"), **{name: value})


def test_another_pooling_and_a_probe_of_the_rate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lr find probes the loss of the labels"):
        tunesmith.train(few(tmp_path), tuning="fewshot", lr="find", out=str(tmp_path / "m"))
    with pytest.raises(UsageError, match=r"pooling cls: .* by the mean"):
        tunesmith.train(few(tmp_path), tuning="fewshot", pooling="cls", out=str(tmp_path / "m"))
