"""Several processes on one study: started, waited for, and never left behind by the one that started them.

As a module it is such a process: `python -m tunesmith.study.workers` reads its orders from standard input.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tunesmith.errors import Interrupted, ModelError, TunesmithError, setting, speaking_flags
from tunesmith.progress import Progress
from tunesmith.training.loop import stop_on_interrupt

_PR_SET_PDEATHSIG = 1


def threads_each(jobs: int) -> int:
    """Return how many threads each of `jobs` processes gets of the processors that this one may use, at least one."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    usable = int(told) if told.isdigit() and int(told) > 0 else len(os.sched_getaffinity(0))
    return max(1, usable // jobs)


def work(directory: Path, jobs: int, left: list[int], hint: str, progress: Progress, lock: int) -> None:
    """Run the trials of the study in `directory` in `jobs` processes, and return when all have ended.

    left: unfinished trials, which go first; lock: handle of the study's lock, which the processes hold, too
    Raises what the first process that failed raised, after the others have ended their work; `Interrupted` after Ctrl-C, which
    each process gets.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads_each(jobs))}
    found = []
    with stop_on_interrupt() as stop:
        for i in range(jobs):
            orders = {
                "directory": str(directory),
                "jobs": jobs,
                "left": left[i::jobs],
                "hint": hint,
                "mode": progress.mode,
                "parent": os.getpid(),
                "flags": setting("jobs").startswith("--"),
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "tunesmith.study.workers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(orders))
            process.stdin.close()
            found.append(process)
        told = False
        while any(process.poll() is None for process in found):
            if stop.is_set() and not told:
                told = True
                for process in found:
                    process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
    errors = [error for process in found if (error := _error_of(process)) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])


def _error_of(process: subprocess.Popen[str]) -> TunesmithError | None:
    """Return the error that a process ended with, None when it ended well."""
    assert process.stdout is not None
    with process.stdout as stream:
        last = (stream.read().strip().splitlines() or [""])[-1]
    if process.returncode == 0:
        return None
    try:
        told = json.loads(last)
        kinds = {kind.exit_code: kind for kind in TunesmithError.__subclasses__()}
        return kinds.get(told["exit_code"], TunesmithError)(told["error"])
    except (ValueError, KeyError, TypeError):
        how = f"signal {signal.Signals(-process.returncode).name}" if process.returncode < 0 else f"status {process.returncode}"
        return ModelError(
            f"a process of the study ended with {how}, perhaps for want of memory; no trial is lost. Go on with {setting('resume', True)}, "
            f"and fewer {setting('jobs')}."
        )


def _main() -> int:
    orders = json.load(sys.stdin)
    if sys.platform == "linux":
        # what it was started for ends with the one that started it, however that ended
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != orders["parent"]:
            return 130
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from tunesmith.study.plan import Plan
    from tunesmith.study.trial import run_trials
    from tunesmith.study.trials import Trials

    directory = Path(orders["directory"])
    with speaking_flags() if orders["flags"] else contextlib.nullcontext():
        trials = Trials(directory, Plan.read(directory), jobs=orders["jobs"])
        run_trials(trials, orders["left"], orders["hint"], _Lines(quiet=orders["mode"] == "quiet"))
    return 0


class _Lines(Progress):
    """Says what becomes of trials; the bars of several processes would be drawn over each other."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__("quiet")
        self.tells = not quiet

    def say(self, text: str) -> None:
        if self.tells:
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        status = _main()
    except TunesmithError as error:
        status = error.exit_code
        print(json.dumps({"error": str(error), "exit_code": status}), flush=True)
    except KeyboardInterrupt:
        status = 130
        print(json.dumps({"error": "stopped.", "exit_code": status}), flush=True)
    sys.exit(status)
