"""Going on with new rows: nothing known is lost unnoticed, and what is refused or cut off changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
import tunesmith
from killer import Server
from running import Run
from tunesmith import feedback as rows_of_update
from tunesmith import replay, updating
from tunesmith.cli import update as command
from tunesmith.data.schema import Example, Schema, Source
from tunesmith.gate import decide, paired_interval
from tunesmith.model.growth import grow_outputs
from tunesmith.model.heads import build_model, last_layer
from tunesmith.model.pretrained import open_pretrained
from tunesmith.training.distillation import drift

SETTINGS: dict[str, Any] = {"epochs": 5, "lr": 0.005, "batch_size": 8, "max_length": 24, "precision": "fp32", "progress": "quiet"}
THREE = ("animal", "colour", "neither")
OPPOSITE = {"animal": "colour", "colour": "animal"}


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two labels that keeps rows."""
    out = tmp_path_factory.mktemp("trained") / "m"
    path = tiny.write_csv(out.parent / "data.csv", tiny.rows(160))
    found = tunesmith.train(path, model=tiny_bert, out=out, test_size=0.25, **SETTINGS)
    assert found.metrics["accuracy"] > 0.9, "it can be made worse"
    return out


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "m")
    return tmp_path / "m"


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and "versions" not in path.relative_to(directory).parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- the head --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "albert", "modernbert", "gpt2"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_old_outputs_keep_their_weights_to_the_bit(architecture: str, pooling: str, tmp_path: Path) -> None:
    spec = tiny.labelled(["b", "c"])
    encoder = open_pretrained(str(tiny.save_encoder(tmp_path / "e", architecture))).load(spec, seed=1)
    model = build_model(encoder, spec, pooling=pooling, dropout=0.1, seed=1).eval()
    old = last_layer(model)
    weight, bias = old.weight.detach().clone(), None if old.bias is None else old.bias.detach().clone()
    batch = tunesmith.data.batches.collate([np.array([2, 9, 3], np.int32), np.array([2, 11, 12, 3], np.int32)], np.arange(2))
    with torch.no_grad():
        before = model(batch)
    assert grow_outputs(model, ["b", "c", "a", "d"], seed=7) == 2
    new = last_layer(model)
    assert torch.equal(new.weight[:2], weight) and (bias is None or torch.equal(new.bias[:2], bias))
    with torch.no_grad():
        after = model(batch)
    assert after.shape == (2, 4) and torch.allclose(after[:, :2], before, atol=1e-6)
    drawn = new.weight[2:].detach().clone()
    assert 0 < float(drawn.detach().abs().mean()) < 0.1
    if pooling == "cls" and model.loads_in_transformers:
        assert encoder.config.num_labels == 4 and encoder.config.id2label == {0: "b", 1: "c", 2: "a", 3: "d"}
    again = build_model(encoder, spec, pooling="mean", dropout=0.1, seed=1) if pooling == "mean" else None
    if again is not None:
        grow_outputs(again, ["b", "c", "a", "d"], seed=7)
        assert torch.equal(last_layer(again).weight[2:], drawn), "they follow from the seed"


# --- the command -----------------------------------------------------------------------------------------------------------


def test_a_new_label_is_learned_and_the_old_test_is_kept(model: Path, run: Run, tmp_path: Path) -> None:
    old = content(model)
    feedback = tiny.write_csv(tmp_path / "feedback.csv", tiny.rows(60, seed=9, labels=THREE))
    done = run("update", model, feedback, "--test-size", 0.2, "--epochs", 8, "--lr", 0.005)
    assert done.code == 0, done.err
    table = done.out.splitlines()
    assert any(line.startswith("old test, 40 rows") for line in table) and any(
        line.startswith("new rows held out, 12 rows") for line in table
    )
    assert "New labels: 'neither'." in table and any(
        line.startswith("Decision: accepted. accuracy on the 40 old test rows") for line in table
    )
    assert f"model: {model} (version 2)" in table
    assert "1 new label: 'neither', behind the 2 known ones" in done.err
    bundle = tunesmith.load(model)
    assert bundle.labels == ["animal", "colour", "neither"]
    assert [found.label for found in bundle.predict(["the big old red", "a very little cat", "tree with the house over a new road"])] == [
        "colour", "animal", "neither",
    ]  # fmt: skip
    page, card = (model / "report.html").read_text(encoding="utf-8"), (model / "README.md").read_text(encoding="utf-8")
    for text in (page, card):
        assert "old test, 40 rows" in text and "Decision: accepted" in text and "Rows of the data lie in the model directory" in text
    assert "<h1>" in page and ".next" not in page and ".next" not in card
    assert run("evaluate", model, model / "kept" / "test.jsonl").code == 0
    from transformers import pipeline

    found = pipeline("text-classification", str(model))("tree with the house over a new road")
    assert found[0]["label"] == "neither"
    assert content(model / "versions" / "001").keys() - {"manifest.json"} == old.keys()
    assert len(lines(model / "kept" / "test.jsonl")) == 40 + 12, "what was held out is in the next gate"
    record = json.loads(run("history", model, "--json").out)["versions"][1]
    assert record["parent"] == 1 and record["decision"] == "accepted" and record["rows"]["rows"] == 60 and record["rows"]["held"] == 12
    assert record["settings"]["epochs"] == 8 and record["fingerprint"] and record["scores"]["test"]["before"] > 0.9


def test_a_second_update_goes_on_from_the_first(model: Path) -> None:
    first = tunesmith.update(model, tiny.rows(60, seed=9, labels=THREE), replay_rows=50, epochs=2, force=True, progress="quiet")
    assert first.version == 2 and first.record["rows"]["replayed"] == 104
    kept = lines(model / "kept" / "replay.jsonl")
    assert 40 <= len(kept) <= 50 and 0 < sum(row["label"] == "neither" for row in kept) < 20, "it stands for old and new rows"
    second = tunesmith.update(model, tiny.rows(20, seed=11), epochs=1, force=True, progress="quiet")
    assert second.version == 3 and second.record["parent"] == 2 and second.record["rows"]["replayed"] == len(kept)
    assert second.record["new_labels"] == [] and second.bundle.labels == ["animal", "colour", "neither"]
    assert second.result["kept"]["of"] == 104 + 54 + 18
    assert second.result["base_model"] == first.result["base_model"] and second.result["name"] == "m"
    assert [entry["version"] for entry in tunesmith.history(model)["versions"]] == [1, 2, 3]
    assert tunesmith.rollback(model, to=1) == (3, 1) and tunesmith.load(model).labels == ["animal", "colour"]
    again = tunesmith.update(model, tiny.rows(20, seed=11), epochs=1, force=True, progress="quiet")
    assert (again.version, again.record["parent"]) == (4, 1)


