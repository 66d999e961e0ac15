"""Ways to tune: what is trained, at which rate, and that outputs of frozen layers may be kept."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tunesmith
from cutting import cut_off_at
from tiny import rows, save_encoder
from tunesmith import recipe
from tunesmith.data.batches import pack
from tunesmith.data.tokens import Encoded
from tunesmith.errors import ModelError, UsageError
from tunesmith.model import features
from tunesmith.model.chance import seed_everything, without_dropout
from tunesmith.model.heads import TextModel
from tunesmith.model.tuning import choose_strategy, depths, layers_of
from tunesmith.progress import Progress
from tunesmith.resolve import resolve

TABLE = rows(60, seed=1)
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "max_length": 48, "precision": "fp32", "valid_size": 0.2, "test_size": 0.2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import ARCHITECTURES

    ARCHITECTURES["bert"], former = {**ARCHITECTURES["bert"], "num_hidden_layers": 4}, ARCHITECTURES["bert"]
    try:
        return save_encoder(tmp_path_factory.mktemp("four"), "bert")
    finally:
        ARCHITECTURES["bert"] = former


def train(model: Path, out: Path, **settings: Any) -> tunesmith.TrainResult:
    return tunesmith.train(TABLE, model=str(model), out=str(out), **{**QUICK, **settings})


def model_of(directory: Path, **settings: Any) -> tuple[TextModel, Any]:
    """Return a model with a fresh head, prepared for tuning, and its strategy."""
    from tunesmith.data.memory import open_data
    from tunesmith.prepare import prepare
    from tunesmith.progress import QUIET

    config = resolve({"model": str(directory), "label": "label", "text": "text", **QUICK, **settings})
    model = recipe.new_model(config, prepare(config, {"train": open_data(TABLE)}, QUIET))
    strategy = choose_strategy(config)
    strategy.prepare(model)
    return model, strategy


def weights(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found = load_file(directory / "model.safetensors")
    return {name.removeprefix("bert."): value for name, value in found.items()}


def changed(before: Path, after: Path) -> set[str]:
    """Return the names of the encoder's weights that training changed."""
    one, two = weights(before), weights(after)
    return {name for name in one if not torch.equal(one[name], two[name])}


# --- what is trained --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tuning", "trained"), [("head", 2 * 32 + 2), ("bitfit", None)])
def test_a_pooler_that_nothing_reads_is_not_trained(four_layers: Path, tuning: str, trained: int | None) -> None:
    model, _ = model_of(four_layers, tuning=tuning, pooling="mean")
    names = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names and not any("pooler" in name for name in names)
    assert trained is None or sum(names.values()) == trained


@pytest.mark.parametrize("architecture", ["gpt2", "modernbert", "electra", "deberta-v2"])
def test_all_weights_of_a_layer_are_drawn_anew(tmp_path: Path, architecture: str) -> None:
    encoder = save_encoder(tmp_path / "m", architecture)
    fresh, before = (model_of(encoder, tuning="layerwise", reinit=count)[0] for count in (1, 0))
    pairs = list(zip(layers_of(fresh)[-1].named_parameters(), layers_of(before)[-1].parameters(), strict=True))
    assert all(not torch.equal(one, two) for (_, one), two in pairs if one.ndim > 1)


@pytest.mark.parametrize("features", ["auto", "off"])
@pytest.mark.parametrize(
    ("tuning", "trained"), [("head", {"pooler."}), ("last:1", {"encoder.layer.3.", "pooler."}), ("last:4", {"encoder.layer.", "pooler."})]
)
def test_what_is_frozen_stays_as_it_is(four_layers: Path, tmp_path: Path, tuning: str, trained: set[str], features: str) -> None:
    result = train(four_layers, tmp_path / "out", tuning=tuning, features=features, pooling="cls")
    names = changed(four_layers, tmp_path / "out")
    assert names and all(any(name.startswith(part) for part in trained) for name in names)
    assert {part for part in trained if any(name.startswith(part) for name in names)} == trained
    said = result.result["training"]
    assert said["trained_parameters"] < said["parameters"]
    assert ("computed once" in said["frozen"]) == (features == "auto")


