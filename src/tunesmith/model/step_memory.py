"""How many tokens a training step may hold at once, so that its memory stays under a limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.batches import collate
from tunesmith.model.arithmetic import arithmetic
from tunesmith.model.attention import LONG
from tunesmith.model.heads import TextModel

STEP_BYTES = 2**30
"""What a step may keep for its backward pass on a processor; on a GPU four times as much. The process grows by up to two thirds more:
each layer's gradients, and what a product needs while it runs."""
_TWICE_BEYOND = 4  # a single sequence may take so many times the memory of a step before its layers are computed twice
_OUTPUT_BYTES = 12  # of one output of the head in training: itself, the logarithm of its share and its gradient, in float32
_TRIED = (16, 32, 64)  # tokens of the sequences by which it is found out what a model keeps
_WINDOW = 512  # to which some models pad each sequence by themselves
_MOST = 16_384  # tokens at once, whatever is kept: as many as are computed without training


def bound_memory(model: TextModel, outputs: float, max_length: int, precision: str, told: int | None) -> int:
    """Have the encoder compute very long sequences within bounds, and return how many tokens a training step may hold at once.

    The model must be as it will train: in its mode, with what is frozen.
    outputs: of the head for a token, on average; told: the setting `max_tokens`, which says so itself; else as many as fit, or as one
    sequence may have alone
    """
    encoder, once = model.encoder, 0.0
    if encoder.runs_in_parts and encoder.packed is not None:
        blockwise = not encoder.packed.learns_distances
        a_token = kept_when_packed(encoder.config, min(max_length, LONG) if blockwise else max_length, precision)
    else:
        once, a_token = kept_when_padded(model, max_length, precision)
    limit: float = STEP_BYTES if encoder.device.type == "cpu" else 4 * STEP_BYTES
    limit = max(limit - once, limit / 2)  # copies of a large model's weights are there however few the tokens
    fitting = min(max(int(limit / max(a_token + _OUTPUT_BYTES * outputs, 1)), 1), _MOST)
    # not more for a long `max_length`: its sequences are those that the bound is for
    encoder.most_kept = max(_TWICE_BEYOND * fitting, told or 0)
    return told if told is not None else min(max(max_length, fitting), encoder.most_kept)


def most_judged(outputs: float, max_tokens: int) -> int:
    """Return how many tokens, at most `max_tokens`, have outputs within the limit while a model is judged; outputs: as above."""
    return min(max_tokens, max(int(STEP_BYTES // (8 * outputs)), 1)) if outputs else max_tokens


def kept_when_packed(config: Any, reach: int, precision: str) -> float:
    """Return how many bytes the packed forward keeps of a token for its backward pass.

    config: the encoder's transformers configuration; reach: how many weights of attention are kept for a token
    """
    width = int(config.hidden_size)
    layers = int(getattr(config, "num_hidden_layers", 12))
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * width)
    heads = int(getattr(config, "num_attention_heads", width // 64))
    number = 2 if precision == "bf16" else 4
    # inputs of the products, the activation's both sides and dropout's masks; the two sums that the norms read, in float32
    return layers * (number * (8 * width + 2 * inner + heads * reach) + 8 * width)


def kept_when_padded(model: TextModel, reach: int, precision: str) -> tuple[float, float]:
    """Return how many bytes transformers' own forward keeps once a step, as copies of weights, and of each token of a sequence of `reach`.

    Every architecture keeps something else, DeBERTa some ten numbers for each pair of tokens and head: so short sequences are tried, and of
    what they keep it is told apart what comes with each step, each sequence, each token and each pair.
    """
    lengths = sorted({min(reach, tried) for tried in _TRIED})
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in model.frozen)  # layers may wait that are trained later
        with model.encoder.attention_for_training(reach), torch.random.fork_rng(devices=[]):
            kept = np.array([_kept(model, length, 1, precision) for length in lengths], float)
            once = max(2 * kept[-1] - _kept(model, lengths[-1], 2, precision), 0.0)
            in_windows = len(kept) > 1 and kept[-1] - once < 1.5 * (kept[0] - once)
            if in_windows:
                lengths = [min(reach, _WINDOW)]
                kept = np.array([_kept(model, lengths[0], 1, precision)], float)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
    if in_windows or reach == lengths[-1]:
        return once, float(kept[-1] - once) / lengths[-1]
    a_pair, a_token, a_sequence = np.maximum(np.polyfit(lengths, kept - once, 2), 0)
    return once, float(a_pair * reach + a_token + a_sequence / reach)


def _kept(model: TextModel, length: int, sequences: int, precision: str) -> int:
    encoder = model.encoder
    # which storage it is, not where its numbers lie, which not every device tells
    weights = {parameter.untyped_storage()._cdata for parameter in encoder.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor.detach()  # a layer that keeps its own output would keep itself with it, and never be freed

    tokens = np.resize(np.array(encoder.probe_tokens(length), np.int32), length)
    batch = collate([tokens] * sequences, np.arange(sequences))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), arithmetic(precision, encoder.device), torch.enable_grad():
        hidden = encoder(batch)  # its graph holds what was noted, so that no address is given out twice
    del hidden
    return sum(kept.values())
