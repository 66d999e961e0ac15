"""Training from data to model directory: the only place that wires the parts together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.accounting import sketch_of
from tunesmith.bundle import DESCRIPTION, Bundle, assess, save_bundle
from tunesmith.config import Config
from tunesmith.errors import DataError, Interrupted, UsageError, counted, did_you_mean, listing, setting
from tunesmith.evaluate import outputs_for
from tunesmith.model.allocator import keep_freed_memory, token_budget
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.features import digest_of
from tunesmith.model.heads import TextModel, build_model, set_output_bias
from tunesmith.model.tuning import choose_strategy, trained_parameters
from tunesmith.prepare import Prepared, opened, prepare
from tunesmith.progress import QUIET, Progress
from tunesmith.replay import check_keeping, keep_rows
from tunesmith.report import model_card, write_report
from tunesmith.report.view import regularisation
from tunesmith.result import pooling_of, result_of
from tunesmith.rundir import CHECKPOINTS, check_same_settings, is_started, output_directory, resume_hint, store_settings
from tunesmith.seeds import seed_for
from tunesmith.start import Start
from tunesmith.storage import locked, sweep, write_json
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part
from tunesmith.training.frozen import keep_outputs
from tunesmith.training.loop import Watch, run, steps_per_epoch
from tunesmith.training.optim import build_optimizer
from tunesmith.training.regularise import refuse_without_dropout
from tunesmith.training.state import Checkpoints, TrainState

_YARDSTICK_ROWS = 50_000
_FEW_STEPS = 50


class UnknownMetric(UsageError, KeyError):
    """There is no metric of this name: a `UsageError` like any other, and a `KeyError` as of any mapping."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it in quotes


class _Metrics(dict[str, float]):
    def __missing__(self, name: str) -> float:
        if not self:
            sizes = f"{setting('valid_size')} or {setting('test_size')} above 0"
            raise UnknownMetric(f"nothing was evaluated: there are no validation or test rows. Train with {sizes}, or use bundle.evaluate.")
        raise UnknownMetric(f"there is no metric {name!r}.{did_you_mean(name, self)} There are {listing(self, 40)}.")


@dataclass(frozen=True)
class TrainResult:
    """A finished training: its directory, the report's content as plain values, and the model ready to predict."""

    directory: Path
    result: dict[str, Any]
    bundle: Bundle

    @property
    def metrics(self) -> dict[str, float]:
        """The test metrics, or the means over the folds of a cross-validation; without either those of validation, which are optimistic.

        Empty where nothing was evaluated.

        Asking for one that is not there raises `UnknownMetric`.
        """
        evaluations = self.result["evaluations"]
        if evaluations["test"] is None and "cross_validation" in self.result:
            return _Metrics({name: spread["mean"] for name, spread in self.result["cross_validation"]["metrics"].items()})
        chosen = evaluations["test"] if evaluations["test"] is not None else evaluations["valid"]
        return _Metrics(chosen["metrics"] if chosen is not None else {})


