"""The head that guesses hidden words: transformers' own, run at the places that are asked for only.

T tokens, P places, H width, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tunesmith.data.batches import PackedBatch
from tunesmith.model.devices import indices
from tunesmith.model.encoder import Encoder


class CheckpointMaskedHead(nn.Module):
    """The masked-language-model head that transformers puts on this architecture, run on packed hidden states.

    Its parameters belong to the encoder's transformers module, so `AutoModelForMaskedLM` loads them; the last layer's weights are those
    of the embeddings where the architecture ties them.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, so that its parameters are not registered twice

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: float[T, H] -> outputs float[P, V] at `batch.points`; float[T, V] for a batch that has none"""
        hf: Any = self._encoder[0].hf
        if batch.points is not None:
            # V numbers for each of all tokens would not fit into memory
            hidden = hidden[indices(batch.points, hidden.device)]
        if hasattr(hf, "vocab_projector"):  # DistilBERT
            return hf.vocab_projector(hf.vocab_layer_norm(hf.activation(hf.vocab_transform(hidden))))
        if hasattr(hf, "generator_lm_head"):  # ELECTRA
            return hf.generator_lm_head(hf.generator_predictions(hidden))
        if hasattr(hf, "lm_predictions"):  # DeBERTa-v2 since its version 3 was converted anew
            return hf.lm_predictions(hidden, hf.deberta.embeddings.word_embeddings)
        if hasattr(hf, "decoder") and hasattr(hf, "head"):  # ModernBERT
            return hf.decoder(hf.head(hidden))
        for name in ("cls", "lm_head", "predictions"):  # BERT and DeBERTa; RoBERTa and MPNet; ALBERT
            if hasattr(hf, name):
                return getattr(hf, name)(hidden)
        raise NotImplementedError(f"the head of {type(hf).__name__}")
