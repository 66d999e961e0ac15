"""Updating a model with corrected or new rows: trained on beside a sample of the old rows, and kept only if the old test allows it."""

from __future__ import annotations

import contextlib
import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tunesmith import strategies
from tunesmith.bundle import Bundle
from tunesmith.config import Config
from tunesmith.errors import Interrupted, StorageError, UpdateRefused, UsageError, listing, setting
from tunesmith.feedback import Feedback, feedback_of
from tunesmith.finishing import finish
from tunesmith.fitting import fit
from tunesmith.gate import Gate, record_of
from tunesmith.lineage import LINEAGE, VERSIONS, digest_of, lineage, next_number, note, numbered, settle, story
from tunesmith.model.devices import choose_device
from tunesmith.model.growth import grow_outputs
from tunesmith.model.heads import TextModel
from tunesmith.model.names import Located
from tunesmith.model.pretrained import Pretrained, open_pretrained
from tunesmith.places import DESCRIPTION
from tunesmith.prepare import Prepared, say_data
from tunesmith.progress import QUIET, Progress
from tunesmith.resolve import resolve
from tunesmith.rundir import CHECKPOINTS
from tunesmith.seeds import seed_for
from tunesmith.start import Start
from tunesmith.storage import LOCK, UNFINISHED, locked, new_directory, sweep
from tunesmith.tasks.base import Task
from tunesmith.training.distillation import Distilling
from tunesmith.updatable import NEXT, check_updatable
from tunesmith.versions import adopt, check_top, publish, recover

SETTINGS = (
    "text", "text_pair", "label", "group", "encoding", "drop_unlabelled", "valid_size", "test_size",
    "epochs", "lr", "batch_size", "seed", "schedule", "warmup", "optimizer", "weight_decay", "momentum", "max_grad_norm", "precision",
    "device", "engine", "max_tokens", "metric", "patience", "eval_steps", "replay_rows", "checkpoint_minutes", "checkpoint_steps",
)  # fmt: skip
"""What an update may be told; all else is as the model was trained."""
_OF_THE_DATA = ("train", "valid", "test", "out", "text", "text_pair", "label", "group", "encoding", "drop_unlabelled", "valid_size",
                "test_size", "dedupe", "folds", "reinit")  # fmt: skip
_ENDED = ("lora", "dora", "ia3", "fewshot")  # ways of tuning whose model is trained on as one whose weights are all trained


@dataclass(frozen=True)
class UpdateResult:
    """An update that was accepted: the model directory and the version that it now is, `record`: what the lineage says of it."""

    directory: Path
    version: int
    record: dict[str, Any]
    result: dict[str, Any]

    @property
    def bundle(self) -> Bundle:
        """The updated model, ready to predict."""
        return Bundle.load(self.directory)


def update(
    directory: Path | str,
    data: Any,
    *,
    test: Any = None,
    margin: float = 0.01,
    distill: float | None = None,
    force: bool = False,
    out: Path | str | None = None,
    keep_refused: Path | str | None = None,
    resume: bool = False,
    progress: Progress = QUIET,
    settings: dict[str, Any] | None = None,
) -> UpdateResult:
    """Train the model in `directory` further on the rows of `data` and make the result its new version, unless the old test forbids it.

    data: labelled rows, a path or a table; labels that the model does not know become new ones
    test: rows whose score may not fall, in place of those that were kept at training
    margin: by how much the metric may fall on them, in its own unit, at least 0
    distill: weight of the term that holds outputs on new rows where they were; None: 1 where none of the old training are replayed, else 0
    force: accept whatever the test says, or without any
    out: write the updated model there and leave `directory` as it is; keep_refused: write a refused one there
    resume: go on with an update that was interrupted; settings: those of `SETTINGS`

    Raises `UpdateRefused` when the score falls by more, and what `recipe.train` raises; `directory` is then as it was.
    """
    directory = Path(directory)
    given = settings if settings is not None else {}
    _check_arguments(given, margin, distill, force=force, keep_refused=keep_refused)
    check_updatable(directory, Path(out) if out is not None else None, resume=resume)
    if not (directory / DESCRIPTION).is_file():
        Bundle.load(directory)  # raises, before anything is made
    root = Path(out) if out is not None else directory
    work = root / VERSIONS / NEXT
    with locked(root / VERSIONS):
        try:
            if out is None:
                _made_ready(directory, progress)
            digest = digest_of(directory)
            bundle = Bundle.load(directory)
            if digest is None or digest_of(directory) != digest:
                raise StorageError(f"{directory} became another model while it was read. Start again.")
            config = _config_of(bundle, data, given, progress)
            if not resume:
                shutil.rmtree(work, ignore_errors=True)
            sweep(work, ".model.*", f".{DESCRIPTION}.*.tmp")
            sweep(work / CHECKPOINTS, *UNFINISHED)
            feedback = feedback_of(bundle, config, data, test, progress)
            if feedback.test is None and not force:
                raise UsageError(
                    f"{directory} keeps no test rows, so nothing says whether the update forgets. Name labelled rows to test it on with "
                    f"{setting('test', 'FILE')}, or update without that with {setting('force', True)}."
                )
            run = _Run(bundle, digest, config, feedback, root, margin, force, keep_refused is not None, distill, progress)
            return _settled(run, run.fit(work, resume), work, keep_refused)
        except BaseException:
            _tidy(root, created=out is not None)
            raise