def test_corrections_win_and_test_rows_stay_out(model: Path, run: Run, tmp_path: Path) -> None:
    kept, tests = lines(model / "kept" / "replay.jsonl"), lines(model / "kept" / "test.jsonl")
    corrected = [{**row, "label": OPPOSITE[row["label"]]} for row in kept[:3]]
    disputed = {**tests[0], "label": OPPOSITE[tests[0]["label"]]}
    rows = [*corrected, *kept[3:5], disputed, tests[1], *tiny.rows(10, seed=21)]
    done = run("update", model, tiny.write_csv(tmp_path / "f.csv", rows), "--epochs", 1, "--test-size", 0, "--valid-size", 0, "--force")
    assert done.code == 0, done.err
    assert "3 kept training rows are corrected by new rows and are not replayed." in done.err
    assert "2 kept training rows are repeated by new rows and are not replayed." in done.err
    assert "2 new rows have a text of the test rows and are not trained on; 1 of them with another target" in done.err
    record = json.loads(run("history", model, "--json").out)["versions"][-1]
    expected = {"rows": 15, "held": 0, "replayed": len(kept) - 5, "corrected": 3, "repeated": 2, "withheld": 0, "leaked": 2, "disputed": 1}
    assert record["rows"] == expected
    now = {row["text"]: row["label"] for row in lines(model / "kept" / "replay.jsonl")}
    assert all(now[row["text"]] == row["label"] for row in corrected)
    assert not now.keys() & {row["text"] for row in tests}
    assert tunesmith.load(model).description["result"]["data"]["splits"]["train"]["rows"] == len(kept) + 10


