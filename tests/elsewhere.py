"""Computing elsewhere than on the processor, tried on a device that mixes its tensors with no others but computes the same values.

`test_devices.py` runs these in a process of their own: torch wants to know of a device before the first gradient of a process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import varlen as torch_varlen

import far_device
import tiny
import tunesmith
from cutting import cut_off_at
from tasks.test_battery import CASES, Case, train
from test_devices import of_each_sequence
from tunesmith.errors import ModelError, StorageError
from tunesmith.model import moving, varlen
from tunesmith.model.devices import CPU
from tunesmith.search.index import SearchIndex
from tunesmith.search.store import Passage

IDS = [f"{case.name}{'-' + case.settings['ranker'] if 'ranker' in case.settings else ''}" for case in CASES]
classification = CASES[0]


@pytest.fixture(scope="session", autouse=True)
def _registered() -> None:
    far_device.register()


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has `auto` choose the other device."""
    name = far_device.NAME
    for module in ("tunesmith.fitting", "tunesmith.lr_find", "tunesmith.automatic", "tunesmith.bundle", "tunesmith.search.vectors"):
        monkeypatch.setattr(
            f"{module}.choose_device", lambda wanted: (torch.device("cpu" if wanted == "cpu" else name), f"the {name} device")
        )
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # in which torch allows no tensors of other classes
    # tied parameters and those held by name stay one, as they do on a GPU
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


def rounded(prediction: Any) -> str:
    return re.sub(r"\d+\.\d+(e-\d+)?", lambda found: f"{float(found[0]):.3f}", str(prediction))


def compare(case: Case, encoder: Path, directory: Path, **settings: Any) -> tunesmith.TrainResult:
    """Train twice; the other device ends with the processor's weights."""
    rows = case.rows(40, 0)
    # masks are drawn by the device; sums in another order move a parameter far where AdamW divides by a gradient that is nearly zero
    usual = {"task": case.name, "epochs": 1, "dropout": 0.0, "attention_dropout": 0.0, "optimizer": "sgd", "lr": 0.01}
    near = train(case, rows, directory / "near", encoder, device="cpu", **{**usual, **settings})
    there = train(case, rows, directory / "there", encoder, **{**usual, **settings})
    assert there.bundle.model.encoder.device.type == far_device.NAME
    names = [path.relative_to(near.directory) for path in near.directory.rglob("*.safetensors")]
    assert names
    for name in names:
        one, other = load_file(near.directory / name), load_file(there.directory / name)
        assert one.keys() == other.keys()
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    return there


@pytest.mark.parametrize("engine", ["packed", "padded"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_task_learns_the_same_on_another_device(case: Case, engine: str, far: None, tiny_bert: Path, tmp_path: Path) -> None:
    found = compare(case, tiny_bert, tmp_path, engine=engine)
    rows = [{key: value for key, value in row.items() if key not in ("label", "score", "tags", "answers")} for row in case.rows(5, 1)]
    here = tunesmith.load(found.directory, device="cpu")
    for one, other in zip(found.bundle.predict(rows), here.predict(rows), strict=True):
        assert rounded(one) == rounded(other)


@pytest.mark.parametrize("tuning", ["lora", "adapter", "ia3", "prefix", "ptuning", "prompt", "last:1", "layerwise", "bitfit", "fewshot"])
def test_every_way_of_tuning_learns_the_same(tuning: str, far: None, tiny_bert: Path, tmp_path: Path) -> None:
    compare(classification, tiny_bert, tmp_path, tuning=tuning, max_length=40)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.1},
        {"fgm": 0.5, "max_tokens": 48},
        {"ema": 0.9},
        {"average": 2, "epochs": 2},
        {"class_weights": "balanced", "loss": "focal"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_settings_of_training_do_the_same(settings: dict[str, Any], far: None, tiny_bert: Path, tmp_path: Path) -> None:
    compare(classification, tiny_bert, tmp_path, **settings)


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "mpnet", "deberta-v2", "modernbert"])
def test_other_encoders_do_the_same(architecture: str, far: None, tmp_path: Path) -> None:
    compare(classification, tiny.save_encoder(tmp_path / "encoder", architecture), tmp_path)


def test_contrastive_parts_draw_the_masks_of_the_first_pass_again(far: None, tiny_bert: Path, tmp_path: Path) -> None:
    found = train(CASES[-1], CASES[-1].rows(40, 0), tmp_path / "parts", tiny_bert, epochs=1, max_tokens=40, optimizer="sgd")
    whole = train(CASES[-1], CASES[-1].rows(40, 0), tmp_path / "whole", tiny_bert, epochs=1, optimizer="sgd")
    assert found.bundle.model.encoder.device == whole.bundle.model.encoder.device != torch.device("cpu")


