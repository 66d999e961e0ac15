"""Settings: ranges, faults all at once, recipes, and what identifies a run."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tunesmith.cli.options import _option
from tunesmith.config import Config
from tunesmith.errors import UsageError, setting, speaking_flags
from tunesmith.report.view import shown_recipe
from tunesmith.resolve import read_recipe, resolve
from tunesmith.strategies import special_settings


def faults(flags: bool = False, **settings: Any) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught, speaking_flags() if flags else contextlib.nullcontext():
        resolve(settings)
    return caught.value.faults


# for each setting with a range or a choice: values just inside, and values just outside
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "task": (["auto", "classification", "pair"], ["pairs", 1]),
    "label_type": (["auto", "single", "multi"], ["both", 1]),
    "label_separator": ([None, "|", " and "], [""]),
    "scheme": (["auto", "bio", "bioes", "bmes", "io", "none"], ["iob", None]),
    "constrain": ([True, False], ["perhaps"]),
    "valid_size": ([0, 0.85], [-0.01, 1, math.nan]),
    "test_size": ([0, 0.85], [-0.01, 1, math.nan]),
    "model": (["x"], ["", None, 3]),
    "max_length": ([4, 131072], [3, 131073, 12.5]),
    "truncation": (["head", "tail", "head-tail", "windows"], ["middle", None]),
    "stride": ([0, 252], [-1, 0.5]),
    "mask_share": ([0.01, 0.9], [0, 1, -0.1, math.nan]),
    "from_scratch": ([True, False], ["perhaps"]),
    "vocab_size": ([100, 10**6], [99, 0.5]),
    "layers": ([1, 200], [0, 201]),
    "width": ([2, 65536], [1, 65537]),
    "heads": ([1, 1024], [0, 1025]),
    "max_windows": ([1, 10**6], [0]),
    "context": ([0, 64, 4096], [-1, 4097, 0.5]),
    "aggregation": (["mean", "max"], ["sum"]),
    "ranker": (["cross-encoder", "bi-encoder"], ["both"]),
    "ranking_loss": (["pointwise", "pairwise", "listwise"], ["ndcg"]),
    "temperature": ([0.01, 10], [0, 11, math.nan]),
    "negatives": (["auto", "given", "random", "in-batch", "hard"], ["easy"]),
    "negatives_per_query": ([0, 1000], [-1, 1001]),
    "miner": (["bm25", "encoder"], ["tfidf"]),
    "false_negative_margin": ([0, 0.5], [-0.1, 1]),
    "candidates": ([1, 10000], [0, 10001]),
    "pooling": (["cls", "mean", "max", "attention"], ["avg"]),
    "dropout": ([None, 0, 0.99], [-0.1, 1, math.nan]),
    "attention_dropout": ([None, 0, 0.99], [-0.1, 1]),
    "max_answer_tokens": ([1, 512], [0, 513, 1.5]),
    "answer_match": (["auto", "words", "characters"], ["tokens", None]),
    "precision": (["auto", "fp32", "bf16"], ["fp16"]),
    "engine": (["auto", "packed", "padded"], ["fast"]),
    "device": (["auto", "cpu", "cuda", "cuda:1"], ["gpu", "cuda:", "cpu:0", "cuda:007", "cuda:256"]),
    "loss": (["cross-entropy", "focal"], ["hinge"]),
    "focal_gamma": ([0, 10], [-0.1, 10.1, math.nan]),
    "label_smoothing": ([0, 0.9], [-0.1, 1]),
    "r_drop": ([0, 5], [-0.1, 1001, math.inf, math.nan]),
    "fgm": ([0, 1.5], [-0.1, 1001, math.nan]),
    "multi_sample_dropout": ([1, 8], [0, 1.5]),
    "ema": ([0, 0.999], [-0.1, 1, math.nan]),
    "average": ([1, 5], [0, 1.5]),
    "clip": ([None, (0, 5), (-1.5, 1)], [[5, 0], [0, 0], [0], "0", "a,b", 3, [0, math.inf], [math.nan, 1]]),
    "class_weights": (
        ["none", "balanced", {"a": 0.1}, "spam=5,ham=1"],
        ["balance", {"a": 0}, {"a": -1}, {"a": math.inf}, {"a": math.nan}, {"a": "x"}, "a=x", 3],
    ),
    "optimizer": (["adamw", "sgd"], ["adam"]),
    "tuning": (
        ["full", "head", "last:1", "last:12", "layerwise", "bitfit"],
        ["last", "last:0", "last:-1", "last:a", "head:1", "", "none at all"],
    ),
    "budget": ([None, "90s", "5m", "0.5h"], ["5", "m", "0m", "-1m", "five", "5 m", ""]),
    "method": (["labels", "nearest"], ["embedding", None]),
    "prompts": ([None, {"a": ["b", "c"]}], ["", "no-such-file.toml", {}, {"a": ""}, {"a": []}, 3]),
    "template": ([None, "{}", "{}|about {}", "about {label}"], [""]),
    "neighbours": ([8, 1], [0, 10001, 1.5]),
    "layer_decay": ([0.01, 1], [0, 1.1, math.nan]),
    "unfreeze": ([0, 200], [-1, 201, 0.5]),
    "reinit": ([0, 200], [-1, 201]),
    "features": (["auto", "fp32", "bf16", "off"], ["on", "int8"]),
    "rank": ([1, 1024], [0, 1025, 1.5]),
    "lora_alpha": ([1, 65536], [0, 65537]),
    "lora_dropout": ([0, 0.5], [-0.1, 1, math.nan]),
    "targets": ([None, "query,value"], [""]),
    "merge": ([True, False], ["perhaps"]),
    "bottleneck": ([1, 8192], [0, 8193]),
    "virtual_tokens": ([1, 512], [0, 513]),
    "features_gb": ([0.001, 1e6], [0, -1, math.inf, math.nan]),
    "lr": ([1e-9, 10, "find"], [0, -1, 10.1, math.nan, math.inf, "fast"]),
    "weight_decay": ([0, 0.99], [-0.1, 1, math.nan]),
    "momentum": ([0, 0.99], [-0.1, 1]),
    "schedule": (["linear", "cosine", "constant"], ["step"]),
    "warmup": ([0, 0.99], [-0.1, 1]),
    "max_grad_norm": ([0, 5], [-1, math.inf, math.nan]),
    "epochs": ([1, 10000], [0, 10001, 1.5, None, "many"]),
    "batch_size": ([1, 65536], [0, 65537]),
    "max_tokens": ([1], [0]),
    "metric": ([None, "accuracy", "f1_macro", "log_loss", "lrap"], ["acuracy", ""]),
    "patience": ([None, 1], [0, -1]),
    "folds": ([None, 2, 1000], [0, 1, 1001]),
    "eval_steps": ([None, 1], [0]),
    "seed": ([0, 2**63 - 1], [-1, 2**63, 0.5]),
    "replay_rows": ([0, 1000, 10**7], [-1, 0.5]),
    "checkpoint_minutes": ([0.01, 1e6], [0, -1, math.inf, math.nan]),
    "checkpoint_steps": ([None, 1], [0]),
    "dedupe": ([True, False], ["perhaps"]),
    "drop_unlabelled": ([True, False], [2]),
}
# names and paths, of which any will do
FREE = {"train", "valid", "test", "text", "text_pair", "label", "group", "encoding", "out", "features_dir"}


def way_of(name: str) -> dict[str, str]:
    """The way of tuning that a setting belongs to, for one that means nothing for others."""
    if name == "neighbours":
        return {"tuning": "none", "method": "nearest"}
    ways = special_settings().get(name, [])
    return {"tuning": "last:1" if "last" in ways else ways[0]} if ways else {}


def test_every_setting_has_its_range_tested() -> None:
    assert set(RANGES) | FREE == set(Config.model_fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (good, _) in RANGES.items() for value in good], ids=str)
def test_in_range(name: str, value: Any) -> None:
    found = getattr(resolve({name: value, **way_of(name)}), name)
    assert found == ({"spam": 5.0, "ham": 1.0} if value == "spam=5,ham=1" else value)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, bad) in RANGES.items() for value in bad], ids=str)
def test_out_of_range(name: str, value: Any) -> None:
    (fault,) = faults(**{name: value})
    assert fault.startswith((f"{name} is ", f"{name}: "))
    (flag,) = faults(flags=True, **{name: value})
    assert flag == fault.replace(name, "--" + name.replace("_", "-"), 1)


@pytest.mark.parametrize("name", sorted(FREE))
def test_names_and_paths(name: str) -> None:
    assert getattr(resolve({name: "x", **way_of(name)}), name) == "x"
    assert getattr(resolve({name: None, **way_of(name)}), name) is None
    assert faults(**{name: 3}) == (f"{name} is 3; it must be text.",)


def test_a_fault_says_what_was_found_what_is_allowed_and_what_was_meant() -> None:
    assert faults(pooling="men") == ("pooling is 'men'; it must be 'auto', 'cls', 'mean', 'max' or 'attention'. Did you mean 'mean'?",)
    assert faults(epochs=0) == ("epochs is 0; it must be a whole number from 1 to 10,000.",)
    (fault,) = faults(metric="acuracy")
    assert "accuracy, f1_macro" in fault and fault.endswith("Did you mean 'accuracy'?")
    assert faults(label_separator="", flags=True) == ("--label-separator is ''; it must be text of at least one character.",)


def test_faults_are_told_in_plain_words() -> None:
    assert faults(epochs="many") == ("epochs is 'many'; it must be a whole number from 1 to 10,000.",)
    assert faults(stride=0.5) == ("stride is 0.5; it must be a whole number of at least 0.",)
    assert faults(lr="fast") == ("lr is 'fast'; it must be a number above 0 and at most 10, or 'find'.",)
    assert faults(warmup=1) == ("warmup is 1; it must be a number of at least 0 and below 1.",)
    assert faults(dedupe="perhaps") == ("dedupe is 'perhaps'; it must be true or false.",)
    assert faults(clip="5,0") == ("clip: '5,0' is not two numbers, the lesser first. Example: '0,5'",)
    assert resolve({"clip": "-1, 1"}).clip == (-1, 1)
    assert faults(class_weights=3) == ("class_weights is 3; it must be 'none', 'balanced' or weights by label, such as 'spam=5,ham=1'.",)
    assert faults(class_weights={"a": "x"}) == ("class_weights: the weight of 'a' is 'x'; labels must be text and weights numbers.",)
    assert faults(max_grad_norm=math.inf) == ("max_grad_norm: inf is not a finite number",)
    assert len(faults(epochs="9" * 5000)[0]) < 200


def test_no_word_of_the_checking_library_reaches_the_user() -> None:
    for name, (_, bad) in RANGES.items():
        for value in bad:
            (fault,) = faults(**{name: value})
            assert not re.search("valid|parse|Input|input|should|instance|dictionary", fault.replace(name, "")), fault


def test_unknown_settings() -> None:
    assert faults(epoch=3) == ("unknown setting 'epoch'. Did you mean 'epochs'?",)
    assert faults(Batch_Size=3) == ("unknown setting 'Batch_Size'. Did you mean 'batch_size'?",)
    (fault,) = faults(zzzzzz=1)
    assert all(name in fault for name in Config.model_fields)


def test_all_faults_at_once() -> None:
    """Unknown ones, single ones, and settings that are right alone but not together."""
    found = faults(
        zzzzzz=1,
        epoch=2,
        lr=-1,
        batch_size=0,
        pooling="sum",
        valid_size=0.5,
        test_size=0.5,
        truncation="windows",
        stride=300,
        text="a",
        label="a",
    )
    assert [fault.split(";")[0].split(".")[0] for fault in found[:5]] == [
        "unknown setting 'zzzzzz'",
        "unknown setting 'epoch'",
        "pooling is 'sum'",
        "lr is -1",
        "batch_size is 0",
    ]
    assert found[5:] == (
        "valid_size and test_size together leave no training rows; their sum must be below 1",
        "stride 300 must be at least 3 below max_length 256, or windows would not move forward",
        "text and label name the same column 'a'",
    )
    with pytest.raises(UsageError) as caught:
        resolve({"lr": -1, "epochs": 0})
    assert str(caught.value).startswith("2 settings are wrong:\n  - lr is -1")


def test_settings_that_clash() -> None:
    assert faults(text="a", group="a") == ("text and group name the same column 'a'",)
    assert faults(label="b", group="b", flags=True) == ("--label and --group name the same column 'b'",)
    assert faults(valid_size=0.6, test_size=0.4, flags=True) == (
        "--valid-size and --test-size together leave no training rows; their sum must be below 1",
    )
    assert faults(truncation="windows", max_length=16, stride=14, flags=True) == (
        "--stride 14 must be at least 3 below --max-length 16, or windows would not move forward",
    )
    resolve({"truncation": "windows", "max_length": 16, "stride": 13})
    resolve({"truncation": "head", "max_length": 16, "stride": 14})
    assert faults(ema=0.9, average=3, flags=True) == (
        "--ema and --average exclude each other: both say which weights are evaluated and saved",
    )
    assert faults(average=3, epochs=1) == (
        "average 3 needs weights of several evaluations, and there is one, at the end of the only epoch; set eval_steps or more epochs",
    )
    resolve({"average": 3, "epochs": 1, "eval_steps": 5})
    assert faults(r_drop=1, dropout=0, attention_dropout=0) == ("r_drop sets dropout masks against each other, and dropout 0 leaves none",)
    assert len(faults(multi_sample_dropout=2, dropout=0)) == 1
    resolve({"r_drop": 1, "dropout": 0, "attention_dropout": 0.1})
    assert faults(fgm=1, tuning="last:2") == (
        "fgm disturbs the embeddings, and with tuning='last:2' what frozen layers make of them is computed once; add features='off', or "
        "leave it out",
    )
    resolve({"fgm": 1, "tuning": "last:2", "features": "off"})
    # what is wrong by itself is not blamed a second time
    assert len(faults(valid_size=1.5, test_size=0.95)) == 1
    assert len(faults(truncation="windows", max_length=2, stride=300)) == 1


def test_later_layers_win() -> None:
    config = resolve({"epochs": 2, "lr": 1e-3}, {"epochs": 5}, {})
    assert (config.epochs, config.lr) == (5, 1e-3)
    assert resolve() == Config()
    with pytest.raises(ValidationError):
        config.epochs = 3  # frozen


def test_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "recipe.toml").write_text(
        'train = "data/train.csv"\nvalid = "../valid.csv"\ntest = "/absolute/test.csv"\nout = "model"\n'
        'model = "encoder"\nbatch-size = 8\nmax_length = 64\n[class-weights]\n"a-b" = 2\n',
        encoding="utf-8",
    )
    expected = {
        "train": str(tmp_path / "data" / "train.csv"),
        "valid": str(tmp_path.parent / "valid.csv"),
        "test": "/absolute/test.csv",
        "out": str(tmp_path / "model"),
        "model": str(tmp_path / "encoder"),
        "batch_size": 8,
        "max_length": 64,
        "class_weights": {"a-b": 2},
    }
    assert read_recipe(tmp_path / "recipe.toml") == expected
    assert resolve(read_recipe(tmp_path / "recipe.toml")).batch_size == 8
    monkeypatch.chdir(tmp_path)
    relative = read_recipe("recipe.toml")
    assert {name: str((tmp_path / value).resolve()) for name, value in relative.items() if name in ("train", "out")} == {
        name: expected[name] for name in ("train", "out")
    }


def test_recipe_names_a_bundled_model_or_one_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('model = "all-minilm-l6-v2"')
    assert read_recipe(tmp_path / "recipe.toml") == {"model": "all-minilm-l6-v2"}


def test_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe .*none\.toml does not exist"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(UsageError, match=r"bad\.toml is not valid TOML: .*line 1"):
        read_recipe(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes(b'text = "caf\xe9"')
    with pytest.raises(UsageError, match="is not valid TOML"):
        read_recipe(tmp_path / "latin.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "unknown.toml").write_text("epoch = 3\nlr = -1")
    with pytest.raises(UsageError) as caught:
        resolve(read_recipe(tmp_path / "unknown.toml"))
    assert len(caught.value.faults) == 2


def recipe_faults(path: Path, content: str, **flags: Any) -> tuple[str, ...]:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as caught, speaking_flags():
        resolve(read_recipe(path), flags)
    return caught.value.faults


def test_a_fault_of_a_recipe_names_the_recipe_and_one_of_a_flag_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    content = 'epoch = 3\nlr = -1\nbatch-size = "x"\nlabel = "a"\ntext = "a"\n'
    unknown, batch, lr, same = sorted(recipe_faults(path, content, lr="-2"), key=lambda fault: "unknown" not in fault)
    assert unknown == f"{path}: unknown setting 'epoch'. Did you mean 'epochs'?"
    assert batch.startswith("--lr is '-2'; ") and lr.startswith(f"{path}: batch_size is 'x'; ")
    assert same == f"{path}: text and label name the same column 'a'"
    (mixed,) = recipe_faults(path, 'truncation = "windows"\nstride = 20\n', max_length="16")
    assert mixed.startswith(f"{path}: stride 20 must be at least 3 below --max-length 16")


def test_sections_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    known, unknown, empty = recipe_faults(path, "[train]\nfile = 'd.csv'\n[training]\nlr = 1\nepochs = 2\n[data]\n")[::-1]
    assert known.startswith(f"{path}: train is a section, but a recipe is flat: write train = VALUE above all sections")
    assert {unknown, empty} == {
        f"{path}: [training] is a section, but a recipe is flat: put what is in it (lr, epochs) above all sections, and remove this line.",
        f"{path}: [data] is a section, but a recipe is flat: put what is in it above all sections, and remove this line.",
    }
    path.write_text("[class_weights]\na = 2\n")
    assert resolve(read_recipe(path)).class_weights == {"a": 2.0}


def test_a_setting_is_spelled_for_those_who_read_it() -> None:
    assert (setting("max_length"), setting("out", "m"), setting("dedupe", True)) == ("max_length", "out='m'", "dedupe=True")
    with speaking_flags():
        assert (setting("max_length"), setting("out", "m"), setting("dedupe", True)) == ("--max-length", "--out m", "--dedupe")
    assert setting("lr") == "lr"


# where data lies, where results go, and what and how often is saved: what the table's own key or nothing at all accounts for
PATHS = {
    "merge",
    "budget", "features_gb", "features_dir", "train", "valid", "test", "out", "replay_rows", "checkpoint_minutes", "checkpoint_steps",
    "device",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(Config.model_fields))
def test_content_hash(name: str) -> None:
    other: dict[str, Any] = {name: RANGES[name][0] for name in RANGES}
    default = Config()
    values = ["other"] if name in FREE else [value for value in other[name] if value != getattr(default, name)]
    assert values
    for value in values:
        changed = default.model_copy(update={name: getattr(Config(**{name: value}), name)})
        assert (changed.content_hash() == default.content_hash()) == (name in PATHS), value


def test_content_hash_of_a_model_directory_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path)
    names = ("encoder", "./encoder", str(tmp_path / "encoder"))
    assert len({resolve({"model": name}).content_hash() for name in names}) == 1
    assert resolve({"model": "other"}).content_hash() != resolve({"model": "encoder"}).content_hash()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuning": "lora", "layer_decay": 0.9}, "layer_decay changes nothing with tuning='lora'; it belongs to layerwise"),
        ({"tuning": "adapter", "merge": True}, "merge changes nothing with tuning='adapter'; it belongs to lora, dora, ia3"),
        ({"tuning": "none", "prompts": "a=b,c=d", "epochs": 3}, "epochs changes nothing with tuning='none'"),
        ({"tuning": "full", "features": "auto"}, "features changes nothing with tuning='full'"),
        ({"folds": 3, "test_size": 0.1}, "test_size changes nothing beside folds"),
    ],
)
def test_what_is_told_is_refused_where_it_means_nothing_even_as_the_usual_value(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve(settings, told=settings)
    # the settings that a run keeps name all values
    kept = resolve(resolve(settings).model_dump(exclude_none=True), {"seed": 1}, told={"seed"})
    assert kept.seed == 1
    recipe = tmp_path / "r.toml"
    recipe.write_text('tuning = "ia3"\nrank = 8\n')
    with pytest.raises(UsageError, match=f"{recipe}: rank changes nothing"):
        resolve(read_recipe(recipe))


@pytest.mark.parametrize(
    ("settings", "idle", "used"),
    [
        ({"tuning": "adapter"}, {"merge", "rank", "layer_decay", "features", "prompts"}, {"bottleneck", "epochs", "loss"}),
        ({"tuning": "none", "prompts": "a=b,c=d"}, {"epochs", "lr", "loss", "merge"}, {"prompts", "method", "pooling"}),
        ({"tuning": "fewshot"}, {"loss", "merge", "neighbours"}, {"epochs", "lr"}),
        ({"tuning": "last:2"}, {"merge", "budget"}, {"features", "lr"}),
    ],
)
def test_a_shown_recipe_names_what_means_something(settings: dict[str, Any], idle: set[str], used: set[str]) -> None:
    shown = shown_recipe({"recipe": resolve(settings).model_dump(mode="json")})
    assert idle.isdisjoint(shown) and used <= shown.keys() and shown["tuning"] == settings["tuning"]


@pytest.mark.parametrize(("name", "own"), [("valid_size", True), ("lr", True), ("test_size", False)])
def test_help_says_where_a_way_to_tune_has_its_own_value(name: str, own: bool) -> None:
    option = next(found for found in get_args(_option(name, "Data")) if hasattr(found, "help"))
    assert ("unless the way to tune has its own)" in option.help) == own
