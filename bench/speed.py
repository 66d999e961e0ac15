"""How fast: training, the road from a file to a model, prediction and tokenising, beside what people use today, in one interleaved run.

    python -m bench.speed [--rounds 3] [--works trec,imdb,predict] [--whole] [--gpu] [--write docs/benchmarks.md]

Each measurement is a process of its own; the programs take turns, and their order rotates from round to round, so that an hour at
which the machine is slow hits all alike. Figures are medians over rounds, ratios are medians of the rounds' ratios. Before each
round the rate of one large matrix product is measured, in bf16 and in float32; the table gives the share of the better one that training
reached.

With `--gpu` all programs train on the GPU, whole data sets, and the share is the utilisation of model FLOPs, of the rate of large products
measured in the same round.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import operator
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.data import ROOT, data_folder, prepare
from bench.data import read as read_rows
from bench.run import PEERS, bundled_encoder, execute, machine
from bench.settings import ROWS, Row
from bench.table import write

OURS, PADDED = "tunesmith", "tunesmith-padded"
_MEMORY = 0.6  # of the peer's peak: the aim of training
BEGIN = "<!-- speed: begin (made by `python -m bench.speed --write docs/benchmarks.md`) -->"
END = "<!-- speed: end -->"
GPU = ("<!-- gpu: begin (made by `python -m bench.speed --gpu --write docs/benchmarks.md`) -->", "<!-- gpu: end -->")
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Work:
    """One thing to do, and the programs that do it.

    figure: what is compared; greater: whether more of it is better; aims: how many times better than a program ours is to be
    """

    name: str
    title: str
    figure: str
    greater: bool
    aims: dict[str, float]
    run: Callable[[str, Path], Figures | None]

    def ratio(self, ours: Figures, theirs: Figures, figure: str | None = None) -> float:
        """Return how many times better ours is."""
        name = self.figure if figure is None else figure
        greater = self.greater if figure is None else False
        return ours[name] / theirs[name] if greater else theirs[name] / ours[name]


def some(path: Path, row: Row, count: int, target: Path) -> Path:
    """Write a random `count` of the rows of `path`, always the same, and return the file."""
    chosen = target / f"{path.stem}-{count}.csv"
    rows = read_rows(path, row.columns)
    with chosen.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(row.columns)
        writer.writerows(random.Random(0).sample(rows, min(count, len(rows))))
    return chosen


def training(name: str, count: int | None, epochs: int, prepared: Path, **other: Any) -> Callable[[str, Path], Figures | None]:
    """Train on so many rows of a data set of the quality benchmark, with its settings but for `other`; None: on all, and test on all."""
    row = dataclasses.replace(next(row for row in ROWS if row.name == name), epochs=epochs, **other)

    def run(variant: str, folder: Path) -> Figures | None:
        train, test = prepare(row, 0, data_folder(), prepared)
        if count is not None:
            train, test = some(train, row, count, folder), some(test, row, 64, folder)
        return execute(row, 0, variant, train, test, bundled_encoder())

    return run


def peer(file: str, how: dict[str, list[str]], before: Callable[[Path], list[str]]) -> Callable[[str, Path], Figures | None]:
    """Run a program of `peers` with the arguments of a variant and those that `before`, called once, returns."""
    ready: list[str] = []

    def run(variant: str, folder: Path) -> Figures | None:
        if not ready:
            ready.extend(before(folder))
        result = folder / "result.json"
        result.unlink(missing_ok=True)
        line = [sys.executable, str(PEERS / file), *ready, *how[variant], f"--json={result}"]
        done = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0 or not result.exists():
            print("  failed; its last lines:\n" + "\n".join(done.stderr.splitlines()[-8:]), flush=True)
            return None
        return json.loads(result.read_text(encoding="utf-8"))

    return run


_LAUNCH = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""
"""Runs a command and prints its peak of memory: a process begins with that of the one that starts it, so that must be small."""


def file_to_file(how: dict[str, list[str]]) -> Callable[[str, Path], Figures | None]:
    """Run a command of `how` that labels the rows of `{data}` with `{model}` into `{out}`, as a user does, and time all of it."""
    places: dict[str, str] = {}

    def run(variant: str, folder: Path) -> Figures | None:
        if not places:
            model, data = (flag.split("=", 1)[1] for flag in a_model(folder))
            places.update(model=model, data=data, out=str(folder / "labelled.csv"))
        line = [sys.executable, "-c", _LAUNCH, sys.executable, *(part.format(**places) for part in how[variant])]
        Path(places["out"]).unlink(missing_ok=True)
        began = time.perf_counter()
        done = subprocess.run(line, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            print("  failed; its last lines:\n" + "\n".join(done.stderr.splitlines()[-8:]), flush=True)
            return None
        labels: Any = [label for (label,) in read_rows(Path(places["out"]), ["predicted_label"])]
        return {"process_s": seconds, "peak_rss_mb": int(done.stdout) / 1024, "labels": labels}

    return run


def a_model(folder: Path) -> list[str]:
    """Train a classifier of short texts that all programs load, round it to int8 beside it, and write 3,000 texts to predict."""
    row = next(row for row in ROWS if row.name == "banking77")
    train, test = prepare(row, 0, data_folder(), folder)
    model = folder / "model"
    settings = ["--text=text", "--label=label", "--epochs=1", "--test-size=0", "--valid-size=0", f"--out={model}", "--overwrite", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "tunesmith", "train", str(some(train, row, 2000, folder)), f"--model={bundled_encoder()}", *settings],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    rounding = ["--how=onnx-int8", f"--model={model}", "--prepare"]  # once, as one would for many files
    subprocess.run([sys.executable, str(PEERS / "predict_peer.py"), *rounding], check=True, capture_output=True)
    return [f"--model={model}", f"--data={some(test, row, 3000, folder)}"]


def many_rows(count: int) -> Callable[[Path], list[str]]:
    """Write `count` short texts, no two alike."""

    def write(folder: Path) -> list[str]:
        row = next(row for row in ROWS if row.name == "banking77")
        train, _ = prepare(row, 0, data_folder(), folder)
        texts = [text for text, _ in read_rows(train, row.columns)]
        path = folder / "many.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((f"{texts[i % len(texts)]} {i}", i % 2) for i in range(count))
        return [f"--model={bundled_encoder()}", f"--data={path}"]

    return write


def works(args: argparse.Namespace, prepared: Path) -> list[Work]:
    """Return everything that can be measured."""
    # the same program with transformers' own forward on padded batches comes last: every gain is one over that
    short = {"trainer-default": 6.0, "trainer-best": 2.5, PADDED: 1.0}
    long = {"trainer-default": 10.0, "trainer-best": 3.0, PADDED: 1.0}
    found = [
        Work(name, f"training, {title}", "tokens_per_s", True, aims, training(name, count, epochs, prepared))
        for name, title, count, epochs, aims in (
            ("trec", "TREC, batch 16", 1600, 1, short),
            ("banking77", "BANKING77, batch 32", 2500, 1, short),
            ("sst2", "SST-2, batch 32", 2500, 1, short),
            ("imdb", "IMDB at 256 tokens, batch 16", 400, 1, long),
            (
                "imdb-last2",
                "IMDB at 256 tokens, batch 16, the last 2 layers, 3 epochs",
                800,
                3,
                {"trainer-default": 6.0, "trainer-best": 6.0},
            ),
        )
    ]
    found.append(
        Work(
            "imdb-512",
            "training, IMDB at 512 tokens, batch 16",
            "tokens_per_s",
            True,
            long,
            training("imdb", 400, 1, prepared, max_length=512),
        )
    )
    predicting = {
        OURS: ["--how=tunesmith", "--precision=auto"],
        "tunesmith, by default (fp32)": ["--how=tunesmith"],
        "pipeline": ["--how=pipeline"],
        "pipeline, batch 32": ["--how=pipeline", "--batch-size=32"],
        "onnxruntime int8, sorted": ["--how=onnx-int8"],
    }
    aims = {"tunesmith, by default (fp32)": 1.0, "pipeline": 15.0, "pipeline, batch 32": 6.0, "onnxruntime int8, sorted": 1.5}
    found.append(
        Work("predict", "3,000 short texts, `--precision auto`", "predict_s", False, aims, peer("predict_peer.py", predicting, a_model))
    )
    peers = ["--model={model}", "--data={data}", "--out={out}"]
    command = ["-m", "tunesmith", "predict", "{model}", "{data}", "--output={out}"]
    labelling = {
        OURS: [*command, "--precision=auto"],
        "tunesmith, by default (fp32)": command,
        "pipeline": [str(PEERS / "predict_peer.py"), "--how=pipeline", *peers],
        "pipeline, batch 32": [str(PEERS / "predict_peer.py"), "--how=pipeline", "--batch-size=32", *peers],
        "onnxruntime int8, sorted": [str(PEERS / "predict_peer.py"), "--how=onnx-int8", *peers],
    }
    title = "a file of 3,000 short texts to a file of labels, imports and all, `--precision auto`"
    found.append(Work("predict-file", title, "process_s", False, aims, file_to_file(labelling)))
    tokenising = {OURS: ["--how=tunesmith"], "datasets.map, 2 processes": ["--how=datasets"]}
    count = args.token_rows
    found.append(
        Work(
            "tokens", f"tokenising and caching {count:,} short rows", "seconds", False, {"datasets.map, 2 processes": 2.0},
            peer("tokens_peer.py", tokenising, many_rows(count)),
        )
    )  # fmt: skip
    if args.whole:
        whole = {"trainer-default": 5.0, "trainer-best": 5.0}
        run = training("banking77", None, 3, prepared)
        found.append(Work("whole", "from BANKING77's file to a tested model, 3 epochs", "process_s", False, whole, run))
    return found


def works_on_gpu(prepared: Path) -> list[Work]:
    """Return what is measured on a GPU: training beside Trainer with bf16 and SDPA, which transformers takes by itself."""
    return [
        Work(
            f"gpu-{name}",
            f"training on the GPU, {title}",
            "tokens_per_s",
            True,
            {"trainer-best": 3.0},
            training(name, None, 3, prepared, sample=None),
        )
        for name, title in (("banking77", "BANKING77, batch 32, 3 epochs"), ("imdb", "IMDB at 256 tokens, batch 16, 3 epochs"))
    ]


def matrix_rate(device: str = "cpu", precision: str = "bfloat16") -> float:
    """Return the rate of a product of a large batch's sizes in the bundled encoder, by training's kernels, in GFLOP/s."""
    import torch

    from tunesmith.model.arithmetic import float32_products

    # on a GPU so much at once that starting and waiting do not count
    rows, width, inner, times_over = (4096, 384, 1536, 1) if device == "cpu" else (262_144, 384, 1536, 10)
    left, right = (torch.randn(size, width).to(device, getattr(torch, precision)) for size in (rows, inner))
    times = []
    with float32_products("bf16" if precision == "bfloat16" else "fp32", torch.device(device)):
        for _ in range(60):
            began = time.perf_counter()
            for _ in range(times_over):
                torch.nn.functional.linear(left, right)
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return times_over * 2 * rows * width * inner / statistics.median(times[10:]) / 1e9


def best_rate(device: str = "cpu") -> tuple[float, str]:
    """Return the rate of a matrix product in the faster of two precisions, in GFLOP/s, and that precision."""
    precisions = ("bfloat16", "float32") if device == "cpu" else ("bfloat16",)
    return max((matrix_rate(device, precision), precision) for precision in precisions)


def work_per_token(length: float, width: int = 384, inner: int = 1536, layers: int = 6) -> tuple[float, float]:
    """Return the floating-point operations that training the bundled encoder takes for a token, and those that are really done.

    length: mean length of a sequence. In the last layer only the first token goes behind the attention.
    """
    matrices, scores = 4 * width**2 + 2 * width * inner, 2 * length * width
    whole = layers * (matrices + scores)
    done = (layers - 1) * (matrices + scores) + 3 * width**2
    return 6 * whole, 6 * done


def _agreement(ours: Any, theirs: Any) -> float:
    """Return the share of texts that got the same label."""
    return statistics.mean(map(operator.eq, ours["labels"], theirs["labels"]))


def report(work: Work, rounds: dict[str, list[Figures]], rates: list[tuple[float, str]]) -> list[str]:
    """Return the lines of the table for one work."""
    lines = []
    memory = "peak_device_mb" if work.name.startswith("gpu") else "peak_rss_mb"
    for variant, records in rounds.items():
        median = statistics.median(record[work.figure] for record in records)
        alike = [
            _agreement(ours, theirs) for ours, theirs in zip(rounds[OURS], records, strict=True) if isinstance(theirs.get("labels"), list)
        ]
        named = f"{variant}, {statistics.median(alike):.1%} of the labels as ours" if alike and variant != OURS else variant
        cells = [work.title, named, f"{median:,.0f}" if work.greater else f"{median:,.2f} s"]
        if variant == OURS:
            cells += ["", "", f"{statistics.median(record[memory] for record in records):,.0f} MB"]
        else:
            ratios = [work.ratio(ours, theirs) for ours, theirs in zip(rounds[OURS], records, strict=True)]
            aim = work.aims[variant]
            reached = statistics.median(ratios)
            cells += [f"{reached:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", f">= {aim:g}{'' if reached >= aim else ', missed'}"]
            share = statistics.median(ours[memory] / theirs[memory] for ours, theirs in zip(rounds[OURS], records, strict=True))
            missed = "" if share <= _MEMORY else ", missed"
            aim_text = f" (aim {_MEMORY:g}{missed})" if work.name not in ("predict", "predict-file", "tokens") and variant != PADDED else ""
            cells.append(f"ours is {share:.2f} of its{aim_text}")
        lines.append("| " + " | ".join(cells) + " |")
    if work.name in ("trec", "banking77", "sst2", "imdb", "imdb-512", "gpu-banking77", "gpu-imdb"):
        length = statistics.mean(record["train_tokens"] / record["train_rows"] for record in rounds[OURS])
        nominal, done = work_per_token(length)
        speeds = [record["tokens_per_s"] for record in rounds[OURS]]
        shares = [[speed * flops / rate / 1e9 for speed, (rate, _) in zip(speeds, rates, strict=True)] for flops in (nominal, done)]
        aim_text = f">= 0.65{'' if statistics.median(shares[0]) >= 0.65 else ', missed'}" if work.name == "imdb" else ""
        cells = [work.title, "share of the matrix rate", f"{statistics.median(rate for rate, _ in rates):,.0f} GFLOP/s, {rates[0][1]}"]
        cells += [f"{statistics.median(shares[0]):.2f}, {statistics.median(shares[1]):.2f} of it really computed", aim_text, ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure speed beside what people use today.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--works", help="which ones, with commas (default: all)")
    parser.add_argument("--variants", help="beside tunesmith only these programs, with commas")
    parser.add_argument("--whole", action="store_true", help="also the whole road of BANKING77, 3 epochs; 20 minutes a round")
    parser.add_argument("--gpu", action="store_true", help="train on the GPU, and nothing else")
    parser.add_argument("--token-rows", type=int, default=1_000_000, help="how many rows are tokenised")
    parser.add_argument("--write", type=Path, help="a page to put the table into as well, between its markers")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "speed.md", help="where the table goes")
    args = parser.parse_args()
    if not data_folder().is_dir():
        print(f"bench: skipped, there is no data folder {data_folder()} (name one with TUNESMITH_DATA)")
        return
    device = "cpu"
    if args.gpu:
        import torch

        if not torch.cuda.is_available():
            print("bench: skipped, torch finds no CUDA GPU")
            return
        device = "cuda"
    prepared = args.out.parent / "data"
    found = works_on_gpu(prepared) if args.gpu else works(args, prepared)
    chosen = [work for work in found if args.works is None or work.name in args.works.split(",")]
    lines = ["| work | program | figure | times better (range) | aim | peak memory |", "|---|---|--:|--:|--:|--:|"]
    for work in chosen:
        variants = [OURS, *(name for name in work.aims if args.variants is None or name in args.variants.split(","))]
        rounds: dict[str, list[Any]] = defaultdict(list)
        rates: list[tuple[float, str]] = []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(args.rounds):
                rates.append(best_rate(device))
                shift = number % len(variants)
                for variant in variants[shift:] + variants[:shift]:
                    print(f"{work.name}, round {number + 1}, {variant}: ", end="", flush=True)
                    figures = work.run(variant, Path(folder))
                    if figures is None:
                        sys.exit(f"bench: {variant} failed")
                    rounds[variant].append(figures)
                    print(f"{figures[work.figure]:,.2f}", flush=True)
        lines += report(work, {variant: rounds[variant] for variant in variants}, rates)
    where = f"{torch.cuda.get_device_name()}, {machine()}" if args.gpu else machine()
    table = "\n".join([*lines, "", f"machine: {where}; {args.rounds} rounds; {time.strftime('%Y-%m-%d')}"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(table + "\n", encoding="utf-8")
    if args.write is not None:
        write(args.write, table, *(GPU if args.gpu else (BEGIN, END)))
    print("\n" + table)


if __name__ == "__main__":
    main()
