"""Predict the texts of a CSV with a saved classifier, and write how long it took once all was loaded and warm.

    python predict_peer.py --how tunesmith|pipeline|onnx-int8 --model DIRECTORY --data texts.csv --json result.json
    python predict_peer.py --how pipeline|onnx-int8 --model DIRECTORY --data texts.csv --out labels.csv

With `--out` all texts are predicted once and written with their labels: the program that one would write to label a file.

`pipeline` is transformers' own, `--batch-size` texts at a time (default: one, as the pipeline has it). `onnx-int8` is the same
model exported to ONNX, its matrices rounded to int8 (dynamic quantisation of onnxruntime), texts sorted by length, 32 at a time; its
file lies beside the model's directory, made where it is not there yet, and `--prepare` does nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Predict = Callable[[list[str]], list[str]]


def with_tunesmith(model: str, precision: str) -> Predict:
    import tunesmith

    bundle = tunesmith.load(model)
    return lambda texts: [prediction.label for prediction in bundle.predict(texts, precision=precision)]


def with_pipeline(model: str, batch_size: int) -> Predict:
    import transformers

    pipe = transformers.pipeline("text-classification", model=model)
    return lambda texts: [found["label"] for found in pipe(texts, batch_size=batch_size)]


INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


def int8(model: str) -> Path:
    """Return the file of the model in int8, which is made where it is not there yet."""
    made = Path(model, "config.json").stat().st_mtime_ns  # a model trained again is another one
    path = Path(model).with_name(f"{Path(model).name}-{made}-int8.onnx")
    if path.exists():
        return path
    import torch
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    example = tokenizer(["one text", "another, longer text"], padding=True, return_tensors="pt")
    axes = {name: {0: "batch", 1: "length"} for name in INPUTS}
    whole = path.with_name("model.onnx")
    with torch.no_grad():
        torch.onnx.export(
            network, tuple(example[name] for name in INPUTS), whole, input_names=INPUTS, output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}}, dynamo=False,
        )  # fmt: skip
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8)
    return path


def with_onnx_int8(model: str) -> Predict:
    session_file = int8(model)
    import numpy as np
    import onnxruntime
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    names = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))["id2label"]
    session = onnxruntime.InferenceSession(str(session_file), providers=["CPUExecutionProvider"])

    def predict(texts: list[str]) -> list[str]:
        encoded = tokenizer(texts, truncation=True, max_length=256)
        order = np.argsort([-len(ids) for ids in encoded["input_ids"]], kind="stable")
        found = [""] * len(texts)
        for start in range(0, len(order), 32):
            chosen = order[start : start + 32]
            padded = tokenizer.pad({name: [encoded[name][i] for i in chosen] for name in INPUTS}, return_tensors="np")
            (logits,) = session.run(None, {name: padded[name] for name in INPUTS})
            for i, best in zip(chosen.tolist(), logits.argmax(1).tolist(), strict=True):
                found[i] = names[str(best)]
        return found

    return predict


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--how", required=True, choices=["tunesmith", "pipeline", "onnx-int8"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "auto"], help="of tunesmith; auto: the faster one")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--json", help="where seconds, memory and labels go")
    parser.add_argument("--prepare", action="store_true", help="only make the file in int8")
    parser.add_argument("--out", help="where the texts with their labels go; nothing is measured then")
    args = parser.parse_args()
    if args.prepare:
        int8(args.model)
        return
    with open(args.data, encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    if args.how == "tunesmith":
        predict = with_tunesmith(args.model, args.precision)
    elif args.how == "pipeline":
        predict = with_pipeline(args.model, args.batch_size)
    else:
        predict = with_onnx_int8(args.model)
    if args.out:
        with open(args.out, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "predicted_label"])
            writer.writerows(zip(texts, predict(texts), strict=True))
        return
    predict(texts[:100])
    began = time.perf_counter()
    labels = predict(texts)
    seconds = time.perf_counter() - began
    result = {
        "predict_s": seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "labels": labels,
    }
    Path(args.json).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
