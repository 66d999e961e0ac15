"""Parameter-efficient ways to tune: equal on both engines and in plain PEFT, merged = unmerged, wrong use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch, collate
from tunesmith.errors import ModelError, UsageError
from tunesmith.model.arithmetic import arithmetic
from tunesmith.model.heads import TextModel, build_model
from tunesmith.model.names import Located
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
    model.base = Located(str(encoder), str(encoder), "directory")
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


def plain(kind: HeadKind, encoder: Path, directory: Path, borders: list[int] | None = None) -> torch.Tensor:
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
    given = {"input_ids": ids, "attention_mask": mask}
    if borders is not None:
        given["token_type_ids"] = ((torch.arange(longest) >= torch.tensor(borders)[:, None]) & mask.bool()).long()
    # PEFT's own class for question answering leaves token_type_ids out
    called = model.get_base_model() if kind == "question-answering" and borders is not None else model
    with torch.no_grad():
        found = called(**given)
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


@pytest.mark.parametrize("way", ["lora", "dora", "ia3", "prompt", "prefix", "adapter"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet"])
def test_the_packed_engine_equals_the_padded_one_in_outputs_and_gradients(architecture: str, way: str, encoders: Any) -> None:
    model, _ = prepared(encoders(architecture), way)
    found, gradients = [], []
    for engine in ("packed", "padded"):
        model.encoder.engine = engine
        model.zero_grad()
        outputs = model(batch())
        outputs.square().sum().backward()
        found.append(outputs.detach())
        gradients.append({name: parameter.grad for name, parameter in trained_parameters(model).items()})
    assert model.encoder.packed is not None and found[0].std() > 0.05
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-4)
    scale = max(float(gradient.abs().max()) for gradient in gradients[1].values() if gradient is not None)
    for name, gradient in gradients[1].items():
        assert gradient is not None and gradients[0][name] is not None, name
        assert float((gradients[0][name] - gradient).abs().max()) < 1e-4 * scale, name
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in gradients[0])


@pytest.mark.parametrize("way", ["lora", "dora", "adapter"])
def test_an_adapter_in_bf16_is_as_near_to_the_truth_packed_as_padded(way: str, encoders: Any) -> None:
    model, _ = prepared(encoders("bert"), way)
    found = {}
    for engine, precision in (("padded", "fp32"), ("padded", "bf16"), ("packed", "bf16")):
        model.encoder.engine = engine
        model.zero_grad()
        with arithmetic(precision, torch.device("cpu")):
            outputs = model(batch())
        outputs.square().sum().backward()
        gradients = [parameter.grad.flatten() for parameter in trained_parameters(model).values() if parameter.grad is not None]
        found[engine, precision] = outputs.detach(), torch.cat(gradients)
    truth = found["padded", "fp32"]
    for right, theirs, ours in zip(truth, found["padded", "bf16"], found["packed", "bf16"], strict=True):
        assert (ours - right).norm() <= 1.25 * (theirs - right).norm() + 0.01 * right.norm()


@pytest.mark.parametrize("way", ["lora", "ia3", "prompt", "prefix"])
def test_pairs_have_their_segments_behind_virtual_tokens(way: str, encoders: Any) -> None:
    model, _ = prepared(encoders("bert"), way)
    ours = outputs(model, borders=True)
    torch.testing.assert_close(outputs(model, "padded", borders=True), ours, atol=2e-5, rtol=1e-4)
    assert (ours - outputs(model)).abs().max() > 1e-3


@pytest.mark.filterwarnings(*PLAIN)
@pytest.mark.parametrize(
    ("architecture", "way"),
    [("deberta-v2", "lora"), ("modernbert", "dora"), ("albert", "lora"), ("gpt2", "ia3"), ("modernbert", "prompt"), ("albert", "ptuning")],
)
def test_architectures_without_a_packed_forward_run_and_load_in_plain_peft(
    architecture: str, way: str, encoders: Any, tmp_path: Path
) -> None:
    model, strategy = prepared(encoders(architecture), way, **({"merge": False} if way in MERGED else {}))
    directory = saved(model, strategy, tmp_path / "adapter")
    torch.testing.assert_close(plain("sequence-classification", encoders(architecture), directory), outputs(model), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("way", MERGED)
def test_merged_equals_unmerged(way: str, pooling: str, encoders: Any, tmp_path: Path) -> None:
    apart, strategy = prepared(encoders("bert"), way, merge=False, pooling=pooling)
    unmerged = saved(apart, strategy, tmp_path / "apart")
    model, strategy = prepared(encoders("bert"), way, pooling=pooling)
    directory = saved(model, strategy, tmp_path / "merged")
    torch.testing.assert_close(outputs(model), outputs(apart), atol=2e-5, rtol=1e-4)
    # the encoder has no trace of PEFT, and what was trained lies beside it
    ours, original = load_file(directory / "model.safetensors"), load_file(encoders("bert") / "model.safetensors")
    assert {name.removeprefix("bert.") for name in ours if not name.startswith("classifier.")} == set(original)
    assert all(torch.equal(*pair) for pair in _both(unmerged, directory / "adapter"))
    assert (directory / "adapter" / "head.safetensors").exists() == (pooling == "mean")


def _both(one: Path, two: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    first, second = load_file(one / "adapter_model.safetensors"), load_file(two / "adapter_model.safetensors")
    assert first.keys() == second.keys() and first
    return [(first[name], second[name]) for name in first]


def test_it_begins_as_the_encoder_is(encoders: Any) -> None:
    config = {"model": str(encoders("bert"))}
    spec = HeadSpec("sequence-classification", 3)
    for way in (*MERGED, "adapter"):
        model = build_model(open_pretrained(config["model"]).load(spec), spec, pooling="cls", dropout=None, seed=0).eval()
        model.base = Located(config["model"], config["model"], "directory")
        before = outputs(model)
        choose_strategy(resolve({**config, "tuning": way})).prepare(model)
        torch.testing.assert_close(outputs(model.eval()), before, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings(*PLAIN)
@pytest.mark.parametrize(("kind", "way"), [("question-answering", "lora"), ("sequence-classification", "prompt")])
def test_plain_peft_gives_equal_outputs_for_pairs(kind: HeadKind, way: str, encoders: Any, tmp_path: Path) -> None:
    model, strategy = prepared(encoders("bert"), way, kind, **({"merge": False} if way in MERGED else {}))
    directory = saved(model, strategy, tmp_path / "adapter")
    assert model.adapter is not None and model.adapter.in_peft
    ours = outputs(model, borders=True)
    torch.testing.assert_close(plain(kind, encoders("bert"), directory, borders=[3, 2, 4]), ours, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "way", "kind"),
    [
        ("gpt2", "prompt", "sequence-classification"),
        ("distilbert", "prefix", "token-classification"),
        ("bert", "prefix", "question-answering"),
    ],
)
def test_what_peft_cannot_run_is_known(architecture: str, way: str, kind: HeadKind, encoders: Any) -> None:
    model, strategy = prepared(encoders(architecture), way, kind)
    strategy.finish(model)
    assert model.adapter is not None and not model.adapter.in_peft and model.adapter.summary(False)["peft"] is None


# --- wrong use ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tuning": "lora", "rank": 0}, "rank"),
        ({"tuning": "lora", "lora_dropout": 1.0}, "lora_dropout"),
        ({"tuning": "lora", "bottleneck": 8}, "bottleneck changes nothing with tuning='lora'; it belongs to adapter"),
        ({"tuning": "full", "rank": 4}, "it belongs to lora, dora"),
        ({"tuning": "prompt", "merge": False}, "merge changes nothing with tuning='prompt'; it belongs to lora, dora, ia3"),
        ({"tuning": "ia3", "targets": "query"}, "it belongs to lora, dora"),
        ({"tuning": "prompt", "virtual_tokens": 0}, "virtual_tokens"),
        ({"tuning": "loar"}, "Did you mean 'lora'"),
    ],
)
def test_wrong_settings_are_refused_with_what_is_allowed(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tuning": "lora", "targets": "qeury"}, "no linear layer 'qeury'. Did you mean 'query'. It has query, key, value, dense"),
        ({"tuning": "lora", "targets": "pooler.dense"}, "no linear layer 'pooler.dense'"),
        ({"tuning": "lora", "targets": ","}, "no linear layer ','"),
        ({"tuning": "prompt", "virtual_tokens": 40}, "are more than the 64 positions of the encoder. Take max_length=24 at most"),
        ({"tuning": "prefix", "virtual_tokens": 80}, "leaves no place for a text: the encoder has 64 positions"),
    ],
)
def test_what_does_not_fit_the_encoder_is_refused(settings: dict[str, Any], words: str, tiny_bert: Path) -> None:
    with pytest.raises(UsageError) as error:
        prepared(tiny_bert, **settings)
    assert words.replace("'query'.", "'query'?") in str(error.value)


@pytest.mark.parametrize("architecture", ["albert", "gpt2", "modernbert", "deberta-v2"])
def test_prefixes_are_refused_where_keys_and_values_are_not_apart(architecture: str, encoders: Any) -> None:
    with pytest.raises(ModelError, match=f"type '{architecture}'.*Take tuning='prompt'"):
        prepared(encoders(architecture), "prefix")


def test_no_other_way_needs_peft() -> None:
    """PEFT takes seconds to import."""
    code = "import sys, tunesmith.recipe, tunesmith.model.tuning, tunesmith.model.attaching; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
