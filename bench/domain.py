"""Does pretraining on the domain's own raw text help? Fine-tuning after it against fine-tuning without, on the same rows and seeds.

    python -m bench.domain [--data financial] [--epochs 3] [--seeds 0,1,2] [--write docs/benchmarks.md]

The raw texts are those of the training file without their labels, and none that the test file has, too. The encoder is pretrained on them
once; then it and the encoder as it was are fine-tuned with each seed on the same rows at the same settings, and predict the same test
rows. A finished run is on disk; the same command again does only what is missing. The data come from the folder named by
TUNESMITH_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import table
from bench.data import ROOT, data_folder, prepare, read, written
from bench.quality import paired_difference, scores
from bench.settings import ROWS, Row

BEGIN = "<!-- domain: begin (made by `python -m bench.domain --write docs/benchmarks.md`) -->"
END = "<!-- domain: end -->"

Record = dict[str, Any]


@dataclass(frozen=True)
class Domain:
    """A labelled data set of one domain, and how the encoder is pretrained on its texts."""

    row: Row
    max_length: int
    batch_size: int
    lr: float = 1e-4


_NAMED = {row.name: row for row in ROWS}
_FINANCIAL = Row(
    "financial", "Financial PhraseBank, 500 labelled rows", "financial_phrasebank", "train.csv", "test.csv", "text", "label",
    4, 1e-4, 16, 128, "accuracy", first=500,
)  # fmt: skip
DOMAINS = {
    "financial": Domain(_FINANCIAL, max_length=128, batch_size=8),
    "banking77": Domain(_NAMED["banking77"], max_length=128, batch_size=32),
    "imdb": Domain(_NAMED["imdb"], max_length=256, batch_size=32),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tuning after pretraining on the domain's raw text, and without.")
    parser.add_argument("--data", choices=list(DOMAINS), default="financial", help="which domain (default: financial)")
    parser.add_argument("--epochs", type=int, default=3, help="passes of pretraining over the raw texts (default: 3)")
    parser.add_argument("--lr", type=float, help="learning rate of pretraining")
    parser.add_argument("--seeds", default="0,1,2", help="which seeds of fine-tuning (default: 0,1,2)")
    parser.add_argument("--model", default="all-minilm-l6-v2", help="the encoder to begin with (default: all-minilm-l6-v2)")
    parser.add_argument("--texts", type=int, help="only so many raw texts, for a quick look")
    parser.add_argument("--limit", type=int, help="only so many labelled rows, for a quick look")
    parser.add_argument("--tuning-epochs", type=int, help="instead of the data set's own number, for a quick look")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench-domain", help="where results and prepared data go")
    parser.add_argument("--write", type=Path, help="the page to update between its markers")
    args = parser.parse_args()
    try:
        args.seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds: whole numbers with commas, not {args.seeds!r}")
    return args


def main() -> None:
    """Run what is missing, print the table, and write it where that is asked for."""
    args = arguments()
    folder = data_folder()
    domain = DOMAINS[args.data]
    if not (folder / domain.row.folder / domain.row.train_file).is_file():
        print(f"bench: skipped, there is no {folder / domain.row.folder / domain.row.train_file} (name the folder with TUNESMITH_DATA)")
        return
    if args.lr is not None:
        domain = replace(domain, lr=args.lr)
    if args.limit is not None:
        domain = replace(domain, row=replace(domain.row, sample=None, first=args.limit))
    if args.tuning_epochs is not None:
        domain = replace(domain, row=replace(domain.row, epochs=args.tuning_epochs))
    raw = raw_texts(domain.row, folder, args.runs / "data", args.texts)

    told = [args.data, Path(args.model).name, args.epochs, f"{domain.lr:g}", domain.batch_size, args.texts]
    place = args.runs / "-".join(map(str, told))
    before = kept(place / "pretraining.json", lambda: pretrain(domain, raw, args.model, args.epochs, place / "encoder"))
    records = []
    for seed in args.seeds:
        train, test = prepare(domain.row, seed, folder, args.runs / "data")
        record: Record = {"seed": seed, "gold": [label for _, label in read(test, ["text", "label"])]}
        for variant, model in (("without", args.model), ("after", str(place / "encoder"))):
            name = f"{variant}-{domain.row.first}-{domain.row.epochs}-{seed}"
            found = kept(place / f"{name}.json", lambda: tuned(domain.row, train, test, model, seed, place / name))  # noqa: B023
            record[variant] = found["predicted"]
        records.append(record)
    text = render(domain.row, before, records)
    print(text)
    if args.write is not None:
        table.write(args.write, text, BEGIN, END)


def kept(path: Path, work: Callable[[], Record]) -> Record:
    """Return what `work` returned when it was run first, from `path`."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(work()), encoding="utf-8")
        partial.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def raw_texts(row: Row, folder: Path, target: Path, limit: int | None) -> Path:
    """Write the texts of the training file that are not in the test file, without their labels, once, and return the file."""
    path = target / f"{row.name}-raw{'' if limit is None else f'-{limit}'}.csv"
    if not path.exists():
        tested = {text.strip() for (text,) in read(folder / row.folder / row.test_file, [row.text])}
        texts = [(text,) for (text,) in read(folder / row.folder / row.train_file, [row.text]) if text.strip() not in tested]
        written(path, ["text"], texts[:limit])
    return path


