"""Where the layers of an encoder have the modules that ways of tuning change, by transformers' names for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

KEYS = ("self.key", "attn.k", "k_lin", "attention.key", "self.key_proj", "self_attn.k_proj")
VALUES = ("self.value", "attn.v", "v_lin", "attention.value", "self.value_proj", "self_attn.v_proj")
FUSED = ("attn.Wqkv", "attn.c_attn")
"""Queries, keys and values of one product: ModernBERT, GPT-2."""
ATTENTION_OUT = ("attention.output.dense", "attn.o", "out_lin", "attention.dense", "attn.Wo", "attn.c_proj", "self_attn.o_proj")
FEED_FORWARD_OUT = ("output.dense", "lin2", "ffn_output", "mlp.Wo", "mlp.c_proj", "mlp.down_proj")


def found(root: nn.Module, endings: Sequence[str], but: Sequence[str] = ()) -> list[str]:
    """Return the names of the modules in `root` whose names end with one of `endings` and with none of `but`, in their order."""
    return [name for name, _ in root.named_modules() if _ends(name, endings) and not _ends(name, but)]


def linear_layers(root: nn.Module) -> list[str]:
    """Return the names of the linear layers in `root`, those of a pooler left out; GPT-2's transposed kind included."""
    return [name for name, module in root.named_modules() if is_linear(module) and "pooler" not in name.split(".")]


def is_linear(module: Any) -> bool:
    """Whether `module` is a linear layer."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the one called `name` in `root`."""
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)


def _ends(name: str, endings: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{ending}") for ending in endings)
