"""Telling the user what goes on: a bar with rate and time left on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Literal

Mode = Literal["auto", "bar", "lines", "quiet"]

_QUIET_S = 1.0  # work shorter than this shows nothing
_LINE_EVERY_S = 10.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class Tracker:
    """Counts one piece of work. `advance` is cheap enough to be called for every batch."""

    def __init__(self, what: str, total: float | None, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0.0
        self.skipped = 0.0
        self.note = ""
        self.start = time.monotonic()

    def advance(self, count: float = 1, note: str | None = None) -> None:
        """Add `count` units to what is done; `note` (a loss, say) is shown behind the rate."""
        self.done += count
        if note is not None:
            self.note = note
        self._show()

    def skip(self, count: float) -> None:
        """Count `count` units as done before, by an interrupted run: they do not enter the rate."""
        self.skipped = count

    @property
    def share(self) -> float:
        """How much of the total is done, in [0, 1]."""
        return min((self.done + self.skipped) / self.total, 1) if self.total else 0.0

    def line(self) -> str:
        """Return the state in words: share done, rate, time left."""
        elapsed = max(time.monotonic() - self.start, 1e-9)
        rate = self.done / elapsed
        parts = [self.what]
        if self.total:
            parts.append(f"{self.share:4.0%}")
        parts.append(f"{_rate(rate)} {self.unit}/s")
        if self.total and rate and self.share < 1:
            parts.append(f"{_duration((self.total - self.done - self.skipped) / rate)} left")
        if self.note:
            parts.append(self.note)
        return " · ".join(parts)

    def _show(self) -> None:
        pass


class _LineTracker(Tracker):
    shown = 0.0

    def _show(self) -> None:
        now = time.monotonic()
        # what is done is told by the closing line
        if now - self.start >= _QUIET_S and now - self.shown >= _LINE_EVERY_S and self.share < 1:
            self.shown = now
            print(self.line(), file=sys.stderr, flush=True)


class _BarTracker(Tracker):
    shown = 0.0

    def _show(self) -> None:
        now = time.monotonic()
        if now - self.start < _QUIET_S or now - self.shown < 0.1:
            return
        self.shown = now
        bar = ""
        if self.total:
            filled = round(24 * self.share)
            bar = "━" * filled + "╺" * (24 - filled) + " "
        width = _terminal_width()
        print("\r\x1b[2K" + (bar + self.line())[: width - 1], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.shown:
            self.shown = 0.0
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


class Progress:
    """Where a command reports to. `auto` shows bars when stderr is a terminal and lines when it is not."""

    def __init__(self, mode: Mode = "auto", *, verbose: bool = False) -> None:
        """verbose: whether details are said"""
        self.verbose = verbose
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "lines"
        self.mode = mode
        self._bars: list[_BarTracker] = []

    def say(self, text: str) -> None:
        """Print one line for the user."""
        if self.mode != "quiet":
            for bar in self._bars:  # a line stands above the bar, which is drawn anew below it
                bar.clear()
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Print one line for the user who asked for details."""
        if self.verbose:
            self.say(text)

    @contextlib.contextmanager
    def track(self, what: str, total: float | None = None, unit: str = "rows") -> Iterator[Tracker]:
        """Show the progress of the block through the tracker it gets; nothing is shown for work under a second."""
        kind = {"bar": _BarTracker, "lines": _LineTracker}.get(self.mode, Tracker)
        tracker = kind(what, total, unit)
        if isinstance(tracker, _BarTracker):
            self._bars.append(tracker)
        try:
            yield tracker
        finally:
            took = time.monotonic() - tracker.start
            if took >= _QUIET_S:
                units = unit.removesuffix("s") if tracker.done == 1 else unit
                self.say(f"{what}: {tracker.done:,.0f} {units} in {_duration(took)} ({_rate(tracker.done / took)} {unit}/s)")
            if isinstance(tracker, _BarTracker):
                tracker.clear()
                self._bars.remove(tracker)


class Bars(Progress):
    """Shows work that takes its time, and none of the lines: for a training that is one of several, which all would say the same."""

    def say(self, text: str) -> None:
        pass


QUIET = Progress("quiet")
