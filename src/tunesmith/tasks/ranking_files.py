"""The files that sentence-transformers reads beside those of transformers to open a bi-encoder. No weights are in them.

A cross-encoder needs none: `CrossEncoder` opens any classifier with one output, and applies the logistic function.
"""

from __future__ import annotations

from typing import Any

_BODY = "sentence_transformers.models"


def sentence_transformers_files(width: int, max_length: int) -> dict[str, Any]:
    """Return the content of each file, by its path, for the mean of the hidden states, scaled to length 1.

    width: H; max_length: longest sequence in tokens
    """
    modules = ((f"{_BODY}.Transformer", ""), (f"{_BODY}.Pooling", "1_Pooling"), (f"{_BODY}.Normalize", "2_Normalize"))
    return {
        "modules.json": [{"idx": place, "name": str(place), "path": path, "type": kind} for place, (kind, path) in enumerate(modules)],
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
        "2_Normalize/config.json": {},
    }
