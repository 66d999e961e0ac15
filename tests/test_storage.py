"""What is written is whole or not there; what cannot be written says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny
import tunesmith
from tunesmith.data.readers import open_file
from tunesmith.data.schema import Schema
from tunesmith.data.table import open_table
from tunesmith.data.tokens import TextEncoder, Truncation
from tunesmith.errors import DataError, StorageError
from tunesmith.search.vectors import Nearest
from tunesmith.storage import LOCK, locked, new_directory, new_file, sweep, verify, write_json, write_manifest, write_text, writing


def test_a_new_directory_is_there_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), new_directory(path) as directory:
        (directory / "x").write_text("1")
        raise ZeroDivisionError
    assert list((tmp_path / "a").iterdir()) == []
    with new_directory(path) as directory:
        (directory / "x").write_text("1")
        assert not path.exists()
    assert (path / "x").read_text() == "1"
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_new_directory_replaces_or_keeps_the_former(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for text in "12":
        with new_directory(path) as directory:
            (directory / text).write_text(text)
    assert [file.name for file in path.iterdir()] == ["2"]
    with new_directory(path, replace=False) as directory:
        (directory / "3").write_text("3")
    assert [file.name for file in path.iterdir()] == ["2"]
    with pytest.raises(ZeroDivisionError), new_directory(path) as directory:
        raise ZeroDivisionError
    assert [file.name for file in path.iterdir()] == ["2"]
    assert [file.name for file in tmp_path.iterdir()] == ["d"]


def test_a_directory_that_cannot_be_put_in_place_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "d", Path.rename
    with new_directory(path) as directory:
        (directory / "1").write_text("1")

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StorageError), new_directory(path) as directory:
        (directory / "2").write_text("2")
    assert [file.name for file in path.iterdir()] == ["1"] and [file.name for file in tmp_path.iterdir()] == ["d"]


def test_who_may_read_what_is_written_is_for_the_umask_and_the_former_file_to_say(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "new", "x")
        with new_directory(tmp_path / "d") as directory:
            (directory / "x").write_text("x")
        os.umask(0o022)
        write_text(tmp_path / "open", "x")
        (tmp_path / "private").touch(0o600)
        write_text(tmp_path / "private", "x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"new": 0o600, "d": 0o700, "open": 0o644, "private": 0o600}


def test_only_our_own_leftovers_are_swept(tmp_path: Path) -> None:
    theirs = [tmp_path / name for name in (".bashrc.old", ".notes.tmp", "x.12345678.tmp")]
    ours = [tmp_path / name for name in (".model.0a1b2c3d.tmp", ".state.0a1b2c3d.old")]
    for path in (*theirs, *ours):
        path.touch()
    with locked(tmp_path):
        assert sorted(path for path in tmp_path.iterdir() if path.name != LOCK) == sorted(theirs)


def test_a_failed_file_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_json(path, {"a": "ü"})
    before = path.read_bytes()
    with pytest.raises(StorageError, match="disk is full"), new_file(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == before == '{\n  "a": "ü"\n}\n'.encode()
    assert [file.name for file in tmp_path.iterdir()] == ["f.json"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "the disk is full. Free some space"),
        (errno.EDQUOT, "the disk quota is used up. Free some space"),
        (errno.EACCES, "permission denied. Choose a place you may write to"),
        (errno.EROFS, "the file system is read-only. Choose another place"),
        (errno.EIO, "Input/output error. Choose another place, or try again"),
    ],
)
def test_every_refusal_says_what_to_do(number: int, advice: str) -> None:
    with pytest.raises(StorageError) as caught, writing("/some/place"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"cannot write /some/place: {advice}")
    assert caught.value.exit_code == 5


def test_other_errors_pass_through() -> None:
    for error in (ValueError("no"), DataError("told by another (os error 2)"), KeyboardInterrupt()):
        with pytest.raises(type(error)), writing("x"):
            raise error


def test_places_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deep" / "x", Path("/proc/nowhere/x")):
        with pytest.raises(StorageError, match=rf"cannot write {path}: .*another place"):
            write_text(path, "x")
        with pytest.raises(StorageError, match="another place"), new_directory(path):
            pass
        with pytest.raises(StorageError, match="another place"), locked(path):
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    if (
        os.geteuid() != 0
        or shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], capture_output=True).returncode
    ):
        pytest.skip("no small file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_that_really_fills_up(small_disk: Path) -> None:
    import pyarrow as pa

    write_text(small_disk / "earlier.txt", "whole")

    def weights(path: Path) -> None:
        save_file({"a": torch.zeros(10**6)}, path)

    def arrow(path: Path) -> None:
        with pa.OSFile(str(path), "wb") as file:
            file.write(b"x" * 4_000_000)

    def text(path: Path) -> None:
        path.write_text("x" * 4_000_000)

    for write in (weights, arrow, text):
        with pytest.raises(StorageError, match=r"the disk is full\. Free some space"), new_directory(small_disk / "new") as directory:
            write(directory / "x")
    assert [file.name for file in small_disk.iterdir()] == ["earlier.txt"], "room is made again"
    assert (small_disk / "earlier.txt").read_text() == "whole"


def test_verify(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "sub" / "b").write_bytes(b"")
    assert verify(tmp_path) == "manifest.json is missing"
    write_manifest(tmp_path)
    assert verify(tmp_path) is None
    (tmp_path / "a").write_bytes(b"abd")
    assert verify(tmp_path) == "a has another checksum than when it was written"
    (tmp_path / "a").write_bytes(b"ab")
    assert verify(tmp_path) == "a has 2 bytes where 3 were written"
    (tmp_path / "a").unlink()
    assert verify(tmp_path) == "a is missing"
    for content, fault in (("{}", "names no files"), ("", "cannot be read"), ("[1]", "cannot be read"), ('{"a": 1}', "cannot be read")):
        (tmp_path / "manifest.json").write_text(content)
        assert fault in str(verify(tmp_path))
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    assert "cannot be read" in str(verify(tmp_path))


def test_sweep_takes_only_what_fits(tmp_path: Path) -> None:
    for name in (".a.x.tmp", "keep.tmp", ".keep"):
        (tmp_path / name).write_text("")
    (tmp_path / ".b.y.tmp").mkdir()
    (tmp_path / ".b.y.tmp" / "z").write_text("")
    sweep(tmp_path, ".*.tmp")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".keep", "keep.tmp"]


def test_a_lock_is_one_runs_alone(tmp_path: Path) -> None:
    refused = pytest.raises(StorageError, match=r"another run is writing into .*Wait for it, or choose another out")
    with locked(tmp_path), refused, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run ends, and removes its lock, between the opening of the file and its locking; a third one then holds the new file."""
    import fcntl

    original, third = fcntl.flock, contextlib.ExitStack()

    def late(file: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", original)
        (tmp_path / LOCK).unlink()
        third.enter_context(locked(tmp_path))
        original(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with third, pytest.raises(StorageError, match="another run"), locked(tmp_path):
        pytest.fail("two hold it")
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def encoder() -> TextEncoder:
    return TextEncoder(tiny.tokenizer(), Truncation(max_length=16), None)


def test_a_damaged_table_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    data = tiny.write_csv(tmp_path / "d.csv", tiny.rows(9))
    schema = Schema(("text",), "label")
    first = open_table(open_file(data), schema, encoder())
    ids = [[part.tolist() for part in first.example(i).sequences] for i in range(9)]
    for damage in (lambda path: os.truncate(path, 100), lambda path: os.truncate(path, 0), lambda path: path.unlink()):
        damage(first.path / "table.arrow")
        again = open_table(open_file(data), schema, encoder())
        assert [[part.tolist() for part in again.example(i).sequences] for i in range(9)] == ids and again.key == first.key


def test_many_processes_may_want_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    data = tiny.write_csv(tmp_path / "d.csv", tiny.rows(50))
    faults: list[BaseException] = []
    start = threading.Barrier(6)

    def work() -> None:
        try:
            start.wait()
            assert len(open_table(open_file(data), Schema(("text",), "label"), encoder())) == 50
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(list((tmp_path / "cache" / "tables").iterdir())) == 1


def test_a_cache_that_cannot_be_written_names_the_variable_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file"))
    data = tiny.write_csv(tmp_path / "d.csv", tiny.rows(9))
    with pytest.raises(StorageError, match=rf"cannot write {tmp_path}/file/tables.* TUNESMITH_CACHE names another directory"):
        open_table(open_file(data), Schema(("text",), "label"), encoder())


def test_output_to_a_full_disk_is_told(tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    tunesmith.train(reviews, out=tmp_path / "m", model=tiny_bert, epochs=1, max_length=32, progress="quiet")
    for command in (["predict", "m", str(reviews), "-q"], ["evaluate", "m", str(reviews), "--json", "-q"]):
        with open("/dev/full", "w") as full:
            line = [sys.executable, "-m", "tunesmith", *command]
            done = subprocess.run(line, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 5 and "the disk is full" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_graph_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    graph = Nearest.new(4)
    graph.add(np.arange(3), np.ones((3, 4), np.float16))
    with pytest.raises(StorageError, match=r"cannot write .*nowhere"):
        graph.save(tmp_path / "nowhere" / "graph.usearch")
