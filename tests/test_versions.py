"""Versions of a model directory: each is kept, one is at the top level, and whatever is killed when, that one is whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import tiny
import tunesmith
from killer import Server
from running import Run
from tunesmith import lineage, versions
from tunesmith.errors import ModelError, StorageError, UsageError

VERSIONS = "tunesmith.versions"


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two labels, saved."""
    out = tmp_path_factory.mktemp("trained") / "m"
    settings: dict[str, Any] = {"epochs": 4, "lr": 0.005, "batch_size": 8, "max_length": 24, "precision": "fp32"}
    tunesmith.train(tiny.rows(80), model=tiny_bert, out=out, progress="quiet", **settings)
    return out


@pytest.fixture(scope="module")
def updated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a second version, of three labels."""
    out = tmp_path_factory.mktemp("updated") / "m"
    shutil.copytree(trained, out)
    rows = tiny.rows(30, seed=4, labels=("animal", "colour", "neither"))
    tunesmith.update(out, rows, epochs=1, force=True, progress="quiet")
    return out


@pytest.fixture
def model(updated: Path, tmp_path: Path) -> Path:
    shutil.copytree(updated, tmp_path / "m")
    return tmp_path / "m"


def content(directory: Path) -> dict[str, bytes]:
    """The files of a version or of the top level, by their names."""
    files = (path for path in directory.rglob("*") if path.is_file() and versions.VERSIONS not in path.relative_to(directory).parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in files if path.name != "manifest.json"}


def labels_in_transformers(directory: Path) -> int:
    from transformers import AutoModelForSequenceClassification

    found = AutoModelForSequenceClassification.from_pretrained(directory)
    assert found.classifier.weight.shape[0] == found.config.num_labels
    return int(found.config.num_labels)


def test_a_model_that_was_never_updated_is_its_version_1(trained: Path, run: Run) -> None:
    before = content(trained)
    done = run("history", trained)
    assert done.code == 0 and done.out.splitlines()[2].startswith("1*"), done.out
    assert json.loads(run("history", trained, "--json").out)["current"] == 1
    assert content(trained) == before and not (trained / "versions").exists(), "looking changes nothing"
    done = run("rollback", trained)
    assert done.code == 4 and "nothing to go back to" in done.err
    assert not (trained / "versions").exists()


def test_history_and_rollback(trained: Path, model: Path, run: Run) -> None:
    new = content(model)
    lines = run("history", model).out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2*"] and " -> " in lines[3]
    assert labels_in_transformers(model) == 3
    done = run("rollback", model)
    assert done.code == 0 and done.out == f"{model} is version 1 again; version 2 is kept: tunesmith rollback {model} --to 2\n"
    assert content(model) == content(trained) and labels_in_transformers(model) == 2
    assert not any(path.is_symlink() for path in model.rglob("*"))
    found = json.loads(run("history", model, "--json").out)
    assert found["current"] == 1 and [entry["parent"] for entry in found["versions"]] == [None, 1]
    assert found["events"][-1] | {"date": ""} == {"event": "rollback", "date": "", "from": 2, "to": 1}
    assert "rolled back" in run("history", model).out
    done = run("rollback", model, "--to", 2, "--json")
    assert json.loads(done.out) == {"from": 1, "to": 2} and content(model) == new
    assert tunesmith.load(model).labels == ["animal", "colour", "neither"]


def test_versions_share_their_files(model: Path, trained: Path, updated: Path) -> None:
    assert (updated / "model.safetensors").samefile(updated / "versions" / "002" / "model.safetensors")
    assert content(updated / "versions" / "001") == content(trained)


def test_what_cannot_be_gone_to(model: Path, run: Run) -> None:
    before = content(model)
    for number, says in ((2, "version 2 is the current one"), (7, "has the versions 1, 2")):
        done = run("rollback", model, "--to", number)
        assert done.code == 2 and says in done.err
    done = run("rollback", model / "nowhere")
    assert done.code == 4
    assert run("history", model / "nowhere").code == 4
    weights = model / "versions" / "001" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = run("rollback", model)
    assert done.code == 4 and "version 1" in done.err and "is damaged: model.safetensors has another checksum" in done.err
    assert content(model) == before
    lineage = model / "versions" / "lineage.json"
    lineage.write_text("{", encoding="utf-8")
    done = run("history", model)
    assert done.code == 4 and f"{lineage} is damaged" in done.err and "move it away" in done.err
    lineage.unlink()
    assert json.loads(run("history", model, "--json").out)["current"] == 2, "the versions' own directories tell it, too"


def damage(path: Path, place: int = 5) -> bytes:
    """Change a byte of a file, not of those that share its content by hard links; return what it was."""
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(good[:-place] + bytes([good[-place] ^ 255]) + good[1 - place :])
    return good


def test_a_damaged_model_does_not_become_its_version(model: Path, run: Run, tmp_path: Path) -> None:
    kept = model / "versions" / "002" / "model.safetensors"
    good = damage(model / "model.safetensors")
    feedback = tiny.write_csv(tmp_path / "f.csv", tiny.rows(9))
    for command in (("rollback", model), ("update", model, feedback, "--force")):
        done = run(*command)
        assert done.code == 4 and kept.read_bytes() == good, done.err
        assert f"model.safetensors of {model} is not as version 2 was saved" in done.err
        assert f"tunesmith rollback {model} --to 2 puts them back" in done.err
    done = run("rollback", model, "--to", 2)
    assert done.code == 0 and "is version 2 as it was saved" in done.out and (model / "model.safetensors").read_bytes() == good
    (model / "config.json").unlink()
    assert tunesmith.rollback(model, to=2) == (2, 2) and (model / "config.json").is_file()
    damage(kept)
    assert tunesmith.rollback(model) == (2, 1) and kept.read_bytes() == good, "the top level had it whole"
    assert tunesmith.rollback(model, to=2) == (1, 2)
    damage(kept)
    damage(model / "model.safetensors", 9)
    done = run("rollback", model)
    assert done.code == 4 and f"neither is {model / 'versions' / '002'}; restore both from a copy" in done.err


@pytest.mark.parametrize("call", [1, 2])
def test_a_rollback_on_a_full_disk_is_done_again_once(model: Path, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tunesmith.update(model, tiny.rows(20, seed=5), epochs=1, force=True, progress="quiet")
    calls: list[int] = []
    original = lineage.write_json

    def full(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise StorageError("cannot write: the disk is full. Do the same again.")
        original(*arguments)

    monkeypatch.setattr(lineage, "write_json", full)
    with pytest.raises(StorageError):
        tunesmith.rollback(model)
    assert tunesmith.rollback(model) == (3, 2) and tunesmith.history(model)["current"] == 2
    assert [(event["from"], event["to"]) for event in tunesmith.history(model)["events"]] == [(3, 2)]
    assert tunesmith.rollback(model) == (2, 1)


def test_files_of_the_user_stay_and_an_edited_card_is_kept(model: Path) -> None:
    (model / "notes.txt").write_text("mine", encoding="utf-8")
    (model / "index").mkdir()
    (model / "index" / "x").write_text("mine", encoding="utf-8")
    (model / "empty").mkdir()
    card = model / "README.md"
    edited = card.read_text(encoding="utf-8") + "\nedited\n"
    card.unlink()
    card.write_text(edited, encoding="utf-8")
    assert tunesmith.rollback(model) == (2, 1)
    assert "edited" not in card.read_text(encoding="utf-8")
    assert tunesmith.rollback(model, to=2) == (1, 2)
    assert card.read_text(encoding="utf-8") == edited
    assert (model / "empty").is_dir()
    assert (model / "notes.txt").read_text(encoding="utf-8") == (model / "index" / "x").read_text(encoding="utf-8") == "mine"


def test_kept_rows_may_be_deleted(model: Path) -> None:
    for place in (model, model / "versions" / "001", model / "versions" / "002"):
        shutil.rmtree(place / "kept")
    assert tunesmith.rollback(model) == (2, 1) and tunesmith.rollback(model, to=2) == (1, 2)
    assert not list(model.rglob("*.jsonl"))
    with pytest.raises(UsageError, match="keeps no test rows"):
        tunesmith.update(model, tiny.rows(9))


def test_a_new_training_in_the_same_place_is_a_version_of_its_own(model: Path, tiny_bert: Path) -> None:
    old = content(model)
    tunesmith.train(tiny.rows(40, seed=2), model=tiny_bert, out=model, overwrite=True, epochs=1, max_length=24, progress="quiet")
    anew = content(model)
    found = tunesmith.history(model)
    assert found["current"] == 3 and [entry["version"] for entry in found["versions"]] == [1, 2, 3]
    assert found["versions"][2]["parent"] is None
    with pytest.raises(ModelError, match="did not come from another one"):
        tunesmith.rollback(model)
    assert tunesmith.rollback(model, to=2) == (3, 2) and content(model) == old
    assert tunesmith.rollback(model, to=3) == (2, 3) and content(model) == anew


def test_without_hard_links_copies_are_made(model: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    assert tunesmith.rollback(model) == (2, 1)
    assert content(model) == content(trained)
    assert tunesmith.rollback(model, to=2) == (1, 2)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_rollback_cut_off_anywhere_leaves_a_whole_model(
    trained: Path, updated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before each single change of the file system: the top level is one version or the other, and the same again ends it."""
    old, new = content(trained), content(updated)
    cuts = set()
    for module, name in ((versions, "_point"), (versions, "_replace"), (versions, "sync"), (lineage, "write_json")):
        for call in range(1, 60):
            model = tmp_path / f"{name}{call}"
            shutil.copytree(updated, model)
            original, calls = getattr(module, name), []

            def dies(*arguments: Any, original: Any = original, calls: list[int] = calls, call: int = call) -> Any:
                calls.append(1)
                if len(calls) == call:
                    raise Killed
                return original(*arguments)

            with monkeypatch.context() as patched:
                patched.setattr(module, name, dies)
                try:
                    tunesmith.rollback(model)
                    break
                except Killed:
                    pass
            found = content(model)
            assert found in (old, new), (name, call)
            number = 1 if found == old else 2
            cuts.add((name, number))
            assert tunesmith.history(model)["current"] == number
            shutil.copytree(model, again := tmp_path / "again", symlinks=True)
            assert tunesmith.rollback(again) == (2, 1) and content(again) == old, (name, call)
            assert [event["event"] for event in tunesmith.history(again)["events"]] == ["rollback"]
            shutil.rmtree(again)
            assert tunesmith.rollback(model, to=3 - number) == (number, 3 - number)
            assert content(model) == (new if found == old else old)
            assert not any(path.is_symlink() for path in model.rglob("*"))
            shutil.rmtree(model)
        else:
            pytest.fail("it never ended")
    assert {("_point", 2), ("_replace", 1), ("sync", 2), ("sync", 1), ("write_json", 2), ("write_json", 1)} <= cuts


@pytest.mark.parametrize(("place", "call", "labels"), [("_point", 6, 3), ("_replace", 3, 2)])
def test_a_rollback_that_is_killed(server: Server, trained: Path, updated: Path, model: Path, place: str, call: int, labels: int) -> None:
    done = server.run("rollback", model, traps=[(f"{VERSIONS}:{place}", call, "kill")])
    assert done.code == -signal.SIGKILL, done.err
    assert any(path.is_symlink() for path in model.iterdir()), "it was in the middle of it"
    assert labels_in_transformers(model) == labels == len(tunesmith.load(model).labels)
    assert content(model) == content(updated if labels == 3 else trained)


def test_a_full_disk_during_a_rollback(model: Path, updated: Path, server: Server) -> None:
    done = server.run("rollback", model, traps=[(f"{VERSIONS}:_point", 5, "full")])
    assert done.code == 5 and "the disk is full" in done.err and "Traceback" not in done.err
    assert content(model) == content(updated)
    assert tunesmith.rollback(model) == (2, 1)


def test_an_unwritable_directory_is_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "symlink_to", refuses)
    with pytest.raises(StorageError, match="permission denied"):
        tunesmith.rollback(model)
    with pytest.raises(UsageError):
        tunesmith.rollback(model, to=9)
