"""Runs of the command line in processes that are cut off at a chosen point.

As a script: a server that imports everything once and forks a process for each job it reads, so that a run costs no start.
As a module: `Server`, which talks to that script.

A trap is `(place, call, action)`: at call number `call` (from 1) of the function named `module:attribute`, before it works:
    kill   the process is killed by SIGKILL
    late   the same once all that was handed to other threads has been done
    int    it gets SIGINT, then goes on; int2 gets it twice
    full   OSError "no space left on device" is raised
    bug    an exception is raised that nobody expects
    hold   it waits for a minute, to be killed from outside
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Trap = tuple[str, int, str]

_IMPORTED = (
    "tunesmith.recipe", "tunesmith.walk", "tunesmith.folds", "tunesmith.study.tune", "tunesmith.cli.app", "sklearn.linear_model",
    "pyarrow.parquet", "transformers", "optuna", "sqlalchemy.dialects.sqlite",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Done:
    """A process that ended: its status as subprocess gives it (-9 for SIGKILL), and what it printed."""

    code: int
    out: str
    err: str


class Server:
    """Starts command lines in forked processes, one at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )

    def run(
        self,
        *arguments: object,
        traps: Iterable[Trap] = (),
        stdin: bytes = b"",
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        file_limit: int | None = None,
        meanwhile: Callable[[int], None] | None = None,
    ) -> Done:
        """Run `tunesmith ARGUMENTS...` to its end.

        file_limit: bytes that a file may have at most; meanwhile: called with the process id while it runs
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        streams = {name: self.directory / name for name in ("in", "out", "err")}
        streams["in"].write_bytes(stdin)
        job = {
            "arguments": [str(argument) for argument in arguments],
            "traps": list(traps),
            "cwd": str(cwd if cwd is not None else self.directory),
            "env": {"TUNESMITH_CACHE": os.environ["TUNESMITH_CACHE"], **(env or {})},
            "file_limit": file_limit,
            "streams": {name: str(path) for name, path in streams.items()},
        }
        print(json.dumps(job), file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        if meanwhile is not None:
            meanwhile(pid)
        code = int(self.process.stdout.readline())
        return Done(code, streams["out"].read_text(encoding="utf-8"), streams["err"].read_text(encoding="utf-8"))

    def close(self) -> None:
        """End the server."""
        self.process.communicate(timeout=60)


def _set(trap: Trap) -> None:
    import errno
    import signal
    import time
    from concurrent.futures import Future, ThreadPoolExecutor, wait

    place, wanted, action = trap
    handed: list[Future[Any]] = []
    if action == "late":
        submit = ThreadPoolExecutor.submit

        def noted(*given: Any, **named: Any) -> Future[Any]:
            handed.append(submit(*given, **named))
            return handed[-1]

        ThreadPoolExecutor.submit = noted  # type: ignore[method-assign]
    module, _, path = place.partition(":")
    holder: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    original = getattr(holder, name)
    calls = 0

    def trapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == wanted:
            if action in ("kill", "late"):
                wait(handed)
                os.kill(os.getpid(), signal.SIGKILL)
            elif action in ("int", "int2"):
                for _ in range(len(action) - 2):
                    # to the main thread: another one could take it later, together with the second
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            elif action == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            elif action == "bug":
                raise ZeroDivisionError("planted")
            elif action == "hold":
                time.sleep(60)
        return original(*arguments, **named)

    setattr(holder, name, trapped)


def _child(job: dict[str, Any]) -> None:
    import resource

    for number, (name, flags) in enumerate((("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))):
        handle = os.open(job["streams"][name], flags if name == "in" else flags | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    if job["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"],) * 2)
    for trap in job["traps"]:
        _set(tuple(trap))
    from tunesmith.cli.app import main

    status: Any = 1
    try:
        main(job["arguments"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertModel  # noqa: F401 - costly to import

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
