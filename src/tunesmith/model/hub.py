"""The only door to transformers: its factories, its files, and its talk kept from the user's terminal."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ModelError
from tunesmith.model.names import Located, not_found
from tunesmith.model.spec import HeadKind


def auto_class(head: HeadKind | None) -> Any:
    """Return transformers' factory of models with this head, or of bare bodies."""
    import transformers

    names = {
        "sequence-classification": "AutoModelForSequenceClassification",
        "token-classification": "AutoModelForTokenClassification",
        "question-answering": "AutoModelForQuestionAnswering",
        "masked-lm": "AutoModelForMaskedLM",
    }
    return transformers.AutoModel if head is None else getattr(transformers, names[head])


def load_config(located: Located) -> Any:
    """Return the configuration of a model that was found. Raises `ModelError`."""
    from transformers import AutoConfig

    with quiet(), explained(located):
        return AutoConfig.from_pretrained(located.place)


def load_tokenizer(located: Located, config: Any) -> Any:
    """Return its fast tokenizer, with a padding token. Raises `ModelError`."""
    from transformers import AutoTokenizer

    with quiet(), explained(located):
        tokenizer = AutoTokenizer.from_pretrained(located.place)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"model {located.name!r} has no tokenizer.json (a fast tokenizer); save one with tokenizers or choose another model."
        )
    if tokenizer.pad_token is None:
        # a decoder of transformers finds a text's last token by the padding token of its configuration: it must be the same one
        pad = getattr(config, "pad_token_id", None)
        if pad is not None and 0 <= pad < len(tokenizer):
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        else:
            tokenizer.pad_token = tokenizer.eos_token if tokenizer.eos_token is not None else tokenizer.unk_token
    return tokenizer


def save_new_bert(
    directory: Path, tokenizer: Any, special: dict[str, str], *, layers: int, width: int, heads: int, positions: int, seed: int
) -> None:
    """Write a BERT of this size with freshly drawn weights, and its tokenizer, as a Hugging Face directory.

    tokenizer: `tokenizers.Tokenizer`; special: transformers' names of its special tokens, such as mask_token; positions: longest sequence
    """
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=positions,
            pad_token_id=tokenizer.token_to_id(special["pad_token"]),
        )
        BertForMaskedLM(config).save_pretrained(directory)
        names = ["input_ids", "token_type_ids", "attention_mask"]
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, model_max_length=positions, **special).save_pretrained(
            directory
        )


def versions() -> dict[str, str]:
    """Return the versions that a report names."""
    import platform

    import tokenizers
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "python": platform.python_version(),
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' load report, progress bars and warnings from the user's terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def explained(located: Located) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be had into a `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300]
        if located.kind == "hub":
            raise not_found(located.name, reason) from error
        if type(error).__name__ == "SafetensorError":
            raise ModelError(
                f"{located.place}: its safetensors weights are damaged or cut short ({reason}). Copy or download them again."
            ) from error
        if "safetensors" in reason.lower() or "pytorch_model" in reason:
            raise ModelError(
                f"{located.place}: no readable model.safetensors ({reason}). Pickled weights (.bin) are never read, as they can run code; "
                "convert them with transformers' save_pretrained on a machine that you trust."
            ) from error
        raise ModelError(f"the model in {located.place} cannot be loaded: {type(error).__name__}: {reason}") from error
