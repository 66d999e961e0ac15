"""Every way to tune on the same rows: quality, what is trained, seconds, memory, size on disk.

    python -m bench.ways [--data trec,stsb,ewt,banking77] [--ways full,head,last:2] [--seeds 0] [--write docs/benchmarks.md]

Each run is `tunesmith train` in a process of its own, with the way's usual settings, a tenth of the training rows for validation and
the data set's own test rows. Two ways are there for other rows: `fewshot` gets 16 of each label, `none` descriptions of the labels and no
rows; a data set whose labels nobody described has no such line. A finished run is on disk at once; the same command again does only what is
missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.data import ROOT, data_folder, prepare, written
from bench.data import read as read_rows
from bench.described import DESCRIPTIONS
from bench.run import bundled_encoder, commit, machine
from bench.settings import ROWS
from bench.table import read, write

BEGIN = "<!-- ways: begin (made by `python -m bench.ways --write docs/benchmarks.md`) -->"
END = "<!-- ways: end -->"


@dataclass(frozen=True)
class Data:
    """One data set: the row of the quality benchmark that prepares its files, the flags it needs, the figure that counts."""

    row: str
    title: str
    metric: str
    flags: tuple[str, ...]
    first: int | None = None


DATA = {
    "trec": Data("trec", "TREC, 6 classes", "accuracy", ("--text=text", "--label=label", "--batch-size=16")),
    "stsb": Data(
        "stsb", "STS-B", "pearson",
        ("--task=regression", "--text=text", "--text-pair=text_pair", "--label=label", "--batch-size=16"),
    ),
    "ewt": Data(
        "ewt-upos", "UD English-EWT, 5,000 sentences", "accuracy",
        ("--task=tagging", "--text=tokens", "--label=tags", "--batch-size=16"), first=5_000,
    ),
    "banking77": Data("banking77", "BANKING77", "accuracy", ("--text=text", "--label=label")),
}  # fmt: skip
WAYS = (
    "full", "head", "last:1", "last:2", "last:4", "layerwise", "bitfit", "lora", "dora", "ia3", "adapter", "prompt", "prefix", "ptuning",
    "auto", "fewshot", "none",
)  # fmt: skip
FEW = ("fewshot", "none")  # which see other rows than the others, so that their times compare with nothing here
LABELS = ("trec", "banking77")  # the data sets with labels of texts
SHOTS = 16
BUDGET = "5m"


def size_mb(directory: Path) -> float:
    """Return the size of all files below `directory`."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 2**20


