"""Training from data to model directory: the only place that wires the parts together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.accounting import sketch_of
from tunesmith.bundle import DESCRIPTION, Bundle, save_bundle
from tunesmith.config import Config
from tunesmith.errors import DataError, Interrupted, UsageError, counted, did_you_mean, listing, setting
from tunesmith.evaluate import outputs_for
from tunesmith.lr_find import find_rate
from tunesmith.model.allocator import keep_freed_memory, token_budget
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.features import digest_of
from tunesmith.model.heads import TextModel, build_model, set_output_bias
from tunesmith.model.tuning import choose_strategy, trained_parameters
from tunesmith.prepare import Prepared, opened, prepare
from tunesmith.progress import QUIET, Progress
from tunesmith.prompting import prompted, rows_of_prompts
from tunesmith.report import model_card, write_report
from tunesmith.report.view import regularisation
from tunesmith.result import evaluation_of, pooling_of, result_of
from tunesmith.rundir import CHECKPOINTS, check_same_settings, is_started, output_directory, resume_hint, store_settings
from tunesmith.seeds import seed_for
from tunesmith.storage import sweep, write_json
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part
from tunesmith.training.averaging import check_evaluations
from tunesmith.training.fewshot import remarks, stage_of
from tunesmith.training.frozen import keep_outputs
from tunesmith.training.loop import Watch, run, steps_per_epoch
from tunesmith.training.optim import build_optimizer
from tunesmith.training.regularise import refuse_without_dropout
from tunesmith.training.state import Checkpoints, TrainState, locked

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
    keep: bool = False,
    beside: dict[str, Any] | None = None,
) -> TrainResult:
    """Fine-tune, test, and write the model directory.

    train_data, valid_data, test_data: tables in memory, in place of the files that `config` names
    labels: of `train_data` when that is a list of texts
    resume: go on from the newest whole checkpoint in `config.out`
    overwrite: replace what is in `config.out`
    fold: (i, K) tests on the i-th (from 1) of K folds of the training rows
    trial: leaves test rows and yardsticks alone, as a training does that is compared with others; with the data gives their watch
    keep: leave the checkpoints, of which the last is of a finished training, in the directory
    beside: plain values that go into the result, for the report

    Raises `UsageError`, `DataError`, `ModelError`, `StorageError`, and `Interrupted` after Ctrl-C.
    """
    if resume and overwrite:
        both = f"{setting('resume')} and {setting('overwrite')}"
        raise UsageError(f"{both} exclude each other: go on with what is in the directory, or replace it.")
    data = {"train": train_data, "valid": valid_data, "test": test_data}
    given = {name: value if value is not None else getattr(config, name) for name, value in data.items()}
    prompting = config.tuning == "none"
    if given["train"] is None and not prompting:
        raise UsageError("no training data: name a file of labelled rows.")
    place = given["train"] if given["train"] is not None else given["test"]
    directory = output_directory(config, place, resume=resume, overwrite=overwrite)
    if resume:
        check_same_settings(directory, config)
    if resume and (directory / DESCRIPTION).is_file() and not is_started(directory):
        progress.say(f"{directory} is finished already; nothing is left to resume.")
        return _finished(directory)
    sources = opened(config, {"train_data": train_data, "valid_data": valid_data, "test_data": test_data, "labels": labels})
    if "train" not in sources:
        sources = {"train": rows_of_prompts(config, sources.get("test")), **sources}
        config = config.model_copy(update={"test_size": 0.0, "valid_size": 0.0})
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
            further = dict(beside if beside is not None else {})
            if prompting:
                result = _prompt(config, prepared, directory, further, progress)
            else:
                if config.lr == "find":
                    further["lr_find"] = _found(config, prepared, checkpoint_directory, resume, progress)
                    config = config.model_copy(update={"lr": further["lr_find"]["chosen"]})
                result = _fit(config, prepared, directory, further, watch, resume=resume, progress=progress)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped at once; what the last checkpoint holds is saved. {resume_hint(directory)}") from None
    if not keep:
        Checkpoints(checkpoint_directory, "", []).remove()
    return TrainResult(directory, result, Bundle.load(directory))


def _found(config: Config, prepared: Prepared, directory: Path, resume: bool, progress: Progress) -> dict[str, Any]:
    """Return what a probe for the learning rate found; see `lr_find`."""
    valid, task = prepared.parts.get("valid"), prepared.task
    metric = config.metric if config.metric is not None else task.default_metric
    if valid is not None:
        metric = computable(metric, task, valid, [], told=config.metric is not None)
    return find_rate(config, prepared, metric, lambda own: new_model(own, prepared), directory, resume=resume, progress=progress)


def _fit(
    config: Config, prepared: Prepared, directory: Path, beside: dict[str, Any], watch: Watch | None, *, resume: bool, progress: Progress
) -> dict[str, Any]:
    """Train, choose, test and save; returns the report's content."""
    task = prepared.task
    train_rows = task.arrange(prepared.parts["train"].rows)
    metric = config.metric if config.metric is not None else task.default_metric
    valid = prepared.parts.get("valid")
    if valid is not None:
        metric = computable(metric, task, valid, prepared.notes, told=config.metric is not None)
    keep_freed_memory()
    model = new_model(config, prepared)
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
    network = strategy.network(model)
    optimizer = build_optimizer(network, config, strategy.rate(model))
    rows = [part.fingerprint() for part in (train_rows, *([valid.rows] if valid is not None else []))]
    model.frozen = frozenset(name for name, _ in model.named_parameters() if name not in trained)
    if model.frozen:
        rows.append(digest_of(model))
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
        found, sentences = checkpoints.load_newest(network, optimizer)
        for sentence in sentences:
            progress.say(sentence)
        progress.say(
            "there is no checkpoint yet; starting from the first step." if found is None else f"resuming after step {found.step:,}."
        )
        state = found if found is not None else state
    task, planned = task.planned(prepared.parts["train"], prepared.pretrained, prepared.encoder, config, progress)
    stage = stage_of(config, model, task, planned)
    steps = stage.config.epochs * steps_per_epoch(stage.rows, config)
    fewer = check_evaluations(config, steps_per_epoch(stage.rows, config))
    for note in [*(remarks(planned) if config.tuning == "fewshot" else ()), *([fewer] if fewer else [])]:
        prepared.notes.append(note)
        progress.say(f"note: {note}")
    if steps < _FEW_STEPS and stage.objective is task:
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
    taken = time.monotonic() - began
    state.seconds += taken  # it takes the place of training steps
    passed = sum(int(table.kept[index].sum()) for table, index in tables)
    speed = passed / taken if model.features is not None and model.features.fresh else None

    def judge() -> dict[str, float]:
        assert valid is not None
        stage.ready()
        return _validation_scores(model, task, valid, precision, config, progress)

    with model.encoder.attention_for_training(prepared.encoder.truncation.max_length):
        state = run(
            network,
            stage.objective,
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
            resume_hint=resume_hint(directory),
            watch=watch,
        )
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
    what = {"tuning": strategy.sentence(model), "trained_parameters": sum(p.numel() for p in trained.values()), "frozen": kept}
    what["forward_tokens_per_s"] = speed
    what["adapter"] = model.adapter.summary(model.own_head) if model.adapter is not None else None
    computed = (precision, f"{reason}; {engine}")
    per_epoch, judged = steps / config.epochs, watch is None
    return _finish(config, prepared, directory, model, task, state, metric, computed, per_epoch, what, None, beside, judged, progress)


