"""An encoder behind the packed interface: run on packed tokens, saved as Hugging Face would.

S sequences, T tokens, H width, C outputs.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.data.batches import PackedBatch, collate
from tunesmith.errors import ModelError, setting
from tunesmith.model.chance import without_dropout
from tunesmith.model.devices import CPU, indices, to_device
from tunesmith.model.hub import quiet
from tunesmith.model.packed import LAYERS, Packed

if TYPE_CHECKING:
    from tunesmith.model.soft_prompts import VirtualTokens

Tokens = Literal["all", "first", "last"]
_ROUNDING = 1e-4  # of the norm of hidden states in float32


class Encoder(nn.Module):
    """A transformers model behind the packed interface: `[T]` token ids in, `[T, H]` hidden states out.

    hf: the transformers module; its parameters are the ones that are trained and saved
    has_head: `hf` carries transformers' own head for the task
    engine: `packed`, `padded`, or `auto`: packed where the architecture allows it
    most_kept: where a sequence has more tokens, layers' inner values are not kept for the backward pass but computed again; None for never
    fresh_head: whether a head of `hf` has weights that are none of the checkpoint's; one that guesses words may come with it
    """

    fresh_head = True
    engine = "auto"
    most_kept: int | None = None
    shared: Any = None
    _as_transformers: bool | None = None

    def __init__(self, hf: nn.Module, tokenizer: Any, has_head: bool) -> None:
        super().__init__()
        self.hf: Any = hf
        self.tokenizer = tokenizer
        self.has_head = has_head
        self.virtual: VirtualTokens | None = None
        """Tokens before each sequence that no text has."""

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.hf.config

    @property
    def base(self) -> Any:
        """The body without a task head."""
        return getattr(self.hf, self.hf.base_model_prefix, self.hf) if self.has_head else self.hf

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return next(self.parameters()).device

    @property
    def form(self) -> str:
        """What of the configuration, beside the weights, decides the outputs without dropout, in words for a digest."""
        told = {name: value for name, value in self.config.to_dict().items() if name not in _OF_NO_OUTPUT and "drop" not in name}
        return repr([sorted((name, repr(value)) for name, value in told.items()), self.tells_segments_apart])

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
        try:
            first, second, third = self.probe_tokens(3)
            with torch.no_grad(), without_dropout(self):
                hidden = self(collate([np.array(ids, np.int32) for ids in ([first, second], [first, third])], np.arange(2)))
        except Exception as error:
            raise ModelError(
                f"a model of type {self.config.model_type!r} cannot be run as a text encoder: {str(error).strip()[:200]}. "
                "Choose an encoder (BERT, RoBERTa, DeBERTa, ModernBERT, ...) or a decoder (GPT-2, Llama, ...)."
            ) from error
        return bool(torch.allclose(hidden[0], hidden[2], atol=1e-5))

    def probe_tokens(self, count: int) -> list[int]:
        """Return different token ids to try the model with; none is the padding."""
        return [token for token in range(min(int(self.config.vocab_size), count + 3)) if token != self.pad_id][-count:]

    def forward(self, batch: PackedBatch, tokens: Tokens = "all") -> Tensor:
        """Return hidden states float[T, H] for the packed tokens: by the fast forward where there is one for the architecture.

        tokens: `first` or `last`: only those of each sequence's first or last token, float[S, H]; the fast forward then leaves out
        what the others would need in its last layer
        """
        return self._run(batch, tokens) if self.virtual is None else self.virtual.run(self._run, batch, tokens, self.device)

    def _run(self, batch: PackedBatch, tokens: Tokens = "all") -> Tensor:
        if self.runs_in_parts and tokens != "last":
            assert self.packed is not None
            return self.packed(batch, self.token_segments(batch), only_first=tokens == "first", again=self._again(batch))
        hidden = self.padded(batch)
        if tokens == "all":
            return hidden
        ends = indices(batch.cu_seqlens, self.device)
        return hidden[ends[:-1] if tokens == "first" else ends[1:] - 1]

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return int(self.config.num_hidden_layers)

    @property
    def runs_in_parts(self) -> bool:
        """Whether `below` and `above` can be called: with the fast forward alone."""
        return self.packed is not None and self.engine != "padded"

    def below(self, batch: PackedBatch, layers: int) -> Tensor:
        """Return hidden states float[T, H] behind the lowest `layers` layers, at least none and fewer than all."""
        assert self.packed is not None
        return self.packed(batch, self.token_segments(batch), layers=slice(layers))

    def above(self, hidden: Tensor, batch: PackedBatch, layers: int, tokens: Tokens = "all") -> Tensor:
        """Return what `forward` would with `hidden`, float[T, H] from `below`: the other layers run."""
        assert self.packed is not None and tokens != "last"
        again = self._again(batch)
        return self.packed(batch, None, only_first=tokens == "first", start=hidden, layers=slice(layers, None), again=again)

    def _again(self, batch: PackedBatch) -> bool:
        return torch.is_grad_enabled() and self.most_kept is not None and int(batch.lengths.max()) > self.most_kept

    @functools.cached_property
    def packed(self) -> Packed | None:
        """The fast forward, None where the architecture has none, and where transformers computes otherwise."""
        found = Packed.of(self.base)
        if found is not None and self._as_transformers is None and self.virtual is None:
            # keys and values of virtual tokens are none that transformers' own forward counts with
            self._as_transformers = self._gives_the_same(found)
        return None if self._as_transformers is False else found

    def _gives_the_same(self, packed: Packed) -> bool:
        """Whether a few tokens get the hidden states that transformers gives them. A later version may compute otherwise."""
        tokens = np.array(self.probe_tokens(5), np.int32)
        borders = np.array([3, 1, 1], np.int32) if self.tells_segments_apart else None
        batch = collate([tokens, tokens[:2], tokens[:1]], np.arange(3), borders=borders)
        with torch.no_grad(), without_dropout(self), torch.autocast(self.device.type, enabled=False):
            right, found = self.padded(batch), packed(batch, self.token_segments(batch))
        return not float((found - right).norm()) > _ROUNDING * float(right.norm())  # weights that are no numbers tell nothing

    def choose_engine(self, wanted: str, device: torch.device = CPU, precision: str = "fp32") -> str:
        """Set how the encoder runs, and return in words how it will on `device` in `precision`, and why.

        Raises `ModelError` for `packed` where that cannot be.
        """
        self.engine = wanted
        if wanted == "padded":
            return "padded batches, as asked for"
        if self.packed is not None:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            return f"packed tokens without padding, attention by {self.packed.attention(device, dtype)}"
        reason = f"models of type {self.config.model_type!r} have no packed forward here"
        known = f"; those of type {', '.join(sorted(LAYERS))} have one"
        if self.config.model_type in LAYERS:
            reason, known = "the packed forward here does not give what the installed transformers computes for this model", ""
        if wanted == "packed":
            raise ModelError(f"{reason}{known}. Train with {setting('engine', 'auto')}.")
        return f"padded batches: {reason}"

    def padded(self, batch: PackedBatch) -> Tensor:
        """Return hidden states float[T, H] for the packed tokens, by padding, running the original and packing again."""
        inside = np.arange(batch.lengths.max())[None, :] < batch.lengths[:, None]
        padded = np.full(inside.shape, self.pad_id, np.int64)
        padded[inside] = batch.ids
        ids, mask = to_device(padded, self.device), indices(inside, self.device)
        with self._layers_computed_again() if self._again(batch) else contextlib.nullcontext():
            hidden = self.base(input_ids=ids, attention_mask=mask, **self.segments(batch, inside), **self._nothing_cached)[0]
        return hidden.flatten(0, 1).index_select(0, indices(np.flatnonzero(inside), self.device))

    @property
    def can_compute_again(self) -> bool:
        """Whether what is beyond `most_kept` can be computed again: transformers knows how for most architectures."""
        return self.runs_in_parts or bool(getattr(self.base, "supports_gradient_checkpointing", False))

    @contextlib.contextmanager
    def _layers_computed_again(self) -> Iterator[None]:
        if not self.can_compute_again:
            yield
            return
        self.base.activation_checkpointing_enable({"use_reentrant": False})
        # it also has the embeddings ask for gradients, which only the reentrant kind needs: frozen layers would then keep everything
        self.base.disable_input_require_grads()
        try:
            yield
        finally:
            self.base.activation_checkpointing_disable()

    @functools.cached_property
    def _nothing_cached(self) -> dict[str, bool]:
        """What keeps a decoder from saving keys and values for tokens to come, of which there are none."""
        return {"use_cache": False} if "use_cache" in inspect.signature(self.base.forward).parameters else {}

    def segments(self, batch: PackedBatch, inside: np.ndarray) -> dict[str, Tensor]:
        """Return `token_type_ids`, int64[S, L], for a batch of pairs and an encoder that tells segments apart; else nothing.

        inside: bool[S, L], which padded places hold tokens
        """
        if batch.borders is None or not self.tells_segments_apart:
            return {}
        second = inside & (np.arange(inside.shape[1])[None, :] >= batch.borders[:, None])
        return {"token_type_ids": indices(second, self.device)}

    def token_segments(self, batch: PackedBatch) -> Tensor | None:
        """Return int64[T], the segment of each token, for a batch of pairs and an encoder that tells segments apart; else None."""
        if batch.borders is None or not self.tells_segments_apart:
            return None
        places = np.arange(len(batch.ids)) - np.repeat(batch.cu_seqlens[:-1], batch.lengths)
        return indices(places >= np.repeat(batch.borders, batch.lengths), self.device)

    @functools.cached_property
    def tells_segments_apart(self) -> bool:
        """Whether transformers would give this model segment ids that say anything."""
        return (
            getattr(self.config, "type_vocab_size", 0) > 1
            and "token_type_ids" in self.tokenizer.model_input_names
            and "token_type_ids" in inspect.signature(self.base.forward).parameters
        )

    @property
    def words(self) -> nn.Embedding | None:
        """The table of words; None where another module shares its weights, or where it is not a plain embedding."""
        found = self.hf.get_input_embeddings()
        if type(found) is not nn.Embedding or found.max_norm is not None or found.scale_grad_by_freq:
            return None
        holders = [module for module in self.modules() if any(p is found.weight for p in module.parameters(recurse=False))]
        return found if len(holders) == 1 else None

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
        if usual != "sdpa" or max_length > 256 or self.runs_in_parts or self.device.type != "cpu":
            yield
            return
        self.hf.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.hf.set_attn_implementation(usual)

    def save(self, directory: Path) -> None:
        """Write configuration, safetensors weights and tokenizer files into `directory`."""
        with quiet():
            self.hf.save_pretrained(directory)
        self.save_tokenizer(directory)

    def save_tokenizer(self, directory: Path) -> None:
        """Write the tokenizer's files into `directory`."""
        with quiet():
            self.tokenizer.save_pretrained(directory)

    def changed(self) -> None:
        """Take note that modules of the body were put in the place of others."""
        self.__dict__.pop("packed", None)


_OF_NO_OUTPUT = frozenset({
    "transformers_version", "architectures", "output_hidden_states", "output_attentions", "return_dict", "dtype", "torch_dtype",
    "chunk_size_feed_forward", "id2label", "label2id", "num_labels", "problem_type", "initializer_range", "use_cache", "_name_or_path",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id",
})  # fmt: skip