def test_bitfit_changes_biases_and_the_head_alone(four_layers: Path, tmp_path: Path) -> None:
    train(four_layers, tmp_path / "out", tuning="bitfit")
    names = changed(four_layers, tmp_path / "out")
    assert any(name.startswith("encoder.layer.0") for name in names)
    assert all(name.endswith("bias") or name.startswith("pooler.") for name in names)


def test_bitfit_needs_biases(tmp_path: Path) -> None:
    model, strategy = model_of(save_encoder(tmp_path / "m", "modernbert"))
    strategy = choose_strategy(resolve({"tuning": "bitfit"}))
    for name, _ in list(model.encoder.base.named_parameters()):
        if name.endswith("bias"):
            pytest.fail(f"this test wants an encoder without biases, and there is {name}")
    with pytest.raises(ModelError, match="no biases"):
        strategy.prepare(model)


def test_layers_share_the_rate_by_their_depth(four_layers: Path) -> None:
    model, strategy = model_of(four_layers, tuning="layerwise", layer_decay=0.5)
    share = strategy.rate(model)
    names = dict(model.named_parameters())
    of = {part: next(share(name) for name in names if part in name) for part in ("word_embeddings", "layer.0.", "layer.3.", "pooler")}
    assert of == {"word_embeddings": 0.5**4, "layer.0.": 0.5**3, "layer.3.": 1.0, "pooler": 1.0}
    assert [share(name) for name in names if "classifier" in name] == [1.0, 1.0]


def test_a_rate_of_one_for_all_layers_is_full_tuning(four_layers: Path, tmp_path: Path) -> None:
    same = {"lr": 1e-3}
    one = train(four_layers, tmp_path / "one", tuning="layerwise", layer_decay=1.0, **same)
    two = train(four_layers, tmp_path / "two", tuning="full", **same)
    assert one.result["training"]["history"] == two.result["training"]["history"]
    assert not changed(tmp_path / "one", tmp_path / "two")


