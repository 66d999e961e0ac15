"""Every way to tune does every task: all that it trains moves, frozen layers run once, and what is saved is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tasks.test_battery import CASES, Case
from tunesmith import fitting
from tunesmith.errors import UsageError
from tunesmith.model.packed import Packed
from tunesmith.strategies import TUNINGS
from tunesmith.training.gradients import Gradients

WAYS = ["last:1" if way == "last" else way for way in TUNINGS if way not in ("auto", "none")]
BESIDE = ("adapter", "prompt", "ptuning", "prefix")
IDS = [f"{case.name}{'-' + case.settings['ranker'] if 'ranker' in case.settings else ''}" for case in CASES]
# what a way to tune cannot do, and why; a new line here is a decision
REFUSED = {
    **{(way, "masked-lm"): "leaves the encoder as it is, but masked-lm is to change it" for way in ("head", *BESIDE)},
    ("head", "ranking-bi-encoder"): "has nothing to train: this model's outputs are the encoder's own",
    **{("fewshot", name): "learns labels of texts" for name in IDS if name not in ("classification", "pair")},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_trains(case: Case, way: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still: list[str] = []
    embedded = 0
    run, embed, add = fitting.run, Packed._embed, Gradients.add
    training = False

    def watched(network: torch.nn.Module, *given: Any, **named: Any) -> Any:
        before = {name: value.detach().clone() for name, value in network.named_parameters() if value.requires_grad}
        state = run(network, *given, **named)
        after = dict(network.named_parameters())
        still.extend(name for name, value in before.items() if value.equal(after[name]) and "pooler" not in name)
        return state

    def adding(*given: Any) -> float:
        nonlocal training
        training = True
        try:
            return add(*given)
        finally:
            training = False

    def embedding(*given: Any) -> torch.Tensor:
        nonlocal embedded
        embedded += training
        return embed(*given)

    monkeypatch.setattr(fitting, "run", watched)
    monkeypatch.setattr(Gradients, "add", adding)
    monkeypatch.setattr(Packed, "_embed", embedding)
    name = IDS[CASES.index(case)]
    settings: dict[str, Any] = {"max_length": 32, "batch_size": 8, "task": case.name, "lr": 1e-2, **case.settings}
    settings |= {"epochs": 2, "weight_decay": 0.0, "test_size": 0, "valid_size": 0, "precision": "fp32", "progress": "quiet"}
    rows = case.rows(24, 1)

    def train() -> tunesmith.TrainResult:
        return tunesmith.train(rows, model=tiny_bert, tuning=way, out=tmp_path / "m", **settings)

    if (way, name) in REFUSED:
        with pytest.raises(UsageError, match=REFUSED[way, name]):
            train()
        return
    trained = train()
    assert still == [], "trained, and as they were"
    frozen = trained.result["training"]["frozen"]
    once = way in ("head", "last:1") and case.name not in ("masked-lm", "ranking")
    assert ("computed once" in frozen) == once
    assert (embedded == 0) == once, "frozen layers do not run in the steps"
    judged = case.rows(8, 2)
    assert trained.bundle.evaluate(judged)["metrics"] == tunesmith.load(tmp_path / "m").evaluate(judged)["metrics"]


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in ("masked-lm", "ranking")], ids=lambda case: case.name)
@pytest.mark.parametrize("settings", [{}, {"max_length": 12, "stride": 2, "truncation": "windows"}], ids=["", "windows"])
def test_kept_outputs_of_every_task_train_as_computed_ones(case: Case, settings: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    if settings and case.name in ("qa", "tagging"):
        settings = {"max_length": 24} | ({"stride": 2} if case.name == "qa" else {})  # which take windows by themselves
    told: dict[str, Any] = {"max_length": 32, "task": case.name, "lr": 1e-2, "dropout": 0.0, "attention_dropout": 0.0, **case.settings}
    told |= {"batch_size": 8, "epochs": 2, "test_size": 0, "valid_size": 0, "precision": "fp32", "progress": "quiet", **settings}
    losses = []
    for features in ("auto", "off"):
        found = tunesmith.train(case.rows(24, 1), model=tiny_bert, tuning="last:1", out=tmp_path / features, features=features, **told)
        losses.append([entry["loss"] for entry in found.result["training"]["history"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
