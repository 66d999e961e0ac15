"""Models without any training: labels from prompts, or from examples, which can be added at any time.

N examples, H width, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith import prompts
from tunesmith.accounting import sketch_of
from tunesmith.bundle import DESCRIPTION, Bundle
from tunesmith.config import Config
from tunesmith.data.cloze import ClozeEncoder
from tunesmith.data.memory import from_memory, open_data
from tunesmith.data.schema import RowSource, guess_schema
from tunesmith.data.table import open_table
from tunesmith.data.text_faults import script
from tunesmith.data.tokens import TextEncoder, Truncation
from tunesmith.errors import DataError, ModelError, UsageError, counted, listing, setting
from tunesmith.evaluate import outputs_of
from tunesmith.model.heads import HEAD_FILE, TextModel, build_model, embed
from tunesmith.model.prompted import ClozeHead, ComparedHead
from tunesmith.model.spec import HeadSpec
from tunesmith.prepare import Prepared
from tunesmith.progress import QUIET, Progress
from tunesmith.seeds import seed_for
from tunesmith.storage import locked, new_file, write_json
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.rows import Rows
from tunesmith.training.fewshot import vectors_of

DESCRIPTIONS = "label descriptions"
"""What stands in a report for the file of training rows where there is none."""

_CALIBRATED = 2000  # the most examples that the scale is chosen by


@dataclass(frozen=True)
class Prompted:
    """A model that was made of prompts.

    prompting: what `tunesmith.json` keeps to open it again; sentence: how labels are found, in a few words
    """

    model: TextModel
    prompting: dict[str, Any]
    sentence: str


def rows_of_prompts(config: Config, test: RowSource | None) -> RowSource:
    """Return descriptions as labelled rows, in the columns of the test rows, which stand for training rows where there are none.

    Raises `UsageError` where there are no prompts, or those of a single label.
    """
    if config.method == "nearest":
        raise UsageError(
            f"{setting('method', 'nearest')} compares texts with labelled examples: name a file of them, or take "
            f"{setting('method', 'labels')}."
        )
    if config.prompts is None:
        raise UsageError(
            f"no data: {setting('tuning', 'none')} needs {setting('prompts')}, which say what each label means, or a file of labelled rows."
        )
    if len(config.prompts) < 2:
        raise UsageError(
            f"{setting('prompts')} speaks of {listing(map(repr, config.prompts))} alone; at least 2 labels are needed, each with its "
            "words: 'billing=bills and payments,delivery=parcels'."
        )
    text = config.text if config.text is not None else "text"
    label = config.label if config.label is not None else "label"
    if test is not None:
        schema = guess_schema(test, **config.columns, group=None)
        text, label = schema.texts[0], label if schema.target is None else schema.target
    rows = [{text: words, label: name} for name, several in config.prompts.items() for words in several]
    source = from_memory(rows)
    source.name = DESCRIPTIONS
    return source


def prompted(config: Config, prepared: Prepared, progress: Progress) -> Prompted:
    """Make a model of the prompts in `config`, and of the training rows if there are any.

    Raises `UsageError` for prompts that do not fit the labels, `ModelError` for an encoder that cannot do it.
    """
    task = prepared.task
    assert isinstance(task, Classification)
    if task.multi:
        raise UsageError(
            f"{setting('tuning', 'none')} gives one label a row, and the rows have any number. Take {setting('tuning', 'fewshot')}, or "
            f"{setting('label_type', 'single')}."
        )
    part = prepared.parts["train"]
    if part.schema.pair and config.method != "nearest":
        raise UsageError(
            f"{setting('method', config.method)} reads one text a row, and these rows are pairs. Take {setting('method', 'nearest')} with "
            f"labelled rows, or {setting('tuning', 'fewshot')}."
        )
    try:
        said, untold = prompts.described(task.labels, config.prompts)
    except ValueError as error:
        raise UsageError(f"{setting('prompts')}: {error}.") from None
    if config.method == "cloze":
        return _cloze(config, prepared, said, untold, progress)
    return _compared(config, prepared, said, untold, progress)


def _compared(config: Config, prepared: Prepared, said: list[list[str]], untold: list[str], progress: Progress) -> Prompted:
    """Return the model that compares texts with descriptions and examples."""
    task, rows = prepared.task, prepared.parts["train"].rows
    assert isinstance(task, Classification)
    encoder = prepared.pretrained.load(None)
    encoder.tokenizer.model_max_length = prepared.encoder.truncation.max_length
    encoder.choose_engine(config.engine)
    names = torch.zeros(task.outputs, encoder.width)
    if config.method == "labels":
        templates = prompts.templates_of(config.template, "labels", script(" ".join(words for several in said for words in several)))
        names = label_vectors(encoder, prepared, said, templates)
        if untold:
            named = listing([f"{label!r} ({prompts.readable(label)})" for label in untold], 6)
            note = f"nothing describes {named}: the name itself is compared with the texts; {setting('prompts')} says more."
            prepared.notes.append(note)
            progress.say(f"note: {note}")
    given = prepared.parts["train"].source.name != DESCRIPTIONS
    rows = rows if given else replace(rows, index=rows.index[:0])
    examples, codes = example_vectors(TextModel(encoder, torch.nn.Identity()), task, rows, progress)
    head = ComparedHead(config.method, config.neighbours, names, examples, codes, _keys(rows))
    if len(codes) > 1:
        generator = np.random.default_rng(seed_for(config.seed, "calibration"))
        head.calibrate(np.sort(generator.permutation(len(codes))[:_CALIBRATED]))
    how = f"cosines times {float(head.scale):.3g}" + (", chosen by the examples" if len(codes) > 1 else "")
    if config.method == "nearest":
        sentence = f"nothing; the {min(config.neighbours, len(codes))} nearest of {counted(len(codes), 'example')} vote, {how}"
    else:
        also = f" and {counted(len(codes), 'example')}" if len(codes) else ""
        sentence = f"nothing; texts are compared with descriptions of labels{also}, {how}"
    return Prompted(TextModel(encoder, head), {"method": config.method, "neighbours": config.neighbours, "examples": len(codes)}, sentence)


def label_vectors(encoder: Any, prepared: Prepared, said: list[list[str]], templates: list[str]) -> Tensor:
    """Return float[C, H] of length 1: the direction of the mean vector of a label's descriptions, each in each template."""
    reader = TextEncoder(
        prepared.pretrained.backend_tokenizer(),
        Truncation("head", prepared.encoder.truncation.max_length),
        prepared.pretrained.fallback_token,
    )
    found = []
    for descriptions in said:
        texts = [template.replace("{}", words) for words in descriptions for template in templates]
        vectors = torch.from_numpy(embed(encoder.eval(), reader.encode(texts), lambda count: None))
        found.append(F.normalize(F.normalize(vectors, dim=1).mean(0), dim=0))
    return torch.stack(found)


