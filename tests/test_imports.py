"""What starts fast must stay fast: torch and transformers are imported where they are used, not before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HELP = "import sys; sys.argv = ['tunesmith', '--help']; from tunesmith.cli.app import main; main()"


def python(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    line = [sys.executable, "-c", code]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("statement", ["import tunesmith", HELP], ids=["import tunesmith", "tunesmith --help"])
def test_neither_torch_nor_transformers_is_imported(statement):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys()), file=sys.stderr))\n"
        f"{statement}"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("description", "flags", "says"), [
    ({"task": {"name": "masked-lm"}, "prompting": None, "adapter": None}, (), "pretrained further"),
    ({"task": {"name": "classification"}, "prompting": {}, "adapter": None}, (), "add-examples"),
    ({"task": {"name": "classification"}, "prompting": None, "adapter": {}}, (), "that others share"),
    ({"task": {"name": "classification"}, "prompting": None, "adapter": None}, ("--resume",), "Leave --resume out"),
])  # fmt: skip
def test_an_update_that_cannot_be_is_refused_before_torch_is_imported(description, flags, says, tmp_path):
    (tmp_path / "tunesmith.json").write_text(json.dumps(description), encoding="utf-8")
    (tmp_path / "rows.csv").write_text("text,label\na,b\n", encoding="utf-8")
    line = ["update", str(tmp_path), str(tmp_path / "rows.csv"), *flags]
    done = python(
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & sys.modules.keys()), file=sys.stderr))\n"
        f"from tunesmith.cli.app import main; main({line!r})"
    )
    assert done.returncode == 2 and says in done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_answers_in_under_300_milliseconds():
    """In processor time; on a machine that is slower, or slowed down, in less than twice what the libraries of any such tool take."""

    def seconds(code: str) -> float:
        before = os.times()
        done = python(code)
        after = os.times()
        assert done.returncode == 0, done.stderr
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert "train" in python(HELP).stdout
    libraries = fastest = float("inf")
    for _ in range(10):
        libraries = min(libraries, seconds("import typer.rich_utils, rich.markdown, pydantic.main"))
        fastest = min(fastest, seconds(HELP))
        if fastest < 0.3:
            break
    assert fastest < max(0.3, 1.9 * libraries)
