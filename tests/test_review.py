"""What a run may neither touch nor take for something else: files of others, other rows, texts that went away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
import tunesmith
from tunesmith.cli.app import main
from tunesmith.errors import DataError, StorageError
from tunesmith.recipe import TrainResult
from tunesmith.training.optim import clip


def train(data: Any, out: Path, model: Path, **settings: Any) -> TrainResult:
    defaults = {"epochs": 1, "lr": 5e-3, "batch_size": 8, "max_length": 24, "precision": "fp32"}
    return tunesmith.train(data, out=out, model=model, progress="quiet", **{**defaults, **settings})


def test_a_directory_named_checkpoints_keeps_what_others_put_there(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    out = tmp_path / "project"
    for path in (out / "checkpoints" / "mine.pt", out / "checkpoints" / "exp-1" / "weights"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("years of work")
    for more in ({}, {"overwrite": True}):
        train(reviews, out, tiny_bert, **more)
        found = {str(path.relative_to(out / "checkpoints")) for path in (out / "checkpoints").rglob("*")}
        assert found == {"mine.pt", "exp-1", "exp-1/weights"}


def test_a_resume_with_another_test_file_is_refused_when_other_rows_would_be_trained_on(
    tmp_path: Path, tiny_bert: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (tiny.write_csv(tmp_path / f"{seed}.csv", tiny.rows(20, seed=seed)) for seed in (5, 0))

    def stop(*_: object) -> float:
        steps.append(1)
        if len(steps) == 4:
            raise MemoryError
        return clip(*_)

    for name, settings in {"dedupe": {"test": second, "dedupe": True}, "split": {"test": None}}.items():
        steps: list[int] = []
        common = {"checkpoint_steps": 1, "dedupe": settings.get("dedupe", False)}
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr("tunesmith.training.loop.clip", stop)
            train(reviews, tmp_path / name, tiny_bert, test=first, **common)
        with pytest.raises(StorageError, match="other data"):
            train(reviews, tmp_path / name, tiny_bert, resume=True, **{**common, **settings})
        train(reviews, tmp_path / name, tiny_bert, test=first, resume=True, **common)


def test_empty_texts_do_not_tie_groups_together(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [{**row, "customer": str(i // 4)} for i, row in enumerate(tiny.rows(80))]
    for row in rows[::4]:
        row["text"] = ""
    splits = train(rows, tmp_path / "m", tiny_bert, text="text", label="label", group="customer").result["data"]["splits"]
    assert {name: part["rows"] for name, part in splits.items()} == {"train": 48, "valid": 6, "test": 6}


def test_labels_that_no_training_row_has_are_named(tmp_path: Path, tiny_bert: Path) -> None:
    data = tiny.write_csv(tmp_path / "data.csv", [*tiny.rows(40), {"text": "", "label": "rare"}])
    result = train(data, tmp_path / "m", tiny_bert).result
    assert result["data"]["splits"]["train"]["targets"]["rare"] == 0
    assert any("no training row has 'rare'" in note for note in result["data"]["notes"])


def test_a_given_file_without_any_label_is_an_error(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    bare = tiny.write_csv(tmp_path / "bare.csv", [{**row, "label": ""} for row in tiny.rows(6)])
    for name in ("valid", "test"):
        with pytest.raises(DataError, match=r"bare\.csv: none of its 6 rows has a label"):
            train(reviews, tmp_path / name, tiny_bert, drop_unlabelled=True, **{name: bare})


def test_patience_without_validation_rows_is_said_to_do_nothing(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    result = train(reviews, tmp_path / "m", tiny_bert, valid_size=0, patience=2).result
    assert any("no validation rows" in note for note in result["data"]["notes"])


def test_intervals_of_model_and_yardsticks_come_from_the_same_resamples(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    result = train(reviews, tmp_path / "m", tiny_bert, seed=3, lr=1e-9).result["evaluations"]["test"]
    majority = result["yardsticks"][0]
    assert result["metrics"]["accuracy"] == majority["metrics"]["accuracy"] == 0.5
    assert result["intervals"]["accuracy"] == majority["intervals"]["accuracy"]


def test_half_a_character_in_a_single_text(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    model = train(reviews, tmp_path / "m", tiny_bert).bundle
    assert model.predict("a red house \ud83d") == model.predict(["a red house \ud83d"])[0]


@pytest.mark.parametrize("change", ["gone", "others"])
def test_a_file_that_changes_while_it_is_trained_on(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    rows = [{**row, "text": f"{i} {row['text']}"} for i, row in enumerate(tiny.rows(80))]
    data = tiny.write_csv(tmp_path / "data.csv", rows)

    def meddle(*arguments: Any) -> float:
        if change == "gone":
            data.unlink(missing_ok=True)
        else:
            tiny.write_csv(data, rows[::-1])
        return clip(*arguments)

    monkeypatch.setattr("tunesmith.training.loop.clip", meddle)
    trained = train(data, tmp_path / "m", tiny_bert, lr=1e-9)
    found = trained.result["evaluations"]["test"]
    assert found["mistakes"] and all("changed since" in mistake["text"] for mistake in found["mistakes"])
    assert all(not yardstick["metrics"] and "changed since" in yardstick["note"] for yardstick in found["yardsticks"])
    assert tunesmith.load(tmp_path / "m").predict("a red house").label in ("animal", "colour")


def test_check_heeds_what_it_is_told_about_labels(tmp_path: Path, tiny_bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cells = ["x|y", "x", "y", "y|x", "x|z", "z", "x;y"]
    data = tiny.write_csv(tmp_path / "data.csv", [{"text": f"a cat {i}", "label": cell} for i, cell in enumerate(cells)])
    for told, kind, labels in (("single", "single", set(cells)), ("multi", "multi", {"x", "y", "z", "x;y"})):
        with pytest.raises(SystemExit) as ended:
            main(["check", str(data), "--model", str(tiny_bert), "--max-length", "24", "--label-type", told, "--json"])
        assert ended.value.code == 0
        found = json.loads(capfd.readouterr().out)["labels"]
        assert (found["kind"], set(found["counts"])) == (kind, labels)


def test_the_card_says_when_transformers_reads_less_of_a_long_text(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    for truncation, said in (("head", False), ("tail", True), ("windows", True)):
        train(reviews, tmp_path / truncation, tiny_bert, truncation=truncation, stride=4)
        card = (tmp_path / truncation / "README.md").read_text(encoding="utf-8")
        assert (f"trained with `{truncation}`, which only tunesmith" in card) == said


def test_overwrite_replaces_models_only(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    project, model = tmp_path / "project", tmp_path / "m"
    project.mkdir()
    (project / "README.md").write_text("mine")
    with pytest.raises(StorageError, match=r"its README\.md would be replaced"):
        train(reviews, project, tiny_bert, overwrite=True)
    assert [path.name for path in project.iterdir()] == ["README.md"] and (project / "README.md").read_text() == "mine"
    (project / "README.md").rename(project / "notes.txt")
    train(reviews, project, tiny_bert, overwrite=True)
    assert (project / "notes.txt").read_text() == "mine"
    train(reviews, model, tiny_bert)
    train(reviews, model, tiny_bert, overwrite=True)


def test_walk_names_settings_that_a_trained_model_does_not_heed(
    tmp_path: Path, tiny_bert: Path, reviews: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(reviews, tmp_path / "m", tiny_bert)
    with pytest.raises(SystemExit):
        main(["walk", str(reviews), "--model", str(tmp_path / "m"), "--truncation", "tail", "--max-length", "8"])
    assert "the trained model has its own: max_length, truncation." in capfd.readouterr().err
