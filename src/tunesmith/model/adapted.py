"""What parameter-efficient tuning leaves: a few tensors, and the encoder that they belong to, found again and shared.

An adapter's directory is in the format of PEFT, `adapter_config.json` and `adapter_model.safetensors`; that of a way which PEFT does not
have holds `bottlenecks.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.model.encoder import Encoder
from tunesmith.model.names import BUNDLED, HUB_NAMES, Located
from tunesmith.model.pretrained import Pretrained, open_pretrained

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
OWN_WEIGHTS = "bottlenecks.safetensors"
DIRECTORY = "adapter"
"""Of the adapter beside an encoder that has it merged."""
FILES = (PEFT_CONFIG, PEFT_WEIGHTS, OWN_WEIGHTS, *(f"{DIRECTORY}/{name}" for name in (PEFT_CONFIG, PEFT_WEIGHTS, "head.safetensors")))


@dataclass(frozen=True)
class Adapter:
    """What was trained, apart from its encoder.

    way: the name of the way to tune; tensors: by their names in the file, or that file; merged: whether the encoder has them added
    config: PEFT's, None for a way that is not PEFT's; settings: with which `attach` builds what the tensors go into
    base: the encoder's name; digest: of its weights; in_peft: whether PEFT alone gives equal outputs
    """

    way: str
    tensors: dict[str, Tensor] | Path
    config: dict[str, Any] | None
    base: Located
    digest: str
    merged: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    in_peft: bool = True

    def save(self, directory: Path) -> None:
        """Write the adapter's files into `directory`."""
        from safetensors.torch import save_file

        directory.mkdir(exist_ok=True)
        place = directory / (OWN_WEIGHTS if self.config is None else PEFT_WEIGHTS)
        if isinstance(self.tensors, Path):
            shutil.copyfile(self.tensors, place)
        else:
            save_file({name: value.cpu().contiguous() for name, value in self.tensors.items()}, place, metadata={"format": "pt"})
        if self.config is not None:
            content = {**self.config, "base_model_name_or_path": public_place(self.base)}
            (directory / PEFT_CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")

    def describe(self, directory: Path, own_head: bool) -> dict[str, Any]:
        """Return what `tunesmith.json` of the model in `directory` keeps of an adapter that is not merged, as plain values."""
        base: dict[str, Any] = {"name": self.base.name, "digest": self.digest}
        if self.base.kind == "directory":
            place = Path(self.base.place).absolute()
            base |= {"place": str(place), "relative": os.path.relpath(place, directory.absolute())}
        return {"way": self.way, "base": base, "own_head": own_head, "settings": self.settings, "tensors": self._count()}

    def _count(self) -> int:
        return count_tensors(self.tensors) if isinstance(self.tensors, Path) else len(self.tensors)

    def summary(self, own_head: bool) -> dict[str, Any]:
        """Return what report and model card say of it, as plain values.

        apart: the model's directory has it in place of the encoder; peft: PEFT's class for the model, None where PEFT cannot run it
        """
        classes = {
            "SEQ_CLS": "AutoPeftModelForSequenceClassification",
            "TOKEN_CLS": "AutoPeftModelForTokenClassification",
            "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
        }
        word = classes.get(str(self.config["task_type"])) if self.config is not None and not own_head else None
        return {"way": self.way, "base": self.base.name, "apart": not self.merged, "peft": word if self.in_peft else None}


def saved_adapter(directory: Path, told: dict[str, Any], base: Located) -> Adapter:
    """Return the adapter in `directory`, told of by `describe`. Raises `ModelError` when its file cannot be read or lacks tensors."""
    own = (directory / OWN_WEIGHTS).is_file()
    path = directory / (OWN_WEIGHTS if own else PEFT_WEIGHTS)
    count = count_tensors(path)
    if count != told["tensors"]:
        raise ModelError(f"{path} is damaged: it has {count} tensors and should have {told['tensors']}. {_ADVICE}")
    config = None if own else _config_in(directory)
    return Adapter(told["way"], path, config, base, told["base"]["digest"], settings=told["settings"])


def count_tensors(path: Path) -> int:
    """Return how many tensors a safetensors file has. Raises `ModelError` for a damaged one."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return len(list(file.keys()))
    except Exception as error:  # safetensors raises its own kind for a damaged file
        raise ModelError(f"{path} cannot be read ({error}). {_ADVICE}") from error


_ADVICE = "Restore it from a copy, or train again."


def public_place(base: Located) -> str:
    """Return where PEFT finds the encoder: the hub name of a bundled one, the absolute path of a directory."""
    if base.kind == "bundled":
        return HUB_NAMES[base.name]
    return str(Path(base.place).absolute()) if base.kind == "directory" else base.name


def digest_of_base(encoder: Encoder) -> str:
    """Return a digest of the encoder's body: what its configuration says, and weights without the pooler, which belongs to the head."""
    digest = hashlib.blake2b(encoder.form.encode(), digest_size=16)
    for name, parameter in _body(encoder):
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def open_base(directory: Path, told: dict[str, Any]) -> Pretrained:
    """Find the encoder that the adapter in `directory` was trained on. Raises `ModelError` that says where was looked.

    told: `base` of `Adapter.describe`; `base_model_name_or_path` of `adapter_config.json` is looked at first, so that a user can change it
    """
    places = [told[key] if key == "place" else str(directory / told[key]) for key in ("place", "relative") if key in told]
    named = _named_in(directory)
    names = list(dict.fromkeys([*([named] if named is not None and named not in HUB_NAMES.values() else []), *places, told["name"]]))
    for name in names:
        if name in BUNDLED or (Path(name) / "config.json").is_file():
            return open_pretrained(name)
    if "place" not in told:
        return open_pretrained(named if named is not None and named not in HUB_NAMES.values() else told["name"])
    looked = "".join(f"\n  - {name}" for name in names)
    raise ModelError(
        f"{directory} holds only what was trained; the encoder {told['name']!r} that it belongs to was not found. Looked for:{looked}\n"
        "Copy the encoder to one of these places, or write its path "
        + (
            f"into base_model_name_or_path of {directory / PEFT_CONFIG}."
            if named is not None
            else f"behind adapter, base, place in {directory / 'tunesmith.json'}."
        )
    )


def _named_in(directory: Path) -> str | None:
    found = _config_in(directory).get("base_model_name_or_path") if (directory / PEFT_CONFIG).is_file() else None
    return found if isinstance(found, str) else None


def _config_in(directory: Path) -> dict[str, Any]:
    path = directory / PEFT_CONFIG
    try:
        found: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8"))}
        return found
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error}). {_ADVICE}") from error


