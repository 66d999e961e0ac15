"""Bottleneck adapters: two small layers behind each attention and each feed-forward layer (Houlsby et al. 2019, section 2.1).

PEFT has no such adapters. They wrap the layer whose output goes into a residual sum, so that every engine and architecture runs them; the
paper has dropout before them, here it comes behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tunesmith.errors import ModelError, setting
from tunesmith.model import places
from tunesmith.model.adapted import OWN_WEIGHTS, Adapter
from tunesmith.model.adapters import Beside, modules_of_head
from tunesmith.model.encoder import Encoder
from tunesmith.model.heads import TextModel
from tunesmith.model.tuning import trained_parameters

_DEVIATION = 0.02


class Bottleneck(nn.Module):
    """A layer with two small ones behind it: y + up(gelu(down(y))) for its output y, float[..., H]; at first that is y."""

    def __init__(self, layer: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.normal_(self.down.weight, std=_DEVIATION)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: what the layer takes -> float[..., H]"""
        found: Tensor = self.layer(hidden)
        return found + self.up(nn.functional.gelu(self.down(found)))


class Bottlenecks(Beside):
    """Bottleneck adapters, the layers' norms and the head (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP")."""

    name = "adapter"

    def attach(self, model: TextModel) -> None:
        """Put an adapter behind each of the layers."""
        put_bottlenecks(model.encoder, self.config.bottleneck)
        base = model.encoder.base
        for name, module in base.named_modules():
            if isinstance(module, Bottleneck):
                module.down.requires_grad_(True)
                module.up.requires_grad_(True)
            elif "Norm" in type(module).__name__ and "embeddings" not in name:
                module.requires_grad_(True)
        for name in modules_of_head(model) or []:
            model.encoder.hf.get_submodule(name).requires_grad_(True)

    def finish(self, model: TextModel) -> None:
        """Take out what was trained."""
        tensors = {name: p.detach().clone() for name, p in trained_parameters(model).items() if not name.startswith("head.")}
        told = {"bottleneck": self.config.bottleneck}
        assert model.base is not None
        model.adapter = Adapter(self.name, tensors, None, model.base, self.digest, settings=told)


def put_bottlenecks(encoder: Encoder, bottleneck: int) -> None:
    """Put an adapter behind each attention and feed-forward layer. Raises `ModelError` for an architecture of other names."""
    names = places.found(encoder.base, [*places.ATTENTION_OUT, *places.FEED_FORWARD_OUT])
    feed_forward = places.found(encoder.base, places.FEED_FORWARD_OUT, but=places.ATTENTION_OUT)
    if not feed_forward or len(names) != 2 * len(feed_forward):
        raise ModelError(
            f"{setting('tuning', 'adapter')} does not know where a model of type {encoder.config.model_type!r} has its attention and "
            f"feed-forward layers. Take {setting('tuning', 'lora')}."
        )
    for name in names:
        places.put(encoder.base, name, Bottleneck(encoder.base.get_submodule(name), encoder.width, bottleneck))
    encoder.changed()


def attach_saved(model: TextModel, settings: dict[str, Any], directory: Path) -> None:
    """Put the adapters in `directory` into the encoder of `model`. Raises `ModelError` for a damaged file."""
    from safetensors.torch import load_file

    put_bottlenecks(model.encoder, int(settings["bottleneck"]))
    parameters = dict(model.named_parameters())
    try:
        tensors = load_file(directory / OWN_WEIGHTS)
        if wrong := [name for name, value in tensors.items() if name not in parameters or parameters[name].shape != value.shape]:
            raise ValueError(f"no place for {wrong[0]}")
    except Exception as error:
        raise ModelError(f"{directory / OWN_WEIGHTS} is damaged ({error}). Restore it from a copy, or train again.") from error
    for name, value in tensors.items():
        # not into the old parameter, which other models may share
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Parameter(value, requires_grad=False))
