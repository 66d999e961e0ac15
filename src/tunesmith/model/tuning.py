"""What of a model is trained, at which share of the learning rate, and from which epoch on: the ways to tune, carried out.

A model's parameters lie at depths: 0 the embeddings, 1 to n the layers, n + 1 the head, the pooler included; -1 a pooler that is not read.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from tunesmith import strategies
from tunesmith.config import Config
from tunesmith.errors import ModelError, UsageError, counted, listing, setting
from tunesmith.model.heads import CheckpointHead, TextModel, VectorHead
from tunesmith.model.masked_head import CheckpointMaskedHead
from tunesmith.model.pretrained import draw_again
from tunesmith.seeds import seed_for


class Strategy(ABC):
    """One way to tune. `prepare` is called once before training, `train_mode` before each epoch, `finish` behind the last one."""

    name: ClassVar[str]
    frozen_layers: int | None = None
    """How many layers, from the bottom, stay as they are, embeddings included; n: the whole encoder; None: no part does."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def prepare(self, model: TextModel) -> None:
        """Mark what is trained with `requires_grad`, and add what the way brings along. Raises `ModelError` where that cannot be."""

    def rate(self, model: TextModel) -> Callable[[str], float]:
        """Return which share of the learning rate the parameter of a name gets."""
        return lambda name: 1.0

    def train_mode(self, model: TextModel, epoch: int) -> None:
        """Put the model into the mode of training for `epoch`, counted from 0: a pure function of that."""
        model.train()

    def network(self, model: TextModel) -> TextModel:
        """Return what the loop trains of the prepared model: itself, or one that shares its encoder."""
        return model

    def finish(self, model: TextModel) -> None:
        """Turn the trained model into what is saved."""
        return

    def sentence(self, model: TextModel) -> str:
        """Return in a few words what is trained."""
        return strategies.TUNINGS[self.name].trains


class Full(Strategy):
    """All weights."""

    name = "full"

    def prepare(self, model: TextModel) -> None:
        """Leave all parameters trainable."""


