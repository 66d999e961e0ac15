"""Models of which only an adapter was saved: the encoder found, checked, shared with others in memory, and the adapter put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.model import adapters, bottlenecks
from tunesmith.model.adapted import digest_of_base, open_base, saved_adapter, share_base
from tunesmith.model.heads import TextModel, build_model, load_head
from tunesmith.model.hub import load_tokenizer
from tunesmith.model.names import Located
from tunesmith.model.spec import HeadSpec


def load_adapted(directory: Path, told: dict[str, Any], head: HeadSpec, pooling: str) -> TextModel:
    """Load the model whose adapter is in `directory`; models of the same encoder use one copy of its weights.

    told: as `Adapter.describe` returns it
    Raises `ModelError` when the encoder is not found, when its weights are not those of training, or when the adapter is damaged.
    """
    pretrained = open_base(directory, told["base"])
    adapter = saved_adapter(directory, told, pretrained.located)
    encoder = pretrained.load(head)
    digest = digest_of_base(encoder)
    if digest != told["base"]["digest"]:
        raise ModelError(
            f"{directory} was trained on other weights of {told['base']['name']!r} than {pretrained.located.place} has now, and would "
            "predict wrongly with these. Restore the encoder of training from a copy, or train again."
        )
    share_base(encoder, digest)
    encoder.tokenizer = load_tokenizer(Located(str(directory), str(directory), "directory"), encoder.config)
    model = build_model(encoder, head, pooling=pooling, dropout=0.0, seed=0)
    model.encoder.shared = encoder.shared
    if model.own_head != told["own_head"]:
        raise ModelError(
            f"{directory}: its head does not run as it did when it was trained; the installed transformers differs too much from that of "
            "training. Install that version, or train again."
        )
    if told["way"] == bottlenecks.Bottlenecks.name:
        bottlenecks.attach_saved(model, told["settings"], directory)
    else:
        adapters.attach_saved(model, told["way"], directory)
    if model.own_head:
        load_head(model, directory)
    model.adapter = adapter
    return model
