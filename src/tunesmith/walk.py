"""What happens to one row, stage by stage: the same functions that training and prediction call, with their results printed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.bundle import DESCRIPTION, Bundle
from tunesmith.config import Config
from tunesmith.data.batches import pack
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Example, RowSource, Schema, guess_schema
from tunesmith.data.table import open_table
from tunesmith.data.tokens import Encoded, TextEncoder
from tunesmith.errors import DataError, counted
from tunesmith.model.encoder import open_pretrained
from tunesmith.model.heads import TextModel, build_model
from tunesmith.prepare import encoder_of
from tunesmith.progress import Progress
from tunesmith.tasks.classification import Classification

_SHOWN_TOKENS = 24


def walk_row(config: Config, number: int, progress: Progress) -> str:
    """Return the stages of row `number` (counted from 1) of `config.train` as text.

    `config.model` may be a model directory trained by tunesmith; a bare encoder gets an untrained head, and the text says so.
    Raises `DataError` when there is no such row.
    """
    assert config.train is not None
    source = open_data(config.train, encoding=config.encoding)
    bundle = Bundle.load(config.model) if (Path(config.model) / DESCRIPTION).is_file() else None
    schema = _schema(source, config, bundle)
    found = next(islice(iter(source), number - 1, None), None)
    if found is None:
        count = sum(1 for _ in source)
        raise DataError(f"{source.name} has {counted(count, 'row')}; there is no row {number:,}.")
    row, place = found
    example = schema.parse(row, place)
    if bundle is not None:
        encoder, task, model = bundle.text_encoder, bundle.task, bundle.model
        origin = f"trained model {config.model}"
        unused = sorted(
            config.model_fields_set & {"label_type", "label_separator", "max_length", "truncation", "stride", "max_windows", "pooling"}
        )
        if unused:
            progress.say(f"not used, as the trained model has its own: {', '.join(unused)}.")
    else:
        pretrained = open_pretrained(config.model)
        encoder = encoder_of(config, pretrained, schema, progress)
        labels = open_table(source, schema, encoder, progress).labels()
        task = Classification.fit(labels, label_type=config.label_type, separator=config.label_separator)
        model = build_model(
            pretrained.load(task.labels, multi_label=task.multi), outputs=task.outputs, pooling=config.pooling, dropout=0.0, seed=0
        )
        origin = f"encoder {config.model} with an UNTRAINED head: the outputs below mean nothing yet"
    encoded = encoder.encode([example.texts], offsets=True)[0]
    stages = [
        _stage("1 source", f"{place}, row {number}", *(f"{name} = {value!r:.120}" for name, value in row.items())),
        _stage("2 schema", f"columns: {schema}", *_example(example)),
        _tokens(example, encoded, encoder),
        _truncation(encoded, encoder),
        *_network(encoded, task, model, origin, example),
    ]
    return "\n\n".join(stages)


def _schema(source: RowSource, config: Config, bundle: Bundle | None) -> Schema:
    if bundle is None:
        return guess_schema(source, **config.columns, group=None)
    schema = bundle.schema_for(source, config.text, config.label, text_pair=config.text_pair)
    target = config.label if config.label is not None else bundle.schema.target
    return Schema(schema.texts, target if target in source.columns else None)


def _stage(title: str, *lines: str) -> str:
    return "\n".join([title, *(f"    {line}" for line in lines)])


def _example(example: Example) -> list[str]:
    label = "none" if example.target is None else ", ".join(map(repr, example.target))
    texts = [f"text: {counted(len(text), 'character')}: {text[:200]!r}{' ...' if len(text) > 200 else ''}" for text in example.texts]
    return [*texts, f"label: {label}"]


def _tokens(example: Example, encoded: Encoded, encoder: TextEncoder) -> str:
    lines = []
    for text in example.texts:
        full = encoder.tokenizer.encode(text, add_special_tokens=False)
        pieces = [f"{piece}[{a}:{b}]" for piece, (a, b) in zip(full.tokens[:_SHOWN_TOKENS], full.offsets, strict=False)]
        lines.append(" ".join(pieces) + (f" ... and {len(full) - _SHOWN_TOKENS:,} more" if len(full) > _SHOWN_TOKENS else ""))
    return _stage("3 tokens", f"{counted(encoded.tokens, 'token')}, each with its characters in its text [start:end]:", *lines)


def _truncation(encoded: Encoded, encoder: TextEncoder) -> str:
    policy = encoder.truncation
    lines = [
        f"policy {policy.policy}, at most {policy.max_length} tokens a sequence, {policy.max_length - encoder.budget} of them special",
        f"{encoded.tokens - encoded.lost:,} of {counted(encoded.tokens, 'token')} kept; sequences: {len(encoded.sequences)}"
        + (f"; {encoded.lost:,} LOST" if encoded.lost else "; nothing lost"),
    ]
    for i, (ids, offsets) in enumerate(zip(encoded.sequences, encoded.offsets, strict=True)):
        if encoded.borders:
            border = encoded.borders[i]
            span = f"first text {_characters(offsets[:border])}, second {_characters(offsets[border:])}; segment 1 from token {border}"
            if border == len(ids):
                span = f"{_characters(offsets)}; this encoder's frame of a pair has one segment"
        else:
            span = _characters(offsets)
        shown = " ".join(map(str, ids[:12])) + (" ..." if len(ids) > 12 else "")
        lines.append(f"sequence {i + 1}: {len(ids)} tokens, {span}; ids {shown}")
    return _stage("4 truncation", *lines)


def _characters(offsets: np.ndarray) -> str:
    """Say which characters tokens with these offsets, int[n, 2], come from."""
    inside = offsets[offsets[:, 1] > 0]
    return f"characters {inside[0, 0]:,} to {inside[-1, 1]:,}" if len(inside) else "no characters"


def _network(encoded: Encoded, task: Classification, model: TextModel, origin: str, example: Example) -> list[str]:
    batch = pack([encoded])
    model.eval()
    with torch.inference_mode():
        hidden = model.encoder(batch)
        outputs = model(batch)
        combined = task.combine(outputs, batch)
    probabilities = task.probabilities(combined.numpy())
    prediction = next(task.decode(probabilities))
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:10]
    final: list[str] = [f"{label}: {value:.4f}" for label, value in ranked]
    if len(task.labels) > len(ranked):
        final.append(f"... and {len(task.labels) - len(ranked)} more labels")
    return [
        _stage(
            "5 batch",
            f"ids int32[{len(batch.ids)}], cu_seqlens {batch.cu_seqlens.tolist()}: "
            f"{counted(len(batch.lengths), 'sequence')} of 1 example, no padding",
        ),
        _stage(
            "6 encoder",
            origin,
            f"hidden states float[{hidden.shape[0]}, {hidden.shape[1]}], root mean square {float(hidden.square().mean().sqrt()):.3f}",
        ),
        _stage("7 head", f"{type(model.head).__name__}: outputs float{list(outputs.shape)}", *_merged(outputs, combined, task)),
        _stage("8 prediction", *final, f"label: {prediction.label!r}" + _verdict(prediction.label, example)),
    ]


def _merged(outputs: torch.Tensor, combined: torch.Tensor, task: Classification) -> list[str]:
    if outputs.shape == combined.shape:
        return []
    return [f"{task.aggregation} over {outputs.shape[0]} windows: float{list(combined.shape)}"]


def _verdict(label: Any, example: Example) -> str:
    if example.target is None:
        return ""
    right = label == example.target[0] if isinstance(label, str) and len(example.target) == 1 else None
    return {True: " (right)", False: f" (the row says {example.target[0]!r})", None: f" (the row says {example.target})"}[right]
