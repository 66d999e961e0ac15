"""Averages of weights, R-Drop, adversarial noise, several dropout masks, label smoothing: what each does, for every task."""

from __future__ import annotations

import copy
import dataclasses
import errno
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tasks.test_battery as battery
import tiny
import tunesmith
from running import Run
from tasks.test_battery import CASES, Case
from test_rowwise_adamw import SETTINGS, Table, drawn
from test_trajectory import padded
from tunesmith.data.batches import PackedBatch, merged, pack
from tunesmith.data.memory import open_data
from tunesmith.data.tokens import Encoded
from tunesmith.errors import Interrupted, StorageError, UsageError
from tunesmith.model.heads import TextModel
from tunesmith.prepare import prepare
from tunesmith.progress import QUIET
from tunesmith.recipe import new_model
from tunesmith.tasks import divergences
from tunesmith.tasks.base import Task
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.regression import Regression
from tunesmith.tasks.rows import Rows
from tunesmith.training import averaging, loop, state
from tunesmith.training.gradients import Gradients
from tunesmith.training.optim import settle
from tunesmith.training.regularise import AdversarialNoise, refuse_without_dropout
from tunesmith.training.rows import RowwiseAdamW

IDS = [f"{case.name}{'-' + case.settings['ranker'] if 'ranker' in case.settings else ''}" for case in CASES]
each_task = pytest.mark.parametrize("case", CASES, ids=IDS)
classification = CASES[0]


def allowed(case: Case, **settings: Any) -> dict[str, Any]:
    """The settings that the task takes."""
    wrong = {"regression": "label_smoothing", "ranking": "multi_sample_dropout" if "ranker" in case.settings else ""}.get(case.name)
    return {name: value for name, value in settings.items() if name != wrong}


@dataclasses.dataclass
class Ready:
    """A task whose first step can be worked off."""

    case: Case
    config: tunesmith.config.Config
    model: TextModel
    task: Task
    rows: Rows

    def batches(self, max_tokens: int = 16384, count: int = 6) -> list[PackedBatch]:
        return self.task.batches(self.rows, self.rows.index[:count], 1, max_tokens)

    def gradients(self, max_tokens: int = 16384, seed: int = 7, **settings: Any) -> tuple[float, dict[str, Tensor]]:
        """The step's mean loss, and the gradient of each parameter."""
        config = self.config.model_copy(update={**settings, "max_tokens": max_tokens})
        self.model.train().zero_grad()
        torch.manual_seed(seed)
        found = Gradients(self.model, self.task, config, "fp32")
        batches = self.batches(found.max_tokens)
        assert max_tokens > 100 or len(batches) > 1
        units = sum(batch.parts for batch in batches)
        loss = found.add(batches, units) / units
        return loss, {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


@functools.cache
def _ready(number: int, encoder: Path, settings: tuple[tuple[str, Any], ...]) -> Ready:
    case = CASES[number]
    data = open_data(case.rows(40, 0))
    usual = {"model": str(encoder), "max_length": 48, "task": case.name, "precision": "fp32"}
    config = tunesmith.resolve.resolve({**usual, **case.settings, **dict(settings)})
    prepared = prepare(config, {"train": data}, QUIET)
    model = new_model(config, prepared)
    task, rows = prepared.task.planned(prepared.parts["train"], prepared.pretrained, prepared.encoder, config, QUIET)
    return Ready(case, config, model, task, rows)


@pytest.fixture
def ready(tiny_bert: Path) -> Callable[..., Ready]:
    return lambda case, **settings: _ready(CASES.index(case), tiny_bert, tuple(settings.items()))


def same(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]], **near: float) -> None:
    near = near if near else {"rtol": 1e-3, "atol": 1e-6}
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(value.to_dense(), other[1][name].to_dense(), **near, msg=lambda text, name=name: f"{name}: {text}")


# --- for every task ---------------------------------------------------------------------------------------------------------------------

