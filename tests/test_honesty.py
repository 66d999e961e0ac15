"""What a hurried user must be told, though nothing is technically wrong."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny
import tunesmith
from tunesmith.accounting import seen_before, sketch_of
from tunesmith.cli.app import main
from tunesmith.config import Config
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Schema
from tunesmith.errors import UsageError
from tunesmith.prepare import remarks
from tunesmith.report import render_table


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, reviews: Path) -> Path:
    out = tmp_path_factory.mktemp("honest") / "m"
    tunesmith.train(reviews, out=out, model=tiny_bert, epochs=1, max_length=16, precision="fp32", progress="quiet")
    return out


def run(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_evaluating_training_rows_is_said(model: Path, reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", model, reviews) == 0
    assert "96 of 120 rows have a text that the model was trained on" in capsys.readouterr().err


def test_evaluating_new_rows_is_not(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", model, tiny.write_csv(tmp_path / "new.csv", tiny.rows(30, seed=9))) == 0
    assert "trained on" not in capsys.readouterr().err


def test_the_sketch_of_many_texts_estimates() -> None:
    import numpy as np

    keys = np.random.default_rng(0).integers(0, 2**64, 50_000, np.uint64)
    half = np.concatenate([keys[:10_000], np.random.default_rng(1).integers(0, 2**64, 10_000, np.uint64)])
    said = seen_before(sketch_of(keys), half)
    assert said.startswith("about ") and abs(int(said.split()[1].rstrip("%")) - 50) <= 8
    assert seen_before(sketch_of(keys), half[10_000:]) == ""


def test_predict_says_how_many_lines_of_a_text_file_were_blank(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "x.txt"
    lines.write_text("a red cat\n\n  \nold road\n", encoding="utf-8")
    assert run("predict", model, lines, "-o", tmp_path / "o.csv", "-q") == 0
    assert f"note: 2 blank lines between the texts of {lines} have no row in what was written." in capsys.readouterr().err
    lines.write_text("a red cat\nold road\n", encoding="utf-8")
    assert run("predict", model, lines, "-o", tmp_path / "p.csv", "-q") == 0
    assert "blank" not in capsys.readouterr().err


def test_predict_replaces_no_file_unless_told(
    model: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, labelled = tiny.write_csv(tmp_path / "x.csv", [{"text": "a red cat"}]), tmp_path / "labelled.csv"
    shutil.copy(reviews, labelled)
    kept = labelled.read_bytes()
    with monkeypatch.context() as early:
        early.setattr("tunesmith.bundle.Bundle.load", None)  # told before any work is done
        assert run("predict", model, table, "-o", labelled, "-q") == 2
    assert f"{labelled} is there already. Name another file with --output, or replace this one with --overwrite." in capsys.readouterr().err
    assert labelled.read_bytes() == kept
    assert run("predict", model, table, "-o", labelled, "-q", "--overwrite") == 0
    assert labelled.read_text().startswith("text,label,probability")
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert run("predict", model, table, "-o", empty, "-q") == 0 and empty.stat().st_size


def test_a_longest_length_that_the_encoder_cannot_take_is_a_note_of_the_report(tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    settings = {"model": tiny_bert, "epochs": 1, "progress": "quiet"}
    told = tunesmith.train(reviews, out=tmp_path / "a", max_length=100, **settings)
    assert "max_length 100 was lowered to 64, the longest sequence that the encoder takes." in told.result["data"]["notes"]
    assert "was lowered to 64" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    usual = tunesmith.train(reviews, out=tmp_path / "b", **settings)
    assert not any("lowered" in note for note in usual.result["data"]["notes"])


def test_predict_says_what_was_cut_and_what_was_empty(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tiny.write_csv(tmp_path / "x.csv", [{"id": i, "text": text} for i, text in enumerate(["a red cat", "old road " * 40, " "])])
    assert run("predict", model, table, "-o", tmp_path / "o.csv") == 0
    said = capsys.readouterr().err
    assert "1 of 3 texts was longer than the model reads" in said
    assert "1 row has no text; what is predicted for it says nothing" in said and "x.csv:4" in said
    assert len(list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))) == 3


def test_empty_lines_of_a_spreadsheet_need_no_label(tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    table = tmp_path / "sheet.csv"
    table.write_text(reviews.read_text() + ",\n,\n")
    trained = tunesmith.train(table, out=tmp_path / "m", model=tiny_bert, epochs=1, progress="quiet")
    account = trained.result["data"]["splits"]["train"]["account"]
    assert (account["dropped_empty"], account["dropped_unlabelled"]) == (2, 0)
    assert trained.bundle.evaluate(table)["rows"] == 120


def test_a_metric_that_is_not_there_says_why(tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    settings = {"model": tiny_bert, "epochs": 1, "max_length": 16, "precision": "fp32", "progress": "quiet"}
    with pytest.raises(KeyError, match=r"^there is no metric 'acuracy'\. Did you mean 'accuracy'\? There are accuracy, ") as caught:
        tunesmith.train(reviews, out=tmp_path / "a", **settings).metrics["acuracy"]
    assert isinstance(caught.value, UsageError)
    trained = tunesmith.train(reviews, out=tmp_path / "b", valid_size=0, test_size=0, **settings)
    assert trained.metrics == {} and trained.metrics.get("accuracy") is None
    with pytest.raises(UsageError, match=r"nothing was evaluated.*valid_size or test_size above 0, or use bundle\.evaluate"):
        trained.metrics["accuracy"]


def test_few_steps_are_named(model: Path) -> None:
    notes = tunesmith.load(model).description["result"]["data"]["notes"]
    assert any("only 3 optimizer steps" in note for note in notes)


def test_labels_that_are_measurements_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "label": f"{i % 20}.5"} for i, row in enumerate(tiny.rows(60))]
    data = tiny.write_csv(tmp_path / "x.csv", rows)
    trained = tunesmith.train(data, out=tmp_path / "m", task="classification", model=tiny_bert, epochs=1, progress="quiet")
    assert any("look like measured values" in note for note in trained.result["data"]["notes"])


def test_labels_that_differ_in_case_and_space_only_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [*tiny.rows(60), *({**row, "label": " Animal"} for row in tiny.rows(5)), {"text": "a", "label": "colour-"}]
    trained = tunesmith.train(tiny.write_csv(tmp_path / "x.csv", rows), out=tmp_path / "m", model=tiny_bert, epochs=1, progress="quiet")
    (said,) = [note for note in trained.result["data"]["notes"] if "same but for case" in note]
    assert "'Animal' (5 rows) and 'animal' (30 rows), 'colour-' (1 row) and 'colour' (30 rows). Spell them alike" in said


def test_groups_that_are_in_training_and_in_a_given_file_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "customer": f"c{i // 4}"} for i, row in enumerate(tiny.rows(60))]
    other = [{**row, "customer": who} for row, who in zip(tiny.rows(6, seed=4), ["c3", "c3", "c5", "new", "", "c99"], strict=True)]
    data, test = tiny.write_csv(tmp_path / "d.csv", rows), tiny.write_csv(tmp_path / "t.csv", other)
    settings = {"model": tiny_bert, "epochs": 1, "group": "customer", "text": "text", "label": "label", "progress": "quiet"}
    settings |= {"valid_size": 0}
    notes = tunesmith.train(data, test=test, out=tmp_path / "a", **settings).result["data"]["notes"]
    assert any(note.startswith("3 of 6 test rows have a 'customer' that is also in training: the score") for note in notes), notes
    without = tiny.write_csv(tmp_path / "n.csv", tiny.rows(6, seed=4))
    for given in (without, None):
        notes = tunesmith.train(data, test=given, out=tmp_path / str(given is None), **settings).result["data"]["notes"]
        assert not any("that is also in training: the score on them may" in note for note in notes), notes


def test_test_rows_in_validation_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    data, other = tiny.write_csv(tmp_path / "d.csv", tiny.rows(40)), tiny.write_csv(tmp_path / "t.csv", tiny.rows(9, seed=4))
    settings = {"model": tiny_bert, "epochs": 1, "max_length": 16, "progress": "quiet"}
    notes = tunesmith.train(data, valid=other, test=other, out=tmp_path / "a", **settings).result["data"]["notes"]
    assert any(note.startswith("9 of 9 test rows have a text that is also in validation, which chooses") for note in notes), notes


def test_a_checkpoint_that_no_validation_chose_is_not_said_to_be_chosen(tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    settings = {"model": tiny_bert, "epochs": 1, "max_length": 16, "valid_size": 0, "progress": "quiet"}
    result = tunesmith.train(reviews, out=tmp_path / "m", **settings).result
    assert "test, " in render_table(result) and "chose the checkpoint" not in render_table(result)
    texts = [(tmp_path / "m" / name).read_text() for name in ("report.html", "README.md")]
    assert not any("chose the checkpoint" in text or "checkpoint was chosen" in text for text in texts)


def test_resuming_a_finished_run_with_other_settings_is_refused(model: Path, reviews: Path, tiny_bert: Path) -> None:
    with pytest.raises(UsageError, match="epochs was 1, now 4"):
        tunesmith.train(reviews, out=model, model=tiny_bert, epochs=4, max_length=16, precision="fp32", resume=True, progress="quiet")


def test_arguments_in_the_wrong_order(model: Path, reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", reviews, model) == 2
    assert f"the model directory comes first: tunesmith predict {model} {reviews}" in capsys.readouterr().err


def test_plain_text_on_standard_input_is_not_taken_for_a_header(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"where is my parcel\n")))
    assert run("predict", model) == 3
    assert "--format txt" in capsys.readouterr().err


@pytest.mark.parametrize(("foreign", "said"), [(4, True), (1, False)])
def test_texts_in_a_script_that_an_english_encoder_does_not_know_are_told(foreign: int, said: bool) -> None:
    texts = ["кошка спит", "красный дом", "猫在睡觉", "红色的房子"][:foreign] + ["a cat sleeps"] * (10 - foreign)
    english = SimpleNamespace(max_length=512, located=SimpleNamespace(kind="bundled", name="all-minilm-l6-v2"))
    notes = remarks(english, open_data([{"text": text, "label": "a"} for text in texts]), Schema(("text",), "label"), Config())  # type: ignore[arg-type]
    assert (notes != []) == said
    assert not said or "40% of the first 10 texts are in Cyrillic and Han script, but all-minilm-l6-v2 knows English" in notes[0]
