"""What simple methods reach on the same rows, so that a fine-tuned model's scores can be judged.

Shapes: E examples, C classes (labels).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith import metrics
from tunesmith.data.scripts import UNSPACED
from tunesmith.errors import listing
from tunesmith.progress import QUIET, Progress, Tracker
from tunesmith.seeds import seed_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAJORITY = "majority class"
TFIDF = "TF-IDF + logistic regression"

# A yardstick should cost seconds; beyond this much text it learns from a sample, and says so.
_MAX_CHARACTERS = 20_000_000

_UNSPACED = re.compile(f"[{UNSPACED}]")
_UNSPACED_SHARE = 0.2  # one Latin brand name must not turn a Chinese text into a spaced one, nor one Chinese name an English text

# A word is a run free of spaces and punctuation. `\w` would cut the words of Indic scripts at each vowel sign.
_WORD = (
    r"[^\s!-/:-@\[-`{-~\u00a1\u00ab\u00b7\u00bb\u00bf\u060c\u061b\u061f\u0964\u0965\u2010-\u2027\u2030-\u205e\u3001-\u3003\u3008-\u301f]+"
)


def yardsticks(
    train_texts: Sequence[tuple[str, ...]],
    train_targets: NDArray[Any],
    test_texts: Sequence[tuple[str, ...]],
    labels: Sequence[str],
    kind: metrics.Kind,
    seed: int,
    *,
    tune: bool = False,
    progress: Progress = QUIET,
) -> list[dict[str, Any]]:
    """Predict `test_texts` with the majority class and with TF-IDF + logistic regression, both learned from the training rows.

    TF-IDF counts words and pairs of words with sublinear term frequency, or one to three characters for scripts written
    without spaces; one L2-regularised logistic regression (C = 10) per class, normalised over the classes when each example
    has exactly one. For pairs of texts the features are those of both, of their absolute difference and of their product.
    This never raises: a yardstick that cannot be computed has None for probabilities and the reason as note.

    Args:
        train_texts, test_texts: the one text of each example, or its two.
        train_targets: int[E] in [0, C) for ``single``, bool[E, C] for ``multi``.
        seed: the run's; samples derive theirs from it.
        tune: multi-label only. Choose the thresholds of TF-IDF on a fifth of the training rows that it has not seen, as is
            fair beside a model whose thresholds are tuned.

    Returns:
        Per yardstick: name; probabilities float[E of test, C] or None; thresholds float[C] or None; note.
    """
    return [
        _attempt(MAJORITY, lambda: _majority(train_targets, len(test_texts), labels, kind)),
        _attempt(TFIDF, lambda: _tfidf(train_texts, train_targets, test_texts, labels, kind, seed, tune, progress)),
    ]


def scored(
    found: Sequence[dict[str, Any]],
    gold: NDArray[Any],
    labels: Sequence[str],
    kind: metrics.Kind,
    seed: int = 0,
    progress: Progress = QUIET,
) -> list[dict[str, Any]]:
    """Return name, note, metrics and intervals of each of `yardsticks`' results, JSON-able; both empty for one that was skipped.

    Args:
        gold: int[E] or bool[E, C], the targets of the test texts.
        seed: of the resamples; the model's own intervals must be given the same, and by default are.
    """
    results = []
    for yardstick in found:
        result: dict[str, Any] = {"name": yardstick["name"], "note": yardstick["note"], "metrics": {}, "intervals": {}}
        if yardstick["probabilities"] is not None:
            with progress.track(f"scoring {yardstick['name']}", metrics.scoring_steps(gold, len(labels)), "steps") as tracker:
                whole = metrics.evaluation(gold, yardstick["probabilities"], labels, kind, yardstick["thresholds"], seed, tracker.advance)
            result |= {"metrics": whole["metrics"], "intervals": whole["intervals"]}
        results.append(result)
    return results


class Skip(Exception):
    """This yardstick says nothing here; the message is the note."""


def _attempt(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {"name": name, "probabilities": None, "thresholds": None, "note": ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a yardstick short of convergence is still a yardstick
            return result | compute()
    except Skip as reason:
        return result | {"note": f"skipped: {reason}"}
    except Exception as error:  # whatever goes wrong here, the trained model must still be saved
        return result | {"note": f"skipped: {type(error).__name__}: {error}"}


def _majority(targets: NDArray[Any], rows: int, labels: Sequence[str], kind: metrics.Kind) -> dict[str, Any]:
    if not len(targets):
        raise Skip("there are no training rows")
    if kind == "single":
        share = np.bincount(targets, minlength=len(labels)) / len(targets)
        top = int(share.argmax())
        note = f"always “{labels[top]}”, the label of {share[top]:.1%} of the training rows"
    else:
        share = np.asarray(targets, np.float64).mean(0)
        chosen = [label for label, part in zip(labels, share, strict=True) if part >= 0.5]
        note = (
            f"each label with its share of the training rows as probability; at threshold 0.5 it predicts {listing(chosen) or 'no label'}"
        )
    return {"probabilities": np.tile(share, (rows, 1)), "note": note}


def _features(vectorizer: Any, texts: Sequence[tuple[str, ...]], tracker: Tracker, *, fit: bool) -> Any:
    """Return a sparse matrix, a row for each example: the text's features, or of two texts a and b those of a, b, |a - b| and a * b."""
    from scipy import sparse

    columns = list(zip(*texts, strict=True))
    if len(columns) < 2:
        return (vectorizer.fit_transform if fit else vectorizer.transform)(_counted(columns[0] if columns else (), tracker))
    if fit:
        vectorizer.fit(_counted(list(chain.from_iterable(texts)), tracker))
    first, second = (vectorizer.transform(_counted(column, tracker)) for column in columns)
    return sparse.hstack([first, second, abs(first - second), first.multiply(second)], format="csr")


