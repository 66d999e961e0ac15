"""A head with more outputs than it was trained with: what it knows keeps its place and its weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.model.heads import TextModel, last_layer


def grow_outputs(model: TextModel, labels: Sequence[str], *, seed: int, bias: np.ndarray | None = None) -> int:
    """Give `model` an output for each of `labels`, whose first are those that it has; return how many are new.

    The rows of the old outputs are copied to the bit, those of new ones drawn from a normal distribution as at the beginning of a
    training, with bias 0, or that of `bias` float[C]. The configuration names all labels.
    seed: of the new weights
    Raises `ModelError` when the layer of the outputs cannot be found.
    """
    old = last_layer(model)
    known, wanted = old.out_features, len(labels)
    if known > wanted:
        raise ModelError(f"the model has {known} outputs, which cannot become {wanted}.")
    config = model.encoder.config
    if model.loads_in_transformers:
        config.num_labels = wanted
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        if hasattr(model.encoder.hf, "num_labels"):
            model.encoder.hf.num_labels = wanted
    if known == wanted:
        return 0
    holder, name = next(
        ((module, name) for module in model.modules() for name, child in module.named_children() if child is old), (None, "")
    )
    if holder is None:
        raise ModelError("the layer that gives the outputs of this model cannot be found, so no label can be added.")
    new = nn.Linear(old.in_features, wanted, bias=old.bias is not None)
    deviation = float(getattr(config, "initializer_range", 0.02))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nn.init.normal_(new.weight, std=deviation)
        new.weight[:known] = old.weight
        if old.bias is not None:
            new.bias.zero_()
            if bias is not None:
                new.bias[:] = torch.from_numpy(bias)
            new.bias[:known] = old.bias
    setattr(holder, name, new)
    return wanted - known
