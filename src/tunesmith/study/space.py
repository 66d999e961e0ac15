"""The search space: which settings are searched, and over what; read from a recipe's `[search]` or from flags, and checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, get_args

from tunesmith.config import Config
from tunesmith.errors import UsageError, did_you_mean, listing, setting
from tunesmith.resolve import resolve

_ROWS = "it decides which rows there are or what is judged, so trials with other values could not be compared"
_NOTHING = "it changes nothing that a trained model does"
_NEVER = {
    **dict.fromkeys(
        ("train", "valid", "test", "task", "text", "text_pair", "label", "group", "encoding", "label_type", "label_separator", "scheme",
         "valid_size", "test_size", "drop_unlabelled", "candidates", "answer_match", "mask_share", "vocab_size", "from_scratch", "folds"),
        _ROWS,
    ),
    **dict.fromkeys(
        ("out", "checkpoint_minutes", "checkpoint_steps", "replay_rows", "features_gb", "features_dir", "merge", "engine", "max_tokens",
         "budget"),
        _NOTHING,
    ),
    "seed": "a seed that does better does so by chance",
    "metric": "trials are compared by it",
}  # fmt: skip
_KEYS = ("low", "high", "step", "log")
_RANGE = re.compile(r"(?P<low>[^.:]*(\.\d[^.:]*)?)\.\.(?P<high>[^:]*)(:(?P<how>.*))?")
_GREATEST = 1e300
_MOST_PAIRS = 2000
"""Combinations of two settings that are checked before the first trial; further ones are checked when they are drawn."""


@dataclass(frozen=True)
class Range:
    """What one setting is searched over: `values` to choose from, else numbers from `low` to `high`.

    step: between neighbouring numbers, None for any; log: drawn evenly by the logarithm
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    def __str__(self) -> str:
        if self.values:
            return f"{self.name}: {', '.join(map(written, self.values))}"
        how = ", by its logarithm" if self.log else f" in steps of {self.step:g}" if self.step is not None and self.step != 1 else ""
        return f"{self.name}: {written(self.low)} to {written(self.high)}{how}"

    def ends(self) -> list[Any]:
        """Return the values to check: all of a choice, both ends of a range."""
        return list(self.values) if self.values else [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Whether `value` can be drawn."""
        if self.values:
            return value in self.values
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-9

    def spec(self) -> Any:
        """Return the range as it would stand in a recipe."""
        if self.values:
            return list(self.values)
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **step, "log": self.log}


def written(value: Any) -> str:
    """Return a setting's value as people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_flags(flags: Collection[str]) -> dict[str, Any]:
    """Return name and range of `lr=1e-5..2e-4`, `batch_size=8..64:8`, `epochs=2,3,4`, as they would stand in a recipe.

    Raises `UsageError` that lists every fault.
    """
    found: dict[str, Any] = {}
    faults = []
    for flag in flags:
        name, sign, text = flag.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not text.strip() or not name:
            faults.append(f"--search {flag!r} is not NAME=RANGE. Examples: lr=1e-5..2e-4, batch_size=8..64:8, epochs=2,3,4")
            continue
        if name in found:
            faults.append(f"--search {name} is given twice; name all of its values at once, such as {name}=1,2,3")
            continue
        matched = _RANGE.fullmatch(text.strip())
        spec: dict[str, Any] = {key: _value(matched[key].strip()) for key in ("low", "high")} if matched is not None else {}
        if matched is not None and matched["high"].startswith(".") and not any(isinstance(value, str) for value in spec.values()):
            faults.append(f"--search {flag!r} has three points, of which one may be part of a number: write LOW..HIGH, and 0.5 for .5")
            continue
        if matched is None or any(isinstance(value, str) for value in spec.values()):
            found[name] = [_value(part.strip()) for part in text.split(",")]  # a path may have two points, too
            continue
        how = matched["how"]
        if how in ("log", "linear"):
            spec["log"] = how == "log"
        elif how is not None:
            spec["step"] = _value(how)
        found[name] = spec
    if faults:
        raise UsageError(*faults)
    return found


def _value(text: str) -> Any:
    """Return what a recipe would hold where a flag has `text`: a number, true or false, or the text."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text, text)


def default_space(config: Config, told: Collection[str]) -> dict[str, Any]:
    """Return usual ranges around the settings at hand; those in `told` stay as they are."""
    rate, epochs, size = config.peak_lr, config.epochs, config.batch_size
    usual: dict[str, Any] = {
        "lr": {"low": rate / 5, "high": min(rate * 5, 10.0), "log": True},
        "epochs": {"low": max(1, epochs - 1), "high": min(epochs + 2, 10000)},
        "batch_size": sorted({max(1, size // 2), size, min(2 * size, 65536)}),
        "warmup": sorted({0.0, 0.1, config.warmup}),
    }
    space = {name: spec for name, spec in usual.items() if name not in told}
    if not space:
        raise UsageError(
            f"there is nothing to search: {listing(usual)} are all set. Leave one of them out, or declare ranges, such as "
            f"{setting('search', 'lr=1e-5..2e-4')}."
        )
    return space


def read_space(specs: Mapping[str, Any], base: Config, where: str) -> list[Range]:
    """Return the ranges that `specs` declares, after every end and value of them was checked as a setting beside those of `base`.

    specs: for each setting a list of values, or a mapping with low, high and, where wanted, step and log
    where: how messages name the place of the ranges, such as "recipe.toml: [search]"
    Raises `UsageError` that lists every fault.
    """
    faults: list[str] = []
    ranges = []
    for key, spec in specs.items():
        name = key.replace("-", "_")
        found = _read(name, spec)
        if isinstance(found, str):
            faults.append(f"{where} {key}: {found}")
            continue
        wrong = [fault for value in found.ends() for fault in _faults(base, {name: value})]
        faults += [f"{where} {key}: {fault}" for fault in dict.fromkeys(wrong)]
        if not wrong:
            ranges.append(found)
    told = set(faults)
    for values in _pairs(ranges):
        words = " with ".join(f"{name} = {written(value)}" for name, value in values.items())
        for fault in _faults(base, values):
            if f"{fault}" not in told:
                told.add(fault)
                faults.append(f"{where} {words}: {fault}")
    if faults:
        raise UsageError(*faults)
    if not ranges:
        raise UsageError(f"{where} is empty; it holds ranges such as lr = {{low = 1e-5, high = 2e-4}} or epochs = [2, 3, 4].")
    return ranges


def _pairs(ranges: list[Range]) -> Iterator[dict[str, Any]]:
    seen = 0
    for one, two in combinations(ranges, 2):
        for first, second in product(one.ends(), two.ends()):
            seen += 1
            if seen > _MOST_PAIRS:
                return
            yield {one.name: first, two.name: second}


def _faults(base: Config, values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with these settings beside those of `base`."""
    try:
        resolve(base.model_dump(mode="json", exclude_none=True, exclude_unset=True), values, told=values)
    except UsageError as error:
        return [fault.rstrip(".") + "." for fault in error.faults]
    return []


def _read(name: str, spec: Any) -> Range | str:
    """Return the range that `spec` is, or what is wrong with it."""
    if name not in Config.model_fields:
        hint = did_you_mean(name, set(Config.model_fields) - set(_NEVER))
        return f"unknown setting {name!r}.{hint if hint else f' Known: {listing(sorted(set(Config.model_fields) - set(_NEVER)), 100)}.'}"
    if name in _NEVER:
        return f"{name} cannot be searched: {_NEVER[name]}."
    if isinstance(spec, list | tuple):
        if any(isinstance(value, list | dict) for value in spec):
            return "the values of a choice are single ones, such as [2, 3, 4]."
        if name == "lr" and "find" in spec:
            return "find looks for a rate itself, before each training. Name rates, or write {low = ..., high = ...}."
        if len(set(spec)) < len(spec) or len(spec) < 2:
            return f"a choice needs two or more different values; found {listing(map(written, spec)) or 'none'}."
        return Range(name, tuple(spec))
    if not isinstance(spec, Mapping):
        return f"{written(spec)} is no range. Write {{low = ..., high = ...}} or a list of values, or set it above [search] to keep it."
    unknown = [key for key in spec if key not in _KEYS]
    if unknown:
        return f"a range has low, high, step and log; found {unknown[0]!r}.{did_you_mean(unknown[0], _KEYS)}"
    return _range(name, spec)


def _plain(kind: Any) -> Any:
    """Return a type without its limits: `float` for `Annotated[float, Gt(0)]`."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _range(name: str, spec: Mapping[str, Any]) -> Range | str:
    annotation = Config.model_fields[name].annotation
    kinds = {kind for kind in map(_plain, get_args(annotation) or (annotation,)) if kind in (int, float)}
    if not kinds:
        return f"{name} is no number; write a list of values."
    missing = [key for key in ("low", "high") if key not in spec]
    if missing:
        return f"a range needs low and high; {listing(missing)} {'is' if len(missing) == 1 else 'are'} missing."
    whole = kinds == {int}
    for key in ("low", "high", "step"):
        value = spec.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return f"{key} is {value!r:.40}; it must be a {'whole ' if whole else ''}number."
        if not abs(value) <= _GREATEST:  # which nan is not, either
            return f"{key} is {value!r:.40}; it must be a finite number."
    log = spec.get("log", name == "lr" and "step" not in spec)
    if not isinstance(log, bool):
        return f"log is {log!r:.40}; it must be true or false."
    kind = int if whole else float
    low, high = kind(spec["low"]), kind(spec["high"])
    step = kind(spec["step"]) if "step" in spec else 1 if whole and not log else None
    if not low < high:
        return f"low {written(low)} must be below high {written(high)}."
    if log and low <= 0:
        return f"low is {written(low)}; by the logarithm only numbers above 0 are searched. Raise low, or write log = false."
    if step is not None:
        if log and "step" in spec:
            return "step and log exclude each other."
        if step <= 0:
            return f"step is {written(step)}; it must be above 0."
        steps = (high - low) / step
        if abs(steps - round(steps)) > 1e-9:
            last = low + int(steps) * step
            return f"high {written(high)} is not low {written(low)} plus whole steps of {written(step)}; take {written(last)}."
    return Range(name, (), low, high, step, log)
