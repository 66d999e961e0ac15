"""What every task must do, one set of tests for all of them. A new task adds a `Case`."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
import tunesmith
from running import Run
from tunesmith.config import Config
from tunesmith.data.memory import open_data
from tunesmith.data.schema import choose_task, guess_schema
from tunesmith.data.writers import to_json
from tunesmith.errors import DataError
from tunesmith.model.pretrained import open_pretrained
from tunesmith.prepare import encoder_of
from tunesmith.progress import QUIET
from tunesmith.registry import TASKS, family, load
from tunesmith.resolve import resolve
from tunesmith.training import loop

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A task's data.

    rows: as many labelled rows as it is told, by a seed; broken: changes to a row that make it one to be refused, and what the error
    says of it; predicted: the columns that prediction adds to JSONL
    settings: beside those of `train` below
    """

    name: str
    rows: Callable[[int, int], Rows]
    broken: dict[str, Any]
    says: str
    predicted: tuple[str, ...]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def _pairs(count: int, seed: int) -> Rows:
    first, second = tiny.rows(count, seed=seed), tiny.rows(count, seed=seed + 100)
    random.Random(seed).shuffle(first)
    return [{"premise": a["text"], "hypothesis": b["text"], "label": b["label"]} for a, b in zip(first, second, strict=True)]


def _scores(count: int, seed: int) -> Rows:
    """The score is how much of a text is about colours."""
    generator, rows = random.Random(seed), []
    for _ in range(count):
        colours = generator.randint(0, 8)
        words = generator.choices(tiny.COLOURS, k=colours) + generator.choices(tiny.ANIMALS, k=8 - colours)
        generator.shuffle(words)
        rows.append({"text": " ".join(words), "score": round(colours / 4 + generator.random() / 10, 3)})
    return rows


def _tagged(count: int, seed: int) -> Rows:
    """A colour before an animal begins an entity, an animal alone is one."""
    generator, rows = random.Random(seed), []
    for _ in range(count):
        tokens, tags = [], []
        for _ in range(generator.randint(1, 4)):
            colour = generator.random() < 0.5
            tokens += [*generator.sample(tiny.COLOURS, int(colour)), generator.choice(tiny.ANIMALS), generator.choice(tiny.FILLER)]
            tags += ["B-PET", "I-PET", "O"] if colour else ["B-PET", "O"]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def _alphabet(count: int, seed: int) -> Rows:
    """Each of three letters follows from the one before; some texts to be filled have a gap."""
    rows, generator = [], random.Random(seed)
    for _ in range(count):
        start, length = generator.randint(0, 2), generator.randint(4, 12)
        letters = [chr(97 + (start + i) % 3) for i in range(length)]
        if seed in (5, 7):
            letters[generator.randint(0, length - 1)] = "[MASK]"
        rows.append({"text": " ".join(letters)})
    return rows


def _questions(count: int, seed: int) -> Rows:
    """The answer is the word after the colour that the question names; one question in five has none."""
    generator, rows = random.Random(seed), []
    for number in range(count):
        asked, other = generator.sample(tiny.COLOURS, 2)
        animal = generator.choice(tiny.ANIMALS)
        words = [generator.choice(tiny.FILLER) for _ in range(generator.randint(4, 8))]
        begins = generator.randint(0, len(words))
        none = number % 5 == 4
        words[begins:begins] = [other if none else asked, animal]
        start = sum(len(word) + 1 for word in words[: begins + 1])
        answers = [] if none else [{"text": animal, "answer_start": start}]
        rows.append({"question": asked, "context": " ".join(words), "answers": answers})
    return rows


def _judged(count: int, seed: int) -> Rows:
    """Of the three passages of a query the one is relevant that has its colour."""
    generator, rows = random.Random(seed), []
    while len(rows) < count:
        colours = generator.sample(tiny.COLOURS, 3)
        query = f"{colours[0]} {' '.join(generator.choices(tiny.FILLER, k=3))} {generator.choice('abcdefghijklmnopqrstuvwxyz')}"
        passages = [f"{colour} {' '.join(generator.choices(tiny.FILLER, k=generator.randint(2, 6)))}" for colour in colours]
        rows += [{"query": query, "passage": passage, "label": int(place == 0)} for place, passage in enumerate(passages)]
    return rows[:count]


