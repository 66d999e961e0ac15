"""Runs the commands and the Python of a page of the documentation, one after the other, in one process: `python page.py < JSON`.

The JSON has `commands`, each a line that begins with `tunesmith` or is of another program, `python`, and `short`: arguments that make a
command's run short, by the command's name. A line that needs a shell gets one; what fails ends the program with the line and status 1.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

from tunesmith.cli.app import main


def run(line: str, short: dict[str, list[str]]) -> int:
    """Run one line and return its exit status."""
    words = shlex.split(line)
    if words[0] != "tunesmith" or any(sign in line for sign in "|<>;&$"):
        return subprocess.run(["bash", "-c", line]).returncode
    try:
        main(words[1:] + ([] if "none" in words else short.get(words[1], [])))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def everything() -> None:
    page = json.load(sys.stdin)
    for line in page["commands"]:
        print(f"$ {line}", file=sys.stderr)
        if run(line, page["short"]) != 0:
            sys.exit(f"this failed: {line}")
    exec(compile(page["python"], "the page's Python", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    everything()
