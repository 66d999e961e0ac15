"""What a task is: everything in which one kind of learning differs from another. A task is implemented once and not subclassed.

S sequences, T tokens, E examples, C outputs, R rows of combined outputs (E, or as many as a task takes for its examples).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from tunesmith.config import Config
from tunesmith.data.audit_types import Finding
from tunesmith.data.batches import PackedBatch, pack, split_by_tokens
from tunesmith.data.schema import Example, RowSource, Schema
from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded, ExampleEncoder, TextEncoder, Truncation
from tunesmith.errors import UsageError, listing, setting
from tunesmith.metrics import METRICS
from tunesmith.model.devices import indices
from tunesmith.model.spec import HeadSpec
from tunesmith.progress import QUIET, Progress
from tunesmith.tasks.divergences import of_choices
from tunesmith.tasks.rows import Part, Ragged, Rows, Targets

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.model.heads import TextModel
    from tunesmith.model.pretrained import Pretrained


Measured = tuple[int, Callable[[np.ndarray], np.ndarray]]
"""U units that a test judges, such as rows, and a metric on resamples: from float64[R, U], how often each is drawn, to float64[R]."""


@dataclass(frozen=True)
class Hub:
    """What the model card says of a task.

    pipeline_tag, title, tags: as the Hugging Face Hub calls it
    does: what the model was fine-tuned for
    given, shown: Python for what `predict` is given, and for what is printed of a prediction
    piped, options: Python for what transformers' pipeline is given, and further arguments to make it; piped is empty where it has none
    pipe: the pipeline's name in transformers where that is not the Hub's
    sentence_transformers: Python for sentence-transformers, where it opens the model
    made: what was done to the encoder
    """

    pipeline_tag: str
    title: str
    does: str
    given: str
    shown: str
    piped: str = ""
    options: str = ""
    tags: list[str] = field(default_factory=list)
    pipe: str = ""
    sentence_transformers: str = ""
    made: str = "fine-tuned"


class Task(ABC):
    """One kind of thing to learn, fitted to its training rows.

    name: what the task is called in recipes, reports and `tunesmith.json`
    kind: the key of `metrics.METRICS` whose metrics apply
    labels: the labels in the order of the outputs; empty for a task without
    head: what is put on the encoder
    target_word: what a row's target is called in messages

    added: the columns that prediction adds to a row; bulky: those of them that a flat file has on demand only
    """

    name: str
    kind: Any
    labels: list[str]
    added: ClassVar[tuple[str, ...]]
    bulky: ClassVar[frozenset[str]] = frozenset()
    target_word: ClassVar[str] = "label"
    fixed_sequences: ClassVar[bool] = True
    """Whether every epoch goes through the sequences of the token tables, as they are there."""
    few_shot: ClassVar[bool] = False
    """Whether the encoder can be tuned by comparing rows of equal and of different labels."""
    reads_context: ClassVar[bool] = False
    """Whether the text around an example can be read along."""

    # --- the data ----------------------------------------------------------------------------------------------------------

    @classmethod
    def encoding(cls, config: Config) -> dict[str, Any]:
        """Return the settings that `encoder` takes beside truncation, as plain values, which `tunesmith.json` keeps."""
        return {}

    @classmethod
    def encoder(
        cls, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None, schema: Schema, **settings: Any
    ) -> ExampleEncoder:
        """Return what turns examples into token sequences; settings: those of `encoding`."""
        return TextEncoder(tokenizer, truncation, fallback_token, pairs=schema.pair)

    @classmethod
    @abstractmethod
    def learn(cls, table: TokenTable, config: Config) -> Self:
        """Fit the task to all rows of the training file, and to the settings. Raises `DataError`."""

    @abstractmethod
    def targets(self, table: TokenTable) -> Targets:
        """Return the targets of a table's rows. Raises `DataError` that names the row for one that was not learned or is none."""

    def settle(self, rows: Rows, config: Config) -> Self:
        """Return the task with what is learned of the training rows alone, after the split."""
        return self

    def bind(self, tokenizer: Any, encoder: Any) -> Self:
        """Return the task that knows transformers' tokenizer of its model, and its `ExampleEncoder`, for a task that looks at tokens."""
        return self

    def remarks(self, rows: Rows) -> list[str]:
        """Return what the user should know of the training rows before they are split, a sentence or two each."""
        return []

    def cautions(self, rows: Rows) -> list[str]:
        """Return what the user should know of rows that the model is tested on, a sentence or two each."""
        return []

    def own(self, part: Part) -> Part:
        """Return `part` without the rows that are there for other rows' sake only, such as a collection that is searched."""
        return part

    def gaps(self, rows: Rows) -> list[str]:
        """Return what cannot be learned as the training rows that are left after the split lack it."""
        return []

    together: ClassVar[str] = ""
    """What `groups` keeps on one side of a split, as messages call it."""

    def groups(self, rows: Rows) -> np.ndarray | None:
        """Return uint64[E], equal for rows that a split must not part, unless the user says by which column; None for none."""
        return None

    @classmethod
    def examine(cls, source: RowSource, schema: Schema) -> list[Finding]:
        """Return what an audit of `source` finds beside what it finds in the data of any task."""
        return []

    @classmethod
    def advice_on_missing(cls, table: TokenTable, config: Config) -> str:
        """Return a sentence on how a row without a target is written on purpose; empty when it cannot be."""
        return ""

    # --- the network -------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def head(self) -> HeadSpec: ...

    @property
    def outputs_a_token(self) -> float:
        """How many outputs of the head a token has on average in training; 0 where only whole texts have some."""
        return float(self.head.outputs) if self.head.per_token else 0.0

    def arrange(self, rows: Rows) -> Rows:
        """Return the rows as training and evaluation go through them: themselves, or sequences made of them."""
        return rows

    def gather(self, examples: Sequence[Encoded], *, judged: bool) -> PackedBatch:
        """Return the batch of whole examples that are predicted; `judged`: by `score`, from arranged rows."""
        return pack(examples)

    def batch(self, rows: Rows, chosen: np.ndarray, seed: int) -> PackedBatch:
        """Return the batch of examples `chosen`, int[E] in the table, for training; `seed` is of everything that is drawn."""
        return pack([rows.table.example(row) for row in chosen.tolist()], rows.targets.take(chosen))

    def planned(self, part: Part, pretrained: Pretrained, encoder: ExampleEncoder, config: Config, progress: Progress) -> tuple[Self, Rows]:
        """Return the task ready to make batches of the training rows, and the rows that stand for its examples in the plan of steps."""
        return self, self.arrange(part.rows)

    def tokens_an_example(self, rows: Rows) -> float:
        """Return how many tokens an example of the planned rows has on average."""
        return float(rows.table.kept[rows.index].mean())

    def batches(self, rows: Rows, chosen: np.ndarray, seed: int, max_tokens: int) -> list[PackedBatch]:
        """Return the step of examples `chosen` in parts, each within `max_tokens` padded tokens or one example; see `batch`."""
        parts = split_by_tokens(rows.table.longest[chosen], rows.table.sequences[chosen], max_tokens)
        return [self.batch(rows, chosen[part], seed) for part in parts]

    @abstractmethod
    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Turn the head's outputs, float[S, C] or float[T, C], into float[R, C]; the same in training and prediction."""

    def sizes(self, batch: PackedBatch) -> np.ndarray:
        """Return int[E], how many of the R rows of combined outputs each example of `batch` has."""
        return np.ones(batch.size, np.int64)

    @abstractmethod
    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[n] from combined outputs float[R, C]: values whose sum, divided by `batch.parts`, is the loss of the batch."""

    def divergence(self, one: Tensor, other: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[n], how far two runs' outputs of the head lie apart: like those of `loss`, their sum is divided by `batch.parts`.

        one, other: float[S, C] or float[T, C]; combined outputs of all parts of a step where `joint`
        Unless the task says otherwise every row of combined outputs is a choice of one.
        """
        return of_choices(self.combine(one, batch), self.combine(other, batch))

    def first_bias(self, rows: Rows) -> np.ndarray | None:
        """Return float32[C], what the last layer's bias should begin with; None to leave it at 0."""
        return None

    @property
    def joint(self) -> bool:
        """Whether the loss is of all examples of a step together, so that `loss` wants its parts put together."""
        return False

    def finish(self, model: TextModel) -> Self:
        """Change a trained model for good before it is tested and saved, and return the task that goes with it."""
        return self

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return float32[E, C], every label's probability by outputs float32[E, C]. Raises `UsageError` for a task without labels a row."""
        raise UsageError(f"a model for {self.name} has no probabilities of labels; use predict.")

    # --- judging -----------------------------------------------------------------------------------------------------------

    def reduced(self, outputs: Ragged, rows: Rows) -> Ragged:
        """Return what judging needs of the combined outputs of some arranged rows; the outputs themselves are not kept.

        Everything unless the task says otherwise. Where outputs are not finite, part of what is returned is not either.
        """
        return outputs

    @property
    @abstractmethod
    def default_metric(self) -> str:
        """The validation metric that chooses the checkpoint unless another is named."""

    def judged(self, part: Part) -> Part:
        """Return `part` with all rows that the model must have run on before the part can be judged."""
        return part

    def computable(self, rows: Rows) -> Collection[str]:
        """Return the metrics that can be computed on `rows` whatever is predicted."""
        return METRICS[self.kind]

    @property
    def tunes(self) -> bool:
        """Whether `tune` may choose anything."""
        return False

    def tune(self, outputs: Ragged, part: Part) -> Self:
        """Return the task with what is chosen by the validation rows, such as thresholds; outputs as `reduced` leaves them."""
        return self

    @abstractmethod
    def score(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, float]:
        """Return the metrics of `outputs`, as `reduced` leaves them, for the rows of `part`, by name."""

    @abstractmethod
    def evaluation(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, Any]:
        """Return everything that the report says of `outputs`, as `reduced` leaves them, for the rows of `part`, as plain values.

        rows, metrics, intervals, per_label, confusion, calibration, mistakes as `metrics.evaluation` gives them; empty lists
        and None for what the task does not have.
        """

    needs_texts: ClassVar[bool] = True
    """Whether `yardsticks` reads the examples, and not the tables alone."""

    def yardsticks(
        self, train: Part, train_examples: list[Example], test: Part, test_examples: list[Example], pretrained: Pretrained, seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return name, note, metrics and intervals of what simple methods reach on the test rows. What it raises is told in their place."""
        return []

    # --- predicting --------------------------------------------------------------------------------------------------------

    needs_offsets: ClassVar[bool] = False
    """Whether `decode` looks at the characters that tokens come from."""

    def adjusted(self, **settings: Any) -> Self:
        """Return the task with other settings for prediction than it was trained with. Raises `UsageError` for those it has no use for."""
        if settings:
            raise UsageError(f"{listing(map(setting, settings))} changes nothing in a model for {self.name}. Leave it out.")
        return self

    @abstractmethod
    def decode(self, outputs: Ragged, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Iterator[Any]:
        """Yield one prediction for each example."""

    @abstractmethod
    def columns(self, prediction: Any, *, flat: bool) -> dict[str, Any]:
        """Return the values of the `added` columns; `flat` for files whose cells hold text only."""

    @abstractmethod
    def shown(self, prediction: Any, example: Example) -> list[str]:
        """Return lines that tell a person what was predicted, and whether it is what the row says."""

    def extra_files(self, model: TextModel) -> dict[str, Any]:
        """Return the content, as plain values, of files that other libraries want in the model directory, by their path in it."""
        return {}

    # --- going on with new rows --------------------------------------------------------------------------------------------

    def extended(self, table: TokenTable, config: Config) -> Self:
        """Return a task that was saved, ready to be trained on the rows of `table`, too.

        It gets the settings of training from `config`, and labels that only these rows have stand behind its own. Raises `DataError`.
        """
        return self

    def kept(self, example: Example, targets: Targets, row: int) -> Example:
        """Return `example`, number `row` among `targets`, with a target that says the same beside the rows of any other file."""
        return example

    def go_on(self, model: TextModel, before: Self) -> Self:
        """Return the task to train `model` on, whose outputs are those of the task `before` and become what the loss of this one wants."""
        return self

    def measured(self, outputs: Ragged, part: Part, metric: str) -> Measured | None:
        """Return how the metric that `evaluation` gives is computed on resamples of the rows; None where there is no quick way."""
        return None

    # --- being told and kept -----------------------------------------------------------------------------------------------

    @abstractmethod
    def hub(self, schema: Schema) -> Hub:
        """Return what the model card says of the task, learned from columns in the roles of `schema`."""

    @abstractmethod
    def sentence(self) -> str:
        """Return in a few words what is learned, such as "classification, one of 5 labels a row"."""

    def advice(self, config: Config) -> str:
        """Return how to say that another task or kind is meant, where it was recognised and not told; empty otherwise."""
        return ""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what `tunesmith.json` keeps to build the task again; `name` is the registry's."""

    @classmethod
    @abstractmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the task that `to_dict` described."""


def merge_windows(outputs: Tensor, batch: PackedBatch, aggregation: str) -> Tensor:
    """Merge outputs float[S, C] over each example's windows into float[E, C]; aggregation: mean or max."""
    if outputs.shape[0] == batch.size:
        return outputs
    windows = indices(np.bincount(batch.example, minlength=batch.size), outputs.device)
    return torch.segment_reduce(outputs, aggregation, lengths=windows, axis=0)
