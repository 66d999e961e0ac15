"""An index of many passages: how long it takes to build, how large it is, and how long a search takes.

    python -m bench.passages [--passages 100000,1000000] [--model none]

The passages are made-up sentences of words as frequent as those of a language (the n-th one 1/n times as frequent as the first), with a
number that only one of them has. Each index is built by `tunesmith index` in a process of its own; then sentences out of it are
searched for, and are to be found first. With `--model all-minilm-l6-v2` passages get vectors as well.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_WORDS = 50_000
_SEARCHES = 200


def sentences(count: int) -> list[str]:
    """Return made-up sentences of 4 to 29 words, always the same."""
    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, _WORDS + 1)
    lengths = generator.integers(4, 30, count)
    words = np.split(generator.choice(_WORDS, lengths.sum(), p=shares / shares.sum()), np.cumsum(lengths)[:-1])
    return [f"{' '.join(f'w{word}' for word in chosen.tolist())} n{number}" for number, chosen in enumerate(words)]


def build(corpus: Path, out: Path, model: str) -> tuple[float, float]:
    """Index `corpus`; return the seconds that it took, and the peak of resident memory in MB."""
    command = [sys.executable, "-m", "tunesmith", "index", str(corpus), "-o", str(out), "--model", model, "--quiet"]
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"bench: tunesmith index ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def search(index: Path, texts: list[str]) -> tuple[float, float, float]:
    """Return the seconds that opening takes, the median of a search's milliseconds, and the share of sentences found first."""
    from tunesmith.search import SearchIndex

    began = time.monotonic()
    opened = SearchIndex(index)
    opened.search("w0", 1)
    opening = time.monotonic() - began
    taken, right = [], 0
    for number in np.random.default_rng(1).choice(len(texts), _SEARCHES).tolist():
        began = time.monotonic()
        found = opened.search(texts[number], 10)
        taken.append(1000 * (time.monotonic() - began))
        right += found[0].id == str(number)
    return opening, statistics.median(taken), right / _SEARCHES


def main() -> None:
    parser = argparse.ArgumentParser(description="Index made-up passages and search them.")
    parser.add_argument("--passages", default="100000,1000000", help="how many, with commas")
    parser.add_argument("--model", default="none", help="what gives the vectors; none: words only")
    arguments = parser.parse_args()
    print("| passages | built in, s | peak MB | on disk, MB | opened in, s | a search, ms | found first |")
    print("|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for count in map(int, arguments.passages.split(",")):
        texts = sentences(count)
        with tempfile.TemporaryDirectory() as folder:
            corpus, index = Path(folder) / "corpus.csv", Path(folder) / "index"
            with corpus.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("id", "text"))
                writer.writerows(enumerate(texts))
            seconds, peak = build(corpus, index, arguments.model)
            size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file()) / 2**20
            opening, milliseconds, first = search(index, texts)
        cells = [f"{count:,}", f"{seconds:,.0f}", f"{peak:,.0f}", f"{size:,.0f}", f"{opening:.1f}", f"{milliseconds:.1f}", f"{first:.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