CASES = [
    Case("classification", lambda count, seed: tiny.rows(count, seed=seed), {"text": ["a", "b"]}, "a text is expected", (
        "predicted_label", "probability", "probabilities")),
    Case("pair", _pairs, {"hypothesis": {"a": 1}}, "a text is expected", ("predicted_label", "probability", "probabilities")),
    Case("masked-lm", _alphabet, {"text": ["a", "b"]}, "a text is expected", ("filled", "fill"), {"batch_size": 1, "max_length": 24}),
    Case("qa", _questions, {"answers": [{"text": "xyzzy", "answer_start": 3}]}, "is not in the passage",
         ("answer", "answer_start", "probability", "nbest"), {"stride": 8, "max_answer_tokens": 5}),
    Case("regression", _scores, {"score": "high"}, "'high' is not a number", ("predicted_score",)),
    Case("tagging", _tagged, {"tags": ["O"]}, "Every word needs one tag", ("predicted_tags", "spans", "words")),
    Case("ranking", _judged, {"label": "high"}, "'high' says not how relevant", ("score",), {"batch_size": 2, "negatives_per_query": 3}),
    Case("ranking", _judged, {"label": "high"}, "'high' says not how relevant", ("score",), {
        "ranker": "bi-encoder", "batch_size": 2, "temperature": 0.2}),
]  # fmt: skip


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def train(case: Case, data: Any, out: Path, encoder: Path, **settings: Any) -> tunesmith.TrainResult:
    usual = {"epochs": 3, "lr": 3e-3, "batch_size": 8, "max_length": 48, "precision": "fp32", "seed": 3}
    return tunesmith.train(data, out=out, model=encoder, progress="quiet", **{**usual, **case.settings, **settings})


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def data(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / f"{case.name}.jsonl", case.rows(60, 0))


