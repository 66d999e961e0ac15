"""What the regularisers cost: the time of an optimizer step with each, as a multiple of that without any, interleaved in one process.

    python -m bench.regularisers [--rounds 15]

The bundled encoder, all of it trained, on random tokens: what a token says does not change the time. Each variant has a model and an
optimizer of its own; in each round every variant takes two steps, in an order that turns. The figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.run import bundled_encoder, machine
from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch, pack
from tunesmith.data.tokens import Encoded
from tunesmith.model.arithmetic import choose_precision
from tunesmith.model.devices import CPU
from tunesmith.model.heads import build_model
from tunesmith.model.pretrained import open_pretrained
from tunesmith.tasks.classification import Classification
from tunesmith.training.averaging import averaging_of
from tunesmith.training.gradients import Gradients
from tunesmith.training.optim import bring_up, build_optimizer, clip
from tunesmith.training.state import Checkpoints, TrainState

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "EMA 0.999": {"ema": 0.999},
    "multi-sample dropout 8": {"multi_sample_dropout": 8},
    "R-Drop 1": {"r_drop": 1.0},
    "FGM 1": {"fgm": 1.0},
    "R-Drop 1 and FGM 1": {"r_drop": 1.0, "fgm": 1.0},
}
SHAPES = ((32, 16), (16, 128))
STEPS = 2


def batch_of(texts: int, tokens: int, generator: np.random.Generator) -> PackedBatch:
    """Return texts of about so many tokens, with words as frequent as words are: a few often, most seldom."""
    lengths = generator.integers(tokens // 2, tokens + 1, texts)
    words = np.minimum(1000 + generator.zipf(1.2, int(lengths.sum())), 30000).astype(np.int32)
    parts = np.split(words, np.cumsum(lengths)[:-1])
    return pack([Encoded([part], [], len(part), 0) for part in parts], generator.integers(0, 4, texts))


def stepper(settings: dict[str, Any], batches: list[PackedBatch]) -> Callable[[], None]:
    """Return what takes one optimizer step with these settings."""
    config = Config(model=str(bundled_encoder()), **settings)
    labels = [f"label {i}" for i in range(4)]
    task = Classification(labels, "single", label_smoothing=config.label_smoothing)
    encoder = open_pretrained(config.model).load(task.head)
    model = build_model(encoder, task.head, pooling="cls", dropout=None, seed=0)
    optimizer, state, done = build_optimizer(model, config), TrainState(), iter(range(10**9))
    averaging = averaging_of(model, optimizer, config, state, Checkpoints(Path("nowhere"), "", []))
    gradients = Gradients(model, task, config, choose_precision("auto", CPU)[0])
    model.train()

    def step() -> None:
        batch = batches[next(done) % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        bring_up(optimizer, [batch])
        gradients.add([batch], batch.size)
        clip(optimizer, 1.0)
        optimizer.step()
        state.step += 1
        averaging.follow()

    return step


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    columns = []
    for texts, tokens in SHAPES:
        generator = np.random.default_rng(0)
        batches = [batch_of(texts, tokens, generator) for _ in range(8)]
        steps = {name: stepper(settings, batches) for name, settings in VARIANTS.items()}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + 1):
            names = list(steps)[number % len(steps) :] + list(steps)[: number % len(steps)]
            for name in names:
                torch.manual_seed(number)
                start = time.perf_counter()
                for _ in range(STEPS):
                    steps[name]()
                if number:  # the first round warms up
                    taken[name].append((time.perf_counter() - start) / STEPS)
        columns.append({name: statistics.median(a / b for a, b in zip(times, taken["none"], strict=True)) for name, times in taken.items()})
        columns[-1]["ms"] = 1000 * statistics.median(taken["none"])
        print(f"{texts} x {tokens}: done", file=sys.stderr, flush=True)
    print(f"{machine()}\n")
    print("| in use | " + " | ".join(f"{texts} x {tokens}" for texts, tokens in SHAPES) + " |\n|---|" + "---|" * len(SHAPES))
    for name in VARIANTS:
        cells = [f"1 ({column['ms']:.0f} ms)" if name == "none" else f"{column[name]:.2f}" for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
