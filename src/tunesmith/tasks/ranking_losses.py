"""Losses of ranking: from the scores of a query's candidates, and of a step's queries and passages, to what is to be made small.

Q queries, P passages, n candidates of one query.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pointwise(scores: Tensor, grades: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean binary cross-entropy of scores float[n], as logits, with `grades` float[n] in [0, 1].

    smoothing: here and below, the share of what is aimed at that is spread evenly (Szegedy et al. 2016, "Rethinking the Inception
        Architecture", section 7): over relevant and not, over both orders of a pair, over the candidates
    """
    return functional.binary_cross_entropy_with_logits(scores, grades * (1 - smoothing) + smoothing / 2)


def pairwise(scores: Tensor, grades: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean of log(1 + exp(s_j - s_i)) over all pairs of which i has the higher grade; 0 without such a pair.

    RankNet: Burges et al. 2005, "Learning to Rank using Gradient Descent", section 3, with target probability 1, less half of `smoothing`.
    """
    higher = grades[:, None] > grades[None, :]
    gaps = (scores[:, None] - scores[None, :])[higher]
    # softplus(x) = softplus(-x) + x: the other order's term
    return (functional.softplus(-gaps) + smoothing / 2 * gaps).mean() if len(gaps) else scores.sum() * 0


def listwise(scores: Tensor, grades: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of softmax(grades) and softmax(scores), both float[n].

    ListNet: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach", section 5, top-one probabilities.
    """
    wanted = torch.softmax(grades, 0) * (1 - smoothing) + smoothing / len(grades)
    return -(wanted * torch.log_softmax(scores, 0)).sum()


def contrastive(queries: Tensor, passages: Tensor, relation: Tensor, temperature: float, smoothing: float = 0.0) -> Tensor:
    """Return float[Q], each query's loss: of its relevant passage against all others of the step.

    queries: float[Q, H], passages: float[P, H], of length 1; relation: float[Q, P], above 0 for the passage that is to be found, 0 for
    those that are not relevant, below 0 for those that must not be counted, as they are relevant, too

    -log(exp(s+/t) / (exp(s+/t) + sum over the others of exp(s/t))), s the cosine, t the temperature: van den Oord et al. 2018,
    "Representation Learning with Contrastive Predictive Coding", equation 4; with the negatives of the batch as Karpukhin et al. 2020,
    "Dense Passage Retrieval", section 3.2. Several relevant passages of a query each have such a term; their mean is taken.
    """
    logits = queries @ passages.T / temperature
    wanted = relation > 0
    others = torch.where(relation == 0, logits, torch.full_like(logits, -torch.inf))
    against = torch.logsumexp(torch.cat([others, torch.full_like(logits[:, :1], -1e9)], 1), 1, keepdim=True)
    whole = torch.logaddexp(logits, against)
    terms = whole - logits
    if smoothing:
        # evenly over the relevant passage of the term and all that are against it
        negative = relation == 0
        counts = negative.sum(1, keepdim=True)
        even = whole - (logits + torch.where(negative, logits, torch.zeros_like(logits)).sum(1, keepdim=True)) / (1 + counts)
        terms = (1 - smoothing) * terms + smoothing * even
    return torch.where(wanted, terms, torch.zeros_like(terms)).sum(1) / wanted.sum(1).clamp(min=1)
