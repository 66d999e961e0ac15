"""Parameter-efficient ways to tune: saved in PEFT's format with the head, equal in plain PEFT, merged = unmerged, one encoder shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tunesmith
from running import Run
from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch, collate
from tunesmith.errors import ModelError, UsageError
from tunesmith.model.adapters import Beside
from tunesmith.model.heads import TextModel, build_model
from tunesmith.model.pretrained import open_pretrained
from tunesmith.model.spec import HeadKind, HeadSpec
from tunesmith.model.tuning import choose_strategy, trained_parameters
from tunesmith.resolve import resolve

MERGED = ("lora", "dora", "ia3")
PROMPTS = ("prompt", "ptuning", "prefix")
OF_PEFT = (*MERGED, *PROMPTS)
WAYS = (*OF_PEFT, "adapter")
KINDS: dict[str, HeadKind] = {
    "classification": "sequence-classification",
    "tagging": "token-classification",
    "qa": "question-answering",
}
# peft 0.21 itself calls something that transformers 5.23 calls deprecated, and says so where a base was not fine-tuned
PLAIN = ("ignore:.*is_gradient_checkpointing.*", "ignore:.*Could not find a config file.*")
SEQUENCES = [np.array(ids, np.int32) for ids in ([2, 5, 9, 14, 3], [2, 7, 3], [2, 30, 31, 8, 6, 11, 12, 3])]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random encoders by architecture."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = sharpened(tiny.save_encoder(tmp_path_factory.mktemp(architecture) / "encoder", architecture))
        return made[architecture]

    return get


def sharpened(directory: Path) -> Path:
    """Enlarge the weights of a random encoder, so that its outputs differ between texts as those of a trained one do."""
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {name: value * 6 if value.ndim > 1 else value for name, value in tensors.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    return directory


def prepared(encoder: Path, tuning: str, kind: HeadKind = "sequence-classification", pooling: str = "cls", **told: Any) -> Any:
    """Return a model with what `tuning` trains set to random values, far from those that training begins with, and its strategy."""
    config: Config = resolve({"model": str(encoder), "tuning": tuning, **told})
    spec = HeadSpec(kind, 2 if kind == "question-answering" else 3)
    loaded = open_pretrained(str(encoder)).load(spec)
    loaded.tokenizer.model_max_length = 32
    model = build_model(loaded, spec, pooling=pooling, dropout=None, seed=0)
    strategy = choose_strategy(config)
    strategy.prepare(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.eval(), strategy


def saved(model: TextModel, strategy: Any, directory: Path) -> Path:
    strategy.finish(model)
    directory.mkdir()
    model.save(directory)
    return directory


def batch(borders: bool = False) -> PackedBatch:
    found = collate(SEQUENCES, np.arange(len(SEQUENCES)))
    if borders:
        object.__setattr__(found, "borders", np.array([3, 2, 4], np.int32))
    return found


def outputs(model: TextModel, engine: str = "auto", borders: bool = False) -> torch.Tensor:
    model.encoder.engine = engine
    with torch.no_grad():
        return model(batch(borders))


def plain(kind: HeadKind, encoder: Path, directory: Path, virtual: int = 0) -> torch.Tensor:
    """Return what PEFT alone gives for the adapter in `directory`, as the packed model does."""
    import peft
    import transformers

    auto = {
        "sequence-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "question-answering": transformers.AutoModelForQuestionAnswering,
    }[kind]
    base = auto.from_pretrained(encoder, num_labels=2 if kind == "question-answering" else 3)
    model = peft.PeftModel.from_pretrained(base, str(directory)).eval()
    longest = max(map(len, SEQUENCES))
    ids, mask = torch.zeros(len(SEQUENCES), longest, dtype=torch.long), torch.zeros(len(SEQUENCES), longest, dtype=torch.long)
    for row, sequence in enumerate(SEQUENCES):
        ids[row, : len(sequence)], mask[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64)), 1
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask)
    if kind == "sequence-classification":
        return found.logits
    logits = torch.stack([found.start_logits, found.end_logits], -1) if kind == "question-answering" else found.logits
    return logits[:, logits.shape[1] - longest :][mask.bool()]


@pytest.mark.filterwarnings(*PLAIN)
@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("way", OF_PEFT)
def test_plain_peft_gives_equal_outputs(way: str, kind: HeadKind, encoders: Any, tmp_path: Path) -> None:
    model, strategy = prepared(encoders("bert"), way, kind, **({"merge": False} if way in MERGED else {}))
    directory = saved(model, strategy, tmp_path / "adapter")
    ours = outputs(model)
    theirs = plain(kind, encoders("bert"), directory)
    assert ours.std() > 0.05 and (ours[0] - ours[1]).abs().max() > 0.01  # or equality would say nothing
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(outputs(model, "padded"), ours, atol=2e-5, rtol=1e-4)
    assert not (directory / "model.safetensors").exists() and not (directory / "config.json").exists()
