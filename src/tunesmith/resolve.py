"""Recipe files and flags, merged into one `Config` and checked as a whole: every fault is told at once, where it stands."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from tunesmith import prompts, strategies
from tunesmith.config import FILES, Config
from tunesmith.errors import UsageError, did_you_mean, listing, setting

_ELSEWHERE = {"gpu": "cuda"}  # words of other programs, by what they mean here


class Recipe(dict[str, Any]):
    """The settings of a recipe file, which knows its `path` for messages; `search` is its table of that name, the ranges of `tune`."""

    def __init__(self, path: Path, values: Mapping[str, Any], search: Mapping[str, Any] | None = None) -> None:
        super().__init__(values)
        self.path, self.search = path, search


def read_recipe(path: Path | str) -> Recipe:
    """Return the settings of a TOML recipe. Keys may use - or _; file names in it are relative to the recipe's directory.

    Raises `UsageError` when the file is missing or is not TOML.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"recipe {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not valid TOML: {error}.") from None
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}.") from None
    values = {key.replace("-", "_"): value for key, value in raw.items()}
    for key in ("train", "valid", "test", "out", "prompts", "features_dir"):
        if isinstance(values.get(key), str) and not (key == "prompts" and "=" in values[key]):
            values[key] = os.path.normpath(path.parent / values[key])
    model = values.get("model")
    if isinstance(model, str) and (path.parent / model).is_dir():
        values["model"] = str(path.parent / model)
    search = values.pop("search", None)
    if search is not None and not isinstance(search, dict):
        raise UsageError(
            f"{path}: search is a section of ranges for tunesmith tune: write [search], and below it lr = {{low = 1e-5, high = 2e-4}}."
        )
    return Recipe(path, values, search)


def absolute(config: Config) -> dict[str, Any]:
    """Return the settings that were told as plain values, with files, and a model that is a directory, by their absolute paths."""
    values = config.model_dump(mode="json", exclude_unset=True)
    for name in FILES:
        if values.get(name) is not None:
            values[name] = str(Path(values[name]).absolute())
    if Path(config.model).is_dir():
        values["model"] = str(Path(config.model).absolute())
    return {**values, "out": None}


