"""Ranking: how relevant a passage is to a query, by a cross-encoder or a bi-encoder. E examples, Q queries, H width."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tunesmith.config import Config
from tunesmith.data.audit_relevance import examine_relevance
from tunesmith.data.audit_types import Finding
from tunesmith.data.batches import PackedBatch
from tunesmith.data.ranked import JointEncoder, TwinEncoder
from tunesmith.data.schema import Example, RowSource, Schema
from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded, ExampleEncoder, Truncation
from tunesmith.errors import DataError, UsageError, setting
from tunesmith.metrics import METRICS
from tunesmith.model.devices import to_device
from tunesmith.model.heads import TextModel
from tunesmith.model.spec import HeadSpec
from tunesmith.progress import QUIET, Progress
from tunesmith.tasks import ranking_judging as judging
from tunesmith.tasks import ranking_losses as losses
from tunesmith.tasks.base import Hub, Measured, Task, merge_windows
from tunesmith.tasks.divergences import of_choices, of_flags
from tunesmith.tasks.ranking_candidates import Candidates, queries_of
from tunesmith.tasks.ranking_files import sentence_transformers_files
from tunesmith.tasks.ranking_judging import Judged, JudgedTargets
from tunesmith.tasks.ranking_mining import with_mined
from tunesmith.tasks.rows import Part, Ragged, Rows, Targets

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.model.pretrained import Pretrained

CROSS, BI = "cross-encoder", "bi-encoder"
_LOSSES = {"pointwise": losses.pointwise, "pairwise": losses.pairwise, "listwise": losses.listwise}


@dataclass(frozen=True, slots=True)
class Relevance:
    """How relevant a passage is to a query: from 0 to 1 by a cross-encoder, the cosine from -1 to 1 by a bi-encoder."""

    score: float


@dataclass(frozen=True)
class Ranking(Task):
    """Ordering passages by their relevance to a query.

    ranker: cross-encoder or bi-encoder; objective: pointwise, pairwise or listwise, of a cross-encoder
    aggregation: mean or max of a cross-encoder's outputs over the windows of a pair
    temperature: of the contrastive loss; best: the highest grade, by which the pointwise loss scales grades to [0, 1]
    label_smoothing: of the training loss
    """

    ranker: str = CROSS
    objective: str = "pairwise"
    aggregation: str = "mean"
    temperature: float = 0.05
    best: float = 1.0
    label_smoothing: float = 0.0
    name: str = field(default="ranking", init=False)
    kind: str = field(default="ranking", init=False)
    labels: list[str] = field(default_factory=list, init=False)
    candidates: Candidates | None = field(default=None, compare=False, repr=False)

    fixed_sequences: ClassVar[bool] = False
    added: ClassVar[tuple[str, ...]] = ("score",)
    target_word: ClassVar[str] = "relevance"

    # --- the data ----------------------------------------------------------------------------------------------------------

    @classmethod
    def encoding(cls, config: Config) -> dict[str, Any]:
        """Return the shape of the model, and the depth of a collection's first stage."""
        return {"ranker": config.ranker, "candidates": config.candidates}

    @classmethod
    def encoder(
        cls, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None, schema: Schema, **settings: Any
    ) -> ExampleEncoder:
        """Return the encoder of one sequence of both texts, or of two."""
        kind = TwinEncoder if settings["ranker"] == BI else JointEncoder
        return kind(tokenizer, truncation, fallback_token)

    @classmethod
    def learn(cls, table: TokenTable, config: Config) -> Ranking:
        """Check the grades. Raises `DataError` for one that is none, or when no passage is relevant to any query."""
        if config.ranker == BI and config.pooling not in ("cls", "mean"):
            raise UsageError(f"{setting('pooling')} {config.pooling!r} is none that a bi-encoder has: its vectors are means. Leave it out.")
        if config.ranker == CROSS and config.negatives_per_query == 0:
            raise UsageError(f"{setting('negatives_per_query')} 0 leaves a cross-encoder nothing to compare; it must be at least 1.")
        if config.ranker == BI and config.multi_sample_dropout > 1:
            raise UsageError(
                f"{setting('multi_sample_dropout')} drops what the last layer reads, and a bi-encoder has no layer behind its encoder. "
                "Leave it out."
            )
        targets = judging.targets_of(table)
        if not (targets.grades > 0).any():
            raise DataError(
                f"{table.name}: no passage is relevant to any query, so there is nothing to learn. Is {setting('label')} the right column? "
                "A grade above 0 means relevant."
            )
        best = float(targets.grades.max())
        return cls(config.ranker, config.ranking_loss, config.aggregation, config.temperature, best, config.label_smoothing)

    def targets(self, table: TokenTable) -> JudgedTargets:
        """Return the grades of a table's rows."""
        return judging.targets_of(table)

    def remarks(self, rows: Rows) -> list[str]:
        """Return notes on rows without a query, and on queries that have no relevant passage."""
        found, alone = judging.without_relevant(rows), judging.without_query(rows)
        if not found.none:
            return alone
        one = found.none == 1
        use = f"teach{'es' if one else ''} only what is not relevant"
        if not self._takes_all_negative:
            use = f"{'is' if one else 'are'} not learned from, as a pair needs one of each"
        have = f"{found.none:,} of {found.queries:,} queries {'has' if one else 'have'} no relevant passage; {'it' if one else 'they'}"
        return [*alone, f"{have} {use}, and no metric counts {'it' if one else 'them'}."]

    def cautions(self, rows: Rows) -> list[str]:
        """Return a note on rows without a query, which no metric counts."""
        return judging.without_query(rows)

    @classmethod
    def examine(cls, source: RowSource, schema: Schema) -> list[Finding]:
        """Return how many queries and passages there are, and which queries are of no use."""
        return examine_relevance(source, schema) if schema.target is not None else []

    def own(self, part: Part) -> Part:
        """Return the part without the collection's passages, which `judged` and `planned` take in again."""
        return judging.without_collection(part)

    @property
    def _takes_all_negative(self) -> bool:
        return self.ranker == CROSS and self.objective == "pointwise"

    # --- the network -------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> HeadSpec:
        """Transformers' head for whole sequences with one output, or none at all for a bi-encoder."""
        return HeadSpec("embedding", 0) if self.ranker == BI else HeadSpec("sequence-classification", 1, ("relevance",))

    def planned(
        self, part: Part, pretrained: Pretrained, encoder: ExampleEncoder, config: Config, progress: Progress
    ) -> tuple[Ranking, Rows]:
        """Return the task with the candidates of each training query, and one row for each of these queries.

        Raises `DataError` when no query is left to learn from.
        """
        assert isinstance(encoder, JointEncoder | TwinEncoder)
        part = judging.with_collection(part)
        rows = part.rows
        table, targets = rows.table, rows.targets
        assert isinstance(targets, JudgedTargets) and table.group is not None
        keys = table.last_key
        queries = queries_of(table.group, targets.grades, keys, rows.index)
        if not self._takes_all_negative:
            queries = {row: known for row, known in queries.items() if len(known.positives)}
        pool = rows.index[np.unique(keys[rows.index], return_index=True)[1]]
        how = config.negatives if config.negatives != "auto" else "in-batch" if self.ranker == BI else "random"
        count = config.negatives_per_query
        if how == "hard":
            queries = with_mined(queries, part, pool, keys, pretrained, config, progress)
        fill = how if how == "random" or (how == "in-batch" and self.ranker == CROSS) else "none"
        if self.ranker == CROSS and fill == "none":
            lone = [row for row, known in queries.items() if not len(known.negatives)]
            queries = {row: known for row, known in queries.items() if len(known.negatives)}
            if lone:
                progress.say(
                    f"note: {len(lone):,} training queries have no negatives and are left out; {setting('negatives', 'random')} draws some."
                )
        if not queries:
            raise DataError(
                f"{part.source.name}: no training query has both a relevant passage and one that is not. Add such rows, or take "
                f"{setting('negatives', 'random')}."
            )
        positives = 1 if self.ranker == BI else Candidates.positives
        found = Candidates(table, encoder, queries, targets.grades, table.group, keys, pool, count, positives, fill)
        return replace(self, candidates=found), Rows(table, np.array(list(queries), np.int64), targets)

    def tokens_an_example(self, rows: Rows) -> float:
        """Return the tokens of a query with all its candidates, on average."""
        found = self.candidates
        assert found is not None
        sizes = [
            min(len(known.positives), found.positives)
            + (found.negatives if found.fill != "none" else min(len(known.negatives), found.negatives))
            for known in found.queries.values()
        ]
        return float(np.mean(sizes)) * float(rows.table.kept[rows.index].mean())

    def batches(self, rows: Rows, chosen: np.ndarray, seed: int, max_tokens: int) -> list[PackedBatch]:
        """Return the queries of a step with the candidates that `seed` draws for them."""
        found = self.candidates
        assert found is not None
        return (found.twin_batches if self.ranker == BI else found.joint_batches)(chosen, seed, max_tokens)

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return a cross-encoder's outputs float[E, 1], merged over windows; a bi-encoder's vectors float[S, H] as they are."""
        return outputs if self.ranker == BI else merge_windows(outputs, batch, self.aggregation)

    def sizes(self, batch: PackedBatch) -> np.ndarray:
        """Return how many rows of outputs each example has: one, or with a bi-encoder one vector for each text."""
        return np.bincount(batch.example, minlength=batch.size) if self.ranker == BI else np.ones(batch.size, np.int64)

    @property
    def joint(self) -> bool:
        """Whether every passage of a step is a negative of the other queries."""
        return self.ranker == BI

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[Q], the loss of each query; see `ranking_losses`."""
        assert batch.targets is not None
        targets = to_device(batch.targets, outputs.device)
        if self.ranker == BI:
            queries, passages = _apart(outputs, batch)
            return losses.contrastive(queries, passages, targets, self.temperature, self.label_smoothing)
        scale = self.best if self.objective == "pointwise" else 1.0
        sizes = _candidates(batch)
        scores, grades = outputs[:, 0].split(sizes), (targets[:, 0] / scale).split(sizes)
        return torch.stack([_LOSSES[self.objective](a, b, self.label_smoothing) for a, b in zip(scores, grades, strict=True)])

    def divergence(self, one: Tensor, other: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[Q], of the choice of a query's passage among its candidates, or with in-batch negatives among all of the step.

        With the pointwise loss it is the mean over the candidates, each relevant or not.
        """
        assert batch.targets is not None
        one, other = self.combine(one, batch), self.combine(other, batch)
        if self.ranker == BI:
            first, second = (a @ b.T / self.temperature for a, b in (_apart(one, batch), _apart(other, batch)))
            return of_choices(first, second, to_device(batch.targets, one.device) >= 0)
        pairs = zip(one[:, 0].split(_candidates(batch)), other[:, 0].split(_candidates(batch)), strict=True)
        if self.objective == "pointwise":
            return torch.stack([of_flags(a, b).mean() for a, b in pairs])
        return torch.stack([of_choices(a, b) for a, b in pairs])

    # --- judging -----------------------------------------------------------------------------------------------------------

    @property
    def default_metric(self) -> str:
        """nDCG@10, as BEIR uses it."""
        return "ndcg@10"

    def computable(self, rows: Rows) -> Collection[str]:
        """Return the metrics; none where no query has a relevant passage."""
        found = judging.without_relevant(rows)
        return METRICS["ranking"] if found.queries > found.none else []

    def judged(self, part: Part) -> Part:
        """Return the part with every passage of its collection, where a bi-encoder searches all of it."""
        return judging.with_collection(part) if self.ranker == BI else part

    def score(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, float]:
        """Return the metrics' means over queries."""
        return self._judge(outputs, part).ranking.means()

    def evaluation(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, Any]:
        """Return metrics with intervals, their values per query, the test against BM25, and the worst first hits."""
        return judging.evaluation(self._judge(outputs, part), part, progress)

    def _judge(self, outputs: Ragged, part: Part) -> Judged:
        return judging.judge_vectors(outputs, part) if self.ranker == BI else judging.judge_scores(outputs.values[:, 0], part)

    def extended(self, table: TokenTable, config: Config) -> Ranking:
        """Take in a higher grade than the known ones."""
        best = max(self.best, float(np.nanmax(judging.targets_of(table).grades, initial=0)))
        return replace(self, best=best, label_smoothing=config.label_smoothing)

    def kept(self, example: Example, targets: Targets, row: int) -> Example:
        """Leave out the rank in a first stage of search, which other rows do not have."""
        return replace(example, target=example.target[:1] if example.target is not None else None)

    def measured(self, outputs: Ragged, part: Part, metric: str) -> Measured | None:
        """Return the metrics' means over queries."""
        values = np.array(self._judge(outputs, part).ranking.values[metric], np.float64)
        return (len(values), lambda drawn: drawn @ values / drawn.sum(1)) if len(values) else None

    def yardsticks(
        self, train: Part, train_examples: list[Example], test: Part, test_examples: list[Example], pretrained: Pretrained, seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return what chance and BM25 reach on the same lists, or on the same collection."""
        return judging.yardsticks(self.judged(test), progress)

    # --- predicting --------------------------------------------------------------------------------------------------------

    def decode(self, outputs: Ragged, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Iterator[Relevance]:
        """Yield a `Relevance` for each pair: the logistic function of the output, or the cosine of both vectors."""
        for row in range(len(outputs)):
            values = outputs[row].astype(np.float64)
            if self.ranker == BI:
                yield Relevance(float(values[0] @ values[1]))
            else:
                yield Relevance(float(1 / (1 + np.exp(-np.clip(values[0, 0], -500, 500)))))

    def columns(self, prediction: Relevance, *, flat: bool) -> dict[str, Any]:
        """Return the score."""
        return {"score": prediction.score}

    def shown(self, prediction: Relevance, example: Example) -> list[str]:
        """Return the score, and what the row says."""
        said = f" (the row says {example.target[0]})" if example.target else ""
        return [f"score: {prediction.score:.4f}{said}"]

    def extra_files(self, model: TextModel) -> dict[str, Any]:
        """Return what sentence-transformers reads of a bi-encoder beside transformers' files."""
        if self.ranker != BI:
            return {}
        return sentence_transformers_files(model.encoder.width, int(model.encoder.tokenizer.model_max_length))

    # --- being told and kept -----------------------------------------------------------------------------------------------

    def hub(self, schema: Schema) -> Hub:
        """Text ranking, or sentence similarity, as the Hub calls it."""
        given, does = '("A query", "A passage")', "ranking: how relevant a passage is to a query"
        if self.ranker == BI:
            code = (
                "from sentence_transformers import SentenceTransformer\n\n"
                'model = SentenceTransformer("path/to/model")\n'
                'print(model.similarity(model.encode("A query"), model.encode(["A passage", "Another passage"])))'
            )
            does = "search: a vector for each text, close to each other for a query and its passages"
            tags = ["sentence-transformers", "ranking"]
            return Hub("sentence-similarity", "Retrieval", does, given, "prediction.score", tags=tags, sentence_transformers=code)
        piped = '{"text": "A query", "text_pair": "A passage"}, truncation=True'
        code = (
            "from sentence_transformers import CrossEncoder\n\n"
            'model = CrossEncoder("path/to/model")\n'
            'print(model.predict([("A query", "A passage")]))'
        )
        tags = ["sentence-transformers", "cross-encoder", "reranking"]
        return Hub(
            "text-ranking", "Ranking", does, given, "prediction.score", piped, tags=tags, pipe="text-classification",
            sentence_transformers=code,
        )  # fmt: skip

    def sentence(self) -> str:
        """Return what is learned."""
        how = "in-batch contrastive loss" if self.ranker == BI else f"{self.objective} loss"
        return f"ranking of passages by relevance to a query, by a {self.ranker} with {how}"

    def to_dict(self) -> dict[str, Any]:
        """Return name, shape, loss and its constants."""
        names = ("name", "ranker", "objective", "aggregation", "temperature", "best")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Ranking:
        """Build the task that `to_dict` described."""
        if values["ranker"] not in (CROSS, BI) or values["objective"] not in _LOSSES:
            raise ValueError(f"there is no ranker {values['ranker']!r} with the loss {values['objective']!r}")
        return cls(values["ranker"], values["objective"], values["aggregation"], float(values["temperature"]), float(values["best"]))


def _apart(vectors: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return the vectors of the queries, the first of each example, and those of the passages."""
    first = np.concatenate([[True], np.diff(batch.example) != 0])
    return vectors[first], vectors[~first]


def _candidates(batch: PackedBatch) -> list[int]:
    """Return how many candidates each query of a cross-encoder's batch has."""
    assert batch.targets is not None
    return np.bincount(batch.targets[:, 1].astype(np.int64)).tolist()