def example_vectors(model: TextModel, task: Classification, rows: Rows, progress: Progress) -> tuple[Tensor, Tensor]:
    """Return the vectors float[N, H] of `rows`, of length 1, and their labels int64[N]."""
    if len(rows) == 0:
        return torch.zeros(0, model.encoder.width), torch.zeros(0, dtype=torch.int64)
    vectors = torch.from_numpy(vectors_of(model, task, rows, progress))
    return F.normalize(vectors, dim=1), torch.from_numpy(rows.gold())


def _cloze(config: Config, prepared: Prepared, said: list[list[str]], untold: list[str], progress: Progress) -> Prompted:
    """Return the model that fills a gap."""
    task, reader, name = prepared.task, prepared.encoder, prepared.pretrained.located.name
    assert isinstance(task, Classification) and isinstance(reader, ClozeEncoder)
    if untold:
        named = listing(map(repr, untold), 6)
        raise UsageError(
            f"{setting('method', 'cloze')} fills a gap with a word of each label, and {setting('prompts')} has none for {named}. "
            "Example: positive=great,negative=terrible"
        )
    advice = f"Take {setting('method', 'labels')}, or a model that was saved with its head, as tunesmith pretrain writes it."
    encoder = prepared.pretrained.load(HeadSpec("masked-lm", reader.tokenizer.get_vocab_size()))
    if not encoder.has_head or encoder.fresh_head:
        raise ModelError(f"model {name!r} comes without a trained head that guesses hidden words. {advice}")
    encoder.tokenizer.model_max_length = reader.truncation.max_length
    whole = build_model(encoder, HeadSpec("masked-lm", reader.tokenizer.get_vocab_size()), pooling="cls", dropout=0.0, seed=0)
    encoder.choose_engine(config.engine)
    words: list[int] = []
    codes: list[int] = []
    for code, several in enumerate(said):
        for word in several:
            tokens = reader.word(word)
            if len(tokens) != 1:
                raise UsageError(
                    f"{setting('prompts')}: {word!r} of label {task.labels[code]!r} is {counted(len(tokens), 'token')} of {name}, and the "
                    "gap takes one. Choose a shorter, more frequent word."
                )
            if tokens[0] in words:
                other = task.labels[codes[words.index(tokens[0])]]
                if other != task.labels[code]:
                    raise UsageError(
                        f"{setting('prompts')}: {word!r} stands for {other!r} and for {task.labels[code]!r}. Give each its own."
                    )
                continue
            words.append(tokens[0])
            codes.append(code)
    head = ClozeHead(whole.encoder, reader.gap, torch.tensor(words), torch.tensor(codes), task.outputs)
    model = TextModel(whole.encoder, head)
    empty = outputs_of(model, task, reader.encode(["N/A", "", reader.mask])).values  # Zhao et al. 2021, section 5
    head.bias.copy_(-torch.log(torch.softmax(torch.from_numpy(empty), 1).mean(0)))
    sentence = f"nothing; {counted(len(words), 'word')} fill the gap of {reader.template!r}, calibrated on texts without content"
    return Prompted(model, {"method": "cloze", "gap": reader.gap}, sentence)


