"""Turn the benchmark's results into its table, on the screen or in docs/benchmarks.md.

    python -m bench.table [--write docs/benchmarks.md] [--results runs/bench/results.jsonl]

In the file, only what stands between the two marker lines is replaced.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import ROOT
from bench.quality import paired_difference, scores
from bench.settings import ROWS, VARIANTS

BEGIN = "<!-- table: begin (made by `python -m bench.table --write docs/benchmarks.md`) -->"
END = "<!-- table: end -->"
ROWS_MARKERS = ("<!-- rows: begin (made by `python -m bench.table --write docs/benchmarks.md`) -->", "<!-- rows: end -->")

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """Return the latest record of every key; a torn last line, of a run that was cut off, does not count."""
    latest: dict[str, Record] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            latest[record["key"]] = record
    return list(latest.values())


def matrices(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return gold and predictions, each float64[N, C]."""
    if "labels" not in record:
        gold, predicted = np.array(record["gold"], float), np.array(record["predictions"], float)
        return gold.reshape(len(gold), -1), predicted.reshape(len(gold), -1)
    both = []
    for rows in (record["gold"], record["predictions"]):
        matrix = np.zeros((len(rows), record["labels"]))
        for i, labels in enumerate(rows):
            matrix[i, labels] = 1
        both.append(matrix)
    return both[0], both[1]


def quality(record: Record, metric: str | None = None) -> float:
    gold, predicted = matrices(record)
    return float(scores(gold, predicted, metric or record["metric"])[0])


def memory_mb(record: Record) -> float:
    """Return the peak that counts: the accelerator's where there is one, else that of the process."""
    return record["peak_rss_mb"] if record["peak_device_mb"] is None else record["peak_device_mb"]


def summary(record: Record) -> str:
    figures = ", ".join([f"{record['metric']} {quality(record):.4f}", *also([record])])
    return (
        f"train {record['train_s']:.1f} s, {record['tokens_per_s']:,.0f} tokens/s, predict {record['predict_s']:.1f} s, "
        f"whole {record['process_s']:.1f} s, {memory_mb(record):,.0f} MB, {figures}"
    )


def also(records: Sequence[Record]) -> list[str]:
    """Return the further figures of a variant, means over seeds, and how many words it left without a tag."""
    found = [f"{name} {statistics.mean(quality(record, name) for record in records):.4f}" for name in records[0].get("also", [])]
    untagged = statistics.mean(record.get("words_without_tag", 0) for record in records)
    return [*found, f"{untagged:,.0f} words without a tag"] if untagged else found


