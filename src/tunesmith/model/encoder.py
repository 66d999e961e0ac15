"""The only door to transformers: load an encoder, run it on packed tokens, save it as Hugging Face would.

S sequences, T tokens, H width, C outputs.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.data.batches import PackedBatch, collate
from tunesmith.errors import ModelError, listing
from tunesmith.model.names import Located, cached_hub_models, locate, not_found, why_unreachable
from tunesmith.model.spec import HeadKind, HeadSpec


class Encoder(nn.Module):
    """A transformers model behind the packed interface: `[T]` token ids in, `[T, H]` hidden states out.

    hf: the transformers module; its parameters are the ones that are trained and saved
    has_head: `hf` carries transformers' own head for the task
    fresh_head: whether a head of `hf` has weights that are none of the checkpoint's; one that guesses words may come with it
    """

    fresh_head = True

    def __init__(self, hf: nn.Module, tokenizer: Any, has_head: bool) -> None:
        super().__init__()
        self.hf: Any = hf
        self.tokenizer = tokenizer
        self.has_head = has_head

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.hf.config

    @property
    def base(self) -> Any:
        """The body without a task head."""
        return getattr(self.hf, self.hf.base_model_prefix, self.hf) if self.has_head else self.hf

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    @functools.cached_property
    def is_decoder(self) -> bool:
        """Whether tokens see only what stands before them, so that the last token speaks for the text.

        Found by trying: a first token that does not notice its successor. Raises `ModelError` when the model runs on
        no token ids alone (an encoder-decoder such as T5).
        """
        training = self.training
        self.eval()
        try:
            first, second, third = self.probe_tokens(3)
            with torch.no_grad():
                hidden = self(collate([np.array(ids, np.int32) for ids in ([first, second], [first, third])], np.arange(2)))
        except Exception as error:
            raise ModelError(
                f"a model of type {self.config.model_type!r} cannot be run as a text encoder: {str(error).strip()[:200]}. "
                "Choose an encoder (BERT, RoBERTa, DeBERTa, ModernBERT, ...) or a decoder (GPT-2, Llama, ...)."
            ) from error
        finally:
            self.train(training)
        return bool(torch.allclose(hidden[0], hidden[2], atol=1e-5))

    def probe_tokens(self, count: int) -> list[int]:
        """Return different token ids to try the model with; none is the padding."""
        return [token for token in range(min(int(self.config.vocab_size), count + 3)) if token != self.pad_id][-count:]

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return hidden states float[T, H] for the packed tokens, by padding, running the original and packing again."""
        lengths = torch.from_numpy(batch.lengths.astype("int64"))
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        padded = torch.full(mask.shape, self.pad_id, dtype=torch.long)
        padded[mask] = torch.from_numpy(batch.ids.astype("int64"))
        hidden = self.base(input_ids=padded, attention_mask=mask.long(), **self.segments(batch, mask))[0]
        return hidden[mask]

    def segments(self, batch: PackedBatch, mask: Tensor) -> dict[str, Tensor]:
        """Return `token_type_ids`, int64 like `mask`, for a batch of pairs and an encoder that tells segments apart; else nothing."""
        if batch.borders is None or not self._tells_segments_apart:
            return {}
        border = torch.from_numpy(batch.borders.astype("int64"))
        return {"token_type_ids": ((torch.arange(mask.shape[1])[None, :] >= border[:, None]) & mask).long()}

    @functools.cached_property
    def _tells_segments_apart(self) -> bool:
        """Whether transformers would give this model segment ids that say anything."""
        return (
            getattr(self.config, "type_vocab_size", 0) > 1
            and "token_type_ids" in self.tokenizer.model_input_names
            and "token_type_ids" in inspect.signature(self.base.forward).parameters
        )

    @property
    def pad_id(self) -> int:
        """The token id that fills padded places; any id will do where the checkpoint names none, as they are masked."""
        pad = getattr(self.config, "pad_token_id", None)
        return pad if pad is not None else 0

    @contextlib.contextmanager
    def attention_for_training(self, max_length: int) -> Iterator[None]:
        """Within the block, use the attention that trains fastest on the processor for sequences up to `max_length` tokens.

        Plain matrix products (`eager`) are faster than the fused kernel's backward pass up to about 256 tokens; beyond that
        their memory, which grows with the square of the length, weighs more. Outside the block the checkpoint's own
        attention runs, as in every program that loads the saved directory.
        """
        usual = getattr(self.config, "_attn_implementation", None)
        if usual != "sdpa" or max_length > 256:
            yield
            return
        self.hf.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.hf.set_attn_implementation(usual)

    def save(self, directory: Path) -> None:
        """Write configuration, safetensors weights and tokenizer files into `directory`."""
        with _quiet():
            self.hf.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)


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
        limit = getattr(self.config, "max_position_embeddings", None)
        if not isinstance(limit, int) or limit < 1:
            return None
        if self.config.model_type == "mpnet":  # counts from a padding index of its own, whatever the configuration says
            return limit - 2
        if self.config.model_type in _SHIFTED_POSITIONS:
            return limit - (self.config.pad_token_id if self.config.pad_token_id is not None else 0) - 1
        return limit

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
        from transformers import AutoModel

        config = self.config
        _set_dropout(config, dropout, attention_dropout)
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        kind: Any = AutoModel
        with_head = _auto_class(head.kind) if head is not None and head.kind != "embedding" else None
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
        with _quiet(), torch.random.fork_rng(devices=[]), _explained(self.located):
            torch.manual_seed(seed)
            hf, report = kind.from_pretrained(
                self.located.place,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            encoder = Encoder(hf, self.tokenizer, kind is not AutoModel)
            if encoder.has_head and head is not None and head.kind != "masked-lm":
                body = {id(module) for module in encoder.base.modules()}
                for module in hf.modules():
                    if id(module) not in body:
                        _draw_again(module, getattr(config, "initializer_range", 0.02))
            if encoder.has_head and head is not None and head.kind == "masked-lm":
                own = {name for name, _ in encoder.base.named_parameters(prefix=encoder.hf.base_model_prefix)}
                encoder.fresh_head = any(name not in own for name in report["missing_keys"])
                if any(".pooler." in f".{name}" for name in report["unexpected_keys"]) and hasattr(encoder.base, "pooler"):
                    # transformers leaves it out here; tasks that are learned on the pretrained encoder need it
                    body = AutoModel.from_pretrained(self.located.place, config=config, dtype=torch.float32, use_safetensors=True)
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


def open_pretrained(name: str) -> Pretrained:
    """Find the model `name` (a directory, hub name or bundled name) and read its configuration and tokenizer.

    Raises `ModelError` when it is not found or has no fast tokenizer.
    """
    located = locate(name)
    if located.kind == "hub" and name not in cached_hub_models() and (reason := why_unreachable()) is not None:
        raise not_found(name, reason)
    config = _load_config(located)
    tokenizer = _load_tokenizer(located, config)
    size = getattr(config, "vocab_size", None)
    if isinstance(size, int) and tokenizer.vocab_size > size:
        raise ModelError(
            f"model {name!r}: its tokenizer has {tokenizer.vocab_size:,} tokens but its embedding only {size:,}. They do not fit."
        )
    return Pretrained(located, config, tokenizer)


def load_saved(directory: Path, head: HeadKind | None) -> Encoder:
    """Load what `Encoder.save` wrote, with transformers' head of this kind, or without any, unchanged. Raises `ModelError`."""
    from transformers import AutoModel

    head = None if head == "embedding" else head
    located = Located(str(directory), str(directory), "directory")
    kind = _auto_class(head) if head is not None else AutoModel
    with _quiet(), torch.random.fork_rng(devices=[]), _explained(located):
        hf, report = kind.from_pretrained(directory, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    # a body taken out of a classification model may lack the pooler, which a head of ours does not use
    missing = sorted(name for name in report["missing_keys"] if head is not None or ".pooler." not in f".{name}")
    if missing:
        raise ModelError(
            f"{directory}: model.safetensors lacks {', '.join(missing[:3])}; it is damaged. Train again, or restore it from a copy."
        )
    return Encoder(hf, _load_tokenizer(located, hf.config), head is not None)


def _auto_class(head: HeadKind) -> Any:
    """Return transformers' factory of models with this head."""
    import transformers

    names = {
        "sequence-classification": "AutoModelForSequenceClassification",
        "token-classification": "AutoModelForTokenClassification",
        "question-answering": "AutoModelForQuestionAnswering",
        "masked-lm": "AutoModelForMaskedLM",
    }
    return getattr(transformers, names[head])


def save_new_bert(
    directory: Path, tokenizer: Any, special: dict[str, str], *, layers: int, width: int, heads: int, positions: int, seed: int
) -> None:
    """Write a BERT of this size with freshly drawn weights, and its tokenizer, as a Hugging Face directory.

    tokenizer: `tokenizers.Tokenizer`; special: transformers' names of its special tokens, such as mask_token; positions: longest sequence
    """
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    with _quiet(), torch.random.fork_rng(devices=[]):
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


def _load_config(located: Located) -> Any:
    from transformers import AutoConfig

    with _quiet(), _explained(located):
        return AutoConfig.from_pretrained(located.place)


def _load_tokenizer(located: Located, config: Any) -> Any:
    from transformers import AutoTokenizer

    with _quiet(), _explained(located):
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
