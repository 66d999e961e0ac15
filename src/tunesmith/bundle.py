"""The model directory: Hugging Face's files plus `tunesmith.json`; saving it, loading it, predicting and testing with it."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import registry
from tunesmith.accounting import Tally, account, seen_before
from tunesmith.data.kept import KEPT_FILES
from tunesmith.data.memory import is_pair, open_data
from tunesmith.data.schema import Example, Row, RowSource, Schema, Source, for_test, guess_schema, rows_of
from tunesmith.data.table import open_table
from tunesmith.data.tokens import Encoded, Truncation
from tunesmith.errors import DataError, ModelError, UsageError, counted, listing, setting
from tunesmith.evaluate import CHUNK, outputs_for, outputs_of
from tunesmith.model.adapted import FILES as ADAPTER_FILES
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.attaching import load_adapted
from tunesmith.model.devices import choose_device
from tunesmith.model.heads import TextModel, build_model, load_head, own_head
from tunesmith.model.moving import move
from tunesmith.model.pretrained import load_saved
from tunesmith.model.prompted import load_prompted
from tunesmith.model.spec import HeadSpec
from tunesmith.places import DESCRIPTION, HEAD_FILE
from tunesmith.progress import QUIET, Progress
from tunesmith.resolve import resolve
from tunesmith.storage import sync, write_json, writing
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part, Ragged, Rows, without_text

_FORMAT = 2


class Bundle:
    """A trained model with everything that prediction needs. `Bundle.load(directory)` opens one.

    description: the content of `tunesmith.json`; task: the fitted task, with `labels`; schema: the columns it was trained on
    """

    def __init__(self, directory: Path, description: dict[str, Any], model: TextModel) -> None:
        self.directory, self.description = directory, description
        self.model = model.eval()
        self.family = registry.family(description["task"]["name"])
        self.task: Task = registry.load(self.family.task).from_dict(description["task"])
        columns = description["schema"]
        self.schema = Schema(
            tuple(columns["texts"]),
            columns["target"],
            read=self.family.read,
            context=int(columns.get("context", 0)),
            document=columns.get("document"),
        )
        self.family = replace(self.family, two_texts=self.schema.pair)
        settings = description["tokens"]
        self.max_tokens = int(settings["max_tokens"])
        self.encoder = self.task.encoder(
            _backend(model), Truncation(**settings["truncation"]), settings["fallback_token"], self.schema, **settings["settings"]
        )
        self.task = self.task.bind(model.encoder.tokenizer, self.encoder)

    def __getstate__(self) -> dict[str, Any]:
        """A pickle is opened on other machines."""
        on_cpu = self.model.encoder.device.type == "cpu"
        return {**self.__dict__, "model": self.model if on_cpu else copy.deepcopy(self.model).cpu()}

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the model's outputs."""
        return self.task.labels

    @classmethod
    def load(cls, directory: Path | str, *, device: str = "cpu", precision: str = "fp32", **settings: Any) -> Bundle:
        """Open a model directory; settings: in place of those that its task was trained with, where prediction has them.

        device: what computes, `auto`, `cpu` or `cuda:N`; precision: in which it is tried there first, where that is a GPU

        Raises `ModelError` when it is not one, is unfinished or damaged, `UsageError` for a setting that the task has no use for and for
        a device that is not there.
        """
        place, _ = choose_device(device)
        bundle = cls._open(Path(directory))
        bundle.task = bundle.task.adjusted(**settings)
        move(bundle.model, place, choose_precision(precision, place)[0])
        return bundle

    @classmethod
    def _open(cls, directory: Path) -> Bundle:
        description = _read_description(directory)
        if description.get("prompting") is not None:
            return cls(directory, description, load_prompted(directory, description["prompting"]))
        head, pooling = HeadSpec(description["head"], int(description["outputs"])), description["pooling"]
        apart = description.get("adapter")
        if apart is not None:
            return cls(directory, description, load_adapted(directory, apart, head, pooling))
        encoder = load_saved(directory, head.kind if description["loads_in_transformers"] else None)
        if description["loads_in_transformers"]:
            model = build_model(encoder, head, pooling=pooling, dropout=0.0, seed=0)
            if not model.loads_in_transformers:
                raise ModelError(
                    f"{directory}: its head does not run as it did when it was trained; the installed transformers differs too much "
                    f"from the one of training ({description['result']['versions']['transformers']}). Install that version, or train again."
                )
        else:
            model = TextModel(encoder, own_head(encoder.width, head, pooling, 0.0, last=description["last_token"]))
            load_head(model, directory)
        return cls(directory, description, model)

    def predict(
        self, data: Any, *, text: str | None = None, text_pair: str | None = None, precision: str = "fp32", progress: Progress = QUIET
    ) -> Any:
        """Predict texts, or pairs of texts where the model takes pairs.

        data: one text, or anything `tunesmith.train` takes (a list of texts, a table, a `Path` to a file); for a model of pairs
            one `(first, second)`, a list of such, or a table with both columns
        text, text_pair: names of the text columns where they are not those of training
        precision: fp32, bf16 (faster on processors that have it, equal to about three digits), or auto, the faster one

        Returns the task's prediction for one text or pair (a `tunesmith.Prediction` from a classifier), else a list of them, in
        order. Raises `DataError`.
        """
        if self.schema.pair and isinstance(data, list) and is_pair(data):
            raise DataError("this model takes pairs, and two texts in a list may be a pair or not: pass a tuple (first, second).")
        if isinstance(data, str) or (self.schema.pair and is_pair(data)):
            return self.predict([data], precision=precision)[0]
        if isinstance(data, Sized) and len(data) == 0:
            return []
        if isinstance(data, list | tuple) and isinstance(data[0], str | list | tuple) and is_pair(data[0]) != self.schema.pair:
            wanted = "pairs of texts: pass (first, second), a list of such pairs" if self.schema.pair else "single texts: pass one, a list"
            raise DataError(f"this model takes {wanted}, or a table.")
        source = open_data(data)
        schema = self.schema_for(source, text, text_pair=text_pair)
        examples = schema.examples(source)
        with progress.track("predicting", getattr(source, "length", None), "rows") as tracker:
            return list(self.stream(examples, precision=precision, advance=tracker.advance))

    def stream(
        self,
        examples: Iterable[Example | str | tuple[str, ...]],
        *,
        precision: str = "fp32",
        chunk: int = CHUNK,
        tally: Tally | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Iterator[Any]:
        """Yield a prediction for each text, pair or example, in order, at most `chunk` in memory.

        tally: counts what was cut; advance: is told how many went through the model, after each batch
        """
        read = map(_example, examples)
        while part := list(islice(read, chunk)):
            encoded, outputs = self._outputs(part, precision, advance)
            if tally is not None:
                tally.add(part, encoded)
            yield from self.task.decode(outputs, part, encoded)

    def probabilities(self, texts: Sequence[str | tuple[str, ...]], *, precision: str = "fp32") -> np.ndarray:
        """Return float32[E, C], every label's probability for each text or pair. Raises `UsageError` for a task without labels."""
        self.task.probabilities(np.zeros((0, self.task.head.outputs), np.float32))  # which a task without labels refuses
        return self.task.probabilities(self._outputs([_example(text) for text in texts], precision)[1].values)

    def _outputs(
        self, examples: Sequence[Example], precision: str, advance: Callable[[int], None] | None = None
    ) -> tuple[list[Encoded], Ragged]:
        encoded = self.encoder.encode_examples(examples, offsets=self.task.needs_offsets)
        precision, _ = choose_precision(precision, self.model.encoder.device)
        return encoded, outputs_of(self.model, self.task, encoded, precision=precision, max_tokens=self.max_tokens, advance=advance)

    def schema_for(
        self,
        source: RowSource,
        text: str | None = None,
        label: str | None = None,
        *,
        text_pair: str | None = None,
        need_label: bool = False,
    ) -> Schema:
        """Return which columns of `source` to read: those named, else those of training, else what can only be meant."""
        if text is None and self.schema.texts[0] in source.columns:
            text = self.schema.texts[0]
        if self.schema.pair and text_pair is None and self.schema.texts[1] in source.columns:
            text_pair = self.schema.texts[1]
        if text_pair is not None and not self.schema.pair:
            raise UsageError(f"{setting('text_pair')} names a second text, but this model was trained on single texts.")
        if need_label and label is None and self.schema.target in source.columns:
            label = self.schema.target
        need_label = need_label and self.family.needs_target
        try:
            found = guess_schema(source, text=text, text_pair=text_pair, label=label, group=None, family=self.family, need_label=need_label)
        except DataError as error:
            if need_label or rows_of(source, self.family, **self.description["tokens"]["settings"]) is source:
                raise
            raise DataError(
                f"{error} Rows like these are taken apart in training and tests; what is predicted for must have the columns "
                f"{listing(list(map(repr, self.schema.texts)))}."
            ) from None
        context = self.schema.context if self.schema.document in source.columns else 0
        return replace(found, context=context, document=self.schema.document) if context else found

    def evaluate(
        self,
        data: Any,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        label: str | None = None,
        drop_unlabelled: bool = False,
        precision: str = "fp32",
        progress: Progress = QUIET,
    ) -> dict[str, Any]:
        """Test on labelled rows: metrics with intervals, per label, confusion, calibration, the most confident mistakes.

        Rows without a label cannot be tested and raise `DataError` unless `drop_unlabelled` leaves them out. A label that the
        model does not know raises it always.
        """
        source = rows_of(for_test(open_data(data)), self.family, **self.description["tokens"]["settings"])
        schema = self.schema_for(source, text, label, text_pair=text_pair, need_label=True)
        if (schema.texts, schema.target) != (self.schema.texts, self.schema.target):
            progress.say(f"columns of {source.name}: {schema}")
        table = open_table(source, schema, self.encoder, progress)
        if len(table) == 0:
            raise DataError(f"{source.name} has no rows.")
        missing = table.labels().missing if self.family.needs_target else np.zeros(len(table), np.bool_)
        wanting = missing & ~table.blank
        if wanting.any() and not drop_unlabelled:
            line = table.line[int(np.argmax(wanting))]
            raise DataError(
                f"{source.name}:{line}: no label ({counted(int(wanting.sum()), 'such row')}). Fill them in or remove the rows, "
                f"or pass {setting('drop_unlabelled', True)} to leave them out."
                + self.task.advice_on_missing(table, resolve(self.description["result"]["recipe"]))
            )
        if missing.all():
            raise DataError(f"{source.name}: none of its {counted(len(table), 'row')} has a label. Name a file of labelled rows.")
        part = self.task.own(Part(Rows(table, np.flatnonzero(~missing), self.task.targets(table)), source, schema))
        rows = part.rows
        note = seen_before(self.description.get("seen"), table.text_key[rows.index])
        notes = ([note] if note else []) + without_text(rows) + self.task.cautions(rows)
        for sentence in notes:
            progress.say(f"warning: {sentence}")
        precision, _ = choose_precision(precision, self.model.encoder.device)
        result = assess(self.model, self.task, part, precision=precision, max_tokens=self.max_tokens, progress=progress)
        # what has neither label nor text are empty lines of a spreadsheet
        dropped = {"dropped_empty": int((missing & table.blank).sum()), "dropped_unlabelled": int(wanting.sum())}
        values = {**account(rows, self.encoder, self.task), **dropped}
        values["rows_read"] -= part.aside
        return {**result, "account": values, "notes": notes}


def _example(given: Example | str | tuple[str, ...]) -> Example:
    if isinstance(given, Example):
        return given
    return Example((given,) if isinstance(given, str) else given, None, False, None, Source("text", 0))


def assess(
    model: TextModel,
    task: Task,
    part: Part,
    *,
    precision: str = "fp32",
    max_tokens: int = 16384,
    what: str = "testing",
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Return the evaluation of `model` on the rows of `part` as plain values, the worst mistakes with their texts included."""
    part = task.judged(part)
    outputs = outputs_for(model, task, part.rows, precision=precision, max_tokens=max_tokens, what=what, progress=progress)
    return task.evaluation(outputs, part, progress)


def save_bundle(directory: Path, model: TextModel, description: dict[str, Any], written_by_report: Any) -> None:
    """Write a model directory: first the files of the model, then the reports, `tunesmith.json` last, which makes it whole.

    description: plain values; `written_by_report(directory)` writes report and model card
    Raises `StorageError`; a directory without `tunesmith.json` is never taken for a finished model.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".model.", dir=directory))
    try:
        with writing(directory):
            model.save(temporary)
            written_by_report(temporary)
            # from here on an earlier model in this place is no longer whole
            usual = (HEAD_FILE, "modules.json", "config.json", "model.safetensors", *ADAPTER_FILES, *KEPT_FILES)
            for stale in (*_files_told(directory), *usual):
                (directory / stale).unlink(missing_ok=True)
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            names = [str(file.relative_to(temporary)) for file in files]
            for file in files:
                place = directory / file.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                sync(file)
                file.replace(place)
        write_json(directory / DESCRIPTION, {"format": _FORMAT, **description, "files": [*names, DESCRIPTION]})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _files_told(directory: Path) -> list[str]:
    """Return the files that the model in a directory says it has, its description first, which makes it whole."""
    told: list[str] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        told = [name for name in json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))["files"] if _is_inside(name)]
    return [DESCRIPTION, *(name for name in told if name != DESCRIPTION)]


