"""Poolings and window aggregation against plain loops over sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import tunesmith
from tunesmith.data.batches import PackedBatch, collate
from tunesmith.model.heads import HEAD_FILE, CheckpointHead, PooledHead, build_model, load_head
from tunesmith.model.pretrained import open_pretrained
from tunesmith.tasks.classification import Classification

LENGTHS = [3, 1, 8, 2, 8]


def batch_of(lengths: list[int], example: list[int] | None = None) -> PackedBatch:
    return collate([np.full(length, 7, np.int32) for length in lengths], np.array(example if example else range(len(lengths))))


def hidden_states(width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(sum(LENGTHS), width, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def pooled_by_loop(head: PooledHead, hidden: torch.Tensor) -> torch.Tensor:
    rows = []
    for part in torch.split(hidden, LENGTHS):
        if head.pooling == "cls":
            rows.append(part[-1] if head.last else part[0])
        elif head.pooling == "mean":
            rows.append(sum(part) / len(part))
        elif head.pooling == "max":
            rows.append(torch.stack([max(part[:, j]) for j in range(part.shape[1])]))
        else:
            weights = torch.softmax(torch.stack([head.score(torch.tanh(head.project(token)))[0] for token in part]), 0)
            rows.append(sum(weight * token for weight, token in zip(weights, part, strict=True)))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("pooling", "last"), [("cls", False), ("cls", True), ("mean", False), ("max", False), ("attention", False), ("attention", True)]
)
def test_pooling_equals_a_loop_over_sequences(pooling: str, last: bool) -> None:
    torch.manual_seed(0)
    head = PooledHead(6, 4, pooling, dropout=0.0, last=last)
    with torch.no_grad():  # of a size at which softmax is not flat
        for parameter in head.parameters():
            parameter.mul_(40)
    hidden = hidden_states()
    ends = np.cumsum(LENGTHS)
    read = {"all": np.arange(ends[-1]), "first": ends - LENGTHS, "last": ends - 1}[head.reads]
    found = head(hidden[torch.from_numpy(read)], batch_of(LENGTHS))
    expected = head.classifier(pooled_by_loop(head, hidden))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    wanted = [hidden, *head.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), wanted), torch.autograd.grad((expected * weights).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_attention_pooling_survives_large_scores() -> None:
    head = PooledHead(2, 2, "attention", dropout=0.0)
    with torch.no_grad():
        head.score.weight.fill_(1e4)
        head.project.weight.copy_(torch.eye(2))
    pooled = head.pool(torch.tensor([[3.0, 3.0], [-3.0, -3.0], [1.0, 1.0]]), batch_of([2, 1]))
    torch.testing.assert_close(pooled, torch.tensor([[3.0, 3.0], [1.0, 1.0]]))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "attention"])
def test_every_parameter_that_is_used_gets_a_gradient(tiny_bert: Path, pooling: str) -> None:
    encoder = open_pretrained(str(tiny_bert)).load(tiny.labelled("ab"))
    model = build_model(encoder, tiny.labelled("ab"), pooling=pooling, dropout=0.0, seed=0).eval()
    batch = batch_of([5, 3, 9])
    batch.ids[:] = np.arange(10, 27)
    torch.nn.functional.cross_entropy(model(batch), torch.tensor([0, 1, 1])).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0}
    # BERT's pooler belongs to its own head; a key's bias shifts all scores of a softmax alike, and so changes nothing
    allowed = set() if pooling == "cls" else {"encoder.hf.pooler.dense.weight", "encoder.hf.pooler.dense.bias"}
    assert {name for name in unused if not name.endswith("key.bias")} == allowed


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_windows_are_aggregated_as_a_loop_would(aggregation: str) -> None:
    task = Classification(["a", "b", "c"], "single", aggregation=aggregation)
    example = [0, 0, 0, 1, 2, 2]
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
    found = task.combine(outputs, batch_of([2] * 6, example))
    rows = []
    for number in range(3):
        part = torch.stack([outputs[i] for i in range(6) if example[i] == number])
        rows.append(part.mean(0) if aggregation == "mean" else part.max(0).values)
    expected = torch.stack(rows)
    torch.testing.assert_close(found, expected)
    weights = torch.tensor([[1.0, -2, 3], [4, 5, -6], [7, 8, 9]])
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), outputs)[0], torch.autograd.grad((expected * weights).sum(), outputs)[0]
    )


def test_one_window_each_changes_nothing() -> None:
    outputs = torch.randn(3, 2)
    for aggregation in ("mean", "max"):
        assert torch.equal(Classification(["a", "b"], "single", aggregation=aggregation).combine(outputs, batch_of([4, 2, 1])), outputs)


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_predicting_a_long_text_by_windows(tmp_path: Path, tiny_bert: Path, aggregation: str) -> None:
    """What `predict` says of a long text is the aggregate of what the model says of each window, special tokens included."""
    rows = tiny.rows(16)
    trained = tunesmith.train(
        rows,
        model=tiny_bert,
        out=tmp_path / "m",
        epochs=1,
        lr=1e-3,
        max_length=8,
        stride=2,
        truncation="windows",
        aggregation=aggregation,
        valid_size=0.0,
        test_size=0.0,
        precision="fp32",
        progress="quiet",
    )
    text = " ".join(row["text"] for row in rows[:3])
    ids = trained.bundle.encoder.tokenizer.encode(text, add_special_tokens=False).ids
    outputs = []
    for start in range(0, len(ids), 4):  # six of a window's eight tokens are text, two of them shared
        window = [2, *ids[start : start + 6], 3]
        with torch.no_grad():
            outputs.append(trained.bundle.model(collate([np.array(window, np.int32)], np.zeros(1)))[0])
        if start + 6 >= len(ids):
            break
    assert len(outputs) > 3
    merged = torch.stack(outputs).mean(0) if aggregation == "mean" else torch.stack(outputs).max(0).values
    expected = dict(zip(trained.bundle.labels, torch.softmax(merged, 0).tolist(), strict=True))
    assert trained.bundle.predict(text).probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "attention"])
def test_head_depends_on_its_seed_alone(tiny_bert: Path, pooling: str) -> None:
    def head(seed: int) -> dict[str, torch.Tensor]:
        encoder = open_pretrained(str(tiny_bert)).load(tiny.labelled("ab"), seed=seed)
        torch.manual_seed(np.random.default_rng().integers(2**31))
        return build_model(encoder, tiny.labelled("ab"), pooling=pooling, dropout=None, seed=seed).state_dict()

    first, again, other = head(1), head(1), head(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_heads_dropout() -> None:
    head = PooledHead(50, 2, "mean", dropout=0.5)
    hidden, batch = torch.ones(3, 50), batch_of([3])
    assert not torch.equal(head.train()(hidden, batch), head.eval()(hidden, batch))
    head = PooledHead(50, 2, "mean", dropout=0.0)
    assert torch.equal(head.train()(hidden, batch), head.eval()(hidden, batch))


def test_an_unknown_head_is_replaced_by_one_of_ours(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A head of transformers that packed states cannot go through must neither crash nor pass with other outputs."""
    right = CheckpointHead.forward

    def fails(self, first, batch):
        raise AttributeError("no such part")

    def without_dense_layer(self, first, batch):
        return self._encoder[0].hf.classifier(first)

    reads = CheckpointHead.reads
    for wrong, tokens in ((fails, reads), (right, "last"), (without_dense_layer, reads)):
        monkeypatch.setattr(CheckpointHead, "forward", wrong)
        monkeypatch.setattr(CheckpointHead, "reads", tokens)
        model = build_model(
            open_pretrained(str(tiny_bert)).load(tiny.labelled("ab")), tiny.labelled("ab"), pooling="cls", dropout=0.0, seed=0
        )
        assert not model.loads_in_transformers and isinstance(model.head, PooledHead)
    model.save(tmp_path)
    assert (tmp_path / HEAD_FILE).is_file()
    fresh = build_model(open_pretrained(str(tiny_bert)).load(tiny.labelled("ab")), tiny.labelled("ab"), pooling="cls", dropout=0.0, seed=9)
    assert not torch.equal(fresh.head.classifier.weight, model.head.classifier.weight)
    load_head(fresh, tmp_path)
    assert torch.equal(fresh.head.classifier.weight, model.head.classifier.weight)


def test_a_saved_head_that_no_longer_runs_is_an_error(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "m"
    tunesmith.train(tiny.rows(16), model=tiny_bert, out=out, epochs=1, valid_size=0.0, test_size=0.0, progress="quiet")

    def fails(self, hidden, batch):
        raise AttributeError("no such part")

    monkeypatch.setattr(CheckpointHead, "forward", fails)
    with pytest.raises(tunesmith.errors.ModelError, match="installed transformers differs"):
        tunesmith.load(out)
