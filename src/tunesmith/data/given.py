"""What a run is given to learn from: tables in memory, or the files that its settings name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import FILES, Config
from tunesmith.data.memory import open_data
from tunesmith.data.schema import RowSource
from tunesmith.errors import UsageError


@dataclass(frozen=True)
class Given:
    """Tables in memory, each in place of the file that the settings name; labels: of `train` where that is a list of texts."""

    train: Any = None
    valid: Any = None
    test: Any = None
    labels: Any = None

    @property
    def in_memory(self) -> bool:
        """Whether there is any table."""
        return any(value is not None for value in (self.train, self.valid, self.test, self.labels))

    def of(self, part: str, config: Config) -> Any:
        """Return the table or the name of the file of a part, None for neither."""
        table = getattr(self, part)
        return table if table is not None else getattr(config, part)

    def named(self, config: Config) -> Any:
        """Return what a run's directory is named after: the training data, or test data where a model is made without training.

        Raises `UsageError` where something must be trained on, and nothing is given.
        """
        train = self.of("train", config)
        if train is None and config.tuning != "none":
            raise UsageError("no training data: name a file of labelled rows.")
        return train if train is not None else self.of("test", config)

    def opened(self, config: Config) -> dict[str, RowSource]:
        """Return the rows by part."""
        sources = {}
        for part in FILES:
            value = self.of(part, config)
            if value is not None:
                encoding = config.encoding if isinstance(value, str | Path) else None
                sources[part] = open_data(value, labels=self.labels if part == "train" else None, encoding=encoding)
        # a collection comes with splits of its own
        return {**getattr(sources.get("train"), "companions", {}), **sources}


NOTHING = Given()
"""No tables: files alone."""
