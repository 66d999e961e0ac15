"""What takes more than a second is seen to move, and a line of text never lands in the middle of a bar."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tiny
from tunesmith import metrics, progress, yardsticks
from tunesmith.data.memory import open_data
from tunesmith.progress import Progress, Tracker
from tunesmith.recipe import train
from tunesmith.resolve import resolve


class Watch(Progress):
    """Shows nothing and keeps every tracker."""

    def __init__(self) -> None:
        super().__init__("quiet")
        self.trackers: dict[str, Tracker] = {}

    @contextlib.contextmanager
    def track(self, what: str, total: float | None = None, unit: str = "rows") -> Iterator[Tracker]:
        with super().track(what, total, unit) as tracker:
            self.trackers[what] = tracker
            yield tracker


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_yardsticks_advance_by_text_and_by_label(kind: metrics.Kind) -> None:
    rows = tiny.rows(40, labels=("animal", "colour", "neither"))
    texts, labels = [(row["text"],) for row in rows], ["animal", "colour", "neither"]
    targets = np.array([labels.index(row["label"]) for row in rows])
    gold = targets if kind == "single" else np.eye(3, dtype=bool)[targets]
    watch = Watch()
    found = yardsticks.yardsticks(texts, gold, texts[:10], labels, kind, 0, tune=kind == "multi", progress=watch)
    yardsticks.scored(found, gold[:10], labels, kind, progress=watch)
    counting, learning = (watch.trackers[what] for what in ("TF-IDF, counting words", "TF-IDF + logistic regression, learning"))
    assert (counting.total, counting.done, learning.total, learning.done) == (50, 50, 3, 3)
    assert ("TF-IDF + logistic regression, learning for thresholds" in watch.trackers) == (kind == "multi")
    assert all(tracker.done == tracker.total for tracker in watch.trackers.values())


@pytest.mark.parametrize(("rows", "labels", "kind"), [(9, 2, "single"), (9, 4, "single"), (9, 4, "multi"), (4001, 3, "multi")])
def test_scores_advance_by_as_many_steps_as_were_told(rows: int, labels: int, kind: metrics.Kind) -> None:
    generator = np.random.default_rng(0)
    gold = generator.integers(0, labels, rows) if kind == "single" else generator.random((rows, labels)) < 0.5
    probabilities = generator.random((rows, labels))
    done: list[int] = []
    found = metrics.evaluation(gold, probabilities, [str(i) for i in range(labels)], kind, advance=done.append)
    assert sum(done) == metrics.scoring_steps(gold, labels)
    if kind == "multi":
        from sklearn.metrics import label_ranking_average_precision_score

        assert found["metrics"]["lrap"] == pytest.approx(label_ranking_average_precision_score(gold, probabilities), rel=1e-12)


def test_the_fingerprint_of_a_file_advances_by_its_bytes(tmp_path: Path) -> None:
    content = b"text\n" + b"a red cat\n" * 300_000
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    watch = Watch()
    found = open_data(path).fingerprint(watch)
    tracker = watch.trackers[f"checking {path}"]
    assert tracker.done == pytest.approx(tracker.total) == pytest.approx(3.000005) and tracker.unit == "MB"
    assert found == hashlib.blake2b(content + repr(("csv", None)).encode(), digest_size=32).hexdigest()


def test_every_stage_of_a_training_has_a_tracker(tiny_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))  # nothing may be tokenised already
    watch = Watch()
    settings = {"train": str(reviews), "model": str(tiny_bert), "epochs": 1, "out": str(tmp_path / "m"), "precision": "fp32"}
    train(resolve(settings), progress=watch)
    stages = {"checking", "tokenising", "training", "validating", "scoring", "testing", "reading"}
    assert stages <= {what.split(" ")[0] for what in watch.trackers}
    assert all(tracker.done == pytest.approx(tracker.total) for tracker in watch.trackers.values() if tracker.total is not None)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_line_stands_above_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("bar")
    with shown.track("outer", 2, "steps") as outer:
        outer.advance()
        shown.say("a line")
        outer.advance()
        with shown.track("inner", 1, "rows") as inner:
            inner.advance()
    # what a terminal shows: each line as it was after its last erasure
    lines = [line.split("\x1b[2K")[-1].strip("\r") for line in capsys.readouterr().err.split("\n")]
    assert lines[0] == "a line" and lines[1].startswith("inner: 1 row in") and lines[2].startswith("outer: 2 steps in")
    assert lines[3] == ""


def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("bar", "lines", "quiet"):
        with Progress(mode).track("short", 1) as tracker:
            tracker.advance()
    assert capsys.readouterr().err == ""
