"""What every test may use. No test reaches the network or writes outside its temporary directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# before transformers or the hub's client is imported anywhere
os.environ["HF_HUB_OFFLINE"] = "1"
# tiny matrices gain nothing from a second thread, and lose much when another process wants the core
os.environ["OMP_NUM_THREADS"] = "1"

from killer import Server
from running import run as run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slow tests begin first, so that no core waits for another's at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests on real data where there are none."""
    folder = os.environ.get("TUNESMITH_DATA")
    if item.get_closest_marker("real") and not (folder and Path(folder).is_dir()):
        pytest.skip("TUNESMITH_DATA names no directory with the labelled data sets")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Token tables go to a directory of this test session."""
    os.environ["TUNESMITH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts command lines that can be cut off at any point; a process is as good as new."""
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers and width 32."""
    import tiny

    return tiny.save_encoder(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 120 texts with two labels that a tiny model can learn."""
    import tiny

    return tiny.write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", tiny.rows(120))
