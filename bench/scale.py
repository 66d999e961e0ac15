"""Memory while training on many rows: the same tiny encoder on few rows and on many, each in a process of its own.

    python -m bench.scale [--rows 20000,2000000]

Prints, for each size, the peak of anonymous memory (what the program itself holds) and of all resident memory (which counts the
pages of the memory-mapped token table that happen to be in RAM and that the system takes back when it needs them), and seconds for
a first and a second run, which finds its tokens in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_rows(path: Path, count: int) -> None:
    """Write a CSV of `count` short labelled texts."""
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny

    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write("text,label\n")
        for i in range(count):
            words = generator.choices(tiny.FILLER, k=generator.randint(4, 16))
            colour = i % 2 == 0
            words.append(generator.choice(tiny.COLOURS if colour else tiny.ANIMALS))
            file.write(f"{' '.join(words)} {i},{'colour' if colour else 'animal'}\n")


def peak_memory(work: object) -> tuple[float, float]:
    """Call `work` and return the peaks of anonymous and of all resident memory, in MB, sampled ten times a second."""
    peaks = {"RssAnon": 0, "VmRSS": 0}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()  # type: ignore[operator]
    finally:
        over.set()
        watcher.join()
    return peaks["RssAnon"] / 1024, peaks["VmRSS"] / 1024


def child(data: Path, model: Path, out: Path) -> None:
    """Train once and print the figures as JSON."""
    import tunesmith

    def work() -> None:
        tunesmith.train(
            data, text="text", label="label", model=model, out=out, overwrite=True, epochs=1, batch_size=512, max_length=32, lr=1e-3,
            test_size=0.01, valid_size=0.01, progress="lines",
        )  # fmt: skip

    began = time.monotonic()
    anonymous, resident = peak_memory(work)
    print(json.dumps({"seconds": time.monotonic() - began, "anonymous_mb": anonymous, "resident_mb": resident}))


def main() -> None:
    """Run every size twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", default="20000,2000000")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*map(Path, arguments.child))
        return
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny.save_encoder(folder / "model")
        environment = {**os.environ, "TUNESMITH_CACHE": str(folder / "cache")}
        print(f"{'rows':>10} {'run':>7} {'seconds':>8} {'anonymous MB':>13} {'resident MB':>12}", flush=True)
        for count in map(int, arguments.rows.split(",")):
            write_rows(folder / "rows.csv", count)
            for run in ("first", "second"):
                command = [sys.executable, "-m", "bench.scale", "--child", str(folder / "rows.csv"), str(model), str(folder / "out")]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found = json.loads(done.stdout.strip().split("\n")[-1])
                print(
                    f"{count:>10,} {run:>7} {found['seconds']:>8.0f} {found['anonymous_mb']:>13,.0f} {found['resident_mb']:>12,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
