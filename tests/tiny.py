"""Tiny encoders with random weights, and small labelled tables that they can learn: made in memory, no network, no downloads."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tunesmith.data.batches import PackedBatch
from tunesmith.model.spec import HeadSpec

COLOURS = ["red", "blue", "green", "yellow", "white", "black"]
ANIMALS = ["cat", "dog", "horse", "mouse", "bird", "fish"]
FILLER = ["the", "a", "very", "little", "big", "old", "new", "and", "with", "near", "over", "house", "tree", "river", "road", "day"]
ANSWERED = [  # passages and answers in scripts and with characters that are easily cut wrongly
    ("Она жила в Москве.", "Москве"),
    ("בירת ישראל היא ירושלים", "ירושלים"),
    ("هي تعيش في القاهرة الكبرى", "القاهرة"),
    ("人民广场在上海市中心", "上海"),
    ("the fox 🦊 and the 👩‍👩‍👧 family", "🦊"),
    ("I like cafe\u0301 noir", "cafe\u0301"),
    ("naïve Ünder Straße", "Ünder"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*COLOURS, *ANIMALS, *FILLER, *"abcdefghijklmnopqrstuvwxyz", *[f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"], *".,!?"]

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZE,
    "roberta": {**SIZE, "max_position_embeddings": 65},
    "xlm-roberta": {**SIZE, "max_position_embeddings": 65},
    "camembert": {**SIZE, "max_position_embeddings": 65},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "electra": {**SIZE, "embedding_size": 16},
    "deberta-v2": {**SIZE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "pooler_hidden_size": 32},
    "modernbert": {**SIZE, "global_attn_every_n_layers": 2, "local_attention": 16},
    "mpnet": {**SIZE, "max_position_embeddings": 65},
    "albert": {**SIZE, "embedding_size": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


def tokenizer(special: bool = True) -> Tokenizer:
    """Return a WordPiece tokenizer over a small English vocabulary, with [CLS] and [SEP] when `special`."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    result = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer(lowercase=True)
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        pair = [("[CLS]", 2), ("[SEP]", 3)]
        result.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", pair)
    return result


def byte_level() -> Tokenizer:
    """As RoBERTa's: a space belongs to the word behind it, and a character may have several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return tokenizer


def labelled(labels: Sequence[str], **settings: Any) -> HeadSpec:
    """Return a head for one of `labels` a row."""
    return HeadSpec("sequence-classification", len(labels), tuple(labels), settings.get("problem_type", "single_label_classification"))


def targets_only(targets: torch.Tensor) -> PackedBatch:
    """Return a batch of which a loss needs nothing but the targets."""
    size = len(targets)
    return PackedBatch(np.zeros(size, np.int32), np.arange(size + 1, dtype=np.int32), np.arange(size), size, targets.numpy())


def save_encoder(directory: Path, architecture: str = "bert", seed: int = 0) -> Path:
    """Write a random encoder of the architecture, with tokenizer, as a Hugging Face directory."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    decoder = architecture == "gpt2"
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = AutoConfig.for_model(architecture, vocab_size=len(SPECIAL) + len(WORDS), **ids, **ARCHITECTURES[architecture])
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    model.save_pretrained(directory)
    names: dict[str, Any] = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    names |= {"eos_token": "[SEP]", "bos_token": "[CLS]"} if decoder else {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    if architecture in ("bert", "electra", "deberta-v2", "albert"):
        names["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    if decoder:
        names.pop("pad_token")  # as GPT-2's own
    PreTrainedTokenizerFast(tokenizer_object=tokenizer(special=not decoder), **names).save_pretrained(directory)
    return directory


def rows(count: int, seed: int = 0, labels: Sequence[str] = ("animal", "colour")) -> list[dict[str, str]]:
    """Return rows of text and label: a text about an animal or a colour (and, with a third label, neither)."""
    generator = random.Random(seed)
    vocabulary = {"animal": ANIMALS, "colour": COLOURS, "neither": FILLER}
    result = []
    for i in range(count):
        label = labels[i % len(labels)]
        words = [generator.choice(FILLER) for _ in range(generator.randint(2, 12))]
        words.insert(generator.randint(0, len(words)), generator.choice(vocabulary[label]))
        words.append(generator.choice(vocabulary[label]))
        result.append({"text": " ".join(words), "label": label})
    return result


def write_csv(path: Path, table: Iterable[dict[str, Any]]) -> Path:
    """Write rows as CSV."""
    table = list(table)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path
