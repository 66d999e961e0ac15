"""Learning from a few rows of each label: the encoder learns which texts belong together, then a head is fitted to its vectors.

N rows, E examples of a step, H width, C labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch
from tunesmith.errors import Diverged, counted, setting
from tunesmith.evaluate import outputs_for
from tunesmith.model.devices import to_device
from tunesmith.model.heads import PooledHead, TextModel
from tunesmith.progress import QUIET, Progress
from tunesmith.tasks.base import Task, merge_windows
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.rows import Rows
from tunesmith.training.gradients import Objective

TEMPERATURE = 0.2  # Khosla et al. 2020 take 0.1; on 8 rows a label of TREC 0.2 was as good or better
_OF_A_LABEL = 4  # rows that a step has of each of its labels, where there are many labels
_MANY = 64  # rows of a label above which training on the labels themselves is the better way
_COST = 10.0  # C of scikit-learn's LogisticRegression: as exact as 1 on vectors that were tuned, and surer of it


@dataclass(frozen=True)
class Stage:
    """What the loop is given: an objective, the rows by which its steps are planned, and the settings.

    ready: makes the model fit to be judged, called before each evaluation and behind the last step
    """

    objective: Objective
    rows: Rows
    config: Config
    ready: Callable[[], None]


def stage_of(config: Config, model: TextModel, task: Task, rows: Rows) -> Stage:
    """Return what the loop trains `model` for: the task itself, or with few-shot tuning the comparing of texts.

    Few-shot tuning makes of all its epochs one, as most of them would have a single step.
    """
    if config.tuning != "fewshot":
        return Stage(task, rows, config, lambda: None)
    assert isinstance(task, Classification)
    planned = replace(rows, index=np.tile(rows.index, config.epochs))
    objective = Contrast(task, config.batch_size, rows, holders_of(rows.targets.take(rows.index)))
    return Stage(objective, planned, config.model_copy(update={"epochs": 1}), lambda: fit_head(model, task, rows))


def remarks(rows: Rows) -> list[str]:
    """Return what the user should know of the number of rows."""
    counts = np.array(list(rows.targets.summary(rows.index).values()))
    notes = []
    if np.median(counts) > _MANY:
        notes.append(
            f"{setting('tuning', 'fewshot')} is meant for 2 to {_MANY} rows of a label, and half of the labels have over "
            f"{int(np.median(counts)):,}: {setting('tuning', 'full')} is likely to be better."
        )
    single = int((counts == 1).sum())
    if single:
        notes.append(
            f"{counted(single, 'label')} of {len(counts)} {'has' if single == 1 else 'have'} a single row, which is compared with itself "
            "under other dropout; a second row says much more."
        )
    return notes


@dataclass(frozen=True)
class Contrast:
    """Texts with a common label are to have like vectors, others unlike ones: the supervised contrastive loss.

    With z_i the vectors of length 1 of a step's E texts and P(i) the other texts that share a label with text i, text i adds

        - 1 / |P(i)|  sum over p in P(i) of  log( exp(z_i . z_p / t) / sum over a != i of exp(z_i . z_a / t) )

    (Khosla et al. 2020, "Supervised Contrastive Learning", equation 2). So each of E texts is run once and stands in E - 1 pairs; what
    is drawn takes memory in proportion to the rows, not to their pairs. With several labels a row the terms are weighed by the share of
    the two rows' labels that they have in common.

    rows: those that are drawn from; holders: of each label the places int64[n] in them that have it
    """

    task: Classification
    batch_size: int
    rows: Rows
    holders: list[np.ndarray]

    joint = True

    def batches(self, rows: Rows, chosen: np.ndarray, seed: int, max_tokens: int) -> list[PackedBatch]:
        """Return a step of texts drawn by `seed`, the same number of each of its labels; `rows` and `chosen` only say that it is a step."""
        drawn = draw(self.holders, self.batch_size, seed)
        return self.task.batches(self.rows, self.rows.index[drawn], seed, max_tokens)

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[E, H], a vector of length 1 for each example, from those of its windows, float[S, H]."""
        return F.normalize(merge_windows(outputs, batch, "mean"), dim=1)

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[E], whose sum divided by E is the loss of the batch, from vectors float[E, H]."""
        assert batch.targets is not None
        near = kinship(to_device(batch.targets, outputs.device))
        near.fill_diagonal_(0)
        scores = outputs @ outputs.T / TEMPERATURE
        scores = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -1e9)
        logs = scores - torch.logsumexp(scores, 1, keepdim=True)
        weight = near.sum(1)
        terms = -(logs * near).sum(1) / weight.clamp_min(1e-9)
        paired = weight > 0  # a text whose labels no other one of the step has is only among the others
        return terms * paired * (len(terms) / paired.sum().clamp_min(1))

    def tokens_an_example(self, rows: Rows) -> float:
        """Return how many tokens a row has on average."""
        return self.task.tokens_an_example(rows)


def kinship(targets: Tensor) -> Tensor:
    """Return float[E, E], the share of their labels that two rows have in common, from int64[E] or float[E, C]."""
    if targets.ndim == 1:
        return (targets[:, None] == targets[None]).float()
    common = targets @ targets.T
    either = targets.sum(1)[:, None] + targets.sum(1)[None] - common
    return common / either.clamp_min(1)


def holders_of(targets: np.ndarray) -> list[np.ndarray]:
    """Return of each label that any row has the numbers of its rows, ascending; targets: int64[N], or float[N, C] with several a row."""
    if targets.ndim == 2:
        return [rows for rows in map(np.flatnonzero, targets.T > 0) if len(rows)]
    order = np.argsort(targets, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(targets[order])) + 1) if len(order) else []


def draw(holders: list[np.ndarray], size: int, seed: int) -> np.ndarray:
    """Return numbers of rows for a step of about `size`: some labels in random order, and of each the same number of rows.

    holders: of each label its rows. A label's only row is drawn twice.
    """
    generator = np.random.default_rng(seed)
    count = min(len(holders), max(size // _OF_A_LABEL, 2))
    each = max(size // count, 2)
    drawn = []
    for label in generator.permutation(len(holders))[:count].tolist():
        rows = generator.permutation(holders[label])[:each]
        drawn.append(rows if len(rows) > 1 else np.repeat(rows, 2))
    return np.concatenate(drawn)


def fit_head(model: TextModel, task: Classification, rows: Rows) -> None:
    """Put a logistic regression on the vectors of `rows` into the head of `model`.

    The vectors are scaled to a mean length of 1, so that the strength of the regularisation does not depend on the encoder.
    """
    assert isinstance(model.head, PooledHead)
    vectors = vectors_of(model, task, rows)
    scale = float(np.linalg.norm(vectors, axis=1).mean())
    weight, bias = linear(vectors / scale, rows.gold(), task.outputs)
    with torch.no_grad():
        model.head.classifier.weight.copy_(torch.from_numpy(weight / scale))
        model.head.classifier.bias.copy_(torch.from_numpy(bias))


def vectors_of(model: TextModel, task: Classification, rows: Rows, progress: Progress = QUIET) -> np.ndarray:
    """Return float32[N, H], the mean of the hidden states of each of `rows`, and of its windows."""
    pooled = PooledHead(model.encoder.width, 1, "mean", 0.0)
    pooled.classifier = nn.Identity()  # type: ignore[assignment]
    reader = TextModel(model.encoder, pooled)
    return outputs_for(reader, replace(task, aggregation="mean"), rows, what="reading examples", progress=progress).values


def linear(vectors: np.ndarray, targets: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights float32[C, H] and biases float32[C] of a logistic regression; C labels, of which some may have no row.

    targets: int64[N], or float[N, C] with several labels a row, which get a regression each
    """
    weight, bias = np.zeros((outputs, vectors.shape[1]), np.float32), np.full(outputs, -10.0, np.float32)
    if targets.ndim == 1:
        seen = np.unique(targets)
        bias[seen] = 0.0
        if len(seen) > 1:
            found, start = _fitted(vectors, targets)
            if len(seen) == 2:  # one row of weights, for the second label
                found, start = np.concatenate([-found, found]) / 2, np.concatenate([-start, start]) / 2
            weight[seen], bias[seen] = found, start
        return weight, bias
    for label in range(outputs):
        held = targets[:, label] > 0
        if held.all():
            bias[label] = 10.0
        elif held.any():
            found, start = _fitted(vectors, held)
            weight[label], bias[label] = found[0], start[0]
    return weight, bias


def _fitted(vectors: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    if not np.isfinite(vectors).all():
        raise Diverged(f"what the encoder makes of the rows is no finite number: training diverged. Lower {setting('lr')}.")
    found = LogisticRegression(C=_COST, max_iter=1000).fit(vectors.astype(np.float64), targets)
    return found.coef_, found.intercept_
