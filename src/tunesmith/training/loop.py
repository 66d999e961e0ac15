"""The training loop: a generator of step records, and the run that consumes them.

E examples, S sequences, T tokens.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch

from tunesmith.config import Config
from tunesmith.data.batches import plan_batches
from tunesmith.errors import Diverged, Interrupted, ModelError, setting
from tunesmith.metrics import greater_is_better
from tunesmith.model.chance import seed_everything
from tunesmith.model.heads import TextModel
from tunesmith.model.tuning import Strategy
from tunesmith.progress import Progress
from tunesmith.seeds import seed_for
from tunesmith.tasks.rows import Rows
from tunesmith.training.averaging import averaging_of
from tunesmith.training.gradients import Gradients, Objective
from tunesmith.training.optim import bring_up, clip, lr_at, set_lr, settle
from tunesmith.training.state import Checkpoints, TrainState

Watch = Callable[[float, dict[str, float]], str]
"""Is told the epochs done (a fraction) and the scores of each validation, and returns why training should end, or nothing."""


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step. step counts from 1; epoch is how many epochs are done, as a fraction; loss is the step's mean."""

    step: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    ends_epoch: bool


def steps_per_epoch(rows: Rows, config: Config) -> int:
    """Return how many optimizer steps one pass over `rows` takes."""
    return -(-len(rows) // config.batch_size)


def train_steps(
    model: TextModel,
    task: Objective,
    rows: Rows,
    optimizer: torch.optim.Optimizer,
    config: Config,
    *,
    start: int,
    precision: str,
    strategy: Strategy,
    rate: Callable[[int, int, Config], float] = lr_at,
) -> Iterator[StepRecord]:
    """Train from optimizer step `start` on, yielding after each step; endlessly correct to stop after any of them.

    A step's gradient is that of its mean loss, however many parts `config.max_tokens` cuts it into. What is not in a step's words may
    lag behind in the table of words until `settle` is called.
    rate: the learning rate of a step, as `lr_at` gives it
    Raises `Diverged` when the loss is no longer a number.
    """
    per_epoch = steps_per_epoch(rows, config)
    total = per_epoch * config.epochs
    plan: list[np.ndarray] = []
    gradients = Gradients(model, task, config, precision)
    for step in range(start, total):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or not plan:
            plan = plan_batches(rows.table.kept[rows.index], batch_size=config.batch_size, seed=config.seed, epoch=epoch)
        chosen = rows.index[plan[position]]
        if position == 0 or step == start:
            strategy.train_mode(model, epoch)
        seed_everything(seed_for(config.seed, "dropout", epoch, step), model.encoder.device)
        optimizer.zero_grad(set_to_none=True)
        batches = task.batches(rows, chosen, seed_for(config.seed, "batch", epoch, step), gradients.max_tokens)
        units = max(sum(batch.parts for batch in batches), 1)
        tokens = sum(len(batch.ids) for batch in batches)
        bring_up(optimizer, batches)
        loss_sum = gradients.add(batches, units)
        if not np.isfinite(loss_sum):
            raise Diverged(
                f"the loss of step {step + 1} is {loss_sum}; the weights have left the range of numbers. Lower {setting('lr')} "
                f"(it is {config.peak_lr:g}), raise {setting('warmup')}, or train with {setting('precision', 'fp32')}."
            )
        norm = clip(optimizer, config.max_grad_norm)
        lr = rate(step, total, config)
        set_lr(optimizer, lr)
        optimizer.step()
        yield StepRecord(step + 1, (step + 1) / per_epoch, loss_sum / units, lr, norm, tokens, position + 1 == per_epoch)


def run(
    model: TextModel,
    task: Objective,
    rows: Rows,
    optimizer: torch.optim.Optimizer,
    config: Config,
    state: TrainState,
    *,
    strategy: Strategy,
    checkpoints: Checkpoints,
    precision: str,
    metric: str,
    kind: str,
    evaluate: Callable[[], dict[str, float]] | None,
    progress: Progress,
    resume_hint: str,
    watch: Watch | None = None,
) -> TrainState:
    """Train to the end or to the early stop, with evaluations and checkpoints; leaves the chosen weights in `model`.

    evaluate: scores the current weights on validation rows; None without any, and then the last weights are chosen
    resume_hint: how to go on, for the message of an interruption
    watch: may end the training after any evaluation

    Raises `Interrupted` after Ctrl-C (the step in progress is finished and saved), `ModelError`, `StorageError`.
    """
    per_epoch = steps_per_epoch(rows, config)
    total = per_epoch * config.epochs
    log_every = max(1, total // 200)
    mean_tokens = task.tokens_an_example(rows)
    saved_at = time.monotonic()
    averaging = averaging_of(model, optimizer, config, state, checkpoints)
    with (
        stop_on_interrupt() as stop,
        checkpoints.in_background(),
        progress.track("training", config.epochs * mean_tokens * len(rows), "tokens") as tracker,
    ):
        tracker.skip(state.step / max(total, 1) * config.epochs * mean_tokens * len(rows))
        clock = time.monotonic()
        if not state.over():
            for record in train_steps(model, task, rows, optimizer, config, start=state.step, precision=precision, strategy=strategy):
                checkpoints.check()
                state.step = record.step
                averaging.follow()
                state.tokens += record.tokens
                state.seconds += time.monotonic() - clock
                state.loss_sum, state.loss_steps = state.loss_sum + record.loss, state.loss_steps + 1
                if record.step % log_every == 0 or record.step == total:
                    state.history.append(
                        {"step": record.step, "epoch": record.epoch, "loss": state.loss_sum / state.loss_steps, "lr": record.lr}
                    )
                    state.loss_sum, state.loss_steps = 0.0, 0
                last = state.history[-1]["loss"] if state.history else record.loss
                tracker.advance(record.tokens, f"epoch {record.epoch:.2f}/{config.epochs}, loss {last:.4f}")
                due = record.ends_epoch or (config.eval_steps is not None and record.step % config.eval_steps == 0)
                if due:
                    averaging.note()
                if evaluate is not None and due:
                    settle(optimizer)
                    with averaging.applied():
                        scores = evaluate()
                        _judge(model, state, record, scores, checkpoints, metric, kind, config, progress)
                    state.stopped = state.stopped or ("" if watch is None else watch(record.epoch, scores))
                at_step = config.checkpoint_steps is not None and record.step % config.checkpoint_steps == 0
                by_time = time.monotonic() - saved_at >= 60 * config.checkpoint_minutes
                if state.over() or record.step == total:
                    break
                if stop.is_set() or at_step or by_time or record.ends_epoch:
                    checkpoints.save(state, model, optimizer, averaging.tensors())
                    saved_at = time.monotonic()
                if stop.is_set():
                    raise _interrupted(state, total, checkpoints, resume_hint)
                clock = time.monotonic()
            state.stopped = state.stopped or "finished"
            checkpoints.save(state, model, optimizer, averaging.tensors())
            checkpoints.wait()  # it takes a while, in which Ctrl-C is heard, too
            if stop.is_set():
                raise _interrupted(state, total, checkpoints, resume_hint)
    settle(optimizer)
    if state.best_step is not None:
        checkpoints.load_best(state.best_step, model)
    else:
        averaging.put()
    return state


def _interrupted(state: TrainState, total: int, checkpoints: Checkpoints, resume_hint: str) -> Interrupted:
    """Return the error to end with once the checkpoint is on disk."""
    checkpoints.wait()
    return Interrupted(f"stopped after step {state.step:,} of {total:,}; everything up to it is saved. {resume_hint}")


def _judge(
    model: TextModel,
    state: TrainState,
    record: StepRecord,
    scores: dict[str, float],
    checkpoints: Checkpoints,
    metric: str,
    kind: str,
    config: Config,
    progress: Progress,
) -> None:
    """Note an evaluation; keep the weights when it is the best so far; decide whether to stop."""
    state.evaluations.append({"step": record.step, "epoch": record.epoch, "metrics": scores})
    value = scores.get(metric)
    if value is None:
        raise ModelError(f"metric {metric!r} is undefined on the validation rows; choose another {setting('metric')}.")
    sign = 1 if greater_is_better(metric, kind) else -1
    # small validation sets give equal scores often; the surer model is the better one then
    loss = scores.get("log_loss", 0.0)
    better = state.best_value is None or (sign * value, -loss) > (sign * state.best_value, -state.best_loss)
    if better:
        checkpoints.save_best(record.step, model)
        state.best_step, state.best_value, state.best_loss, state.evaluations_since_best = record.step, value, loss, 0
    else:
        state.evaluations_since_best += 1
        if config.patience is not None and state.evaluations_since_best >= config.patience:
            state.stopped = f"early: no better {metric} in {config.patience} evaluation{'s' if config.patience > 1 else ''}"
    progress.say(f"epoch {record.epoch:.2f} · step {record.step:,} · validation {metric} {value:.4f}{' · best so far' if better else ''}")


class stop_on_interrupt:
    """Within the block the first Ctrl-C (or SIGTERM) sets the event it yields; a second one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.raised = False
        self.former: dict[int, Any] = {}

    def __enter__(self) -> threading.Event:
        # only the main thread may set handlers; elsewhere the caller's own handling stays
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.former[number] = signal.signal(number, self._handle)
        return self.event

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:  # what the second one ends is at work on it: a file half written helps nobody
            return
        if self.event.is_set():
            self.raised = True
            raise KeyboardInterrupt
        self.event.set()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)
