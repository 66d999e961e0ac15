"""Every supported architecture: packed equals padded, and a saved directory says in transformers what it says here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tunesmith
from tunesmith.data.batches import PackedBatch, collate
from tunesmith.errors import ModelError
from tunesmith.model.heads import CheckpointHead, PooledHead, build_model, set_output_bias
from tunesmith.model.pretrained import open_pretrained

ROWS = tiny.rows(16, seed=3, labels=("animal", "colour", "neither"))
TEXTS = [row["text"] for row in tiny.rows(9, seed=5, labels=("animal", "colour", "neither"))]
LABELS = ["b", "a", "c"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random encoder of each architecture."""
    root = tmp_path_factory.mktemp("encoders")
    return {name: tiny.save_encoder(root / name, name) for name in tiny.ARCHITECTURES}


@pytest.fixture(params=list(tiny.ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


def short_training(data: Any, out: Path, model: Path, **settings: Any) -> tunesmith.TrainResult:
    defaults: dict[str, Any] = {"epochs": 1, "lr": 1e-3, "batch_size": 8, "max_length": 32, "precision": "fp32"}
    # nothing split off: no evaluation, which this file is not about
    defaults |= {"valid_size": 0.0, "test_size": 0.0}
    return tunesmith.train(data, out=out, model=model, progress="quiet", **{**defaults, **settings})


def random_batch(lengths: list[int], seed: int = 0) -> PackedBatch:
    generator = np.random.default_rng(seed)
    high = len(tiny.SPECIAL) + len(tiny.WORDS)
    sequences = [generator.integers(5, high, length).astype(np.int32) for length in lengths]
    return collate(sequences, np.arange(len(lengths)))


def padded(batch: PackedBatch, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch as transformers wants it, made by a plain loop."""
    width = int(batch.lengths.max())
    ids = torch.full((len(batch.lengths), width), pad)
    mask = torch.zeros_like(ids)
    for i, length in enumerate(batch.lengths.tolist()):
        ids[i, :length] = torch.from_numpy(batch.ids[batch.cu_seqlens[i] : batch.cu_seqlens[i] + length].astype(np.int64))
        mask[i, :length] = 1
    return ids, mask


# 62 is the longest that all the tiny encoders take
@pytest.mark.parametrize("lengths", [[7], [1], [62], [3, 62, 1, 17, 17, 2], [5, 5, 5]], ids=str)
def test_packed_equals_padded(architecture: str, encoders: dict[str, Path], lengths: list[int]) -> None:
    encoder = open_pretrained(str(encoders[architecture])).load(tiny.labelled(LABELS), seed=1).eval()
    model = build_model(encoder, tiny.labelled("abc"), pooling="cls", dropout=None, seed=2).eval()
    batch = random_batch(lengths, seed=sum(lengths))
    ids, mask = padded(batch, encoder.pad_id)
    with torch.no_grad():
        hidden = encoder(batch)
        expected = encoder.base(input_ids=ids, attention_mask=mask)[0]
        logits = model(batch)
        theirs = encoder.hf(input_ids=ids, attention_mask=mask).logits
    assert hidden.shape == (sum(lengths), encoder.width)
    for i, length in enumerate(lengths):
        start = batch.cu_seqlens[i]
        torch.testing.assert_close(hidden[start : start + length], expected[i, :length], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, theirs, atol=1e-5, rtol=0)


def test_packed_sequences_do_not_see_each_other(architecture: str, encoders: dict[str, Path]) -> None:
    encoder = open_pretrained(str(encoders[architecture])).load(tiny.labelled(LABELS), seed=1).eval()
    batch = random_batch([4, 9, 1])
    with torch.no_grad():
        together = encoder(batch)
        alone = [encoder(collate([batch.ids[a:b]], np.zeros(1))) for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_cls_takes_the_head_of_transformers(architecture: str, encoders: dict[str, Path]) -> None:
    encoder = open_pretrained(str(encoders[architecture])).load(tiny.labelled(LABELS))
    model = build_model(encoder, tiny.labelled("abc"), pooling="cls", dropout=None, seed=0)
    assert model.loads_in_transformers and isinstance(model.head, CheckpointHead)
    # each parameter once, and by the name that transformers gives it
    assert [name for name, _ in model.named_parameters()] == [f"encoder.hf.{name}" for name, _ in encoder.hf.named_parameters()]


def test_longest_sequence_fits_the_position_table(architecture: str, encoders: dict[str, Path]) -> None:
    pretrained = open_pretrained(str(encoders[architecture]))
    limit = pretrained.max_length
    assert limit == (63 if architecture == "mpnet" else 64)
    with torch.no_grad():
        hidden = pretrained.load(tiny.labelled(LABELS)).eval()(random_batch([limit]))
    assert bool(torch.isfinite(hidden).all())


def test_trained_directory_in_transformers(architecture: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    out = tmp_path / "model"
    short_training(ROWS, out, encoders[architecture])
    bundle = tunesmith.load(out)
    assert bundle.labels == ["animal", "colour", "neither"]
    ours = bundle.predict(TEXTS)
    # one by one: the same without any padding
    for text, prediction in zip(TEXTS, ours, strict=True):
        assert bundle.predict(text).probabilities == pytest.approx(prediction.probabilities, abs=1e-5)
    reference = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert reference.config.id2label == {0: "animal", 1: "colour", 2: "neither"}
    assert reference.config.label2id == {"animal": 0, "colour": 1, "neither": 2}
    tokens = AutoTokenizer.from_pretrained(out)(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    with torch.no_grad():
        theirs = torch.softmax(reference(**tokens).logits, 1).numpy()
    np.testing.assert_allclose([list(prediction.probabilities.values()) for prediction in ours], theirs, atol=1e-5)
    answers = pipeline("text-classification", model=str(out), device="cpu", top_k=None)(TEXTS, batch_size=4)
    for prediction, answer in zip(ours, answers, strict=True):
        assert answer[0]["label"] == prediction.label
        assert {item["label"]: item["score"] for item in answer} == pytest.approx(prediction.probabilities, abs=1e-5)


# the head does not depend on the encoder, so the other poolings need only two of them
@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [*((name, "mean") for name in tiny.ARCHITECTURES), ("bert", "max"), ("bert", "attention"), ("gpt2", "max"), ("gpt2", "attention")],
)
def test_other_poolings_save_and_load(architecture: str, encoders: dict[str, Path], tmp_path: Path, pooling: str) -> None:
    from transformers import AutoModel

    out = tmp_path / "model"
    trained = short_training(ROWS, out, encoders[architecture], pooling=pooling)
    before = trained.bundle.probabilities(TEXTS)
    bundle = tunesmith.load(out)
    np.testing.assert_array_equal(bundle.probabilities(TEXTS), before)
    assert isinstance(bundle.model.head, PooledHead) and bundle.model.head.pooling == pooling
    # the body is an ordinary checkpoint for whoever wants only that
    body = AutoModel.from_pretrained(out).state_dict()
    ours = bundle.model.encoder.hf.state_dict()
    assert body.keys() == ours.keys()
    # RoBERTa's kin have no pooler in classification models
    assert all(torch.equal(value, ours[name]) for name, value in body.items() if "pooler" not in name)
    description = json.loads((out / "tunesmith.json").read_text())
    assert description["pooling"] == pooling and description["loads_in_transformers"] is False
    card = (out / "README.md").read_text()
    assert "needs tunesmith" in card and "pipeline(" not in card


def test_card_of_a_cls_model_shows_transformers(encoders: dict[str, Path], tmp_path: Path) -> None:
    short_training(ROWS, tmp_path / "m", encoders["bert"])
    card = (tmp_path / "m" / "README.md").read_text()
    assert "pipeline(" in card and "needs tunesmith" not in card


def test_several_labels_a_row_in_transformers(encoders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, pipeline

    data = [{"text": row["text"], "label": ["x", row["label"]] if i % 2 else [row["label"]]} for i, row in enumerate(ROWS)]
    short_training(data, tmp_path / "m", encoders["bert"])
    bundle = tunesmith.load(tmp_path / "m")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").config.problem_type == "multi_label_classification"
    # a pipeline takes the sigmoid by itself, from the problem type
    answers = pipeline("text-classification", model=str(tmp_path / "m"), device="cpu", top_k=None)(TEXTS)
    for prediction, answer in zip(bundle.predict(TEXTS), answers, strict=True):
        assert {item["label"]: item["score"] for item in answer} == pytest.approx(prediction.probabilities, abs=1e-5)


def test_incomplete_checkpoint_is_refused(architecture: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    damaged = copy_with(encoders[architecture], tmp_path / "damaged", lambda weights: weights.pop(body_matrix(weights)))
    with pytest.raises(ModelError, match="lack 1 parts of the encoder"):
        open_pretrained(str(damaged)).load(tiny.labelled(LABELS))


def test_checkpoint_of_another_shape_is_refused(architecture: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    def cut(weights: dict[str, torch.Tensor]) -> None:
        name = body_matrix(weights)
        weights[name] = weights[name][:-1].clone()

    damaged = copy_with(encoders[architecture], tmp_path / "damaged", cut)
    with pytest.raises(ModelError, match="shape"):
        open_pretrained(str(damaged)).load(tiny.labelled(LABELS))


def copy_with(model: Path, to: Path, change: Any) -> Path:
    """A copy of a model directory whose weights went through `change`."""
    to.mkdir()
    for file in model.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    weights = load_file(to / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def body_matrix(weights: dict[str, torch.Tensor]) -> str:
    """The name of some matrix that every forward pass needs."""
    return next(name for name in sorted(weights) if weights[name].ndim == 2 and "embed" not in name and "pooler" not in name)


def test_no_weights_and_pickled_weights_are_refused(encoders: dict[str, Path], tmp_path: Path) -> None:
    bare = copy_with(encoders["bert"], tmp_path / "bare", lambda weights: None)
    weights = load_file(bare / "model.safetensors")
    (bare / "model.safetensors").unlink()
    torch.save(weights, bare / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"Pickled weights .* are never read"):
        open_pretrained(str(bare)).load(tiny.labelled(LABELS))


def test_head_of_another_task_is_not_reused(architecture: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint fine-tuned on the same number of labels starts with a fresh head all the same, its body kept."""
    old = open_pretrained(str(encoders[architecture])).load(tiny.labelled(["x", "y", "z"]), seed=11)
    with torch.no_grad():
        for parameter in old.hf.parameters():
            parameter.add_(0.25)
    old.save(tmp_path / "old")
    new = open_pretrained(str(tmp_path / "old")).load(tiny.labelled(LABELS), seed=12)
    body = {id(parameter) for parameter in new.base.parameters()}
    old_values = dict(old.hf.named_parameters())
    heads = 0
    for name, parameter in new.hf.named_parameters():
        if id(parameter) in body:
            assert torch.equal(parameter, old_values[name]), name
        else:
            assert not torch.equal(parameter, old_values[name]), name
            heads += 1
            if parameter.ndim == 2:  # drawn around zero, with the checkpoint's own deviation
                assert abs(float(parameter.mean().detach())) < 0.02 and 0.01 < float(parameter.std().detach()) < 0.04, name
    assert heads > 0
    assert new.config.id2label == {0: "b", 1: "a", 2: "c"}


def test_same_seed_same_head(architecture: str, encoders: dict[str, Path]) -> None:
    before = torch.random.get_rng_state()
    encoder_path = str(encoders[architecture])
    first, again, other = (open_pretrained(encoder_path).load(tiny.labelled(LABELS), seed=seed).hf.state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's draws are not disturbed
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = [name for name in first if not torch.equal(first[name], other[name])]
    body = set(load_file(encoders[architecture] / "model.safetensors"))
    assert differing and not any(name.split(".", 1)[-1] in body for name in differing)


def test_half_precision_checkpoint_loads_as_float32(encoders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(encoders["bert"]).half().save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((encoders["bert"] / name).read_bytes())
    assert {value.dtype for value in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    encoder = open_pretrained(str(tmp_path / "half")).load(tiny.labelled(LABELS))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    short_training(ROWS, tmp_path / "m", tmp_path / "half")
    assert {value.dtype for value in load_file(tmp_path / "m" / "model.safetensors").values()} == {torch.float32}
    assert {parameter.dtype for parameter in tunesmith.load(tmp_path / "m").model.parameters()} == {torch.float32}


def test_dropout_settings_reach_the_modules(architecture: str, encoders: dict[str, Path]) -> None:
    """With both at zero training mode equals evaluation mode; with either above zero it does not."""
    batch = random_batch([9, 4])

    def differs(**settings: float) -> bool:
        encoder = open_pretrained(str(encoders[architecture])).load(tiny.labelled(LABELS), seed=1, **settings)
        model = build_model(encoder, tiny.labelled("abc"), pooling="cls", dropout=settings.get("dropout"), seed=0)
        # larger weights make what attention does visible in a random network
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(5)
            torch.manual_seed(0)
            trained, fixed = model.train()(batch), model.eval()(batch)
        return not torch.equal(trained, fixed)

    assert not differs(dropout=0.0, attention_dropout=0.0)
    assert differs(dropout=0.5, attention_dropout=0.0)
    assert differs(dropout=0.0, attention_dropout=0.5)


def test_dropout_stays_the_checkpoints_own_unless_told(encoders: dict[str, Path]) -> None:
    def rates(**settings: float) -> set[float]:
        encoder = open_pretrained(str(encoders["bert"])).load(tiny.labelled(LABELS), **settings)
        return {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)}

    assert rates() == {0.1}
    assert rates(dropout=0.3) == {0.3, 0.1}
    assert rates(dropout=0.3, attention_dropout=0.2) == {0.3, 0.2}


@pytest.mark.parametrize("pooling", ["cls", "attention"])
def test_the_output_bias_is_that_of_the_last_layer(architecture: str, encoders: dict[str, Path], pooling: str) -> None:
    encoder = open_pretrained(str(encoders[architecture])).load(tiny.labelled(LABELS), seed=1)
    model = build_model(encoder, tiny.labelled("abc"), pooling=pooling, dropout=0.0, seed=1).eval()
    batch, bias = random_batch([5, 9]), np.array([-2.0, 0.5, 3.0], np.float32)
    with torch.no_grad():
        before = model(batch)
        assert set_output_bias(model, bias) == (not (architecture == "gpt2" and pooling == "cls"))
        added = (model(batch) - before).numpy()
    np.testing.assert_allclose(added, np.tile(bias if added.any() else 0 * bias, (2, 1)), atol=1e-5)
    assert added.any() or architecture == "gpt2"
