"""Does pretraining on the domain's own raw text help? Fine-tuning after it against fine-tuning without, on the same rows and seeds.

    python -m bench.domain [--data banking77] [--epochs 3] [--seeds 0,1,2]

The raw texts are those of the training file and no others, without their labels; the test rows are seen by neither. For every seed
the encoder is pretrained anew, then both encoders are fine-tuned with the same seed, settings and rows, and predict the same test
rows. A finished run is on disk; the same command again does only what is missing. The data come from the folder named by
TUNESMITH_DATA.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import ROOT, data_folder, prepare, read
from bench.quality import paired_difference, scores
from bench.settings import ROWS, Row


@dataclass(frozen=True)
class Domain:
    """A labelled data set of one domain, and how the encoder is pretrained on its texts."""

    row: Row
    max_length: int
    lr: float = 1e-4
    batch_size: int = 32


_NAMED = {row.name: row for row in ROWS}
DOMAINS = {
    "banking77": Domain(_NAMED["banking77"], 128),
    "financial": Domain(
        Row(
            "financial",
            "Financial PhraseBank",
            "financial_phrasebank",
            "train.csv",
            "test.csv",
            "text",
            "label",
            4,
            5e-5,
            16,
            256,
            "accuracy",
        ),
        128,
    ),
    "imdb": Domain(_NAMED["imdb"], 256),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tuning after pretraining on the domain's raw text, and without.")
    parser.add_argument("--data", choices=list(DOMAINS), default="banking77", help="which domain (default: banking77)")
    parser.add_argument("--epochs", type=int, default=3, help="passes of pretraining over the raw texts (default: 3)")
    parser.add_argument("--lr", type=float, help="learning rate of pretraining")
    parser.add_argument("--seeds", default="0,1,2", help="which seeds (default: 0,1,2)")
    parser.add_argument("--texts", type=int, help="only so many raw texts, for a quick look")
    parser.add_argument("--limit", type=int, help="only so many labelled rows, for a quick look")
    parser.add_argument("--tuning-epochs", type=int, help="instead of the data set's own number, for a quick look")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench-domain", help="where results and prepared data go")
    return parser.parse_args()


def main() -> None:
    """Run what is missing and print the table."""
    args = arguments()
    folder = data_folder()
    domain = DOMAINS[args.data]
    if not (folder / domain.row.folder / domain.row.train_file).is_file():
        sys.exit(f"bench: there are no data in {folder}; TUNESMITH_DATA names their folder")
    if args.lr is not None:
        domain = replace(domain, lr=args.lr)
    if args.limit is not None:
        domain = replace(domain, row=replace(domain.row, sample=None, first=args.limit))
    if args.tuning_epochs is not None:
        domain = replace(domain, row=replace(domain.row, epochs=args.tuning_epochs))
    raw = raw_texts(domain.row, folder, args.runs / "data", args.texts)
    records = []
    for seed in map(int, args.seeds.split(",")):
        key = f"{args.data}-{args.epochs}-{domain.lr:g}-{args.texts}-{args.limit}-{domain.row.epochs}-{seed}"
        path = args.runs / f"{key}.json"
        if not path.is_file():
            record = run(domain, raw, folder, args, seed, args.runs / "models" / key)
            path.write_text(json.dumps(record), encoding="utf-8")
        records.append(json.loads(path.read_text(encoding="utf-8")))
    print(render(domain.row, records, args.epochs, raw.name))


def raw_texts(row: Row, folder: Path, target: Path, limit: int | None) -> Path:
    """Write the texts of the training file without their labels, once, and return the file."""
    path = target / f"{row.name}-raw{'' if limit is None else f'-{limit}'}.csv"
    if not path.exists():
        target.mkdir(parents=True, exist_ok=True)
        texts = read(folder / row.folder / row.train_file, [row.text])[:limit]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text",), *texts])
    return path


def run(domain: Domain, raw: Path, folder: Path, args: argparse.Namespace, seed: int, target: Path) -> dict[str, Any]:
    """Pretrain, fine-tune both encoders, and return gold and predicted labels with the pretraining's figures."""
    import tunesmith

    row = domain.row
    train, test = prepare(row, seed, folder, args.runs / "data")
    began = time.monotonic()
    pretrained = tunesmith.train(
        raw,
        task="masked-lm",
        epochs=args.epochs,
        lr=domain.lr,
        warmup=0.06,
        batch_size=domain.batch_size,
        max_length=domain.max_length,
        valid_size=0,
        test_size=0.05,
        seed=seed,
        out=target / "encoder",
        overwrite=True,
    )
    seconds = time.monotonic() - began
    evaluation = pretrained.result["evaluations"]["test"]
    before = next(found for found in evaluation["yardsticks"] if found["name"] == "encoder before training")
    predicted = {}
    for variant, model in (("without", "all-minilm-l6-v2"), ("after", str(target / "encoder"))):
        tuned = tunesmith.train(
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
            out=target / variant,
            overwrite=True,
        )
        predicted[variant] = [found.label for found in tuned.bundle.predict(test)]
    return {
        "seed": seed,
        "gold": [label for _, label in read(test, ["text", "label"])],
        **predicted,
        "perplexity": {"before": before["metrics"]["perplexity"], "after": evaluation["metrics"]["perplexity"]},
        "pretraining_seconds": seconds,
        "tokens": pretrained.result["training"]["tokens"],
    }


def render(row: Row, records: list[dict[str, Any]], epochs: int, raw: str) -> str:
    """Return the table: accuracy of each seed without and after pretraining, their mean difference and its interval."""
    names = sorted({label for record in records for label in record["gold"]})
    lines = [f"| {row.title}, seed | without | after {epochs} epochs on {raw} | difference | perplexity before, after | pretraining |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    pairs = []
    for record in records:
        gold, without, after = (_hot(record[key], names) for key in ("gold", "without", "after"))
        pairs.append((gold, after, without))
        one, two = (float(scores(gold, values, row.metric)[0]) for values in (without, after))
        told = record["perplexity"]
        lines.append(
            f"| {record['seed']} | {one:.4f} | {two:.4f} | {two - one:+.4f} | {told['before']:,.0f}, {told['after']:,.1f} "
            f"| {record['tokens']:,} tokens, {record['pretraining_seconds']:.0f} s |"
        )
    mean, low, high = paired_difference(pairs, row.metric)
    lines.append(f"\n{row.metric}, after minus without, over {len(records)} seeds: {mean:+.4f} (95% interval {low:+.4f} to {high:+.4f})")
    return "\n".join(lines)


def _hot(labels: list[str], names: list[str]) -> np.ndarray:
    """Return float64[N, C], one for the label of each row; a predicted label that no test row has is a row of zeros."""
    return np.array([[float(name == label) for name in names] for label in labels])


if __name__ == "__main__":
    main()