def train(
    config: Config,
    *,
    train_data: Any = None,
    valid_data: Any = None,
    test_data: Any = None,
    labels: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = QUIET,
    fold: tuple[int, int] | None = None,
    trial: Callable[[Prepared], Watch] | None = None,
    beside: dict[str, Any] | None = None,
) -> TrainResult:
    """Fine-tune, test, and write the model directory.

    train_data, valid_data, test_data: tables in memory, in place of the files that `config` names
    labels: of `train_data` when that is a list of texts
    resume: go on from the newest whole checkpoint in `config.out`
    overwrite: replace what is in `config.out`
    fold: (i, K) tests on the i-th (from 1) of K folds of the training rows
    trial: this is one of several trainings that are compared: test rows and yardsticks are left alone; called with the data, it
        returns what watches the validations
    beside: plain values that go into the result, for the report

    Raises `UsageError`, `DataError`, `ModelError`, `StorageError`, and `Interrupted` after Ctrl-C.
    """
    if resume and overwrite:
        both = f"{setting('resume')} and {setting('overwrite')}"
        raise UsageError(f"{both} exclude each other: go on with what is in the directory, or replace it.")
    data = {"train": train_data, "valid": valid_data, "test": test_data}
    given = {name: value if value is not None else getattr(config, name) for name, value in data.items()}
    if given["train"] is None:
        raise UsageError("no training data: name a file of labelled rows.")
    directory = output_directory(config, given["train"], resume=resume, overwrite=overwrite)
    if resume:
        check_same_settings(directory, config)
    if resume and (directory / DESCRIPTION).is_file() and not is_started(directory):
        progress.say(f"{directory} is finished already; nothing is left to resume.")
        return _finished(directory)
    sources = opened(config, {"train_data": train_data, "valid_data": valid_data, "test_data": test_data, "labels": labels})
    checkpoint_directory = directory / CHECKPOINTS
    prepared = prepare(config, sources, progress, fold=fold)
    watch = None if trial is None else trial(prepared)
    if trial is not None:
        prepared = replace(prepared, parts={name: part for name, part in prepared.parts.items() if name != "test"})
    with locked(checkpoint_directory):
        if not resume:
            # a model that is to be replaced stays whole until the new one is
            Checkpoints(checkpoint_directory, "", []).clear()
        sweep(directory, ".model.*", f".{DESCRIPTION}.*.tmp")
        # the settings of checkpoints stay beside them, whatever this attempt to resume was told
        if not resume or not any(checkpoint_directory.glob("step-*")):
            store_settings(directory, config)
        try:
            result = fit(config, prepared, directory, beside if beside is not None else {}, watch, resume=resume, progress=progress)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped at once; what the last checkpoint holds is saved. {resume_hint(directory)}") from None
    Checkpoints(checkpoint_directory, "", []).remove()
    return TrainResult(directory, result, Bundle.load(directory))