def from_here(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `absolute` wrote with files below the working directory as people name them, and without what is not set."""
    found, here = {key: value for key, value in settings.items() if value is not None}, Path.cwd()
    for name in FILES:
        if name in found and Path(found[name]).is_relative_to(here):
            found[name] = str(Path(found[name]).relative_to(here))
    return found


def resolve(*layers: Mapping[str, Any], told: Collection[str] = ()) -> Config:
    """Merge settings, later layers over earlier ones, and check them all.

    told: names of those that the user at hand wrote, which those of a recipe are, too. Where they mean nothing they are refused whatever
        their value; others, as those of a run that is gone on with, where they are not the usual ones.
    Raises `UsageError` that lists every fault at once, each with the recipe that it stands in.
    """
    merged: dict[str, Any] = {}
    recipes: dict[str, Path] = {}  # of the settings that a recipe decides
    for layer in layers:
        merged.update(layer)
        recipes = {key: path for key, path in recipes.items() if key not in layer}
        if isinstance(layer, Recipe):
            recipes |= dict.fromkeys(layer, layer.path)
    faults = []
    for key in [key for key in merged if key not in Config.model_fields]:
        faults.append(_unknown(key, merged.pop(key), recipes))
    wrong: list[str] = []
    try:
        config = Config(**merged)
    except ValidationError as error:
        # a value that may be of several types is refused once for each; the one that looked deepest, else the first, says most
        deepest: dict[str, Any] = {}
        for fault in error.errors():
            name = str(fault["loc"][0])
            if name not in deepest or len(fault["loc"]) > len(deepest[name]["loc"]):
                deepest[name] = fault
        wrong = sorted(deepest, key=list(Config.model_fields).index)
        faults.extend(_sentence(deepest[name], recipes) for name in wrong)
        config = Config(**{key: value for key, value in merged.items() if key not in wrong})
    said = {name for name in {*told, *recipes} - {*wrong} if merged.get(name) is not None}
    faults.extend(_clashes(config, set(wrong), recipes, said))
    if faults:
        raise UsageError(*faults)
    return config


def _place(name: str, recipes: Mapping[str, Path]) -> str:
    """Where and how the user wrote a setting: `recipe.toml: max_length`, else as `setting` spells it."""
    return f"{recipes[name]}: {name}" if name in recipes else setting(name)


def _unknown(name: str, value: Any, recipes: Mapping[str, Path]) -> str:
    where = f"{recipes[name]}: " if name in recipes else ""
    if name in recipes and isinstance(value, dict):
        inside = f" ({listing(value)})" if value else ""
        return f"{where}[{name}] is a section, but a recipe is flat: put what is in it{inside} above all sections, and remove this line."
    hint = did_you_mean(name, Config.model_fields)
    return f"{where}unknown setting {name!r}.{hint if hint else f' Known: {listing(sorted(Config.model_fields), 100)}.'}"


def _clashes(config: Config, wrong: set[str], recipes: Mapping[str, Path], told: set[str]) -> Iterator[str]:
    """Yield the faults of settings that are right one by one but not together; those in `wrong` have been named already."""

    def is_told(name: str) -> bool:
        return name in told or config.is_told(name)

    def both(one: str, two: str) -> tuple[str, str]:
        # the recipe is named once where both are in it
        return _place(one, recipes), two if one in recipes and two in recipes else _place(two, recipes)

    sizes = (config.valid_size if config.valid is None else 0) + (config.test_size if config.test is None else 0)
    if wrong.isdisjoint(("valid_size", "test_size")) and sizes >= 1:
        yield "{} and {} together leave no training rows; their sum must be below 1".format(*both("valid_size", "test_size"))
    if wrong.isdisjoint(("stride", "max_length")) and config.truncation == "windows" and config.stride >= config.max_length - 2:
        stride, length = both("stride", "max_length")
        yield f"{stride} {config.stride} must be at least 3 below {length} {config.max_length}, or windows would not move forward"
    if config.folds is not None and is_told("test_size"):
        yield "{} changes nothing beside {}, which test on every row once; leave it out".format(*both("test_size", "folds"))
    if config.text_pair is not None and config.task == "classification":
        yield f"{_place('text_pair', recipes)} names a second text, which the task classification has no use for; take the task pair"
    if config.from_scratch and config.task not in ("auto", "masked-lm"):
        yield "{} makes an encoder that knows nothing yet; take {} first, and name its directory with {}".format(
            _place("from_scratch", recipes), setting("task", "masked-lm"), setting("model")
        )
    if config.from_scratch and config.model != Config.model_fields["model"].default:
        yield "{} and {} exclude each other: a new encoder, or one that is there".format(*both("from_scratch", "model"))
    if config.from_scratch and wrong.isdisjoint(("width", "heads")) and config.width % config.heads:
        width, heads = both("width", "heads")
        yield f"{width} {config.width} must be a multiple of {heads} {config.heads}, which share it evenly"
    if config.folds is not None and config.tuning == strategies.AUTO:
        yield "{} trains on every row, which leaves none to choose a way by; name one with {}".format(
            _place("folds", recipes), _place("tuning", recipes)
        )
    if config.valid is None and config.valid_size == 0 and config.tuning == strategies.AUTO:
        yield "{} 'auto' chooses by validation rows, and {} is 0".format(*both("tuning", "valid_size"))
    way = config.tuning.partition(":")[0]
    for name, ways in strategies.special_settings().items():
        if way not in ways and is_told(name):
            yield f"{_place(name, recipes)} changes nothing with {setting('tuning', config.tuning)}; it belongs to {listing(ways)}"
    for name in sorted(strategies.TUNINGS[way].without):
        if is_told(name):
            yield f"{_place(name, recipes)} changes nothing with {setting('tuning', config.tuning)}. Leave it out"
    if way == "fewshot" and config.lr == "find":
        yield f"{_place('lr', recipes)} find probes the loss of the labels, and {setting('tuning', way)} learns from pairs. Give a number"
    if way == "none" and wrong.isdisjoint(("prompts", "template", "method")):
        yield from _prompt_faults(config, recipes, is_told)
    if way in ("fewshot", "none") and config.pooling != "mean":
        yield f"{_place('pooling', recipes)} {config.pooling}: {setting('tuning', way)} compares texts by the mean of their tokens' vectors"
    if config.ema > 0 and config.average > 1:
        yield "{} and {} exclude each other: both say which weights are evaluated and saved".format(*both("ema", "average"))
    if config.average > 1 and config.epochs == 1 and config.eval_steps is None:
        yield (
            f"{_place('average', recipes)} {config.average} needs weights of several evaluations, and there is one, at the end of the only "
            f"epoch; set {setting('eval_steps')} or more {setting('epochs')}"
        )
    if config.fgm > 0 and way in ("head", "last") and config.features != "off":
        yield (
            f"{_place('fgm', recipes)} disturbs the embeddings, and with {setting('tuning', config.tuning)} what frozen layers make of "
            f"them is computed once; add {setting('features', 'off')}, or leave it out"
        )
    for name, used in (("r_drop", config.r_drop > 0), ("multi_sample_dropout", config.multi_sample_dropout > 1)):
        if used and config.dropout == 0 and (config.attention_dropout == 0 or name != "r_drop"):
            yield "{} sets dropout masks against each other, and {} 0 leaves none".format(*both(name, "dropout"))
    for one, two in combinations(("text", "text_pair", "label", "group"), 2):
        column = getattr(config, one)
        if column is not None and column == getattr(config, two):
            yield "{} and {} name the same column {!r}".format(*both(one, two), column)


def _prompt_faults(config: Config, recipes: Mapping[str, Path], is_told: Callable[[str], bool]) -> Iterator[str]:
    """Yield the faults of prompts and template, which depend on the method."""
    method = setting("method", config.method)
    if config.method == "cloze" and config.prompts is None:
        yield f"{method} needs {_place('prompts', recipes)}: words of each label that fill the gap, as positive=great,negative=terrible"
    if config.method == "nearest":
        for name in ("prompts", "template"):
            if is_told(name):
                yield f"{_place(name, recipes)} changes nothing with {method}, which compares texts with labelled examples"
    elif is_told("neighbours"):
        yield f"{_place('neighbours', recipes)} changes nothing with {method}; it belongs to {setting('method', 'nearest')}"
    try:
        prompts.templates_of(config.template, config.method, "Latin")
    except ValueError as error:
        yield f"{_place('template', recipes)}: {error}"


def _sentence(fault: Any, recipes: Mapping[str, Path]) -> str:
    name, found = str(fault["loc"][0]), fault["input"]
    where = _place(name, recipes)
    if name in recipes and isinstance(found, dict):
        return f"{where} is a section, but a recipe is flat: write {name} = VALUE above all sections, and remove the line [{name}]."
    if fault["type"] == "value_error":
        return f"{where}: {fault['msg'].removeprefix('Value error, ')}"
    if len(fault["loc"]) > 2:  # one of the class_weights
        label = fault["loc"][2]
        return f"{where}: the weight of {label!r} is {found!r:.80}; labels must be text and weights numbers."
    hint = did_you_mean(_ELSEWHERE.get(found.casefold(), found), _options(name)) if isinstance(found, str) else ""
    return f"{where} is {found!r:.80}; it must be {_allowed(name)}.{hint}"


def _kinds(name: str) -> list[Any]:
    """The types and `Literal`s of a setting's values, None left out."""
    annotation = Config.model_fields[name].annotation
    several = () if get_origin(annotation) is Literal else get_args(annotation)
    return [getattr(kind, "__origin__", kind) if _bounds(kind) else kind for kind in several or (annotation,) if kind is not type(None)]


def _bounds(kind: Any) -> tuple[Any, ...]:
    """The limits in a type such as `Annotated[float, Gt(0)]`."""
    return getattr(kind, "__metadata__", ())


def _options(name: str) -> list[str]:
    """The words that a setting can be, none when it can be any."""
    return [option for kind in _kinds(name) if get_origin(kind) is Literal for option in get_args(kind)]


def _allowed(name: str) -> str:
    """Return in words which values a setting takes."""
    kinds = _kinds(name)
    rules = [
        *Config.model_fields[name].metadata,
        *(rule for kind in get_args(Config.model_fields[name].annotation) for rule in _bounds(kind)),
    ]
    words = list(map(repr, _options(name)))
    if name == "class_weights":
        words.append("weights by label, such as 'spam=5,ham=1'")
    if name == "device":
        words.append("'cuda:N' for GPU number N")
    if words and float not in kinds:
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if bool in kinds:
        return "true or false"
    if str in kinds:
        return "text of at least one character" if rules else "text"
    number = "a whole number" if int in kinds else "a number"
    bounds = {key: getattr(rule, key) for rule in rules for key in ("ge", "gt", "le", "lt") if hasattr(rule, key)}
    if bounds.keys() == {"ge", "le"}:
        return f"{number} from {bounds['ge']:,} to {bounds['le']:,}"
    limits = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    return (
        f"{number} " + " and ".join(f"{limits[key]} {bound:,}" for key, bound in bounds.items()) + "".join(f", or {word}" for word in words)
    )
