"""The only door to transformers: load an encoder, run it on packed tokens, save it as Hugging Face would.

S sequences, T tokens, H width, C outputs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.data.batches import PackedBatch
from tunesmith.errors import ModelError
from tunesmith.model.names import Located, locate, not_found


class Encoder(nn.Module):
    """A transformers model behind the packed interface: `[T]` token ids in, `[T, H]` hidden states out.

    hf: the transformers module; its parameters are the ones that are trained and saved
    has_classifier: `hf` carries transformers' own sequence-classification head
    """

    def __init__(self, hf: nn.Module, tokenizer: Any, has_classifier: bool) -> None:
        super().__init__()
        self.hf: Any = hf
        self.tokenizer = tokenizer
        self.has_classifier = has_classifier

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.hf.config

    @property
    def base(self) -> Any:
        """The body without a task head."""
        return getattr(self.hf, self.hf.base_model_prefix, self.hf) if self.has_classifier else self.hf

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    @property
    def is_decoder(self) -> bool:
        """Whether tokens see only what stands before them, so that the last token speaks for the text."""
        return self.has_classifier and hasattr(self.hf, "score")

    @property
    def max_length(self) -> int | None:
        """The longest sequence in tokens, None where the architecture sets no limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        if not isinstance(limit, int) or limit < 1:
            return None
        positions = getattr(getattr(self.base, "embeddings", None), "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        # RoBERTa and its kin number positions from the padding index on
        return limit - padding - 1 if padding is not None else limit

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return hidden states float[T, H] for the packed tokens, by padding, running the original and packing again."""
        lengths = torch.from_numpy(batch.lengths.astype("int64"))
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        padded = torch.full(mask.shape, self.pad_id, dtype=torch.long)
        padded[mask] = torch.from_numpy(batch.ids.astype("int64"))
        hidden = self.base(input_ids=padded, attention_mask=mask.long())[0]
        return hidden[mask]

    @property
    def pad_id(self) -> int:
        """The token id that fills padded places; any id will do where the checkpoint names none, as they are masked."""
        pad = getattr(self.config, "pad_token_id", None)
        return pad if pad is not None else 0

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

    def save(self, directory: Path) -> None:
        """Write configuration, safetensors weights and tokenizer files into `directory`."""
        with _quiet():
            self.hf.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)


def load_encoder(name: str, *, labels: list[str] | None = None, multi_label: bool = False, dropout: float | None = None,
                 attention_dropout: float | None = None, seed: int = 0) -> Encoder:  # fmt: skip
    """Load an encoder in float32.

    name: directory, hub name or bundled name
    labels: take transformers' sequence-classification model with these outputs and a freshly drawn head;
        None takes the bare body (as does an architecture that has no such model: see `Encoder.has_classifier`)
    dropout, attention_dropout: in place of the checkpoint's own; None keeps them
    seed: of every weight that the checkpoint does not have

    Raises `ModelError` when it is not found, not safetensors, or has no fast tokenizer.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    located = locate(name)
    config, tokenizer = _load_config(located), _load_tokenizer(located)
    _set_dropout(config, dropout, attention_dropout)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    kind = AutoModel
    if labels is not None and type(config) in AutoModelForSequenceClassification._model_mapping:
        kind = AutoModelForSequenceClassification
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        config.problem_type = "multi_label_classification" if multi_label else "single_label_classification"
        if hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "cls"
    with _quiet(), torch.random.fork_rng(devices=[]), _explained(located):
        torch.manual_seed(seed)
        hf = kind.from_pretrained(located.place, config=config, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True)
        encoder = Encoder(hf, tokenizer, kind is AutoModelForSequenceClassification)
        if encoder.has_classifier:
            body = {id(module) for module in encoder.base.modules()}
            for module in hf.modules():
                if id(module) not in body:
                    _draw_again(module, getattr(config, "initializer_range", 0.02))
    return encoder


def load_saved(directory: Path, has_classifier: bool) -> Encoder:
    """Load what `Encoder.save` wrote, head included, unchanged. Raises `ModelError`."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    located = Located(str(directory), str(directory), "directory")
    kind = AutoModelForSequenceClassification if has_classifier else AutoModel
    with _quiet(), _explained(located):
        hf, report = kind.from_pretrained(directory, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"{directory}: model.safetensors lacks {', '.join(missing[:3])}; the directory is damaged. Train again, or restore it from a copy.")
    return Encoder(hf, _load_tokenizer(located), has_classifier)


def _load_config(located: Located) -> Any:
    from transformers import AutoConfig

    with _quiet(), _explained(located):
        return AutoConfig.from_pretrained(located.place)


def _load_tokenizer(located: Located) -> Any:
    from transformers import AutoTokenizer

    with _quiet(), _explained(located):
        tokenizer = AutoTokenizer.from_pretrained(located.place)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"model {located.name!r} has no tokenizer.json (a fast tokenizer); save one with tokenizers or choose another model.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token if tokenizer.eos_token is not None else tokenizer.unk_token
    return tokenizer


def _set_dropout(config: Any, dropout: float | None, attention_dropout: float | None) -> None:
    hidden = ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout", "resid_pdrop", "embd_pdrop", "hidden_dropout", "embed_dropout",
              "classifier_dropout", "seq_classif_dropout", "classifier_dropout_prob", "pooler_dropout")  # fmt: skip
    attention = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
    for names, value in ((hidden, dropout), (attention, attention_dropout)):
        for name in names:
            # None stands for "as the hidden dropout" in classifier_dropout
            if value is not None and isinstance(getattr(config, name, None), (int, float)):
                setattr(config, name, value)


def _draw_again(module: nn.Module, deviation: float) -> None:
    """Give a head's own parameters fresh values: a head left over from another task must not be taken for this one's."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
def _explained(located: Located) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be had into a `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300]
        if located.kind == "hub":
            raise not_found(located.name, reason) from error
        if "safetensors" in reason.lower() or "pytorch_model" in reason:
            raise ModelError(
                f"{located.place}: no readable model.safetensors ({reason}). Pickled weights (.bin) are never read, as they can run code; "
                "convert them with transformers' save_pretrained on a machine that you trust."
            ) from error
        raise ModelError(f"the model in {located.place} cannot be loaded: {type(error).__name__}: {reason}") from error