def fit(
    config: Config,
    prepared: Prepared,
    directory: Path,
    beside: dict[str, Any],
    watch: Watch | None = None,
    *,
    resume: bool,
    progress: Progress,
    start: Start | None = None,
) -> dict[str, Any]:
    """Train, choose, test and save; returns the report's content. start: the trained model to go on from; the others: as in `train`."""
    task = prepared.task
    check_keeping(task, config)
    train_rows = task.arrange(prepared.parts["train"].rows)
    metric = config.metric if config.metric is not None else task.default_metric
    valid = prepared.parts.get("valid")
    if valid is not None:
        metric = computable(metric, task, valid, prepared.notes, told=config.metric is not None)
    keep_freed_memory()
    model = new_model(config, prepared) if start is None else start.model
    precision, reason = choose_precision(config.precision)
    engine = model.encoder.choose_engine(config.engine)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    name, pooling = prepared.pretrained.located.name, "" if task.head.per_token else f" {pooling_of(task, config)} pooling,"
    progress.say(f"model {name}: {parameters / 1e6:.1f} M parameters,{pooling} trained in {precision} ({reason}), {engine}")
    budget = config.max_tokens
    if budget is None:
        budget = token_budget(model.encoder.config, prepared.encoder.truncation.max_length, precision)
    strategy = choose_strategy(config)
    strategy.prepare(model)
    trained = trained_parameters(model)
    optimizer = build_optimizer(model, config, strategy.rate(model))
    rows = [part.fingerprint() for part in (train_rows, *([valid.rows] if valid is not None else []))]
    model.frozen = frozenset(name for name, _ in model.named_parameters() if name not in trained)
    if model.frozen:
        rows.append(digest_of(model))
    rows += [start.identity] if start is not None else []
    progress.say(
        f"tuning {config.tuning}: {strategy.sentence(model)}, {sum(p.numel() for p in trained.values()):,} of {parameters:,} parameters"
    )
    regularisers = regularisation(config.model_dump())
    if regularisers:
        progress.say(f"regularisation: {regularisers}")
    strategy.train_mode(model, 0)
    refuse_without_dropout(model, config)
    checkpoints = Checkpoints(directory / CHECKPOINTS, config.content_hash(), rows)
    state = TrainState()
    if resume:
        found, sentences = checkpoints.load_newest(model, optimizer)
        for sentence in sentences:
            progress.say(sentence)
        progress.say(
            "there is no checkpoint yet; starting from the first step." if found is None else f"resuming after step {found.step:,}."
        )
        state = found if found is not None else state
    task, planned = task.planned(prepared.parts["train"], prepared.pretrained, prepared.encoder, config, progress)
    steps = config.epochs * steps_per_epoch(planned, config)
    if steps < _FEW_STEPS:
        of = counted(len(planned), "row" if planned is prepared.parts["train"].rows else "example")
        prepared.notes.append(
            f"only {counted(steps, 'optimizer step')} ({counted(config.epochs, 'epoch')} of {of}, "
            f"{config.batch_size} a step), "
            f"which often is too few to learn: more epochs, a smaller {setting('batch_size')} or a higher {setting('lr')} may help."
        )
        progress.say(f"note: {prepared.notes[-1]}")
    tables = [(part.table, part.index) for part in (planned, *([valid.rows] if valid is not None else []))]
    began = time.monotonic()
    kept = keep_outputs(model, task, strategy.frozen_layers, tables, config, precision, progress) if not state.over() else ""
    state.seconds += time.monotonic() - began  # it takes the place of training steps
    with model.encoder.attention_for_training(prepared.encoder.truncation.max_length):
        state = run(
            model,
            task if start is None else start.learner(task, precision),
            planned,
            optimizer,
            config.model_copy(update={"max_tokens": budget}),
            state,
            strategy=strategy,
            checkpoints=checkpoints,
            precision=precision,
            metric=metric,
            kind=task.kind,
            evaluate=None if valid is None else lambda: _validation_scores(model, task, valid, precision, config, progress),
            progress=progress,
            resume_hint=resume_hint(directory) if start is None else start.resume_hint,
            watch=watch,
        )
    # tests run the whole encoder, as every program that loads the model does
    model.features = None
    task = task.finish(model)
    strategy.finish(model)
    if task.tunes and valid is not None:
        outputs = outputs_for(
            model, task, valid.rows, max_tokens=config.tokens_at_once, what="validating for thresholds", progress=progress
        )
        task = task.tune(outputs, valid)
    # simple methods learn from rows, and an update has not got those of the training before
    judged = "none" if watch is not None or start is not None else "test" if "test" in prepared.parts else "valid"
    evaluations = {name: _evaluation(model, task, prepared, name, config, progress, judged=name == judged) for name in ("valid", "test")}
    rows_kept = (
        start.kept if start is not None else keep_rows(prepared.parts, task, config, prepared.notes, progress) if watch is None else None
    )
    what = {"tuning": strategy.sentence(model), "trained_parameters": sum(p.numel() for p in trained.values()), "frozen": kept}
    what["adapter"] = model.adapter.summary(model.own_head) if model.adapter is not None else None
    computed = (precision, f"{reason}; {engine}")
    result = result_of(config, prepared, model, task, state, evaluations, directory, metric, computed, len(planned), what) | beside
    if start is not None:
        start.judge(model, task, result)
    description = {
        "task": task.to_dict(),
        "schema": prepared.parts["train"].schema.to_dict(),
        "tokens": {
            "truncation": asdict(prepared.encoder.truncation),
            "fallback_token": prepared.pretrained.fallback_token,
            "settings": type(task).encoding(config),
            "max_tokens": config.tokens_at_once,
        },
        "pooling": pooling_of(task, config),
        "head": task.head.kind,
        "outputs": task.head.outputs,
        "loads_in_transformers": model.loads_in_transformers,
        "last_token": getattr(model.head, "last", False),
        "adapter": model.adapter.describe(directory, model.own_head) if model.adapter is not None and model.apart else None,
        "seen": sketch_of(
            prepared.parts["train"].rows.table.text_key[prepared.parts["train"].rows.index], None if start is None else start.sketch
        ),
        "fingerprints": {name: part.rows.table.key for name, part in prepared.parts.items()},
        "result": result,
    }

    def reports(where: Path) -> None:
        result["kept"] = rows_kept.write(where) if rows_kept is not None else None
        for name, content in ({} if model.apart else task.extra_files(model)).items():
            write_json(where / name, content)
        write_report(result, where)
        (where / "README.md").write_text(model_card(result), encoding="utf-8")

    save_bundle(directory, model, description, reports)
    return result


