"""Having an encoder compute on another device, after a trial there."""

from __future__ import annotations

import numpy as np
import torch

from tunesmith.data.batches import collate
from tunesmith.errors import ModelError, setting
from tunesmith.model.adapted import own_base, share_base
from tunesmith.model.arithmetic import arithmetic
from tunesmith.model.chance import without_dropout
from tunesmith.model.encoder import Encoder
from tunesmith.model.heads import TextModel

_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}  # of the hidden states' norm; bf16 keeps 8 bits of each number, through all layers


def move(model: Encoder | TextModel, device: torch.device, precision: str) -> None:
    """Have `model` compute on `device`, after a trial there.

    Drivers, cards and kernels are of many kinds. So a few tokens are run in both places first, in `precision` on the device, and an
    encoder whose hidden states differ by more than rounding raises `ModelError`: a wrong result is not to be found out after training.
    """
    encoder = model if isinstance(model, Encoder) else model.encoder
    if device == encoder.device:
        return
    tokens = np.array(encoder.probe_tokens(5), np.int32)
    batch = collate([tokens, tokens[:2], tokens[:1]], np.arange(3))
    shared = encoder.shared
    names = own_base(encoder)
    with torch.no_grad(), without_dropout(model):
        with arithmetic("fp32", encoder.device):
            right = encoder(batch).float().cpu()
        try:
            model.to(device)
            with arithmetic(precision, device):
                found = encoder(batch).float().cpu()
        except RuntimeError as error:  # no kernel for this card, no memory left on it, a driver too old
            raise ModelError(
                f"this encoder does not run on {device}: {str(error).strip().splitlines()[0][:200]}. Take {setting('device', 'cpu')}."
            ) from error
    if shared is not None:
        share_base(encoder, shared.digest, names)
    off = float((found - right).norm() / right.norm())
    if not off <= _TOLERANCE[precision]:
        raise ModelError(
            f"on {device} this encoder gives other hidden states than on the processor (they differ by {off:.1%}). "
            f"Take {setting('device', 'cpu')}, or {setting('precision', 'fp32')} if that was not taken; a newer driver may help."
        )