def _is_inside(name: Any) -> bool:
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _read_description(directory: Path) -> dict[str, Any]:
    path = directory / DESCRIPTION
    if not directory.is_dir():
        raise ModelError(f"there is no model directory {directory}. Name the one that `tunesmith train` wrote (its {setting('out')}).")
    if not path.is_file():
        if (directory / "checkpoints").is_dir():
            raise ModelError(f"training into {directory} was not finished. Finish it with: tunesmith train --resume --out {directory}")
        if (directory / "config.json").is_file():
            raise ModelError(
                f"{directory} is a transformers model that tunesmith did not train. Train with: tunesmith train DATA --model {directory}"
            )
        raise ModelError(f"{directory} is no model directory: it has no {DESCRIPTION}. Name one that `tunesmith train` wrote.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] > _FORMAT:
            raise ModelError(f"{path} has format {description['format']}; this tunesmith reads up to {_FORMAT}. Update tunesmith.")
        if description["format"] < _FORMAT:
            raise ModelError(f"{path} has format {description['format']}, of an older tunesmith; this one reads {_FORMAT}. Train again.")
        for key in ("task", "schema", "tokens", "pooling", "head", "outputs", "loads_in_transformers", "last_token"):
            description[key]
        if description["task"]["name"] not in registry.names():
            raise ModelError(f"{path}: its task {description['task']['name']!r} is unknown here; install or update what brings it.")
        if not all(isinstance(label, str) for label in description["task"].get("labels", [])):
            raise TypeError("labels must be texts")
        registry.load(registry.family(description["task"]["name"]).task).from_dict(description["task"])
        Truncation(**description["tokens"]["truncation"])
        for key in ("max_tokens", "fallback_token", "settings"):
            description["tokens"][key]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({type(error).__name__}: {error}). Restore it from a copy, or train again.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    return description


def _backend(model: TextModel) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(model.encoder.tokenizer.backend_tokenizer.to_str())


def stream_rows(
    bundle: Bundle,
    source: RowSource,
    schema: Schema,
    tally: Tally,
    *,
    precision: str = "fp32",
    chunk: int = CHUNK,
    advance: Callable[[int], None] | None = None,
) -> Iterator[tuple[Row, Source, Any]]:
    """Yield each row of `source` with its prediction, in order, holding no more than `chunk` rows at a time; see `Bundle.stream`."""
    read: deque[tuple[Row, Source]] = deque()

    def remembered() -> Iterator[tuple[Row, Source]]:
        for row, place in source:
            read.append((row, place))
            yield row, place

    for prediction in bundle.stream(schema.examples(remembered()), precision=precision, chunk=chunk, tally=tally, advance=advance):
        row, place = read.popleft()
        yield row, place, prediction