def execute(data: Data, way: str, seed: int, train: Path, test: Path) -> dict[str, Any] | None:
    """Train and test in a process of its own; return its record, or None when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        line = [sys.executable, "-m", "tunesmith", "train", f"--test={test}", f"--tuning={way}", f"--seed={seed}"]
        line += [f"--model={bundled_encoder()}", f"--out={out}", "--json", "--quiet", *flags_of(data, way, train, seed, Path(folder))]
        began = time.perf_counter()
        # nothing of a former run may help: outputs of frozen layers, too, are this run's own
        environment = {**os.environ, "TUNESMITH_CACHE": str(Path(folder) / "cache")}
        done = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
        whole = time.perf_counter() - began
        if done.returncode != 0:
            print("failed; its last lines:\n" + "\n".join(done.stderr.splitlines()[-8:]), flush=True)
            return None
        told = json.loads(done.stdout.splitlines()[-1])
        training = told["training"]
        return {
            "quality": told["test"][data.metric],
            "trained": training["trained_parameters"],
            "train_s": training["seconds"],
            "whole_s": whole,
            "memory_mb": training["peak_memory_mb"],
            "disk_mb": size_mb(out),
            "chosen": json.loads((out / "tunesmith.json").read_text(encoding="utf-8"))["result"]["recipe"]["tuning"],
        }


def flags_of(data: Data, way: str, train: Path, seed: int, folder: Path) -> list[str]:
    """Return the flags of a data set and a way, and the file of training rows where there is one."""
    flags = [flag for flag in data.flags if way not in FEW or not flag.startswith("--batch-size")]
    if way == "none":
        prompts = folder / "prompts.toml"
        described = DESCRIPTIONS[data.row].items()
        prompts.write_text("".join(f"{json.dumps(label)} = {json.dumps(said)}\n" for label, said in described), encoding="utf-8")
        return [f"--prompts={prompts}", *flags]
    if way == "fewshot":
        return [str(few_rows(train, folder / "few.csv", seed)), *flags]
    return [str(train), *flags, *([f"--budget={BUDGET}"] if way == "auto" else [])]


def few_rows(train: Path, target: Path, seed: int) -> Path:
    """Write a file of `SHOTS` random rows of each label."""
    rows = read_rows(train, ["text", "label"])
    labels = sorted({label for _, label in rows})
    draw = random.Random(f"few {seed}")
    few = [row for label in labels for row in draw.sample([row for row in rows if row[1] == label], SHOTS)]
    written(target, ["text", "label"], few)
    return target


def prepared(data: Data, target: Path) -> tuple[Path, Path]:
    """Return the training and the test file."""
    row = next(row for row in ROWS if row.name == data.row)
    train, test = prepare(replace(row, first=None), 0, data_folder(), target)
    if data.first is not None:
        part = train.with_name(f"{train.stem}-{data.first}{train.suffix}")
        if not part.exists():
            lines = train.read_text(encoding="utf-8").splitlines(keepends=True)
            header = 0 if train.suffix == ".jsonl" else 1
            part.write_text("".join(lines[: header + data.first]), encoding="utf-8")
        train = part
    return train, test


def render(records: list[dict[str, Any]]) -> str:
    """Return the table: for each data set the ways, with means over seeds."""
    lines = [
        "| data | way | quality | trained parameters | training, s | whole, s | times faster than full | peak MB | on disk, MB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, data in DATA.items():
        machines = sorted({record["machine"] for record in records if record["data"] == name})
        for host, way in itertools.product(machines, WAYS):  # times compare within a machine
            here = [record for record in records if (record["data"], record["machine"]) == (name, host)]
            full = [record["whole_s"] for record in here if record["way"] == "full"]
            found = [record for record in here if record["way"] == way]
            if not found:
                continue

            def mean(key: str, found: list[dict[str, Any]] = found) -> float:
                return statistics.mean(record[key] for record in found)

            quality = f"{data.metric} {mean('quality'):.4f}"
            if len(found) > 1:
                quality += f" ± {statistics.stdev(record['quality'] for record in found):.4f}"
            faster = (
                f"{statistics.mean(full) / mean('whole_s'):.2f}"
                if full and way not in FEW and all(record["timed"] for record in here)
                else ""
            )
            times = [f"{mean(key):,.0f}" if all(record["timed"] for record in found) else "" for key in ("train_s", "whole_s")]
            title = data.title + (f", {len(found)} seeds" if len(found) > 1 else "") + (f", {host}" if len(machines) > 1 else "")
            chosen = ", ".join(sorted({f"`{record['chosen']}`" for record in found})) if way == "auto" else ""
            note = f", {SHOTS} rows a label" if way == "fewshot" else ", descriptions alone" if way == "none" else ""
            cells = [
                title,
                f"`{way}`{note}{f', which took {chosen}' if chosen else ''}",
                quality,
                f"{mean('trained'):,.0f}",
                *times,
                faster,
                f"{mean('memory_mb'):,.0f}",
                f"{mean('disk_mb'):,.1f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    told = sorted({f"{record['machine']}; {record['date']}; commit {record['commit']}" for record in records})
    return "\n".join([*lines, "", *(f"machine: {one}  " for one in told)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the ways to tune.")
    parser.add_argument("--data", default="trec,stsb,ewt", help=f"which of {', '.join(DATA)}, with commas")
    parser.add_argument("--ways", default=",".join(WAYS), help="which ways, with commas")
    parser.add_argument("--seeds", default="0", help="which seeds, with commas")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ways", help="where results and prepared data go")
    parser.add_argument("--busy", action="store_true", help="other programs run beside: keep the quality, leave the times out of the table")
    parser.add_argument("--write", type=Path, help="a page to put the table into as well, between its markers")
    args = parser.parse_args()
    if not data_folder().is_dir():
        print(f"bench: skipped, there is no data folder {data_folder()} (name one with TUNESMITH_DATA)")
        return
    if args.busy:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    results = args.runs / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {record["key"] for record in read(results)}
    for seed in map(int, args.seeds.split(",")):
        for name in args.data.split(","):
            train, test = prepared(DATA[name], args.runs / "data")
            for way in args.ways.split(","):
                if (way == "none" and DATA[name].row not in DESCRIPTIONS) or (way == "fewshot" and name not in LABELS):
                    print(f"{name} {way}: left out, it is not for these rows", flush=True)
                    continue
                key = f"{name} {way} {seed}"
                print(f"{key}: ", end="", flush=True)
                if key in done:
                    print("done before", flush=True)
                    continue
                record = execute(DATA[name], way, seed, train, test)
                if record is None:
                    continue
                record |= {"key": key, "data": name, "way": way, "seed": seed, "timed": not args.busy}
                record |= {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%d")}
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"{record['quality']:.4f} in {record['whole_s']:.0f} s", flush=True)
    table = render(read(results))
    if args.write is not None:
        write(args.write, table, BEGIN, END)
    print("\n" + table)


if __name__ == "__main__":
    main()
