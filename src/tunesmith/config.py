"""The settings of a run: one flat, frozen object from defaults, a TOML recipe and flags, checked as a whole.

A setting has one name everywhere: `max_length` in Python and in a recipe, `--max-length` on the command line.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tunesmith import registry
from tunesmith.errors import UsageError, did_you_mean, listing, setting

Truncation = Literal["head", "tail", "head-tail", "windows"]
Pooling = Literal["cls", "mean", "max", "attention"]
Aggregation = Literal["mean", "max"]
Precision = Literal["auto", "fp32", "bf16"]
LabelType = Literal["auto", "single", "multi"]
Scheme = Literal["auto", "bio", "bioes", "bmes", "bilou", "io", "none"]


class Config(BaseModel):
    """Everything that decides what a training run does. Field descriptions are the help texts of the flags."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)

    # data
    train: str | None = Field(None, description="labelled rows to train on: CSV, TSV, JSONL, Parquet, Arrow, CoNLL, CoNLL-U")
    valid: str | None = Field(None, description="rows to choose the checkpoint on; without it a part of the training rows is split off")
    test: str | None = Field(None, description="rows for the final test; never used for any choice")
    task: str = Field("auto", description="what is learned; auto: recognised from the data, and said")
    text: str | None = Field(None, description="name of the text column")
    text_pair: str | None = Field(None, description="name of the column with the second text, where pairs of texts are judged")
    label: str | None = Field(None, description="name of the label column")
    group: str | None = Field(None, description="column whose rows with equal value stay on one side of a split (a customer, a document)")
    encoding: str | None = Field(None, description="character encoding of text files, UTF-8 unless told")
    label_type: LabelType = Field("auto", description="one label a row (single), any number (multi), or recognised from the data (auto)")
    label_separator: str | None = Field(None, min_length=1, description="what stands between labels in one cell, such as '|'")
    scheme: Scheme = Field("auto", description="scheme in which tags are learned, that of the data unless told; none: tags as they stand")
    valid_size: float = Field(
        0.1, ge=0, lt=1, description="share of the training rows split off for validation when no file is given; 0: none"
    )
    test_size: float = Field(
        0.1, ge=0, lt=1, description="share of the training rows split off for the test when no file is given; 0: none"
    )
    dedupe: bool = Field(False, description="drop repeated rows from training, and training rows whose text is in validation or test")
    drop_unlabelled: bool = Field(False, description="leave rows without a label out instead of stopping")

    # model and sequences
    model: str = Field("all-minilm-l6-v2", min_length=1, description="encoder: a directory, a hub name or a bundled name")
    max_length: int = Field(256, ge=4, le=131072, description="longest sequence in tokens, special tokens included")
    truncation: Truncation = Field("head", description="which part of a longer text is kept; 'windows' keeps all of it")
    stride: int = Field(32, ge=0, description="tokens that neighbouring windows share")
    mask_share: float = Field(0.15, gt=0, le=0.9, description="share of the words that masked-lm hides and has guessed")
    from_scratch: bool = Field(False, description="masked-lm with a new encoder and a vocabulary learned from the training texts")
    vocab_size: int = Field(8000, ge=100, le=1_000_000, description="tokens of the vocabulary of a new encoder")
    layers: int = Field(4, ge=1, le=200, description="layers of a new encoder")
    width: int = Field(256, ge=2, le=65536, description="size of a hidden state of a new encoder")
    heads: int = Field(4, ge=1, le=1024, description="attention heads of a new encoder; they share its width")
    max_windows: int = Field(32, ge=1, description="most windows of one text; what lies behind is lost and counted")
    context: int = Field(0, ge=0, le=4096, description="tagging: most tokens before and after, of sentences of the document, read along")
    aggregation: Aggregation = Field("mean", description="how the logits of a text's windows become one")
    pooling: Pooling = Field(
        "cls", description="how token vectors become one; cls uses the head that transformers knows (last token for decoders)"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout of the encoder and head; unless told the checkpoint's own")
    attention_dropout: float | None = Field(None, ge=0, lt=1, description="dropout of attention weights; unless told the checkpoint's own")
    precision: Precision = Field("auto", description="arithmetic of training; auto takes bf16 where the processor multiplies it natively")
    engine: Literal["auto", "packed", "padded"] = Field(
        "auto", description="how the encoder runs: without padding (auto where its architecture allows), or as transformers runs it"
    )
    max_answer_tokens: int = Field(30, ge=1, le=512, description="longest answer to a question, in tokens of the passage")
    answer_match: Literal["auto", "words", "characters"] = Field(
        "auto",
        description="how answers to questions are compared: by words (SQuAD), by characters (CMRC 2018), or by the script of the passages",
    )

    # objective and optimizer
    loss: Literal["cross-entropy", "focal"] = Field(
        "cross-entropy", description="training loss (binary cross-entropy for several labels a row)"
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="focusing exponent of the focal loss")
    ranker: Literal["cross-encoder", "bi-encoder"] = Field(
        "cross-encoder",
        description="shape of a ranking model: reads query and passage together (better), or gives each a vector (searches millions)",
    )
    ranking_loss: Literal["pointwise", "pairwise", "listwise"] = Field(
        "pairwise", description="loss of a cross-encoder: binary cross-entropy, RankNet or ListNet"
    )
    temperature: float = Field(0.05, gt=0, le=10, description="divides the cosines in a bi-encoder's contrastive loss")
    negatives: Literal["auto", "given", "random", "in-batch", "hard"] = Field(
        "auto",
        description="where a query's negatives come from besides the given ones: none, random passages, the other queries of the step, or "
        "mined ones; auto: random for a cross-encoder, in-batch for a bi-encoder",
    )
    negatives_per_query: int = Field(8, ge=0, le=1000, description="negatives that a query gets in a step, drawn afresh each epoch")
    miner: Literal["bm25", "encoder"] = Field(
        "bm25", description="what hard negatives are mined with: BM25, or the encoder before training"
    )
    false_negative_margin: float = Field(
        0.05, ge=0, lt=1, description="a mined passage that scores above (1 - this) times the relevant one is left out"
    )
    candidates: int = Field(
        100, ge=1, le=10000, description="BM25 passages per query of a retrieval collection that a cross-encoder ranks again"
    )
    clip: tuple[float, float] | None = Field(None, description="least and greatest value that regression predicts, such as 0,5")
    constrain: bool = Field(True, description="tagging predicts only sequences of tags that the scheme allows")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over the labels")
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="weight of each label in the loss; balanced: n / (labels x count)"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW with bias correction, or SGD with momentum")
    lr: float = Field(5e-5, gt=0, le=10, description="peak learning rate")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="decoupled weight decay; norms and biases are spared")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="how the learning rate falls after warm-up")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps in which the learning rate rises from zero")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0: not at all")
    epochs: int = Field(3, ge=1, le=10000, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, le=65536, description="rows per optimizer step")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="most tokens in memory at once; a larger batch is worked off in parts with the same gradient; unless told as many as "
        "take 1 GB while the encoder is trained",
    )

    # choosing and stopping
    metric: str | None = Field(None, description="validation metric that chooses the checkpoint, such as accuracy, f1_macro, log_loss")
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without improvement")
    eval_steps: int | None = Field(None, ge=1, description="evaluate every so many steps, besides each epoch's end")

    # run
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random draw")
    out: str | None = Field(None, description="model directory to write")
    replay_rows: int = Field(1000, ge=0, description="training rows kept, with test rows, for updates of the model; 0: no rows at all")
    checkpoint_minutes: float = Field(5.0, gt=0, description="time between checkpoints; one is also written at each epoch's end")
    checkpoint_steps: int | None = Field(None, ge=1, description="steps between checkpoints, besides the above")

    @field_validator("lr", "focal_gamma", "max_grad_norm", "weight_decay", "checkpoint_minutes", "temperature")
    @classmethod
    def _finite(cls, value: float) -> float:
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{value} is not a finite number")
        return value

    @field_validator("clip", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        """Read `0,5`, as a range is written on the command line."""
        if value is None:
            return None
        try:
            low, high = map(float, value.split(",") if isinstance(value, str) else value)
        except (TypeError, ValueError):
            low = high = 0.0
        if not -float("inf") < low < high < float("inf"):
            raise ValueError(f"{value!r:.80} is not two numbers, the lesser first. Example: '0,5'")
        return low, high

    @field_validator("class_weights", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """Read `spam=5,ham=1`, as weights are written on the command line."""
        if not isinstance(value, str) or "=" not in value:
            return value
        pairs = {}
        for pair in value.split(","):
            label, _, weight = pair.rpartition("=")
            try:
                pairs[label.strip()] = float(weight)
            except ValueError:
                raise ValueError(f"{pair!r} is not LABEL=NUMBER. Example: 'spam=5,ham=1'") from None
        return pairs

    @field_validator("class_weights")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, dict) and any(not (0 < weight < float("inf")) for weight in value.values()):
            raise ValueError("weights must be numbers above 0")
        return value

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str | None) -> str | None:
        from tunesmith.metrics import METRICS

        known = list(dict.fromkeys(name for names in METRICS.values() for name in names))
        if value is not None and value not in known:
            raise ValueError(f"{value!r} is not one of {listing(known, 40)}.{did_you_mean(value, known)}")
        return value

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        known = ["auto", *registry.names()]
        if value not in known:
            raise ValueError(f"{value!r} is not one of {listing(known, 40)}.{did_you_mean(value, known)}")
        return value

    @property
    def tokens_at_once(self) -> int:
        """Most tokens in memory at once where nothing is trained."""
        return 16384 if self.max_tokens is None else self.max_tokens

    @property
    def columns(self) -> dict[str, Any]:
        """What `guess_schema` is told of text and label columns."""
        return {"text": self.text, "text_pair": self.text_pair, "label": self.label}

    def is_told(self, name: str) -> bool:
        """Whether a setting is another than the usual one."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def _content(self) -> dict[str, Any]:
        """Every setting that changes the trained weights."""
        others = {"out", "checkpoint_minutes", "checkpoint_steps", "train", "valid", "test", "replay_rows"}
        values = self.model_dump(mode="json", exclude=others)
        if Path(self.model).is_dir():
            values["model"] = str(Path(self.model).resolve())
        return values

    def content_hash(self) -> str:
        """Return a digest of every setting that changes the trained weights; a checkpoint resumes only under an equal one."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()[:16]

    def changes_from(self, other: Config) -> list[str]:
        """Return words on each setting by which `content_hash` differs from that of `other`: what it was there, and is here."""
        before, now = other._content(), self._content()
        return [f"{setting(name)} was {_told(before[name])}, now {_told(now[name])}" for name in now if before[name] != now[name]]


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return repr(",".join(f"{label}={weight:g}" for label, weight in value.items()))
    return "not set" if value is None else repr(value)


