"""Labels and their order, targets, losses against torch and scikit-learn, decoding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.class_weight import compute_class_weight

import tiny
import tunesmith
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Schema
from tunesmith.data.table import TokenTable, open_table
from tunesmith.data.tokens import TextEncoder, Truncation
from tunesmith.errors import DataError, UsageError
from tunesmith.tasks.classification import Classification, Prediction
from tunesmith.tasks.labels import class_weights
from tunesmith.tasks.rows import Rows


def table_of(labels: list[Any]) -> TokenTable:
    source = open_data({"text": ["x"] * len(labels), "label": labels})
    return open_table(source, Schema(("text",), "label"), TextEncoder(tiny.tokenizer(), Truncation()))


def fit(labels: list[Any], **settings: Any) -> Classification:
    return Classification.fit(table_of(labels).labels(), **settings)


def targets(labels: list[Any], task: Classification | None = None, **settings: Any) -> np.ndarray:
    table = table_of(labels)
    task = task if task is not None else Classification.fit(table.labels(), **settings)
    return task.targets(table).take(np.arange(len(labels)))


# what kind of task


@pytest.mark.parametrize(
    ("labels", "kind", "separator", "names"),
    [
        (["a", "b", "a"], "single", None, ["a", "b"]),
        (["a|b", "a", "b", "b|a"], "multi", "|", ["a", "b"]),
        (["a; b", "a", "b;c", "c; a"], "multi", ";", ["a", "b", "c"]),
        (["a,b", "b", "a", "c,a", "c"], "multi", ",", ["a", "b", "c"]),
        (["红|蓝", "红", "蓝"], "multi", "|", ["红", "蓝"]),
        # commas that belong to a name
        (["Food, drinks", "Cars, bikes"], "single", None, ["Cars, bikes", "Food, drinks"]),
        (["Food, drinks", "Cars", "Food, drinks"], "single", None, ["Cars", "Food, drinks"]),
        (["Food, drinks", "Food", "Cars"], "single", None, ["Cars", "Food", "Food, drinks"]),
        (["Washington, D.C.", "Paris, France", "Rome, Italy", "Nice, France"], "single", None, None),
        # a list says it plainly, even of one each
        ([["a"], ["b"]], "multi", None, ["a", "b"]),
        ([["a, b"], ["c", "a, b"], []], "multi", None, ["a, b", "c"]),
        ([0, 1, 1], "single", None, ["0", "1"]),
        ([True, False], "single", None, ["False", "True"]),
        ([1.0, 2.0], "single", None, ["1", "2"]),
    ],
)
def test_recognised(labels: list[Any], kind: str, separator: str | None, names: list[str] | None) -> None:
    task = fit(labels)
    assert (task.kind, task.separator) == (kind, separator)
    assert names is None or task.labels == names


def test_forced() -> None:
    assert fit(["a|b", "a", "b"], label_type="single").labels == ["a", "a|b", "b"]
    assert fit(["Food, drinks", "Cars, bikes"], label_type="multi").labels == ["Cars", "Food", "bikes", "drinks"]
    task = fit(["a", "b"], label_type="multi")
    assert (task.kind, task.labels, task.separator) == ("multi", ["a", "b"], None)
    task = fit(["a/b", "b/c"], separator="/")
    assert (task.kind, task.labels, task.separator) == ("multi", ["a", "b", "c"], "/")
    assert fit([["a"], ["b"]], label_type="single").kind == "single"


@pytest.mark.parametrize("labels", [["a", "a"], [None, "a"], [None, None], [["a"], ["a"], []]])
def test_too_few_labels(labels: list[Any]) -> None:
    with pytest.raises(DataError, match="too few labels"):
        fit(labels)


# the order of labels


def test_numbers_are_ordered_by_value_and_before_words() -> None:
    assert fit(["10", "9", "b", "-1", "2.5", "a", "1e1"]).labels == ["-1", "2.5", "9", "10", "1e1", "a", "b"]
    assert fit([10, 9, 0, -3]).labels == ["-3", "0", "9", "10"]


def test_digits_within_words_are_ordered_by_value() -> None:
    assert fit(["class 10", "class 2", "class 1", "b3", "b12c", "b12", "3"]).labels == [
        "3",
        "b3",
        "b12",
        "b12c",
        "class 1",
        "class 2",
        "class 10",
    ]
    assert fit(["v1.10", "v1.9", "v01", "v1"]).labels == ["v01", "v1", "v1.9", "v1.10"]


def test_words_that_python_reads_as_numbers() -> None:
    assert fit(["nan", "b", "inf", "a", "3", "Infinity", "NaN", "1_0"]).labels == ["3", "1_0", "Infinity", "NaN", "a", "b", "inf", "nan"]


@given(st.permutations(["nan", "inf", "-inf", "1", "01", "1.0", "x", "Å", "猫", "infinity", "NAN"]))
@settings(deadline=None, max_examples=25)
def test_the_order_depends_on_the_names_alone(names: list[str]) -> None:
    assert fit(names).labels == fit(sorted(names)).labels


def test_the_order_is_the_same_in_every_process() -> None:
    """Python draws the order of a set of strings anew in each process."""
    code = (
        "from types import SimpleNamespace as N;from tunesmith.tasks.classification import Classification;"
        "print(Classification.fit(N(names=['nan','b','10','9','NaN','a','inf'],from_list=False)).labels)"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert found == {"['9', '10', 'NaN', 'a', 'b', 'inf', 'nan']\n"}


def test_names_reach_the_saved_configuration_in_the_order_of_the_outputs(tmp_path: Path, tiny_bert: Path) -> None:
    """What a class is called must not depend on the order of the file, nor be lost on the way to transformers."""
    from transformers import AutoModelForSequenceClassification

    names = {"animal": "10", "colour": "9", "neither": "zebra, or none"}
    rows = [{"text": row["text"], "label": names[row["label"]]} for row in tiny.rows(90, labels=tuple(names))]
    same: dict[str, Any] = {"model": tiny_bert, "epochs": 10, "lr": 5e-3, "batch_size": 8, "progress": "quiet", "precision": "fp32"}
    trained = tunesmith.train(rows, out=tmp_path / "m", valid_size=0.0, test_size=0.0, **same)
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").config
    assert config.id2label == {0: "9", 1: "10", 2: "zebra, or none"}
    assert config.label2id == {"9": 0, "10": 1, "zebra, or none": 2}
    assert config.problem_type == "single_label_classification"
    assert trained.bundle.labels == ["9", "10", "zebra, or none"]
    # a test file with its labels in another order, and one of them missing, is scored by name
    test = [row for row in rows[::-1] if row["label"] != "zebra, or none"]
    predictions = trained.bundle.predict(test)
    right = np.mean([prediction.label == row["label"] for prediction, row in zip(predictions, test, strict=True)])
    assert right == trained.bundle.evaluate(test)["metrics"]["accuracy"] == 1.0


# targets


def test_single_targets() -> None:
    assert targets(["b", "a", "c", "a"]).tolist() == [1, 0, 2, 0]
    assert targets(["b", "a"]).dtype == np.int64
    assert targets([["b"], ["a"]], label_type="single").tolist() == [1, 0]


label_rows = st.lists(st.lists(st.sampled_from("abcde"), max_size=4), min_size=1, max_size=30)


@given(label_rows, st.sampled_from(["list", "|", ";"]))
@settings(deadline=None, max_examples=40)
def test_several_targets_equal_scikit_learns(rows: list[list[str]], form: str) -> None:
    task = Classification(list("abcde"), "multi", separator=None if form == "list" else form)
    data = rows if form == "list" else [f" {form} ".join(row) or None for row in rows]
    expected = MultiLabelBinarizer(classes=list("abcde")).fit_transform([set(row) for row in rows])
    table = table_of(data)
    found = task.targets(table)
    assert found.take(np.arange(len(rows))).tolist() == expected.tolist()
    assert found.take(np.arange(len(rows))).dtype == np.float32
    backwards = np.arange(len(rows))[::-1][: len(rows) // 2 + 1]
    assert found.take(backwards).tolist() == expected[backwards].tolist()
    chosen = np.arange(0, len(rows), 2)
    assert found.counts(chosen).tolist() == expected[chosen].sum(0).tolist()
    digests = found.digests()
    for i in range(len(rows)):
        for j in range(i):
            assert (digests[i] == digests[j]) == (set(rows[i]) == set(rows[j]))


def test_a_label_named_twice_counts_once() -> None:
    assert fit(["a|a|b", "b| |a", "a"]).labels == ["a", "b"]
    table = table_of([["a", "a", "b"], ["b"]])
    task = Classification.fit(table.labels())
    found = task.targets(table)
    assert found.take(np.arange(2)).tolist() == [[1, 1], [0, 1]]
    assert found.counts(np.arange(2)).tolist() == [1, 2]
    assert found.digests()[0] != found.digests()[1]


def test_stratum_is_the_rarest_label() -> None:
    table = table_of([["a", "b"], ["a"], ["a", "c", "b"], [], ["b"]])
    assert Classification.fit(table.labels()).targets(table).stratum().tolist() == [1, 0, 2, 3, 1]


def test_an_unknown_label_is_named_with_its_place(tmp_path: Path) -> None:
    task = fit(["positive", "negative", "neutral"])
    table = table_of(["positive", None, "neutal", "neutal"])
    with pytest.raises(DataError) as caught:
        task.targets(table)
    message = str(caught.value)
    assert message.startswith("<dict>:3: label 'neutal' is not one of the training labels: negative, neutral, positive.")
    assert "Did you mean 'neutral'?" in message
    table = table_of([["a"], [], ["a", "b"], ["b", "x"]])
    with pytest.raises(DataError, match="<dict>:4: label 'x' is not one of"):
        Classification(["a", "b"], "multi").targets(table)
    table = table_of(["a|b", "b|x"])
    with pytest.raises(DataError, match="<dict>:2: label 'x' is not one of"):
        Classification(["a", "b"], "multi", separator="|").targets(table)


@pytest.mark.parametrize(("cell", "count"), [(["a", "b"], 2), ([], 0)])
def test_other_than_one_label_where_one_is_expected(cell: list[str], count: int) -> None:
    table = table_of([["a"], ["b"], cell])
    with pytest.raises(DataError, match=f"<dict>:3: the row has {count} labels where one is expected. Try label_type=.multi."):
        Classification(["a", "b"], "single").targets(table)


def test_rows_without_a_label_are_no_error_here() -> None:
    table = table_of(["a", None, "b"])
    found = Classification.fit(table.labels()).targets(table)
    assert found.take(np.array([0, 2])).tolist() == [0, 1] and len(found) == 3


# weights and losses


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
@settings(deadline=None, max_examples=40)
def test_balanced_weights_equal_scikit_learns(extra: list[int]) -> None:
    codes = np.array([*range(5), *extra])
    found = class_weights("balanced", list("abcde"), np.bincount(codes), multi=False)
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(5), y=codes))
    assert np.mean(np.array(found)[codes]) == pytest.approx(1)


def test_balanced_weights_of_several_labels_a_row() -> None:
    found = np.array(class_weights("balanced", list("abc"), np.array([10, 20, 40]), multi=True))
    np.testing.assert_allclose(found / found[0], [1, 1 / 2, 1 / 4])
    assert found.mean() == pytest.approx(1)
    assert np.isfinite(class_weights("balanced", ["a", "b"], np.array([0, 3]), multi=False)).all()


def test_weights_by_name() -> None:
    assert class_weights("none", ["a", "b"], np.array([1, 9]), multi=False) is None
    assert class_weights({"b": 2.5}, ["a", "b"], np.array([1, 9]), multi=False) == [1.0, 2.5]
    with pytest.raises(UsageError, match=r"names 'colur', which is not a label\. Did you mean 'colour'\? Labels: animal, colour\."):
        class_weights({"colur": 2}, ["animal", "colour"], np.array([1, 9]), multi=False)


LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 3
CODES = torch.tensor([0, 3, 2, 2, 1, 0, 3])
MATRIX = torch.randint(0, 2, (7, 4), generator=torch.Generator().manual_seed(1)).float()
WEIGHTS = [0.5, 1.0, 2.0, 3.5]


def single(**settings: Any) -> torch.Tensor:
    return Classification(list("abcd"), "single", **settings).loss(LOGITS, tiny.targets_only(CODES))


def multi(**settings: Any) -> torch.Tensor:
    return Classification(list("abcd"), "multi", **settings).loss(LOGITS, tiny.targets_only(MATRIX))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torchs(smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, CODES, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(single(label_smoothing=smoothing), expected)
    # the weight of an example is that of its own label
    weighted = expected * torch.tensor(WEIGHTS)[CODES]
    torch.testing.assert_close(single(label_smoothing=smoothing, weights=WEIGHTS), weighted)


def test_weighted_cross_entropy_equals_torchs() -> None:
    torch.testing.assert_close(single(weights=WEIGHTS), F.cross_entropy(LOGITS, CODES, torch.tensor(WEIGHTS), reduction="none"))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_equals_torchs(smoothing: float) -> None:
    soft = MATRIX * (1 - smoothing) + smoothing * 0.5
    expected = F.binary_cross_entropy_with_logits(LOGITS, soft, reduction="none")
    torch.testing.assert_close(multi(label_smoothing=smoothing), expected.mean(1))
    torch.testing.assert_close(multi(label_smoothing=smoothing, weights=WEIGHTS), (expected * torch.tensor(WEIGHTS)).mean(1))


def test_focal_loss() -> None:
    torch.testing.assert_close(single(loss_name="focal", focal_gamma=0.0), single())
    torch.testing.assert_close(multi(loss_name="focal", focal_gamma=0.0), multi())
    p = torch.softmax(LOGITS, 1)[torch.arange(7), CODES]
    torch.testing.assert_close(single(loss_name="focal", focal_gamma=2.0), -((1 - p) ** 2) * torch.log(p))
    q = torch.sigmoid(LOGITS)
    q = MATRIX * q + (1 - MATRIX) * (1 - q)
    torch.testing.assert_close(multi(loss_name="focal", focal_gamma=3.0), (-((1 - q) ** 3) * torch.log(q)).mean(1))
    weighted = single(loss_name="focal", focal_gamma=2.0, weights=WEIGHTS)
    torch.testing.assert_close(weighted, single(loss_name="focal", focal_gamma=2.0) * torch.tensor(WEIGHTS)[CODES])


@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_losses_stay_finite(loss: str) -> None:
    outputs = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    for kind, wanted in (("single", torch.tensor([0, 0])), ("multi", torch.tensor([[1.0, 0.0], [1.0, 0.0]]))):
        task = Classification(["a", "b"], kind, loss_name=loss, focal_gamma=0.5)  # a root, whose slope at zero has no bound
        values = task.loss(outputs, tiny.targets_only(wanted))
        assert bool(torch.isfinite(values).all())
        assert bool(torch.isfinite(torch.autograd.grad(values.sum(), outputs)[0]).all()), (kind, loss)


# probabilities and decoding


def test_probabilities() -> None:
    found = Classification(list("abcd"), "single").probabilities(LOGITS.numpy())
    np.testing.assert_allclose(found, torch.softmax(LOGITS, 1).numpy())
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    found = Classification(list("abcd"), "multi").probabilities(LOGITS.numpy())
    np.testing.assert_allclose(found, torch.sigmoid(LOGITS).numpy())


def test_decode() -> None:
    values = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    assert list(Classification(["a", "b"], "single").decided(values)) == [
        Prediction("b", 0.75, {"a": 0.25, "b": 0.75}),
        Prediction("a", 0.5, {"a": 0.5, "b": 0.5}),
    ]
    assert list(Classification(["a", "b"], "multi").decided(values)) == [
        Prediction(["b"], [0.75], {"a": 0.25, "b": 0.75}),
        Prediction(["a", "b"], [0.5, 0.5], {"a": 0.5, "b": 0.5}),
    ]
    assert [p.label for p in Classification(["a", "b"], "multi", thresholds=[0.2, 0.8]).decided(values)] == [["a"], ["a"]]
    assert [p.label for p in Classification(["a", "b"], "multi", thresholds=[0.6, 0.9]).decided(values)] == [[], []]


@pytest.mark.parametrize(
    "task",
    [
        Classification(["b", "a"], "single", aggregation="max"),
        Classification(["a", "b"], "multi", thresholds=[0.25, 0.5], separator="|"),
    ],
    ids=["single", "multi"],
)
def test_description_round_trip(task: Classification) -> None:
    import json

    assert Classification.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_the_first_bias_says_how_often_a_label_is_there() -> None:
    task = Classification(["a", "b", "c"], "multi")
    table = table_of([["a"]] * 10 + [["c"]] * 490 + [[]] * 500)
    bias = task.first_bias(Rows(table, np.arange(1000), task.targets(table)))
    assert bias is not None and bias.dtype == np.float32
    np.testing.assert_allclose(task.probabilities(bias[None])[0], [10.5 / 1001, 0.5 / 1001, 490.5 / 1001], atol=1e-4)
    table = table_of(["a"] * 9 + ["b"])
    task = Classification(["a", "b"], "single")
    assert task.first_bias(Rows(table, np.arange(10), task.targets(table))) is None