def geometric(ratios: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def difference(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[float, float, float]:
    """Return mean quality difference, ours minus theirs, over paired seeds, with its 95% interval."""
    pairs = [(*matrices(a), matrices(b)[1]) for a, b in zip(ours, theirs, strict=True)]
    return paired_difference(pairs, ours[0]["metric"])


def timed(records: Sequence[Record]) -> bool:
    """Whether the machine did nothing else during all of these runs, so that their times say something."""
    return all(record.get("timed", True) for record in records)


def times(records: Sequence[Record]) -> list[str]:
    """Return the cells of training time, rate, prediction time and whole time, means over seeds; empty where they say nothing."""
    if not timed(records):
        return [""] * 4
    mean = {name: statistics.mean(record[name] for record in records) for name in ("train_s", "tokens_per_s", "predict_s", "process_s")}
    return [f"{value:,.0f}" if name == "tokens_per_s" else f"{value:,.1f}" for name, value in mean.items()]


def render(records: Sequence[Record]) -> str:
    """Return the table in Markdown: one line for each variant of each data set; means over seeds."""
    if not records:
        return "(no results yet)"
    by_row: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        by_row[record["row"]][record["variant"]][record["seed"]] = record
    lines = [
        "| data | variant | train s | real tokens/s | predict s | whole s | peak MB | quality | tunesmith minus it (95% interval) "
        "| train time, it / tunesmith | whole time, it / tunesmith | memory, it / tunesmith |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in [row.name for row in ROWS if row.name in by_row]:
        variants = by_row[name]
        # the padded engine stands in where the packed one has not run
        ours = variants.get("tunesmith", variants.get("tunesmith-padded", {}))
        for variant in [variant for variant in VARIANTS if variant in variants]:
            beside = [""] * 4 if variants[variant] is ours else _compared(ours, variants[variant])
            lines.append(_line([*_measured(variants[variant]), *beside]))
        lines += [_line(cells) for cells in _simple(ours, variants.values())]
    lines.append("")
    for field in ("machine", "device", "commit", "date"):
        lines.append(f"{field}: {', '.join(sorted({str(record[field]) for record in records}))}  ")
    versions = {f"{package} {version}" for record in records for package, version in record["versions"].items()}
    lines.append(f"versions: {', '.join(sorted(versions))}  ")
    busy = [record["cpu_s"] / record["process_s"] for record in records if record.get("timed", True)]
    if busy:
        lines.append(f"cores in use: {min(busy):.1f} to {max(busy):.1f} (far below the number of cores: something else had them)")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _measured(runs: dict[int, Record]) -> list[str]:
    """Return the cells of a variant's own figures: means over its runs by seed."""
    chosen = [runs[seed] for seed in sorted(runs)]
    values = [quality(record) for record in chosen]
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return [
        f"{chosen[0]['title']}{'' if len(chosen) == 1 else f', {len(chosen)} seeds'}",
        chosen[0]["variant"],
        *times(chosen),
        f"{max(memory_mb(record) for record in chosen):,.0f}",
        ", ".join([f"{chosen[0]['metric']} {statistics.mean(values):.4f}{spread}", *also(chosen)]),
    ]


def _compared(ours: dict[int, Record], theirs: dict[int, Record]) -> list[str]:
    """Return the cells that compare both variants' runs with the same seeds: quality, times and memory."""
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return [""] * 4
    mean, low, high = difference([a for a, _ in pairs], [b for _, b in pairs])
    known = timed([record for pair in pairs for record in pair])
    cells = [f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"]
    for value, shown in ((lambda r: r["train_s"], known), (lambda r: r["process_s"], known), (memory_mb, True)):
        cells.append(f"{geometric([value(b) / value(a) for a, b in pairs]):.2f}" if shown else "")
    return cells


def _simple(ours: dict[int, Record], variants: Iterable[dict[int, Record]]) -> list[list[str]]:
    """Return the cells of the simple methods that the runs were judged beside, such as BM25: they have a quality only."""
    simple: dict[str, dict[int, Record]] = defaultdict(dict)
    for runs in variants:
        for seed, record in runs.items():
            for name, predictions in record.get("yardsticks", {}).items():
                simple[name].setdefault(seed, {**record, "predictions": predictions})
    found = []
    for name, runs in simple.items():
        chosen = list(runs.values())
        figures = [f"{chosen[0]['metric']} {statistics.mean(map(quality, chosen)):.4f}", *also(chosen)]
        found.append([chosen[0]["title"], name, *[""] * 5, ", ".join(figures), _compared(ours, runs)[0], *[""] * 3])
    return found


def render_rows() -> str:
    """Return the rows of the benchmark in Markdown: what each runs, with which settings of all programs, and by which command."""
    lines = ["| data | task | encoder | epochs, rate, batch, length | command |", "|---|---|---|---|---|"]
    for row in ROWS:
        task = " ".join(filter(None, [row.task, row.ranker, row.kind if row.kind == "multi" else ""]))
        settings = f"{row.epochs}, {row.lr:g}, {row.batch_size}, {row.max_length}"
        lines.append(_line([row.title, task, row.encoder, settings, f"`python -m bench.run --rows {row.name}`"]))
    return "\n".join(lines)


def write(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put the table between two marker lines of `path`."""
    page = path.read_text(encoding="utf-8")
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path}: the marker lines are missing:\n{begin}\n{end}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the benchmark's table, or write it into a page.")
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "bench" / "results.jsonl")
    parser.add_argument("--write", type=Path, help="the page to update between its markers")
    args = parser.parse_args()
    records = read(args.results)
    if args.write is None:
        print(render(records))
        return
    write(args.write, render_rows(), *ROWS_MARKERS)
    if records:  # a page keeps what it has where the results are elsewhere
        write(args.write, render(records))


if __name__ == "__main__":
    main()
