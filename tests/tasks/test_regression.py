"""Regression: numbers read, standardised and given back in their own units; scores against scipy and scikit-learn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error

import tiny
import tunesmith
from running import Run
from tunesmith.data.measured import looks_measured, number_in
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Schema, choose_task
from tunesmith.data.table import open_table
from tunesmith.data.tokens import TextEncoder, Truncation
from tunesmith.errors import DataError, ModelError
from tunesmith.regression_metrics import agreement_bins, regression, regression_intervals
from tunesmith.resolve import resolve
from tunesmith.tasks.regression import NumberTargets, Regression

ROW = {"text": "red cat", "score": 1.5}


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The score is 100 plus ten times the share of words that are colours."""
    generator, found = random.Random(seed), []
    for _ in range(count):
        colours = generator.randint(0, 10)
        words = generator.choices(tiny.COLOURS, k=colours) + generator.choices(tiny.ANIMALS, k=10 - colours)
        generator.shuffle(words)
        found.append({"text": " ".join(words), "score": round(100 + colours + generator.random() / 10, 3)})
    return found


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    out = tmp_path_factory.mktemp("regression") / "m"
    return tunesmith.train(rows(400), out=out, model=tiny_bert, progress="quiet", epochs=12, lr=5e-3, batch_size=16, max_length=32)


def values(scores: list[Any]) -> np.ndarray:
    source = open_data({"text": ["x"] * len(scores), "score": scores})
    table = open_table(source, Schema(("text",), "score"), TextEncoder(tiny.tokenizer(), Truncation()))
    return Regression().targets(table).values


def test_learns_to_count(trained: tunesmith.TrainResult) -> None:
    assert trained.metrics["pearson"] > 0.9 and trained.metrics["mae"] < 1.5
    evaluation = trained.result["evaluations"]["test"]
    assert sum(group["count"] for group in evaluation["agreement"]) == evaluation["rows"]
    assert '<section id="agreement">' in (trained.directory / "report.html").read_text(encoding="utf-8")
    assert [yardstick["name"] for yardstick in evaluation["yardsticks"]] == ["mean", "TF-IDF + ridge regression"]
    assert set(evaluation["yardsticks"][0]["metrics"]) == {"mse", "mae"}  # a constant has no correlation
    low, high = evaluation["intervals"]["pearson"]
    assert low < trained.metrics["pearson"] < high
    assert trained.result["data"]["splits"]["train"]["targets"]["least"] >= 100


def test_transformers_gives_values_in_the_units_of_the_file(trained: tunesmith.TrainResult) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    texts = [row["text"] for row in rows(8, 5)]
    ours = [found.score for found in trained.bundle.predict(texts)]
    model = AutoModelForSequenceClassification.from_pretrained(trained.directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.directory)
    with torch.inference_mode():
        theirs = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0]
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-3)
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    piped = pipeline("text-classification", str(trained.directory), function_to_apply="none")
    assert [found["score"] for found in piped(texts)] == pytest.approx(ours, abs=1e-3)


def test_a_head_without_bias_keeps_the_scale_beside_it(tmp_path: Path) -> None:
    encoder = tiny.save_encoder(tmp_path / "gpt2", "gpt2")
    trained = tunesmith.train(rows(60), out=tmp_path / "m", model=encoder, progress="quiet", epochs=1, max_length=32)
    assert trained.bundle.description["task"]["mean"] > 90  # its last layer cannot add anything
    assert abs(trained.bundle.predict("red red cat").score - 105) < 20
    assert trained.bundle.predict("red red cat") == tunesmith.load(tmp_path / "m").predict("red red cat")


def test_clipping_holds_at_prediction(tiny_bert: Path, tmp_path: Path) -> None:
    settings = {"model": tiny_bert, "progress": "quiet", "epochs": 3, "lr": 5e-3, "max_length": 32, "clip": "104,106"}
    trained = tunesmith.train(rows(100), out=tmp_path / "m", **settings)
    found = [prediction.score for prediction in trained.bundle.predict([row["text"] for row in rows(50, 3)])]
    assert min(found) >= 104 and max(found) <= 106
    assert any("training values lie outside clip 104,106; they can never be predicted" in note for note in trained.result["data"]["notes"])