def test_layers_join_from_the_top(four_layers: Path) -> None:
    model, strategy = model_of(four_layers, tuning="layerwise", unfreeze=2)
    depth = depths(model)
    found = []
    for epoch in range(4):
        strategy.train_mode(model, epoch)
        found.append(min(depth[name] for name, parameter in model.named_parameters() if parameter.requires_grad))
    assert found == [5, 3, 1, 0]
    strategy.finish(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_that_no_epoch_reaches_are_not_said_to_be_trained(four_layers: Path, tmp_path: Path) -> None:
    run = train(four_layers, tmp_path / "out", tuning="layerwise", unfreeze=2, epochs=2, pooling="cls")
    training = run.result["training"]
    assert (
        "the head and the last 2 layers, each layer at" in training["tuning"] and "(no more in 2 epochs; 4 reach all)" in training["tuning"]
    )
    depth = depths(run.bundle.model)
    reached = sum(p.numel() for name, p in run.bundle.model.named_parameters() if depth[name] >= 3)
    assert training["trained_parameters"] == reached
    assert {name.split("layer.")[1][0] for name in changed(four_layers, tmp_path / "out") if "layer." in name} <= {"2", "3"}


def test_every_layer_that_has_joined_is_trained(four_layers: Path, tmp_path: Path) -> None:
    run = train(four_layers, tmp_path / "out", tuning="layerwise", unfreeze=2, epochs=4, lr=1e-2, valid_size=0)
    before, after = (dict(model.named_parameters()) for model in (model_of(four_layers)[0], run.bundle.model))
    depth = depths(run.bundle.model)
    moved = {depth[name] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {0, 1, 2, 3, 4, 5}
    words = next(name for name in before if "word_embeddings" in name)
    assert not torch.equal(before[words], after[words])


def test_fresh_layers_differ_from_the_checkpoint_and_not_between_runs(four_layers: Path) -> None:
    one, two = (model_of(four_layers, tuning="layerwise", reinit=1)[0] for _ in range(2))
    before = model_of(four_layers)[0]
    for layer in range(4):
        kept = [torch.equal(x, y) for x, y in zip(layers_of(one)[layer].parameters(), layers_of(before)[layer].parameters(), strict=True)]
        same = [torch.equal(x, y) for x, y in zip(layers_of(one)[layer].parameters(), layers_of(two)[layer].parameters(), strict=True)]
        assert all(same)
        assert all(kept) if layer < 3 else not all(kept)


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet", "gpt2"])
def test_depths_of_every_architecture(architecture: str, tmp_path: Path) -> None:
    model, _ = model_of(save_encoder(tmp_path / "m", architecture))
    depth = depths(model)
    assert set(depth.values()) == {0, 1, 2, 3}
    for name, number in depth.items():
        assert (number == 3) == (not any(p is dict(model.named_parameters())[name] for p in model.encoder.base.parameters())) or (
            "pooler" in name
        )


def test_layers_that_share_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be trained apart"):
        train(save_encoder(tmp_path / "m", "albert"), tmp_path / "out", tuning="last:1")
    assert "computed once" in train(tmp_path / "m", tmp_path / "out", tuning="head").result["training"]["frozen"]


# --- outputs of the frozen layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("tuning", ["head", "last:2"])
def test_kept_outputs_train_as_computed_ones(four_layers: Path, tmp_path: Path, tuning: str, pooling: str) -> None:
    same = {"tuning": tuning, "pooling": pooling, "lr": 1e-3, "dropout": 0.0, "attention_dropout": 0.0}
    kept = train(four_layers, tmp_path / "kept", **same)
    computed = train(four_layers, tmp_path / "computed", features="off", **same)
    losses = [[entry["loss"] for entry in one.result["training"]["history"]] for one in (kept, computed)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for name, value in weights(tmp_path / "kept").items():
        torch.testing.assert_close(value, weights(tmp_path / "computed")[name], rtol=1e-3, atol=1e-5)


def test_dropout_is_in_the_trained_layers_only(four_layers: Path) -> None:
    model, strategy = model_of(four_layers, tuning="last:2")
    strategy.train_mode(model, 0)
    assert [layer.training for layer in layers_of(model)] == [False, False, True, True]
    assert not model.encoder.base.embeddings.training and model.head.training


def test_an_evaluation_leaves_every_part_in_the_mode_that_it_was_in(four_layers: Path) -> None:
    """The loop sets modes at the beginning of an epoch alone; a validation comes between its steps."""
    model, strategy = model_of(four_layers, tuning="last:2")
    strategy.train_mode(model, 0)
    before = [part.training for part in model.modules()]
    with pytest.raises(RuntimeError, match="in it"), without_dropout(model):
        assert not any(part.training for part in model.modules())
        raise RuntimeError("in it")
    assert [part.training for part in model.modules()] == before and any(before) and not all(before)


@pytest.mark.parametrize("tuning", ["head", "last:2", "full"])
def test_validations_within_an_epoch_change_nothing(four_layers: Path, tmp_path: Path, tuning: str) -> None:
    """Dropout stays out of frozen layers, and in the trained ones, whenever the weights are looked at."""
    kept = {} if tuning == "full" else {"features": "off"}  # which would hide it
    same = {"tuning": tuning, **kept, "dropout": 0.3, "attention_dropout": 0.3, "lr": 1e-3}
    often, seldom = (train(four_layers, tmp_path / str(steps), eval_steps=steps, **same) for steps in (1, 1000))
    losses = [[entry["loss"] for entry in one.result["training"]["history"]] for one in (often, seldom)]
    assert losses[0] == losses[1]
    assert len(often.result["training"]["evaluations"]) > len(seldom.result["training"]["evaluations"])


def test_a_seed_draws_what_torch_draws_by_it() -> None:
    torch.manual_seed(2**63 + 5)
    wanted = torch.rand(5)
    seed_everything(2**63 + 5, torch.device("cpu"))
    assert torch.equal(torch.rand(5), wanted)


@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_masks_change_the_states_of_trained_layers_alone(four_layers: Path, engine: str) -> None:
    model, strategy = model_of(four_layers, tuning="last:2", dropout=0.5, engine=engine)
    model.encoder.choose_engine(engine)
    batch = pack([Encoded([np.array([2, 9, 10, 11, 3], np.int32)], [], 5, 0) for _ in range(4)], np.zeros(4, np.int64))

    def apart(read: Callable[[], torch.Tensor]) -> float:
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(read().detach())
        return float((found[0] - found[1]).abs().max())

    strategy.train_mode(model, 0)
    assert apart(lambda: model.states(batch)) > 0.01
    if engine == "packed":
        assert apart(lambda: model.below(batch, 2)) == 0
    model.eval()
    assert apart(lambda: model.states(batch)) == 0


@pytest.mark.parametrize("tuning", ["head", "last:2"])
def test_the_frozen_layers_run_once(four_layers: Path, tmp_path: Path, tuning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = TextModel.below

    def counting(self: TextModel, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(self, *given)

    monkeypatch.setattr(TextModel, "below", counting)
    train(four_layers, tmp_path / "out", tuning=tuning, epochs=1)
    once = calls
    # another run on the same rows with the same frozen layers finds them
    train(four_layers, tmp_path / "again", tuning=tuning, epochs=5, lr=1e-2)
    assert once > 0 and calls == once


def test_bf16_outputs_take_half_the_space_and_train_alike(four_layers: Path, tmp_path: Path) -> None:
    same = {"tuning": "last:1", "dropout": 0.0, "attention_dropout": 0.0}
    losses, sizes = [], []
    for kind in ("fp32", "bf16"):
        result = train(four_layers, tmp_path / kind, features=kind, features_dir=str(tmp_path / f"{kind}-features"), **same)
        losses.append(result.result["training"]["history"][-1]["loss"])
        sizes.append(sum(file.stat().st_size for file in (tmp_path / f"{kind}-features").rglob("rows.bin")))
    assert sizes[0] == 2 * sizes[1] > 0
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_the_size_is_said_before_anything_is_written_and_read_through_a_map(
    four_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.training import frozen

    said, rows = [], []
    opened = frozen.open_features

    def opening(*given: Any) -> Any:
        said.append(capsys.readouterr().err)
        found = opened(*given)
        rows.append(found._rows)
        return found

    monkeypatch.setattr(frozen, "open_features", opening)
    train(four_layers, tmp_path / "out", tuning="last:1", progress="lines")
    told = re.search(r"outputs of the frozen layers: at most ([\d.]+) MB in fp32, kept in (.+)\n", said[0])
    assert told is not None and told[2] == str(tmp_path / "cache" / "features")
    base = rows[0]
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and rows[0].nbytes / 2**20 <= float(told[1]) + 0.05


def test_a_limit_is_kept_and_said(four_layers: Path, tmp_path: Path) -> None:
    result = train(four_layers, tmp_path / "out", tuning="last:1", features_gb=1e-6)
    assert "more than features_gb 1e-06 allows" in result.result["training"]["frozen"]
    assert not list((tmp_path / "cache" / "features").glob("*/rows.bin"))


def test_too_little_disk_is_seen_before_anything_is_written(four_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    result = train(four_layers, tmp_path / "out", tuning="last:1")
    assert "features_dir names another place" in result.result["training"]["frozen"]


@pytest.mark.parametrize("damage", ["rows.bin", "index.npz"])
def test_damaged_outputs_are_computed_again(four_layers: Path, tmp_path: Path, damage: str) -> None:
    one = train(four_layers, tmp_path / "one", tuning="last:1")
    (file,) = (tmp_path / "cache" / "features").glob(f"*/{damage}")
    content = file.read_bytes()
    for number, damaged in enumerate((content[:100], b"", content[:400] + bytes(64) + content[464:])):
        file.write_bytes(damaged)
        two = train(four_layers, tmp_path / f"two-{number}", tuning="last:1")
        assert one.result["training"]["history"] == two.result["training"]["history"]
        assert file.read_bytes() == content


def test_an_encoder_of_another_configuration_has_outputs_of_its_own(four_layers: Path, tmp_path: Path) -> None:
    other = shutil.copytree(four_layers, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    for model in (four_layers, other):
        train(model, tmp_path / f"of-{model.name}", tuning="last:1", epochs=1)
    assert len(list((tmp_path / "cache" / "features").glob("*/rows.bin"))) == 2


def test_another_seed_finds_the_outputs_where_the_test_rows_are_given(four_layers: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        train(four_layers, tmp_path / f"{seed}", tuning="last:1", epochs=1, test=rows(10, seed=9), seed=seed)
    assert len(list((tmp_path / "cache" / "features").glob("*/rows.bin"))) == 1


def test_files_of_others_in_the_place_of_kept_outputs_are_left_alone(four_layers: Path, tmp_path: Path) -> None:
    place = tmp_path / "home"
    for name in (".ssh/id", "photos/one.jpg", "notes.txt", "tunesmith-features/mine/x", "tunesmith-features/y.txt"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("mine")
        os.utime(place / name, (1, 1))
        os.utime((place / name).parent, (1, 1))
    before = {path for path in place.rglob("*") if path.is_file()}
    for seed in (1, 2):
        train(four_layers, tmp_path / f"{seed}", tuning="last:1", epochs=1, features_dir=str(place), features_gb=1e-4, seed=seed)
    assert before <= set(place.rglob("*"))
    assert len(list(place.glob("tunesmith-features/*/rows.bin"))) == 1, "those of the first run made room"


def test_kept_outputs_are_read_on_a_full_disk_and_a_resume_without_them_says_so(
    four_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"tuning": "last:1", "checkpoint_steps": 2, "progress": "quiet"}
    whole = train(four_layers, tmp_path / "whole", **told)
    with cut_off_at(5):
        train(four_layers, tmp_path / "cut", **told)
    shutil.copytree(tmp_path / "cut", tmp_path / "other")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    found = train(four_layers, tmp_path / "cut", resume=True, **told)
    assert found.result["training"]["history"] == whole.result["training"]["history"]
    shutil.rmtree(tmp_path / "cache" / "features")
    without = train(four_layers, tmp_path / "other", resume=True, **told)
    (note,) = (note for note in without.result["data"]["notes"] if "last digits" in note)
    assert "were kept in fp32 when this run began, and are computed in every epoch now" in note


def test_other_weights_below_have_other_outputs(four_layers: Path, tmp_path: Path) -> None:
    train(four_layers, tmp_path / "one", tuning="last:1")
    train(save_encoder(tmp_path / "other", "bert", seed=5), tmp_path / "two", tuning="last:1")
    assert len(list((tmp_path / "cache" / "features").glob("*/rows.bin"))) == 2


def test_encoders_without_a_packed_forward_run_their_frozen_layers_again_and_say_so(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "m", "modernbert")
    assert "only with the packed engine" in train(encoder, tmp_path / "out", tuning="last:1").result["training"]["frozen"]
    assert "computed once" in train(encoder, tmp_path / "head", tuning="head").result["training"]["frozen"]


def test_what_is_not_kept_is_computed(four_layers: Path, tmp_path: Path) -> None:
    from tunesmith.data.batches import collate

    model, _ = model_of(four_layers, tuning="last:1", dropout=0.0)
    model.eval()
    frozen = features.Frozen(3, "fp32", "fp32")
    model.features = features.open_features(model, frozen, [], tmp_path / "features", 2**30, Progress("quiet"))
    batch = collate([np.array([2, 7, 9, 3], np.int32), np.array([2, 8, 3], np.int32)], np.arange(2))
    with torch.no_grad():
        found = model(batch)
        model.features = None
        torch.testing.assert_close(found, model(batch), rtol=1e-5, atol=1e-6)


# --- resume ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("tuning", ["head", "last:1", "bitfit", "layerwise"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    four_layers: Path, tmp_path: Path, tuning: str, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    settings = {"tuning": tuning, "lr": 1e-3, "epochs": 3, "checkpoint_steps": 2, **({"unfreeze": 2} if tuning == "layerwise" else {})}
    whole = train(four_layers, tmp_path / "whole", **settings)
    with cut_off_at(8):
        train(four_layers, tmp_path / "cut", **settings)
    saved = next((tmp_path / "cut" / "checkpoints").glob("step-*/model.safetensors"))
    if tuning in ("head", "last:1"):
        assert saved.stat().st_size < (four_layers / "model.safetensors").stat().st_size / 2
    if gone:
        shutil.rmtree(tmp_path / "cache" / "features", ignore_errors=True)
    cut = train(four_layers, tmp_path / "cut", resume=True, **settings)
    assert cut.result["training"]["history"] == whole.result["training"]["history"]
    assert not changed(tmp_path / "whole", tmp_path / "cut")


# --- wrong use ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tuning": "lats:2"}, "Did you mean 'last'"),
        ({"tuning": "last"}, "Example: 'last:2'"),
        ({"tuning": "last:0"}, "Example: 'last:2'"),
        ({"tuning": "last:x"}, "Example: 'last:2'"),
        ({"tuning": "head:2"}, "only last takes a number"),
        ({"tuning": "full", "layer_decay": 0.5}, "it belongs to layerwise"),
        ({"tuning": "layerwise", "features": "off"}, "it belongs to head, last"),
        ({"layer_decay": 0.0}, "above 0"),
        ({"features_gb": float("inf")}, "finite"),
    ],
)
def test_wrong_settings_are_refused_with_what_is_allowed(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(settings)


@pytest.mark.parametrize(("settings", "words"), [({"tuning": "last:5"}, "last:4"), ({"tuning": "layerwise", "reinit": 5}, "4 layers")])
def test_more_layers_than_there_are(four_layers: Path, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        train(four_layers, tmp_path / "out", **settings)


def test_a_model_without_a_head_cannot_train_it(four_layers: Path, tmp_path: Path) -> None:
    table = [{"query": f"{r['text']} {i}", "passage": r["text"], "label": i % 2} for i, r in enumerate(rows(24))]
    with pytest.raises(UsageError, match="nothing to train"):
        tunesmith.train(table, model=str(four_layers), out=str(tmp_path / "o"), ranker="bi-encoder", tuning="head", max_length=48)


def test_usual_values_give_way_to_told_ones() -> None:
    assert (resolve({"tuning": "head"}).pooling, resolve({"tuning": "head"}).epochs) == ("mean", 20)
    told = resolve({"tuning": "head", "pooling": "cls", "epochs": 2, "lr": 0.5})
    assert (told.pooling, told.epochs, told.lr) == ("cls", 2, 0.5)
    assert (resolve({}).pooling, resolve({}).epochs, resolve({}).lr) == ("cls", 3, 5e-5)
    assert resolve({"tuning": "head"}).model_fields_set == {"tuning"}


def test_the_report_says_what_was_trained(four_layers: Path, tmp_path: Path) -> None:
    train(four_layers, tmp_path / "out", tuning="last:2")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "last:2; the last 2 layers and the head; outputs of the frozen layers computed once and kept in fp32" in page
    stored = json.loads((tmp_path / "out" / "tunesmith.json").read_text())
    assert stored["result"]["recipe"]["tuning"] == "last:2"
