"""What happens to one row, stage by stage: the same functions that training and prediction call, with their results printed."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from tunesmith import registry
from tunesmith.bundle import DESCRIPTION, Bundle
from tunesmith.config import Config
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Example, RowSource, Schema, choose_task, guess_schema, rows_of
from tunesmith.data.table import open_table
from tunesmith.data.tokens import Encoded, ExampleEncoder
from tunesmith.errors import DataError, counted, listing
from tunesmith.model.heads import TextModel, build_model
from tunesmith.model.pretrained import open_pretrained
from tunesmith.prepare import encoder_of, lowered
from tunesmith.progress import Progress
from tunesmith.registry import Family
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Ragged

_SHOWN_LABELS = 60
_SHOWN_TOKENS = 24


def walk_row(config: Config, number: int, progress: Progress) -> str:
    """Return the stages of row `number` (counted from 1) of `config.train` as text.

    `config.model` may be a model directory trained by tunesmith; a bare encoder gets an untrained head, and the text says so.
    Raises `DataError` when there is no such row.
    """
    assert config.train is not None
    source = open_data(config.train, encoding=config.encoding)
    bundle = Bundle.load(config.model) if (Path(config.model) / DESCRIPTION).is_file() else None
    chosen = choose_task(source, config)
    if bundle is not None and bundle.task.head.kind == "masked-lm" and bundle.task.name != chosen:
        bundle = None  # pretrained further, it is an encoder like any other to the other tasks
    family = bundle.family if bundle is not None else registry.family(chosen)
    kind: type[Task] = registry.load(family.task)
    source = rows_of(source, family, **(bundle.description["tokens"]["settings"] if bundle is not None else kind.encoding(config)))
    schema = _schema(source, config, bundle, family)
    found = next(islice(iter(source), number - 1, None), None)
    if found is None:
        count = sum(1 for _ in source)
        raise DataError(f"{source.name} has {counted(count, 'row')}; there is no row {number:,}.")
    row, place = found
    example = next(islice(schema.examples(source), number - 1, None)) if schema.context else schema.parse(row, place)
    if bundle is not None:
        encoder, task, model = bundle.encoder, bundle.task, bundle.model
        origin = f"trained model {config.model}"
        unused = sorted(
            config.model_fields_set
            & {"task", "label_type", "label_separator", "max_length", "truncation", "stride", "max_windows", "pooling"}
        )
        if unused:
            progress.say(f"not used, as the trained model has its own: {', '.join(unused)}.")
    else:
        pretrained = open_pretrained(config.model)
        encoder = encoder_of(config, kind, pretrained, schema, progress)
        for note in lowered(pretrained, config):
            progress.say(f"note: {note}")
        task = kind.learn(open_table(source, schema, encoder, progress), config).bind(pretrained.tokenizer, encoder)
        model = build_model(pretrained.load(task.head), task.head, pooling=config.pooling, dropout=0.0, seed=0)
        origin = f"encoder {config.model} with an UNTRAINED head: the outputs below mean nothing yet"
    encoded = encoder.encode_examples([example], offsets=True)[0]
    stages = [
        _stage("1 source", f"{place}, row {number}", *(f"{name} = {value!r:.120}" for name, value in row.items())),
        _stage("2 schema", f"columns: {schema}", *_example(example)),
        _tokens(example, encoded, encoder),
        _truncation(encoded, encoder),
        *_network(encoded, task, model, origin, example),
    ]
    return "\n\n".join(stages)


def _schema(source: RowSource, config: Config, bundle: Bundle | None, family: Family) -> Schema:
    if bundle is None:
        return guess_schema(source, **config.columns, group=None, family=family)
    schema = bundle.schema_for(source, config.text, config.label, text_pair=config.text_pair)
    target = config.label if config.label is not None else bundle.schema.target
    return replace(schema, target=target if target in source.columns else None)


def _stage(title: str, *lines: str) -> str:
    return "\n".join([title, *(f"    {line}" for line in lines)])


def _example(example: Example) -> list[str]:
    label = "none" if example.target is None else listing(map(repr, example.target), _SHOWN_LABELS) or "an empty list"
    texts = [f"text: {counted(len(text), 'character')}: {text[:200]!r}{' ...' if len(text) > 200 else ''}" for text in example.texts]
    return [*texts, f"label: {label}"]


def _tokens(example: Example, encoded: Encoded, encoder: ExampleEncoder) -> str:
    lines = []
    if encoder.has_points and not encoder.pairs:
        # such encoders do more than the tokenizer alone: what they made is shown, of the first sequence
        made = zip(encoded.sequences[0].tolist(), encoded.offsets[0].tolist(), strict=True)
        pieces = [f"{encoder.tokenizer.id_to_token(token)}[{a}:{b}]" for token, (a, b) in made if b > 0]
        lines.append(
            " ".join(pieces[:_SHOWN_TOKENS]) + (f" ... and {len(pieces) - _SHOWN_TOKENS:,} more" if len(pieces) > _SHOWN_TOKENS else "")
        )
    for text in example.texts if not lines else ():
        full = encoder.tokenizer.encode(text, add_special_tokens=False)
        pieces = [f"{piece}[{a}:{b}]" for piece, (a, b) in zip(full.tokens[:_SHOWN_TOKENS], full.offsets, strict=False)]
        lines.append(" ".join(pieces) + (f" ... and {len(full) - _SHOWN_TOKENS:,} more" if len(full) > _SHOWN_TOKENS else ""))
    return _stage("3 tokens", f"{counted(encoded.tokens, 'token')}, each with its characters in its text [start:end]:", *lines)


def _truncation(encoded: Encoded, encoder: ExampleEncoder) -> str:
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


def _network(encoded: Encoded, task: Task, model: TextModel, origin: str, example: Example) -> list[str]:
    batch = task.gather([encoded], judged=False)
    model.eval()
    with torch.inference_mode():
        hidden = model.encoder(batch)
        outputs = model(batch)
        combined = task.combine(outputs, batch)
    prediction = next(task.decode(Ragged.of([combined.float().cpu().numpy()], task.head.outputs), [example], [encoded]))
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
        _stage("8 prediction", *task.shown(prediction, example)),
    ]


def _merged(outputs: torch.Tensor, combined: torch.Tensor, task: Task) -> list[str]:
    if outputs.shape == combined.shape:
        return []
    if task.head.per_token:
        return [f"of which the task takes float{list(combined.shape)}"]
    return [f"{getattr(task, 'aggregation', 'merged')} over {outputs.shape[0]} windows: float{list(combined.shape)}"]
