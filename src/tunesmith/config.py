"""The settings of a run: one flat, frozen object from defaults, a TOML recipe and flags, checked as a whole.

A setting has one name everywhere: `max_length` in Python and in a recipe, `--max-length` on the command line.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, StringConstraints, field_validator, model_validator

from tunesmith import registry, strategies
from tunesmith.errors import did_you_mean, listing, setting
from tunesmith.prompts import parse

FILES = ("train", "valid", "test")
"""The settings that name files of rows."""
Truncation = Literal["head", "tail", "head-tail", "windows"]
Pooling = Literal["auto", "cls", "mean", "max", "attention"]
Aggregation = Literal["mean", "max"]
DEVICE = r"^cuda:(0|[1-9]\d?)$"
"""A GPU by its number."""
Precision = Literal["auto", "fp32", "bf16"]
LabelType = Literal["auto", "single", "multi"]
Scheme = Literal["auto", "bio", "bioes", "bmes", "bilou", "io", "none"]

_TIME = re.compile(r"(?=.*[1-9])\d+(\.\d+)?[smh]")
_NOT_OF_THE_WEIGHTS = {
    "out", "checkpoint_minutes", "checkpoint_steps", "train", "valid", "test", "budget", "features_gb", "features_dir", "merge",
    "replay_rows", "device",
}  # fmt: skip


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
        "auto",
        description="how token vectors become one; cls uses the head that transformers knows (last token for decoders); auto: cls, mean "
        "where the encoder is not trained",
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout of the encoder and head; unless told the checkpoint's own")
    attention_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout of attention (packed: of its keys; padded: of its weights); unless told the checkpoint's own",
    )
    precision: Precision = Field("auto", description="arithmetic of training; auto takes bf16 where the device is faster in it")
    device: Literal["auto", "cpu", "cuda"] | Annotated[str, StringConstraints(pattern=DEVICE)] = Field(
        "auto",
        description="what computes: cpu, cuda, or cuda:N for GPU number N; auto: the GPU where torch finds one",
    )
    engine: Literal["auto", "packed", "padded"] = Field(
        "auto", description="how the encoder runs: without padding (auto where its architecture allows), or as transformers runs it"
    )

    # what is trained
    tuning: str = Field("full", description="what is trained of the encoder besides the head; see docs/strategies.md")
    budget: str | None = Field(None, description="auto: how long the ways may take that are tried, such as 90s, 5m or 2h")
    layer_decay: float = Field(0.9, gt=0, le=1, description="layerwise: a layer's learning rate is this times that of the layer above")
    unfreeze: int = Field(0, ge=0, le=200, description="layerwise: layers that begin to train in each epoch, from the top; 0: all at once")
    reinit: int = Field(0, ge=0, le=200, description="layerwise: last layers whose weights are drawn anew before training")
    features: Literal["auto", "fp32", "bf16", "off"] = Field(
        "auto", description="number format in which outputs of frozen layers are kept; auto: that of training; off: computed every epoch"
    )
    features_gb: float = Field(20.0, gt=0, description="disk space for outputs of frozen layers; what needs more is computed every epoch")
    features_dir: str | None = Field(
        None, description="directory in which outputs of frozen layers are kept, in tunesmith-features; the cache unless told"
    )
    rank: int = Field(8, ge=1, le=1024, description="lora, dora: rank of the update of each weight")
    lora_alpha: int = Field(16, ge=1, le=65536, description="lora, dora: an update is scaled by this divided by the rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="lora, dora: dropout before an update's first layer")
    targets: str | None = Field(
        None, min_length=1, description="lora, dora: names of the linear layers that get an update, such as query,value; unless told all"
    )
    merge: bool = Field(
        True, description="lora, dora, ia3: save the encoder with the updates added to it; no: only the updates, which need their encoder"
    )
    bottleneck: int = Field(64, ge=1, le=8192, description="adapter: width between its two layers")
    virtual_tokens: int = Field(20, ge=1, le=512, description="prompt, ptuning, prefix: virtual tokens before each text")

    method: Literal["labels", "cloze", "nearest"] = Field(
        "labels",
        description="tuning none: texts are compared with descriptions of labels (labels) or with labelled examples (nearest), or a word "
        "of a label is put into a gap (cloze)",
    )
    prompts: dict[str, list[str]] | None = Field(
        None, description="tuning none: what each label means, or its words for the gap: a TOML file, or 'label=words,label=words'"
    )
    template: str | None = Field(
        None,
        min_length=1,
        description="tuning none: sentences in which a description stands, as 'This is about {}.', several with | between; or with cloze "
        "one in which the text stands, as '{} It was [MASK].'",
    )
    neighbours: int = Field(8, ge=1, le=10000, description="tuning none: how many of the nearest examples vote")

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
    r_drop: float = Field(0.0, ge=0, le=1000, description="R-Drop: weight of the divergence of two passes with other dropout masks; 0: off")
    fgm: float = Field(0.0, ge=0, le=1000, description="FGM: length of the adversarial noise on a sequence's word embeddings; 0: off")
    multi_sample_dropout: int = Field(1, ge=1, le=1000, description="dropout masks before the last layer, whose mean loss is taken; 1: off")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of a moving average of the weights, which is evaluated and saved in their place; 0: off"
    )
    average: int = Field(1, ge=1, le=1000, description="so many evaluations' weights, the last ones, are averaged; 1: off")
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="weight of each label in the loss; balanced: n / (labels x count)"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW with bias correction, or SGD with momentum")
    lr: Annotated[float, Gt(0), Le(10)] | Literal["find"] = Field(
        5e-5,
        description="peak learning rate; find: a probe before the training compares a few on the validation rows",
    )
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
        description="most tokens in memory at once; a larger batch is worked off in parts with the same gradient, but for dropout, whose "
        "masks differ; unless told as many as take 1 GB while the encoder is trained, on a GPU 4 GB",
    )

    # choosing and stopping
    folds: int | None = Field(
        None, ge=2, le=1000, description="cross-validation: this many trainings first, each tested on another part of the rows"
    )
    metric: str | None = Field(None, description="validation metric that chooses the checkpoint, such as accuracy, f1_macro, log_loss")
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without improvement")
    eval_steps: int | None = Field(None, ge=1, description="evaluate every so many steps, besides each epoch's end")

    # run
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random draw")
    out: str | None = Field(None, description="model directory to write")
    replay_rows: int = Field(1000, ge=0, description="training rows kept, with test rows, for updates of the model; 0: no rows at all")
    checkpoint_minutes: float = Field(5.0, gt=0, description="time between checkpoints; one is also written at each epoch's end")
    checkpoint_steps: int | None = Field(None, ge=1, description="steps between checkpoints, besides the above")

    @model_validator(mode="wrap")
    @classmethod
    def _usual(cls, values: Any, check: ModelWrapValidatorHandler[Config]) -> Config:
        """Take what suits the way of tuning where nothing is told."""
        told = {name: value for name, value in values.items() if (name, value) != ("pooling", "auto")}
        config = check({"pooling": "cls", **strategies.usual(told.get("tuning")), **told})
        config.model_fields_set.intersection_update(told)
        return config

    @field_validator("lr", "focal_gamma", "max_grad_norm", "weight_decay", "checkpoint_minutes", "temperature", "features_gb")
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

    @field_validator("prompts", mode="before")
    @classmethod
    def _said(cls, value: Any) -> Any:
        return parse(value)

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

    @field_validator("budget")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None and _TIME.fullmatch(value) is None:
            raise ValueError(f"{value!r} is no time. Write a number of seconds, minutes or hours: '90s', '5m', '2h'")
        return value

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds."""
        return None if self.budget is None else float(self.budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.budget[-1]]

    @field_validator("tuning")
    @classmethod
    def _known_tuning(cls, value: str) -> str:
        strategies.parse(value)
        return value

    @property
    def peak_lr(self) -> float:
        """The learning rate, which is a number wherever something is trained: `lr_find` has put one in the place of "find"."""
        assert self.lr != "find", "the rate is looked for before anything is trained"
        return float(self.lr)

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
        values = self.model_dump(mode="json", exclude=_NOT_OF_THE_WEIGHTS)
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

    def files_changed_from(self, other: Config) -> list[str]:
        """Return words on each file of rows that both name, in different places."""
        pairs = [(name, getattr(other, name), getattr(self, name)) for name in FILES]
        moved = [pair for pair in pairs if None not in pair and Path(pair[1]).absolute() != Path(pair[2]).absolute()]
        return [f"{setting(name)} was {old}, now {new}" for name, old, new in moved]


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return repr(",".join(f"{label}={weight:g}" for label, weight in value.items()))
    return "not set" if value is None else repr(value)
