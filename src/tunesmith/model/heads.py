"""From the hidden states of a text's tokens to its outputs, and the whole network: encoder and head.

S sequences, T tokens, E examples, H width, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.data.batches import PackedBatch, by_length, collate, pack
from tunesmith.data.tokens import Encoded
from tunesmith.errors import ModelError
from tunesmith.model.arithmetic import arithmetic
from tunesmith.model.chance import without_dropout
from tunesmith.model.devices import indices
from tunesmith.model.encoder import Encoder
from tunesmith.model.masked_head import CheckpointMaskedHead
from tunesmith.model.spec import HeadSpec
from tunesmith.places import HEAD_FILE

if TYPE_CHECKING:
    from tunesmith.model.adapted import Adapter
    from tunesmith.model.features import Features
    from tunesmith.model.names import Located


class CheckpointTokenHead(nn.Module):
    """The head for tokens that transformers puts on this architecture, run on packed hidden states: tags, or starts and ends of answers.

    Its parameters belong to the encoder's transformers module, as those of `CheckpointHead`.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = (encoder,)

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: float[T, H] -> outputs float[T, C]"""
        hf = self._encoder[0].hf
        if hasattr(hf, "qa_outputs"):
            dropout = getattr(hf, "dropout", None)  # DistilBERT
            return hf.qa_outputs(hidden if dropout is None else dropout(hidden))
        if hasattr(hf, "head") and hasattr(hf, "drop"):  # ModernBERT
            return hf.classifier(hf.drop(hf.head(hidden)))
        if hasattr(hf, "score"):  # most decoders
            return hf.score(hf.dropout(hidden) if hasattr(hf, "dropout") else hidden)
        return hf.classifier(hf.dropout(hidden))  # BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa, MPNet


class TokenHead(nn.Module):
    """One linear layer over each token's hidden state."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, outputs)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: float[T, H] -> outputs float[T, C]"""
        return self.classifier(self.dropout(hidden.float()))


class CheckpointHead(nn.Module):
    """The sequence-classification head that transformers puts on this architecture, run on packed hidden states.

    Its parameters belong to the encoder's transformers module, so `AutoModelForSequenceClassification` loads them.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, so that its parameters are not registered twice

    @property
    def reads(self) -> str:
        """Which tokens' hidden states the head reads."""
        return "last" if self._encoder[0].is_decoder else "first"

    def forward(self, first: Tensor, batch: PackedBatch) -> Tensor:
        """first: float[S, H], of the token that speaks for each sequence -> outputs float[S, C]"""
        hf, base = self._encoder[0].hf, self._encoder[0].base
        if hasattr(hf, "score"):  # GPT-2, Llama and most other decoders
            return hf.score(first)
        if hasattr(hf, "pre_classifier"):  # DistilBERT
            return hf.classifier(hf.dropout(torch.relu(hf.pre_classifier(first))))
        if hasattr(hf, "head") and hasattr(hf, "drop"):  # ModernBERT
            return hf.classifier(hf.drop(hf.head(first)))
        pooler = getattr(hf, "pooler", None) or getattr(base, "pooler", None)
        if pooler is not None and hasattr(base, "pooler_activation"):  # ALBERT
            return hf.classifier(hf.dropout(base.pooler_activation(pooler(first))))
        if pooler is not None:  # BERT, DeBERTa
            return hf.classifier(hf.dropout(pooler(first[:, None])))
        return hf.classifier(first[:, None])  # RoBERTa, ELECTRA, MPNet