def test_rows_that_were_trained_on_are_not_held_out(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Most of them are not in the replay."""
    rows = tiny.rows(100)
    told = {**SETTINGS, "epochs": 1, "progress": "lines"}
    tunesmith.train(rows[:80], test=rows[80:], model=tiny_bert, out=tmp_path / "m", replay_rows=10, valid_size=0.0, **told)
    replayed = {row["text"] for row in lines(tmp_path / "m" / "kept" / "replay.jsonl")}
    again = [row for row in rows[:80] if row["text"] not in replayed][:30]
    done = tunesmith.update(tmp_path / "m", [*again, *tiny.rows(20, seed=5)], test_size=0.5, epochs=1, force=True, progress="lines")
    assert "30 new rows have a text that the model was trained on and are not held out." in capsys.readouterr().err
    assert done.record["rows"]["held"] == 10 and done.record["rows"]["replayed"] == len(replayed)
    assert not {row["text"] for row in lines(tmp_path / "m" / "kept" / "test.jsonl")} & {row["text"] for row in rows[:80]}


def test_what_the_model_knows_of_its_training_may_be_a_part(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model / "tunesmith.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["seen"]["texts"] += 500
    path.write_text(json.dumps(description), encoding="utf-8")
    tunesmith.update(model, tiny.rows(20, seed=5), test_size=0.5, epochs=1, force=True, progress="lines")
    said = capsys.readouterr().err
    assert "of the 604 texts that it was trained on again: if others are among the new rows that are held out" in said


def test_a_given_test_that_was_trained_on_is_said(model: Path, run: Run, tmp_path: Path) -> None:
    kept = lines(model / "kept" / "replay.jsonl")
    data = tiny.write_csv(tmp_path / "data.csv", tiny.rows(160))
    feedback = tiny.write_csv(tmp_path / "f.csv", tiny.rows(20, seed=11))
    done = run("update", model, feedback, "--test", data, "--epochs", 1, "--force", "--quiet", "--json")
    rows = json.loads(done.out)["rows"]
    assert done.code == 0 and (rows["replayed"], rows["withheld"]) == (0, len(kept))
    tunesmith.rollback(model)
    done = run("update", model, feedback, "--test", data, "--epochs", 1, "--force")
    assert f"data.csv: {len(kept)} of 160 rows have a text that the model was trained on" in done.err
    assert f"{len(kept)} kept training rows are tested on, or go with rows that are, and are not replayed." in done.err
    assert "no rows of the old training are trained on again: the outputs" in done.err and "are kept:" not in done.err


@pytest.mark.parametrize("settings", [{"negatives_per_query": 3}, {"ranker": "bi-encoder"}], ids=str)
def test_queries_that_are_held_out_leave_the_replay(settings: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    case = _case("ranking", **settings)
    usual = {"epochs": 1, "batch_size": 8, "max_length": 48, "precision": "fp32", "seed": 3, "progress": "quiet"}
    tunesmith.train(case.rows(60, 0), model=tiny_bert, out=tmp_path / "m", test_size=0.2, **{**usual, **case.settings})
    kept = lines(tmp_path / "m" / "kept" / "replay.jsonl")
    query, passage = [name for name in kept[0] if isinstance(kept[0][name], str)][:2]
    asked = list(dict.fromkeys(row[query] for row in kept))[:8]
    new = [{**row, passage: f"{row[passage]} tree"} for row in kept if row[query] in asked]
    for row in new:
        row.pop("tunesmith", None)
    done = tunesmith.update(tmp_path / "m", new, test_size=0.4, epochs=1, force=True, progress="quiet")
    assert done.record["rows"]["held"] > 0 and done.record["rows"]["withheld"] > 0
    trained, tested = ({row[query] for row in lines(tmp_path / "m" / "kept" / name)} for name in ("replay.jsonl", "test.jsonl"))
    assert not trained & tested


def test_the_old_test_alone_chooses_the_metric(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": row["text"], "label": (i % 7) / 3} for i, row in enumerate(tiny.rows(60, seed=3))]
    told = {**SETTINGS, "epochs": 1}
    tunesmith.train(rows, task="regression", label="label", text="text", model=tiny_bert, out=tmp_path / "m", test_size=0.3, **told)
    new = [{"text": row["text"], "label": 1.0} for row in tiny.rows(20, seed=50)]
    done = tunesmith.update(tmp_path / "m", new, test_size=0.3, epochs=1, margin=1e9, progress="quiet")
    held = done.record["scores"]["feedback"]
    assert done.record["metric"] == "pearson" and done.record["scores"]["test"]["difference"] is not None
    assert held["before"] is held["after"] is held["difference"] is held["interval"] is None and held["metrics_after"]["mae"] > 0


def _groups(count: int, seed: int, first: int) -> list[dict[str, str]]:
    return [{**row, "who": str(first + i // 3)} for i, row in enumerate(tiny.rows(count, seed=seed))]


def test_groups_of_new_rows_and_of_old_ones(model: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parted = []
    original = rows_of_update.split_parts

    def spying(parts: dict[str, Any], *given: Any) -> None:
        original(parts, *given)
        parted.append({name: parts[name].rows for name in ("train", "valid")})

    monkeypatch.setattr(rows_of_update, "split_parts", spying)
    told: dict[str, Any] = {"epochs": 1, "force": True, "test_size": 0, "valid_size": 0.2, "progress": "quiet"}

    def sides(rows: int) -> tuple[set[int], set[int], int]:
        """The groups on both sides, and how many of the validation rows are replayed ones."""
        groups = [set(part.table.group[part.index].tolist()) for part in parted[-1].values()]
        return groups[0], groups[1], int((parted[-1]["valid"].index >= rows).sum())

    tunesmith.update(model, _groups(60, 9, 0), group="who", **told)
    trained, chosen, replayed = sides(60)
    assert not trained & chosen and replayed > 5 and len(trained | chosen) > 100, "old rows have no group, and each is one for itself"

    out = tmp_path / "g"
    tunesmith.train(_groups(120, 1, 0), model=tiny_bert, group="who", out=out, **{**SETTINGS, "epochs": 1})
    tunesmith.update(out, _groups(60, 9, 20), **told)
    trained, chosen, _ = sides(60)
    assert not trained & chosen and len(trained | chosen) < 70, "the column is known from the training"
    tunesmith.update(out, tiny.rows(30, seed=13), **told)
    trained, chosen, _ = sides(30)
    assert not trained & chosen and 55 < len(trained | chosen) < 75, "old rows keep their groups"


def test_labels_of_a_row_have_no_order(tiny_bert: Path, tmp_path: Path) -> None:
    def several(count: int, seed: int) -> list[dict[str, Any]]:
        pairs = zip(tiny.rows(count, seed=seed), tiny.rows(count, seed=seed + 1, labels=THREE), strict=True)
        return [{"text": f"{a['text']} {b['text']}", "label": sorted({a["label"], b["label"]})} for a, b in pairs]

    told = {**SETTINGS, "epochs": 1}
    tunesmith.train(several(60, 1), model=tiny_bert, out=tmp_path / "m", label_type="multi", test_size=0.3, **told)
    kept, tests = (
        [row for row in lines(tmp_path / "m" / "kept" / name) if len(row["label"]) == 2] for name in ("replay.jsonl", "test.jsonl")
    )
    new = [{"text": row["text"], "label": row["label"][::-1]} for row in (*kept[:6], *tests[:4])]
    done = tunesmith.update(tmp_path / "m", new, epochs=1, force=True, progress="quiet")
    found = done.record["rows"]
    assert (found["corrected"], found["repeated"], found["leaked"], found["disputed"]) == (0, 6, 4, 0)


def wrong(count: int = 60) -> list[dict[str, str]]:
    return [{**row, "label": OPPOSITE[row["label"]]} for row in tiny.rows(count, seed=30)]


HARD = ("--epochs", 6, "--lr", 0.01, "--replay-rows", 0, "--distill", 0)


def test_an_update_that_forgets_is_refused(model: Path, run: Run, tmp_path: Path) -> None:
    before, feedback = content(model), tiny.write_csv(tmp_path / "wrong.csv", wrong())
    done = run("update", model, feedback, *HARD)
    assert done.code == 6, done.err
    assert "the update is refused: accuracy on the 40 old test rows went from" in done.err and "more than the margin of 0.01" in done.err
    assert "is as it was" in done.err and "--margin" in done.err and "--force" in done.err
    assert "Decision: refused.\n" in done.out and "old test, 40 rows" in done.out and "more than the margin" not in done.out
    assert content(model) == before and not (model / "versions" / ".next").exists()
    found = json.loads(run("history", model, "--json").out)
    assert found["current"] == 1 and len(found["versions"]) == 1
    event = found["events"][0]
    assert event["event"] == "refused" and event["scores"]["test"]["difference"] < -0.1 and event["parent"] == 1
    low, high = event["scores"]["test"]["interval"]
    assert low <= event["scores"]["test"]["difference"] <= high < 0
    shown = run("history", model).out
    assert "refused" in shown and shown.count(", 40 rows") == 2, "of the version and of the refusal"
    done = run("update", model, feedback, *HARD, "--keep-refused", "bad", "--json")
    assert done.code == 6 and json.loads(done.out)["exit_code"] == 6
    assert content(model) == before and "Decision: refused" in (tmp_path / "bad" / "README.md").read_text(encoding="utf-8")
    assert tunesmith.load(tmp_path / "bad").labels == ["animal", "colour"]
    done = run("update", model, feedback, *HARD, "--margin", 1)
    assert done.code == 0 and "within the margin of 1" in done.out


def test_force_accepts_it_and_rollback_undoes_it(model: Path, run: Run, tmp_path: Path) -> None:
    before = content(model)
    done = run("update", model, tiny.write_csv(tmp_path / "wrong.csv", wrong()), *HARD, "--force", "--json")
    line = json.loads(done.out)
    assert done.code == 0 and line["decision"] == "forced" and line["version"] == 2 and line["out"] == str(model)
    assert not (model / "kept").exists() or not list((model / "kept").iterdir()), "no rows were to be kept"
    assert run("rollback", model).code == 0 and content(model) == before


def test_into_another_directory(model: Path, run: Run, tmp_path: Path) -> None:
    before = content(model)
    feedback = tiny.write_csv(tmp_path / "f.csv", tiny.rows(20, seed=12))
    done = run("update", model, feedback, "--epochs", 1, "-o", "other", "--force")
    assert done.code == 0, done.err
    assert content(model) == before and not (model / "versions").exists()
    entry = json.loads(run("history", "other", "--json").out)["versions"][0]
    assert entry["parent"] is None and entry["from"]["directory"] == str(model) and (tmp_path / "other" / "model.safetensors").is_file()
    assert run("predict", "other", feedback).code == 0
    done = run("update", model, feedback, "-o", "other")
    assert done.code == 5 and "is not empty" in done.err
    done = run("update", model, tiny.write_csv(tmp_path / "wrong.csv", wrong()), *HARD, "-o", "third")
    assert done.code == 6 and not (tmp_path / "third").exists() and not (model / "versions").exists()


# --- without the old rows --------------------------------------------------------------------------------------------------


def test_without_kept_rows_it_distils_and_wants_a_test(trained: Path, model: Path, run: Run, tmp_path: Path) -> None:
    shutil.rmtree(model / "kept")
    feedback = tiny.write_csv(tmp_path / "f.csv", tiny.rows(20, seed=12))
    done = run("update", model, feedback)
    assert done.code == 2 and "keeps no test rows" in done.err and "--test FILE" in done.err and not (model / "versions").exists()
    done = run("update", model, feedback, "--test", trained / "kept" / "test.jsonl", "--epochs", 1, "--replay-rows", 0)
    assert done.code == 0, done.err
    assert "no rows of the old training are trained on again: the outputs of the model before on the new rows are targets, too" in done.err
    assert "with distillation of weight 1" in done.out and not (model / "kept" / "replay.jsonl").exists()


def test_distillation_goes_with_r_drop(tiny_bert: Path, tmp_path: Path) -> None:
    tunesmith.train(tiny.rows(60), model=tiny_bert, out=tmp_path / "m", r_drop=1.0, **{**SETTINGS, "epochs": 1})
    done = tunesmith.update(tmp_path / "m", tiny.rows(20, seed=4), distill=1.0, force=True, progress="quiet")
    assert done.version == 2


@pytest.mark.parametrize("name", ["qa", "ranking", "tagging", "classification"])
def test_an_update_smooths_labels_as_the_training_did(name: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, used = _case(name), []
    tunesmith.train(
        case.rows(60, 0), model=tiny_bert, out=tmp_path / "m", label_smoothing=0.1, **{**SETTINGS, **case.settings, "epochs": 1}
    )
    original = updating.fit

    def fit(config: Any, prepared: Any, *given: Any, **named: Any) -> Any:
        used.append(prepared.task.label_smoothing)
        return original(config, prepared, *given, **named)

    monkeypatch.setattr(updating, "fit", fit)
    tunesmith.update(tmp_path / "m", case.rows(20, 7), force=True, epochs=1, progress="quiet")
    assert used == [0.1]


def test_training_that_keeps_nothing(tiny_bert: Path, tmp_path: Path) -> None:
    found = tunesmith.train(tiny.rows(40), model=tiny_bert, out=tmp_path / "m", replay_rows=0, **{**SETTINGS, "epochs": 1})
    assert not (tmp_path / "m" / "kept").exists() and found.result["kept"] is None
    assert "Rows of the data" not in (tmp_path / "m" / "README.md").read_text(encoding="utf-8")


def test_distillation_keeps_more_of_what_was_known(model: Path, tmp_path: Path) -> None:
    def loss(weight: float) -> float:
        done = tunesmith.update(
            model, wrong(), distill=weight, replay_rows=0, epochs=2, lr=0.005, force=True, out=tmp_path / str(weight), progress="quiet"
        )
        return float(done.record["scores"]["test"]["metrics_after"]["log_loss"])

    assert loss(20.0) < loss(0.0) - 0.1


def test_outputs_of_new_labels_are_free_of_distillation(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = set()

    def spying(task: Any, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        compared.add((outputs.shape[1], wanted.shape[1]))
        return drift(task, outputs, wanted)

    monkeypatch.setattr("tunesmith.training.distillation.drift", spying)
    tunesmith.update(model, tiny.rows(30, seed=9, labels=THREE), distill=1.0, replay_rows=0, epochs=1, force=True, progress="quiet")
    assert compared == {(2, 2)}, "the third label has no output before that it could be held to"


def test_the_term_of_distillation() -> None:
    class Task:
        def __init__(self, labels: list[str], multi: bool) -> None:
            self.labels = labels
            self.head = tiny.labelled(labels, problem_type="multi_label_classification" if multi else "single_label_classification")

    generator = torch.Generator().manual_seed(0)
    wanted, other = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    for task in (Task(["a", "b", "c"], False), Task(["a", "b", "c"], True), Task([], False)):
        same = wanted.clone().requires_grad_()
        term = drift(task, same, wanted)  # type: ignore[arg-type]
        term.sum().backward()
        assert term.abs().max() < 1e-6 and same.grad is not None and same.grad.abs().max() < 1e-6
        assert (drift(task, other, wanted) > 0).all()  # type: ignore[arg-type]
    soft = torch.softmax(wanted / 2, 1)
    expected = (soft * (torch.log_softmax(wanted / 2, 1) - torch.log_softmax(other / 2, 1))).sum(1)
    assert torch.allclose(drift(Task(["a", "b", "c"], False), other, wanted), expected, atol=1e-6)  # type: ignore[arg-type]


# --- every task ------------------------------------------------------------------------------------------------------------


def _more_tags(count: int, seed: int) -> list[dict[str, Any]]:
    """Tagged words in another scheme than the model's, with a new kind of entity."""
    rows = []
    for row in _case("tagging").rows(count, seed):
        tokens, tags = [*row["tokens"], "river", "road"], [*row["tags"], "B-PLACE", "E-PLACE"]
        for i, tag in enumerate(tags[:-2]):
            ends = tags[i + 1 : i + 2] != ["I-PET"]
            tags[i] = {"B-PET": "S-PET" if ends else "B-PET", "I-PET": "E-PET" if ends else "I-PET"}.get(tag, tag)
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def _case(name: str, **settings: Any) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("battery", Path(__file__).parent / "tasks" / "test_battery.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules.get("battery") or importlib.util.module_from_spec(spec)
    if "battery" not in sys.modules:
        sys.modules["battery"] = module
        spec.loader.exec_module(module)
    return next(case for case in module.CASES if case.name == name and settings.items() <= case.settings.items())


KINDS = [
    ("pair", {}),
    ("qa", {}),
    ("regression", {}),
    ("tagging", {}),
    ("ranking", {"negatives_per_query": 3}),
    ("ranking", {"ranker": "bi-encoder"}),
]


@pytest.mark.parametrize(("name", "settings"), KINDS, ids=lambda value: value if isinstance(value, str) else str(*value.values()))
def test_every_task_is_updated(name: str, settings: dict[str, Any], tiny_bert: Path, run: Run, tmp_path: Path) -> None:
    case = _case(name, **settings)
    usual = {"epochs": 3, "lr": 3e-3, "batch_size": 8, "max_length": 48, "precision": "fp32", "seed": 3, "progress": "quiet"}
    trained = tunesmith.train(case.rows(60, 0), model=tiny_bert, out=tmp_path / "m", test_size=0.2, **{**usual, **case.settings})
    before = trained.bundle.task
    bundle_of_test = trained.result["evaluations"]["test"]["metrics"]
    rows = (_more_tags if name == "tagging" else case.rows)(30, 8)
    done = tunesmith.update(tmp_path / "m", rows, epochs=1, test_size=0.2, force=True, progress="quiet")
    found = done.record["scores"]["test"]
    metric = done.record["metric"]
    assert found["before"] == pytest.approx(bundle_of_test[metric], abs=1e-6), "the kept test rows are judged as those of training were"
    assert found["after"] is not None and done.record["scores"]["feedback"]["rows"] > 0
    assert done.result["evaluations"]["test"]["metrics"][metric] == pytest.approx(found["after"], abs=1e-6)
    assert done.record["rows"]["replayed"] == trained.result["kept"]["replay"] > 10
    after = done.bundle.task
    if name == "tagging":
        assert after.labels == [*before.labels, "B-PLACE", "I-PLACE"] and done.record["new_labels"] == ["B-PLACE", "I-PLACE"]
    elif name == "regression":
        values = [one.score for one in done.bundle.predict(case.rows(20, 5))]
        assert min(values) > -1 and max(values) < 3.5, "in the units of the file"
    again = tunesmith.update(tmp_path / "m", rows[:12], epochs=1, force=True, progress="quiet")
    assert again.version == 3 and again.record["rows"]["repeated"] + again.record["rows"]["leaked"] == 12
    assert run("predict", "m", "-", stdin=json.dumps(case.rows(3, 5)[0]).encode() + b"\n").code == 0


def test_a_tagger_that_knows_little_learns_new_tags_of_its_scheme(tiny_bert: Path, tmp_path: Path) -> None:
    """Judged with the new tags, which it has no outputs for, its sequences that break the scheme are put right as ever."""
    settings = {"epochs": 1, "lr": 1e-6, "batch_size": 8, "max_length": 48, "precision": "fp32", "progress": "quiet", "seed": 3}
    trained = tunesmith.train(_more_tags(40, 0), model=tiny_bert, out=tmp_path / "m", test_size=0.4, scheme="bioes", **settings)
    new = [{**row, "tags": [tag.replace("PET", "WORD") for tag in row["tags"]]} for row in _more_tags(20, 5)]
    done = tunesmith.update(tmp_path / "m", new, epochs=1, force=True, progress="quiet")
    found = done.record["scores"]["test"]
    assert found["before"] == pytest.approx(trained.metrics[done.record["metric"]], abs=1e-6)
    assert found["metrics_before"]["accuracy"] == pytest.approx(trained.metrics["accuracy"], abs=1e-6)
    assert {"B-WORD", "S-WORD"} & set(done.record["new_labels"]) and done.bundle.task.labels[:-1] != trained.bundle.task.labels


def test_thresholds_that_were_chosen_stay(tiny_bert: Path, tmp_path: Path) -> None:
    def several(count: int, seed: int, third: str) -> list[dict[str, Any]]:
        pairs = zip(tiny.rows(count, seed=seed), tiny.rows(count, seed=seed + 1, labels=("animal", "colour", "neither")), strict=True)
        names = {"animal": "animal", "colour": "colour", "neither": third}
        return [{"text": f"{a['text']} {b['text']}", "label": sorted({a["label"], names[b["label"]]} - {""})} for a, b in pairs]

    trained = tunesmith.train(several(120, 1, ""), model=tiny_bert, out=tmp_path / "m", label_type="multi", valid_size=0.3, **SETTINGS)
    limits = trained.bundle.task.to_dict()["thresholds"]
    done = tunesmith.update(tmp_path / "m", several(60, 5, "neither"), epochs=4, valid_size=0.3, force=True, progress="quiet")
    after = done.bundle.task.to_dict()
    assert after["labels"] == ["animal", "colour", "neither"] and after["thresholds"][:2] == limits != [0.5, 0.5]
    assert after["thresholds"][2] != 0.5 and after["kind"] == "multi"
    assert done.record["metric"] == "f1_micro" and done.record["scores"]["test"]["before"] is not None


@pytest.mark.parametrize(("tuning", "merge", "says"), [
    ("lora", True, "the model was tuned by lora; the update trains all of its weights"),
    ("lora", False, "holds only what was added to an encoder that others share"),
    ("head", None, "tuning head:"),
    ("layerwise", None, "tuning layerwise:"),
])  # fmt: skip
def test_models_that_were_tuned_otherwise(tuning: str, merge: bool | None, says: str, tiny_bert: Path, run: Run, tmp_path: Path) -> None:
    told: dict[str, Any] = {"tuning": tuning, "epochs": 1, "max_length": 24, "progress": "quiet"}
    told |= {"merge": merge} if merge is not None else {"reinit": 1} if tuning == "layerwise" else {}
    tunesmith.train(tiny.rows(60), model=tiny_bert, out=tmp_path / "m", **told)
    before = content(tmp_path / "m")
    done = run("update", "m", tiny.write_csv(tmp_path / "f.csv", tiny.rows(24, seed=3, labels=THREE)), "--epochs", 1, "--force")
    assert says in done.err and done.code == (2 if merge is False else 0), done.err
    if merge is False:
        assert content(tmp_path / "m") == before and not (tmp_path / "m" / "versions").exists()
        return
    assert tunesmith.load(tmp_path / "m").labels == ["animal", "colour", "neither"]
    if tuning == "head":
        names = ["bert.encoder.layer.1.output.dense.weight", "encoder.layer.1.output.dense.weight"]
        old, new = (weights(tmp_path / "m" / place) for place in ("versions/001", "."))
        name = next(name for name in names if name in old)
        assert torch.equal(old[name], new[name]), "the encoder stays frozen"
    assert tunesmith.rollback(tmp_path / "m") == (2, 1) and content(tmp_path / "m") == before


def weights(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


# --- cut off ---------------------------------------------------------------------------------------------------------------


def test_a_killed_update_leaves_the_old_model_and_resumes_to_the_bit(model: Path, server: Server, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(model, whole)
    before = content(model)
    feedback = tiny.write_csv(tmp_path / "f.csv", tiny.rows(24, seed=12, labels=THREE))
    flags = ("--epochs", 2, "--checkpoint-steps", 2, "--force")
    assert server.run("update", whole, feedback, *flags).code == 0

    done = server.run("update", model, feedback, *flags, traps=[("tunesmith.training.loop:clip", 9, "kill")])
    assert done.code == -signal.SIGKILL and content(model) == before
    other = server.run("update", model, feedback, *flags, "--lr", 0.1, "--resume")
    assert other.code == 5 and "made with other settings" in other.err and content(model) == before
    done = server.run("update", model, feedback, *flags, "--resume", traps=[("tunesmith.training.loop:clip", 5, "int")])
    assert done.code == 130 and "is as it was. Go on with the same command and --resume" in done.err and content(model) == before
    done = server.run("update", model, feedback, *flags, "--resume", traps=[("tunesmith.finishing:write_report", 1, "full")])
    assert done.code == 5 and "the disk is full" in done.err and content(model) == before
    done = server.run("update", model, feedback, *flags, "--resume")
    assert done.code == 0, done.err
    for name in ("model.safetensors", "config.json", "kept/replay.jsonl", "kept/test.jsonl"):
        assert (model / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in (model / "versions").iterdir()} == {"001", "002", "lineage.json"}
    assert content(model).keys() == content(whole).keys()


def test_a_killed_update_starts_again_cleanly(model: Path, server: Server, tmp_path: Path) -> None:
    before = content(model)
    feedback = tiny.write_csv(tmp_path / "f.csv", tiny.rows(24, seed=12))
    flags = ("--epochs", 1, "--force")
    for trap in (("tunesmith.updating:publish", 1, "kill"), ("tunesmith.bundle:sync", 2, "int2")):
        done = server.run("update", model, feedback, *flags, traps=[trap])
        assert done.code in (-signal.SIGKILL, 130) and content(model) == before, done.err
    done = server.run("update", model, feedback, *flags, "--resume", traps=[("tunesmith.versions:_switch", 1, "kill")])
    assert done.code == -signal.SIGKILL and content(model) == before, done.err
    assert not list((model / "versions").glob("*/checkpoints")), "what it made is a version now"
    shown = server.run("history", model)
    assert f"version 2 was accepted and never became the current one: tunesmith rollback {model} --to 2" in shown.out
    done = server.run("update", model, feedback, *flags, "--resume")
    assert done.code == 2 and "Leave --resume out" in done.err
    done = server.run("update", model, feedback, *flags)
    assert done.code == 0 and "note: version 2" in done.err, done.err
    assert tunesmith.load(model).description["result"]["update"]["decision"] in ("accepted", "forced")
    assert tunesmith.history(model)["waiting"] == [2] and tunesmith.rollback(model, to=2) == (3, 2)
    assert tunesmith.history(model)["waiting"] == [] and tunesmith.rollback(model) == (2, 1) and content(model) == before


def test_a_full_disk_at_the_end_loses_no_training(model: Path, server: Server, tmp_path: Path) -> None:
    before = content(model)
    feedback = tiny.write_csv(tmp_path / "f.csv", tiny.rows(24, seed=12))
    flags = ("--epochs", 1, "--force")
    done = server.run("update", model, feedback, *flags, traps=[("tunesmith.versions:_close", 2, "full")])
    assert done.code == 5 and "the disk is full" in done.err and content(model) == before
    done = server.run("update", model, feedback, *flags, "--resume")
    assert done.code == 0 and "resuming after step" in done.err, done.err
    assert not list((model / "versions").rglob("checkpoints"))
    done = server.run("update", model, feedback, *flags, traps=[("tunesmith.versions:_point", 3, "full")])
    assert done.code == 5 and f"saved as version 3: tunesmith rollback {model} --to 3" in done.err
    assert tunesmith.history(model)["current"] == 2 and tunesmith.rollback(model, to=3) == (2, 3)


def test_a_full_disk_while_a_refused_model_is_kept(model: Path, server: Server, tmp_path: Path) -> None:
    before = content(model)
    feedback = tiny.write_csv(tmp_path / "wrong.csv", wrong())
    flags = (*HARD, "--keep-refused", tmp_path / "bad")
    done = server.run("update", model, feedback, *flags, traps=[("shutil:copytree", 1, "full")])
    assert done.code == 5 and "the disk is full" in done.err and not (tmp_path / "bad").exists()
    done = server.run("update", model, feedback, *flags, "--resume")
    assert done.code == 6 and "resuming after step" in done.err and content(model) == before, done.err
    assert tunesmith.load(tmp_path / "bad").labels == ["animal", "colour"] and not (tmp_path / "bad" / "checkpoints").exists()
    assert not (model / "versions" / ".next").exists() and len(tunesmith.history(model)["events"]) == 1


def test_an_update_goes_on_from_what_another_left(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another update runs from start to end just before this one has the lock."""
    original = updating.locked

    def locked(directory: Path) -> Any:
        monkeypatch.setattr(updating, "locked", original)
        tunesmith.update(model, tiny.rows(30, seed=4, labels=THREE), epochs=1, force=True, progress="quiet")
        return original(directory)

    monkeypatch.setattr(updating, "locked", locked)
    done = tunesmith.update(model, tiny.rows(20, seed=11), epochs=1, force=True, progress="quiet")
    assert (done.version, done.record["parent"], done.bundle.labels) == (3, 2, ["animal", "colour", "neither"])


def test_a_model_that_is_replaced_during_an_update_stays(model: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = updating.fit
    replaced: dict[str, bytes] = {}

    def fit(*given: Any, **named: Any) -> Any:
        found = original(*given, **named)
        tunesmith.train(tiny.rows(40, seed=77), model=tiny_bert, out=model, overwrite=True, **{**SETTINGS, "epochs": 1})
        replaced.update(content(model))
        return found

    monkeypatch.setattr(updating, "fit", fit)
    with pytest.raises(tunesmith.errors.StorageError, match=r"another command changed the model.*saved as version 1") as refused:
        tunesmith.update(model, tiny.rows(20, seed=11, labels=THREE), epochs=1, force=True, progress="quiet")
    assert "--to 1 makes it the current one" in str(refused.value) and content(model) == replaced
    assert tunesmith.history(model)["current"] == 2
    assert tunesmith.rollback(model, to=1) == (2, 1) and tunesmith.load(model).labels == list(THREE)
    assert tunesmith.rollback(model, to=2) == (1, 2) and content(model) == replaced


# --- what cannot be --------------------------------------------------------------------------------------------------------


def test_bad_rows_and_settings_change_nothing(model: Path, run: Run, tmp_path: Path) -> None:
    before = content(model)
    (tmp_path / "gap.csv").write_text("text,label\na cat,animal\na dog,\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("a,b,c\nx,y,z\n", encoding="utf-8")
    (tmp_path / "joined.csv").write_text("text,label\na red cat,animal|colour\na dog,animal\n", encoding="utf-8")
    (tmp_path / "few.csv").write_text("text,label\n,animal\n", encoding="utf-8")
    (tmp_path / "bare.csv").write_text("text,label\na cat,\na dog,\n", encoding="utf-8")
    good = tiny.write_csv(tmp_path / "good.csv", tiny.rows(8, seed=3))
    for arguments, code, says in (
        (("gap.csv",), 3, "gap.csv:3: no label"),
        (("other.csv",), 3, "--text"),
        (("joined.csv",), 3, "joined.csv:2: label 'animal|colour' joins labels that the model knows by '|'"),
        (("few.csv",), 3, "none of its 1 row is left to learn from"),
        (("nowhere.csv",), 3, "no such file"),
        ((good, "--test", "bare.csv", "--drop-unlabelled"), 3, "bare.csv: none of its 2 rows has a label"),
        ((good, "--test", "bare.csv"), 3, "bare.csv:2, bare.csv:3: no label"),
        ((good, "--margin", -1), 2, "--margin is -1"),
        ((good, "--epochs", 0), 2, "--epochs is '0'"),
        ((good, "--resume"), 2, "Leave --resume out"),
        ((good, "--group", "who"), 3, "no group column 'who'"),
        ((good, "--force", "--keep-refused", "x"), 2, "exclude each other"),
    ):
        done = run("update", model, *arguments)
        assert done.code == code and says in done.err, (arguments, done.err)
        assert content(model) == before and not (model / "versions").exists(), arguments
    with pytest.raises(tunesmith.errors.UsageError, match="model, max_length are not for an update to change"):
        tunesmith.update(model, good, model="other", max_length=8)
    (model / "kept" / "replay.jsonl").write_text("{\n", encoding="utf-8")
    done = run("update", model, good)
    assert done.code == 3 and "replay.jsonl:1: this row, kept for updates, is damaged" in done.err and not (model / "versions").exists()


def test_the_device_of_the_training_may_be_on_another_machine(model: Path) -> None:
    told = json.loads((model / "tunesmith.json").read_text(encoding="utf-8"))
    told["result"]["recipe"]["device"] = "cuda:7"
    (model / "tunesmith.json").write_text(json.dumps(told), encoding="utf-8")
    rows = tiny.rows(20, seed=4)
    with pytest.raises(tunesmith.errors.UsageError, match="device='cuda:7': this build of torch has no CUDA"):
        tunesmith.update(model, rows, epochs=1, device="cuda:7", progress="quiet")
    assert tunesmith.update(model, rows, epochs=1, force=True, progress="quiet").version == 2


def test_an_encoder_is_pretrained_further_instead(tiny_bert: Path, run: Run, tmp_path: Path) -> None:
    texts = [{"text": row["text"]} for row in tiny.rows(20)]
    tunesmith.train(texts, task="masked-lm", model=tiny_bert, out=tmp_path / "m", epochs=1, max_length=24, progress="quiet")
    assert not (tmp_path / "m" / "kept").exists()
    done = run("update", "m", tiny.write_csv(tmp_path / "f.csv", texts))
    assert done.code == 2 and "tunesmith pretrain TEXTS --model m" in done.err
    with pytest.raises(tunesmith.errors.UsageError, match="replay_rows changes nothing for masked-lm"):
        tunesmith.train(texts, task="masked-lm", model=tiny_bert, out=tmp_path / "n", replay_rows=5, progress="quiet")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tuning": "lora", "merge": False}, "which an update would change. Train again on all rows"),
        ({"tuning": "prefix"}, "which an update would change. Train again on all rows"),
        ({"tuning": "none"}, "add-examples"),
    ],
)
def test_models_that_are_not_updated_keep_no_rows(settings: dict[str, Any], says: str, tiny_bert: Path, run: Run, tmp_path: Path) -> None:
    common = {"model": tiny_bert, "out": tmp_path / "m", "max_length": 24, "progress": "quiet", **settings}
    trained = common if settings["tuning"] == "none" else {"epochs": 1, **common}
    found = tunesmith.train(tiny.rows(40), test=tiny.rows(20, seed=2), **trained)
    assert not (tmp_path / "m" / "kept").exists() and found.result["kept"] is None
    done = run("update", "m", tiny.write_csv(tmp_path / "f.csv", tiny.rows(8, seed=3)))
    assert done.code == 2 and says in done.err
    with pytest.raises(tunesmith.errors.UsageError, match=f"changes nothing with tuning='{settings['tuning']}'.*keep no rows"):
        tunesmith.train(tiny.rows(40), **{**trained, "out": tmp_path / "n", "replay_rows": 5})


@pytest.mark.parametrize("tuning", ["fewshot", "auto", "lora"])
def test_models_of_other_ways_are_updated(tuning: str, tiny_bert: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 2} | ({"budget": "1s"} if tuning == "auto" else {})
    tunesmith.train(tiny.rows(60), model=tiny_bert, out=tmp_path / "m", tuning=tuning, test_size=0.25, **settings)
    assert lines(tmp_path / "m" / "kept" / "replay.jsonl")
    found = tunesmith.update(tmp_path / "m", tiny.rows(60, seed=9, labels=THREE), epochs=2, lr=0.005, force=True, progress="quiet")
    assert found.version == 2 and set(found.bundle.task.labels) == set(THREE)
    made = found.result["training"]
    assert tuning == "auto" or made["trained_parameters"] == made["parameters"], "auto's model goes on in the way that was chosen"


def test_an_update_of_few_shot_tuning_trains_as_is_usual_for_all_weights(tiny_bert: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 20}
    tunesmith.train(tiny.rows(20), model=tiny_bert, out=tmp_path / "m", tuning="fewshot", test_size=0.25, **settings)
    found = tunesmith.update(tmp_path / "m", tiny.rows(20, seed=9), force=True, progress="quiet")
    recipe = found.result["recipe"]
    assert (recipe["tuning"], recipe["epochs"], recipe["warmup"], recipe["pooling"]) == ("full", 3, 0.0, "mean")


def test_questions_on_one_passage_are_not_on_both_sides(tiny_bert: Path, tmp_path: Path) -> None:
    def asked(passages: range) -> list[dict[str, Any]]:
        texts = {
            n: f"the {tiny.COLOURS[n % 4]} {tiny.ANIMALS[n % 5]} has {'very ' * (n // 20)}a road to the old house {'new ' * (n % 20)}"
            for n in passages
        }
        return [
            {"question": f"{word} ?", "context": text, "answers": [text.split()[place]]}
            for text in texts.values() for word, place in (("what colour", 1), ("who", 2))
        ]  # fmt: skip

    settings = {**SETTINGS, "epochs": 1, "max_length": 48}
    tunesmith.train(asked(range(30)), model=tiny_bert, out=tmp_path / "m", test_size=0.2, **settings)
    tested = {row["context"] for row in lines(tmp_path / "m" / "kept" / "test.jsonl")}
    rows = asked(range(30, 50)) + [row for row in asked(range(30)) if row["context"] in sorted(tested)[:2]][:1]
    rows[-1]["question"] = "where ?"
    done = tunesmith.update(tmp_path / "m", rows, epochs=1, test_size=0.3, force=True, progress="quiet")
    assert any("1 new row goes with test rows (questions on one passage)" in note for note in done.result["data"]["notes"])
    held = [row for row in lines(tmp_path / "m" / "kept" / "test.jsonl") if row["context"] not in tested]
    assert held and len({row["context"] for row in held}) * 2 == len(held), "whole passages are held out"
    assert not {row["context"] for row in held} & {row["context"] for row in lines(tmp_path / "m" / "kept" / "replay.jsonl")}


def test_the_flags_are_the_settings() -> None:
    assert tuple(command.SETTINGS) == updating.SETTINGS


# --- the parts -------------------------------------------------------------------------------------------------------------


def test_the_sample_of_two_samples_is_the_sample_of_all() -> None:
    schema = Schema(("text",), "label")
    examples = [Example((f"text {i}",), ["a"], False, None, Source("f", i)) for i in range(500)]
    whole = replay.merged(examples, 60, schema, grouped=False)
    parts = [replay.merged(part, 60, schema, grouped=False) for part in (examples[:200], examples[200:350], examples[350:])]
    assert replay.merged([one for part in parts for one in part], 60, schema, grouped=False) == whole and len(whole) == 60
    share = sum(one.source.line < 200 for one in whole) / 60
    assert 0.2 < share < 0.6, "as if it were drawn at random"
    rare = [replace(one, target=["rare"]) if i in (7, 301, 499) else one for i, one in enumerate(examples)]
    whole = replay.merged(rare, 60, schema, grouped=False, labelled=True)
    parts = [replay.merged(part, 60, schema, grouped=False, labelled=True) for part in (rare[:200], rare[200:350], rare[350:])]
    assert replay.merged([one for part in parts for one in part], 60, schema, grouped=False, labelled=True) == whole and len(whole) == 60
    assert sum(one.target == ["rare"] for one in whole) == 3, "a rare label stays, with all of its few rows"
    grouped = [Example((f"q {i // 10}", f"p {i}"), ["1"], False, f"q {i // 10}", Source("f", i)) for i in range(100)]
    found = replay.merged(grouped, 35, Schema(("q", "p"), "l"), grouped=True)
    assert len(found) == 30 and len({one.group for one in found}) == 3, "queries stay whole"


def test_the_limit_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LIMIT_MB", 0.01)
    schema = Schema(("text",), "label")
    examples = [Example(("x" * 100 + str(i),), ["a"], False, None, Source("f", i)) for i in range(500)]
    found = replay.merged(examples, 400, schema, grouped=False)
    assert 70 < len(found) < 90 and sum(len(replay.line_of(one, schema)) for one in found) <= 10_000


def test_the_decision_keeps_to_the_margin() -> None:
    def found(before: float | None, after: float | None) -> dict[str, Any]:
        return {"rows": 10, "before": before, "after": after}

    assert decide(found(0.9, 0.89), "accuracy", "single", 0.01, force=False)[0] == "accepted"
    assert decide(found(0.9, 0.88), "accuracy", "single", 0.01, force=False)[0] == "refused"
    assert decide(found(0.9, 0.95), "accuracy", "single", 0.0, force=False)[0] == "accepted"
    assert decide(found(0.9, 0.95), "log_loss", "single", 0.01, force=False)[0] == "refused", "less is better"
    assert decide(found(0.9, 0.88), "accuracy", "single", 0.01, force=True)[0] == "forced"
    assert decide(found(None, 0.5), "accuracy", "single", 0.01, force=False)[0] == "refused"
    assert decide(None, "accuracy", "single", 0.01, force=True)[0] == "forced"
    assert decide(None, "accuracy", "single", 0.01, force=False)[0] == "refused"


def test_the_interval_of_a_difference_is_paired() -> None:
    right = np.random.default_rng(0).random(400) < 0.7
    better = right.copy()
    better[:20] = True
    gain = float(better.mean() - right.mean())

    def of(values: np.ndarray) -> Any:
        return len(values), lambda drawn: drawn @ values / drawn.sum(1)

    low, high = paired_interval(of(right), of(better), seed=1) or [0, 0]
    spread = float((better.astype(float) - right).std()) / 20  # of the mean of 400 differences
    assert low < gain < high and abs((high - low) - 2 * 1.96 * spread) < 0.5 * spread
    assert paired_interval(of(right), of(right), seed=1) is None and paired_interval(None, of(right), seed=1) is None
