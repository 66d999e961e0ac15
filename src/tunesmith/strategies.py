"""The ways to tune an encoder, by name: what each is for, and the settings that suit it. `model.tuning` carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tunesmith.errors import UsageError, did_you_mean, listing, setting


@dataclass(frozen=True)
class Tuning:
    """One way to tune.

    trains: what is trained, for help texts and messages
    usual: values of settings unless they are told; those that suit full fine-tuning stand in `Config`
    settings: those that mean something for this way and not for all others
    without: those of other ways that mean nothing for this one
    tasks: those that it works for; empty: all
    source: where it comes from
    updated: whether `update` can go on from its models
    """

    trains: str
    usual: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    settings: frozenset[str] = frozenset()
    source: str = ""
    without: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ()
    updated: bool = True


_OF_FEATURES = frozenset({"features", "features_gb", "features_dir"})
_OF_STEPS = frozenset({
    "lr", "epochs", "batch_size", "optimizer", "schedule", "warmup", "weight_decay", "momentum", "max_grad_norm", "dropout",
    "attention_dropout", "precision", "patience", "eval_steps", "metric", "checkpoint_minutes", "checkpoint_steps", "fgm", "ema", "average",
})  # fmt: skip
_OF_THE_LOSS = frozenset({"loss", "focal_gamma", "label_smoothing", "class_weights", "r_drop", "multi_sample_dropout"})
_OF_LORA = frozenset({"rank", "lora_alpha", "lora_dropout", "targets", "merge"})
_OF_PROMPTS = frozenset({"virtual_tokens"})

AUTO = "auto"

TUNINGS: dict[str, Tuning] = {
    "full": Tuning("all weights"),
    "head": Tuning(
        "the head, on outputs of the encoder that are computed once",
        {"lr": 5e-3, "epochs": 20, "pooling": "mean"},
        _OF_FEATURES,
        "Peters et al. 2019, To Tune or Not to Tune?",
    ),
    "last": Tuning(
        "the last N layers and the head, on outputs of the layers below that are computed once",
        {"lr": 1e-4},
        _OF_FEATURES,
        "Lee et al. 2019, What Would Elsa Do?",
    ),
    "layerwise": Tuning(
        "all weights, those of lower layers at lower rates",
        {"lr": 1e-4},
        frozenset({"layer_decay", "unfreeze", "reinit"}),
        "Howard and Ruder 2018, ULMFiT, sections 3.2 and 3.3; Sun et al. 2019; Zhang et al. 2021",
    ),
    "bitfit": Tuning("biases and the head", {"lr": 1e-3}, source="Ben Zaken et al. 2022, BitFit"),
    "fewshot": Tuning(
        "all weights of the encoder, on which texts have the same label, then the head by logistic regression",
        {"lr": 5e-5, "epochs": 20, "warmup": 0.1, "pooling": "mean", "valid_size": 0.0},
        source="Tunstall et al. 2022, SetFit; Khosla et al. 2020, Supervised Contrastive Learning",
        without=_OF_THE_LOSS,
        tasks=("classification", "pair"),
    ),
    "none": Tuning(
        "nothing: labels from descriptions of them, from words that fill a gap, or from the nearest labelled examples",
        {"pooling": "mean", "valid_size": 0.0},
        frozenset({"method", "prompts", "template", "neighbours"}),
        "Schick and Schütze 2021; Zhao et al. 2021; Snell et al. 2017; Khandelwal et al. 2020",
        without=_OF_THE_LOSS | _OF_STEPS,
        tasks=("classification", "pair"),
        updated=False,
    ),
    "lora": Tuning("updates of low rank to linear layers, and the head", {"lr": 1e-3}, _OF_LORA, "Hu et al. 2022, LoRA"),
    "dora": Tuning(
        "updates of low rank to the directions of linear layers' weights, their magnitudes, and the head",
        {"lr": 1e-3},
        _OF_LORA,
        "Liu et al. 2024, DoRA",
    ),
    "ia3": Tuning(
        "factors of keys, values and inner activations, and the head",
        {"lr": 2e-2},
        frozenset({"merge"}),
        "Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
    ),
    "adapter": Tuning(
        "two small layers behind each attention and each feed-forward layer, the norms, and the head",
        {"lr": 1e-3},
        frozenset({"bottleneck"}),
        "Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP",
        updated=False,
    ),
    "prompt": Tuning(
        "vectors of virtual tokens before each text, and the head", {"lr": 5e-3}, _OF_PROMPTS, "Lester et al. 2021", updated=False
    ),
    "ptuning": Tuning(
        "a small network that makes vectors of virtual tokens before each text, and the head",
        {"lr": 3e-3},
        _OF_PROMPTS,
        "Liu et al. 2021, GPT Understands, Too",
        updated=False,
    ),
    "prefix": Tuning(
        "keys and values of virtual tokens in every layer, and the head", {"lr": 3e-2}, _OF_PROMPTS, "Li and Liang 2021", updated=False
    ),
    AUTO: Tuning("what validation prefers of several ways that are tried, the cheapest first", settings=frozenset({"budget"})),
}
"""`last` stands for `last:N`, N layers."""


def parse(name: str) -> tuple[str, int | None]:
    """Return the way to tune that `name` means, and N of `last:N`. Raises `ValueError` that says what is allowed."""
    way, colon, number = name.partition(":")
    known = ["last:N" if known == "last" else known for known in TUNINGS]
    if way not in TUNINGS:
        raise ValueError(f"{name!r} is not one of {listing(known, 40)}.{did_you_mean(way, list(TUNINGS))}")
    if way != "last":
        if colon:
            raise ValueError(f"{name!r}: only last takes a number of layers, as last:2. Write {way!r}.")
        return way, None
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{name!r} does not say how many of the last layers are trained. Example: 'last:2'")
    return way, int(number)


def usual(name: Any) -> Mapping[str, Any]:
    """Return the values of settings that suit the way `name` unless they are told; none for what is no way to tune."""
    found = TUNINGS.get(name.partition(":")[0]) if isinstance(name, str) else None
    return found.usual if found is not None else {}


def is_updated(name: str, *, merge: bool) -> bool:
    """Return whether `update` can go on from models of the way `name`; `merge`: what is trained beside the encoder is added to it."""
    way = TUNINGS[name.partition(":")[0]]
    return way.updated and (merge or "merge" not in way.settings)


def check_task(name: str, task: str) -> None:
    """Raise `UsageError` where the way `name` does not work for a task."""
    way = name.partition(":")[0]
    if TUNINGS[way].tasks and task not in TUNINGS[way].tasks:
        raise UsageError(
            f"{setting('tuning', name)} learns labels of texts ({listing(TUNINGS[way].tasks)}), and the task is {task}. With few rows take "
            f"{setting('tuning', 'last:2')}, which works for every task, or {setting('tuning', 'head')}; or name the {setting('task')}."
        )


def meaningless(name: str) -> frozenset[str]:
    """Return the settings that mean nothing for the way `name`."""
    way = name.partition(":")[0]
    return TUNINGS[way].without | {setting for setting, ways in special_settings().items() if way not in ways}


def special_settings() -> dict[str, list[str]]:
    """Return the settings that mean nothing for some ways to tune, each with the ways that it belongs to."""
    found: dict[str, list[str]] = {}
    for way, tuning in TUNINGS.items():
        for name in tuning.settings:
            found.setdefault(name, []).append(way)
    return found