class PooledHead(nn.Module):
    """Pools a sequence's hidden states and applies one linear layer.

    pooling: `cls` (the first token; the last for a decoder), `mean`, `max`, or `attention`: a weighted mean with weights
    softmax(v . tanh(W h)) (Yang et al. 2016, "Hierarchical Attention Networks", section 2.2)
    """

    def __init__(self, width: int, outputs: int, pooling: str, dropout: float, last: bool = False) -> None:
        super().__init__()
        self.pooling, self.last = pooling, last
        self.reads = "all" if pooling != "cls" else "last" if last else "first"
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(width, width) if pooling == "attention" else None
        self.score = nn.Linear(width, 1, bias=False) if pooling == "attention" else None
        self.classifier = nn.Linear(width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: float[T, H], float[S, H] with pooling cls -> outputs float[S, C]"""
        return self.above(self.pool(hidden.float(), batch))

    def above(self, vectors: Tensor) -> Tensor:
        """vectors: float[S, H], from `pool` -> outputs float[S, C]"""
        return self.classifier(self.dropout(vectors))

    def pool(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: as `forward` takes them -> float[S, H]"""
        if self.pooling == "cls":
            return hidden
        lengths = indices(batch.lengths, hidden.device)
        if self.pooling in ("mean", "max"):
            return torch.segment_reduce(hidden, self.pooling, lengths=lengths, axis=0)
        assert self.project is not None and self.score is not None
        score = self.score(torch.tanh(self.project(hidden))).float()
        top = torch.segment_reduce(score.detach(), "max", lengths=lengths, axis=0)
        weight = torch.exp(score - top.repeat_interleave(lengths, 0))
        total = torch.segment_reduce(weight, "sum", lengths=lengths, axis=0)
        return torch.segment_reduce(weight * hidden, "sum", lengths=lengths, axis=0) / total


class VectorHead(nn.Module):
    """No layer at all: the mean of a sequence's hidden states, scaled to length 1 (Reimers and Gurevych 2019, "Sentence-BERT")."""

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: float[T, H] -> outputs float[S, H]"""
        lengths = indices(batch.lengths, hidden.device)
        return nn.functional.normalize(torch.segment_reduce(hidden.float(), "mean", lengths=lengths, axis=0), dim=1)


class TextModel(nn.Module):
    """Encoder and head: a packed batch in, outputs float32[S, C] out, or float32[T, C] with a head for tokens."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.in_autocast = bool(getattr(head, "in_autocast", False))
        self.reads: Literal["all", "first", "last"] = getattr(head, "reads", "all")
        self.features: Features | None = None
        """Outputs of the lowest layers, where these are frozen and need not run again."""
        self.frozen: frozenset[str] = frozenset()
        """Names of the parameters that training never changes."""
        self.adapter: Adapter | None = None
        """What was trained, where that is saved apart from the encoder."""
        self.base: Located | None = None
        """The encoder that the weights were just loaded from; None where training goes on from a trained model."""

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return one row of outputs for each sequence, or each token, of `batch`."""
        return self.outputs(self.states(batch), batch)

    def states(self, batch: PackedBatch) -> Tensor:
        """Return what `outputs` reads: hidden states float[T, H], or float[S, H] of each sequence."""
        if self.features is None:
            return self.encoder(batch, self.reads)
        known, layers = self.features.of(batch, self), self.features.frozen.layers
        return self.encoder.above(known, batch, layers, self.reads) if layers < self.encoder.layers else known

    def outputs(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the outputs of the head for what `states` gives."""
        if self.features is not None and self.features.frozen.layers == self.encoder.layers and self._pooling is not None:
            with torch.autocast(hidden.device.type, enabled=False):
                return self._pooling.above(hidden)
        if self.in_autocast:
            return self.head(hidden, batch).float()
        # heads are small and their outputs may be values of any size, which bf16 would round to three digits
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.float(), batch)

    # --- in two parts, of which the lower one is frozen -----------------------------------------------------------------------

    def below(self, batch: PackedBatch, layers: int) -> Tensor:
        """Return what the part above the lowest `layers` layers reads: float[T, H], or float[S, H] where that is a vector of each text."""
        if layers < self.encoder.layers:
            return self.encoder.below(batch, layers)
        hidden = self.encoder(batch, self.reads)
        return hidden if self._pooling is None else self._pooling.pool(hidden.float(), batch)

    def reads_tokens_above(self, layers: int) -> bool:
        """Whether `below` gives a row for each token, not for each sequence."""
        return layers < self.encoder.layers or (self.reads == "all" and self._pooling is None)

    @property
    def _pooling(self) -> PooledHead | None:
        """The head, where it makes one vector of a text without any weights."""
        return self.head if isinstance(self.head, PooledHead) and self.head.pooling in ("mean", "max") else None

    @property
    def loads_in_transformers(self) -> bool:
        """Whether the saved directory gives the same outputs through transformers' own model for the task."""
        return not self.own_head and not self.apart

    @property
    def own_head(self) -> bool:
        """Whether the head is none of transformers'."""
        return not isinstance(self.head, CheckpointHead | CheckpointTokenHead | CheckpointMaskedHead | VectorHead)

    @property
    def apart(self) -> bool:
        """Whether only an adapter is saved, without the encoder that it needs."""
        return self.adapter is not None and not self.adapter.merged

    def save(self, directory: Path) -> None:
        """Write the encoder as Hugging Face would, and a head of our own beside it as `head.safetensors`.

        An adapter that is merged goes into a directory of its own beside them, one that is not takes the place of the encoder.
        """
        from safetensors.torch import save_file

        heads = [directory] if self.own_head else []
        if self.adapter is not None and self.adapter.merged:
            self.adapter.save(directory / "adapter")
            heads += [directory / "adapter"] if self.own_head else []
        if self.adapter is not None and not self.adapter.merged:
            self.adapter.save(directory)
            self.encoder.save_tokenizer(directory)
        else:
            self.encoder.save(directory)
        for place in heads:
            save_file({name: value.contiguous() for name, value in self.head.state_dict().items()}, place / HEAD_FILE)


