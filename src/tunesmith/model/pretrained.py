"""Pretrained models: found, loaded with the head that a task wants, and loaded again when they were trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.data.tokens import TextEncoder, Truncation
from tunesmith.errors import ModelError, listing
from tunesmith.model.encoder import Encoder
from tunesmith.model.hub import auto_class, explained, load_config, load_tokenizer, quiet
from tunesmith.model.names import Located, cached_hub_models, locate, not_found, why_unreachable
from tunesmith.model.places import is_linear
from tunesmith.model.spec import HeadKind, HeadSpec

# architectures whose position numbers begin behind the padding index, so that the table holds fewer positions than its size
_SHIFTED_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "longformer",
    "roberta-prelayernorm",
    "data2vec-text",
}


@dataclass(frozen=True)
class Pretrained:
    """A model that was found: its configuration and tokenizer are read, its weights not yet."""

    located: Located
    config: Any
    tokenizer: Any

    @property
    def max_length(self) -> int | None:
        """The longest sequence in tokens, None where the architecture sets no limit."""
        return position_limit(self.config)

    @property
    def fallback_token(self) -> int | None:
        """The token that stands for a text without any token."""
        for token in (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self.tokenizer.unk_token_id):
            if token is not None:
                return int(token)
        return None

    def backend_tokenizer(self) -> Any:
        """Return a private copy of the `tokenizers.Tokenizer` behind the transformers tokenizer."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())

    def reader(self, most: int = 256) -> TextEncoder:
        """Return what turns plain texts into sequences for this encoder, cut behind `most` tokens or as many as it takes."""
        length = most if self.max_length is None else min(self.max_length, most)
        return TextEncoder(self.backend_tokenizer(), Truncation("head", length), self.fallback_token)

    def load(
        self,
        head: HeadSpec | None = None,
        *,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        seed: int = 0,
    ) -> Encoder:
        """Load the weights in float32.

        head: take transformers' model with this head, freshly drawn; None takes the bare body (as does an architecture that
            has no such model: see `Encoder.has_head`)
        dropout, attention_dropout: in place of the checkpoint's own; None keeps them
        seed: of every weight that the checkpoint does not have

        Raises `ModelError` when there are no safetensors weights or they do not fit.
        """
        config = self.config
        _set_dropout(config, dropout, attention_dropout)
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        kind = body_of = auto_class(None)
        with_head = auto_class(head.kind) if head is not None and head.kind != "embedding" else None
        if head is not None and with_head is not None and type(config) in with_head._model_mapping:
            kind = with_head
            if head.kind != "masked-lm":
                config.num_labels = head.outputs
            if head.labels:
                config.id2label = dict(enumerate(head.labels))
                config.label2id = {label: i for i, label in enumerate(head.labels)}
            if head.problem_type is not None:
                config.problem_type = head.problem_type
            if hasattr(config, "classifier_pooling"):
                config.classifier_pooling = "cls"
        with quiet(), torch.random.fork_rng(devices=[]), explained(self.located):
            torch.manual_seed(seed)
            hf, report = kind.from_pretrained(
                self.located.place,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            encoder = Encoder(hf, self.tokenizer, kind is not body_of)
            if encoder.has_head and head is not None and head.kind != "masked-lm":
                body = {id(module) for module in encoder.base.modules()}
                for module in hf.modules():
                    if id(module) not in body:
                        draw_again(module, getattr(config, "initializer_range", 0.02))
            if encoder.has_head and head is not None and head.kind == "masked-lm":
                own = {name for name, _ in encoder.base.named_parameters(prefix=encoder.hf.base_model_prefix)}
                encoder.fresh_head = any(name not in own for name in report["missing_keys"])
                if any(".pooler." in f".{name}" for name in report["unexpected_keys"]) and hasattr(encoder.base, "pooler"):
                    # transformers leaves it out here; tasks that are learned on the pretrained encoder need it
                    body = body_of.from_pretrained(self.located.place, config=config, dtype=torch.float32, use_safetensors=True)
                    for part in ("pooler", "pooler_activation"):
                        if hasattr(body, part):
                            setattr(encoder.base, part, getattr(body, part))
        self._check(encoder, report)
        return encoder

    def _check(self, encoder: Encoder, report: dict[str, Any]) -> None:
        """A body with drawn instead of trained weights must not pass for a pretrained one."""
        body = {name for name, _ in encoder.base.named_parameters()}
        prefix = f"{encoder.hf.base_model_prefix}."

        def of_body(name: str) -> bool:
            return name.removeprefix(prefix) in body and ".pooler." not in f".{name}"

        missing = sorted(filter(of_body, report["missing_keys"]))
        if missing:
            raise ModelError(
                f"model {self.located.name!r}: its weights lack {len(missing)} parts of the encoder ({listing(missing, 2)}). "
                "The file is incomplete or of another architecture than its config.json says."
            )
        misfits = sorted((name, list(found), list(wanted)) for name, found, wanted in report["mismatched_keys"] if of_body(name))
        if misfits:
            name, found, wanted = misfits[0]
            raise ModelError(
                f"model {self.located.name!r}: {len(misfits)} of its weights have another shape than its config.json says: {name} is "
                f"{found} where {wanted} is expected. Take config.json and model.safetensors from the same model."
            )


def position_limit(config: Any) -> int | None:
    """Return the longest sequence in tokens that a model of this configuration takes, None where the architecture sets no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    if config.model_type == "mpnet":  # counts from a padding index of its own, whatever the configuration says
        return limit - 2
    if config.model_type in _SHIFTED_POSITIONS:
        return limit - (config.pad_token_id if config.pad_token_id is not None else 0) - 1
    return limit


def open_pretrained(name: str) -> Pretrained:
    """Find the model `name` (a directory, hub name or bundled name) and read its configuration and tokenizer.

    Raises `ModelError` when it is not found or has no fast tokenizer.
    """
    located = locate(name)
    if located.kind == "hub" and name not in cached_hub_models() and (reason := why_unreachable()) is not None:
        raise not_found(name, reason)
    config = load_config(located)
    tokenizer = load_tokenizer(located, config)
    size = getattr(config, "vocab_size", None)
    if isinstance(size, int) and tokenizer.vocab_size > size:
        raise ModelError(
            f"model {name!r}: its tokenizer has {tokenizer.vocab_size:,} tokens but its embedding only {size:,}. They do not fit."
        )
    return Pretrained(located, config, tokenizer)


def load_saved(directory: Path, head: HeadKind | None) -> Encoder:
    """Load what `Encoder.save` wrote, with transformers' head of this kind, or without any, unchanged. Raises `ModelError`."""
    head = None if head == "embedding" else head
    located = Located(str(directory), str(directory), "directory")
    kind = auto_class(head)
    with quiet(), torch.random.fork_rng(devices=[]), explained(located):
        hf, report = kind.from_pretrained(directory, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    # a body taken out of a classification model may lack the pooler, which a head of ours does not use
    missing = sorted(name for name in report["missing_keys"] if head is not None or ".pooler." not in f".{name}")
    if missing:
        raise ModelError(
            f"{directory}: model.safetensors lacks {', '.join(missing[:3])}; it is damaged. Train again, or restore it from a copy."
        )
    return Encoder(hf, load_tokenizer(located, hf.config), head is not None)


def _set_dropout(config: Any, dropout: float | None, attention_dropout: float | None) -> None:
    hidden = (
        "hidden_dropout_prob",
        "dropout",
        "embedding_dropout",
        "mlp_dropout",
        "resid_pdrop",
        "embd_pdrop",
        "hidden_dropout",
        "embed_dropout",
        "classifier_dropout",
        "seq_classif_dropout",
        "classifier_dropout_prob",
        "pooler_dropout",
    )
    attention = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
    for names, value in ((hidden, dropout), (attention, attention_dropout)):
        for name in names:
            # None stands for "as the hidden dropout" in classifier_dropout
            if value is not None and isinstance(getattr(config, name, None), (int, float)):
                setattr(config, name, value)


def draw_again(module: nn.Module, deviation: float) -> bool:
    """Give a module's own parameters fresh values, and return whether it is of a kind for which these are known: linear, or a norm."""
    norm = "norm" in type(module).__name__.lower()
    if not (is_linear(module) or norm) or not isinstance(weight := getattr(module, "weight", None), nn.Parameter):
        return False
    if norm:
        nn.init.ones_(weight)
    else:
        nn.init.normal_(weight, std=deviation)
    if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
        nn.init.zeros_(bias)
    return True
