"""Where a network computes, the processor or a GPU, and how arrays get there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import UsageError, setting
from tunesmith.model.arithmetic import cpu_name

CPU = torch.device("cpu")


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return `array` as a tensor on `device`; on the processor it shares the array's memory, to a GPU it is copied meanwhile."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def indices(array: np.ndarray, device: torch.device) -> Tensor:
    """Return whole numbers as int64 on `device`, as torch wants places and lengths."""
    return to_device(array.astype(np.int64, copy=False), device)


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`, and its name. `auto` is the first CUDA GPU where there is one.

    Raises `UsageError` for a GPU that is not there.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return CPU, cpu_name()
    device = torch.device("cuda" if wanted == "auto" else wanted)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= found:
        why = "this build of torch has no CUDA" if torch.version.cuda is None else f"torch finds {found or 'no'} CUDA GPUs on this machine"
        raise UsageError(f"{setting('device', wanted)}: {why}. Take {setting('device', 'cpu')}, or install a build of torch for the GPU.")
    device = torch.device("cuda", device.index or 0)
    return device, torch.cuda.get_device_name(device)


def peak_gpu_mb(device: torch.device) -> float | None:
    """Return the most memory that tensors of this process had on a GPU so far, in MiB; None for another device."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def random_state(device: torch.device) -> Any:
    """Return where the generators stand that dropout on `device` draws from, for `set_random_state`."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: Any, device: torch.device) -> None:
    """Have the generators stand where they stood at `random_state`."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
