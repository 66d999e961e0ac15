"""Training a model on prepared data: the network, the way to tune it, the loop, and the weights that validation chose."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from tunesmith.config import Config
from tunesmith.errors import DataError, Diverged, counted, listing, setting
from tunesmith.evaluate import outputs_for
from tunesmith.model.account import account
from tunesmith.model.allocator import keep_freed_memory
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.devices import choose_device
from tunesmith.model.features import digest_of
from tunesmith.model.heads import TextModel, build_model, set_output_bias
from tunesmith.model.moving import move
from tunesmith.model.step_memory import bound_memory
from tunesmith.model.tuning import Strategy, choose_strategy, trained_parameters
from tunesmith.prepare import Prepared
from tunesmith.progress import Progress
from tunesmith.report.view import regularisation
from tunesmith.result import Fitted, pooling_of
from tunesmith.rundir import CHECKPOINTS, resume_hint
from tunesmith.seeds import seed_for
from tunesmith.start import Start
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part
from tunesmith.training.averaging import check_evaluations
from tunesmith.training.fewshot import Stage, remarks, stage_of
from tunesmith.training.frozen import keep_outputs
from tunesmith.training.loop import Watch, run, steps_per_epoch
from tunesmith.training.optim import build_optimizer, update_of_table
from tunesmith.training.regularise import refuse_without_dropout
from tunesmith.training.state import Checkpoints, TrainState

_FEW_STEPS = 50


def fit(
    config: Config, prepared: Prepared, directory: Path, watch: Watch | None, progress: Progress, *, resume: bool,
    start: Start | None = None,
) -> Fitted:  # fmt: skip
    """Train on the prepared parts, with checkpoints in `directory`, and return the model with the weights that were chosen.

    start: the trained model to go on from, in place of a pretrained encoder; the others: as in `recipe.train`
    """
    task, valid = prepared.task, prepared.parts.get("valid")
    metric = metric_of(config, prepared)
    keeps_memory = keep_freed_memory()
    model = new_model(config, prepared) if start is None else start.model
    device, name = choose_device(config.device)
    precision, reason = choose_precision(config.precision, device)
    if resume and config.precision == "auto" and (begun := Checkpoints(directory / CHECKPOINTS, "", []).begun_in()):
        precision, reason = begun, reason if begun == precision else "as this run began"
    engine = model.encoder.choose_engine(config.engine, device, precision)
    strategy = choose_strategy(config)
    strategy.prepare(model)
    move(model, device, precision)
    trained = trained_parameters(model)
    model.frozen = frozenset(name for name, _ in model.named_parameters() if name not in trained)
    count = sum(parameter.numel() for parameter in trained.values())
    where = "" if device.type == "cpu" else f" on {name}"
    _say_what_is_trained(config, prepared, model, strategy, count, f"{precision} ({reason}){where}, {engine}", progress)
    network = strategy.network(model)
    # before the mode of the first epoch, in which layers may wait that are trained later
    optimizer = build_optimizer(network, config, strategy.rate(model))
    strategy.train_mode(model, 0)
    refuse_without_dropout(model, config)
    checkpoints = _checkpoints(config, prepared, model, directory, start, precision)
    state = _state(checkpoints, network, optimizer, progress) if resume else TrainState()
    task, planned = task.planned(prepared.parts["train"], prepared.pretrained, prepared.encoder, config, progress)
    stage = stage_of(config, model, task, planned)
    _note_what_is_little(config, prepared, stage, task, progress)
    tables = [(part.table, part.index) for part in (planned, *([valid.rows] if valid is not None else []))]
    began = time.monotonic()
    kept = keep_outputs(model, task, strategy.frozen_layers, tables, config, precision, progress) if not state.over() else state.frozen
    state.frozen = kept
    _note_other_outputs(model, state, prepared, progress)
    taken = time.monotonic() - began
    state.seconds += taken  # it takes the place of training steps
    passed = sum(int(table.kept[index].sum()) for table, index in tables)
    speed = passed / taken if model.features is not None and model.features.fresh else None
    max_length = prepared.encoder.truncation.max_length
    budget = bound_memory(model, task.outputs_a_token, max_length, precision, config.max_tokens)
    table = update_of_table(model, config)
    road = account(model.encoder, precision, max_length, budget, table=table, keeps_memory=keeps_memory)
    for name_of, words in road.items():
        progress.detail(f"{name_of}: {words}")

    def judge() -> dict[str, float]:
        assert valid is not None
        stage.ready()
        return _validation_scores(model, task, valid, precision, config, progress)

    with model.encoder.attention_for_training(max_length):
        state = run(
            network,
            stage.objective if start is None else start.learner(task, precision),
            stage.rows,
            optimizer,
            stage.config.model_copy(update={"max_tokens": budget}),
            state,
            strategy=strategy,
            checkpoints=checkpoints,
            precision=precision,
            metric=metric,
            kind=task.kind,
            evaluate=None if valid is None else judge,
            progress=progress,
            resume_hint=resume_hint(directory) if start is None else start.resume_hint,
            watch=watch,
        )
    if not all(bool(torch.isfinite(parameter).all()) for parameter in trained.values()):
        raise Diverged(f"after the last step the weights are no finite numbers: training diverged. Lower {setting('lr')}.")
    # tests run the whole encoder, as every program that loads the model does
    model.features = None
    stage.ready()
    task = task.finish(model)
    strategy.finish(model)
    if task.tunes and valid is not None:
        outputs = outputs_for(
            model, task, valid.rows, max_tokens=config.tokens_at_once, what="validating for thresholds", progress=progress
        )
        task = task.tune(outputs, valid)
    what = {"tuning": strategy.sentence(model), "trained_parameters": count, "frozen": kept, "forward_tokens_per_s": speed, "road": road}
    per_epoch = stage.config.epochs * steps_per_epoch(stage.rows, config) / config.epochs
    return Fitted(model, task, state, metric, (name, precision, f"{reason}; {engine}"), per_epoch, what)


def metric_of(config: Config, prepared: Prepared) -> str:
    """Return the metric that chooses the checkpoint. Raises `DataError` for one that cannot be computed on the validation rows."""
    task, valid = prepared.task, prepared.parts.get("valid")
    metric = config.metric if config.metric is not None else task.default_metric
    return metric if valid is None else computable(metric, task, valid, prepared.notes, told=config.metric is not None)


def _say_what_is_trained(
    config: Config, prepared: Prepared, model: TextModel, strategy: Strategy, count: int, how: str, progress: Progress
) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    name, task = prepared.pretrained.located.name, prepared.task
    pooling = "" if task.head.per_token else f" {pooling_of(task, config)} pooling,"
    progress.say(f"model {name}: {parameters / 1e6:.1f} M parameters,{pooling} trained in {how}")
    progress.say(f"tuning {config.tuning}: {strategy.sentence(model)}, {count:,} of {parameters:,} parameters")
    regularisers = regularisation(config.model_dump())
    if regularisers:
        progress.say(f"regularisation: {regularisers}")


def _checkpoints(config: Config, prepared: Prepared, model: TextModel, directory: Path, start: Start | None, precision: str) -> Checkpoints:
    """Return the checkpoints of a run that depends on settings, rows, frozen weights, and the model that it goes on from."""
    train, valid = prepared.parts["train"], prepared.parts.get("valid")
    identity = [rows.fingerprint() for rows in (prepared.task.arrange(train.rows), *([valid.rows] if valid is not None else []))]
    identity += [start.identity] if start is not None else []
    identity += [digest_of(model)] if model.frozen else []
    return Checkpoints(directory / CHECKPOINTS, config.content_hash(), identity, model.encoder.device.type, precision)


def _state(checkpoints: Checkpoints, network: TextModel, optimizer: torch.optim.Optimizer, progress: Progress) -> TrainState:
    """Return where the newest whole checkpoint stood, after putting its weights in place."""
    found, sentences = checkpoints.load_newest(network, optimizer)
    for sentence in sentences:
        progress.say(sentence)
    progress.say("there is no checkpoint yet; starting from the first step." if found is None else f"resuming after step {found.step:,}.")
    return found if found is not None else TrainState()


def _note_other_outputs(model: TextModel, state: TrainState, prepared: Prepared, progress: Progress) -> None:
    """Note where a resumed run can no longer read outputs of frozen layers as it did, and so ends with other bits."""
    now = model.features.frozen.kept if model.features is not None else ""
    if state.step and not state.over() and now != state.outputs_kept:
        every = "computed in every epoch"
        before, after = (f"kept in {kind}" if kind else every for kind in (state.outputs_kept, now))
        note = (
            f"outputs of the frozen layers were {before} when this run began, and are {after} now: the model will differ in its last "
            "digits from that of a run that was not cut off."
        )
        _note(note, prepared, progress)
    state.outputs_kept = now


def _note_what_is_little(config: Config, prepared: Prepared, stage: Stage, task: Task, progress: Progress) -> None:
    """Note in report and terminal too few steps, too few evaluations to average, and rows that few-shot tuning is not for."""
    per_epoch = steps_per_epoch(stage.rows, config)
    steps = stage.config.epochs * per_epoch
    fewer = check_evaluations(stage.config, per_epoch)
    notes = [*(remarks(stage.rows) if config.tuning == "fewshot" else ()), *([fewer] if fewer else [])]
    if steps < _FEW_STEPS and stage.objective is task:
        of = counted(len(stage.rows), "row" if stage.rows is prepared.parts["train"].rows else "example")
        notes.append(
            f"only {counted(steps, 'optimizer step')} ({counted(config.epochs, 'epoch')} of {of}, {config.batch_size} a step), which often "
            f"is too few to learn: more epochs, a smaller {setting('batch_size')} or a higher {setting('lr')} may help."
        )
    for note in notes:
        _note(note, prepared, progress)


def _note(note: str, prepared: Prepared, progress: Progress) -> None:
    """Say a sentence in the terminal and in the report."""
    prepared.notes.append(note)
    progress.say(f"note: {note}")


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
    model.base = prepared.pretrained.located
    bias = task.first_bias(prepared.parts["train"].rows) if encoder.fresh_head else None
    if bias is not None:
        set_output_bias(model, bias)
    return model


def _validation_scores(model: TextModel, task: Task, valid: Part, precision: str, config: Config, progress: Progress) -> dict[str, float]:
    """Score the current weights on the validation rows, in the precision of training."""
    valid = task.judged(valid)
    outputs = outputs_for(
        model, task, valid.rows, precision=precision, max_tokens=config.tokens_at_once, what="validating", progress=progress
    )
    if not np.isfinite(outputs.values).all():  # the last step before it was one too far; a loss never showed it
        raise Diverged(f"on the validation rows the model's outputs are no finite numbers: training diverged. Lower {setting('lr')}.")
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
