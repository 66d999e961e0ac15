"""The files that sentence-transformers reads beside those of transformers. No weights are in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_BODY = "sentence_transformers.models"


def write_sentence_transformers(directory: Path, *, bi: bool, width: int, tokenizer: Any) -> None:
    """Make a model directory one that `SentenceTransformer` (`bi`) or `CrossEncoder` opens with the scores that tunesmith gives.

    width: H; tokenizer: transformers', whose `model_max_length` is the longest sequence
    """
    if not bi:
        path = directory / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
        _write(path, config)
        return
    modules = ((f"{_BODY}.Transformer", ""), (f"{_BODY}.Pooling", "1_Pooling"), (f"{_BODY}.Normalize", "2_Normalize"))
    listed = [{"idx": place, "name": str(place), "path": path, "type": kind} for place, (kind, path) in enumerate(modules)]
    _write(directory / "modules.json", listed)
    _write(directory / "sentence_bert_config.json", {"max_seq_length": int(tokenizer.model_max_length), "do_lower_case": False})
    _write(directory / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})
    for _, name in modules[1:]:
        (directory / name).mkdir()
    _write(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True})
    _write(directory / "2_Normalize" / "config.json", {})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
