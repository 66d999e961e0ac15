"""The same rows in whatever container give the same model to the bit, and the same predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

import tiny
import tunesmith

ROWS = tiny.rows(16, seed=6)
TEXTS = [row["text"] for row in ROWS]
LABELS = [row["label"] for row in ROWS]
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "lr": 1e-3,
    "batch_size": 8,
    "max_length": 16,
    "valid_size": 0.25,
    "test_size": 0.0,
    "precision": "fp32",
    "progress": "quiet",
}


def dataset(**columns: Any) -> Any:
    import datasets

    return datasets.Dataset.from_dict(columns)


def dataset_of_class_labels(where: Path) -> Any:
    import datasets

    names = sorted(set(LABELS))
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"text": TEXTS, "label": [names.index(label) for label in LABELS]}, features=features)


def file(name: str) -> Callable[[Path], Path]:
    def write(where: Path) -> Path:
        path = where / name
        frame = pd.DataFrame(ROWS)
        if name.endswith(".csv"):
            return tiny.write_csv(path, ROWS)
        if name.endswith(".tsv"):
            frame.to_csv(path, index=False, sep="\t")
        elif name.endswith(".jsonl"):
            frame.to_json(path, orient="records", lines=True)
        else:
            pyarrow.parquet.write_table(pa.table(frame), path)
        return path

    return write


# each makes what is passed as `data`; those in WITH_LABELS are texts alone
TABLES: dict[str, Callable[[Path], Any]] = {
    "list of dicts": lambda where: ROWS,
    "tuple of dicts": lambda where: tuple(ROWS),
    "dict of columns": lambda where: {"text": TEXTS, "label": LABELS},
    "dict of arrays": lambda where: {"text": np.array(TEXTS), "label": np.array(LABELS, object)},
    "array of dicts": lambda where: np.array(ROWS),
    "pandas, object": lambda where: pd.DataFrame(ROWS, dtype=object),
    "pandas, string": lambda where: pd.DataFrame(ROWS, dtype="string"),
    "pandas, categories, odd index": lambda where: pd.DataFrame(ROWS, index=range(16, 0, -1)).astype({"label": "category"}),
    "pandas, more columns": lambda where: pd.DataFrame(ROWS).assign(number=1, when=pd.Timestamp(0)),
    "arrow": lambda where: pa.table({"text": TEXTS, "label": LABELS}),
    "arrow in chunks": lambda where: pa.concat_tables([pa.table({"text": TEXTS[i::2], "label": LABELS[i::2]}) for i in (0, 1)]).take(
        [i // 2 + 8 * (i % 2) for i in range(16)]
    ),
    "arrow dictionary": lambda where: pa.table({"text": TEXTS, "label": pa.array(LABELS).dictionary_encode()}),
    "arrow batch": lambda where: pa.RecordBatch.from_pylist(ROWS),
    "datasets": lambda where: dataset(text=TEXTS, label=LABELS),
    "datasets with class labels": dataset_of_class_labels,
    "csv": file("rows.csv"),
    "tsv": file("rows.tsv"),
    "jsonl": file("rows.jsonl"),
    "parquet": file("rows.parquet"),
    "path as text": lambda where: str(file("again.csv")(where)),
}
WITH_LABELS: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "list": lambda where: (TEXTS, LABELS),
    "tuple": lambda where: (tuple(TEXTS), tuple(LABELS)),
    "array": lambda where: (np.array(TEXTS), np.array(LABELS)),
    "array of objects": lambda where: (np.array(TEXTS, object), np.array(LABELS, object)),
    "column of an array": lambda where: (np.array(TEXTS)[:, None], LABELS),
    "series": lambda where: (pd.Series(TEXTS, index=range(16, 0, -1)), pd.Series(LABELS, dtype="string")),
    "arrow array": lambda where: (pa.array(TEXTS), pa.array(LABELS)),
    "arrow chunked array": lambda where: (pa.chunked_array([TEXTS[:5], TEXTS[5:]]), LABELS),
    "column of a dataset": lambda where: (dataset(text=TEXTS)["text"], LABELS),
}


def weights(data: Any, out: Path, model: Path, **settings: Any) -> bytes:
    tunesmith.train(data, out=out, model=model, **SETTINGS, **settings)
    return (out / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """The directory of the model trained on a list of dicts."""
    out = tmp_path_factory.mktemp("reference") / "m"
    weights(ROWS, out, tiny_bert)
    return out


@pytest.mark.parametrize("kind", TABLES)
def test_same_weights_from_every_table(kind: str, reference: Path, tmp_path: Path, tiny_bert: Path) -> None:
    assert weights(TABLES[kind](tmp_path), tmp_path / "m", tiny_bert) == (reference / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", WITH_LABELS)
def test_same_weights_from_texts_with_labels(kind: str, reference: Path, tmp_path: Path, tiny_bert: Path) -> None:
    texts, labels = WITH_LABELS[kind](tmp_path)
    assert weights(texts, tmp_path / "m", tiny_bert, labels=labels) == (reference / "model.safetensors").read_bytes()


def test_other_rows_give_other_weights(reference: Path, tmp_path: Path, tiny_bert: Path) -> None:
    """So that the equalities above mean something."""
    assert weights(ROWS[::-1], tmp_path / "m", tiny_bert) != (reference / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", [*TABLES, *WITH_LABELS])
def test_same_predictions_of_every_kind(kind: str, reference: Path, tmp_path: Path) -> None:
    bundle = tunesmith.load(reference)
    data = TABLES[kind](tmp_path) if kind in TABLES else WITH_LABELS[kind](tmp_path)[0]
    if isinstance(data, str):
        data = Path(data)  # to predict, a str is one text
    assert bundle.predict(data) == bundle.predict(TEXTS)


def test_one_text_gives_one_prediction(reference: Path) -> None:
    bundle = tunesmith.load(reference)
    one = bundle.predict(TEXTS[0])
    (same,) = bundle.predict([TEXTS[0]])
    assert one == same and one.label in ("animal", "colour")
    assert one.probability == one.probabilities[one.label] == max(one.probabilities.values())
    assert bundle.predict(str(Path("rows.csv"))).label in bundle.labels  # a name of a file is a text too


@pytest.mark.parametrize("kind", TABLES)
def test_evaluation_of_every_table(kind: str, reference: Path, tmp_path: Path) -> None:
    bundle = tunesmith.load(reference)
    expected = bundle.evaluate(ROWS)
    found = bundle.evaluate(TABLES[kind](tmp_path))
    assert found["metrics"] == expected["metrics"] and found["confusion"] == expected["confusion"]


def test_validation_and_test_in_memory(tmp_path: Path, tiny_bert: Path) -> None:
    """Beside training rows of another kind, and with labels as numbers here and text there."""
    numbers = {"animal": 0, "colour": 1}
    train = pd.DataFrame({"text": TEXTS, "label": [numbers[label] for label in LABELS]})
    test = [{"text": text, "label": str(numbers[label])} for text, label in zip(TEXTS, LABELS, strict=True)]
    valid = pa.table({"text": TEXTS, "label": pa.array([numbers[label] for label in LABELS], pa.float64())})
    trained = tunesmith.train(train, valid=valid, test=test, out=tmp_path / "m", model=tiny_bert, **{**SETTINGS, "valid_size": 0.0})
    splits = trained.result["data"]["splits"]
    assert [splits[name]["rows"] for name in ("train", "valid", "test")] == [16, 16, 16]
    assert splits["train"]["targets"] == splits["valid"]["targets"] == splits["test"]["targets"] == {"0": 8, "1": 8}


@pytest.mark.parametrize("make", [list, np.array, pd.Series, pa.array], ids=["list", "numpy", "pandas", "arrow"])
def test_numbers_as_labels_in_every_container(make: Any, tmp_path: Path, tiny_bert: Path) -> None:
    trained = tunesmith.train(
        TEXTS, labels=make([10 if label == "animal" else 9 for label in LABELS]), out=tmp_path / "m", model=tiny_bert, **SETTINGS
    )
    assert trained.bundle.labels == ["9", "10"]


def test_lists_of_labels_in_every_container(tmp_path: Path, tiny_bert: Path) -> None:
    several = [["x", label] if i % 3 else [] for i, label in enumerate(LABELS)]
    containers = {
        "dicts": [{"text": text, "label": row} for text, row in zip(TEXTS, several, strict=True)],
        "pandas": pd.DataFrame({"text": TEXTS, "label": several}),
        "arrow": pa.table({"text": TEXTS, "label": several}),
        "datasets": dataset(text=TEXTS, label=several),
    }
    found = {kind: weights(data, tmp_path / kind, tiny_bert) for kind, data in containers.items()}
    found["labels="] = weights(TEXTS, tmp_path / "labels", tiny_bert, labels=several)
    assert len(set(found.values())) == 1
    assert tunesmith.load(tmp_path / "arrow").labels == ["animal", "colour", "x"]