def _made_ready(directory: Path, progress: Progress) -> None:
    """Finish what was cut off in a model directory that is to be updated, and see that its current version is whole."""
    recover(directory)
    check_top(directory)
    if not (directory / VERSIONS / LINEAGE).is_file():
        return
    settle(directory)
    for number in story(directory)["waiting"]:
        progress.say(
            f"note: version {number} of {directory} was accepted and never became the current one; this update goes on from the current "
            f"one. In its place: tunesmith rollback {directory} --to {number}"
        )


@dataclass
class _Run:
    """One update while it is trained."""

    bundle: Bundle
    digest: str
    config: Config
    feedback: Feedback
    root: Path
    margin: float
    force: bool
    keeps_refused: bool
    distill: float | None
    progress: Progress
    record: dict[str, Any] | None = None

    @property
    def in_place(self) -> bool:
        return self.root == self.bundle.directory

    def fit(self, work: Path, resume: bool) -> dict[str, Any]:
        """Train, judge and save into `work`; returns the report's content."""
        bundle, feedback, config = self.bundle, self.feedback, self.config
        gate = Gate.before(bundle.model, feedback, config, self.progress)
        task = feedback.task.settle(feedback.parts["train"].rows, config)
        task = task.go_on(bundle.model, feedback.task)
        weight = self.distill if self.distill is not None else float(not feedback.replayed)
        former = copy.deepcopy(bundle.model) if weight else None  # before it grows: the outputs of new labels are held to nothing
        if task.labels:
            bias = task.first_bias(feedback.parts["train"].rows)
            grow_outputs(bundle.model, task.labels, seed=seed_for(config.seed, "new labels"), bias=bias)
        dropout = getattr(bundle.model.head, "dropout", None)  # of a head of our own, which prediction loads without
        if dropout is not None:
            usual = float(getattr(bundle.model.encoder.config, "hidden_dropout_prob", 0.1))
            dropout.p = config.dropout if config.dropout is not None else usual
        if weight:
            why = "" if self.distill is not None else "no rows of the old training are trained on again: "
            self.progress.say(f"{why}the outputs of the model before on the new rows are targets, too (distillation, weight {weight:g})")

        def learner(task: Task, precision: str) -> Task:
            return task if former is None else cast(Task, Distilling(task, former.to(bundle.model.encoder.device), weight, precision))

        def judge(model: TextModel, task: Task, result: dict[str, Any]) -> None:
            if self.in_place and digest_of(bundle.directory) == self.digest:
                adopt(bundle.directory)
            parent = numbered(lineage(bundle.directory)["versions"], self.digest)
            scores = gate.after(model, task)
            told: dict[str, Any] = {
                "parent": parent,
                "version": next_number(self.root),
                "distillation": weight,
                "given": config.model_dump(mode="json"),
            }
            self.record = record_of(feedback, scores, self.margin, gate.metric, force=self.force, **told)
            result["update"], result["name"] = self.record, self.root.name
            if self.record["decision"] == "refused" and not self.keeps_refused:
                raise self.refusal()

        prepared = Prepared(_pretrained(bundle), bundle.encoder, task, feedback.parts, feedback.dropped, feedback.notes)
        say_data(prepared, self.progress)
        identity = f"{self.digest} {weight}"
        how = f"The model in {bundle.directory} is as it was. Go on with the same command and {setting('resume', True)}."
        kept = feedback.kept
        start = Start(bundle.model, identity, how, learner, judge, kept, bundle.description.get("seen"))
        try:
            fitted = fit(config, prepared, work, None, self.progress, resume=resume, start=start)
            return finish(config, prepared, fitted, work, {}, self.progress, start=start)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped at once; what the last checkpoint holds is saved. {how}") from None
        except UpdateRefused:
            if self.in_place:
                note(self.root, {"event": "refused", **(self.record or {})})
            shutil.rmtree(work, ignore_errors=True)
            raise

    def refusal(self) -> UpdateRefused:
        """Return the error that says what was refused, and what to do."""
        assert self.record is not None
        return UpdateRefused(
            f"the update is refused: {self.record['reason']} {self.bundle.directory} is as it was. Look at the labels of the new rows, add "
            f"old rows to them, train with a lower {setting('lr')} or fewer {setting('epochs')}, allow more with {setting('margin')}, or "
            f"take it as it is with {setting('force', True)}.",
            self.record,
        )


