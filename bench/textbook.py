"""The textbook task: all IMDB training reviews, 512 tokens, three epochs, all test reviews; and what could make it better.

    python -m bench.textbook [--trials plain,mean,rate+mean] [--whole plain,rate+mean] [--write docs/benchmarks.md]

Trials train on a part of the training reviews, as the whole run does, without choosing among epochs, and are judged by another part of
them: ingredients are chosen there, and the test file is not opened. `--whole` then names what is trained on all reviews and tested. Each
training is one command of tunesmith in a process of its own, which the page shows; it is resumed where it was cut off, and a finished one
is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import ROOT, balanced_sample, data_folder, read, written
from bench.quality import paired_difference
from bench.run import machine
from bench.speed import best_rate, work_per_token
from bench.table import write

BEGIN = "<!-- textbook: begin (made by `python -m bench.textbook --write docs/benchmarks.md`) -->"
END = "<!-- textbook: end -->"
TRIAL_ROWS = 2_000
JUDGED_ROWS = 4_000
ENCODER = "encoder"  # the directory of the encoder that was pretrained on the reviews
PLAIN = "plain"
INGREDIENTS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "rate": ("--lr=1e-4",),
    "mean": ("--pooling=mean",),
    "head-tail": ("--truncation=head-tail",),
    "windows": ("--truncation=windows",),
    "layerwise": ("--tuning=layerwise",),
    "r-drop": ("--r-drop=1",),
    "fgm": ("--fgm=1",),
    "ema": ("--ema=0.99",),
    "average": ("--average=2",),
    "cosine": ("--schedule=cosine", "--warmup=0.1"),
    "smoothing": ("--label-smoothing=0.1",),
    "dropouts": ("--multi-sample-dropout=5",),
    "pretrained": (f"--model={ENCODER}",),
}
TRIAL_FLAGS = ("--valid-size=0", "--test-size=0", "--batch-size=16")
"""Half of the usual batch: twice the steps, of which so few rows have few."""
COMMON = ("--text=text", "--label=label", "--max-length=512", "--epochs=3")

Result = dict[str, Any]


def run(command: list[str], out: Path) -> Result:
    """Run a command of tunesmith that writes `out`, go on with it, or read what it told when it was finished; return its line of JSON."""
    line = [sys.executable, "-m", "tunesmith", *command, f"--out={out}", "--json"]
    if (out / "checkpoints").is_dir() or (out / "tunesmith.json").is_file():
        line.append("--resume")
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: {shlex.join(line)} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def trial_files(source: Path, target: Path) -> tuple[Path, Path]:
    """Write two random parts of a balanced sample of the training reviews, to learn from and to judge by, and return them."""
    paths = (target / f"trial-{TRIAL_ROWS}-train.csv", target / f"trial-{JUDGED_ROWS}-valid.csv")
    if not all(path.exists() for path in paths):
        rows = list({row[0]: row for row in read(source, ["text", "label"])}.values())
        chosen = balanced_sample(rows, TRIAL_ROWS + JUDGED_ROWS, random.Random("textbook"))
        for path, part in zip(paths, (chosen[:TRIAL_ROWS], chosen[TRIAL_ROWS:]), strict=True):
            written(path, ["text", "label"], part)
    return paths


def trial(flags: list[str], files: tuple[Path, Path], out: Path) -> np.ndarray:
    """Train on the first file, predict the reviews of the second and return bool[N], which of them are right."""
    train, valid = files
    run(["train", str(train), *TRIAL_FLAGS, *COMMON, *flags], out)
    predicted = out.with_suffix(".csv")
    if not predicted.exists() or predicted.stat().st_mtime < (out / "tunesmith.json").stat().st_mtime:
        partial = predicted.with_suffix(".partial.csv")
        command = ["predict", str(out), str(valid), f"--output={partial}", "--overwrite", "--precision=auto"]
        subprocess.run([sys.executable, "-m", "tunesmith", *command], check=True)
        partial.replace(predicted)
    with predicted.open(encoding="utf-8", newline="") as file:
        return np.array([row["label"] == row["predicted_label"] for row in csv.DictReader(file)])


def pretrained(source: Path, out: Path) -> Path:
    """Pretrain the bundled encoder on the texts of the training reviews, once, and return its directory."""
    texts = out.parent / "data" / "texts.csv"
    if not texts.exists():
        written(texts, ["text"], list(dict.fromkeys(read(source, ["text"]))))
    run(["pretrain", str(texts), "--max-length=256", "--epochs=3", "--lr=1e-4", "--warmup=0.06"], out)
    return out


def flags_of(name: str, source: Path, runs: Path) -> list[str]:
    """Return the flags of one or several ingredients, after the encoder that they need was made."""
    flags = [flag for part in name.split("+") for flag in INGREDIENTS[part]]
    if f"--model={ENCODER}" in flags:
        flags[flags.index(f"--model={ENCODER}")] = f"--model={pretrained(source, runs / ENCODER)}"
    return flags


def whole(name: str, folder: Path, runs: Path) -> Result:
    """Train on all reviews with ingredients, test on all, and return what it told, with the share of the matrix rate before it."""
    source, out = folder / "train.csv", runs / f"whole-{name}"
    flags = flags_of(name, source, runs)
    measured = out.with_suffix(".rate")
    if not measured.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        measured.write_text(str(best_rate()[0]), encoding="utf-8")
    found = run(["train", str(source), f"--test={folder / 'test.csv'}", "--valid-size=0", *COMMON, *flags], out)
    training = found["training"]
    length = training["tokens"] / (len(read(source, ["text"])) * training["epochs"])
    found["share"] = training["tokens_per_s"] * work_per_token(length)[0] / float(measured.read_text(encoding="utf-8")) / 1e9
    return found


def render(trials: dict[str, np.ndarray], runs: dict[str, Result], *, timed: bool) -> str:
    """Return both tables; trials: bool[N] of each, which reviews are right."""
    lines = []
    if trials:
        lines += [
            f"{TRIAL_ROWS:,} training reviews, in batches of 16, judged by {JUDGED_ROWS:,} others of the training file. One seed: the "
            "interval is over the judged reviews alone, and another seed would move each line, too.\n",
            "| ingredient | flags | accuracy | minus plain (95% interval) |",
            "|---|---|--:|--:|",
        ]
        plain = trials.get(PLAIN)
        for name, right in trials.items():
            against = ""
            if plain is not None and name != PLAIN:
                all_right = np.ones((len(right), 1))
                pair = (all_right, right[:, None].astype(float), plain[:, None].astype(float))
                against = "{:+.4f} ({:+.4f} to {:+.4f})".format(*paired_difference([pair], "accuracy"))
            flags = " ".join(flag for part in name.split("+") for flag in INGREDIENTS[part])
            lines.append(f"| {name} | `{flags}` | {right.mean():.4f} | {against} |".replace("| `` |", "| |"))
        lines.append("")
    if runs:
        lines += [
            "All 25,000 training reviews, tested on all 25,000 test reviews:\n",
            "| ingredients | test accuracy | tokens seen | tokens/s | share of the matrix rate |",
            "|---|--:|--:|--:|--:|",
        ]
        for name, found in runs.items():
            training = found["training"]
            speed = [f"{training['tokens_per_s']:,.0f}", f"{found['share']:.2f}"] if timed else ["", ""]
            cells = [name, f"{found['test']['accuracy']:.4f}", f"{training['tokens']:,}", *speed]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, f"machine: {machine()}"])


def main() -> None:
    """Run what is missing, print the tables, and write them where that is asked for."""
    parser = argparse.ArgumentParser(description="The textbook task, whole, and what could make it better.")
    parser.add_argument(
        "--trials", default=",".join(INGREDIENTS), help="which ingredients to try, with commas, several at once with +; '' for none"
    )
    parser.add_argument("--whole", default="", help="which to train on all reviews and test, likewise")
    parser.add_argument("--busy", action="store_true", help="other programs run beside: leave rates out of the tables")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "textbook", help="where models and prepared data go")
    parser.add_argument("--write", type=Path, help="a page to put the tables into as well, between its markers")
    args = parser.parse_args()
    asked, finals = ([name for name in text.split(",") if name] for text in (args.trials, args.whole))
    for name in (part for several in (*asked, *finals) for part in several.split("+")):
        if name not in INGREDIENTS:
            parser.error(f"{name!r} is not one of {', '.join(INGREDIENTS)}")
    folder = data_folder() / "imdb"
    if not folder.is_dir():
        print(f"bench: skipped, there is no {folder} (name the data folder with TUNESMITH_DATA)")
        return
    if args.busy:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    source = folder / "train.csv"
    trials = {}
    for name in asked:
        files = trial_files(source, args.runs / "data")
        trials[name] = trial(flags_of(name, source, args.runs), files, args.runs / f"trial-{name}")
    runs = {name: whole(name, folder, args.runs) for name in finals}
    text = render(trials, runs, timed=not args.busy)
    print(text)
    if args.write is not None:
        write(args.write, text, BEGIN, END)


if __name__ == "__main__":
    main()