def pretrain(domain: Domain, raw: Path, model: str, epochs: int, target: Path) -> Record:
    """Pretrain `model` on raw texts into `target`; return how much it read, and the perplexity on a twentieth of them held out."""
    import tunesmith

    run = tunesmith.train(
        raw,
        task="masked-lm",
        model=model,
        epochs=epochs,
        lr=domain.lr,
        warmup=0.06,
        batch_size=domain.batch_size,
        max_length=domain.max_length,
        valid_size=0,
        test_size=0.05,
        seed=0,
        out=target,
        overwrite=True,
    )
    evaluation = run.result["evaluations"]["test"]
    before = next(found for found in evaluation["yardsticks"] if found["name"] == "encoder before training")
    return {
        "perplexity": {"before": before["metrics"]["perplexity"], "after": evaluation["metrics"]["perplexity"]},
        "texts": len(read(raw, ["text"])),
        "epochs": epochs,
        "tokens": run.result["training"]["tokens"],
    }


def tuned(row: Row, train: Path, test: Path, model: str, seed: int, target: Path) -> Record:
    """Fine-tune `model` on labelled rows and return the label that it predicts for each test row."""
    import tunesmith

    run = tunesmith.train(
        train,
        task="classification",
        text="text",
        label="label",
        model=model,
        epochs=row.epochs,
        lr=row.lr,
        batch_size=row.batch_size,
        max_length=row.max_length,
        valid_size=0,
        test_size=0,
        seed=seed,
        out=target,
        overwrite=True,
    )
    texts = [text for (text,) in read(test, ["text"])]
    return {"predicted": [found.label for found in run.bundle.predict(texts)]}


def render(row: Row, before: Record, records: Sequence[Record]) -> str:
    """Return the table: quality without and after pretraining, mean and spread over seeds, their difference with its interval."""
    names = sorted({label for record in records for label in record["gold"]})
    matrices = [{key: _hot(record[key], names) for key in ("gold", "without", "after")} for record in records]
    mean, low, high = paired_difference([(one["gold"], one["after"], one["without"]) for one in matrices], row.metric)
    seeds = ", ".join(str(record["seed"]) for record in records)
    lines = [
        f"| {row.title} | perplexity | {row.metric}, mean ± spread over seeds | with seeds {seeds} | minus without (95% interval) |",
        "|---|--:|--:|--:|--:|",
    ]
    for variant, when, difference in (("without", "before", ""), ("after", "after", f"{mean:+.4f} ({low:+.4f} to {high:+.4f})")):
        values = [float(scores(one["gold"], one[variant], row.metric)[0]) for one in matrices]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        figures = f"{statistics.mean(values):.4f}{spread} | {', '.join(f'{value:.4f}' for value in values)}"
        lines.append(f"| {variant} pretraining | {before['perplexity'][when]:,.1f} | {figures} | {difference} |")
    lines.append(
        f"\nPretraining: {before['epochs']} epochs over {before['texts']:,} raw texts of the training file, {before['tokens']:,} tokens; "
        f"test: {len(records[0]['gold']):,} rows, seen by neither. "
        "Perplexity is that of hidden tokens in a twentieth of the raw texts, held out."
    )
    return "\n".join(lines)


def _hot(labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return float64[N, C], one for the label of each row; a predicted label that no test row has is a row of zeros."""
    return np.array([[float(name == label) for name in names] for label in labels])


if __name__ == "__main__":
    main()