def test_windows_are_merged(tiny_bert: Path, tmp_path: Path) -> None:
    settings = {"model": tiny_bert, "progress": "quiet", "epochs": 1, "max_length": 8, "truncation": "windows", "stride": 2}
    trained = tunesmith.train(rows(40), out=tmp_path / "m", **settings)
    text = rows(1, 4)[0]["text"]
    assert trained.bundle.predict(text) == trained.bundle.predict([text, "red"])[0]
    assert trained.result["data"]["splits"]["train"]["account"]["windows"] > 40


def test_pairs_have_the_untrained_cosine_beside_them(tiny_bert: Path, tmp_path: Path) -> None:
    data = [{"sentence1": a["text"], "sentence2": b["text"], "score": b["score"]} for a, b in zip(rows(60), rows(60, 1), strict=True)]
    data[:6] = [{**row, "sentence2": row["sentence1"]} for row in data[:6]]  # identical texts in a pair
    trained = tunesmith.train(data, out=tmp_path / "m", model=tiny_bert, progress="quiet", epochs=1, max_length=48)
    assert trained.result["data"]["columns"] == {"text": "sentence1", "text_pair": "sentence2", "label": "score"}
    cosine = trained.result["evaluations"]["test"]["yardsticks"][2]
    assert cosine["name"] == "cosine, untrained" and set(cosine["metrics"]) == {"pearson", "spearman"}, cosine
    assert isinstance(trained.bundle.predict(("red", "red")).score, float)


# numbers and their faults


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.5", 1.5), ("1e39", None), ("1_5", None), (" -2 ", -2), ("1,5", 1.5), ("1e3", 1000), ("4", 4),
        ("", None), ("nan", None), ("inf", None), ("1,000.5", None), ("½", None)],
)  # fmt: skip
def test_numbers(text: str, number: float | None) -> None:
    assert number_in(text) == number


DECIMALS = [i / 7 for i in range(50)]


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        (DECIMALS, True),
        ([str(value) for value in DECIMALS], True),
        ([*DECIMALS, None], True),
        ([float(i % 5) for i in range(50)], False),  # stars are labels as well as values
        (list(range(50)), False),
        ([*DECIMALS, "high"], False),
        ([f"{i},{i % 7}" for i in range(50)], False),  # labels that are joined look the same
        ([*map(str, DECIMALS), "3.1", "3.10"], False),  # versions
        ([*map(str, DECIMALS), "005.13"], False),
        ([*map(str, DECIMALS), "1_5"], False),
    ],
)
def test_measured_values_are_recognised(scores: list[Any], found: bool) -> None:
    assert looks_measured(open_data({"text": ["x"] * len(scores), "score": scores}), "score") is found


@pytest.mark.parametrize(
    ("columns", "settings", "task"),
    [
        ({"score": DECIMALS}, {}, "regression"),
        ({"price": DECIMALS}, {}, "regression"),
        ({"label": ["a", "b"] * 25, "score": DECIMALS}, {}, "classification"),  # a score beside labels is somebody's confidence
        ({"label": ["a", "b"] * 25, "score": DECIMALS}, {"label": "score"}, "regression"),
        ({"label": ["a", "b"] * 25, "score": DECIMALS}, {"task": "regression"}, "regression"),
        ({"score": DECIMALS}, {"label_type": "single"}, "classification"),
        ({"label": ["1", "2", "3", "4", "5"] * 10}, {"clip": "1,5"}, "regression"),
    ],
)
def test_which_task_is_meant(columns: dict[str, Any], settings: dict[str, Any], task: str) -> None:
    source = open_data({"text": [f"text {i}" for i in range(50)], **columns})
    assert choose_task(source, resolve(settings)) == task


@pytest.mark.parametrize(
    ("task", "settings", "says"),
    [
        ("regression", {"loss": "focal"}, "loss means nothing for regression, which was told; it belongs to classification, pair"),
        ("classification", {"clip": "0,5"}, "clip means nothing for classification, which was told; it belongs to regression"),
        ("auto", {"clip": "0,5", "label_type": "multi"}, "means nothing for .*, which was recognised from the data"),
    ],
)
def test_settings_of_another_task_are_refused(task: str, settings: dict[str, Any], says: str) -> None:
    source = open_data({"text": ["a", "b"], "label": ["x", "y"]})
    with pytest.raises(tunesmith.errors.UsageError, match=says):
        choose_task(source, resolve({"task": task, **settings}))


