"""`tunesmith sample`: what is shipped can be printed, read and recognised."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from running import Run
from tunesmith import registry
from tunesmith.cli.sample import sample_files
from tunesmith.config import Config
from tunesmith.data.memory import open_data
from tunesmith.data.schema import choose_task, guess_schema


def test_the_list_names_every_sample_and_how_to_get_it(run: Run) -> None:
    done = run("sample")
    assert done.code == 0
    for name, file in sample_files().items():
        assert f"tunesmith sample {name} > {file}" in done.out


@pytest.mark.parametrize("name", sorted(sample_files()))
def test_a_sample_is_printed_as_it_is_shipped_and_its_task_is_recognised(name: str, run: Run, tmp_path: Path) -> None:
    done = run("sample", name)
    shipped = (resources.files("tunesmith.samples") / sample_files()[name]).read_text(encoding="utf-8")
    assert done.code == 0 and done.out == shipped and not done.err
    path = tmp_path / sample_files()[name]
    path.write_text(done.out, encoding="utf-8")
    task = name if name in registry.names() else "auto"
    source = open_data(path)
    assert choose_task(source, Config()) == name
    schema = guess_schema(source, text=None, label=None, group=None, family=registry.family(task))
    assert sum(1 for row, place in source if schema.parse(row, place).texts) >= 9


def test_an_unknown_task_is_told_what_there_is(run: Run) -> None:
    done = run("sample", "regresion")
    assert done.code == 2 and "Did you mean 'regression'?" in done.err and "classification" in done.err
    assert run("sample", "pair", "more").code == 2
    assert run("sample", "../x").code == 2


def test_every_sample_is_of_a_task() -> None:
    assert set(sample_files()) == set(registry.TASKS)
