"""Documents that cannot lie: reference pages equal the program, the README's commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_reference_pages_are_what_the_program_says() -> None:
    done = subprocess.run([sys.executable, "scripts/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OF_COMMANDS = ("adapters", "fewshot", "regularisers", "strategies", "tune", "update")
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in OF_COMMANDS),
    *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/tasks/*.md")),
]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


SHORT = {name: ["--epochs", "1"] for name in ("train", "pretrain", "update")} | {"tune": ["--trials", "1"]}
SHIM = """#!{python}
import sys
from tunesmith.cli.app import main
main(sys.argv[1:] + ([] if "none" in sys.argv else {short}.get(sys.argv[1], [])))
"""


def path_with_short_trainings(directory: Path) -> str:
    """Return a PATH whose `tunesmith` trains for one epoch: that the commands run is tested here, not how well they learn."""
    directory.mkdir()
    shim = directory / "tunesmith"
    shim.write_text(SHIM.format(python=sys.executable, short=SHORT))
    shim.chmod(0o755)
    return os.pathsep.join([str(directory), str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_the_python_of_a_page_run(tmp_path: Path, page: str) -> None:
    """Every `$ tunesmith ...` line of the page's console blocks, in order, then its Python blocks, in one directory."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = {**os.environ, "PATH": path_with_short_trainings(tmp_path / "bin"), "PYTHONWARNINGS": "default"}
    commands = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    assert sum("tunesmith train" in command for command in commands) >= 1
    python = "\n".join(blocks(page, "python"))
    assert python
    # in one process, as half of the time of a short command is that of importing torch
    told = json.dumps({"commands": commands, "python": python, "short": SHORT})
    line = [sys.executable, str(Path(__file__).with_name("page.py"))]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=environment, input=told)
    assert done.returncode == 0, done.stderr


def test_every_local_link_of_the_documents_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
