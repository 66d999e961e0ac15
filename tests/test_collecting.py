"""How often Python looks for unreachable cycles."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tunesmith.collecting import sparing_what_exists


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_exists_is_left_out_until_the_end_even_of_an_error() -> None:
    with pytest.raises(ValueError, match="full"), sparing_what_exists():
        assert gc.get_freeze_count() > 0
        raise ValueError("full")
    assert gc.get_freeze_count() == 0


def test_a_choice_of_the_program_around_stays() -> None:
    gc.freeze()
    with sparing_what_exists():
        pass
    assert gc.get_freeze_count() > 0


def test_the_command_line_sets_it_and_the_library_leaves_it() -> None:
    code = (
        "import gc, tunesmith; before = gc.get_threshold()\n"
        "import tunesmith.cli.app as app; assert gc.get_threshold() == before\n"
        "try: app.main(['--version'])\n"
        "except SystemExit: print(gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "20000"
