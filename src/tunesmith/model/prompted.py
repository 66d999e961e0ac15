"""Heads that are not trained: a text is compared with descriptions of labels or with examples, or has a gap filled.

S sequences, T tokens, H width, C labels, N examples, W words.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.data.batches import PackedBatch
from tunesmith.errors import ModelError
from tunesmith.model.devices import indices
from tunesmith.model.encoder import Encoder
from tunesmith.model.heads import HEAD_FILE, TextModel, VectorHead
from tunesmith.model.masked_head import CheckpointMaskedHead
from tunesmith.model.pretrained import load_saved

SCALE = 20.0
"""Of cosines where no labelled row says more: the one that sentence encoders are trained with (Reimers and Gurevych's library)."""

_FLOOR = 0.01  # the share of the votes that is spread over all labels, so that none is impossible
_AT_ONCE = 200  # examples that are compared with all others


class ComparedHead(nn.Module):
    """Scores of labels by the cosine of a text's vector to vectors that are known. All vectors have length 1.

    names: float[C, H], of the labels' descriptions, zeros where there is none
    examples: float[N, H], codes: int64[N], the label of each, and keys: int64[N], equal for equal texts
    scale: what cosines are multiplied by

    method `labels`: a label's vector is the direction of the sum of its description's and its examples' vectors, and its score
    scale x cosine (Snell et al. 2017, "Prototypical Networks", section 2, with the description as one more example).
    method `nearest`: the `neighbours` nearest examples vote with weight softmax(scale x cosine); a label's score is the log of its share
    (Khandelwal et al. 2020, "Generalization through Memorization", equation 2).
    """

    def __init__(
        self, method: str, neighbours: int, names: Tensor, examples: Tensor, codes: Tensor, keys: Tensor, scale: float = SCALE
    ) -> None:
        super().__init__()
        self.method, self.neighbours = method, neighbours
        self.vector = VectorHead()
        kept = {"names": names, "examples": examples, "codes": codes, "keys": keys, "scale": torch.tensor(scale)}
        for name, value in kept.items():
            self.register_buffer(name, value)
        self.names: Tensor
        self.examples: Tensor
        self.codes: Tensor
        self.keys: Tensor
        self.scale: Tensor

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: float[T, H] -> outputs float[S, C]"""
        return self.scores(self.vector(hidden, batch))

    def scores(self, vectors: Tensor, own: Tensor | None = None) -> Tensor:
        """vectors: float[S, H] -> float[S, C]; own: int64[S], for each its number among the examples, as which it does not count"""
        cosines, labels = self.compared(vectors, own)
        return self.scaled(cosines, labels, self.scale)

    def compared(self, vectors: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return what no scale changes: cosines float[S, C] to labels, or to the k nearest examples, and these ones' labels int64[S, k]."""
        return self._nearest(vectors, own) if self.method == "nearest" else (self._matched(vectors, own), None)

    def scaled(self, cosines: Tensor, labels: Tensor | None, scale: Tensor) -> Tensor:
        """Return scores float[S, C] of what `compared` gives."""
        if labels is None:
            return scale * cosines
        count = len(self.names)
        shares = torch.zeros(len(cosines), count, device=cosines.device).scatter_add(1, labels, F.softmax(scale * cosines, dim=1))
        return torch.log((1 - _FLOOR) * shares + _FLOOR / count)

    def _matched(self, vectors: Tensor, own: Tensor | None) -> Tensor:
        sums = self.names.index_add(0, self.codes, self.examples)
        found = vectors @ F.normalize(sums, dim=1).T
        if own is not None:
            label = self.codes[own]
            rest = F.normalize(sums[label] - self.examples[own], dim=1)
            found = found.scatter(1, label[:, None], (vectors * rest).sum(1, keepdim=True))
        return found

    def _nearest(self, vectors: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        near = vectors @ self.examples.T
        if own is not None:
            near = near.scatter(1, own[:, None], -torch.inf)
        best, places = near.topk(min(self.neighbours, near.shape[1] - (own is not None)), dim=1)
        return best, self.codes[places]

    def calibrate(self, own: np.ndarray) -> None:
        """Choose the scale by which the examples `own` are most probable to have their labels, each judged without itself."""
        chunks = torch.from_numpy(own).split(_AT_ONCE)
        found = [(self.compared(self.examples[numbers], numbers), self.codes[numbers]) for numbers in chunks]
        best = (float("inf"), SCALE)
        for scale in np.geomspace(2.0, 200.0, 41).tolist():
            scores = [(self.scaled(*compared, torch.tensor(scale)), codes) for compared, codes in found]
            loss = sum(float(F.cross_entropy(one, codes, reduction="sum")) for one, codes in scores)
            best = min(best, (loss, scale))
        self.scale.fill_(best[1])


class ClozeHead(nn.Module):
    """Scores of labels by the words that an encoder would put into the gap of a template.

    A label's score is the mean of its words' logits (Schick and Schütze 2021, "Exploiting Cloze Questions", section 3.1), less
    the log of the probability that it has without any text (Zhao et al. 2021, "Calibrate Before Use", section 5).

    gap: where the gap stands in every sequence, from its start, or if below 0 from its end
    words: int64[W], and codes: int64[W], the label of each; bias: float[C]
    """

    def __init__(self, encoder: Encoder, gap: int, words: Tensor, codes: Tensor, labels: int) -> None:
        super().__init__()
        self._head = (CheckpointMaskedHead(encoder),)  # in a tuple, so that its parameters are not registered twice
        self.gap = gap
        for name, value in (("words", words), ("codes", codes), ("bias", torch.zeros(labels))):
            self.register_buffer(name, value)
        self.words: Tensor
        self.codes: Tensor
        self.bias: Tensor

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden: float[T, H] -> outputs float[S, C]"""
        ends = indices(batch.cu_seqlens, hidden.device)
        gaps = (ends[:-1] if self.gap >= 0 else ends[1:]) + self.gap
        logits = self._head[0](hidden[gaps], replace(batch, points=None))[:, self.words]
        labels = len(self.bias)
        counts = torch.bincount(self.codes, minlength=labels)
        sums = torch.zeros(len(logits), labels, device=logits.device).index_add(1, self.codes, logits.float())
        return sums / counts + self.bias


def load_prompted(directory: Path, prompting: dict[str, Any]) -> TextModel:
    """Open what a run with prompts saved. Raises `ModelError`."""
    from safetensors.torch import load_file

    cloze = prompting["method"] == "cloze"
    encoder = load_saved(directory, "masked-lm" if cloze else None)
    try:
        kept = load_file(directory / HEAD_FILE)
        if cloze:
            head: nn.Module = ClozeHead(encoder, int(prompting["gap"]), kept["words"], kept["codes"], len(kept["bias"]))
            head.load_state_dict(kept)
        else:
            parts = {name: kept[name] for name in ("names", "examples", "codes", "keys")}
            head = ComparedHead(prompting["method"], int(prompting["neighbours"]), **parts, scale=float(kept["scale"]))
    except Exception as error:
        raise ModelError(
            f"{directory / HEAD_FILE} is damaged ({type(error).__name__}: {error!s:.100}). Restore it from a copy, or make the model again."
        ) from error
    return TextModel(encoder, head)
