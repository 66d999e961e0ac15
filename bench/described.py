"""Labels from descriptions alone: tunesmith's `--tuning none` beside the same encoder in ten lines of sentence-transformers.

    python -m bench.described [--rows trec,sst2,agnews] [--test-rows 1000] [--write docs/benchmarks.md]

Nothing is trained and no labelled row is seen. Both programs read the same descriptions, written before any score was known and left as
they were. The lines by hand are what one writes first: the mean of the vectors of a label's descriptions, the greatest cosine. The names
of the labels alone, as tunesmith reads them, stand beside.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.data import data_folder, read
from bench.run import bundled_encoder, machine
from bench.table import write

BEGIN = "<!-- described: begin (made by `python -m bench.described --write docs/benchmarks.md`) -->"
END = "<!-- described: end -->"
DESCRIPTIONS: dict[str, dict[str, list[str]]] = {
    "trec": {
        "ABBR": ["an abbreviation", "what the letters of an abbreviation stand for"],
        "DESC": ["a definition or description", "a reason, an explanation, how something works"],
        "ENTY": ["a thing: an animal, a product, a colour, a food, a word", "which thing"],
        "HUM": ["a person or a group of people", "who"],
        "LOC": ["a place: a city, a country, a mountain", "where"],
        "NUM": ["a number: a date, an amount, a distance", "how many, when"],
    },
    "sst2": {
        "negative": ["a bad film", "a film that is boring, silly or poorly made"],
        "positive": ["a good film", "a film that is moving, funny or well made"],
    },
    "agnews": {
        "World": ["world politics, wars and foreign affairs", "news from other countries"],
        "Sports": ["sports", "a match, a team, a player, a championship"],
        "Business": ["business, companies and markets", "the economy, prices and shares"],
        "Sci/Tech": ["science and technology", "computers, software, space and the internet"],
    },
}


def by_hand(texts: list[str], said: dict[str, list[str]]) -> list[str]:
    """Return the label of each text whose mean description is nearest, by sentence-transformers."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(bundled_encoder()), device="cpu")
    names = list(said)
    known = np.stack([encoder.encode(said[name], normalize_embeddings=True).mean(0) for name in names])
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    return [names[best] for best in (encoder.encode(texts, normalize_embeddings=True) @ known.T).argmax(1)]


def ours(texts: list[str], said: dict[str, list[str]]) -> list[str]:
    """Return the labels that a model made of the descriptions predicts."""
    import tunesmith

    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {
            "tuning": "none",
            "prompts": said,
            "model": str(bundled_encoder()),
            "out": str(Path(directory) / "model"),
        }
        made = tunesmith.train(**settings, progress="quiet")
        return [prediction.label for prediction in made.bundle.predict(texts)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify by descriptions of labels and print the table.")
    parser.add_argument("--rows", default=",".join(DESCRIPTIONS), help="which data sets (default: all)")
    parser.add_argument("--test-rows", type=int, help="only so many of the test rows, for a quick look")
    parser.add_argument("--write", type=Path, help="a page to put the table into as well, between its markers")
    args = parser.parse_args()
    if unknown := [name for name in args.rows.split(",") if name not in DESCRIPTIONS]:
        parser.error(f"--rows: {', '.join(unknown)} not among {', '.join(DESCRIPTIONS)}")
    from tunesmith.prompts import readable

    lines = [
        "| data | test rows | descriptions, tunesmith | descriptions, by hand | names alone | tunesmith, s | by hand, s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in args.rows.split(","):
        rows = read(data_folder() / name / "test.csv", ["text", "label"])
        if args.test_rows is not None and args.test_rows < len(rows):
            rows = random.Random(name).sample(rows, args.test_rows)
        texts, gold, said = [text for text, _ in rows], [label for _, label in rows], DESCRIPTIONS[name]
        if wrong := set(gold) - set(said):
            sys.exit(f"bench: {name} has labels without a description: {', '.join(sorted(wrong))}")
        shares, seconds = [], []
        for way, told in ((ours, said), (by_hand, said), (ours, {label: [readable(label)] for label in said})):
            began = time.perf_counter()
            shares.append(sum(map(str.__eq__, way(texts, told), gold)) / len(gold))
            seconds.append(time.perf_counter() - began)
        cells = " | ".join(f"{share:.3f}" for share in shares)
        lines.append(f"| {name} | {len(gold):,} | {cells} | {seconds[0]:.0f} | {seconds[1]:.0f} |")
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", f"machine: {machine()}; {time.strftime('%Y-%m-%d')}"])
    print("\n" + text)
    if args.write is not None:
        write(args.write, text, BEGIN, END)


if __name__ == "__main__":
    main()
