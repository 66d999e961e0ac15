"""Flags made from the settings: each field of `Config` is one flag, with its description as help."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from tunesmith import registry, strategies
from tunesmith.config import DEVICE, Config
from tunesmith.errors import UsageError

PANELS = {
    "Data": (
        "task",
        "text",
        "text_pair",
        "label",
        "group",
        "valid",
        "test",
        "valid_size",
        "test_size",
        "encoding",
        "label_type",
        "label_separator",
        "scheme",
        "dedupe",
        "drop_unlabelled",
    ),
    "Model": (
        "model",
        "max_length",
        "truncation",
        "stride",
        "max_windows",
        "context",
        "aggregation",
        "pooling",
        "dropout",
        "attention_dropout",
        "max_answer_tokens",
        "answer_match",
    ),
    "Pretraining": ("mask_share", "from_scratch", "vocab_size", "layers", "width", "heads"),
    "Tuning": (
        "tuning",
        "budget",
        "layer_decay",
        "unfreeze",
        "reinit",
        "features",
        "features_gb",
        "features_dir",
        "rank",
        "lora_alpha",
        "lora_dropout",
        "targets",
        "merge",
        "bottleneck",
        "virtual_tokens",
    ),
    "Without training": ("method", "prompts", "template", "neighbours"),
    "Training": (
        "epochs",
        "lr",
        "batch_size",
        "seed",
        "schedule",
        "warmup",
        "optimizer",
        "weight_decay",
        "momentum",
        "max_grad_norm",
        "loss",
        "focal_gamma",
        "clip",
        "constrain",
        "class_weights",
        "precision",
        "device",
        "engine",
        "max_tokens",
    ),
    "Regularisation": ("label_smoothing", "r_drop", "fgm", "multi_sample_dropout", "ema", "average"),
    "Ranking": (
        "ranker",
        "ranking_loss",
        "temperature",
        "negatives",
        "negatives_per_query",
        "miner",
        "false_negative_margin",
        "candidates",
    ),
    "Choosing the checkpoint": ("metric", "patience", "eval_steps", "folds"),
    "Output": ("out", "replay_rows", "checkpoint_minutes", "checkpoint_steps"),
}


Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", help="What computes; auto takes the GPU where torch finds one.")
]
"""For commands that take no other setting of a training."""


def check_is_no_pipe(command: str, *names: str | None) -> None:
    """Raise `UsageError` when one of the files that `command` reads more than once is `-`, standard input."""
    if "-" in names:
        raise UsageError(
            f"{command} reads its data more than once, which standard input does not allow. Save it to a file and name that: "
            f"... > rows.csv && {command} rows.csv"
        )


def check_device(device: str) -> None:
    """Raise `UsageError` for a --device that is none."""
    if device not in ("auto", "cpu", "cuda") and not re.fullmatch(DEVICE, device):
        raise UsageError(f"--device is {device!r}; it must be auto, cpu, cuda, or cuda:N for GPU number N.")


def takes_settings(names: list[str] | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each setting (or those in `names`); it gets the ones that were set as `settings`.

    Values arrive as text and are checked all together by `resolve`, so that every fault is reported at once.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "settings"]
        flags = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, panel))
            for panel, fields in PANELS.items()
            for name in fields
            if names is None or name in names
        ]

        def wrapped(**values: Any) -> None:
            given = {flag.name: values.pop(flag.name) for flag in flags}
            command(**values, settings={name: value for name, value in given.items() if value is not None})

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        return wrapped

    return decorate


def _option(name: str, panel: str) -> Any:
    field = Config.model_fields[name]
    flag = "--" + name.replace("_", "-")
    own = ", unless the way to tune has its own" if any(name in way.usual for way in strategies.TUNINGS.values()) else ""
    shown = "" if field.default is None or field.annotation is bool else f" (default: {field.default}{own})"
    text = field.description if field.description is not None else name
    help_text = f"{text[0].upper()}{text[1:]}{shown}"
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text, rich_help_panel=panel, show_default=False)]
    values = "|".join(["auto", *registry.TASKS]) if name == "task" else metavar(field.annotation)
    flags = (flag, "-o") if name == "out" else (flag,)
    return Annotated[str | None, typer.Option(*flags, help=help_text, metavar=values, rich_help_panel=panel, show_default=False)]


def metavar(annotation: Any) -> str:
    """Return how the value of a flag is written: its options, NUMBER, TEXT or yes|no."""
    if annotation is bool:
        return "true|false"
    arms = [arm for arm in (typing.get_args(annotation) or (annotation,)) if arm is not type(None)]
    arms = [getattr(arm, "__origin__", arm) if hasattr(arm, "__metadata__") else arm for arm in arms]
    words = [word for arm in arms for word in (typing.get_args(arm) if typing.get_origin(arm) is typing.Literal else (arm,))]
    texts = [word for word in words if isinstance(word, str)]
    if texts and float in words:
        return "|".join(["NUMBER", *texts])
    if texts:
        return "|".join(texts) + ("|LABEL=WEIGHT,..." if dict in words else "|cuda:N" if str in words else "")
    return {int: "NUMBER", float: "NUMBER"}.get(words[0], "TEXT")
