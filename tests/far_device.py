"""A device that is not the processor: its tensors mix with no others, and their values are computed on the processor all the same."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "far"


class _Module:
    """What torch asks of a kind of device."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float32]


class Far(torch.Tensor):
    """A tensor on the device; `near` has its values."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor, requires_grad: bool = False) -> Far:
        return torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=f"{NAME}:0",
            requires_grad=requires_grad,
        )  # fmt: skip

    def __init__(self, near: torch.Tensor, requires_grad: bool = False) -> None:
        self.near = near

    def __repr__(self, **_: Any) -> str:
        return f"Far({self.near!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func.overloadpacket.__name__
    device = kwargs.get("device")
    flat, _ = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    far = {id(value.near): value for value in tensors if isinstance(value, Far)}
    near = [value for value in tensors if not isinstance(value, Far) and value.ndim]
    to_near = device is not None and torch.device(device).type == "cpu"
    if far and near and name not in ("copy_", "_copy_from", "_to_copy"):
        raise RuntimeError(f"{func}: tensors of two devices")
    args, kwargs = tree_map(lambda value: value.near if isinstance(value, Far) else value, (args, kwargs))
    if device is not None:
        kwargs["device"] = "cpu"
    if name == "_to_copy" and not far:
        args = (args[0].clone(), *args[1:])
    result = func(*args, **kwargs)
    if name == "_local_scalar_dense" or to_near:
        return result
    if name == "copy_" and args and id(args[0]) not in far:
        return result

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return far.get(id(value)) if id(value) in far else Far(value)

    return tree_map(wrap, result)


def _without_tensors(func: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return _run(func, args, kwargs)

    return call


@functools.cache
def register() -> str:
    """Make the device known to torch and return its name."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("aten", "IMPL")
    aten = torch.ops.aten
    for func, name in ((aten.empty.memory_format, "empty.memory_format"), (aten.empty_strided.default, "empty_strided")):
        library.impl(name, _without_tensors(func), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    # no casting by autocast: what casts by itself is tried
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _kept.extend([library, fallback])
    return NAME


_kept: list[Any] = []


def _copy_from(source: Any, into: Any, non_blocking: bool = False) -> Any:
    source, target = (value.near if isinstance(value, Far) else value for value in (source, into))
    target.copy_(source)
    return into
