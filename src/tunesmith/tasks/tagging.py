"""Tagging: one tag for each word of a text, such as parts of speech, or the entities that tags of a scheme write.

E examples, W words (of one example, or of a batch), C tags.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith import tagging_metrics as metrics
from tunesmith.config import Config
from tunesmith.data.audit_tags import examine_places, examine_tags
from tunesmith.data.audit_types import Finding
from tunesmith.data.batches import PackedBatch
from tunesmith.data.schema import Example, RowSource, Schema
from tunesmith.data.schemes import convert, default_entities, openings, recognise, strict_entities
from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded, Truncation
from tunesmith.data.word_tokens import WordEncoder
from tunesmith.data.words import ELSEWHERE, words_of
from tunesmith.errors import DataError, UsageError, listing, setting
from tunesmith.metrics import METRICS, confusion
from tunesmith.model.devices import indices, to_device
from tunesmith.model.spec import HeadSpec
from tunesmith.progress import QUIET, Progress
from tunesmith.seeds import seed_for
from tunesmith.tasks.base import Hub, Measured, Task
from tunesmith.tasks.labels import class_weights
from tunesmith.tasks.rows import Part, Ragged, Rows, Targets
from tunesmith.tasks.tag_mistakes import resampled, worst_sentences
from tunesmith.tasks.tag_targets import TagTargets, broken, new_tags, read_as, scheme_of, tags_of, unknown
from tunesmith.tasks.viterbi import best_path, transitions

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.model.pretrained import Pretrained

_SHOWN_WORDS = 60

Sentences = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of the text, its text there, and its label.

    Where a row gives words beside a text in which they do not stand, there are no characters, and the text is that of the words.
    """

    start: int | None
    end: int | None
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """What was predicted for one text.

    words: the words of the text; tags: one for each
    spans: the entities that the tags write; each word with its tag where tags are of no scheme
    """

    words: list[str] = field(repr=False)
    tags: list[str]
    spans: list[Span]


