"""What a task wants on its encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HeadKind = Literal["sequence-classification", "token-classification", "question-answering", "masked-lm", "embedding"]


@dataclass(frozen=True)
class HeadSpec:
    """A head: which of transformers' models has it, and its outputs.

    kind: `embedding` is no head: a sequence's outputs are the mean of its hidden states, scaled to length 1
    outputs: C, 0 for an embedding, which has the encoder's width
    labels: their names as transformers' configuration keeps them; problem_type: transformers' word for what they mean
    """

    kind: HeadKind
    outputs: int
    labels: tuple[str, ...] = ()
    problem_type: str | None = None

    @property
    def per_token(self) -> bool:
        """Whether there is a row of outputs for each token, not for each sequence."""
        return self.kind not in ("sequence-classification", "embedding")
