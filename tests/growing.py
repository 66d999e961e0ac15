"""How much a process grows by a training step of as many tokens as `bound_memory` lets it hold: a program, as memory is a process's own.

    python growing.py LIMIT_MB

prints a line of JSON for each encoder: its name, the bytes by which the process grew at most, the limit, the tokens of the step, and
beyond how many layers are computed twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from tunesmith.data.batches import collate
from tunesmith.model import step_memory
from tunesmith.model.allocator import keep_freed_memory
from tunesmith.model.arithmetic import arithmetic, float32_products
from tunesmith.model.encoder import Encoder
from tunesmith.model.heads import TextModel
from tunesmith.model.masked_head import CheckpointMaskedHead

SIZE = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 768, "pad_token_id": 0}
CASES: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "packed": ("bert", "fp32", 256, 1000, {}),
    "packed, bf16": ("bert", "bf16", 256, 1000, {}),
    "packed, guessing words": ("bert", "fp32", 64, 30_000, {}),
    "packed, one long text": ("bert", "fp32", 2600, 1000, {}),
    "padded": ("deberta-v2", "fp32", 256, 1000, {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 64}),
    "padded, bf16": ("modernbert", "bf16", 64, 1000, {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}),
    "padded, one long text": ("gpt2", "fp32", 1000, 1000, {"bos_token_id": 1, "eos_token_id": 1}),
}
"""Architecture, precision, length of the texts, size of the vocabulary."""


class Names:
    """As much of a tokenizer as an encoder asks for here."""

    model_input_names = ("input_ids", "attention_mask")


def peak() -> int:
    """Return the most memory that the process had so far, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def step(model: TextModel, length: int, tokens: int, precision: str, masked: bool) -> None:
    """Run forwards and backwards with texts of `length` tokens."""
    encoder, generator = model.encoder, np.random.default_rng(0)
    count = max(tokens // length, 1)
    batch = collate([generator.integers(5, encoder.config.vocab_size, length, np.int32) for _ in range(count)], np.arange(count))
    with float32_products(precision, encoder.device):
        with arithmetic(precision, encoder.device):
            found = encoder(batch)
        if masked:
            places = np.flatnonzero(generator.random(len(batch.ids)) < 0.15).astype(np.int32)
            found = model.head(found, dataclasses.replace(batch, points=places))
            gold = torch.from_numpy(batch.ids[places].astype(np.int64))
            torch.nn.functional.cross_entropy(found, gold, reduction="none").sum().backward()
        else:
            found.square().mean().backward()


def grown(name: str) -> dict[str, Any]:
    """Build an encoder, take a small step and one as large as may be, and return what that took."""
    kind, precision, length, vocabulary, more = CASES[name]
    masked = "guessing" in name
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, max_position_embeddings=length + 8, **SIZE, **more)
    encoder = Encoder((AutoModelForMaskedLM if masked else AutoModel).from_config(config), Names(), masked)
    model = TextModel(encoder, CheckpointMaskedHead(encoder) if masked else torch.nn.Identity()).train()
    tokens = step_memory.bound_memory(model, 0.15 * vocabulary if masked else 0, length, precision, None)
    with encoder.attention_for_training(length):
        step(model, 16, 64, precision, masked)
        before = peak()
        step(model, length, tokens, precision, masked)
    return {
        "name": name,
        "length": length,
        "grown": peak() - before,
        "limit": step_memory.STEP_BYTES,
        "tokens": tokens,
        "most_kept": encoder.most_kept,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    step_memory.STEP_BYTES = int(sys.argv[1]) * 2**20
    keep_freed_memory()
    for case in CASES:
        sys.stdout.flush()
        if not os.fork():  # memory of its own, and no more imports
            print(json.dumps(grown(case)), flush=True)
            os._exit(0)
        if os.wait()[1]:
            sys.exit(f"{case} failed")
