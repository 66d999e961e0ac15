"""Few-shot learning with tunesmith's own usual settings, in a process of its own, and what it took and predicted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import common  # before the heavy imports, whose time counts

import tunesmith


def main() -> None:
    args = common.parser(batch_size=32, max_length=256).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["TUNESMITH_CACHE"] = os.path.join(directory, "cache")
        out = Path(directory) / "model"
        began = {"tuning": "fewshot", "model": args.model, "seed": args.seed, "test_size": 0.0, "task": "classification"}
        run, train_s = common.timed(lambda: tunesmith.train(args.train, text="text", label="label", out=str(out), **began))
        model = tunesmith.load(out)
        texts = [row["text"] for row in common.rows_of(args.test)]
        found, predict_s = common.timed(lambda: model.predict(texts))
    common.write_result(
        args.json,
        tunesmith,
        train_s=train_s,
        train_tokens=run.result["training"]["tokens"],
        train_rows=run.result["data"]["splits"]["train"]["rows"],
        predict_s=predict_s,
        predictions=[prediction.label for prediction in found],
    )


if __name__ == "__main__":
    main()
