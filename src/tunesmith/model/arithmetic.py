"""In which number format the network computes, and why."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Iterator
from pathlib import Path

import torch


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction-set flags of the processor; empty where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


def cpu_name() -> str:
    """Return the processor's name for reports."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return the precision of training on `device` and the reason for it, a phrase.

    wanted: `fp32`, `bf16`, or `auto`: bf16 where the device multiplies it natively, since emulated bf16 is slower than fp32.
    """
    if wanted != "auto":
        return wanted, "as asked for"
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        if native:
            return "bf16", "this GPU multiplies bf16 natively; weights and optimizer stay fp32"
        return "fp32", "this GPU has no native bf16"
    flags = cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}
    if flags:
        return "bf16", f"this processor multiplies bf16 natively ({', '.join(sorted(flags))}); weights and optimizer stay fp32"
    return "fp32", "this processor has no native bf16"


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run the block's matrix products on `device` in `precision`: `bf16` by autocast, or `fp32`.

    For fp32 on the processor the oneDNN kernels are taken, which are about twice as fast as the default ones and as exact, but for
    processors with AMX, where oneDNN would round to bf16. The process-wide setting is put back afterwards.
    """
    before = torch.get_float32_matmul_precision()
    try:
        if precision == "fp32" and device.type == "cpu" and not any(flag.startswith("amx") for flag in cpu_flags()):
            torch.set_float32_matmul_precision("medium")
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
