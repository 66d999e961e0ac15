"""Parameter-efficient ways to tune: saved in PEFT's format with the head, equal in plain PEFT, merged = unmerged, one encoder shared."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tunesmith
from running import Run
from tasks.test_battery import CASES
from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch, collate
from tunesmith.errors import ModelError, UsageError
from tunesmith.model import adapted
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


@pytest.mark.parametrize("way", ["lora", "ia3", "prompt", "prefix", "adapter"])
@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "electra", "mpnet"])
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
        before = outputs(model)
        choose_strategy(resolve({**config, "tuning": way})).prepare(model)
        torch.testing.assert_close(outputs(model.eval()), before, atol=1e-5, rtol=1e-5)


# --- whole runs --------------------------------------------------------------------------------------------------------------


def train(encoder: Path, out: Path, way: str, data: Any = None, **told: Any) -> tunesmith.TrainResult:
    settings = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "max_length": 32, "test_size": 0.2, **told}
    rows = tiny.rows(60) if data is None else data
    return tunesmith.train(rows, model=str(encoder), tuning=way, out=str(out), progress="quiet", **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_model_predicts_as_the_trained_one(way: str, tiny_bert: Path, tmp_path: Path) -> None:
    told = {"merge": False} if way in MERGED else {}
    trained = train(tiny_bert, tmp_path / "m", way, **told)
    test = tiny.rows(30, seed=3)
    first, second = trained.bundle.evaluate(test)["metrics"], tunesmith.load(tmp_path / "m").evaluate(test)["metrics"]
    assert first == second
    report = trained.result["training"]
    assert 0 < report["trained_parameters"] < report["parameters"] / 2
    small = sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
    assert 4 * report["trained_parameters"] * (way != "ptuning") <= small < 4.5 * report["trained_parameters"] + 10_000
    card = (tmp_path / "m" / "README.md").read_text()
    assert ("AutoPeftModelForSequenceClassification" in card) == (way != "adapter")
    assert ("neither transformers nor PEFT" in card) == (way == "adapter")
    assert "needs the encoder" in card and "AutoModelFor" not in card and 'pipeline("' not in card


@pytest.mark.filterwarnings(*PLAIN)
def test_a_merged_run_opens_in_transformers_and_its_adapter_in_peft(tiny_bert: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = tiny.rows(60, labels=("animal", "colour", "neither"))
    trained = train(tiny_bert, tmp_path / "m", "lora", rows)
    texts = ["the red cat", "a very big river with a horse near it"]
    ours = trained.bundle.probabilities(texts)
    given = AutoTokenizer.from_pretrained(tmp_path / "m")(texts, padding=True, return_tensors="pt")
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    found = peft.AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "m" / "adapter"), num_labels=3).eval()
    for model in (alone, found):
        with torch.no_grad():
            np.testing.assert_allclose(model(**given).logits.softmax(1).numpy(), ours, atol=1e-5)


def test_targets_name_the_layers(tiny_bert: Path, tmp_path: Path) -> None:
    trained = train(tiny_bert, tmp_path / "m", "lora", targets="query, attention.output.dense", rank=2)
    names = load_file(tmp_path / "m" / "adapter" / "adapter_model.safetensors")
    changed = {name.split(".lora_")[0].split("layer.")[1] for name in names if ".lora_" in name}
    assert changed == {f"{i}.attention.{part}" for i in (0, 1) for part in ("self.query", "output.dense")}
    head = 32 * 32 + 32 + 2 * 32 + 2
    assert trained.result["training"]["trained_parameters"] == 2 * 2 * 2 * (32 + 32) + head


@pytest.mark.parametrize("way", ["lora", "adapter", "prefix"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(way: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.training import loop

    settings = {"checkpoint_steps": 2, **({"merge": False, "lora_dropout": 0.1} if way == "lora" else {})}
    whole = train(tiny_bert, tmp_path / "whole", way, **settings)
    original = loop.lr_at

    def failing(step: int, *rest: Any) -> float:
        if step == 7:
            raise KeyboardInterrupt
        return original(step, *rest)

    monkeypatch.setattr(loop, "lr_at", failing)
    with pytest.raises(tunesmith.errors.Interrupted):
        train(tiny_bert, tmp_path / "cut", way, **settings)
    monkeypatch.setattr(loop, "lr_at", original)
    checkpoint = next((tmp_path / "cut" / "checkpoints").glob("step-*/model.safetensors"))
    assert checkpoint.stat().st_size < (tiny_bert / "model.safetensors").stat().st_size
    cut = train(tiny_bert, tmp_path / "cut", way, resume=True, **settings)
    assert cut.result["training"]["history"] == whole.result["training"]["history"]
    for path in (tmp_path / "whole").glob("*.safetensors"):
        one, two = load_file(path), load_file(tmp_path / "cut" / path.name)
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_replacing_a_merged_model_leaves_no_file_of_it(tiny_bert: Path, tmp_path: Path) -> None:
    train(tiny_bert, tmp_path / "m", "lora", pooling="mean")
    train(tiny_bert, tmp_path / "m", "adapter", overwrite=True)
    assert {path.name for path in (tmp_path / "m").rglob("*.safetensors")} == {"bottlenecks.safetensors"}
    assert not (tmp_path / "m" / "config.json").exists()
    train(tiny_bert, tmp_path / "m", "full", overwrite=True)
    assert {path.name for path in (tmp_path / "m").rglob("*.safetensors")} == {"model.safetensors"}


@pytest.mark.parametrize("place", range(8))
def test_every_task(place: int, tiny_bert: Path, tmp_path: Path) -> None:
    case = CASES[place]
    way, told = [("lora", {"merge": False}), ("prefix", {}), ("adapter", {})][place % 3]
    if case.name == "masked-lm":
        way, told = "lora", {}
    settings = {"max_length": 32, "epochs": 1, "task": case.name, **case.settings}
    test = case.rows(16, 2)
    trained = tunesmith.train(
        case.rows(40, 1), test=test, model=str(tiny_bert), tuning=way, out=str(tmp_path / "m"), progress="quiet", **settings, **told
    )
    again = tunesmith.load(tmp_path / "m").evaluate(test)["metrics"]
    assert trained.metrics and {name: again[name] for name in trained.metrics} == dict(trained.metrics)


def test_the_command_line(tiny_bert: Path, tmp_path: Path, run: Run) -> None:
    data = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(60))
    told = ("--model", tiny_bert, "--max-length", 32, "--epochs", 1, "--out", "m")
    ended = run("train", data, *told, "--tuning", "lora", "--rank", 4, "--no-merge")
    assert ended.code == 0, ended.err
    head = 32 * 32 + 32 + 2 * 32 + 2
    updates = 2 * 4 * (4 * (32 + 32) + 2 * (32 + 64))
    assert f"tuning lora: updates of low rank to linear layers, and the head, {updates + head:,} of " in ended.out + ended.err
    ended = run("predict", "m", stdin=b"text\nred cat\n")
    assert ended.code == 0 and ended.out.startswith("text,label,probability\nred cat,")


# --- one encoder in memory -----------------------------------------------------------------------------------------------------


def test_many_adapters_share_one_encoder(tiny_bert: Path, tmp_path: Path) -> None:
    ways = {"lora": {"merge": False}, "adapter": {}, "prompt": {}, "prefix": {"pooling": "mean"}}
    alone = {}
    for way, told in ways.items():
        train(tiny_bert, tmp_path / way, way, **told)
        alone[way] = tunesmith.load(tmp_path / way).probabilities(TEXTS)
    gc.collect()
    assert not adapted._loaded  # nothing is kept of models that are gone
    together = {way: tunesmith.load(tmp_path / way) for way in ways}
    places = [
        {parameter.data_ptr() for parameter in bundle.model.parameters() if parameter.numel() >= 32 * 32} for bundle in together.values()
    ]
    matrices = {name: value for name, value in load_file(tiny_bert / "model.safetensors").items() if value.ndim == 2}
    shared = set.intersection(*places)
    assert len(shared) >= len([name for name, value in matrices.items() if value.numel() >= 32 * 32 and "pooler" not in name])
    for way, bundle in together.items():
        np.testing.assert_array_equal(bundle.probabilities(TEXTS), alone[way])


TEXTS = ["the red cat", "a very big river with a horse near it", "white"]


# --- the encoder is gone, moved or another one -------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path) -> Any:
    """Trains by a way beside an encoder of its own; returns both directories."""

    def made(way: str) -> tuple[Path, Path]:
        encoder = tiny.save_encoder(tmp_path / "here" / "encoder")
        train(encoder, tmp_path / "here" / "m", way, **({"merge": False} if way == "lora" else {}))
        return encoder, tmp_path / "here" / "m"

    return made


@pytest.mark.parametrize(("way", "where"), [("lora", "adapter_config.json"), ("adapter", "tunesmith.json")])
def test_a_missing_encoder_is_said_and_can_be_told(way: str, where: str, apart: Any, tmp_path: Path) -> None:
    encoder, directory = apart(way)
    before = tunesmith.load(directory).probabilities(TEXTS)
    moved = tmp_path / "elsewhere"
    encoder.rename(moved)
    with pytest.raises(ModelError, match=where) as error:
        tunesmith.load(directory)
    assert str(encoder) in str(error.value)
    content = json.loads((directory / where).read_text())
    if way == "lora":
        content["base_model_name_or_path"] = str(moved)
    else:
        content["adapter"]["base"]["place"] = str(moved)
    (directory / where).write_text(json.dumps(content))
    np.testing.assert_array_equal(tunesmith.load(directory).probabilities(TEXTS), before)


def test_encoder_and_adapter_moved_together_are_found(apart: Any, tmp_path: Path) -> None:
    _, directory = apart("lora")
    before = tunesmith.load(directory).probabilities(TEXTS)
    (tmp_path / "here").rename(tmp_path / "there")
    np.testing.assert_array_equal(tunesmith.load(tmp_path / "there" / "m").probabilities(TEXTS), before)


def test_an_encoder_of_other_weights_is_refused(apart: Any) -> None:
    encoder, directory = apart("lora")
    shutil.rmtree(encoder)
    tiny.save_encoder(encoder, seed=1)
    with pytest.raises(ModelError, match="was trained on other weights of"):
        tunesmith.load(directory)


@pytest.mark.parametrize(("way", "file"), [("lora", "adapter_model.safetensors"), ("adapter", "bottlenecks.safetensors")])
def test_a_damaged_adapter_is_refused(way: str, file: str, apart: Any) -> None:
    _, directory = apart(way)
    (directory / file).write_bytes((directory / file).read_bytes()[:-100])
    with pytest.raises(ModelError, match="Restore it from a copy, or train again"):
        tunesmith.load(directory)
    (directory / file).unlink()
    with pytest.raises(ModelError, match="Restore it from a copy, or train again"):
        tunesmith.load(directory)


def test_an_adapter_that_lacks_a_tensor_is_refused(apart: Any) -> None:
    for way, file in (("lora", "adapter_model.safetensors"), ("adapter", "bottlenecks.safetensors")):
        _, directory = apart(way)
        tensors = load_file(directory / file)
        tensors.pop(sorted(tensors)[-1])
        save_file(tensors, directory / file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match="and should have"):
            tunesmith.load(directory)
        shutil.rmtree(directory.parent)


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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tuning": "prompt"}, "tuning='prompt' leaves the encoder as it is, but masked-lm is to change it"),
        ({"tuning": "adapter"}, "tuning='adapter' leaves the encoder as it is"),
        ({"tuning": "lora", "merge": False}, "tuning='lora' with merge=False leaves the encoder as it is"),
    ],
)
def test_pretraining_that_would_not_change_the_encoder_is_refused(
    settings: dict[str, Any], words: str, tiny_bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        tunesmith.train(CASES[2].rows(40, 1), task="masked-lm", model=str(tiny_bert), out=str(tmp_path / "m"), max_length=24, **settings)


def test_no_other_way_needs_peft() -> None:
    """PEFT takes seconds to import."""
    code = "import sys, tunesmith.recipe, tunesmith.model.tuning, tunesmith.model.attaching; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