def unspaced(texts: Sequence[str]) -> bool:
    """Return whether the texts (a sample of 1,000) are mostly in a script without spaces between words."""
    step = max(1, len(texts) // 1000)
    sample = "".join(text[:500] for text in texts[::step])
    letters = sum(map(str.isalpha, sample))
    return len(_UNSPACED.findall(sample)) > _UNSPACED_SHARE * letters


def _tfidf(
    texts: Sequence[tuple[str, ...]],
    targets: NDArray[Any],
    test_texts: Sequence[tuple[str, ...]],
    labels: Sequence[str],
    kind: metrics.Kind,
    seed: int,
    tune: bool,
    progress: Progress,
) -> dict[str, Any]:
    targets = np.asarray(targets)
    truth = np.eye(len(labels), dtype=bool)[targets] if kind == "single" else targets.astype(bool)
    if not (truth.any(0) & ~truth.all(0)).any():
        raise Skip("no label occurs in some training rows and not in others")
    kept, features, test_features, note = tfidf(texts, test_texts, seed, progress)
    note += "; liblinear, C = 10"
    truth = truth[kept]
    with progress.track(f"{TFIDF}, learning", len(labels), "labels") as tracker:
        probabilities = _fit_predict(features, truth, test_features, tracker)
    thresholds = None
    if kind == "single":
        total = probabilities.sum(1, keepdims=True)
        probabilities = np.where(total > 0, probabilities / np.where(total > 0, total, 1), 1 / len(labels))
    elif tune and len(kept) >= 10:
        order = np.random.default_rng(seed_for(seed, "yardstick thresholds")).permutation(len(kept))
        held, rest = order[: len(kept) // 5], order[len(kept) // 5 :]
        with progress.track(f"{TFIDF}, learning for thresholds", len(labels), "labels") as tracker:
            thresholds = metrics.tune_thresholds(truth[held], _fit_predict(features[rest], truth[rest], features[held], tracker))
        note += "; thresholds tuned on a held-out fifth of the training rows"
    return {"probabilities": probabilities, "thresholds": thresholds, "note": note}


def tfidf(
    texts: Sequence[tuple[str, ...]], test_texts: Sequence[tuple[str, ...]], seed: int, progress: Progress
) -> tuple[NDArray[np.int64], Any, Any, str]:
    """Return which training texts were learned from, their features and those of the test texts (sparse), and a note on how.

    Raises `Skip` when the training texts contain no words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    joined = [" ".join(example) for example in texts]
    if unspaced(joined):
        how, options = "1-3 characters, as the script has no spaces between words", {"analyzer": "char", "ngram_range": (1, 3)}
    else:
        how, options = "words and word pairs", {"token_pattern": _WORD, "ngram_range": (1, 2)}
    kept = _sample(joined, seed)
    note = f"on {how}{', of each text, their difference and product' if len(texts[0]) == 2 else ''}"
    if len(kept) < len(texts):
        note += f"; learned from {len(kept):,} of the {len(texts):,} training rows, drawn at random"
        texts = [texts[int(i)] for i in kept]
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float64, **options)
    pairs = len(texts[0]) == 2
    work = len(texts) * (4 if pairs else 1) + len(test_texts) * (2 if pairs else 1)
    with progress.track("TF-IDF, counting words", work, "texts") as tracker:
        try:
            features = _features(vectorizer, texts, tracker, fit=True)
        except ValueError as error:  # scikit-learn's only way to say that the vocabulary is empty
            raise Skip("the training texts contain no words") from error
        test_features = _features(vectorizer, test_texts, tracker, fit=False)
    return kept, features, test_features, note


def _counted(texts: Sequence[str], tracker: Tracker) -> Iterator[str]:
    for text in texts:
        yield text
        tracker.advance()


def _fit_predict(features: Any, truth: NDArray[Any], test_features: Any, tracker: Tracker) -> NDArray[np.float64]:
    """Return float[E of test, C] from one binary regression per label; a label that never varies keeps its share, 0 or 1.

    For 10,000 short texts in 77 classes this took 1.6 s on one core where the multinomial model with L-BFGS took 6 s, at
    the same accuracy.
    """
    from sklearn.linear_model import LogisticRegression

    probabilities = np.tile(truth.mean(0), (test_features.shape[0], 1))
    for c in range(truth.shape[1]):
        if truth[:, c].any() and not truth[:, c].all():
            model = LogisticRegression(solver="liblinear", C=10.0, max_iter=50)
            probabilities[:, c] = model.fit(features, truth[:, c]).predict_proba(test_features)[:, 1]
        tracker.advance()
    return probabilities


def _sample(texts: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the indices of as many rows as fit `_MAX_CHARACTERS`, all or drawn at random, in order."""
    lengths = np.array([len(text) for text in texts])
    if lengths.sum() <= _MAX_CHARACTERS:
        return np.arange(len(texts))
    order = np.random.default_rng(seed_for(seed, "yardstick sample")).permutation(len(texts))
    return np.sort(order[np.cumsum(lengths[order]) <= _MAX_CHARACTERS])


def measured(
    name: str, compute: Callable[[], tuple[NDArray[Any], str]], gold: NDArray[Any], of: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return name, note, metrics and intervals of predicted numbers; `compute` returns them, float[E], and a note. Never raises.

    of: the metrics that mean something for it; None for all
    """
    from tunesmith.regression_metrics import regression, regression_intervals

    result: dict[str, Any] = {"name": name, "note": "", "metrics": {}, "intervals": {}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predicted, result["note"] = compute()
        scores, bounds = regression(gold, predicted), regression_intervals(gold, predicted, seed=seed_for(0, "bootstrap"))
        result["metrics"] = {key: value for key, value in scores.items() if of is None or key in of}
        result["intervals"] = {key: value for key, value in bounds.items() if key in result["metrics"]}
    except Exception as error:  # whatever goes wrong here, the trained model must still be saved
        result["note"] = f"skipped: {error if isinstance(error, Skip) else f'{type(error).__name__}: {error}'}"
    return result


def ridge(
    texts: Sequence[tuple[str, ...]], values: NDArray[Any], test_texts: Sequence[tuple[str, ...]], seed: int, progress: Progress
) -> tuple[NDArray[Any], str]:
    """Return the predictions, float[E of test], of ridge regression on TF-IDF features, and a note on how."""
    from sklearn.linear_model import Ridge

    kept, features, test_features, note = tfidf(texts, test_texts, seed, progress)
    model = Ridge(alpha=1.0).fit(features, values[kept])
    return model.predict(test_features), f"{note}; alpha = 1"
