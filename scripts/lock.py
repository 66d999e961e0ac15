"""Print `name==version` for everything that tunesmith, with all its extras, needs in the running environment.

`make lock` writes this to requirements.lock. Only the closure of the project's own requirements counts, so whatever else
is installed beside it stays out. A build's local part (`+cpu`, `+cu130`) is dropped: which build to take is the
installing machine's choice, the version is ours.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def closure(requirements: list[str]) -> dict[str, str]:
    """Return {canonical name: version} of `requirements` and all that they need, as installed."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(Requirement(text), "") for text in requirements]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"lock: {requirement} is not installed here; install the project with all extras first (make install)")
        version = found.version.split("+")[0]
        if not requirement.specifier.contains(version, prereleases=True):
            sys.exit(f"lock: {name} {version} is installed, but {requirement} is required")
        pins[name] = version
        for wanted in ["", *requirement.extras]:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                queue += [(Requirement(text), wanted) for text in found.requires or []]
    return pins


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        requirements += extra
    print("# Exact versions of everything that tunesmith and its extras need. Made by `make lock`; used by every install in the Makefile.")
    for name, version in sorted(closure(requirements).items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