def build_model(encoder: Encoder, head: HeadSpec, *, pooling: str, dropout: float | None, seed: int) -> TextModel:
    """Put a head on `encoder`: transformers' own where it can be run on packed states, else a `PooledHead` or `TokenHead`.

    head: that which the encoder was loaded with; pooling: cls for transformers' own, which a head for tokens has no choice of
    dropout: None takes the encoder's; seed: of the head's first weights
    Raises `ModelError` when the encoder does not run on token ids alone.
    """
    last = encoder.is_decoder
    if head.kind == "embedding":
        return TextModel(encoder, VectorHead())
    if (head.per_token or pooling == "cls") and encoder.has_head:
        model = TextModel(encoder, _checkpoint_head(encoder, head))
        if _same_as_transformers(model):
            return model
    if head.kind == "masked-lm":
        raise ModelError(
            f"a model of type {encoder.config.model_type!r} cannot be pretrained here: it has no head that guesses hidden words, or one of "
            "a form that is not known. Take a BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa-v2, ModernBERT, MPNet or ALBERT."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if dropout is None:
            dropout = float(getattr(encoder.config, "hidden_dropout_prob", 0.1))
        own = own_head(encoder.width, head, pooling, dropout, last=last)
    return TextModel(Encoder(encoder.base, encoder.tokenizer, False), own)


def _checkpoint_head(encoder: Encoder, head: HeadSpec) -> nn.Module:
    if head.kind == "masked-lm":
        return CheckpointMaskedHead(encoder)
    return CheckpointTokenHead(encoder) if head.per_token else CheckpointHead(encoder)


def own_head(width: int, head: HeadSpec, pooling: str, dropout: float, *, last: bool) -> nn.Module:
    """Return a head that is not transformers': see `TokenHead` and `PooledHead`."""
    return TokenHead(width, head.outputs, dropout) if head.per_token else PooledHead(width, head.outputs, pooling, dropout, last)


def embed(
    encoder: Encoder, examples: Sequence[Encoded], advance: Callable[[int], None], *, precision: str = "fp32", max_tokens: int = 16384
) -> np.ndarray:
    """Return float32[E, H], the mean of each example's hidden states (Reimers and Gurevych 2019, "Sentence-BERT", section 3)."""
    longest = np.array([max(map(len, example.sequences)) for example in examples])
    result = np.empty((len(examples), encoder.width), np.float32)
    with torch.inference_mode(), arithmetic(precision, encoder.device):
        for rows in by_length(longest, np.ones(len(longest), np.int64), max_tokens):
            batch = pack([examples[row] for row in rows])
            lengths = indices(batch.lengths, encoder.device)
            result[rows] = torch.segment_reduce(encoder(batch).float(), "mean", lengths=lengths, axis=0).cpu().numpy()
            advance(len(rows))
    return result


def set_output_bias(model: TextModel, bias: np.ndarray) -> bool:
    """Set the bias of the last layer, which gives the outputs, to `bias` float[C]; False for a head whose last layer has none.

    Outputs beyond C, such as those for the unused end of a vocabulary, get the least of its values.
    """
    place: Tensor | None = last_layer(model).bias
    if place is None or len(place) < len(bias):
        return False
    with torch.no_grad():
        place.fill_(float(bias.min()))
        place[: len(bias)] = torch.from_numpy(bias)
    return True


def rescale_outputs(model: TextModel, scale: float, shift: float) -> bool:
    """Change the last layer so that every output x becomes `scale` x + `shift`; False, and no change, where it has no bias."""
    layer = last_layer(model)
    bias: Tensor | None = layer.bias
    if bias is None:
        return False
    with torch.no_grad():
        layer.weight.mul_(scale)
        bias.mul_(scale).add_(shift)
    return True


def last_layer(model: TextModel) -> nn.Linear:
    """Return the layer that gives the outputs."""
    body = set(model.encoder.base.modules())
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module not in body][-1]


def load_head(model: TextModel, directory: Path) -> None:
    """Read the weights of a head of our own back."""
    from safetensors.torch import load_file

    model.head.load_state_dict(load_file(directory / HEAD_FILE))


def _same_as_transformers(model: TextModel) -> bool:
    """Compare packed and original outputs once: an architecture whose head has another shape must not pass unnoticed."""
    encoder = model.encoder
    hf: Any = encoder.hf
    tokens = encoder.probe_tokens(5)
    # different tokens and lengths tell first, last and mean apart
    sequences = [tokens, tokens[:2]]
    ids = torch.tensor([tokens, tokens[:2] + [encoder.pad_id] * 3])
    mask = torch.tensor([[1] * 5, [1] * 2 + [0] * 3])
    try:
        with torch.no_grad(), without_dropout(model):
            packed = model(collate([np.array(sequence, np.int32) for sequence in sequences], np.arange(2)))
            original = _outputs_of(hf(input_ids=ids, attention_mask=mask), mask)
    except Exception:  # whatever an unknown head lacks or cannot do, a head of our own takes its place
        return False
    return packed.shape == original.shape and bool(torch.allclose(packed, original, atol=1e-4))


def _outputs_of(found: Any, mask: Tensor) -> Tensor:
    """Return transformers' outputs as the packed model gives them: float[S, C], or float[T, C] without padded places."""
    logits = torch.stack([found.start_logits, found.end_logits], dim=-1) if hasattr(found, "start_logits") else found.logits
    return logits[mask.bool()] if logits.ndim == 3 else logits
