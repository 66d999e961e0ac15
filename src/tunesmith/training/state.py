"""Checkpoints: everything that a run needs to go on exactly where it stood, and nothing that runs code when read."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import StorageError, counted, setting
from tunesmith.model.arithmetic import cpu_name
from tunesmith.storage import LOCK, UNFINISHED, new_directory, sweep, verify, write_manifest

RUN = "run.json"
"""Beside the checkpoints: the settings of the run that made them."""
PROBE = "lr_find.json"
"""Beside the checkpoints: what a probe for the learning rate found."""
_AVERAGES = "average.safetensors"
_KEEP = 2


@dataclass
class TrainState:
    """Where a run stands. Random draws are derived from names (see `seeds`), so no generator state is kept.

    step: optimizer steps done; the place in the data follows from it
    best_step, best_value: of the evaluation with the best value of the chosen metric; best_loss: its log loss, which decides ties
    evaluations_since_best: counts towards early stopping, and so survives a resume
    stopped: why training ended, empty while it goes on
    history: mean loss and rate of stretches of steps; loss_sum, loss_steps: of the stretch that is not full yet
    tokens, seconds: trained on so far
    averaged: steps whose weights are in the average, where weights are averaged over evaluations
    outputs_kept: the number format in which outputs of frozen layers were kept, empty for those that ran in every epoch
    frozen: what the report says of them
    """

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    best_loss: float = 0.0
    evaluations_since_best: int = 0
    stopped: str = ""
    loss_sum: float = 0.0
    loss_steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    averaged: list[int] = field(default_factory=list)
    outputs_kept: str = ""
    frozen: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def over(self) -> bool:
        """Whether training has ended."""
        return self.stopped != ""


class Checkpoints:
    """The checkpoints of one run in a directory.

    Each is a directory `step-N` with weights, optimizer state and `state.json`, closed by a manifest of checksums, and put in
    place by one rename. The newest two are kept, so that a damaged one has a whole one before it. Weights of the best
    evaluation are in `best-N`, those that an average is made of in `weights-N`.

    device: the type of what computes: a GPU keeps other moments of the table of words, and draws other dropout masks
    precision: of the products; what `auto` chose on one processor need not be what it chooses on another
    config_hash, rows: what the run depends on: its settings, and the fingerprints of the rows that it trains on and chooses by
    (which of them those are can depend on a test file); a checkpoint of others is refused
    """

    def __init__(self, directory: Path, config_hash: str, rows: list[str], device: str = "cpu", precision: str = "") -> None:
        self.directory = directory
        self.identity = {"config": config_hash, "rows": rows}
        self._device, self._precision = device, precision
        self._pool: ThreadPoolExecutor | None = None
        self._following: Future[None] | None = None

    def save(
        self, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer, averages: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write a checkpoint and remove what is no longer needed. Raises `StorageError`; the ones before stay whole.

        averages: of the weights, by the names of parameters, as `averages` returns them again
        """
        with self._written(f"step-{state.step}", self._tidy) as temporary:
            save_file(_weights(model), temporary / "model.safetensors")
            save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
            if averages:
                save_file(_for_file(averages), temporary / _AVERAGES)
            told = {"identity": self.identity, "device": self._device, "precision": self._precision, "machine": _machine()}
            content = {**told, "state": dataclasses.asdict(state)}
            (temporary / "state.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    @contextlib.contextmanager
    def in_background(self) -> Iterator[None]:
        """Within the block `save` and its like return once everything is handed to the system, and checksums, disk and names follow.

        An error of what follows is raised by `check`, by the next call that writes, and by the end of the block, which waits, unless
        it ends in another error.
        """
        with ThreadPoolExecutor(1, "checkpoints") as self._pool:
            try:
                yield
                self.wait()
            finally:
                self._pool = None

    def wait(self) -> None:
        """Return when all is on disk. Raises `StorageError` where it could not be."""
        self.check(wait=True)

    def check(self, *, wait: bool = False) -> None:
        """Raise the `StorageError` of what followed in the background, as far as that has ended already, or with `wait` of all."""
        if not wait and (self._following is None or not self._following.done()):
            return
        following, self._following = self._following, None
        if following is not None:
            following.result()

    @contextlib.contextmanager
    def _written(self, name: str, after: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Yield a directory to write into, which becomes `name` with a manifest; then `after` is called."""
        self.wait()  # one after the other, as each names those before it
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(new_directory(self.directory / name))
            yield temporary
            rest = stack.pop_all()

        def close() -> None:
            with rest:
                write_manifest(temporary)
            after()

        if self._pool is None:
            close()
        else:
            self._following = self._pool.submit(contextvars.copy_context().run, close)  # errors speak as the caller does

    def _tidy(self) -> None:
        """Remove checkpoints and weights that are no longer needed."""
        kept = self._paths("step")[:_KEEP]
        for old in self._paths("step")[_KEEP:]:
            shutil.rmtree(old, ignore_errors=True)
        needed = {name for path in kept for name in _named(_read(path))}
        for old in (*self._paths("best"), *self._paths("weights")):
            if old.name not in needed:
                shutil.rmtree(old, ignore_errors=True)

    def save_best(self, step: int, model: nn.Module) -> None:
        """Write the weights of the best evaluation, made at `step`."""
        self.save_weights("best", step, _weights(model))

    def save_weights(self, kind: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write weights of `step` as `KIND-STEP`. Raises `StorageError`."""
        with self._written(f"{kind}-{step}") as temporary:
            save_file(_for_file(tensors), temporary / "model.safetensors")

    def weights(self, step: int) -> Any:
        """Return the open file of the weights written for `step`, a context whose `get_tensor` reads one of them."""
        self.wait()
        return safe_open(self.directory / f"weights-{step}" / "model.safetensors", framework="pt")

    def averages(self, step: int) -> dict[str, Tensor]:
        """Return the averages that were given to `save` at `step`; nothing where there was no checkpoint then."""
        path = self.directory / f"step-{step}" / _AVERAGES
        return load_file(path) if path.is_file() else {}

    def load_best(self, step: int, model: nn.Module) -> None:
        """Put the weights written by `save_best` into `model`. Raises `StorageError` when they are damaged."""
        self.wait()
        path = self.directory / f"best-{step}"
        fault = verify(path)
        if fault is not None:
            raise StorageError(f"the best checkpoint {path} is damaged: {fault}. Train again, or go on without {setting('resume')}.")
        _put_weights(model, load_file(path / "model.safetensors"))

    def load_newest(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[TrainState | None, list[str]]:
        """Bring model and optimizer to the newest whole checkpoint.

        Returns its state, None when there is no checkpoint at all, and a sentence on every damaged one passed over.
        Raises `StorageError` when none is whole, or when it is of other settings or data.
        """
        notes: list[str] = []
        damaged: list[Path] = []
        for path in self._paths("step"):
            fault = verify(path)
            content = _read(path) if fault is None else {}
            for name in _named(content) if fault is None else []:
                if fault is None and (its := verify(self.directory / name)) is not None:
                    fault = f"the weights it names ({name}) are damaged: {its}"
            if fault is not None:
                notes.append(f"checkpoint {path} is damaged ({fault}); going back to the one before.")
                damaged.append(path)
                continue
            if content["identity"] != self.identity:
                what = "settings" if content["identity"]["config"] != self.identity["config"] else "data"
                raise StorageError(
                    f"{path} was made with other {what}, so it cannot be resumed. Use the same {what} as before, "
                    f"or start anew with another {setting('out')} or with {setting('overwrite', True)}."
                )
            if (made := content.get("device", "cpu")) != self._device:
                raise StorageError(
                    f"{path} was made on {made}, and this run computes on {self._device}, where it would become another one. Go on with "
                    f"{setting('device', made)}, or start anew with another {setting('out')} or with {setting('overwrite', True)}."
                )
            _put_weights(model, load_file(path / "model.safetensors"))
            _put_optimizer(model, optimizer, load_file(path / "optimizer.safetensors"))
            for useless in damaged:
                shutil.rmtree(useless, ignore_errors=True)
            if (began := content.get("machine", _machine())) != _machine():
                notes.append(
                    f"note: this run began with {began}, and goes on with {_machine()}: its model will differ in the last digits from "
                    "that of a run that was not cut off."
                )
            return TrainState(**content["state"]), notes
        if notes:
            anew = f"Start anew with {setting('overwrite', True)} or another {setting('out')}."
            told = [note.replace("; going back to the one before.", ".") for note in notes]
            raise StorageError("\n".join(["no whole checkpoint is left:", *told, anew]))
        return None, notes

    def begun_in(self) -> str:
        """Return the precision of the newest checkpoint that can be read, empty where none tells."""
        for path in self._paths("step"):
            with contextlib.suppress(OSError, ValueError):
                return str(_read(path).get("precision", ""))
        return ""

    def of_a_run(self) -> bool:
        """Whether a run began in this directory and was not finished."""
        return any((self.directory / name).is_file() for name in (RUN, LOCK))

    def clear(self) -> None:
        """Delete all checkpoints, and the probe before them; what else is in the directory stays."""
        (self.directory / PROBE).unlink(missing_ok=True)
        for path in (path for kind in ("step", "best", "weights") for path in self._paths(kind)):
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Delete all that the run kept beside its model, once that is saved, and the directory unless other files are in it."""
        self.clear()
        with contextlib.suppress(OSError):
            sweep(self.directory, RUN, LOCK, *UNFINISHED)
            self.directory.rmdir()

    def _paths(self, kind: str) -> list[Path]:
        """All checkpoints of a kind, the newest first."""
        found = [path for path in self.directory.glob(f"{kind}-*") if path.name.split("-")[1].isdigit()]
        return sorted(found, key=lambda path: -int(path.name.split("-")[1]))


def _machine() -> str:
    """Return in words what decides the last digits of a sum."""
    return f"{counted(torch.get_num_threads(), 'thread')} of {cpu_name()}"


def _named(content: dict[str, Any]) -> list[str]:
    """Return the names of the weights that a checkpoint with this content needs beside its own."""
    best = content["state"]["best_step"]
    return [*([] if best is None else [f"best-{best}"]), *(f"weights-{step}" for step in content["state"].get("averaged", []))]


def _read(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    # named_parameters names a shared parameter once, which safetensors demands; clones are needed for none of them
    tensors: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if name not in _frozen(model)}
    tensors.update({f"buffer:{name}": value.detach().clone() for name, value in model.named_buffers()})
    return _for_file(tensors)


def _for_file(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _frozen(model: nn.Module) -> frozenset[str]:
    """The names of parameters that stay as the encoder's files have them, so that no checkpoint need hold them."""
    return getattr(model, "frozen", frozenset())


def _put_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name not in _frozen(model):
                value.copy_(tensors[name])
        for name, buffer in model.named_buffers():
            buffer.copy_(tensors[f"buffer:{name}"])


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    return _for_file(
        {
            f"{names[parameter]}|{key}": value
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }
    )


def _put_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, slot = key.rsplit("|", 1)
        optimizer.state[parameters[name]][slot] = value.to(parameters[name].device)
