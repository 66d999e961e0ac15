"""Interruptions of a training at a step of one's choice, in the process of the test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tunesmith.errors import Interrupted
from tunesmith.training import loop


@contextlib.contextmanager
def cut_off_at(step: int) -> Iterator[None]:
    """Within the block training is interrupted in the optimizer step of number `step`, counted from 1 over all that is trained in it.

    Fails when the block ends without an interruption.
    """
    steps, original = 0, loop.set_lr

    def failing(*given: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise KeyboardInterrupt
        original(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "set_lr", failing)
        with pytest.raises(Interrupted, match="resume"):
            yield
