"""`lr = "find"`: a capped probe for the learning rate, whose suggestion is checked on the validation rows before it is believed.

A range test (Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3) trains a copy of the model for some steps
with a rate that grows, and looks where the training loss falls fastest. On pretrained encoders that place misleads: a fresh head learns
well at rates that spoil the weights below it. So what it suggests only stands beside the usual rates, and short trainings decide:
successive halving (Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization").
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith import strategies
from tunesmith.config import Config
from tunesmith.errors import Diverged, UsageError, counted, setting
from tunesmith.evaluate import outputs_for
from tunesmith.metrics import greater_is_better
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.devices import choose_device
from tunesmith.model.heads import TextModel
from tunesmith.model.moving import move
from tunesmith.model.step_memory import bound_memory
from tunesmith.model.tuning import choose_strategy, trained_parameters
from tunesmith.prepare import Prepared
from tunesmith.progress import Progress
from tunesmith.report.lr_find import lr_find_lines
from tunesmith.seeds import seed_for
from tunesmith.storage import write_json
from tunesmith.tasks.rows import Part, Rows
from tunesmith.training.frozen import keep_outputs
from tunesmith.training.loop import StepRecord, steps_per_epoch, train_steps
from tunesmith.training.optim import build_optimizer, settle
from tunesmith.training.state import PROBE

_SHARE, _LEAST, _MOST = 0.1, 20, 100
"""Steps of the range test and of the first round: a share of the run's, at least and at most so many."""
_SPAN = 1000.0  # the range test begins so many times below the usual rate, and ends so many times above it
_NEIGHBOUR = 2.5  # the usual rate's neighbours are so many times below and above it
_FAR = 100.0  # so many times off the usual rate a suggestion is noise, and not followed
_ALIKE = 1.4  # rates that differ by less are tried once
_SMOOTHING = 0.8
_BLOWN_UP = 4.0  # times its least value, the loss at which the range test ends
_VALID_ROWS = 1000


