"""Few-shot learning with SetFit, in a process of its own, and what it took and predicted: as fewshot_peer.py does.

SetFit 1.2.0 trains with transformers 5 and sentence-transformers 6 as it is; nothing is patched. `--iterations R` makes R pairs of equal
and R of unequal label of each row, as in Tunstall et al. 2022, section 4.1 (R = 20); 0 takes what the package does unless told: all
pairs, those of equal label repeated until they are as many. Everything else is as the package has it: batches of 16 pairs, one epoch,
2e-5, a logistic regression.
"""

from __future__ import annotations

import argparse
import tempfile

import common  # before the heavy imports, whose time counts


def arguments() -> argparse.Namespace:
    parser = common.parser(batch_size=16, max_length=256)
    parser.add_argument("--iterations", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    import setfit
    from datasets import Dataset

    rows, test = common.rows_of(args.train), common.rows_of(args.test)
    model = setfit.SetFitModel.from_pretrained(args.model, use_differentiable_head=False)
    model.model_body.max_seq_length = args.max_length
    data = Dataset.from_dict({"text": [row["text"] for row in rows], "label": [row["label"] for row in rows]})
    with tempfile.TemporaryDirectory() as directory:
        settings = setfit.TrainingArguments(
            output_dir=directory,
            batch_size=args.batch_size,
            num_epochs=1,
            num_iterations=args.iterations if args.iterations > 0 else None,
            seed=args.seed,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
        )
        trainer = setfit.Trainer(model=model, args=settings, train_dataset=data)
        _, train_s = common.timed(trainer.train)
    found, predict_s = common.timed(lambda: model.predict([row["text"] for row in test], use_labels=True))
    common.write_result(
        args.json,
        setfit,
        train_s=train_s,
        train_tokens=0,
        train_rows=len(rows),
        predict_s=predict_s,
        predictions=[str(label) for label in found],
    )


if __name__ == "__main__":
    main()
