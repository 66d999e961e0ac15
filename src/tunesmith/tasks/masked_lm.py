"""Masked-language-model pretraining on raw text: hidden words are guessed from what stands round them.

E texts, N sequences, P hidden tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch, pack
from tunesmith.data.packing import Masking, PackedTable, seed_of
from tunesmith.data.schema import Example, Schema
from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded, Truncation
from tunesmith.data.whole_words import WholeWordEncoder
from tunesmith.errors import DataError, ModelError, counted
from tunesmith.masked_metrics import masked_intervals, masked_scores
from tunesmith.model.devices import to_device
from tunesmith.model.spec import HeadSpec
from tunesmith.progress import QUIET, Progress
from tunesmith.seeds import seed_for
from tunesmith.tasks import masked_yardsticks
from tunesmith.tasks.base import Hub, Task
from tunesmith.tasks.divergences import of_choices
from tunesmith.tasks.rows import Part, Ragged, Rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.model.pretrained import Pretrained

_GUESSES = 5  # of a hidden word that prediction tells
_COUNTED_ROWS = 100_000  # for the first bias
_SHOWN = 20
_AROUND = 12  # tokens to either side of a guess that the report shows


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that may stand in a hidden place, and its probability."""

    token: str
    probability: float


@dataclass(frozen=True, slots=True)
class Filled:
    """A text with its hidden places filled.

    filled: the text with the most probable token in each place; fill: for each place the five most probable tokens, best first
    """

    filled: str
    fill: tuple[tuple[Guess, ...], ...]