STEP = {"r_drop": 1.5, "fgm": 0.5, "multi_sample_dropout": 3, "label_smoothing": 0.1}


@each_task
def test_a_step_in_parts_has_the_gradient_of_the_whole_step(case: Case, ready: Callable[..., Ready]) -> None:
    smoothing = allowed(case, label_smoothing=0.1)
    found = ready(case, dropout=0.0, attention_dropout=0.0, **smoothing)
    plain = found.gradients()
    for settings in ({"fgm": 0.5}, {"r_drop": 1.5, "fgm": 0.5, **allowed(case, multi_sample_dropout=2)}):
        whole = found.gradients(**settings)
        same(whole, found.gradients(max_tokens=30, **settings))
        assert whole[0] == pytest.approx(plain[0]), "the loss that is told is the task's own"
        assert any(not value.to_dense().allclose(plain[1][name].to_dense(), rtol=1e-2) for name, value in whole[1].items())


@each_task
def test_noise_and_masks_change_the_gradient_and_come_from_the_seed(case: Case, ready: Callable[..., Ready]) -> None:
    found = ready(case, **allowed(case, label_smoothing=0.1))
    plain = found.gradients()[1]
    for name in allowed(case, r_drop=1.5, fgm=0.5, multi_sample_dropout=3):
        once = found.gradients(**{name: STEP[name]})
        again = found.gradients(**{name: STEP[name]})
        assert all(value.to_dense().equal(again[1][key].to_dense()) for key, value in once[1].items()), name
        assert any(not value.to_dense().allclose(plain[key].to_dense()) for key, value in once[1].items()), name
    assert not found.model.encoder.hf.get_input_embeddings()._forward_hooks, "nothing is left behind"


@each_task
@torch.no_grad()
def test_the_divergence_is_zero_of_the_same_and_is_summed_over_parts(case: Case, ready: Callable[..., Ready]) -> None:
    found = ready(case, dropout=0.0, attention_dropout=0.0)
    other = copy.deepcopy(found.model)
    task, whole, parts = found.task, found.batches(), found.batches(30)
    for parameter in other.parameters():
        parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    one, two = ([model.eval()(batch) for batch in parts] for model in (found.model, other))
    if task.joint:
        pairs = [(torch.cat(one), torch.cat(two), merged(parts))]
    else:
        pairs = list(zip(one, two, parts, strict=True))
    assert len(whole) == 1 < len(parts)
    outputs = found.model(whole[0]), other(whole[0])
    expected = task.divergence(*outputs, whole[0])
    assert expected.min() >= 0 and expected.sum() > 0
    assert float(torch.cat([task.divergence(*pair) for pair in pairs]).sum()) == pytest.approx(float(expected.sum()), rel=1e-4)
    assert task.divergence(outputs[0], outputs[0], whole[0]).abs().max() == 0
    turned = task.divergence(outputs[1], outputs[0], whole[0])
    torch.testing.assert_close(turned, expected)
    assert len(expected) == len(task.loss(task.combine(outputs[0], whole[0]), whole[0]))