class Frozen(Strategy):
    """The head and the last layers: none of them (`head`), or N (`last:N`). What lies below stays as it is, and in evaluation mode."""

    name = "last"

    def __init__(self, config: Config, layers: int) -> None:
        super().__init__(config)
        self.trained_layers = layers

    def prepare(self, model: TextModel) -> None:
        """Freeze all parameters below the last layers. Raises `UsageError` for more layers than there are."""
        count = model.encoder.layers if self.trained_layers == 0 else len(layers_of(model))
        if self.trained_layers > count:
            raise UsageError(
                f"{setting('tuning', self.config.tuning)}: the encoder has {counted(count, 'layer')}. "
                f"Take at most last:{count}, or {setting('tuning', 'full')}, which trains the embeddings, too."
            )
        self.frozen_layers = count - self.trained_layers
        depth = depths(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(depth[name] > self.frozen_layers)
        if self.trained_layers == 0 and isinstance(model.head, CheckpointMaskedHead):
            raise UsageError(
                f"{setting('tuning', self.config.tuning)} leaves the encoder as it is, but masked-lm is to change it. Take "
                f"{setting('tuning', 'last:1')} or another way."
            )
        if self.trained_layers == 0 and isinstance(model.head, VectorHead):
            raise UsageError(
                f"{setting('tuning', self.config.tuning)} has nothing to train: this model's outputs are the encoder's own, with no head. "
                f"Take {setting('tuning', 'last:1')} or another way."
            )

    def train_mode(self, model: TextModel, epoch: int) -> None:
        """Have dropout in the trained part only."""
        model.train()
        model.encoder.base.eval()
        if self.trained_layers:
            for layer in layers_of(model)[self.frozen_layers :]:
                layer.train()

    def sentence(self, model: TextModel) -> str:
        """Return in a few words what is trained."""
        return "the head" if self.trained_layers == 0 else f"the last {counted(self.trained_layers, 'layer')} and the head"


class Layerwise(Strategy):
    """All weights, with a rate that falls by `layer_decay` from each layer to the one below (Howard and Ruder 2018, section 3.2).

    unfreeze: the head trains in the first epoch, and in each further one so many layers more, from the top (the same, section 3.3)
    reinit: the last layers begin with fresh weights (Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning", section 4)
    """

    name = "layerwise"

    def prepare(self, model: TextModel) -> None:
        """Draw the last layers anew where that is asked for. Raises `UsageError` for more layers than there are."""
        layers = layers_of(model)
        if self.config.reinit > len(layers):
            has = f"the encoder has {counted(len(layers), 'layer')}"
            raise UsageError(f"{setting('reinit', self.config.reinit)}: {has}. Take at most so many.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(self.config.seed, "reinit"))
            for layer in layers[len(layers) - self.config.reinit :]:
                drawn = [m for m in layer.modules() if draw_again(m, float(getattr(model.encoder.config, "initializer_range", 0.02)))]
                fresh = {id(p) for module in drawn for p in module.parameters(recurse=False)}
                if kept := [name for name, p in layer.named_parameters() if id(p) not in fresh]:
                    raise ModelError(
                        f"{setting('reinit')} cannot draw {listing(kept)} of a layer of type {type(layer).__name__} anew. Leave it out."
                    )

        if self.config.unfreeze:
            depth = depths(model)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(depth[name] >= self._lowest(model, self.config.epochs - 1))

    def _lowest(self, model: TextModel, epoch: int) -> int:
        """Return the least depth that is trained in `epoch`."""
        return model.encoder.layers + 1 - epoch * self.config.unfreeze

    def rate(self, model: TextModel) -> Callable[[str], float]:
        """Return the share of a name's layer: decay to the power of the layers above it."""
        layers_of(model)  # must be apart
        depth, top = depths(model), model.encoder.layers
        return lambda name: self.config.layer_decay ** max(top - depth[name], 0)

    def train_mode(self, model: TextModel, epoch: int) -> None:
        """Freeze the layers whose time has not come; `unfreeze` 0 trains all from the start."""
        model.train()
        if self.config.unfreeze:
            depth, lowest = depths(model), self._lowest(model, epoch)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(depth[name] >= lowest)

    def finish(self, model: TextModel) -> None:
        """Leave no parameter frozen."""
        model.requires_grad_(True)

    def sentence(self, model: TextModel) -> str:
        """Return in a few words what is trained, and how."""
        layers = model.encoder.layers
        lowest = self._lowest(model, self.config.epochs - 1) if self.config.unfreeze else 0
        upper = f" and the last {counted(layers + 1 - lowest, 'layer')}" if lowest <= layers else ""
        reached = "all weights" if lowest <= 0 else f"the head{upper}"
        words = f"{reached}, each layer at {self.config.layer_decay:g} of the rate of the one above"
        words += f", {counted(self.config.unfreeze, 'layer')} more in each epoch" if self.config.unfreeze else ""
        if lowest > 0:
            whole = 1 + math.ceil((layers + 1) / self.config.unfreeze)
            words += f" (no more in {counted(self.config.epochs, 'epoch')}; {whole} reach all)"
        return words + (f", the last {counted(self.config.reinit, 'layer')} drawn anew" if self.config.reinit else "")


class BitFit(Strategy):
    """Biases and the head (Ben Zaken et al. 2022, "BitFit", section 3)."""

    name = "bitfit"

    def prepare(self, model: TextModel) -> None:
        """Freeze everything in the encoder that is no bias. Raises `ModelError` for an encoder without biases."""
        depth, top = depths(model), model.encoder.layers + 1
        biases = 0
        for name, parameter in model.named_parameters():
            bias = name.endswith("bias") and depth[name] >= 0
            biases += bias and depth[name] < top
            parameter.requires_grad_(bias or depth[name] == top)
        if biases == 0:
            raise ModelError(
                f"an encoder of type {model.encoder.config.model_type!r} has no biases, so {setting('tuning', 'bitfit')} would train the "
                f"head alone. Take {setting('tuning', 'head')}, or another way."
            )


class FewShot(Strategy):
    """The encoder by comparing texts; the head follows, see `training.fewshot` (Tunstall et al. 2022, "SetFit", section 3)."""

    name = "fewshot"

    def prepare(self, model: TextModel) -> None:
        """Leave all parameters trainable."""

    def network(self, model: TextModel) -> TextModel:
        """Return the encoder with the vectors of texts as outputs."""
        return TextModel(model.encoder, VectorHead())


def choose_strategy(config: Config) -> Strategy:
    """Return the way of tuning that the settings name."""
    way, layers = strategies.parse(config.tuning)
    if way in ("head", "last"):
        return Frozen(config, 0 if layers is None else layers)
    if way in _PLAIN:
        return _PLAIN[way](config)
    # imported here, as they build on this module
    module, _, name = _ADDED[way].partition(":")
    found: Strategy = getattr(importlib.import_module(f"tunesmith.model.{module}"), name)(config)
    return found


_PLAIN: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (Full, Layerwise, BitFit, FewShot)}

_ADDED = {
    "lora": "adapters:LoRA",
    "dora": "adapters:DoRA",
    "ia3": "adapters:IA3",
    "prompt": "adapters:Prompt",
    "ptuning": "adapters:PTuning",
    "prefix": "adapters:Prefix",
    "adapter": "bottlenecks:Bottlenecks",
}


def layers_of(model: TextModel) -> list[nn.Module]:
    """Return the encoder's layers from the bottom. Raises `ModelError` for one whose layers cannot be told apart, as ALBERT's."""
    if (found := _find_layers(model)) is not None:
        return found
    raise ModelError(
        f"the layers of a model of type {model.encoder.config.model_type!r} cannot be trained apart (they share weights, or "
        f"are kept in an unknown form). Train with {setting('tuning', 'full')} or {setting('tuning', 'head')}."
    )


def _find_layers(model: TextModel) -> list[nn.Module] | None:
    for module in model.encoder.base.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.encoder.layers:
            return list(module)
    return None


def depths(model: TextModel) -> dict[str, int]:
    """Return the depth of each parameter by its name in `model`; 0 for all of an encoder whose layers share weights."""
    top, base, layers = model.encoder.layers, model.encoder.base, _find_layers(model)
    found: dict[int, int] = {id(p): 0 for p in base.parameters()}
    for number, layer in enumerate([] if layers is None else layers, 1):
        found |= {id(p): number for p in layer.parameters()}
    for name, module in base.named_children():
        if name.startswith("pooler"):
            found |= {id(p): top + 1 if isinstance(model.head, CheckpointHead) else -1 for p in module.parameters()}
        elif name in _LAST_NORMS:
            found |= {id(p): top for p in module.parameters()}
    return {name: found.get(id(p), top + 1) for name, p in model.named_parameters()}


_LAST_NORMS = ("final_norm", "ln_f", "norm")  # ModernBERT, GPT-2, Llama


def trained_parameters(model: TextModel) -> dict[str, Any]:
    """Return the parameters of `model` that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