def _prompt(config: Config, prepared: Prepared, directory: Path, beside: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Make a model of prompts or examples, test and save it; returns the report's content."""
    task, valid = prepared.task, prepared.parts.get("valid")
    metric = task.default_metric if valid is None else computable(task.default_metric, task, valid, prepared.notes, told=False)
    made = prompted(config, prepared, progress)
    parameters = sum(parameter.numel() for parameter in made.model.parameters())
    progress.say(f"model {prepared.pretrained.located.name}: {parameters / 1e6:.1f} M parameters; tuning none: {made.sentence}")
    state, what = (
        TrainState(stopped="nothing was trained"),
        {"tuning": made.sentence, "trained_parameters": 0, "frozen": "", "adapter": None},
    )
    computed = ("fp32", made.model.encoder.choose_engine(config.engine))
    return _finish(
        config, prepared, directory, made.model, task, state, metric, computed, 1.0, what, made.prompting, beside, True, progress
    )


def _finish(
    config: Config,
    prepared: Prepared,
    directory: Path,
    model: TextModel,
    task: Task,
    state: TrainState,
    metric: str,
    computed: tuple[str, str],
    per_epoch: float,
    what: dict[str, Any],
    prompting: dict[str, Any] | None,
    beside: dict[str, Any],
    rivals: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate the finished model, beside yardsticks with `rivals`, and write its directory; returns the report's content."""
    judged = "none" if not rivals else "test" if "test" in prepared.parts else "valid"
    evaluations = {name: evaluation_of(model, task, prepared, name, config, progress, judged=name == judged) for name in ("valid", "test")}
    result = result_of(config, prepared, model, task, state, evaluations, directory, metric, computed, per_epoch, what) | beside
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
        "prompting": prompting,
        "adapter": model.adapter.describe(directory, model.own_head) if model.adapter is not None and model.apart else None,
        "seen": sketch_of(prepared.parts["train"].rows.table.text_key[prepared.parts["train"].rows.index]),
        "fingerprints": {name: part.rows.table.key for name, part in prepared.parts.items()},
        "result": result,
    }

    def reports(where: Path) -> None:
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
