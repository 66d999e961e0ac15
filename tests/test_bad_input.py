"""What users do wrong is told in one message: where, what was found, what is allowed, what to do. No traceback, nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from running import Ended, Run
from tunesmith.errors import TunesmithError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, reviews: Path) -> Path:
    """A model directory."""
    import tunesmith

    out = tmp_path_factory.mktemp("trained") / "m"
    tunesmith.train(reviews, out=out, model=tiny_bert, epochs=1, max_length=32, precision="fp32", progress="quiet")
    return out


def refused(ended: Ended, code: int, *parts: str) -> str:
    """The command failed with `code`; its message has all `parts`. Returns the message."""
    assert ended.code == code, ended.err
    assert ended.err.count("error: ") == 1, ended.err
    message = ended.err[ended.err.index("error: ") + 7 :].strip()
    for part in parts:
        assert part in message, message
    return message


ROWS = "text,label\na cat,animal\na red,colour\nthe dog,animal\nthe blue,colour\n"

FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty": ("", ("data.csv: the file is empty", "Write the data to it")),
    "blank": ("\n\n", ("data.csv: the file is empty", "line of column names")),
    "header only": ("text,label\n", ("data.csv has no rows", "header line and one labelled text per line")),
    "wrong encoding": (
        b"text,label\na cat,animal\ncaf\xe9 noir,colour\n",
        ("data.csv:3: byte 0xe9", "is not valid utf-8", "--encoding cp1252", "save the file as UTF-8"),
    ),
    "ragged": ("text,label\na cat,animal\na red, or blue,colour\n", ("data.csv:3: 3 cells where the header names 2", "double quotes")),
    "short row": ("text,label\na cat,animal\nred\n", ("data.csv:3: 1 cell where the header names 2",)),
    "open quote": ('text,label\na cat,animal\n"red,colour\nblue,colour\n', ("data.csv:3: the double quote opened in this line",)),
    "NUL": (b"text,label\na cat,animal\nr\0d,colour\n", ("data.csv:3: a NUL character stands at column 2", "tr -d")),
    "one class": ("text,label\na cat,animal\na dog,animal\n", ("too few labels: 'animal'", "at least 2", "Is --label the right column?")),
    "empty label": (ROWS + "a mouse,\n", ("data.csv:6: no label (1 such row of 5)", "--drop-unlabelled")),
    "huge cell": ("text,label\n" + "x" * 10_000_000 + ",animal\n", ("data.csv:2: a cell of this row is longer than 4,194,304",)),
    "all texts empty": ("text,label\n,animal\n  ,colour\n,animal\n", ("data.csv: no training rows are left", "3 dropped empty")),
    "same column twice": ("text,text,label\na,b,c\n", ("data.csv:1: more than one column is named 'text'", "rename one")),
    "no header": ("the cat,animal\na red,colour\n", ("cannot tell which column is the text", "--text", "Columns: the cat, animal")),
    "an Excel workbook": (b"PK\x03\x04xyz", ("data.csv: this is not text but a ZIP archive", "export the sheet as CSV")),
}


@pytest.mark.parametrize("name", FILES)
def test_training_on_a_bad_file(name: str, run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    content, parts = FILES[name]
    (tmp_path / "data.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = run("train", "data.csv", "--model", tiny_bert, "--out", "m", "--json")
    message = refused(ended, 3, *parts)
    assert json.loads(ended.out) == {"error": message, "exit_code": 3}
    assert not (tmp_path / "m").exists()


def test_nan_labels(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    lines = [{"text": "a cat", "label": "animal"}, {"text": "red", "label": float("nan")}, {"text": "blue", "label": None}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused(run("train", "data.jsonl", "--model", tiny_bert), 3, "data.jsonl:2, data.jsonl:3: no label (2 such rows of 3)", "Fill them in")


def test_python_is_told_of_settings_and_the_command_line_of_flags(run: Run, tiny_bert: Path, trained: Path, tmp_path: Path) -> None:
    import tunesmith

    (tmp_path / "d.csv").write_text(ROWS)
    bad = {
        "empty.csv": (ROWS + "a mouse,\n", "drop_unlabelled=True", "--drop-unlabelled"),
        "one.csv": ("text,label\na cat,x\na dog,x\n", "Is label the right", "Is --label the right"),
        "latin.csv": (b"text,label\ncaf\xe9 noir,x\n", "pass encoding='cp1252'", "pass --encoding cp1252"),
        "columns.csv": ("one,two,three\na,b,c\n", "Say it with text.", "Say it with --text."),
    }
    for name, (content, python, flag) in bad.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(TunesmithError) as caught:
            tunesmith.train(tmp_path / name, model=tiny_bert, out=tmp_path / "m", progress="quiet")
        assert python in str(caught.value) and "--" not in str(caught.value)
        refused(run("train", name, "--model", tiny_bert, "--out", "m"), 3, flag)
    with pytest.raises(TunesmithError) as caught:
        tunesmith.train(tmp_path / "d.csv", model=tiny_bert, out=trained, progress="quiet")
    assert "overwrite=True to replace it, or another out." in str(caught.value) and "--" not in str(caught.value)
    with pytest.raises(TunesmithError) as caught:
        tunesmith.train(tmp_path / "d.csv", model=tiny_bert, metric="lrap", progress="quiet")
    assert str(caught.value).startswith("metric 'lrap' is not one of those for single-label")


def test_empty_cells_where_rows_have_several_labels(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    advice = "A row that has none of the labels is written in JSONL, with an empty list []"
    lines = [f"{text},{label}\n" for text, label in zip("abcdefgh", ["x|y", "x", "y", "y|x"] * 2, strict=True)]
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(lines) + "i,\n")
    refused(run("train", "d.csv", "--model", tiny_bert), 3, "d.csv:10: no label (1 such row of 9)", advice)
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": ["x"]}\n{"text": "b", "label": ["y"]}\n{"text": "c", "label": null}\n')
    refused(run("train", "d.jsonl", "--model", tiny_bert), 3, "d.jsonl:3: no label (1 such row of 3)", advice)
    (tmp_path / "one.csv").write_text(ROWS + "a mouse,\n")
    assert advice not in refused(run("train", "one.csv", "--model", tiny_bert), 3, "one.csv:6: no label")


def test_missing_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(ROWS)
    refused(run("train", "review.csv"), 3, "review.csv: there is no such file", "Did you mean reviews.csv?")
    refused(run("train", "no/where.csv"), 3, "Nor is there a directory no", f"working directory is {tmp_path}")
    refused(run("train", "reviews.csv", "--test", "tset.csv"), 3, "tset.csv: there is no such file")
    refused(run("train", "."), 3, "this is a directory", "It holds reviews.csv")
    refused(run("check", "review.csv"), 3, "Did you mean reviews.csv?")
    refused(run("walk", "review.csv"), 3, "Did you mean reviews.csv?")
    (tmp_path / "data.json").write_text("[]")
    refused(run("train", "data.json"), 3, "there are no rows in this JSON file", "a list of rows")


def test_standard_input_where_a_file_is_needed(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    for command, *more in (("train",), ("train", "--test"), ("train", "--valid"), ("check",), ("check", "--test"), ("walk",)):
        arguments = ["d.csv", more[0], "-"] if more else ["-"]
        parts = (f"tunesmith {command} reads its data more than once", f"... > rows.csv && tunesmith {command} rows.csv")
        refused(run(command, *arguments, stdin=ROWS.encode()), 2, *parts)
    refused(run("evaluate", trained, "-", stdin=ROWS.encode()), 2, "tunesmith evaluate DIR reads its data more than once")


def test_missing_and_ambiguous_columns(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("revew,sentiment,stars\na cat,good,1\n")
    refused(
        run("train", "d.csv", "--text", "review"), 3, "no text column 'review'", "Did you mean 'revew'?", "Columns: revew, sentiment, stars"
    )
    refused(run("train", "d.csv", "--text", "revew", "--label", "star"), 3, "no label column 'star'", "Did you mean 'stars'?")
    refused(run("train", "d.csv", "--group", "customer"), 3, "no group column 'customer'")
    (tmp_path / "g.csv").write_text(ROWS)
    for column in ("text", "label"):
        refused(run("train", "g.csv", "--group", column), 3, f"which column is the {column}", f"'{column}' cannot be it: --group names it")
    (tmp_path / "e.csv").write_text("one,two,three\na,b,c\n")
    refused(run("train", "e.csv"), 3, "cannot tell which column is the text", "--text", "Columns: one, two, three")
    (tmp_path / "f.csv").write_text(ROWS)
    refused(run("train", "f.csv", "--test", "e.csv", "--model", tiny_bert), 3, "e.csv", "Columns: one, two, three")


def test_data_errors_come_before_torch(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label,label\n")
    script = "import sys\nfrom tunesmith.cli.app import main\ntry:\n    main(sys.argv[1:])\nfinally:\n    print('torch' in sys.modules)"
    for arguments in (["d.csv"], ["gone.csv"], ["--lr", "x"]):
        done = subprocess.run([sys.executable, "-c", script, "train", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode in (2, 3) and done.stdout.strip() == "False", done.stderr


def test_a_label_that_training_lacks(run: Run, tiny_bert: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    (tmp_path / "v.csv").write_text("text,label\na cat,animal\na dog,animla\n")
    parts = ("v.csv:3: label 'animla' is not one of the training labels: animal, colour", "Did you mean 'animal'?", "Correct it")
    refused(run("train", "d.csv", "--valid", "v.csv", "--model", tiny_bert), 3, *parts)
    refused(run("evaluate", trained, "v.csv"), 3, *parts)


def test_wrong_settings_all_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    flags = [
        "--lr",
        "-1",
        "--epochs",
        "many",
        "--batch-size",
        "0",
        "--truncation",
        "heads",
        "--metric",
        "acuracy",
        "--max-grad-norm",
        "nan",
    ]
    message = refused(run("train", "d.csv", *flags), 2, "6 settings are wrong", "--lr is '-1'", "a number above 0", "--epochs is 'many'")
    assert "--batch-size is '0'" in message and "Did you mean 'head'?" in message and "Did you mean 'accuracy'?" in message
    assert "--max-grad-norm" in message
    refused(run("train", "d.csv", "--valid-size", "0.6", "--test-size", "0.5"), 2, "leave no training rows", "below 1")
    refused(run("train", "d.csv", "--truncation", "windows", "--max-length", "16", "--stride", "14"), 2, "stride 14", "--max-length 16")
    refused(run("train", "d.csv", "--class-weights", "a=b"), 2, "--class-weights", "'a=b' is not LABEL=NUMBER")
    refused(run("train", "d.csv", "--encoding", "utf-9"), 2, "encoding 'utf-9' is not known", "Did you mean 'utf-8'?")
    refused(run("train", "d.csv", "--text", "text", "--label", "text"), 2, "same column 'text'")


def test_a_metric_that_the_validation_rows_do_not_allow(run: Run, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found before the first step, not at the end of an epoch."""

    def step(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was made")

    monkeypatch.setattr("tunesmith.training.loop.train_steps", step)
    (tmp_path / "d.csv").write_text(ROWS)
    (tmp_path / "v.csv").write_text("text,label\na cat,animal\na dog,animal\n")
    flags = ("--valid", "v.csv", "--test-size", 0, "--model", tiny_bert, "--out", "m")
    message = refused(
        run("train", "d.csv", "--metric", "roc_auc", *flags), 3, "v.csv: --metric 'roc_auc' cannot be computed", "labels are 'animal' 2."
    )
    assert "or another --metric: accuracy, " in message and "roc_auc" not in message.split("another")[1]
    (tmp_path / "d.csv").write_text(ROWS.replace("animal", "animal|x"))
    (tmp_path / "v.csv").write_text("text,label\na cat,animal|colour|x\na dog,x|animal|colour\n")
    refused(run("train", "d.csv", "--label-type", "multi", "--metric", "roc_auc", *flags), 3, "'roc_auc' cannot be computed", "lrap")


def test_wrong_command_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    refused(run("train", "d.csv", "--epoch", "3"), 2, "No such option: --epoch", "--epochs", "tunesmith train --help")
    refused(run("trian"), 2, "trian", "train")
    refused(run("train"), 2, "no data", "tunesmith train reviews.csv")
    refused(run("predict"), 2, "DIR")
    refused(run("walk", "d.csv", "--row", "0"), 2, "--row")
    ended = run("train", "d.csv", "--epoch", "3", "--json")
    assert json.loads(ended.out)["exit_code"] == 2 and "--epoch" in json.loads(ended.out)["error"]


def test_wrong_recipes(run: Run, tmp_path: Path) -> None:
    refused(run("train", "r.toml"), 2, "recipe r.toml does not exist")
    (tmp_path / "r.toml").write_text('train = "d.csv\n')
    refused(run("train", "r.toml"), 2, "recipe r.toml is not valid TOML", "line 1")
    (tmp_path / "r.toml").write_text('train = "d.csv"\nepoch = 3\nlr = "fast"\nlearn = 1\n')
    message = refused(run("train", "r.toml"), 2, "3 settings are wrong", "unknown setting 'epoch'", "Did you mean 'epochs'?")
    assert "unknown setting 'learn'" in message and "r.toml: lr is 'fast'" in message
    (tmp_path / "r.toml").write_bytes(b'train = "caf\xe9.csv"\n')
    refused(run("train", "r.toml"), 2, "r.toml is not valid TOML")
    (tmp_path / "x.toml").mkdir()
    refused(run("train", "x.toml"), 2, "x.toml cannot be read")
    (tmp_path / "r.toml").write_text("epochs = 3\n")
    refused(run("train", "r.toml"), 2, "no training data")
    (tmp_path / "r.toml").write_text('[train]\nfile = "d.csv"\n')
    refused(run("train", "r.toml"), 2, "r.toml: train is a section, but a recipe is flat")


def test_models_that_cannot_be_had(run: Run, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "d.csv").write_text(ROWS)

    def train(model: object) -> Ended:
        return run("train", "d.csv", "--model", model, "--out", "m", "--epochs", 1)

    message = refused(train("all-minilm-l6-v3"), 4, "'all-minilm-l6-v3' was not found", "Did you mean 'all-minilm-l6-v2'?")
    assert f"a directory: {tmp_path}/all-minilm-l6-v3" in message and f"hub cache: {tmp_path}/hub" in message
    assert "leave --model out" in message
    refused(train("./no/such"), 4, "no model directory no/such")
    (tmp_path / "empty").mkdir()
    refused(train("empty"), 4, "empty is a directory but no model", "no config.json", "no files")
    for case in ("bare", "pickle", "damaged", "cut"):
        shutil.copytree(tiny_bert, tmp_path / case)
        weights = tmp_path / case / "model.safetensors"
        if case == "cut":
            weights.write_bytes(weights.read_bytes()[:-1000])
        elif case == "damaged":
            weights.write_bytes(b"\xff" * 1000)
        else:
            weights.unlink()
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for case in ("bare", "pickle", "damaged", "cut"):
        refused(train(case), 4, case, "safetensors")
        assert not (tmp_path / "m" / "tunesmith.json").exists()
    refused(train("pickle"), 4, "Pickled weights (.bin) are never read", "save_pretrained")
    shutil.copytree(tiny_bert, tmp_path / "config")
    (tmp_path / "config" / "config.json").write_text("{")
    refused(train("config"), 4, "config", "cannot be loaded")
    # none of these attempts stands in the way of the next one
    assert run("train", "d.csv", "--model", tiny_bert, "--out", "m", "--epochs", 1, "-q").code == 0


def test_directories_that_are_no_model(run: Run, trained: Path, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    (tmp_path / "other").mkdir()
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    shutil.copytree(trained, tmp_path / "damaged")
    (tmp_path / "damaged" / "tunesmith.json").write_text((trained / "tunesmith.json").read_text()[:500])
    for command in ("evaluate", "predict"):
        refused(run(command, "nowhere", "d.csv"), 4, "there is no model directory nowhere", "--out")
        refused(run(command, "other", "d.csv"), 4, "other is no model directory: it has no tunesmith.json")
        refused(run(command, "unfinished", "d.csv"), 4, "unfinished was not finished", "tunesmith train --resume --out unfinished")
        refused(run(command, "damaged", "d.csv"), 4, "damaged/tunesmith.json is damaged", "Restore it from a copy")
        refused(run(command, tiny_bert, "d.csv"), 4, "a transformers model that tunesmith did not train", "--model")
    for content in ("[]", "null", '{"format": 1}', '{"format": "x"}', '{"format": 99}'):
        (tmp_path / "damaged" / "tunesmith.json").write_text(content)
        refused(run("predict", "damaged", "d.csv"), 4, "damaged/tunesmith.json")
    (tmp_path / "damaged" / "tunesmith.json").write_bytes(b"\xff\xff")
    refused(run("predict", "damaged", "d.csv"), 4, "damaged/tunesmith.json is damaged")


@pytest.mark.parametrize("damage", ["weights gone", "weights cut", "no tokenizer", "nonsense inside"])
def test_damaged_model_directories(damage: str, run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    shutil.copytree(trained, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    if damage == "weights gone":
        weights.unlink()
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no tokenizer":
        (tmp_path / "m" / "tokenizer.json").unlink()
    else:
        description = json.loads((tmp_path / "m" / "tunesmith.json").read_text())
        description["task"] = {"labels": 3}
        (tmp_path / "m" / "tunesmith.json").write_text(json.dumps(description))
    refused(run("predict", "m", "d.csv"), 4, "m")


def test_out_that_may_not_be_written(run: Run, trained: Path, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    before = {path.name: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    refused(run("train", "d.csv", "--out", trained, "--model", tiny_bert), 5, f"{trained} is not empty", "--overwrite", "another --out")
    assert {path.name: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    refused(run("train", "d.csv", "--out", "d.csv", "--model", tiny_bert), 5, "d.csv is a file", "--out must name a directory")
    refused(run("train", "d.csv", "--out", "d.csv/m", "--model", tiny_bert), 5, "d.csv is a file", "--out must name a directory")
    refused(run("train", "d.csv", "--out", "/proc/m", "--model", tiny_bert), 5, "cannot write /proc/m", "another place")
    assert (tmp_path / "d.csv").read_text() == ROWS


def test_an_unwritable_cache(run: Run, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "d.csv"))
    refused(run("train", "d.csv", "--model", tiny_bert, "--out", "m"), 5, "cannot write", "TUNESMITH_CACHE names another directory")


def test_predicting_where_it_cannot_be(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    (tmp_path / "link.csv").symlink_to("d.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "d.csv")
    for output in ("d.csv", "./d.csv", "link.csv", "hard.csv"):
        refused(run("predict", trained, "d.csv", "-o", output), 2, "--output names the input file d.csv", "another file")
    refused(run("predict", trained, "d.csv", "-o", "p.xlsx"), 2, "extension '.xlsx'", ".parquet")
    refused(run("predict", trained, "d.csv", "-o", "p"), 2, "a name without extension", ".csv")
    (tmp_path / "out.csv").mkdir()
    refused(run("predict", trained, "d.csv", "-o", "out.csv"), 5, "out.csv: it is a directory")
    refused(run("predict", trained, "d.csv", "-o", "d.csv/p.csv"), 5, "cannot write", "d.csv/p.csv", "another place")
    (tmp_path / "two.csv").write_text("a,b\nx,y\n")
    refused(run("predict", trained, "two.csv"), 3, "cannot tell which column is the text", "--text", "Columns: a, b")
    refused(run("predict", trained, "two.csv", "--text", "c"), 3, "no text column 'c'")
    refused(run("predict", trained, "d.csv", "--precision", "fp8"), 2, "--precision is 'fp8'", "fp32, bf16 or auto")
    refused(run("predict", trained, "d.csv", "--format", "xml"), 2, "format 'xml' is not one of")
    refused(run("predict", trained, "-", stdin=b""), 3, "<stdin>: the file is empty")
    refused(run("predict", trained, "-", stdin=b"text\na cat\nx,y\n"), 3, "<stdin>:3: 2 cells")
    assert (tmp_path / "d.csv").read_text() == ROWS


def test_a_test_says_which_rows_have_no_text(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "blank.csv").write_text(ROWS + ',animal\n"  ",animal\n')
    done = run("evaluate", trained, "blank.csv")
    assert done.code == 0 and "2 rows of blank.csv have no text (first: line" in done.err and "counts in the figures" in done.err
    (tmp_path / "whole.csv").write_text(ROWS)
    assert "no text" not in run("evaluate", trained, "whole.csv").err


def test_a_failed_prediction_keeps_the_earlier_file(run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.csv").write_text(ROWS)
    (tmp_path / "bad.csv").write_text(ROWS + "one,two,three\n")
    assert run("predict", trained, "good.csv", "-o", "p.csv").code == 0
    before = (tmp_path / "p.csv").read_bytes()
    refused(run("predict", trained, "bad.csv", "-o", "p.csv", "--overwrite"), 3, "bad.csv:6: 3 cells")
    assert (tmp_path / "p.csv").read_bytes() == before

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunesmith.data.writers._CsvSink.close", full)
    refused(run("predict", trained, "good.csv", "-o", "p.csv", "--overwrite"), 5, "cannot write p.csv: the disk is full")
    assert (tmp_path / "p.csv").read_bytes() == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_evaluating_what_has_no_labels(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\na cat,animal\na dog,\n")
    refused(run("evaluate", trained, "d.csv"), 3, "d.csv:3: no label (1 such row", "Fill them in or remove", "--drop-unlabelled")
    (tmp_path / "n.csv").write_text("text,label\na cat,\na dog,\n")
    refused(run("evaluate", trained, "n.csv", "--drop-unlabelled"), 3, "n.csv: none of its 2 rows has a label")
    (tmp_path / "e.csv").write_text("text,one,two\na cat,x,y\n")
    refused(run("evaluate", trained, "e.csv"), 3, "which column is the label", "Columns: text, one, two")
    (tmp_path / "h.csv").write_text("text,label\n")
    refused(run("evaluate", trained, "h.csv"), 3, "h.csv has no rows")


def test_walking_to_a_row_that_is_not_there(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(ROWS)
    refused(run("walk", "d.csv", "--row", "7", "--model", tiny_bert), 3, "d.csv has 4 rows; there is no row 7")


def test_a_fault_of_our_own(run: Run, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text(ROWS)

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("tunesmith.recipe.prepare", broken)
    ended = run("train", "d.csv", "--model", tiny_bert, "--json")
    message = refused(ended, 70, "a fault of tunesmith itself: ZeroDivisionError: planted", "TUNESMITH_DEBUG=1", "report it")
    assert json.loads(ended.out) == {"error": message, "exit_code": 70}


def test_interrupted(run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text(ROWS)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunesmith.bundle.Bundle.load", stop)
    refused(run("predict", trained, "d.csv"), 130, "stopped")
    assert json.loads(run("evaluate", trained, "d.csv", "--json").out) == {"error": "stopped.", "exit_code": 130}