def add_examples(
    directory: Path | str, data: Any, *, text: str | None = None, label: str | None = None, progress: Progress = QUIET
) -> dict[str, int]:
    """Add labelled rows to the examples of a model that `--tuning none` made, without any training.

    data: anything that `tunesmith.train` takes. Rows whose text is an example of its label already are left out.
    Returns how many rows were `read`, `added`, and how many examples there are (`examples`).
    Raises `UsageError` for a model that has no use for examples, `DataError` for rows without a label or with an unknown one.
    """
    directory = Path(directory)
    if not (directory / DESCRIPTION).is_file():
        Bundle.load(directory)  # says what is there instead
    # two that add at once would each write what the other has not got
    with locked(directory):
        return _added(directory, data, text, label, progress)


def _added(directory: Path, data: Any, text: str | None, label: str | None, progress: Progress) -> dict[str, int]:
    bundle = Bundle.load(directory)
    head, task = bundle.model.head, bundle.task
    if not isinstance(head, ComparedHead) or not isinstance(task, Classification):
        raise UsageError(
            f"{directory} has no use for examples: it was made with {setting('tuning', bundle.description['result']['recipe']['tuning'])}"
            + (f" and {setting('method', 'cloze')}" if isinstance(head, ClozeHead) else "")
            + f". Examples go to models made with {setting('tuning', 'none')} and {setting('method', 'nearest')} or labels."
        )
    source = open_data(data)
    schema = bundle.schema_for(source, text, label, need_label=True)
    table = open_table(source, schema, bundle.encoder, progress)
    missing = table.labels().missing | table.blank if len(table) else np.zeros(0, np.bool_)
    if missing.all():
        raise DataError(f"{source.name}: none of its {counted(len(table), 'row')} has a text and a label. Name a file of labelled rows.")
    if missing.any():
        line = table.line[int(np.argmax(missing))]
        raise DataError(f"{source.name}:{line}: no text or no label ({counted(int(missing.sum()), 'such row')}). Remove or complete them.")
    rows = Rows(table, np.arange(len(table)), task.targets(table))
    vectors, codes = example_vectors(bundle.model, task, rows, progress)
    keys = _keys(rows)
    fresh = _not_yet(head, keys, codes)
    kept = {name: value.contiguous() for name, value in head.state_dict().items()}
    kept |= {"examples": torch.cat([head.examples, vectors[fresh]]), "codes": torch.cat([head.codes, codes[fresh]])}
    kept["keys"] = torch.cat([head.keys, keys[fresh]])
    from safetensors.torch import save_file

    description = bundle.description
    seen = np.array((description.get("seen") or {}).get("keys", []), np.uint64)
    description["prompting"]["examples"] = len(kept["codes"])
    description["seen"] = sketch_of(np.concatenate([seen, table.text_key]))
    with new_file(directory / HEAD_FILE) as temporary:
        save_file(kept, temporary)
    write_json(directory / DESCRIPTION, description)
    return {"read": len(table), "added": len(fresh), "examples": len(kept["codes"])}


def _not_yet(head: ComparedHead, keys: Tensor, codes: Tensor) -> list[int]:
    """Return the numbers of those rows whose text, by its key int64[N], is no example of its label yet, nor stands further up."""
    known = set(zip(head.keys.tolist(), head.codes.tolist(), strict=True))
    found = []
    for number, pair in enumerate(zip(keys.tolist(), codes.tolist(), strict=True)):
        if pair not in known:
            known.add(pair)
            found.append(number)
    return found


def _keys(rows: Rows) -> Tensor:
    return torch.from_numpy(rows.table.text_key[rows.index].astype(np.uint64).view(np.int64).copy())