def test_large_values_keep_their_digits(tiny_bert: Path, tmp_path: Path) -> None:
    data = [{**row, "score": 2e7 + (row["score"] - 100) / 4} for row in rows(200)]
    trained = tunesmith.train(data, out=tmp_path / "m", model=tiny_bert, progress="quiet", epochs=8, lr=5e-3, max_length=32)
    predicted = [found.score for found in trained.bundle.predict([row["text"] for row in rows(40, 3)])]
    assert len({round(value, 3) for value in predicted}) > 20 and trained.metrics["mae"] < 0.7
    exact = trained.bundle.evaluate(data, precision="bf16")["metrics"]["mae"]
    assert exact == pytest.approx(trained.bundle.evaluate(data)["metrics"]["mae"], rel=0.2)


def test_thousands_or_decimals(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":2: in '2,412' the mark may stand before decimals or before thousands"):
        values(["5", "2,412", "433"])
    for mixed in (["249.5", "1,330"], ["165,5", "8.214"]):
        with pytest.raises(DataError, match="the mark may stand before decimals or before thousands"):
            values(mixed)
    np.testing.assert_array_equal(values(["5", "2,412", "0,5"]), [5, 2.412, 0.5])
    np.testing.assert_array_equal(values(["1.234", "2.5", "3.111"]), [1.234, 2.5, 3.111])


def test_values_of_a_table() -> None:
    np.testing.assert_array_equal(values([1, "2,5", None, "-3e-1", 1]), [1, 2.5, np.nan, -0.3, 1])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("high", r"'high' is not a number\. The model predicts numbers"),
        ([1, 2], "there are 2 values where one is expected"),
        ("inf", "not a number"),
        ([], "there are 0 values"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_named(bad: Any, says: str) -> None:
    with pytest.raises(DataError, match=rf"rows:4: .*{says}|:4: .*{says}"):
        values([1.5, 2.5, 3.5, bad, 4.5])


def test_a_constant_target_is_refused(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "x.csv", [{"text": f"red {i}", "score": "2.5"} for i in range(30)])
    done = run("train", "x.csv", "--task", "regression", "--model", tiny_bert, "--out", "m")
    assert done.code == 3 and "all training values are the same, so there is nothing to learn. Is --label the right column?" in done.err


def test_constant_values_in_the_test_have_errors_but_no_correlation(trained: tunesmith.TrainResult) -> None:
    found = trained.bundle.evaluate([{"text": "red cat", "score": 101.0}, {"text": "red dog", "score": 101.0}])
    assert set(found["metrics"]) == {"mse", "mae"}
    assert found["remarks"] == ["All true values are 101, so that a correlation with them does not exist."]


def test_a_metric_that_cannot_be_computed_is_refused_at_once(tiny_bert: Path, tmp_path: Path) -> None:
    valid = [{"text": "red cat", "score": 101.5}] * 5
    settings = {"valid": valid, "task": "regression", "model": tiny_bert, "progress": "quiet", "epochs": 1}
    with pytest.raises(DataError, match=r"'pearson' cannot be computed.*differ in their value.*mean 101.5.*another metric: mse, mae"):
        tunesmith.train(rows(30), out=tmp_path / "m", metric="pearson", **settings)
    trained = tunesmith.train(rows(30), out=tmp_path / "m", **settings)  # who named no metric gets one that can be computed
    assert trained.result["metric"] == "mse"
    assert any("pearson has no value on 5 validation rows" in note for note in trained.result["data"]["notes"])


def test_metrics_of_labels_are_refused(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "x.csv", [{**row, "score": str(row["score"])} for row in rows(30)])
    done = run("train", "x.csv", "--model", tiny_bert, "--metric", "accuracy", "--out", "m")
    assert done.code == 2 and "not one of those for regression: pearson, spearman, mse, mae" in done.err


def test_probabilities_are_refused(trained: tunesmith.TrainResult) -> None:
    with pytest.raises(tunesmith.errors.UsageError, match="a model for regression has no probabilities"):
        trained.bundle.probabilities(["red"])


# scores


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=3, max_size=40))
@settings(max_examples=60, deadline=None)
def test_scores_equal_scipys_and_scikit_learns(pairs: list[tuple[float, float]]) -> None:
    gold, predicted = np.array(pairs).T
    found = regression(gold, predicted)
    assert found["mse"] == pytest.approx(mean_squared_error(gold, predicted)) and found["mae"] == pytest.approx(
        mean_absolute_error(gold, predicted)
    )
    if np.ptp(gold) > 1e-3 and np.ptp(predicted) > 1e-3:
        assert found["pearson"] == pytest.approx(stats.pearsonr(gold, predicted).statistic, abs=1e-6)
        assert found["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic, abs=1e-6)


def test_intervals_cover_and_repeat() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=200)
    predicted = gold + rng.normal(size=200)
    found = regression_intervals(gold, predicted, seed=1)
    assert found == regression_intervals(gold, predicted, seed=1) != regression_intervals(gold, predicted, seed=2)
    scores = regression(gold, predicted)
    assert all(low < scores[name] < high for name, (low, high) in found.items()) and set(found) == set(scores)
    fisher = stats.pearsonr(gold, predicted).confidence_interval()
    assert found["pearson"] == pytest.approx([fisher.low, fisher.high], abs=0.04)


