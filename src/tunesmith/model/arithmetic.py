"""In which number format the network computes, and why."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.data.table import cache_directory
from tunesmith.errors import TunesmithError, UsageError, setting
from tunesmith.storage import write_json

_ROUNDS = 6
_DAYS = 30
_GAIN = 1.2  # how many times as fast bf16 must be: its copies of weights and gradients take time too


@functools.cache
def _told_by_the_system() -> dict[str, str]:
    """Return what the system tells of the first processor, by the name that it has there; nothing where it does not tell."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, colon, value = line.partition(":")
            if not colon:
                break
            told[name.strip()] = value.strip()
    return told


def cpu_flags() -> frozenset[str]:
    """Return the instruction-set flags of the processor; empty where the system does not tell."""
    told = _told_by_the_system()
    return frozenset(told.get("flags", told.get("Features", "")).split())


def cpu_name() -> str:
    """Return the processor's name for reports."""
    return _told_by_the_system().get("model name") or platform.processor() or platform.machine()


def is_from_amd() -> bool:
    """Whether the processor is one of AMD's."""
    return _told_by_the_system().get("vendor_id") == "AuthenticAMD"


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return the precision of training on `device` and the reason for it, a phrase.

    wanted: `fp32`, `bf16`, or `auto`: bf16 where the device multiplies it natively and, on a processor, was measured to do so faster.
    Emulated bf16 is slower than fp32, and so are the instructions of some processors: those with AMX have slow ones beside it, which are
    all that is left where a virtual machine hides AMX. Raises `UsageError` for another word.
    """
    if wanted not in ("auto", "fp32", "bf16"):
        raise UsageError(f"{setting('precision')} is {wanted!r}; it must be fp32, bf16 or auto.")
    if wanted != "auto":
        return wanted, "as asked for"
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        if native:
            return "bf16", "this GPU multiplies bf16 natively; weights and optimizer stay fp32"
        return "fp32", "this GPU has no native bf16"
    flags = ", ".join(sorted(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}))
    if not flags:
        return "fp32", "this processor has no native bf16"
    gain = gain_of_bf16()
    said = f"this processor multiplies bf16 natively ({flags})"
    if gain.faster:
        return "bf16", f"{said}, {gain}; weights and optimizer stay fp32"
    return "fp32", f"{said}, but {gain}"


@dataclass(frozen=True)
class Gain:
    """How many times as fast as in fp32 a matrix product was in bf16, and on which day that was measured."""

    times: float
    day: str

    @property
    def faster(self) -> bool:
        """Whether it is enough to make up for the copies of weights and gradients that training in bf16 takes."""
        return self.times >= _GAIN

    def __str__(self) -> str:
        return f"measured {self.times:.1f} times as fast in it as in fp32 on {self.day}"


@functools.cache
def gain_of_bf16() -> Gain:
    """Return what this processor gains from bf16.

    Measured in some 50 ms and kept in the cache for a month: so runs that are compared compute alike, and a moment at which the machine was
    busy does not decide for good. (What goes on after a break keeps its precision anyway.)
    """
    known = cache_directory() / "precision.json"
    key = f"{cpu_name()}, {', '.join(sorted(cpu_flags()))}, torch {torch.__version__}"  # threads gain alike in both
    kept: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = dict(json.loads(known.read_text(encoding="utf-8")))
    today = datetime.date.today()
    with contextlib.suppress(ValueError, TypeError, KeyError):
        found = Gain(float(kept[key]["times"]), str(kept[key]["day"]))
        if 0 <= (today - datetime.date.fromisoformat(found.day)).days <= _DAYS:
            return found
    found = Gain(round(_measured_gain(), 2), today.isoformat())
    with contextlib.suppress(TunesmithError):  # a cache that may not be written, a full disk
        write_json(known, {**kept, key: dataclasses.asdict(found)})
    return found


def _measured_gain() -> float:
    best: dict[str, float] = {}
    factors = [torch.ones(size, 768) for size in (128, 3072)]
    for number in range(2 * (_ROUNDS + 1)):  # by turns, so that a busy moment hits both
        precision = ("fp32", "bf16")[number % 2]
        left, right = factors if precision == "fp32" else [factor.bfloat16() for factor in factors]
        with torch.inference_mode(), arithmetic(precision, torch.device("cpu")):
            began = time.perf_counter()
            torch.nn.functional.linear(left, right)
            taken = time.perf_counter() - began
        if number >= 2:  # the first ones prepare kernels
            best[precision] = min(taken, best.get(precision, math.inf))
    return best["fp32"] / best["bf16"]


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run the block's matrix products on `device` in `precision`: `bf16` by autocast, or `fp32` as `float32_products` says."""
    with float32_products(precision, device), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextlib.contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """Have the fastest kernels multiply where `precision` is fp32 and `device` the processor; autocast is not for backward passes.

    On AMD's these are oneDNN's, twice as fast as torch's usual ones and as exact. On others the usual ones are as fast, and oneDNN
    would round to bf16 where a processor has a unit for that. The process-wide setting is put back afterwards.
    """
    before = torch.get_float32_matmul_precision()
    try:
        if precision == "fp32" and device.type == "cpu" and is_from_amd():
            torch.set_float32_matmul_precision("medium")
        yield
    finally:
        torch.set_float32_matmul_precision(before)