@pytest.fixture(scope="module")
def trained(case: Case, data: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    return train(case, data, tmp_path_factory.mktemp("model") / "m", tiny_bert)


def test_every_task_has_a_case() -> None:
    assert {case.name for case in CASES} == set(TASKS)


def test_it_is_recognised_by_its_data(case: Case, data: Path) -> None:
    assert choose_task(open_data(data), Config()) == case.name


def test_encoding_is_deterministic(case: Case, data: Path, tiny_bert: Path) -> None:
    config = resolve({"model": str(tiny_bert), "max_length": 48})
    source, kind = open_data(data), load(family(case.name).task)
    schema = guess_schema(source, text=None, label=None, group=None, family=family(case.name))
    examples = [schema.parse(row, place) for row, place in source]
    once, again = (
        encoder_of(config, kind, open_pretrained(str(tiny_bert)), schema, QUIET).encode_examples(examples, offsets=offsets)
        for offsets in (False, True)
    )
    for one, two in zip(once, again, strict=True):
        assert one.borders == two.borders and one.tokens == two.tokens and one.points.tolist() == two.points.tolist()
        assert [ids.tolist() for ids in one.sequences] == [ids.tolist() for ids in two.sequences]
        assert [len(ids) for ids in two.sequences] == [len(offsets) for offsets in two.offsets]


def test_saving_and_loading_is_the_identity(case: Case, trained: tunesmith.TrainResult) -> None:
    rows = case.rows(12, 7)
    assert tunesmith.load(trained.directory).predict(rows) == trained.bundle.predict(rows)


def test_the_loss_falls_on_eight_rows(case: Case, tiny_bert: Path, tmp_path: Path) -> None:
    eight = write(tmp_path / "eight.jsonl", case.rows(8, 1))
    result = train(case, eight, tmp_path / "m", tiny_bert, epochs=40, valid_size=0, test_size=0, dropout=0, task=case.name).result
    history = [point["loss"] for point in result["training"]["history"]]
    assert history[-1] < 0.5 * history[0]


def test_list_file_and_stdin_predictions_agree(case: Case, trained: tunesmith.TrainResult, run: Run, tmp_path: Path) -> None:
    rows = case.rows(9, 5)
    path = write(tmp_path / "new.jsonl", rows)
    assert trained.bundle.predict(rows) == trained.bundle.predict(path)
    to_file = run("predict", trained.directory, path, "-o", "out.jsonl")
    assert to_file.code == 0, to_file.err
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [{key: value for key, value in row.items() if key not in case.predicted} for row in written] == rows
    assert all(set(case.predicted) <= set(row) for row in written)
    values = [trained.bundle.task.columns(found, flat=False) for found in trained.bundle.predict(rows)]
    for row, expected in zip(written, values, strict=True):
        for name in case.predicted:
            assert row[name] == json.loads(to_json(expected[name.removeprefix("predicted_")])), name
    piped = run("predict", trained.directory, "-", stdin=path.read_bytes())
    assert [json.loads(line) for line in piped.out.splitlines()] == written


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_it_predicts_into_other_formats(case: Case, trained: tunesmith.TrainResult, run: Run, tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / "new.jsonl", case.rows(4, 5))
    done = run("predict", trained.directory, path, "-o", f"out.{ending}")
    assert done.code == 0, done.err
    assert len(list(open_data(tmp_path / f"out.{ending}"))) == 4


def test_a_resumed_run_equals_an_uninterrupted_one(
    case: Case, data: Path, trained: tunesmith.TrainResult, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, clip = [], loop.clip

    def stops(*arguments: Any) -> float:
        steps.append(1)
        if len(steps) == 9:
            raise KeyboardInterrupt
        return clip(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "clip", stops)
        with pytest.raises(tunesmith.errors.Interrupted):
            train(case, data, tmp_path / "m", tiny_bert, checkpoint_steps=4)
    resumed = train(case, data, tmp_path / "m", tiny_bert, checkpoint_steps=4, resume=True)
    for name in ("model.safetensors", "head.safetensors"):
        if (trained.directory / name).exists():
            assert (resumed.directory / name).read_bytes() == (trained.directory / name).read_bytes()
    assert resumed.bundle.predict(case.rows(12, 7)) == trained.bundle.predict(case.rows(12, 7))
    assert resumed.metrics == trained.metrics


def test_the_report_the_card_and_the_walk_speak_of_it(case: Case, data: Path, trained: tunesmith.TrainResult, run: Run) -> None:
    result = trained.result
    assert result["evaluations"]["test"]["metrics"] and result["data"]["splits"]["train"]["targets"] is not None
    assert ("classification" if case.name == "pair" else case.name) in result["sentence"]
    page = (trained.directory / "report.html").read_text(encoding="utf-8")
    card = (trained.directory / "README.md").read_text(encoding="utf-8")
    assert result["hub"]["pipeline_tag"] in card and "nan" not in page.lower().split() and "None" not in card
    walked = run("walk", data, "--row", 2, "--model", trained.directory)
    assert walked.code == 0 and "8 prediction" in walked.out, walked.err
    assert walked.out != run("walk", data, "--row", 3, "--model", trained.directory).out
    untrained = run("walk", data, "--row", 2, "--model", result["base_model"], "--max-length", 48)
    assert untrained.code == 0 and "UNTRAINED head" in untrained.out, untrained.err


def test_evaluation_says_what_training_said(case: Case, trained: tunesmith.TrainResult, run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", case.rows(24, 9))
    found = trained.bundle.evaluate(path)
    assert found["account"]["rows_used"] == 24
    encoder = Path(trained.result["recipe"]["model"])
    again = train(case, case.rows(30, 0), tmp_path / "m", encoder, epochs=1, test=path, task=case.name)
    told = again.result["evaluations"]["test"]
    measured = again.bundle.evaluate(path)
    assert measured["metrics"] == pytest.approx(told["metrics"]) and measured["intervals"].keys() == told["intervals"].keys()
    told = run("evaluate", trained.directory, path, "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out.splitlines()[-1])["metrics"] == pytest.approx(found["metrics"])


def test_a_bad_row_is_named(case: Case, tiny_bert: Path, tmp_path: Path) -> None:
    rows = case.rows(30, 2)
    path = write(tmp_path / "bad.jsonl", [*rows[:11], {**rows[11], **case.broken}, *rows[12:]])
    with pytest.raises(DataError, match=r"bad\.jsonl:12") as caught:
        train(case, path, tmp_path / "m", tiny_bert, task=case.name)
    assert case.says in str(caught.value)


def test_the_audit_reads_its_data(case: Case, data: Path, run: Run) -> None:
    done = run("check", data)
    assert done.code == 0 and "60 rows" in done.out, done.err
