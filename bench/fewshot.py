"""Few rows of each label: tunesmith's `fewshot` beside SetFit, same rows, encoder and seeds, in one run, interleaved.

    python -m venv setfit-env && setfit-env/bin/pip install setfit==1.2.0
    python -m bench.fewshot --setfit setfit-env/bin/python [--rows trec,sst2] [--shots 8,16] [--seeds 0,1] [--iterations 20]

For every data set, number of rows a label and seed both programs run back to back, one process at a time, the order alternating. A finished
run is on disk at once; the same command again does only what is missing. `--iterations 0` gives SetFit all pairs, as its package does
unless told; for the 77 labels of BANKING77 these are hundreds of thousands.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.data import ROOT, balanced_sample, data_folder, read, written
from bench.run import PEERS, bundled_encoder, children_cpu_s, commit, machine
from bench.table import write

SETS = {
    "trec": ("trec", "label"),
    "sst2": ("sst2", "label"),
    "banking77": ("banking77", "category"),
    "financial_phrasebank": ("financial_phrasebank", "label"),
}
"""Folder and label column of each; the text is in the column `text`."""

PROGRAMS = ("fewshot", "setfit")
BEGIN = "<!-- fewshot: begin (made by `python -m bench.fewshot --write docs/benchmarks.md`) -->"
END = "<!-- fewshot: end -->"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run few-shot learning beside SetFit and print the table.")
    parser.add_argument("--rows", default=",".join(SETS), help="which data sets (default: all)")
    parser.add_argument("--shots", default="8,16", help="rows of each label")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the rows that are drawn, and of the training")
    parser.add_argument("--setfit", default=sys.executable, help="a Python that has SetFit (default: this one)")
    parser.add_argument("--iterations", type=int, default=20, help="pairs of either kind that SetFit makes of each row; 0: all")
    parser.add_argument("--test-rows", type=int, help="only so many of the test rows, for a quick look")
    parser.add_argument("--write", type=Path, help="a page to put the table into as well, between its markers; of all results so far")
    parser.add_argument("--nothing-new", action="store_true", help="run nothing, and make the table of the results so far")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench" / "fewshot", help="where results and prepared data go")
    args = parser.parse_args()
    args.rows = args.rows.split(",")
    if unknown := [name for name in args.rows if name not in SETS]:
        parser.error(f"--rows: {', '.join(unknown)} not among {', '.join(SETS)}")
    for name in ("shots", "seeds"):
        try:
            setattr(args, name, [int(value) for value in getattr(args, name).split(",")])
        except ValueError:
            parser.error(f"--{name}: whole numbers with commas, not {getattr(args, name)!r}")
    return args


def prepared(name: str, shots: int, seed: int, test_rows: int | None, target: Path) -> tuple[Path, Path]:
    """Write `shots` training rows of each label, drawn by `seed`, and the test rows; return the paths of both."""
    folder, label = SETS[name]
    train, test = target / f"{name}-{shots}-{seed}.csv", target / f"{name}-test{'' if test_rows is None else f'-{test_rows}'}.csv"
    if not train.exists():
        rows = read(data_folder() / folder / "train.csv", ["text", label])
        size = shots * len({row[-1] for row in rows})
        written(train, ["text", "label"], balanced_sample(rows, size, random.Random(f"{name} {shots} {seed}")))
    if not test.exists():
        rows = read(data_folder() / folder / "test.csv", ["text", label])
        if test_rows is not None and test_rows < len(rows):
            rows = random.Random(name).sample(rows, test_rows)
        written(test, ["text", "label"], rows)
    return train, test


def execute(program: str, args: argparse.Namespace, name: str, shots: int, seed: int, train: Path, test: Path) -> dict[str, Any] | None:
    """Run one program in its own process; return its record, or None when it failed."""
    python = args.setfit if program == "setfit" else sys.executable
    with tempfile.TemporaryDirectory() as directory:
        result, log = Path(directory) / "result.json", Path(directory) / "log"
        values = {"train": train, "test": test, "model": bundled_encoder(), "seed": seed, "json": result}
        if program == "setfit":
            values["iterations"] = args.iterations
        line = [python, str(PEERS / f"{program}_peer.py"), *(f"--{key}={value}" for key, value in values.items())]
        began, busy = time.perf_counter(), children_cpu_s()
        with log.open("w") as file:
            done = subprocess.run(line, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        process_s, cpu_s = time.perf_counter() - began, children_cpu_s() - busy
        if done.returncode != 0 or not result.exists():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            print(f"  failed with status {done.returncode}; its last lines:\n{tail}", flush=True)
            return None
        record = json.loads(result.read_text(encoding="utf-8"))
    gold = [label for _, label in read(test, ["text", "label"])]
    predictions = record.pop("predictions")
    if len(predictions) != len(gold) or record["train_rows"] != len(read(train, ["text", "label"])):
        sys.exit(f"bench: {program} predicted {len(predictions)} of {len(gold)} rows, trained on {record['train_rows']}")
    accuracy = sum(map(str.__eq__, predictions, gold)) / len(gold)
    return {
        "key": key_of(program, args, name, shots, seed),
        "row": name,
        "shots": shots,
        "seed": seed,
        "program": program,
        "accuracy": accuracy,
        "test_rows": len(gold),
        "process_s": process_s,
        "cpu_s": cpu_s,
        "machine": machine(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        **record,
    }


def key_of(program: str, args: argparse.Namespace, name: str, shots: int, seed: int) -> str:
    """Return what tells one run from another."""
    told = [program, name, shots, seed, args.test_rows, args.iterations if program == "setfit" else None]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def rendered(records: list[dict[str, Any]]) -> str:
    """Return a table in Markdown, of runs that both programs did.

    Mean accuracy and its spread over the draws, the mean difference and its standard error, processor time from start to end.
    """
    found: dict[tuple[str, int], dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        found[record["row"], record["shots"]][record["program"]][record["seed"]] = record
    lines = [
        "| data | rows a label | draws | tunesmith | SetFit | tunesmith minus it | tunesmith, s | SetFit, s | times faster |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    sums: dict[str, list[float]] = defaultdict(list)
    for (name, shots), programs in found.items():
        seeds = sorted(set(programs["fewshot"]) & set(programs["setfit"]))
        if not seeds:
            continue
        cells = []
        for program in PROGRAMS:
            scores = [programs[program][seed]["accuracy"] for seed in seeds]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.mean(scores):.3f}{spread}")
            sums[program] += scores
        gaps = [programs["fewshot"][seed]["accuracy"] - programs["setfit"][seed]["accuracy"] for seed in seeds]
        error = f" ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.3f}" if len(gaps) > 1 else ""
        # of the processor: other programs may have run beside
        times = [statistics.mean(programs[program][seed]["cpu_s"] for seed in seeds) for program in PROGRAMS]
        for program, seconds in zip(PROGRAMS, times, strict=True):
            sums[f"{program} s"].append(seconds)
        lines.append(
            f"| {name} | {shots} | {len(seeds)} | {cells[0]} | {cells[1]} | {statistics.mean(gaps):+.3f}{error} | {times[0]:.0f} "
            f"| {times[1]:.0f} | {times[1] / times[0]:.1f} |"
        )
    if len(lines) > 2:
        ours, theirs = (statistics.mean(sums[program]) for program in PROGRAMS)
        seconds = [sum(sums[f"{program} s"]) for program in PROGRAMS]
        total = f"{seconds[0]:.0f} | {seconds[1]:.0f} | {seconds[1] / seconds[0]:.1f}"
        lines.append(f"| mean of all draws, sum of times | | | {ours:.3f} | {theirs:.3f} | {ours - theirs:+.3f} | {total} |")
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    args.runs.mkdir(parents=True, exist_ok=True)
    results = args.runs / "results.jsonl"
    records = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    turn = 0
    for name in args.rows if not args.nothing_new else []:
        for shots in args.shots:
            for seed in args.seeds:
                train, test = prepared(name, shots, seed, args.test_rows, args.runs)
                turn += 1
                for program in PROGRAMS if turn % 2 else PROGRAMS[::-1]:
                    if any(record["key"] == key_of(program, args, name, shots, seed) for record in records):
                        continue
                    record = execute(program, args, name, shots, seed, train, test)
                    if record is None:
                        continue
                    records.append(record)
                    with results.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    print(f"{name} {shots} seed {seed} {program}: {record['accuracy']:.3f} in {record['process_s']:.0f} s", flush=True)
    wanted = {
        key_of(program, args, name, shots, seed)
        for program in PROGRAMS
        for name in args.rows
        for shots in args.shots
        for seed in args.seeds
    }
    chosen = [record for record in records if record["key"] in wanted]
    used = sorted({record["machine"] for record in chosen})
    text = "\n".join([rendered(chosen), "", f"machine: {', '.join(used)}; {', '.join(sorted({record['date'] for record in chosen}))}"])
    print("\n" + text)
    if args.write is not None:
        write(args.write, text, BEGIN, END)


if __name__ == "__main__":
    main()