def test_a_device_that_computes_something_else_is_refused(
    far: None, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(moving._TOLERANCE, "fp32", -1.0)
    with pytest.raises(ModelError, match=r"on far this encoder gives other hidden states .* Take device='cpu'"):
        train(classification, classification.rows(40, 0), tmp_path / "model", tiny_bert)


def test_a_probe_for_the_learning_rate_an_update_and_an_index_compute_there(far: None, tiny_bert: Path, tmp_path: Path) -> None:
    found = train(classification, classification.rows(60, 0), tmp_path / "model", tiny_bert, lr="find")
    assert found.result["machine"]["device"] == "the far device"
    assert "the far device, fp32" in (found.directory / "report.html").read_text(encoding="utf-8")
    updated = tunesmith.update(found.directory, classification.rows(20, 9), distill=1.0, epochs=1, force=True, progress="quiet")
    assert updated.version == 2
    passages = [Passage(str(number), "", row["text"]) for number, row in enumerate(classification.rows(30, 2))]
    index = SearchIndex.build(passages, tmp_path / "index", model=str(tiny_bert))
    assert index.search(passages[3].text, 1)[0].id == "3"


def test_models_that_share_an_encoder_compute_each_where_it_was_loaded(far: None, tiny_bert: Path, tmp_path: Path) -> None:
    rows = classification.rows(40, 0)
    for name, seed in (("one", 0), ("two", 1)):
        train(classification, rows, tmp_path / name, tiny_bert, tuning="lora", merge=False, seed=seed)
    texts = [row["text"] for row in rows[:8]]
    alone = tunesmith.load(tmp_path / "two", device="cpu").probabilities(texts)
    here, there, more = (
        tunesmith.load(tmp_path / name, device=device) for name, device in (("one", "cpu"), ("two", "far"), ("one", "far"))
    )
    assert [model.model.encoder.device.type for model in (here, there, more)] == ["cpu", "far", "far"]
    assert there.model.encoder.shared is more.model.encoder.shared is not here.model.encoder.shared
    np.testing.assert_allclose(there.probabilities(texts), alone, atol=1e-5)
    np.testing.assert_allclose(more.probabilities(texts), here.probabilities(texts), atol=1e-5)


def test_an_encoder_runs_on_the_kernel_of_a_gpu(far: None, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_varlen, "varlen_attn", of_each_sequence)
    monkeypatch.setattr(varlen, "runs_on", lambda device, dtype, size: device.type == far_device.NAME)
    found = compare(classification, tiny_bert, tmp_path)
    assert "attention by torch's kernel for sequences of any lengths" in found.result["machine"]["note"]


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"optimizer": "sgd", "average": 2}], ids=str)
def test_a_run_goes_on_where_it_began(settings: dict[str, Any], far: None, tiny_bert: Path, tmp_path: Path) -> None:
    rows = classification.rows(40, 0)
    whole = train(classification, rows, tmp_path / "whole", tiny_bert, **settings)
    with cut_off_at(9):
        train(classification, rows, tmp_path / "cut", tiny_bert, checkpoint_steps=2, **settings)
    with pytest.raises(StorageError, match=r"was made on far, and this run computes on cpu.* Go on with device='far'"):
        train(classification, rows, tmp_path / "cut", tiny_bert, checkpoint_steps=2, device="cpu", resume=True, **settings)
    train(classification, rows, tmp_path / "cut", tiny_bert, checkpoint_steps=2, resume=True, **settings)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(value.equal(other[key]) for key, value in one.items())
    assert whole.bundle.model.encoder.device.type == far_device.NAME


def test_what_is_pickled_is_opened_anywhere(far: None, tiny_bert: Path, tmp_path: Path) -> None:
    found = train(classification, classification.rows(40, 0), tmp_path / "model", tiny_bert, epochs=1)
    assert found.bundle.__getstate__()["model"].encoder.device == CPU != found.bundle.model.encoder.device


def test_a_kernel_that_fails_is_told(far: None, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nand more")

    monkeypatch.setattr(torch_varlen, "varlen_attn", fail)
    monkeypatch.setattr(varlen, "runs_on", lambda device, dtype, size: device.type == far_device.NAME)
    with pytest.raises(ModelError, match=r"does not run on far: CUDA error: no kernel image is available\. Take device='cpu'"):
        train(classification, classification.rows(40, 0), tmp_path / "model", tiny_bert)
