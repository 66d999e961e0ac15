"""What a study was begun with, kept beside its database: settings, ranges, and a digest of the rows that every trial must see."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.config import Config
from tunesmith.errors import DataError, StorageError, UsageError, listing, setting
from tunesmith.prepare import Prepared
from tunesmith.resolve import from_here, resolve
from tunesmith.storage import write_json
from tunesmith.study.space import Range, read_space

PLAN, DATABASE, TRIALS, BEST, LOCK = "study.json", "study.db", "trials", "best.toml", ".study.lock"
Pruner = Literal["median", "hyperband", "none"]


@dataclass(frozen=True)
class Plan:
    """A study's settings and ranges.

    settings: those of every trial, as plain values, files by their absolute paths
    search: the ranges, as a recipe writes them
    metric: of the validation rows, by which trials are compared; greater: whether more of it is better
    trials: how many there will be; usual: whether the first takes the settings as they are
    data: digest of the rows, equal for all trials
    """

    settings: dict[str, Any]
    search: dict[str, Any]
    metric: str
    greater: bool
    trials: int
    pruner: Pruner
    usual: bool
    data: str

    def config(self, **values: Any) -> Config:
        """Return the settings of a trial that takes `values`."""
        return resolve(from_here(self.settings), values)

    def ranges(self) -> list[Range]:
        """Return what is searched."""
        return read_space(self.search, self.config(), "search:")

    def check_rows(self, prepared: Prepared) -> None:
        """Raise `DataError` when the rows are others than those that the study was begun with."""
        if digest_of(prepared) != self.data:
            raise DataError(
                f"{prepared.parts['train'].source.name}: the rows are others than those that the study was begun with, so its trials could "
                f"not be compared. Bring the former files back, or start anew with {setting('overwrite', True)}."
            )

    def write(self, directory: Path) -> None:
        """Keep the plan in `directory`."""
        write_json(directory / PLAN, dataclasses.asdict(self))

    @classmethod
    def read(cls, directory: Path) -> Plan:
        """Return the plan of the study in `directory`. Raises `UsageError` where there is none, `StorageError` for a damaged one."""
        path = directory / PLAN
        if not path.is_file():
            raise UsageError(
                f"there is nothing to resume in {directory}: it holds no {PLAN}. Leave {setting('resume')} out to start, "
                f"or name the right {setting('out')}."
            )
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(
                f"{path} cannot be read ({error}). Start anew with {setting('overwrite', True)} or another {setting('out')}."
            ) from None

    def check_same(self, directory: Path, config: Config, search: dict[str, Any] | None, pruner: str | None) -> None:
        """Raise `UsageError` when the attempt to go on with this study was told something else than it was begun with."""
        before = self.config()
        told = config if config.metric is not None else config.model_copy(update={"metric": self.metric})
        other = told.changes_from(before)
        other += config.files_changed_from(before)
        if search is not None and search != self.search:
            was, now = ({range_.name: str(range_) for range_ in read_space(specs, before, "search:")} for specs in (self.search, search))
            for name in sorted({*was, *now}):
                if was.get(name) != now.get(name):
                    other.append(f"search was {was.get(name, 'without ' + name)}, now {now.get(name, 'without ' + name)}")
        if pruner is not None and pruner != self.pruner:
            other.append(f"{setting('pruner')} was {self.pruner!r}, now {pruner!r}")
        if other:
            raise UsageError(
                f"{directory} holds a study with other settings: {listing(other)}. Leave them out to go on with it, or use "
                f"{setting('overwrite', True)} or another {setting('out')}."
            )


def digest_of(prepared: Prepared) -> str:
    """Return a digest of all training rows, and of which rows are validation and test: the same in each trial of a study.

    It is of texts and targets, not of tokens, as the encoder and the length may be searched.
    """
    found = hashlib.blake2b(digest_size=16)
    for name in ("train", "valid", "test"):
        part = prepared.parts.get(name)
        if part is None:
            continue
        rows = part.rows
        keys, targets = rows.table.text_key, rows.targets.digests()
        if name != "train":  # those that are left for training may be fewer with another `dedupe`
            keys, targets = keys[rows.index], targets[rows.index]
        found.update(f"{name} {len(keys)}".encode())
        found.update(keys.astype("<u8").tobytes())
        found.update(targets.astype("<u8").tobytes())
    return found.hexdigest()
