"""Write docs/cli.md and docs/settings.md from the program itself; with --check only compare, and fail if they are behind.

python scripts/docs.py [--check]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tunesmith.cli.options import PANELS, metavar
from tunesmith.config import Config

DOCS = Path(__file__).resolve().parent.parent / "docs"
COMMANDS = (
    "", "train", "tune", "pretrain", "evaluate", "predict", "add-examples", "update", "history", "rollback", "check", "walk", "models",
    "sample", "index", "search",
)  # fmt: skip


def command_page() -> str:
    """Return the help of every command as one page."""
    parts = ["# Command line\n\nWritten by `python scripts/docs.py` from the program's own help.\n"]
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}
    for command in COMMANDS:
        arguments = [sys.executable, "-m", "tunesmith", *([command] if command else []), "--help"]
        text = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
        lines = "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))
        parts.append(f"## tunesmith {command}".rstrip() + f"\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def settings_page() -> str:
    """Return the table of all settings."""
    parts = [
        "# Settings\n\nWritten by `python scripts/docs.py` from `tunesmith.config.Config`. A setting has one name everywhere: `max_length` "
        "in a TOML recipe and in `tunesmith.train(...)`, `--max-length` on the command line.\n"
    ]
    for panel, names in PANELS.items():
        rows = ["| setting | value | default | what it does |", "|---|---|---|---|"]
        for name in names:
            field = Config.model_fields[name]
            default = "" if field.default is None else f"`{str(field.default).lower() if field.annotation is bool else field.default}`"
            values = metavar(field.annotation).replace("|", " \\| ")
            rows.append(f"| `{name}` | {values} | {default} | {field.description} |".replace("'|'", "`\\|`"))
        parts.append(f"## {panel}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Write the pages, or compare them."""
    check = "--check" in sys.argv[1:]
    for name, text in (("cli.md", command_page()), ("settings.md", settings_page())):
        path = DOCS / name
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            sys.exit(f"docs/{name} is behind the program. Run: python scripts/docs.py")
        if not check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