def new_model(config: Config, prepared: Prepared) -> TextModel:
    """Load the encoder's weights and put a fresh head on it."""
    task = prepared.task
    encoder = prepared.pretrained.load(
        task.head,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        seed=seed_for(config.seed, "weights"),
    )
    encoder.tokenizer.model_max_length = prepared.encoder.truncation.max_length
    model = build_model(encoder, task.head, pooling=config.pooling, dropout=config.dropout, seed=seed_for(config.seed, "head"))
    bias = task.first_bias(prepared.parts["train"].rows) if encoder.fresh_head else None
    if bias is not None:
        set_output_bias(model, bias)
    return model


def _finished(directory: Path) -> TrainResult:
    bundle = Bundle.load(directory)
    return TrainResult(directory, bundle.description["result"], bundle)


def _validation_scores(model: TextModel, task: Task, valid: Part, precision: str, config: Config, progress: Progress) -> dict[str, float]:
    """Score the current weights on the validation rows, in the precision of training."""
    valid = task.judged(valid)
    outputs = outputs_for(
        model, task, valid.rows, precision=precision, max_tokens=config.tokens_at_once, what="validating", progress=progress
    )
    return task.score(outputs, valid, progress)


def computable(metric: str, task: Task, valid: Part, notes: list[str], *, told: bool) -> str:
    """Return `metric`, or if it was not told and has no value on these validation rows, another one, which is noted.

    Raises `DataError` when it was told and has none, whatever is predicted, before any time is spent.
    """
    possible = list(task.computable(valid.rows))
    if metric in possible:
        return metric
    if not told and possible:
        notes.append(
            f"{metric} has no value on {counted(len(valid.rows), 'validation row')} that do not differ in their {task.target_word}; "
            f"{possible[0]} chooses the checkpoint instead."
        )
        return possible[0]
    summary = valid.rows.targets.summary(valid.rows.index)
    found = (
        listing([f"{repr(name) if task.labels else name} {count:,g}" for name, count in summary.items() if count or not task.labels], 5)
        or "none"
    )
    raise DataError(
        f"{valid.source.name}: {setting('metric')} {metric!r} cannot be computed on the validation rows: it needs rows that differ in "
        f"their {task.target_word}, and of {counted(len(valid.rows), 'validation row')} the {task.target_word}s are {found}. Choose other "
        f"validation rows, or another {setting('metric')}: {listing(possible, 40)}."
    )


def _evaluation(
    model: TextModel, task: Task, prepared: Prepared, name: str, config: Config, progress: Progress, *, judged: bool
) -> dict[str, Any] | None:
    """Evaluate the chosen weights on one part; the yardsticks too, on the part that the report judges by."""
    part = prepared.parts.get(name)
    if part is None or len(part.rows) == 0:
        return None
    what = {"valid": "validating", "test": "testing"}[name]
    result = assess(model, task, part, max_tokens=config.tokens_at_once, what=what, progress=progress)
    return {**result, "yardsticks": _yardsticks(task, prepared, part, config, progress) if judged else []}


def _yardsticks(task: Task, prepared: Prepared, part: Part, config: Config, progress: Progress) -> list[dict[str, Any]]:
    """What simple methods reach on `part` that learn from the training rows, or from a sample where these are many."""
    train = prepared.parts["train"]
    rows, sample = train.rows, train.rows.index
    if len(sample) > _YARDSTICK_ROWS:
        generator = np.random.default_rng(seed_for(config.seed, "yardstick rows"))
        sample = np.sort(generator.choice(sample, _YARDSTICK_ROWS, replace=False))
        train = train.with_index(sample)
    learned, tested = (train.examples(progress), part.examples(progress)) if task.needs_texts else ([], [])
    if learned is None or tested is None:
        return [{"name": "yardsticks", "note": "skipped: the data have changed since the training began", "metrics": {}, "intervals": {}}]
    found = task.yardsticks(train, learned, part, tested, prepared.pretrained, config.seed, progress)
    if len(sample) < len(rows):
        for yardstick in found:
            yardstick["note"] += f"; trained on a random {len(sample):,} of the {len(rows):,} training rows"
    return found
