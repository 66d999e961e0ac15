"""The benchmark's own figures: quality against scikit-learn, intervals, and the table from hand-made results."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bench import domain, table
from bench.data import balanced_sample
from bench.quality import paired_difference, scores


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def noisy(draw: np.random.Generator, gold: np.ndarray, right: float) -> np.ndarray:
    return np.where(draw.random(len(gold)) < right, gold, draw.integers(0, gold.max() + 1, len(gold)))


def test_quality_equals_scikit_learn_on_every_resample(draw):
    gold = draw.integers(0, 5, 200)
    predicted = noisy(draw, gold, 0.6)
    resamples = draw.integers(0, 200, (3, 200))
    weights = np.stack([np.bincount(rows, minlength=200) for rows in resamples]).astype(float)
    for metric, reference in {
        "accuracy": accuracy_score,
        "matthews": matthews_corrcoef,
        "f1_macro": lambda a, b: f1_score(a, b, average="macro"),
        "f1_micro": lambda a, b: f1_score(a, b, average="micro"),
    }.items():
        ours = scores(np.eye(5)[gold], np.eye(5)[predicted], metric, weights)
        np.testing.assert_allclose(ours, [reference(gold[rows], predicted[rows]) for rows in resamples], rtol=1e-12)


def test_multi_label_quality_equals_scikit_learn(draw):
    gold = (draw.random((150, 6)) < 0.3).astype(float)
    predicted = np.where(draw.random((150, 6)) < 0.8, gold, 1 - gold)
    assert scores(gold, predicted, "f1_micro")[0] == pytest.approx(f1_score(gold, predicted, average="micro"))
    assert scores(gold, predicted, "f1_macro")[0] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert scores(gold, predicted, "accuracy")[0] == pytest.approx(accuracy_score(gold, predicted))


def test_interval_of_a_difference_is_paired(draw):
    gold = draw.integers(0, 4, 400)
    ours = noisy(draw, gold, 0.8)
    one_better = ours.copy()
    wrong = np.flatnonzero(ours != gold)[:8]
    one_better[wrong] = gold[wrong]
    eye = np.eye(4)
    mean, low, high = paired_difference([(eye[gold], eye[one_better], eye[ours])], "accuracy")
    assert mean == pytest.approx(8 / 400)
    assert 0 < low < mean < high < 0.04  # unpaired it would reach far below zero
    assert paired_difference([(eye[gold], eye[ours], eye[ours])], "accuracy") == (0, 0, 0)


def test_balanced_sample_takes_as_many_of_each_label():
    import random

    rows = [(str(i), "a" if i % 3 else "b") for i in range(90)]
    chosen = balanced_sample(rows, 41, random.Random(0))
    assert len(set(chosen)) == 41
    assert sorted(label for _, label in chosen).count("a") in (20, 21)


def record(variant: str, seed: int, train_s: float, predictions: list[int]) -> table.Record:
    return {
        "key": f"{variant}{seed}", "row": "trec", "title": "TREC", "metric": "accuracy", "seed": seed, "variant": variant,
        "train_s": train_s, "tokens_per_s": 1000 / train_s, "predict_s": 1.0, "process_s": 2 * train_s, "cpu_s": train_s,
        "peak_rss_mb": 500.0, "peak_device_mb": None, "device": "cpu", "machine": "m", "commit": "c", "date": "d", "labels": 2,
        "versions": {"torch": "2"}, "gold": [[0], [1], [1], [0]], "predictions": [[i] for i in predictions],
    }  # fmt: skip


def test_table_pairs_variants_by_seed_and_is_written_between_its_markers(tmp_path):
    records = [record("tunesmith", seed, 10, [0, 1, 1, 0]) for seed in (0, 1)]
    records += [record("trainer-best", seed, time, [0, 1, 1, 1]) for seed, time in ((0, 20), (1, 80))]
    text = table.render(records)
    line = next(line for line in text.splitlines() if "trainer-best" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "TREC, 2 seeds"
    assert cells[8].startswith("+0.2500")
    assert cells[9:] == ["4.00", "4.00", "1.00"]  # geometric mean of 2 and 8
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(page, text)
    table.write(page, text)
    assert page.read_text() == f"before\n{table.BEGIN}\n\n{text}\n\n{table.END}\nafter\n"


def test_a_torn_line_of_the_results_does_not_count(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"key": "a", "n": 1}\n{"key": "a", "n": 2}\n{"key": "b", "n"')
    assert table.read(path) == [{"key": "a", "n": 2}]


def test_the_domain_table_compares_both_encoders_seed_by_seed():
    gold = ["a", "b", "a", "b"]
    record = {"gold": gold, "without": ["a", "a", "a", "a"], "after": ["a", "b", "a", "c"], "pretraining_seconds": 61.2, "tokens": 1234}
    record["perplexity"] = {"before": 30000.0, "after": 12.34}
    text = domain.render(domain.DOMAINS["banking77"].row, [{**record, "seed": seed} for seed in (0, 1)], 3, "raw.csv")
    assert "| 1 | 0.5000 | 0.7500 | +0.2500 | 30,000, 12.3 | 1,234 tokens, 61 s |" in text
    assert "over 2 seeds: +0.2500 (95% interval" in text