@pytest.mark.parametrize(
    ("case", "averaged"),
    [*((case, "ema") for case in CASES), (classification, "average")],  # which knows nothing of tasks
    ids=[*(f"{name}-ema" for name in IDS), "classification-average"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    case: Case, averaged: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {"r_drop": 1.0, "fgm": 0.3, "multi_sample_dropout": 2, "label_smoothing": 0.1}
    settings = {**allowed(case, **noise), "ema": 0.9} if averaged == "ema" else {"average": 3, "eval_steps": 2}
    whole, resumed = whole_and_cut(case, settings, tiny_bert, tmp_path, monkeypatch)
    assert weights(resumed.directory) == weights(whole.directory)
    assert resumed.metrics == whole.metrics
    assert not (tmp_path / "cut" / "checkpoints").exists()


def whole_and_cut(
    case: Case, settings: dict[str, Any], tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[tunesmith.TrainResult, tunesmith.TrainResult]:
    """A run that nothing stopped, and the same stopped in its fifth step and resumed."""
    data = case.rows(30, 0)
    settings = {"task": case.name, "epochs": 2, "checkpoint_steps": 3, **settings}
    whole = battery.train(case, data, tmp_path / "whole", tiny_bert, **settings)
    steps, clip = [], loop.clip

    def stops(*arguments: Any) -> float:
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return clip(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "clip", stops)
        with pytest.raises(Interrupted):
            battery.train(case, data, tmp_path / "cut", tiny_bert, **settings)
    resumed = battery.train(case, data, tmp_path / "cut", tiny_bert, resume=True, **settings)
    assert whole.result["training"]["steps"] > 5
    return whole, resumed


def weights(directory: Path) -> list[bytes]:
    """What the model's files of weights hold: encoder or adapter, and head."""
    return [file.read_bytes() for file in sorted(directory.glob("*.safetensors"))]


@pytest.mark.parametrize("settings", [
    {"tuning": "last:1", "r_drop": 1.0, "ema": 0.8},
    {"tuning": "last:1", "features": "off", "fgm": 0.5, "average": 2},
    {"tuning": "head", "multi_sample_dropout": 3, "epochs": 3, "ema": 0.8, "dropout": 0.1},
    {"tuning": "layerwise", "unfreeze": 1, "epochs": 4, "fgm": 0.5, "ema": 0.8},
    {"tuning": "bitfit", "r_drop": 1.0, "average": 2},
    {"tuning": "lora", "r_drop": 1.0, "fgm": 0.5, "multi_sample_dropout": 2, "ema": 0.8},
    {"tuning": "adapter", "r_drop": 1.0, "fgm": 0.5, "multi_sample_dropout": 2, "average": 2},
    {"tuning": "prompt", "virtual_tokens": 4, "r_drop": 1.0, "fgm": 0.5, "ema": 0.8},
    {"tuning": "ptuning", "virtual_tokens": 4, "fgm": 0.5, "engine": "padded"},
    {"tuning": "prefix", "virtual_tokens": 4, "r_drop": 1.0, "fgm": 0.5, "average": 2},
], ids=lambda settings: settings["tuning"])  # fmt: skip
def test_with_other_ways_of_tuning(settings: dict[str, Any], tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = whole_and_cut(classification, settings, tiny_bert, tmp_path, monkeypatch)
    assert weights(cut.directory) == weights(whole.directory)
    others = {name: value for name, value in settings.items() if name not in (*STEP, "ema", "average")}
    plain = battery.train(classification, classification.rows(30, 0), tmp_path / "plain", tiny_bert, **{"epochs": 2, **others})
    assert weights(plain.directory) != weights(whole.directory)


# --- by the formula ---------------------------------------------------------------------------------------------------------------------


def reference(found: Ready, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    found.model.zero_grad()
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in found.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_adversarial_noise(ready: Callable[..., Ready], engine: str) -> None:
    """Equation 6 of Miyato et al. 2017, written down for transformers' own model and each sequence by itself."""
    found = ready(classification, dropout=0.0, attention_dropout=0.0)
    found.model.encoder.engine = engine
    mine = found.gradients(fgm=0.7)
    found.model.encoder.engine = "auto"
    hf = found.model.encoder.hf
    ids, mask, targets = padded(found.batches())

    def loss(embedded: Tensor) -> Tensor:
        return F.cross_entropy(hf(inputs_embeds=embedded, attention_mask=mask).logits, targets, reduction="none")

    embedded = hf.get_input_embeddings()(ids)
    (gradient,) = torch.autograd.grad(loss(embedded).sum(), embedded, retain_graph=True)
    noise = torch.stack([0.7 * one / one.norm() for one in gradient])
    assert noise.flatten(1).norm(dim=1).allclose(torch.full((len(ids),), 0.7))
    clean = loss(embedded).mean()
    expected = reference(found, (clean + loss(embedded + noise).mean()) / 2)
    same(mine, (float(clean.detach()), expected[1]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1.0])
def test_noise_has_its_length_however_small_the_gradient(ready: Callable[..., Ready], size: float) -> None:
    noise = AdversarialNoise(ready(classification).model, 0.7)
    batch = pack([Encoded([np.array([2, 5, 3], np.int32)], [], 3, 0) for _ in range(2)], np.zeros(2, np.int64))
    gradient = size * torch.randn(6, 32)
    gradient[3:] = 0
    for shaped in (gradient, gradient.view(2, 3, 32)):
        found = noise._noise(shaped, batch).view(2, -1)
        assert found.norm(dim=1).tolist() == pytest.approx([0.7, 0.0], rel=1e-3)


def test_r_drop(ready: Callable[..., Ready]) -> None:
    """Equation 4 of Liang et al. 2021, halved."""
    found = ready(classification)
    mine = found.gradients(r_drop=2.0)
    (batch,) = found.batches()
    torch.manual_seed(7)
    one, two = found.model(batch), found.model(batch)
    targets = torch.from_numpy(batch.targets)
    losses = F.cross_entropy(one, targets) + F.cross_entropy(two, targets)
    p, q = one.log_softmax(1), two.log_softmax(1)
    both = F.kl_div(p, q, log_target=True, reduction="batchmean") + F.kl_div(q, p, log_target=True, reduction="batchmean")
    expected = reference(found, (losses + 2.0 * both / 2) / 2)
    assert float(both.detach()) > 1e-6
    same(mine, (float(losses.detach()) / 2, expected[1]))


def test_multi_sample_dropout(ready: Callable[..., Ready]) -> None:
    found = ready(classification)
    mine = found.gradients(multi_sample_dropout=4)
    (batch,) = found.batches()
    hf = found.model.encoder.hf
    torch.manual_seed(7)
    pooled = hf.bert.pooler(found.model.states(batch)[:, None])
    targets = torch.from_numpy(batch.targets)
    losses = [F.cross_entropy(hf.classifier(F.dropout(pooled, 0.1)), targets) for _ in range(4)]
    same(mine, reference(found, torch.stack(losses).mean()))


def test_multi_sample_dropout_gives_masks_to_a_head_without(ready: Callable[..., Ready]) -> None:
    """Transformers' head for answers drops nothing."""
    found = ready(next(case for case in CASES if case.name == "qa"))
    mine = found.gradients(multi_sample_dropout=2)
    (batch,) = found.batches()
    hf = found.model.encoder.hf
    torch.manual_seed(7)
    hidden = found.model.states(batch)
    outputs = [hf.qa_outputs(F.dropout(hidden, 0.1)) for _ in range(2)]
    losses = [found.task.loss(found.task.combine(one, batch), batch).mean() for one in outputs]
    same(mine, reference(found, torch.stack(losses).mean()))


def test_divergences_are_those_of_the_distributions() -> None:
    """Equation 2 of Liang et al. 2021, by torch.distributions."""
    one, two = (3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    def both(of: Callable[..., torch.distributions.Distribution], a: Tensor, b: Tensor) -> Tensor:
        p, q = of(logits=a), of(logits=b)
        return (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)) / 2

    torch.testing.assert_close(divergences.of_choices(one, two), both(torch.distributions.Categorical, one, two))
    torch.testing.assert_close(divergences.of_flags(one, two), both(torch.distributions.Bernoulli, one, two))
    counted = torch.tensor([True, False, True, True]).expand(5, 4)
    found = divergences.of_choices(one.requires_grad_(), two, counted)
    torch.testing.assert_close(found, both(torch.distributions.Categorical, one[:, [0, 2, 3]], two[:, [0, 2, 3]]))
    found.sum().backward()
    assert one.grad is not None and one.grad.isfinite().all() and (one.grad[:, 1] == 0).all()

    batch = tiny.targets_only(torch.zeros(5, 4))
    several = Classification(list("abcd"), "multi")
    torch.testing.assert_close(several.divergence(one, two, batch), divergences.of_flags(one, two).mean(1))
    torch.testing.assert_close(Regression().divergence(one[:, :1], two[:, :1], batch), (one - two)[:, 0] ** 2)


@pytest.mark.parametrize("objective", ["pointwise", "pairwise", "listwise"])
def test_divergence_of_a_querys_candidates(ready: Callable[..., Ready], objective: str) -> None:
    found = ready(CASES[IDS.index("ranking")], ranking_loss=objective)
    (batch,) = found.batches(count=3)
    one, two = (torch.randn(batch.size, 1, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    pieces = [np.flatnonzero(batch.targets[:, 1] == query) for query in range(3)]
    each = (lambda a, b: divergences.of_flags(a, b).mean()) if objective == "pointwise" else divergences.of_choices
    expected = torch.stack([each(one[rows, 0], two[rows, 0]) for rows in pieces])
    torch.testing.assert_close(found.task.divergence(one, two, batch), expected)


@pytest.fixture
def trajectory(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights after each step of what is trained in the test."""
    seen: list[dict[str, Tensor]] = []
    make = averaging.averaging_of

    def watched(model: TextModel, optimizer: torch.optim.Optimizer, *rest: Any) -> averaging.Averaging:
        found = make(model, optimizer, *rest)
        follow = found.follow

        def both() -> None:
            follow()
            settle(optimizer)
            seen.append({name: p.detach().clone() for name, p in model.named_parameters()})

        found.follow = both  # type: ignore[method-assign]
        return found

    monkeypatch.setattr(loop, "averaging_of", watched)
    return seen


def saved(result: tunesmith.TrainResult) -> dict[str, Tensor]:
    return dict(result.bundle.model.named_parameters())


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "sgd"}, {"tuning": "last:1"}, {"tuning": "layerwise", "unfreeze": 1, "epochs": 5}],
    ids=["adamw", "sgd", "last", "unfreeze"],
)
def test_moving_average(trajectory: list[dict[str, Tensor]], tiny_bert: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Section 7.2 of Kingma and Ba 2015."""
    settings = {"ema": 0.8, "valid_size": 0, **settings}
    result = battery.train(classification, classification.rows(40, 0), tmp_path / "m", tiny_bert, **settings)
    steps = len(trajectory)
    share = [0.2 * 0.8 ** (steps - j) / (1 - 0.8**steps) for j in range(1, steps + 1)]
    assert steps > 10 and sum(share) == pytest.approx(1)
    moved = 0.0
    for name, value in saved(result).items():
        expected = sum(part * step[name].double() for part, step in zip(share, trajectory, strict=True))
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=2e-6)
        moved = max(moved, float((value.detach() - trajectory[-1][name]).abs().max()))
    assert moved > 1e-4, "they are not the last weights"


def test_mean_of_the_last_evaluations(trajectory: list[dict[str, Tensor]], tiny_bert: Path, tmp_path: Path) -> None:
    settings = {"average": 3, "eval_steps": 3, "valid_size": 0, "test_size": 0}
    result = battery.train(classification, classification.rows(40, 0), tmp_path / "m", tiny_bert, **settings)
    assert len(trajectory) == 15  # of which 3, 5, 6, 9, 10, 12 and 15 are evaluated
    for name, value in saved(result).items():
        expected = sum(trajectory[step - 1][name] for step in (10, 12, 15)) / 3
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"average": 2}], ids=str)
def test_the_average_is_what_is_validated_chosen_and_saved(
    tiny_bert: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluating disturbs the training by no bit, and what was validated is what is saved."""
    raw: dict[str, list[Tensor]] = {"with": [], "without": []}
    make = averaging.averaging_of
    for which in raw:

        def watched(
            model: TextModel, optimizer: torch.optim.Optimizer, *rest: Any, which: str = which
        ) -> averaging.Averaging:  # the weights after each step, with what the last evaluation left behind
            found = make(model, optimizer, *rest)
            follow = found.follow

            def both() -> None:
                follow()
                raw[which].append(model.head._encoder[0].hf.classifier.weight.detach().clone())  # type: ignore[union-attr, index]

            found.follow = both  # type: ignore[method-assign]
            return found

        with monkeypatch.context() as patched:
            patched.setattr(loop, "averaging_of", watched)
            more = settings if which == "with" else {}
            result = battery.train(
                classification, classification.rows(60, 0), tmp_path / which, tiny_bert, metric="log_loss", valid_size=0.3, **more
            )
        if which == "with":
            told = result.result["training"]["evaluations"]
            best = min(one["metrics"]["log_loss"] for one in told)
            assert result.result["evaluations"]["valid"]["metrics"]["log_loss"] == pytest.approx(best, rel=1e-6)
            assert len({one["metrics"]["log_loss"] for one in told}) == 3
    assert len(raw["with"]) > 9 and all(map(torch.equal, raw["with"], raw["without"]))


def test_weights_of_an_average_that_are_damaged(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = classification.rows(40, 0), {"average": 3, "eval_steps": 2, "checkpoint_steps": 1}
    whole = battery.train(classification, data, tmp_path / "whole", tiny_bert, **settings)
    steps, clip = [], loop.clip

    def stops(*arguments: Any) -> float:
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return clip(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "clip", stops)
        with pytest.raises(Interrupted):
            battery.train(classification, data, tmp_path / "cut", tiny_bert, **settings)
    kept = sorted(path.name for path in (tmp_path / "cut" / "checkpoints").glob("weights-*"))
    assert kept == ["weights-2", "weights-4", "weights-6"]
    file = tmp_path / "cut" / "checkpoints" / "weights-6" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    resumed = battery.train(classification, data, tmp_path / "cut", tiny_bert, resume=True, **settings)
    assert weights(resumed.directory) == weights(whole.directory), "it went back to the checkpoint that does not name them"


@pytest.mark.parametrize("fading", [0.9, 0.999])
def test_the_average_of_a_table_that_is_updated_by_rows_equals_that_of_every_step(fading: float) -> None:
    ours, plain = Table().double(), Table().double()
    plain.load_state_dict(ours.state_dict())
    plain.words.sparse = False
    settings = {**SETTINGS, "weight_decay": 0.3}
    mine = RowwiseAdamW([{"params": list(ours.parameters())}], ours.words.weight, lr=1e-2, **settings)
    mine.follow(fading)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, **settings)
    expected = torch.zeros_like(plain.words.weight)
    total, worst = 500, 0.0
    for step in range(total):
        ids = drawn(step, 200)
        mine.bring_up(ids)
        for model, optimizer in ((ours, mine), (plain, theirs)):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / total)
            optimizer.zero_grad()
            model.loss(torch.from_numpy(ids), 1.0, step).backward()
            optimizer.step()
        expected = fading * expected + (1 - fading) * plain.words.weight.detach()
        if step % 200 == 199:
            mine.settle()
        rows = np.unique(ids)
        worst = max(worst, float((mine.average()[rows] - expected[rows]).abs().max()))
    mine.settle()
    assert worst < 1e-5
    torch.testing.assert_close(mine.average(), expected, atol=1e-5, rtol=0)


def test_a_full_disk_while_weights_of_an_average_are_kept(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = classification.rows(40, 0), {"average": 3, "eval_steps": 2, "checkpoint_steps": 1}
    whole = battery.train(classification, data, tmp_path / "whole", tiny_bert, **settings)
    save, kept = state.Checkpoints.save_weights, []

    def full(self: state.Checkpoints, kind: str, step: int, *rest: Any) -> None:
        kept.append(kind)
        if kept.count("weights") == 3:
            with state.new_directory(self.directory / f"{kind}-{step}"):
                raise OSError(errno.ENOSPC, "No space left on device")
        save(self, kind, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(state.Checkpoints, "save_weights", full)
        with pytest.raises(StorageError, match="the disk is full"):
            battery.train(classification, data, tmp_path / "cut", tiny_bert, **settings)
    resumed = battery.train(classification, data, tmp_path / "cut", tiny_bert, resume=True, **settings)
    assert weights(resumed.directory) == weights(whole.directory)


# --- label smoothing --------------------------------------------------------------------------------------------------------------------


def smoothed(found: Ready) -> tuple[Tensor, Tensor, PackedBatch]:
    (batch,) = found.batches()
    outputs = found.model.eval()(batch).detach() * 20
    return outputs, found.task.loss(found.task.combine(outputs, batch), batch), batch


def test_smoothing_over_the_places_of_an_answer(ready: Callable[..., Ready]) -> None:
    qa = next(case for case in CASES if case.name == "qa")
    outputs, found, batch = smoothed(ready(qa, label_smoothing=0.2))
    plain = ready(qa).task
    sharp = plain.loss(plain.combine(outputs, batch), batch)
    values = plain.combine(outputs, batch).split(plain.sizes(batch).tolist())
    even = torch.stack([-one.log_softmax(0).mean() for one in values])  # an example here is one window
    torch.testing.assert_close(found, 0.8 * sharp + 0.2 * even)


def test_smoothing_over_the_vocabulary(ready: Callable[..., Ready]) -> None:
    outputs, found, batch = smoothed(ready(next(case for case in CASES if case.name == "masked-lm"), label_smoothing=0.2))
    expected = F.cross_entropy(outputs, torch.from_numpy(batch.targets), reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(found, expected)


def test_smoothing_of_relevance() -> None:
    from tunesmith.tasks import ranking_losses as losses

    scores, grades = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    soft = torch.tensor([0.9, 0.1, 0.1])
    torch.testing.assert_close(losses.pointwise(scores, grades, 0.2), F.binary_cross_entropy_with_logits(scores, soft))
    gaps = torch.tensor([3.0, 1.5])
    torch.testing.assert_close(losses.pairwise(scores, grades, 0.2), F.binary_cross_entropy_with_logits(gaps, torch.full((2,), 0.9)))
    wanted = 0.8 * grades.softmax(0) + 0.2 / 3
    torch.testing.assert_close(losses.listwise(scores, grades, 0.2), -(wanted * scores.log_softmax(0)).sum())
    queries = F.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    passages = F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    relation = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
    expected = F.cross_entropy(queries @ passages.T / 0.5, torch.tensor([0, 3]), reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(losses.contrastive(queries, passages, relation, 0.5, 0.2), expected)
    relation[0, 2], expected = -1, expected.clone()  # which must not be counted
    logits = (queries @ passages.T / 0.5)[0, [0, 1, 3, 4]]
    expected[0] = F.cross_entropy(logits, torch.tensor(0), label_smoothing=0.2)
    torch.testing.assert_close(losses.contrastive(queries, passages, relation, 0.5, 0.2), expected)


# --- what is refused, and what is said --------------------------------------------------------------------------------------------------


@pytest.fixture
def still(tmp_path: Path) -> Iterator[Path]:
    """An encoder without any dropout."""
    from transformers import AutoConfig, AutoModel

    path = tiny.save_encoder(tmp_path / "still")
    config = AutoConfig.from_pretrained(path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    AutoModel.from_pretrained(path, config=config).save_pretrained(path)
    yield path


@pytest.mark.parametrize(("case", "settings", "says"), [
    (CASES[IDS.index("regression")], {"label_smoothing": 0.1}, "label_smoothing means nothing for regression"),
    (CASES[IDS.index("ranking-bi-encoder")], {"multi_sample_dropout": 2}, "a bi-encoder has no layer behind its encoder"),
    (classification, {"average": 4, "epochs": 1, "eval_steps": 100}, "there is one evaluation"),
], ids=("smoothing", "masks", "average"))  # fmt: skip
def test_what_makes_no_sense_is_refused_before_the_training(
    case: Case, settings: dict[str, Any], says: str, tiny_bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        battery.train(case, case.rows(30, 0), tmp_path / "m", tiny_bert, task=case.name, **settings)


@pytest.mark.parametrize("settings", [{"r_drop": 1}, {"multi_sample_dropout": 2}], ids=str)
def test_an_encoder_without_dropout(still: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has no dropout"):
        battery.train(classification, classification.rows(30, 0), tmp_path / "m", still, **settings)
    battery.train(classification, classification.rows(30, 0), tmp_path / "m2", still, dropout=0.1, epochs=1, **settings)


def test_every_architecture_of_the_tests_takes_all_of_it(tmp_path: Path) -> None:
    """ModernBERT comes without dropout, and is told some."""
    for architecture in ("distilbert", "deberta-v2", "modernbert", "gpt2"):
        encoder = tiny.save_encoder(tmp_path / architecture, architecture)
        settings = {**STEP, "ema": 0.9, "epochs": 1, "dropout": 0.1}
        found = battery.train(classification, classification.rows(30, 0), tmp_path / "m" / architecture, encoder, **settings)
        assert found.result["training"]["steps"] == 3


def test_what_is_in_use_is_said_in_the_report(tiny_bert: Path, tmp_path: Path) -> None:
    found = battery.train(classification, classification.rows(30, 0), tmp_path / "m", tiny_bert, ema=0.9, epochs=1, **STEP)
    plain = battery.train(classification, classification.rows(30, 0), tmp_path / "plain", tiny_bert, epochs=1)
    said = ("label smoothing 0.1", "R-Drop 1.5", "adversarial noise (FGM) 0.5", "3 dropout masks", "moving average of the weights")
    for name in ("report.html", "README.md"):
        page = (found.directory / name).read_text(encoding="utf-8")
        assert all(words in page for words in said), name
        assert "Regularisation" not in (plain.directory / name).read_text(encoding="utf-8")


def test_on_the_command_line(run: Run, tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    flags = ("--model", tiny_bert, "--max-length", 24, "--epochs", 1, "--batch-size", 16, "--precision", "fp32")
    done = run("train", reviews, *flags, "--out", "m", "--r-drop", 0.5, "--eval-steps", 3, "--average", 9)
    assert done.code == 0, done.err
    assert "regularisation: R-Drop 0.5 (Liang et al. 2021); mean of the weights at the last 9 evaluations" in done.err
    assert "note: the weights of all 2 evaluations are averaged; for average 9 there are too few." in done.err.replace("--", "")
    assert "the weights of all 2 evaluations" in (tmp_path / "m" / "report.html").read_text(encoding="utf-8")
    refused = run("train", reviews, *flags, "--out", "m2", "--ema", 0.9, "--average", 2)
    assert refused.code == 2 and "--ema and --average exclude each other" in refused.err
    refused = run("train", reviews, *flags, "--out", "m2", "--r-drop", "much")
    assert refused.code == 2 and "--r-drop is 'much'; it must be a number from 0 to 1,000" in refused.err, refused.err
    plain = run("train", reviews, *flags, "--out", "m3")
    assert "regularisation" not in plain.err


def test_refusal_knows_where_masks_are(ready: Callable[..., Ready]) -> None:
    found = ready(classification)
    refuse_without_dropout(found.model, found.config.model_copy(update={"r_drop": 1.0, "multi_sample_dropout": 2}))
