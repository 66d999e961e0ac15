"""Dropout: masks drawn cheaply and by a seed alone, and blocks without any.

`torch.bernoulli` draws one number at a time on one core, which takes a fifth of a training step of a small encoder. Here one byte
decides on each value, eight bytes to a draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.model.devices import to_device


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Within the block `module` is in evaluation mode; behind it each of its parts is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the generators that torch draws from on the processor and on `device`.

    `torch.manual_seed` does so, too, and asks after accelerators that are not there: 0.2 ms, which is much for a step of a head alone.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class Chance:
    """The dropout masks of one forward pass, all from `seed`.

    A byte below t drops its value (Srivastava et al. 2014, "Dropout", section 4). As t is a whole number, each mask takes the one below
    or above 256 p at random, so that the rate is p on average over masks.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generator = np.random.Generator(np.random.SFC64(seed))
        self._device = device
        self._on_gpu = torch.Generator(device).manual_seed(seed) if device.type == "cuda" else None

    def remembered(self) -> Callable[[], None]:
        """Return what makes the next masks those that are drawn next now, again."""
        state = self._generator.bit_generator.state
        on_gpu = self._on_gpu.get_state() if self._on_gpu is not None else None

        def again() -> None:
            self._generator.bit_generator.state = state
            if self._on_gpu is not None and on_gpu is not None:
                self._on_gpu.set_state(on_gpu)

        return again

    def drop(self, values: Tensor, rate: float) -> Tensor:
        """Return `values` with a share `rate` in [0, 1) set to 0 and the others scaled by 1 / (1 - rate)."""
        factors = self.factors(tuple(values.shape), rate, values.dtype)
        return values if factors is None else values * factors

    def factors(self, shape: tuple[int, ...], rate: float, dtype: torch.dtype) -> Tensor | None:
        """Return what `drop` multiplies with, None for a rate of 0."""
        if rate == 0:
            return None
        if self._on_gpu is not None:  # which draws faster than masks could be copied there
            drawn = torch.rand(shape, device=self._device, generator=self._on_gpu)
            return (drawn >= rate).to(dtype).mul_(1 / (1 - rate))
        count = math.prod(shape)
        words = self._generator.integers(0, 2**64 - 1, -(-count // 8), np.uint64, endpoint=True)
        limit = min(int(256 * rate + self._generator.random()), 255)
        kept = to_device(words.view(np.uint8)[:count] >= limit, self._device).view(shape)
        return kept.to(dtype).mul_(256 / (256 - limit))


class Certainty:
    """No dropout: what is done at prediction."""

    def remembered(self) -> Callable[[], None]:
        """Return what does nothing: there are no masks."""
        return lambda: None

    def drop(self, values: Tensor, rate: float) -> Tensor:
        """Return `values` as they are."""
        return values

    def factors(self, shape: tuple[int, ...], rate: float, dtype: torch.dtype) -> Tensor | None:
        """Return None: nothing is dropped."""
        return None


def chance(training: bool, device: torch.device) -> Chance | Certainty:
    """Return where masks on `device` come from: in training a seed that torch's generator, which the loop seeds for each step, gives."""
    return Chance(int(torch.randint(2**62, ())), device) if training else Certainty()
