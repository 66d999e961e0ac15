"""Extractive question answering: which characters of a passage answer a question, or that none do. E examples, S windows, A answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tunesmith.config import Config
from tunesmith.data.audit_answers import HOW_TO_SAY_NONE, examine_answers
from tunesmith.data.audit_types import Finding
from tunesmith.data.batches import PackedBatch, pack
from tunesmith.data.passages import PassageEncoder
from tunesmith.data.schema import Example, RowSource, Schema
from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded, Truncation
from tunesmith.errors import DataError, setting
from tunesmith.metrics import calibration_bins, expected_calibration_error
from tunesmith.model.devices import indices, to_device
from tunesmith.model.spec import HeadSpec
from tunesmith.progress import QUIET, Progress
from tunesmith.qa_metrics import Match, averages, best_threshold, score_intervals, scores
from tunesmith.seeds import seed_for
from tunesmith.tasks.answer_notes import match_of, notes_on_answers
from tunesmith.tasks.base import Hub, Measured, Task
from tunesmith.tasks.divergences import of_choices
from tunesmith.tasks.mistakes import worst
from tunesmith.tasks.qa_yardsticks import simple_answers
from tunesmith.tasks.rows import Part, Ragged, Rows
from tunesmith.tasks.spans import AnswerTargets, Best, Found, batch_answers, batch_windows, best_spans, places_of, windows_of

if TYPE_CHECKING:
    from tunesmith.model.pretrained import Pretrained

_NBEST = 20
_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What answers a question.

    answer: characters of the passage as they stand there; empty when the passage is taken to have no answer
    start, end: the range [start, end) of these characters in the passage, None without an answer
    probability: of this answer among the best ones
    nbest: the best answers by falling probability, each with answer, start, end, probability; "no answer" among them where it can be
    """

    answer: str
    start: int | None
    end: int | None
    probability: float
    nbest: list[dict[str, Any]]


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Answers as spans of a passage.

    unanswerable: training had questions without an answer, so "no answer" may be predicted
    null_threshold: it is when its score is so much above that of the best span
    max_answer_tokens: longest span; answer_match: how answers are compared: words, characters, or by the script of the passages (auto)
    label_smoothing: of the training loss
    """

    unanswerable: bool = False
    null_threshold: float = 0.0
    max_answer_tokens: int = 30
    answer_match: str = "auto"
    label_smoothing: float = 0.0
    name: str = field(default="qa", init=False)
    kind: str = field(default="qa", init=False)
    labels: list[str] = field(default_factory=list, init=False)

    added: ClassVar[tuple[str, ...]] = ("answer", "answer_start", "probability", "nbest")
    bulky: ClassVar[frozenset[str]] = frozenset(("nbest",))
    target_word: ClassVar[str] = "answer"
    needs_offsets: ClassVar[bool] = True
    together: ClassVar[str] = "questions on one passage"

    # --- the data ----------------------------------------------------------------------------------------------------------

    @classmethod
    def encoder(
        cls, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None, schema: Schema, **settings: Any
    ) -> PassageEncoder:
        """Return the encoder of questions and windows of their passages."""
        return PassageEncoder(tokenizer, truncation, fallback_token)

    @classmethod
    def learn(cls, table: TokenTable, config: Config) -> QuestionAnswering:
        """Note whether there are questions without answer. Raises `DataError` when none has one."""
        targets = AnswerTargets(table.labels())
        has = targets.stratum() > 0
        if not has.any():
            raise DataError(
                f"{table.name}: no question has an answer, so there is nothing to learn. Is {setting('label')} the right column?"
            )
        return cls(bool((~has & ~targets.labels.missing).any()), 0.0, config.max_answer_tokens, config.answer_match, config.label_smoothing)

    def targets(self, table: TokenTable) -> AnswerTargets:
        """Return the answers of a table's questions."""
        return AnswerTargets(table.labels())

    def groups(self, rows: Rows) -> np.ndarray:
        """Return uint64[E], equal for questions on one passage: who has seen others of them knows the passage."""
        return rows.table.last_key[rows.index]

    def remarks(self, rows: Rows) -> list[str]:
        """Return notes on answers that were put right, and on those that are in no window or too long to be predicted."""
        return notes_on_answers(rows, self.max_answer_tokens)

    def cautions(self, rows: Rows) -> list[str]:
        """Return the same notes on rows to be tested on."""
        return notes_on_answers(rows, self.max_answer_tokens)

    @classmethod
    def examine(cls, source: RowSource, schema: Schema) -> list[Finding]:
        """Return how many questions have an answer, and what is wrong with those."""
        return examine_answers(source, schema)

    @classmethod
    def advice_on_missing(cls, table: TokenTable, config: Config) -> str:
        """Return how a question without answer is written."""
        return f" {HOW_TO_SAY_NONE}"

    # --- the network -------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> HeadSpec:
        """Transformers' head for starts and ends of answers."""
        return HeadSpec("question-answering", 2)

    def batch(self, rows: Rows, chosen: np.ndarray, seed: int) -> PackedBatch:
        """Return the batch; its loss is averaged over windows."""
        batch = pack([rows.table.example(row) for row in chosen.tolist()], rows.targets.take(chosen))
        return replace(batch, units=len(batch.lengths))

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Keep of outputs float[T, 2] the start and end scores of the null position and the passage's tokens of each window."""
        return outputs[indices(places_of(batch_windows(batch)), outputs.device)]

    def sizes(self, batch: PackedBatch) -> np.ndarray:
        """Return int[E], how many rows each example has in all its windows."""
        windows = batch_windows(batch)
        return np.bincount(batch.example, weights=windows[:, 2] - windows[:, 1] + 1, minlength=batch.size).astype(np.int64)

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[S]: for each window half of -log of the probability of its answers, p(start) p(end) summed over them.

        Start and end are each a softmax over the passage's tokens and the null position, which is the answer of a window without
        one. With one answer this is the mean of both cross-entropies (Devlin et al. 2019, "BERT", section 4.2), averaged over
        windows as transformers' run_qa.py does; the sum over several is the marginal likelihood of Clark and Gardner 2018,
        "Simple and Effective Multi-Paragraph Reading Comprehension", section 2.2, on whole spans. Label smoothing gives a share to all
        places of the window, start and end alike (Szegedy et al. 2016, section 7).
        """
        windows, answers = batch_windows(batch), batch_answers(batch)
        padded, there = _by_window(outputs, windows)
        sizes = there.sum(1)
        chances = torch.log_softmax(padded.masked_fill(~there[:, :, None], -torch.inf), 1)
        of = np.searchsorted(batch.cu_seqlens, answers[:, 0], side="right") - 1
        first = windows[of, 1]
        empty = np.setdiff1d(np.arange(len(windows)), of)
        nothing = np.zeros(len(empty), np.int64)
        spans = [(of, empty), (answers[:, 0] - first + 1, nothing), (answers[:, 1] - first + 1, nothing)]
        window, start, end = (indices(np.concatenate(pair), outputs.device) for pair in spans)
        each = chances[window, start, 0] + chances[window, end, 1]
        top = each.new_full((len(windows),), -torch.inf).scatter_reduce(0, window, each.detach(), "amax")
        total = torch.zeros_like(top).index_add(0, window, torch.exp(each - top[window]))
        terms = -(torch.log(total) + top) / 2
        if self.label_smoothing == 0:
            return terms
        even = -chances.masked_fill(~there[:, :, None], 0.0).sum(1).mean(1) / sizes
        return (1 - self.label_smoothing) * terms + self.label_smoothing * even

    def divergence(self, one: Tensor, other: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[S], for each window the mean of those of its starts and of its ends."""
        windows = batch_windows(batch)
        first, there = _by_window(self.combine(one, batch), windows)
        second, _ = _by_window(self.combine(other, batch), windows)
        return of_choices(first.transpose(1, 2), second.transpose(1, 2), there[:, None].expand(-1, 2, -1)).mean(1)

    # --- judging -----------------------------------------------------------------------------------------------------------

    @property
    def default_metric(self) -> str:
        """F1, as the leader boards of SQuAD sort."""
        return "f1"

    def computable(self, rows: Rows) -> Collection[str]:
        """Return the metrics; those of questions with and without answer where there are both."""
        has = rows.gold()
        if has.all():
            return ["exact_match", "f1"]
        kinds = ["has_answer_exact_match", "has_answer_f1"] if has.any() else []
        best = ["best_exact_match", "best_f1"] if self.unanswerable else []
        return ["exact_match", "f1", *kinds, "no_answer_accuracy", *best]

    @property
    def tunes(self) -> bool:
        """Whether there is a threshold, which only matters where "no answer" can be predicted."""
        return self.unanswerable

    def reduced(self, outputs: Ragged, rows: Rows) -> Ragged:
        """Return one row of `Best.values` for each question; NaN as the score of "no answer" where outputs are no finite numbers."""
        table, index = rows.table, rows.index.tolist()
        windows = [windows_of(table.points(row), int(table.sequences[row])) for row in index]
        offsets, texts = [table.offsets(row) for row in index], [table.text(row) for row in index]
        bad = ~np.isfinite(outputs.values).all(1)
        finite = Ragged(np.where(bad[:, None], 0, outputs.values), outputs.starts) if bad.any() else outputs
        values = Best.values(best_spans(finite, windows, offsets, texts, max_tokens=self.max_answer_tokens, most=_NBEST))
        values[np.searchsorted(outputs.starts, np.flatnonzero(bad), side="right") - 1, 3] = np.nan
        return Ragged(values, np.arange(len(values) + 1))

    def tune(self, outputs: Ragged, part: Part) -> QuestionAnswering:
        """Choose the threshold of "no answer" by F1 on these rows, where there are questions of both kinds."""
        best = Best.of(outputs.finite())
        return self._tuned(best, self._each(best, part), part)

    def _tuned(self, best: Best, each: np.ndarray, part: Part) -> QuestionAnswering:
        has = part.rows.gold()
        if not self.unanswerable or has.all() or not has.any():
            return self
        return replace(self, null_threshold=best_threshold(each[:, 1], best.margin, has)[1])

    def score(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, float]:
        """Return the metrics on validation rows, with the threshold of "no answer" that is best for these rows."""
        best = Best.of(outputs.finite())
        each = self._each(best, part)
        return self._tuned(best, each, part)._scored(best, each, part)[0]

    def _golds(self, part: Part) -> list[list[str]]:
        targets = part.rows.targets
        assert isinstance(targets, AnswerTargets)
        return [targets.texts(row) for row in part.rows.index.tolist()]

    def _match(self, part: Part) -> Match:
        """Return how answers of these rows are compared."""
        if self.answer_match != "auto":
            return "characters" if self.answer_match == "characters" else "words"
        return match_of([part.rows.table.text(row) for row in part.rows.index[:_SAMPLE].tolist()])

    def _each(self, best: Best, part: Part) -> np.ndarray:
        """Return float64[E, 2], exact match and F1 of the best span of each row, whether it is given or withheld."""
        predicted = [best.text(i, part.rows.table.text(row)) for i, row in enumerate(part.rows.index.tolist())]
        return scores(predicted, self._golds(part), self._match(part))

    def _scored(self, best: Best, each: np.ndarray, part: Part) -> tuple[dict[str, float], np.ndarray]:
        """Return the metrics, and float64[E, 2] of each row; each: of the best spans, as `_each` gives them."""
        has = part.rows.gold()
        values: dict[str, float] = {}
        if self.unanswerable and not has.all():
            values = {f"best_{name}": best_threshold(each[:, i], best.margin, has)[0] for i, name in enumerate(("exact_match", "f1"))}
        given = np.where(self._withheld(best)[:, None], (~has)[:, None].astype(np.float64), each)
        return averages(given, has) | values, given

    def extended(self, table: TokenTable, config: Config) -> QuestionAnswering:
        """Take in whether the new rows have questions without an answer."""
        targets = AnswerTargets(table.labels())
        unanswerable = self.unanswerable or bool(((targets.stratum() == 0) & ~targets.labels.missing).any())
        return replace(self, unanswerable=unanswerable, label_smoothing=config.label_smoothing)

    def measured(self, outputs: Ragged, part: Part, metric: str) -> Measured | None:
        """Return exact match and F1."""
        best = Best.of(outputs.finite())
        each = self._scored(best, self._each(best, part), part)[1]
        column = {"exact_match": 0, "f1": 1}.get(metric)
        return None if column is None else (len(each), lambda drawn: drawn @ each[:, column] / drawn.sum(1))

    def evaluation(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, Any]:
        """Return metrics with intervals, how far probabilities can be believed, and the most confident mistakes."""
        best = Best.of(outputs.finite())
        metrics, each = self._scored(best, self._each(best, part), part)
        golds, index, table = self._golds(part), part.rows.index, part.rows.table
        withheld = self._withheld(best)
        total = np.where(best.start < 0, best.null, np.logaddexp(best.total, best.null) if self.unanswerable else best.total)
        sure = np.exp(np.where(withheld, best.null, best.score) - total)
        bins = calibration_bins(np.where(each[:, 0] > 0, 0, 1), np.stack([sure, np.zeros(len(sure))], 1))
        return {
            "rows": len(best),
            "metrics": {**metrics, "ece": expected_calibration_error(bins)},
            "intervals": score_intervals(each, part.rows.gold(), seed=seed_for(0, "bootstrap")),
            "per_label": [],
            "confusion": None,
            "calibration": bins,
            "match": self._match(part),
            "mistakes": worst(
                part,
                np.where(each[:, 1] == 0, sure, 0),
                lambda row: " / ".join(golds[row]) or "no answer",
                lambda row: ("" if withheld[row] else best.text(row, table.text(int(index[row])))) or "no answer",
                progress,
            ),
        }

    def yardsticks(
        self, train: Part, train_examples: list[Example], test: Part, test_examples: list[Example], pretrained: Pretrained, seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return what the sentence nearest to the question, and never an answer, reach."""
        return simple_answers(train_examples, test_examples, self._golds(test), self._match(test))

    # --- predicting --------------------------------------------------------------------------------------------------------

    def _withheld(self, best: Best) -> np.ndarray:
        """Return bool[E], whether "no answer" is predicted."""
        return (best.start < 0) | (self.unanswerable & (best.margin > self.null_threshold))

    def _answer(self, found: Found, text: str) -> Answer:
        options: list[tuple[int | None, int | None, float]] = [*found.spans]
        if self.unanswerable or not options:
            options.append((None, None, found.null))
        values = np.array([score for *_, score in options], np.float64)
        shares = np.exp(values - values.max())
        shares /= shares.sum()
        nbest = [
            {"answer": text[start:end] if start is not None else "", "start": start, "end": end, "probability": share}
            for (start, end, _), share in zip(options, shares.tolist(), strict=True)
        ]
        withheld = not found.spans or (self.unanswerable and found.margin > self.null_threshold)
        best = nbest[-1] if withheld else nbest[0]
        nbest.sort(key=lambda one: -one["probability"])
        return Answer(best["answer"], best["start"], best["end"], best["probability"], nbest)

    def decode(self, outputs: Ragged, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Iterator[Answer]:
        """Yield an `Answer` for each example."""
        windows = [windows_of(one.points, len(one.sequences)) for one in encoded]
        offsets = [np.concatenate(one.offsets) for one in encoded]
        texts = [example.texts[-1] for example in examples]
        spans = best_spans(outputs, windows, offsets, texts, max_tokens=self.max_answer_tokens, most=_NBEST)
        for found, text in zip(spans, texts, strict=True):
            yield self._answer(found, text)

    def columns(self, prediction: Answer, *, flat: bool) -> dict[str, Any]:
        """Return answer, its first character's place, probability and the n best answers."""
        return dict(zip(self.added, (prediction.answer, prediction.start, prediction.probability, prediction.nbest), strict=True))

    def shown(self, prediction: Answer, example: Example) -> list[str]:
        """Return the five best answers, and the verdict."""
        lines = [
            f"{one['probability']:.4f}  " + (f"[{one['start']}:{one['end']}] {one['answer']!r}" if one["answer"] else "no answer")
            for one in prediction.nbest[:5]
        ]
        verdict = ""
        if example.target is not None:
            right = scores([prediction.answer], [example.target], self._match_of(example.texts[-1]))[0, 0] > 0
            verdict = " (right)" if right else f" (the row says {' / '.join(map(repr, example.target)) or 'no answer'})"
        return [*lines, f"answer: {prediction.answer!r}{verdict}" if prediction.answer else f"no answer{verdict}"]

    def _match_of(self, text: str) -> Match:
        return match_of([text]) if self.answer_match == "auto" else "characters" if self.answer_match == "characters" else "words"

    # --- being told and kept -----------------------------------------------------------------------------------------------

    def hub(self, schema: Schema) -> Hub:
        """Question answering."""
        none = ", or that it has none" if self.unanswerable else ""
        return Hub(
            "question-answering",
            "Question answering",
            f"extractive question answering: the span of a passage that answers a question{none}",
            '("Who wrote it?", "It was written by Ada Lovelace.")',
            "prediction.answer, prediction.start, prediction.probability",
        )

    def sentence(self) -> str:
        """Return what is learned."""
        return "question answering (qa), a span of the passage" + (" or no answer" if self.unanswerable else "")

    def to_dict(self) -> dict[str, Any]:
        """Return name, unanswerable, null_threshold, max_answer_tokens and answer_match."""
        keys = ("name", "unanswerable", "null_threshold", "max_answer_tokens", "answer_match")
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuestionAnswering:
        """Build the task that `to_dict` described."""
        return cls(
            bool(values["unanswerable"]), float(values["null_threshold"]), int(values["max_answer_tokens"]), str(values["answer_match"])
        )


def _by_window(outputs: Tensor, windows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return float[S, n, 2], the start and end scores of each window's places, zeros behind them, and bool[S, n], which are places."""
    sizes = windows[:, 2] - windows[:, 1] + 1
    there = to_device(np.arange(sizes.max()) < sizes[:, None], outputs.device)
    return outputs.new_zeros((*there.shape, 2)).masked_scatter(there[:, :, None], outputs), there
