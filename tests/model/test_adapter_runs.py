"""Whole runs of parameter-efficient ways to tune: saved and loaded, resumed, shared in memory, their encoder lost or changed."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tunesmith
from cutting import cut_off_at
from running import Run
from tasks.test_battery import CASES
from tunesmith.errors import ModelError, UsageError
from tunesmith.model import adapted
from tunesmith.model.adapters import merge_adapter
from tunesmith.model.tuning import choose_strategy
from tunesmith.resolve import resolve

MERGED = ("lora", "dora", "ia3")
WAYS = (*MERGED, "prompt", "ptuning", "prefix", "adapter")
# peft 0.21 itself calls something that transformers 5.23 calls deprecated
PLAIN = ("ignore:.*is_gradient_checkpointing.*",)
TEXTS = ["the red cat", "a very big river with a horse near it", "white"]


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


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_ends_as_an_uninterrupted_one(way: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"checkpoint_steps": 2, **({"merge": False} if way in MERGED else {})}
    settings |= {"lora_dropout": 0.1} if way in ("lora", "dora") else {}
    whole = train(tiny_bert, tmp_path / "whole", way, **settings)
    with cut_off_at(8):
        train(tiny_bert, tmp_path / "cut", way, **settings)
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


def test_a_loaded_adapter_is_saved_again_as_it_is(tiny_bert: Path, tmp_path: Path) -> None:
    for way in ("lora", "adapter", "ptuning"):
        train(tiny_bert, tmp_path / way, way, **({"merge": False} if way == "lora" else {}))
        (tmp_path / f"{way}-again").mkdir()
        tunesmith.load(tmp_path / way).model.save(tmp_path / f"{way}-again")
        for path in (tmp_path / way).glob("*.safetensors"):
            assert path.read_bytes() == (tmp_path / f"{way}-again" / path.name).read_bytes()


@pytest.mark.parametrize("way", ["lora", "prefix", "ptuning"])
def test_a_model_can_be_pickled(way: str, tiny_bert: Path, tmp_path: Path) -> None:
    train(tiny_bert, tmp_path / "m", way, **({"merge": False} if way == "lora" else {}))
    bundle = tunesmith.load(tmp_path / "m")
    before = bundle.probabilities(TEXTS)
    bundle.model = pickle.loads(pickle.dumps(bundle.model))
    np.testing.assert_array_equal(bundle.probabilities(TEXTS), before)


def test_a_loaded_adapter_is_merged_without_changing_other_models(tiny_bert: Path, tmp_path: Path) -> None:
    train(tiny_bert, tmp_path / "one", "lora", merge=False)
    train(tiny_bert, tmp_path / "two", "prompt")
    one, two = tunesmith.load(tmp_path / "one"), tunesmith.load(tmp_path / "two")
    before = one.probabilities(TEXTS), two.probabilities(TEXTS)
    merge_adapter(one.model)
    assert not one.model.apart and one.model.loads_in_transformers
    np.testing.assert_allclose(one.probabilities(TEXTS), before[0], atol=1e-6)
    np.testing.assert_array_equal(two.probabilities(TEXTS), before[1])
    np.testing.assert_array_equal(tunesmith.load(tmp_path / "one").probabilities(TEXTS), before[0])
    with pytest.raises(ModelError, match="cannot be trained further"):
        merge_adapter(two.model)


@pytest.mark.parametrize("way", ["prompt", "adapter", "lora"])
def test_a_part_of_a_trained_model_is_not_saved_without_it(way: str, tiny_bert: Path, tmp_path: Path) -> None:
    trained = train(tiny_bert, tmp_path / "m", "full").bundle.model
    strategy = choose_strategy(resolve({"tuning": way, **({"merge": False} if way == "lora" else {})}))
    with pytest.raises(UsageError, match="cannot go on from a trained model"):
        strategy.prepare(trained)


def test_updates_of_low_rank_to_a_trained_model_are_merged_into_it(tiny_bert: Path, tmp_path: Path) -> None:
    trained = train(tiny_bert, tmp_path / "m", "full").bundle.model
    strategy = choose_strategy(resolve({"tuning": "lora"}))
    strategy.prepare(trained)
    strategy.finish(trained)
    (tmp_path / "again").mkdir()
    trained.save(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").rglob("*.safetensors")} == {"model.safetensors"}


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


def test_an_adapter_is_no_encoder_to_train(apart: Any, tmp_path: Path) -> None:
    for way in ("lora", "adapter"):
        _, directory = apart(way)
        with pytest.raises(ModelError, match="holds only what was trained beside an encoder"):
            train(directory, tmp_path / "next", "full")
        shutil.rmtree(directory.parent)


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