@dataclass(frozen=True)
class Tagging(Task):
    """Tagging with `labels`.

    scheme: bio, bioes, bmes, bilou, io; None for tags that stand for themselves
    constrain: predict the best of those sequences that the scheme allows
    label_smoothing, weights: of the training loss; weights has one factor per label
    """

    labels: list[str]
    scheme: str | None
    constrain: bool = True
    label_smoothing: float = 0.0
    weights: list[float] | None = None
    name: str = field(default="tagging", init=False)

    added: ClassVar[tuple[str, ...]] = ("tags", "spans", "words")
    bulky: ClassVar[frozenset[str]] = frozenset({"words"})
    target_word: ClassVar[str] = "tag"
    reads_context: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """`spans` for tags of a scheme, `tags` for others."""
        return "tags" if self.scheme is None else "spans"

    # --- the data ----------------------------------------------------------------------------------------------------------

    @classmethod
    def encoding(cls, config: Config) -> dict[str, Any]:
        """Return how much context is read. Raises `UsageError` for settings that would drop words or do nothing here."""
        if config.truncation in ("tail", "head-tail"):
            raise UsageError(
                f"{setting('truncation')} {config.truncation} drops words, and tagging predicts every word: longer texts always go through "
                f"windows. Leave {setting('truncation')} out."
            )
        return {"context": config.context}

    @classmethod
    def encoder(
        cls, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None, schema: Schema, **settings: Any
    ) -> WordEncoder:
        """Return what turns words into tokens, in overlapping windows where they are too many for one sequence."""
        return WordEncoder(tokenizer, truncation, fallback_token, **settings)

    @classmethod
    def learn(cls, table: TokenTable, config: Config) -> Tagging:
        """Recognise scheme and tags of a training file.

        Raises `DataError` for fewer than two tags, and for those of no scheme beside others.
        """
        labels = table.labels()
        source = scheme_of(table, labels, config.scheme)
        wanted = "bio" if source == "iob1" else source  # the B of IOB1 is too rare to be learned
        scheme = wanted if source is None or config.scheme == "auto" else config.scheme
        targets = tags_of(table, [], scheme) if scheme != source else None
        names = sorted(set(targets.names if targets is not None else labels.names))
        if len(names) < 2:
            raise DataError(
                f"the training rows have too few tags: {listing(map(repr, names)) or 'none'}; at least 2 different ones are needed. "
                f"Is {setting('label')} the right column?"
            )
        return cls(names, scheme, config.constrain, config.label_smoothing)

    def settle(self, rows: Rows, config: Config) -> Tagging:
        """Weigh the tags by their counts in the training rows."""
        counts = _targets(rows).counts(rows.index)[: len(self.labels)]
        return replace(self, weights=class_weights(config.class_weights, self.labels, counts, False))

    def targets(self, table: TokenTable) -> TagTargets:
        """Return the tags of a table in the scheme of the model; those it does not know are kept, and count as wrong."""
        return tags_of(table, self.labels, self.scheme)

    def remarks(self, rows: Rows) -> list[str]:
        """Return notes on training tags that are converted, that seem to mean a scheme, and that break theirs."""
        advice = "They are learned as they stand. Correct them where they are slips."
        found = broken(rows.table, rows.index, self.scheme, advice) if self.scheme is not None else []
        return read_as(rows.table, self.scheme) + found

    def cautions(self, rows: Rows) -> list[str]:
        """Return notes on tags to be tested on that are converted, that break their scheme, and that no training row has."""
        advice = "The strict metrics see no entity there, the default ones do."
        found = broken(rows.table, rows.index, self.scheme, advice) if self.scheme is not None else []
        converted = read_as(rows.table, self.scheme) if self.scheme is not None else []
        return converted + found + unknown(rows.table, rows.index, _targets(rows), self.labels)

    @classmethod
    def examine(cls, source: RowSource, schema: Schema) -> list[Finding]:
        """Return how many words, tags and entities there are, and what breaks the scheme."""
        return [*examine_tags(source, schema), *examine_places(source, schema)]

    def gaps(self, rows: Rows) -> list[str]:
        """Return a note on tags that no training row has."""
        counts = _targets(rows).counts(rows.index)
        unseen = [label for label, count in zip(self.labels, counts.tolist(), strict=False) if count == 0]
        if not unseen:
            return []
        return [f"no training row has the tag {listing(map(repr, unseen), 8)}, so the model cannot learn it: all its rows were split off."]

    # --- the network -------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> HeadSpec:
        """Transformers' head for tokens."""
        return HeadSpec("token-classification", len(self.labels), tuple(self.labels))

    def batch(self, rows: Rows, chosen: np.ndarray, seed: int) -> PackedBatch:
        """Return the batch of examples `chosen`; its loss is averaged over its words."""
        batch = super().batch(rows, chosen, seed)
        return replace(batch, units=len(batch.targets) if batch.targets is not None else 0)

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Take of outputs float[T, C] those of each word's first sub-word: float[W, C]."""
        return outputs[indices(_points(batch), outputs.device)]

    def sizes(self, batch: PackedBatch) -> np.ndarray:
        """Return int[E], the words of each example."""
        return batch.point_counts.astype(np.int64) if batch.point_counts is not None else np.zeros(batch.size, np.int64)

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[W], the cross-entropy of each word's tag (Devlin et al. 2019, "BERT", section 5.3: the first sub-word's)."""
        assert batch.targets is not None
        targets = to_device(batch.targets, outputs.device)
        terms = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)
        return terms if self.weights is None else terms * torch.tensor(self.weights, device=outputs.device)[targets]

    # --- judging -----------------------------------------------------------------------------------------------------------

    def reduced(self, outputs: Ragged, rows: Rows) -> Ragged:
        """Return float32[W, 1] of each example, the numbers of its words' tags; NaN for a word whose outputs are no finite numbers."""
        values = np.full((len(outputs.values), 1), np.nan, np.float32)
        if len(values):
            codes = np.concatenate(list(self._tags(outputs)))
            finite = np.isfinite(outputs.values).all(1)
            values[finite, 0] = codes[finite]
        return Ragged(values, outputs.starts)

    @property
    def default_metric(self) -> str:
        """Strict F1 of entities; accuracy of plain tags."""
        return "accuracy" if self.scheme is None else "f1_strict"

    def computable(self, rows: Rows) -> Collection[str]:
        """Return all metrics of the kind: where nothing is to be found F1 is 0."""
        return METRICS[self.kind]

    def score(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, float]:
        """Return the metrics."""
        return self._scores(self._gold(part), self._predicted(outputs))[0]

    def evaluation(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, Any]:
        """Return metrics with intervals, scores of each type of entity (or tag), confusion of tags, and the worst sentences."""
        gold, predicted = self._gold(part), self._predicted(outputs)
        scores, bounds = self._scores(gold, predicted, with_intervals=True)
        targets = _targets(part.rows)
        number = {name: i for i, name in enumerate(targets.names)}
        codes = [np.array([number[tag] for tags in sentences for tag in tags], np.int64) for sentences in (gold, predicted)]
        if self.scheme is None:
            table = metrics.per_tag(codes[0], codes[1], targets.names)
        else:
            table = metrics.per_type(*([strict_entities(tags, self.scheme) for tags in sentences] for sentences in (gold, predicted)))
        learned = codes[0] < len(self.labels)
        return {
            "rows": len(gold),
            "metrics": scores,
            "intervals": bounds,
            "per_label": table,
            "confusion": confusion(codes[0][learned], codes[1][learned], len(self.labels)),
            "calibration": [],
            "counted": "words" if self.scheme is None else "entities",
            "badness": "wrong words",
            "mistakes": worst_sentences(gold, predicted, part, self.scheme, progress),
        }

    def _gold(self, part: Part) -> list[list[str]]:
        targets = _targets(part.rows)
        return [[targets.names[code] for code in targets.of(row)] for row in part.rows.index.tolist()]

    def _tags(self, outputs: Ragged) -> Iterator[np.ndarray]:
        """Yield int[W], the numbers of the predicted tags, for each example's outputs float32[W, C]."""
        may_follow = transitions(self.labels, self.scheme) if self.scheme is not None and self.constrain else None
        for i in range(len(outputs)):
            scores = outputs[i]
            yield best_path(scores, may_follow) if may_follow is not None and len(scores) else scores.argmax(1)

    def _predicted(self, reduced: Ragged) -> list[list[str]]:
        names = [self.labels[code] for code in reduced.finite()[:, 0].astype(np.int64).tolist()]
        return [names[start:end] for start, end in pairwise(reduced.starts.tolist())]

    def _scores(
        self, gold: Sentences, predicted: Sentences, *, with_intervals: bool = False
    ) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Return metrics, and with `with_intervals` their intervals."""
        words = metrics.word_counts(gold, predicted)
        modes, tags = {}, None
        if self.scheme is None:
            names = {tag: i for i, tag in enumerate(dict.fromkeys(tag for part in (gold, predicted) for tags in part for tag in tags))}
            one, two = (np.array([names[tag] for tags in part for tag in tags], np.int64) for part in (gold, predicted))
            tags = one, two
            scores = {"accuracy": metrics.accuracy(words), "f1_macro": metrics.f1_macro(one, two)}
        else:
            strict = ([strict_entities(tags, self.scheme) for tags in part] for part in (gold, predicted))
            default = ([default_entities(tags) for tags in part] for part in (gold, predicted))
            modes = {"strict": metrics.entity_counts(*strict), "default": metrics.entity_counts(*default)}
            scores = {name: value for mode, counts in modes.items() for name, value in metrics.span_scores(counts, mode).items()}
            scores["accuracy"] = metrics.accuracy(words)
        bounds = metrics.intervals(modes, words, tags, seed=seed_for(0, "bootstrap")) if with_intervals and len(words) else {}
        return scores, bounds

    def extended(self, table: TokenTable, config: Config) -> Tagging:
        """Put new tags behind the known ones."""
        labels = [*self.labels, *new_tags(table, self.labels, self.scheme)]
        return replace(self, labels=labels, label_smoothing=config.label_smoothing)

    def kept(self, example: Example, targets: Targets, row: int) -> Example:
        """Write the tags in the scheme of the model."""
        assert isinstance(targets, TagTargets)
        tags = [targets.names[code] for code in targets.of(row)]
        return replace(example, target=None if example.target is None else tags)

    def measured(self, outputs: Ragged, part: Part, metric: str) -> Measured | None:
        """Return the scores of entities, and the share of words that are right."""
        gold, predicted = self._gold(part), self._predicted(outputs)
        count = resampled(gold, predicted, self.scheme, metric)
        return None if count is None else (len(gold), count)

    def yardsticks(
        self, train: Part, train_examples: list[Example], test: Part, test_examples: list[Example], pretrained: Pretrained, seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return what the most frequent tag of each word reaches, with the most frequent tag of all for words never seen."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for example, tags in zip(train_examples, self._gold(train), strict=True):
            for word, tag in zip(words_of(example)[0], tags, strict=True):
                counts[word][tag] += 1
        total: Counter[str] = Counter()
        for counter in counts.values():
            total.update(counter)
        # of equally frequent tags the first by name, whatever the order of rows
        usual = {word: min(counter, key=lambda tag: (-counter[tag], tag)) for word, counter in counts.items()}
        common = min(total, key=lambda tag: (-total[tag], tag))
        predicted = [[usual.get(word, common) for word in words_of(example)[0]] for example in test_examples]
        scores, bounds = self._scores(self._gold(test), predicted, with_intervals=True)
        note = f"the most frequent tag of each word in training; {common} for words that are not there"
        return [{"name": "most frequent tag", "note": note, "metrics": scores, "intervals": bounds}]

    # --- predicting --------------------------------------------------------------------------------------------------------

    def adjusted(self, **settings: Any) -> Tagging:
        """Return the task with another `constrain`."""
        constrain = settings.pop("constrain", self.constrain)
        super().adjusted(**settings)
        return replace(self, constrain=bool(constrain))

    def decode(self, outputs: Ragged, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Iterator[Tagged]:
        """Yield a `Tagged` for each example."""
        for example, codes in zip(examples, self._tags(outputs), strict=True):
            tags = [self.labels[code] for code in codes.tolist()]
            words, ranges = words_of(example)
            text = example.texts[-1]
            if self.scheme is None:
                places = [(start, end, tag) for (start, end), tag in zip(ranges, tags, strict=True)]
            else:
                places = [(ranges[span.start][0], ranges[span.end - 1][1], span.label) for span in default_entities(tags)]
            spans = [Span(start, end, label, text[start:end]) for start, end, label in places]
            if ELSEWHERE in example.mended:
                spans = [replace(span, start=None, end=None) for span in spans]
            yield Tagged(list(words), tags, spans)

    def columns(self, prediction: Tagged, *, flat: bool) -> dict[str, Any]:
        """Return tags, spans and words."""
        return {"tags": prediction.tags, "spans": [asdict(span) for span in prediction.spans], "words": prediction.words}

    def shown(self, prediction: Tagged, example: Example) -> list[str]:
        """Return each word with its tag, what the row says where that differs, and the spans."""
        told = example.target
        if told is not None and self.scheme is not None:
            written = recognise(told, openings(told))
            told = convert(told, written if written is not None else self.scheme, self.scheme)
        lines = []
        for i, (word, tag) in enumerate(zip(prediction.words[:_SHOWN_WORDS], prediction.tags, strict=False)):
            verdict = f" (the row says {told[i]})" if told is not None and told[i] != tag else ""
            lines.append(f"{word}: {tag}{verdict}")
        if len(prediction.words) > _SHOWN_WORDS:
            lines.append(f"... and {len(prediction.words) - _SHOWN_WORDS:,} more words")
        if self.scheme is not None:
            places = ["" if span.start is None else f" [{span.start}:{span.end}]" for span in prediction.spans]
            spans = [f"{span.text!r} {span.label}{place}" for span, place in zip(prediction.spans, places, strict=True)]
            lines.append(f"spans: {listing(spans, 20) or 'none'}")
        return lines

    # --- being told and kept -----------------------------------------------------------------------------------------------

    def hub(self, schema: Schema) -> Hub:
        """Token classification."""
        options = ', aggregation_strategy="first"' if self.scheme is not None else ""
        return Hub(
            "token-classification",
            "Named entities" if self.scheme is not None else "Tagging",
            f"tagging, one of {len(self.labels)} tags per word" + (f" ({self.scheme.upper()})" if self.scheme is not None else ""),
            '"A text to tag"',
            "prediction.tags, prediction.spans",
            '"A text to tag"',
            options,
            ["token-classification"],
        )

    def sentence(self) -> str:
        """Return what is learned."""
        return f"tagging, one of {len(self.labels)} tags a word" + (f", scheme {self.scheme.upper()}" if self.scheme is not None else "")

    def advice(self, config: Config) -> str:
        """Return how to have tags taken as they stand."""
        return setting("scheme", "none") if config.scheme == "auto" and self.scheme is not None else ""

    def to_dict(self) -> dict[str, Any]:
        """Return name, labels, scheme and whether it is kept to."""
        return {"name": self.name, "labels": self.labels, "scheme": self.scheme, "constrain": self.constrain}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tagging:
        """Build the task that `to_dict` described."""
        return cls(list(values["labels"]), values["scheme"], bool(values["constrain"]))


def _targets(rows: Rows) -> TagTargets:
    assert isinstance(rows.targets, TagTargets)
    return rows.targets


def _points(batch: PackedBatch) -> np.ndarray:
    return batch.points.astype(np.int64) if batch.points is not None else np.zeros(0, np.int64)