def share_base(encoder: Encoder, digest: str, names: Mapping[str, str] | None = None) -> None:
    """Have the body of `encoder` use the weights of another one on its device with the same digest, if there is one.

    names: of the body's parameters now, once an adapter is attached, and what they were called before; None: no adapter is
    """
    key = f"{digest} {encoder.device}"
    known = _loaded.get(key)
    if known is None:
        known = _loaded[key] = _Weights(digest)
    for name, former in (names if names is not None else {name: name for name, _ in _body(encoder)}).items():
        parameter = encoder.base.get_parameter(name)
        parameter.requires_grad_(False)
        _put(encoder, name, known.by_name.setdefault(former, parameter))
    encoder.shared = known  # keeps them for as long as a model uses them


def own_base(encoder: Encoder) -> dict[str, str]:
    """Give `encoder` weights of its own, so that it can go to another device and those that share its weights stay where they are.

    Returns the names of what was shared, for `share_base`.
    """
    former = {id(parameter): name for name, parameter in encoder.shared.by_name.items()} if encoder.shared is not None else {}
    names = {name: former[id(parameter)] for name, parameter in encoder.base.named_parameters() if id(parameter) in former}
    for name in names:
        _put(encoder, name, nn.Parameter(encoder.base.get_parameter(name).detach().clone(), requires_grad=False))
    encoder.shared = None
    return names


def _put(encoder: Encoder, name: str, parameter: nn.Parameter) -> None:
    parent, _, last = name.rpartition(".")
    setattr(encoder.base.get_submodule(parent), last, parameter)


class _Weights:
    """Parameters of an encoder's body by name, and their digest."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.by_name: dict[str, nn.Parameter] = {}


_loaded: weakref.WeakValueDictionary[str, _Weights] = weakref.WeakValueDictionary()


def _body(encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in encoder.base.named_parameters() if "pooler" not in name.split(".")]