def find_rate(
    config: Config,
    prepared: Prepared,
    metric: str,
    fresh: Callable[[Config], TextModel],
    directory: Path,
    *,
    resume: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Return what the probe found as plain values, `chosen` among them, and keep it in `directory`, from where a resume takes it.

    metric: of the validation rows, by which rates are compared; fresh: makes the model as a training begins with it
    The same data, settings and seed find the same rate. Nothing of the probe is left in what is trained afterwards.
    Raises `UsageError` without validation rows.
    """
    valid = prepared.parts.get("valid")
    if valid is None:
        raise UsageError(
            f"{setting('lr', 'find')} checks rates on validation rows, and there are none. Raise {setting('valid_size')}, name a file of "
            f"them with {setting('valid')}, or give a rate."
        )
    identity = {"settings": config.content_hash(), "rows": [part.rows.fingerprint() for part in (prepared.parts["train"], valid)]}
    kept = directory / PROBE
    if resume and kept.is_file():
        with contextlib.suppress(ValueError, TypeError, AttributeError):  # damaged: it is probed again
            found: dict[str, Any] = dict(json.loads(kept.read_text(encoding="utf-8")))
            if found.pop("of", None) == identity:
                return found
    found = _Probe(config, prepared, valid, metric, fresh, progress).run()
    write_json(kept, {**found, "of": identity})
    return found


class _Probe:
    """The trainings of one probe: each begins with a fresh model."""

    def __init__(
        self, config: Config, prepared: Prepared, valid: Part, metric: str, fresh: Callable[[Config], TextModel], progress: Progress
    ) -> None:
        # layers that are to wait for their epoch would be missing from a probe of the first steps
        self.config = config.model_copy(update={"lr": 5e-5, "unfreeze": 0})
        self.prepared, self.metric, self.fresh, self.progress = prepared, metric, fresh, progress
        self.task, self.planned = prepared.task.planned(
            prepared.parts["train"], prepared.pretrained, prepared.encoder, self.config, progress
        )
        self.total = config.epochs * steps_per_epoch(self.planned, config)
        self.steps = min(self.total, _MOST, max(_LEAST, int(_SHARE * self.total)))
        self.usual = float(strategies.usual(config.tuning).get("lr", Config.model_fields["lr"].default))
        self.device = choose_device(config.device)[0]
        self.precision = choose_precision(config.precision, self.device)[0]
        if len(valid.rows) > _VALID_ROWS and self.task.groups(valid.rows) is None:
            generator = np.random.default_rng(seed_for(config.seed, "lr find validation"))
            valid = valid.with_index(np.sort(generator.choice(valid.rows.index, _VALID_ROWS, replace=False)))
        self.valid = self.task.judged(valid)
        self.spent = 0

    def run(self) -> dict[str, Any]:
        """Do the range test, then compare its suggestions with the usual rates."""
        began = time.monotonic()
        # the range test; five candidates; twice as long the better two
        self.progress.say(f"lr find: at most {counted((1 + 5 + 2 * 2) * self.steps, 'step')} before the run's {self.total:,}")
        curve = self._range_test()
        suggested = suggestions(curve)
        candidates = _candidates(suggested, self.usual)
        left, steps, number = candidates, self.steps, 0
        while True:
            number += 1
            for one in left:
                one["rounds"].append({"steps": steps, **self._short_training(one["rate"], steps)})
            order = sorted(left, key=self._rank, reverse=True)
            half = max(len(order) // 2, 1)
            for one in order[half:]:
                one["outcome"] = f"out in round {number}"
            left, steps = order[:half], min(2 * steps, max(self.total, self.steps))
            if len(left) == 1:
                left[0]["outcome"] = "chosen"
                break
        found = {
            "chosen": left[0]["rate"],
            "usual": self.usual,
            "metric": self.metric,
            "rows": len(self.valid.rows),
            "steps": self.spent,
            "of_steps": self.total,
            "seconds": time.monotonic() - began,
            "suggested": suggested,
            "curve": curve,
            "candidates": candidates,
        }
        for line in lr_find_lines(found):
            self.progress.say(line)
        return found

    def _range_test(self) -> list[list[float]]:
        """Return [rate, smoothed loss] of each step of a training whose rate grows from far too low to far too high."""
        low, high = self.usual / _SPAN, min(self.usual * _SPAN, 10.0)
        rates = low * (high / low) ** (np.arange(self.steps) / max(self.steps - 1, 1))
        curve: list[list[float]] = []
        mean, least = 0.0, math.inf
        try:
            with self.progress.track("lr find: range test", self.steps, "steps") as tracker:
                for record in self._training(self.steps, low, lambda step, total, config: float(rates[min(step, len(rates) - 1)])):
                    mean = _SMOOTHING * mean + (1 - _SMOOTHING) * record.loss
                    loss = mean / (1 - _SMOOTHING ** (len(curve) + 1))
                    curve.append([float(record.lr), loss])
                    tracker.advance()
                    least = min(least, loss)
                    if loss > _BLOWN_UP * least:
                        break
        except Diverged:
            pass  # the end of the range
        return curve

    def _short_training(self, rate: float, steps: int) -> dict[str, float | None]:
        """Return the value on the validation rows after so many steps with `rate` as the peak of the run's own schedule."""
        try:
            with self.progress.track(f"lr find: {rate:g}", steps, "steps") as tracker:
                for _ in self._training(steps, rate, None):
                    tracker.advance()
            settle(self.optimizer)
            outputs = outputs_for(self.model, self.task, self.valid.rows, precision=self.precision, max_tokens=self.config.tokens_at_once)
            return {"value": self.task.score(outputs, self.valid).get(self.metric)}
        except Diverged:
            return {"value": None}

    def _training(self, steps: int, rate: float, rates: Callable[[int, int, Config], float] | None) -> Iterator[StepRecord]:
        """Train a fresh model, left in `self.model`, for `steps` steps on random training rows; rates: in place of the schedule."""
        self.model = self.optimizer = None  # type: ignore[assignment]  # the former one's memory goes before the next one's comes
        gc.collect()
        generator = np.random.default_rng(seed_for(self.config.seed, "lr find rows"))
        rows = self.planned
        wanted = steps * self.config.batch_size
        if wanted < len(rows):
            rows = replace(rows, index=np.sort(generator.permutation(rows.index)[:wanted]))
        config = self.config.model_copy(update={"lr": rate, "epochs": -(-steps // steps_per_epoch(rows, self.config))})
        self.model = model = self.fresh(config)
        model.encoder.choose_engine(config.engine)
        strategy = choose_strategy(config)
        strategy.prepare(model)
        move(model, self.device, self.precision)
        trained = trained_parameters(model)
        model.frozen = frozenset(name for name, _ in model.named_parameters() if name not in trained)
        self.optimizer = build_optimizer(model, config, strategy.rate(model))  # before layers wait that are trained later
        strategy.train_mode(model, 0)
        max_length = self.prepared.encoder.truncation.max_length
        budget = bound_memory(model, self.task.outputs_a_token, max_length, self.precision, config.max_tokens)
        config = config.model_copy(update={"max_tokens": budget})
        tables = [(part.table, part.index) for part in (self.planned, self.valid.rows)]
        keep_outputs(model, self.task, strategy.frozen_layers, tables, config, self.precision, self.progress)
        further = {} if rates is None else {"rate": rates}
        with model.encoder.attention_for_training(self.prepared.encoder.truncation.max_length):
            for record in train_steps(
                model, self.task, rows, self.optimizer, config, start=0, precision=self.precision, strategy=strategy, **further
            ):
                self.spent += 1
                yield record
                if record.step >= steps:
                    return

    def _rank(self, candidate: dict[str, Any]) -> tuple[float, float]:
        """Return what is greatest for the best of the rates: its value, to two digits, then how near the usual rate it is.

        What differs by less is noise after so few steps; where nothing has been learned yet, a rate that changes nothing must not win.
        """
        value = candidate["rounds"][-1]["value"]
        if value is None or not math.isfinite(value):
            return -math.inf, 0.0
        sign = 1 if greater_is_better(self.metric, self.task.kind) else -1
        return sign * float(f"{value:.2g}"), -abs(math.log(candidate["rate"] / self.usual))

    model: TextModel
    optimizer: torch.optim.Optimizer
    planned: Rows


def suggestions(curve: list[list[float]]) -> dict[str, float]:
    """Return what the range test suggests: the rate of the `steepest` fall of the loss, and a tenth of that of the least loss, `minimum`.

    curve: [rate, smoothed loss] of each step. Empty where the loss never fell.
    """
    if len(curve) < 5:
        return {}
    rates, losses = np.log([rate for rate, _ in curve]), np.array([loss for _, loss in curve])
    least = int(np.argmin(losses))
    if least == 0:
        return {}
    slopes = np.gradient(losses, rates)[: least + 1]
    return {"steepest": float(np.exp(rates[int(np.argmin(slopes))])), "minimum": float(np.exp(rates[least])) / 10}


def _candidates(suggested: dict[str, float], usual: float) -> list[dict[str, Any]]:
    """Return the rates to compare, the lowest first: the usual one, its neighbours, and what the range test suggests beside them."""
    words = {"steepest": "range test, steepest fall", "minimum": "range test, a tenth of the best"}
    named = [(usual, "usual"), (usual / _NEIGHBOUR, "below the usual"), (min(usual * _NEIGHBOUR, 10.0), "above the usual")]
    named += [(rate, words[name]) for name, rate in suggested.items() if 1 / _FAR <= rate / usual <= _FAR]
    found: list[dict[str, Any]] = []
    for rate, source in named:
        rate = float(f"{rate:.2g}")
        same = next((one for one in found if max(one["rate"], rate) / min(one["rate"], rate) < _ALIKE), None)
        if same is None:
            found.append({"rate": rate, "from": source, "rounds": [], "outcome": ""})
        else:
            same["from"] += f"; {source}"
    return sorted(found, key=lambda one: float(one["rate"]))