def _settled(run: _Run, result: dict[str, Any], work: Path, keep_refused: Path | str | None) -> UpdateResult:
    """Put the trained candidate where it belongs."""
    record = run.record
    assert record is not None
    if record["decision"] == "refused":
        assert keep_refused is not None
        with new_directory(Path(keep_refused), replace=False) as place:
            shutil.copytree(work, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CHECKPOINTS))
        shutil.rmtree(work, ignore_errors=True)
        if run.in_place:
            note(run.root, {"event": "refused", **record, "kept_in": str(keep_refused)})
        raise run.refusal()
    entry = dict(record)
    if not run.in_place:
        entry |= {"parent": None, "from": {"directory": str(run.bundle.directory.absolute()), "version": record["parent"]}}
    number = publish(run.root, work, entry, over=run.digest if run.in_place else None)
    return UpdateResult(run.root, number, record, result)


def _check_arguments(given: dict[str, Any], margin: float, distill: float | None, *, force: bool, keep_refused: Path | str | None) -> None:
    faults = []
    fixed = [name for name in given if name not in SETTINGS]
    if fixed:
        are = "is" if len(fixed) == 1 else "are"
        faults.append(
            f"{listing(map(setting, fixed))} {are} not for an update to change; it can be told {listing(map(setting, SETTINGS), 40)}"
        )
    if not 0 <= margin < float("inf"):
        faults.append(f"{setting('margin')} is {margin}; it must be a number of at least 0")
    if distill is not None and not 0 <= distill <= 1000:
        faults.append(f"{setting('distill')} is {distill}; it must be a number from 0 to 1,000")
    if force and keep_refused is not None:
        faults.append(f"{setting('force')} and {setting('keep_refused')} exclude each other: nothing is refused then")
    if keep_refused is not None and Path(keep_refused).exists():
        faults.append(f"{setting('keep_refused')} names {keep_refused}, which is there already; name a new directory")
    if faults:
        raise UsageError(*faults)


def _config_of(bundle: Bundle, data: Any, given: dict[str, Any], progress: Progress) -> Config:
    """Return the settings of the update: those that the model was trained with, and those that are given."""
    stored = dict(bundle.description["result"]["recipe"])
    stored.pop("device", None)  # the machine of the update may be another
    way = str(stored.get("tuning", "full")).partition(":")[0]
    if way in _ENDED:
        # what suits that way may not suit training all weights; how the head reads is the model's own
        suited = {name for name, value in strategies.usual(way).items() if name != "pooling" and stored.get(name) == value}
        for name in ("tuning", "lr", *suited, *strategies.special_settings()):
            stored.pop(name, None)
        progress.say(f"the model was tuned by {way}; the update trains all of its weights, as is usual for that unless told.")
    kept = {key: value for key, value in stored.items() if value is not None and key not in _OF_THE_DATA and key in Config.model_fields}
    config = resolve(kept, {"train": str(data)} if isinstance(data, str | Path) else {}, given, told=given)
    choose_device(config.device)
    if config.lr == "find":
        raise UsageError(f"{setting('lr', 'find')} is for the training of a new model. Name a rate.")
    return config


def _pretrained(bundle: Bundle) -> Pretrained:
    """Return the model as something to go on from, under the name of the encoder that it was made from."""
    found = open_pretrained(str(bundle.directory))
    located = Located(bundle.description["result"]["base_model"], found.located.place, found.located.kind)
    return Pretrained(located, found.config, found.tokenizer)


def _tidy(root: Path, *, created: bool) -> None:
    """Leave nothing of an update that ended without a checkpoint, while its lock is held."""
    versions = root / VERSIONS
    work = versions / NEXT
    if not any((work / CHECKPOINTS).glob("step-*")) and not (work / DESCRIPTION).is_file():
        shutil.rmtree(work, ignore_errors=True)
    if not any(path.name != LOCK for path in versions.iterdir()):
        # whoever has locked the directory since keeps it from being removed
        with contextlib.suppress(OSError):
            (versions / LOCK).unlink()
            versions.rmdir()
            if created:
                root.rmdir()
