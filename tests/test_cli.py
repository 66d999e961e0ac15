"""The command line as it should be used: files and pipes in, files and pipes out."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
import tunesmith
from tunesmith.cli.app import main
from tunesmith.data.readers import open_file

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line that ends well, in this process and the temporary directory; returns stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object, stdin: bytes = b"") -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert end.value.code == 0, captured.err
        return captured.out, captured.err

    return command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, reviews: Path) -> Path:
    """A model of one label a row."""
    out = tmp_path_factory.mktemp("trained") / "m"
    tunesmith.train(reviews, out=out, model=tiny_bert, epochs=4, lr=5e-3, batch_size=8, max_length=32, precision="fp32", progress="quiet")
    return out


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A model of any number of labels a row, joined by a semicolon."""
    directory = tmp_path_factory.mktemp("several")
    one, two = tiny.rows(120, seed=1), tiny.rows(120, seed=2, labels=("colour", "animal", "animal"))
    rows = [
        {"text": f"{a['text']} {b['text']}", "label": ";".join(dict.fromkeys((a["label"], b["label"])))}
        for a, b in zip(one, two, strict=True)
    ]
    out = directory / "m"
    data = tiny.write_csv(directory / "d.csv", rows)
    tunesmith.train(data, out=out, model=tiny_bert, epochs=1, max_length=32, precision="fp32", progress="quiet")
    return out


TABLE = [{"id": f"{i:02}", "text": row["text"], "note": f'a "quoted", note {i}'} for i, row in enumerate(tiny.rows(12, seed=9))]


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def one_json_line(out: str) -> Any:
    """The only line of stdout, as JSON in the strict sense."""
    assert out.endswith("\n") and out.count("\n") == 1, out

    def no(value: str) -> None:
        raise AssertionError(f"{value} is no JSON")

    return json.loads(out, parse_constant=no)


def expected(model: Path) -> list[Any]:
    return tunesmith.load(model).predict([row["text"] for row in TABLE])


# train


def test_train_prints_guessed_columns_and_the_result(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "d.csv", [{"nr": i, "review": row["text"], "sentiment": row["label"]} for i, row in enumerate(tiny.rows(60))])
    out, err = run("train", "d.csv", "--model", tiny_bert, "--epochs", 1, "--max-length", 32)
    assert "columns of d.csv: text 'review', label 'sentiment'" in err
    assert "one of 2 labels a row" in err and "--label-type multi if that is wrong" in err
    assert "accuracy" in out and "majority class" in out and "model: runs/d" in out
    assert "split off 10% of d.csv, stratified by label" in err
    _, err = run("train", "d.csv", "--model", tiny_bert, "--epochs", 1, "--text", "review", "--label", "sentiment", "-q")
    assert err == "" and (tmp_path / "runs" / "d-2" / "tunesmith.json").is_file()


def test_train_json_is_one_line(run: Run, tiny_bert: Path, reviews: Path) -> None:
    out, err = run("train", reviews, "--model", tiny_bert, "--epochs", 1, "--max-length", 32, "--out", "m", "--json")
    found = one_json_line(out)
    assert found["out"] == "m" and found["labels"] == ["animal", "colour"]
    assert 0 <= found["test"]["accuracy"] <= 1 and 0 <= found["valid"]["accuracy"] <= 1
    assert found["training"]["steps"] == 3 and "majority class" in err


def test_train_without_any_test_or_validation_rows(run: Run, tiny_bert: Path, reviews: Path) -> None:
    sizes = ("--valid-size", 0, "--test-size", 0)
    out, _ = run("train", reviews, "--model", tiny_bert, "--epochs", 1, "--max-length", 32, "-o", "m", "--json", *sizes)
    found = one_json_line(out)
    assert found["test"] is None and found["valid"] is None
    one_json_line(run("evaluate", "m", reviews, "--json")[0])


def test_train_on_as_few_rows_as_can_be(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "d.csv", tiny.rows(2))
    out, err = run("train", "d.csv", "--model", tiny_bert, "--epochs", 1, "--out", "m", "--json")
    assert one_json_line(out)["test"] is None and "too few to split" in err


