"""Scores of ranked lists equal those of ir-measures; losses equal the formulas written out, and sentence-transformers' own."""

from __future__ import annotations

import itertools
import math
import random
import warnings

import numpy as np
import pytest
import torch

from tunesmith.ranking_metrics import RANKING, Ranking, difference, order_of, ranking_intervals
from tunesmith.tasks import ranking_losses as losses


def made_up(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements and scores without ties: queries with passages not found, graded ones, and ones without any relevant passage."""
    generator = random.Random(seed)
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for query in range(30):
        size = generator.randint(1, 150)
        names = [f"d{n}" for n in range(size)]
        scores = generator.sample(range(10 * size), size)
        run[f"q{query}"] = {name: float(score) for name, score in zip(names, scores, strict=True)}
        grades = {name: generator.choice([0, 0, 0, 0, 1, 2, 3]) for name in names if generator.random() < 0.7}
        grades |= {f"missed{n}": generator.randint(0, 2) for n in range(generator.randint(0, 3))}
        qrels[f"q{query}"] = dict.fromkeys(grades, 0) if query % 7 == 0 else grades
    return qrels, run


@pytest.mark.parametrize("seed", range(4))
def test_the_scores_are_those_of_ir_measures(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ir_measures
        from ir_measures import AP, RR, R, nDCG

        qrels, run = made_up(seed)
        measures = {nDCG @ 10: "ndcg@10", RR @ 10: "mrr@10", AP: "map", R @ 10: "recall@10", R @ 100: "recall@100"}
        theirs = {(found.query_id, measures[found.measure]): found.value for found in ir_measures.iter_calc(list(measures), qrels, run)}
    ours = Ranking()
    for query, scores in run.items():
        names = list(scores)
        grades = np.array([qrels[query].get(name, 0) for name in names], float)
        order = order_of(np.array(list(scores.values())), grades)
        ours.add(query, grades[order], np.array(list(qrels[query].values()), float))
    silent = {query for query, grades in qrels.items() if not any(grades.values())}
    assert ours.left_out == len(silent) and set(ours.names) == set(run) - silent
    for name, values in ours.values.items():
        for query, value in zip(ours.names, values, strict=True):
            assert value == pytest.approx(theirs[query, name], abs=1e-9), (query, name)


def test_equal_scores_flatter_nobody() -> None:
    found = Ranking()
    grades = np.array([1.0, 0.0, 0.0])
    found.add("q", grades[order_of(np.zeros(3), grades)])
    assert found.values["mrr@10"] == [pytest.approx(1 / 3)] and found.first == [3]
    found.add("none", np.zeros(2))
    found.add("empty list", np.zeros(0), np.array([1.0]))
    assert len(found) == 2 and found.left_out == 1 and found.values["ndcg@10"][1] == 0.0 and found.first[1] == 0


def test_intervals_hold_the_mean_and_need_queries() -> None:
    values = {"map": list(np.random.default_rng(0).random(200))}
    low, high = ranking_intervals(values, seed=0)["map"]
    assert low < np.mean(values["map"]) < high and high - low == pytest.approx(2 * 1.96 * np.std(values["map"]) / math.sqrt(200), rel=0.15)
    assert ranking_intervals({"map": [0.5]}, seed=0) == {} == ranking_intervals({name: [] for name in RANKING}, seed=0)


def test_the_paired_test_is_that_of_all_flips() -> None:
    one, two = [0.9, 0.5, 0.7, 0.2, 0.8, 0.6, 0.9, 0.3], [0.5, 0.6, 0.4, 0.1, 0.5, 0.6, 0.7, 0.4]
    gaps = np.array(one) - np.array(two)
    all_means = [abs(np.mean(gaps * signs)) for signs in itertools.product([1, -1], repeat=8)]
    exact = np.mean([value >= abs(gaps.mean()) - 1e-12 for value in all_means])
    found = difference(one, two, seed=0)
    assert found["difference"] == pytest.approx(gaps.mean()) and found["p"] == pytest.approx(exact, abs=0.015)
    assert (found["better"], found["worse"], found["queries"]) == (5, 2, 8)
    assert difference(one, one, seed=0)["p"] == 1.0 and difference([], [], seed=0)["p"] == 1.0


def test_losses_of_a_list_are_those_of_sentence_transformers() -> None:
    scores, grades = torch.tensor([0.3, -1.2, 2.0, 0.1]), torch.tensor([1.0, 0.0, 0.0, 2.0])
    pairs = [(i, j) for i in range(4) for j in range(4) if grades[i] > grades[j]]
    written = np.mean([math.log1p(math.exp(float(scores[j] - scores[i]))) for i, j in pairs])
    assert float(losses.pairwise(scores, grades)) == pytest.approx(written, abs=1e-6)
    wanted, found = (np.exp(v) / np.exp(v).sum() for v in (grades.numpy(), scores.numpy()))
    assert float(losses.listwise(scores, grades)) == pytest.approx(-(wanted * np.log(found)).sum(), abs=1e-6)
    scaled = grades / 2
    plain = torch.nn.functional.binary_cross_entropy(torch.sigmoid(scores), scaled)
    assert float(losses.pointwise(scores, scaled)) == pytest.approx(float(plain), abs=1e-6)
    assert float(losses.pairwise(scores, torch.zeros(4))) == 0.0


def test_the_contrastive_loss_is_cross_entropy_and_leaves_out_what_is_relevant() -> None:
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    passages = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    found = losses.contrastive(queries, passages, torch.eye(4), 0.05)
    # MultipleNegativesRankingLoss of sentence-transformers with scale 20
    expected = torch.nn.functional.cross_entropy(queries @ passages.T * 20, torch.arange(4), reduction="none")
    torch.testing.assert_close(found, expected)
    masked = torch.eye(4)
    masked[0, 1] = -1
    without = torch.nn.functional.cross_entropy((queries[:1] @ passages[[0, 2, 3]].T) * 20, torch.tensor([0]), reduction="none")
    torch.testing.assert_close(losses.contrastive(queries, passages, masked, 0.05)[:1], without)