@dataclass(frozen=True)
class NoTargets:
    """The targets of N raw texts: there are none."""

    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[E] of zeros."""
        return np.zeros(len(rows), np.int64)

    def stratum(self) -> np.ndarray:
        """Return int64[N] of zeros: there is nothing to spread evenly."""
        return np.zeros(self.count, np.int64)

    def digests(self) -> np.ndarray:
        """Return uint64[N] of zeros."""
        return np.zeros(self.count, np.uint64)

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """Return nothing."""
        return {}


@dataclass(frozen=True)
class MaskedLM(Task):
    """Guessing hidden words.

    share: of the words that are hidden; label_smoothing: of the training loss
    tokenizer: transformers' tokenizer of the encoder, and encoder: what made the rows' tokens of it; both given by `bind`
    """

    share: float = 0.15
    label_smoothing: float = 0.0
    tokenizer: Any = field(default=None, repr=False, compare=False)
    encoded_by: WholeWordEncoder | None = field(default=None, repr=False, compare=False)
    name: str = field(default="masked-lm", init=False)
    kind: str = field(default="masked-lm", init=False)
    labels: list[str] = field(default_factory=list, init=False)

    fixed_sequences: ClassVar[bool] = False
    added: ClassVar[tuple[str, ...]] = ("filled", "fill")
    target_word: ClassVar[str] = ""
    needs_texts: ClassVar[bool] = False

    @property
    def default_metric(self) -> str:
        """Perplexity of hidden tokens."""
        return "perplexity"

    @classmethod
    def encoder(
        cls, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None, schema: Schema, **settings: Any
    ) -> WholeWordEncoder:
        """Return what encodes whole texts and marks their words; of `truncation` only the length counts, as nothing is cut off."""
        return WholeWordEncoder(tokenizer, truncation, fallback_token)

    @classmethod
    def learn(cls, table: TokenTable, config: Config) -> MaskedLM:
        """Return the task; the texts teach the network only."""
        return cls(config.mask_share, config.label_smoothing)

    def bind(self, tokenizer: Any, encoder: Any) -> MaskedLM:
        """Return the task that knows its encoder's tokens. Raises `ModelError` for a tokenizer without a mask."""
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "the tokenizer of this model has no mask token, so that no word can be hidden: it is no model that guesses words in the "
                "middle of a text. Take an encoder such as BERT or RoBERTa."
            )
        return replace(self, tokenizer=tokenizer, encoded_by=encoder)

    def targets(self, table: TokenTable) -> NoTargets:
        """Return that there are none."""
        return NoTargets(len(table))

    def arrange(self, rows: Rows) -> Rows:
        """Return the texts packed into full sequences. Raises `DataError` when there is nothing in them."""
        assert self.encoded_by is not None
        packed = PackedTable(rows.table, rows.index, self.encoded_by)
        if not len(packed):
            raise DataError(f"{rows.table.name}: {counted(len(rows), 'text')}, of which the tokenizer of this encoder makes no token.")
        return Rows(packed, np.arange(len(packed)), NoTargets(len(packed)))

    @property
    def head(self) -> HeadSpec:
        """Transformers' head that gives each token of the vocabulary a score."""
        return HeadSpec("masked-lm", len(self.tokenizer) if self.tokenizer is not None else 0)

    @property
    def outputs_a_token(self) -> float:
        """The vocabulary, for each hidden token."""
        return self.share * self.head.outputs

    @cached_property
    def masking(self) -> Masking:
        """How words are hidden."""
        special = np.zeros(len(self.tokenizer), np.bool_)
        special[[number for number in self.tokenizer.all_special_ids if number < len(special)]] = True
        return Masking(self.share, int(self.tokenizer.mask_token_id), special)

    def batch(self, rows: Rows, chosen: np.ndarray, seed: int) -> PackedBatch:
        """Return the batch of packed sequences `chosen`, with words hidden that `seed` and the sequence decide."""
        return self._hidden([rows.table.example(row) for row in chosen.tolist()], [seed_for(seed, "mask", row) for row in chosen.tolist()])

    def gather(self, examples: Sequence[Encoded], *, judged: bool) -> PackedBatch:
        """Return the batch of examples. Where they are judged words are hidden, always the same ones; else the text's own masks count."""
        if judged:
            return self._hidden(examples, [seed_of(example.sequences[0]) for example in examples])
        mask = self.masking.mask
        return _packed([replace(example, points=_places(example, mask)) for example in examples], None)

    def _hidden(self, examples: Sequence[Encoded], seeds: Sequence[int]) -> PackedBatch:
        hidden = [self.masking.hide(example, seed) for example, seed in zip(examples, seeds, strict=True)]
        gold = np.concatenate([tokens for _, tokens in hidden]).astype(np.int64)
        return replace(_packed([example for example, _ in hidden], gold), units=len(gold))

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Turn scores float[P, V] into what is kept of them.

        float[P, 4] where the hidden tokens are known: the logarithm of their probability, whether they are the most probable ones, the most
        probable token and its probability, and with label smoothing a fifth value, the mean logarithm of all tokens' probabilities; else
        float[P, 10]: the five most probable tokens' probabilities, and those tokens.
        """
        if batch.targets is None:
            best = torch.softmax(outputs, dim=1).topk(min(_GUESSES, outputs.shape[1]), dim=1)
            return torch.cat([best.values, best.indices.float()], dim=1)
        gold = to_device(batch.targets, outputs.device)
        told = -functional.cross_entropy(outputs, gold, reduction="none")
        with torch.no_grad():
            top = outputs.max(dim=1)
            # the logarithm of the sum of all is the gold token's score less its log-probability
            total = outputs.gather(1, gold[:, None])[:, 0] - told
            others = [(top.indices == gold).float(), top.indices.float(), torch.exp(top.values - total)]
        # what smoothing needs of the other tokens: the mean of their log-probabilities
        smooth = [outputs.mean(dim=1) - total] if self.label_smoothing > 0 else []
        return torch.stack([told, *others, *smooth], dim=1)

    def sizes(self, batch: PackedBatch) -> np.ndarray:
        """Return int[E], how many hidden tokens each example has."""
        assert batch.point_counts is not None
        return batch.point_counts.astype(np.int64)

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[P], minus the logarithm of each hidden token's probability (cross-entropy).

        Label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7, over the vocabulary.
        """
        if self.label_smoothing == 0:
            return -outputs[:, 0]
        return -(1 - self.label_smoothing) * outputs[:, 0] - self.label_smoothing * outputs[:, 4]

    def divergence(self, one: Tensor, other: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[P], of the choice of a token for each hidden place."""
        return of_choices(one, other)

    def first_bias(self, rows: Rows) -> np.ndarray:
        """Return float32[V], the logarithm of each token's share in the training texts: a fresh head begins with what is frequent."""
        index = rows.index
        if len(index) > _COUNTED_ROWS:
            index = index[:: -(-len(index) // _COUNTED_ROWS)]
        seen = np.ones(len(self.tokenizer), np.int64)
        for row in index.tolist():
            seen += np.bincount(rows.table.ids(row), minlength=len(seen))[: len(seen)]
        seen[self.masking.special] = 1
        return np.log(seen / seen.sum()).astype(np.float32)

    def score(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, float]:
        """Return perplexity, loss and accuracy over hidden tokens."""
        return masked_scores(-outputs.values[:, 0], outputs.values[:, 1])

    def evaluation(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, Any]:
        """Return metrics with intervals, and the surest wrong guesses."""
        surprise, hit = -outputs.values[:, 0].astype(np.float64), outputs.values[:, 1].astype(np.float64)
        sequence = np.repeat(np.arange(len(outputs)), np.diff(outputs.starts))
        return {
            "rows": len(part.rows),
            "metrics": masked_scores(surprise, hit),
            "intervals": masked_intervals(surprise, hit, sequence, seed=seed_for(0, "bootstrap")),
            "per_label": [],
            "confusion": None,
            "calibration": [],
            "mistakes_note": f"The tokens round the hidden one; {self.tokenizer.mask_token} stands where one is hidden.",
            "mistakes": self._mistakes(outputs, sequence, part),
        }

    def _mistakes(self, outputs: Ragged, sequence: np.ndarray, part: Part) -> list[dict[str, Any]]:
        table = self.arrange(part.rows).table
        assert isinstance(table, PackedTable)
        wrong = np.flatnonzero(outputs.values[:, 1] == 0)
        found = []
        for place in wrong[np.argsort(-outputs.values[wrong, 3], kind="stable")[:_SHOWN]].tolist():
            number = int(sequence[place])
            example = table.example(number)
            hidden, gold = self.masking.hide(example, seed_of(example.sequences[0]))
            nth = place - int(outputs.starts[number])
            token = int(hidden.points[nth])
            around = hidden.sequences[0][max(token - _AROUND, 0) : token + _AROUND + 1]
            found.append(
                {
                    "source": f"{part.source.name}:{part.rows.table.line[table.row(number)]}",
                    "text": self.tokenizer.decode(around),
                    "gold": self._token(int(gold[nth])),
                    "predicted": self._token(int(outputs.values[place, 2])),
                    "probability": float(outputs.values[place, 3]),
                }
            )
        return found

    def yardsticks(
        self, train: Part, train_examples: list[Example], test: Part, test_examples: list[Example], pretrained: Pretrained, seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return what the frequencies of tokens, and the encoder as it was before training, reach on the same hidden words."""
        return masked_yardsticks.yardsticks(self, self.arrange(train.rows), self.arrange(test.rows), pretrained, seed, progress)

    def decode(self, outputs: Ragged, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Iterator[Filled]:
        """Yield a `Filled` for each example."""
        mask = self.tokenizer.mask_token
        for number, example in enumerate(examples):
            fill = tuple(self._guesses(row) for row in outputs[number])
            pieces = example.texts[0].split(mask)
            words = [guesses[0].token.strip() for guesses in fill]
            # where the text has the mask's name in other letters, which some tokenizers take for it, it stays as it is
            words = [*words, *[mask] * len(pieces)][: len(pieces) - 1]
            filled = "".join(piece + word for piece, word in zip(pieces, [*words, ""], strict=True))
            yield Filled(filled, fill)

    def _guesses(self, row: np.ndarray) -> tuple[Guess, ...]:
        probabilities, tokens = np.split(row, 2)
        return tuple(Guess(self._token(int(token)), float(value)) for token, value in zip(tokens, probabilities, strict=True))

    def _token(self, number: int) -> str:
        return str(self.tokenizer.decode([number]))

    def columns(self, prediction: Filled, *, flat: bool) -> dict[str, Any]:
        """Return the filled text, and for each hidden place its five tokens with their probabilities."""
        fill = [[{"token": guess.token, "probability": guess.probability} for guess in place] for place in prediction.fill]
        return {"filled": prediction.filled, "fill": fill}

    def shown(self, prediction: Filled, example: Example) -> list[str]:
        """Return the guesses for each hidden place."""
        if not prediction.fill:
            return [f"nothing to guess: the text has no {self.tokenizer.mask_token if self.tokenizer is not None else 'mask'}"]
        places = enumerate(prediction.fill, 1)
        return [f"place {i}: " + ", ".join(f"{guess.token} {guess.probability:.4f}" for guess in guesses) for i, guesses in places]

    def hub(self, schema: Schema) -> Hub:
        """Mask filling, as the Hub calls it."""
        given = f'"A text with a {self.tokenizer.mask_token} in it."'
        does = "guessing hidden words of raw text, to be fine-tuned for a task"
        return Hub("fill-mask", "Masked language model", does, given, "prediction.filled", given, "", ["masked-lm"], made="pretrained")

    def sentence(self) -> str:
        """Return what is learned."""
        return f"masked-lm pretraining, {self.share:.0%} of the words of raw texts are hidden and guessed"

    def to_dict(self) -> dict[str, Any]:
        """Return name and share."""
        return {"name": self.name, "share": self.share}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MaskedLM:
        """Build the task that `to_dict` described; `bind` makes it ready."""
        return cls(float(values["share"]))


def _places(example: Encoded, mask: int) -> np.ndarray:
    """Return the places, int32[P], of `mask` in the example's sequences one behind the other."""
    return np.flatnonzero(np.concatenate(example.sequences) == mask).astype(np.int32)


def _packed(examples: Sequence[Encoded], gold: np.ndarray | None) -> PackedBatch:
    """Pack examples whose points are the hidden places; a batch without any has no places rather than all."""
    batch = pack(examples, gold)
    if batch.points is not None:
        return batch
    return replace(batch, points=np.zeros(0, np.int32), point_counts=np.zeros(len(examples), np.int32))