def test_recipe_with_flags_over_it(run: Run, tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.csv").write_bytes(reviews.read_bytes())
    recipe = f'train = "d.csv"\nmodel = "{tiny_bert}"\nepochs = 7\nmax-length = 32\nbatch_size = 24\nout = "m"\n'
    (tmp_path / "sub" / "r.toml").write_text(recipe)
    run("train", "sub/r.toml", "--epochs", 1, "--class-weights", "animal=2,colour=1")
    resolved = json.loads((tmp_path / "sub" / "m" / "tunesmith.json").read_text())["result"]["recipe"]
    assert (resolved["epochs"], resolved["max_length"], resolved["batch_size"]) == (1, 32, 24)
    assert resolved["class_weights"] == {"animal": 2.0, "colour": 1.0}


def test_overwrite(run: Run, tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    flags = ("train", reviews, "--model", tiny_bert, "--epochs", 1, "--max-length", 32, "--out", "m")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("keep")
    run(*flags, "--overwrite")
    first = (tmp_path / "m" / "model.safetensors").read_bytes()
    run(*flags, "--overwrite", "--seed", 1)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() != first
    assert (tmp_path / "m" / "mine.txt").read_text() == "keep"


# predict


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_predict_keeps_columns_and_order(suffix: str, run: Run, trained: Path, tmp_path: Path) -> None:
    data = tiny.write_csv(tmp_path / "new.csv", TABLE)
    _, err = run("predict", trained, data, "-o", f"out.{suffix}")
    assert "wrote 12 rows to" in err
    path = tmp_path / f"out.{suffix}"
    if suffix == "parquet":
        table = pq.read_table(path)
        columns, rows = table.column_names, table.to_pylist()
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = list(rows[0])
    else:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if suffix == "tsv" else ","))
        columns = list(rows[0])
    plain = suffix in ("csv", "tsv")
    assert columns == ["id", "text", "note", "label", "probability", *([] if plain else ["probabilities"])]
    assert [{key: row[key] for key in ("id", "text", "note")} for row in rows] == TABLE
    for row, prediction in zip(rows, expected(trained), strict=True):
        assert row["label"] == prediction.label
        assert float(row["probability"]) == prediction.probability
        if not plain:
            assert dict(row["probabilities"]) == prediction.probabilities


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16"), ("|", "utf-8")])
def test_predict_writes_csv_as_it_was_given(run: Run, trained: Path, tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [["nr, as given, or not; by hand, or not", "text"], ["1", 'a "red" cat, old; new'], ["2", "düster"]]
    with (tmp_path / "new.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    run("predict", trained, "new.csv", "-o", "out.csv")
    assert (tmp_path / "out.csv").read_bytes().startswith(codecs.BOM_UTF8) == (encoding != "utf-8")
    found = list(csv.reader((tmp_path / "out.csv").read_text(encoding="utf-8-sig").splitlines(), delimiter=delimiter))
    assert [row[:2] for row in found] == rows and found[0][2:] == ["label", "probability"]
    out, _ = run("predict", trained, "new.csv")
    assert next(csv.reader([out.splitlines()[0]], delimiter=delimiter)) == found[0]
    assert open_file(tmp_path / "out.csv").columns == tuple(found[0])


def test_predict_all_writes_every_probability_in_csv(run: Run, trained: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "new.csv", TABLE)
    out, _ = run("predict", trained, "new.csv", "--all")
    for row, prediction in zip(read_csv(out), expected(trained), strict=True):
        assert json.loads(row["probabilities"]) == prediction.probabilities
        assert max(prediction.probabilities.values()) == prediction.probability


def test_predict_from_parquet_and_arrow(run: Run, trained: Path, tmp_path: Path) -> None:
    rows = [{**row, "number": i, "list": [i, None]} for i, row in enumerate(TABLE)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    run("predict", trained, "new.parquet", "-o", "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    out, _ = run("predict", trained, "new.parquet")
    assert [json.loads(line)["label"] for line in out.splitlines()] == [prediction.label for prediction in expected(trained)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tsv", "txt"])
def test_pipe_to_pipe_has_the_format_of_the_input(kind: str, run: Run, trained: Path) -> None:
    texts = [row["text"] for row in TABLE]
    labels = [prediction.label for prediction in expected(trained)]
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        stdin = f"id{mark}text\n" + "".join(f"{i}{mark}{text}\n" for i, text in enumerate(texts))
    elif kind == "jsonl":
        stdin = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))
    else:
        stdin = "\n".join(texts)
    flags = ("--format", kind) if kind in ("txt", "tsv") else ()
    out, _ = run("predict", trained, *flags, stdin=stdin.encode())
    if kind in ("csv", "tsv"):
        rows: list[Any] = list(csv.DictReader(io.StringIO(out), delimiter="," if kind == "csv" else "\t"))
    else:
        rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == texts and [row["label"] for row in rows] == labels
    if kind != "txt":
        assert [str(row["id"]) for row in rows] == [str(i) for i in range(12)]


def test_a_column_of_the_input_is_never_overwritten(run: Run, trained: Path, reviews: Path) -> None:
    out, err = run("predict", trained, reviews)
    rows = read_csv(out)
    assert list(rows[0]) == ["text", "label", "predicted_label", "probability"]
    assert [(row["text"], row["label"]) for row in rows] == [(row["text"], row["label"]) for row in tiny.rows(120)]
    assert "the input has a column 'label' already; the predicted one is written as 'predicted_label'" in err
    again, err = run("predict", trained, stdin=out.encode())
    assert list(read_csv(again)[0]) == [*rows[0], "predicted_predicted_label", "predicted_probability"]
    assert [row["predicted_predicted_label"] for row in read_csv(again)] == [row["predicted_label"] for row in rows]


def test_another_text_column_is_named_or_told(run: Run, trained: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "new.csv", [{"sentence": row["text"], "id": row["id"]} for row in TABLE])
    out, err = run("predict", trained, "new.csv")
    assert "no column 'text' as in training; the text is taken from 'sentence'" in err
    assert [row["label"] for row in read_csv(out)] == [prediction.label for prediction in expected(trained)]
    assert run("predict", trained, "new.csv", "--text", "sentence") == (out, "")


def test_keys_of_later_rows_are_not_lost_in_silence(run: Run, trained: Path) -> None:
    lines = ({"text": "a cat"}, {"text": "red", "id": 7})
    source = "".join(json.dumps(line) + "\n" for line in lines).encode()
    out, _ = run("predict", trained, stdin=source)
    assert [json.loads(line).get("id") for line in out.splitlines()] == [None, 7]
    _, err = run("predict", trained, "-q", "-o", "x.csv", stdin=source)  # a table has one set of columns; what it cannot hold is said
    assert "not written, as the first row does not have them: id" in err


def test_empty_texts_and_no_rows(run: Run, trained: Path, tmp_path: Path) -> None:
    out, _ = run("predict", trained, stdin=b"id,text\n1,\n2,a cat\n3,   \n")
    assert [row["id"] for row in read_csv(out)] == ["1", "2", "3"] and all(row["label"] for row in read_csv(out))
    assert run("predict", trained, stdin=b"id,text\n")[0] == "id,text,label,probability\n"
    for suffix in ("csv", "jsonl", "parquet"):
        (tmp_path / "none.csv").write_text("id,text\n")
        run("predict", trained, "none.csv", "-o", f"none.{suffix}.{suffix}")
    assert pq.read_table(tmp_path / "none.parquet.parquet").num_rows == 0


def test_one_row_is_no_rows(run: Run, trained: Path, tmp_path: Path) -> None:
    one = tiny.write_csv(tmp_path / "d.csv", [{"text": "a red cat " * 20, "label": "animal"}])
    said = run("predict", trained, one, "-o", "o.csv")[1] + "".join(run("evaluate", trained, one)) + "".join(run("check", one))
    assert "wrote 1 row to" in said and "1 of 1 text was longer" in said and "test, 1 row " in said and "1 of 1 row used" in said
    assert "d.csv: 1 row," in said
    assert not re.search(r"\b1 (rows|texts|labels|sequences|steps)\b", said), said


def test_several_labels_out(run: Run, several: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "new.csv", TABLE)
    predictions = expected(several)
    out, _ = run("predict", several, "new.csv")
    for row, prediction in zip(read_csv(out), predictions, strict=True):
        assert row["label"] == ";".join(prediction.label)
        values = [float(value) for value in row["probability"].split(";") if value]
        assert values == pytest.approx(prediction.probability, rel=1e-5)
    for suffix in ("jsonl", "parquet"):
        run("predict", several, "new.csv", "-o", f"out.{suffix}")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, other, prediction in zip(rows, pq.read_table(tmp_path / "out.parquet").to_pylist(), predictions, strict=True):
        assert row["label"] == other["label"] == prediction.label
        assert row["probability"] == other["probability"] == prediction.probability
        assert row["probabilities"] == dict(other["probabilities"]) == prediction.probabilities


def test_several_labels_as_lists(run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    labels = [["a"], ["a", "b"], [], ["b"]]
    lines = [json.dumps({"text": row["text"], "labels": labels[i % 4]}) + "\n" for i, row in enumerate(tiny.rows(60))]
    (tmp_path / "d.jsonl").write_text("".join(lines))
    out, err = run("train", "d.jsonl", "--model", tiny_bert, "--epochs", 1, "--max-length", 32, "--out", "m", "--json")
    assert "any number of 2 labels a row" in err and one_json_line(out)["labels"] == ["a", "b"]
    out, _ = run("predict", "m", "d.jsonl")
    first = json.loads(out.splitlines()[0])
    assert first["labels"] == ["a"] and isinstance(first["label"], list) and set(first["probabilities"]) == {"a", "b"}
    one_json_line(run("evaluate", "m", "d.jsonl", "--json")[0])


# evaluate, check, walk, models


def test_evaluate(run: Run, trained: Path, reviews: Path) -> None:
    out, _ = run("evaluate", trained, reviews)
    assert "test, 120 rows" in out and "accuracy" in out
    out, err = run("evaluate", trained, reviews, "--json")
    found = one_json_line(out)
    assert found["rows"] == 120 and found["metrics"]["accuracy"] == 1.0 and "accuracy" in err
    assert found["metrics"] == tunesmith.load(trained).evaluate(reviews)["metrics"]


def test_evaluate_on_texts_that_are_cut(run: Run, trained: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "d.csv", [{**row, "text": row["text"] * 20} for row in tiny.rows(8)])
    assert "Texts over 32 tokens were cut" in run("evaluate", trained, "d.csv")[0]


def test_evaluate_leaves_unlabelled_rows_out_when_told(run: Run, trained: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "d.csv", [*tiny.rows(8), {"text": "a cat", "label": ""}, {"text": "", "label": ""}])
    out, _ = run("evaluate", trained, "d.csv", "--drop-unlabelled")
    assert "8 of 10 rows used" in out and "1 unlabelled dropped" in out and "1 empty dropped" in out
    account = one_json_line(run("evaluate", trained, "d.csv", "--drop-unlabelled", "--json")[0])["account"]
    assert (account["rows_used"], account["dropped_empty"], account["dropped_unlabelled"]) == (8, 1, 1)


def test_evaluate_on_rows_of_one_label(run: Run, trained: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "d.csv", tiny.rows(8, labels=("animal",)))
    found = one_json_line(run("evaluate", trained, "d.csv", "--json")[0])
    assert found["metrics"]["accuracy"] == 1.0


def test_check(run: Run, tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    twice = tiny.write_csv(tmp_path / "d.csv", [*tiny.rows(60), *tiny.rows(3), {"text": "", "label": "animal"}])
    out, err = run("check", twice, "--model", tiny_bert, "--test", reviews)
    assert "columns: text 'text', label 'label'" in err and "64 rows" in out and "animal" in out
    found = one_json_line(run("check", twice, "--model", tiny_bert, "--json")[0])
    assert found["findings"] and found["rows"] == 64


def test_check_strict_ends_with_3_on_an_error_only(run: Run, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noted = tiny.write_csv(tmp_path / "noted.csv", [*tiny.rows(60), *tiny.rows(3)])
    out, _ = run("check", noted, "--model", tiny_bert, "--strict")
    assert "1 warning" in out and "error" not in out
    one_class = tiny.write_csv(tmp_path / "one.csv", tiny.rows(30, labels=("animal",)))
    run("check", one_class, "--model", tiny_bert)
    for more in ([], ["--json"]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["check", str(one_class), "--model", str(tiny_bert), "--strict", *more])
        captured = capsys.readouterr()
        assert end.value.code == 3 and "1 error" in captured.out + captured.err
    assert one_json_line(captured.out)["findings"][0]["severity"] == "error"


def test_walk_through_a_trained_model(run: Run, trained: Path, reviews: Path) -> None:
    row = tiny.rows(120)[16]
    out, _ = run("walk", reviews, "--row", "17", "--model", trained)
    assert f"{reviews}:18, row 17" in out and row["text"] in out
    prediction = tunesmith.load(trained).predict(row["text"])
    assert f"label: {prediction.label!r} (right)" in out and f"{prediction.label}: {prediction.probability:.4f}" in out
    stages = ("1 source", "2 schema", "3 tokens", "4 truncation", "5 batch", "6 encoder", "7 head", "8 prediction")
    places = [out.index(stage) for stage in stages]
    assert places == sorted(places)


def test_walk_through_a_bare_encoder(run: Run, tiny_bert: Path, reviews: Path) -> None:
    out, _ = run("walk", reviews, "--model", tiny_bert, "--max-length", "8")
    assert "UNTRAINED" in out and "LOST" in out


def test_models(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--some--thing" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 3, "hidden_size": 48}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    out, err = run("models")
    assert "all-minilm-l6-v2" in out and "default" in out and "some/thing" in out and "3 layers, width 48" in out
    assert str(tmp_path / "hub") in err
    names = [row["name"] for row in one_json_line(run("models", "--json")[0])]
    assert names == ["all-minilm-l6-v2", "some/thing"]


def test_version_and_help(run: Run) -> None:
    assert run("--version")[0] == f"tunesmith {tunesmith.__version__}\n"
    out, _ = run("train", "--help")
    assert "--resume" in out and "--max-length" in out


# whole processes


def piped(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)


def test_head_closes_the_pipe(trained: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "many.csv", [{"text": row["text"]} for row in tiny.rows(9000)])
    done = piped(f"python -m tunesmith predict {trained} many.csv -q | head -1", tmp_path)
    assert done.stdout == "text,label,probability\n"
    assert done.stderr == "" and done.returncode == 0


def test_work_that_nobody_hears_of_any_more_is_no_success(tiny_bert: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "rows.csv", tiny.rows(60))
    command = f"python -m tunesmith train rows.csv --model {tiny_bert} --epochs 30 --batch-size 2 --max-length 16 --out m 2>&1 | head -1"
    done = piped(command, tmp_path)
    assert done.returncode == 141 and not (tmp_path / "m" / "tunesmith.json").exists()


def test_a_reader_that_reads_nothing(trained: Path, tmp_path: Path) -> None:
    done = piped("python -m tunesmith models 2>err | true", tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "Traceback" not in (tmp_path / "err").read_text() and "Exception" not in (tmp_path / "err").read_text()


def test_answers_come_while_the_pipe_is_open(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tunesmith", "predict", str(trained), "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("text\n" + "a red cat\n" * 64)
        process.stdin.flush()
        assert process.stdout.readline() == "text,label,probability\n"
        assert process.stdout.readline().startswith("a red cat,")
        process.stdin.close()
        assert len(process.stdout.readlines()) == 63
    assert process.returncode == 0