class Recipe(dict[str, Any]):
    """The settings of a recipe file, which knows its `path` for messages."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.path = path


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
    for key in ("train", "valid", "test", "out"):
        if isinstance(values.get(key), str):
            values[key] = os.path.normpath(path.parent / values[key])
    model = values.get("model")
    if isinstance(model, str) and (path.parent / model).is_dir():
        values["model"] = str(path.parent / model)
    return Recipe(path, values)


def resolve(*layers: Mapping[str, Any]) -> Config:
    """Merge settings, later layers over earlier ones, and check them all.

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
        told: dict[str, Any] = {}
        for fault in error.errors():
            name = str(fault["loc"][0])
            if name not in told or len(fault["loc"]) > len(told[name]["loc"]):
                told[name] = fault
        wrong = sorted(told, key=list(Config.model_fields).index)
        faults.extend(_sentence(told[name], recipes) for name in wrong)
        config = Config(**{key: value for key, value in merged.items() if key not in wrong})
    faults.extend(_clashes(config, set(wrong), recipes))
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


def _clashes(config: Config, wrong: set[str], recipes: Mapping[str, Path]) -> Iterator[str]:
    """Yield the faults of settings that are right one by one but not together; those in `wrong` have been named already."""

    def both(one: str, two: str) -> tuple[str, str]:
        # the recipe is named once where both are in it
        return _place(one, recipes), two if one in recipes and two in recipes else _place(two, recipes)

    sizes = (config.valid_size if config.valid is None else 0) + (config.test_size if config.test is None else 0)
    if wrong.isdisjoint(("valid_size", "test_size")) and sizes >= 1:
        yield "{} and {} together leave no training rows; their sum must be below 1".format(*both("valid_size", "test_size"))
    if wrong.isdisjoint(("stride", "max_length")) and config.truncation == "windows" and config.stride >= config.max_length - 2:
        stride, length = both("stride", "max_length")
        yield f"{stride} {config.stride} must be at least 3 below {length} {config.max_length}, or windows would not move forward"
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
    for one, two in combinations(("text", "text_pair", "label", "group"), 2):
        column = getattr(config, one)
        if column is not None and column == getattr(config, two):
            yield "{} and {} name the same column {!r}".format(*both(one, two), column)


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
    hint = did_you_mean(found, _options(name)) if isinstance(found, str) else ""
    return f"{where} is {found!r:.80}; it must be {_allowed(name)}.{hint}"


def _kinds(name: str) -> list[Any]:
    """The types and `Literal`s of a setting's values, None left out."""
    annotation = Config.model_fields[name].annotation
    several = () if get_origin(annotation) is Literal else get_args(annotation)
    return [kind for kind in several or (annotation,) if kind is not type(None)]


def _options(name: str) -> list[str]:
    """The words that a setting can be, none when it can be any."""
    return [option for kind in _kinds(name) if get_origin(kind) is Literal for option in get_args(kind)]


def _allowed(name: str) -> str:
    """Return in words which values a setting takes."""
    kinds, rules = _kinds(name), Config.model_fields[name].metadata
    words = list(map(repr, _options(name)))
    if name == "class_weights":
        words.append("weights by label, such as 'spam=5,ham=1'")
    if words:
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
    return f"{number} " + " and ".join(f"{limits[key]} {bound:,}" for key, bound in bounds.items())