def test_diverged_predictions_are_an_error() -> None:
    with pytest.raises(ModelError, match="1 of 2 predictions are not finite numbers"):
        regression(np.array([1.0, 2.0]), np.array([np.nan, 1.0]))
    with pytest.raises(DataError, match="no rows with a value"):
        regression(np.zeros(0), np.zeros(0))


def test_agreement_in_groups_of_equal_size() -> None:
    gold = np.arange(100.0)
    groups = agreement_bins(gold, gold / 2)
    assert [group["count"] for group in groups] == [10] * 10
    assert groups[0]["gold"] == 4.5 and groups[0]["predicted"] == 2.25 and groups[0]["spread"] == pytest.approx(np.arange(10).std())
    assert len(agreement_bins(gold[:3], gold[:3])) == 3


def test_strata_are_tenths_and_keep_equal_values_together() -> None:
    strata = NumberTargets(np.arange(100.0)).stratum()
    assert np.bincount(strata).tolist() == [10] * 10
    few = NumberTargets(np.array([1.0, 1.0, 5.0, 1.0, 5.0])).stratum()
    assert few[0] == few[1] == few[3] != few[2] == few[4]


def test_the_loss_is_that_of_the_standardised_value() -> None:
    task = Regression(mean=10.0, scale=4.0)
    outputs = torch.tensor([[0.5], [-1.0]])
    found = task.loss(outputs, tiny.targets_only(torch.tensor([12.0, 8.0])))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25]))


@pytest.mark.parametrize("task", [Regression(), Regression(1.5, 2.5, (0, 5), "max")])
def test_description_round_trip(task: Regression) -> None:
    assert Regression.from_dict(task.to_dict()) == task


# the audit


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([str(i / 8) for i in range(30)], "Values: 30 different in column 'score', least 0, mean 1.812, greatest 3.625"),
        (["high", *(str(i / 8) for i in range(29))], "error    column 'score' holds what is not a number: 'high' (1)."),
        (["1.5"] * 30, "error    all values of column 'score' are the same."),
    ],
)
def test_the_audit_speaks_of_numbers(run: Run, tmp_path: Path, scores: list[str], says: str) -> None:
    tiny.write_csv(tmp_path / "x.csv", [{"text": f"red cat {i}", "score": score} for i, score in enumerate(scores)])
    done = run("check", "x.csv", "--task", "regression")
    assert done.code == 0 and says in done.out, done.out


def test_the_audit_of_labels_names_measured_values(run: Run, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "x.csv", [{"text": f"red cat {i}", "label": str(i / 8)} for i in range(30)])
    done = run("check", "x.csv", "--task", "classification")
    assert "it is a measured value, not a class" in done.out and "--task regression" in done.out


def test_measured_values_are_known_among_slips_of_the_keyboard(run: Run, tmp_path: Path) -> None:
    scores = [*(str(i / 8) for i in range(30)), "n/a", "3,,5"]
    tiny.write_csv(tmp_path / "x.csv", [{"text": f"red cat {i}", "label": score} for i, score in enumerate(scores)])
    done = run("check", "x.csv", "--task", "classification")
    told = " ".join(done.out.split())
    assert "holds 30 different numbers, but for what is no number: '3,,5' (1), 'n/a' (1): it is a measured value, not a class." in told
    assert "--task regression" in done.out
