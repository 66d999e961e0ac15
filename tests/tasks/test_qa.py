"""Extractive question answering: loss and decoding against brute force, no answer, windows, and the same logits in transformers."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
import tunesmith
from running import Run
from tunesmith.data.batches import PackedBatch, pack
from tunesmith.data.passages import PassageEncoder
from tunesmith.data.schema import Example, Source
from tunesmith.data.tokens import Encoded, Truncation
from tunesmith.errors import DataError, Diverged
from tunesmith.tasks.qa import QuestionAnswering, match_of
from tunesmith.tasks.qa_yardsticks import nearest_sentences, simple_answers
from tunesmith.tasks.rows import Ragged
from tunesmith.tasks.spans import Best, places_of, windows_of

SETTINGS: dict[str, Any] = {
    "epochs": 20, "lr": 5e-3, "batch_size": 8, "max_length": 40, "stride": 8, "max_answer_tokens": 4, "precision": "fp32", "seed": 1,
    "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


def questions(count: int, seed: int = 0, none: int = 0, filler: int = 7) -> list[dict[str, Any]]:
    """Rows whose answer is the animal behind the colour that the question names; every `none`th one names no colour."""
    generator, rows = random.Random(seed), []
    for number in range(count):
        asked, other = generator.choice(tiny.COLOURS), generator.choice(tiny.FILLER)
        animal = generator.choice(tiny.ANIMALS)
        words = [generator.choice(tiny.FILLER) for _ in range(generator.randint(filler, filler + 4))]
        begins = generator.randint(0, len(words))
        empty = bool(none) and number % none == 0
        words[begins:begins] = [asked, animal]
        start = sum(len(word) + 1 for word in words[: begins + 1])
        answers = [] if empty else [{"text": animal, "answer_start": start}]
        rows.append({"id": f"q{number}", "question": other if empty else asked, "context": " ".join(words), "answers": answers})
    return rows


def squad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    paragraphs = [
        {"context": row["context"], "qas": [{"id": row["id"], "question": row["question"], "answers": row["answers"]}]} for row in rows
    ]
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qa") / "train.json"
    path.write_text(json.dumps(squad(questions(200, none=4))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    return tunesmith.train(data, out=tmp_path_factory.mktemp("qa-model") / "m", model=tiny_bert, progress="quiet", **SETTINGS)


# --- loss ------------------------------------------------------------------------------------------------------------------


def examples(seed: int, count: int = 5) -> list[Example]:
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        words = [generator.choice(tiny.ANIMALS) for _ in range(generator.choice([0, 1, 8, 30]))]
        passage = " ".join(words)
        ends = list(itertools.accumulate(len(word) + 1 for word in words))
        spans = []
        for _ in range(generator.randint(0, 3) if words else 0):
            first = generator.randrange(len(words))
            last = min(first + generator.randint(0, 2), len(words) - 1)
            spans.append((ends[first] - len(words[first]) - 1, ends[last] - 1))
        found.append(Example(("red cat ?", passage), [], True, None, Source("t", 1), tuple(spans)))
    return found


def encoded(given: list[Example], max_length: int = 20) -> list[Encoded]:
    return PassageEncoder(tiny.tokenizer(), Truncation("windows", max_length, 5), 1).encode_examples(given, offsets=True)


@pytest.mark.parametrize("seed", range(6))
def test_the_loss_is_the_marginal_likelihood_of_the_spans_by_brute_force(seed: int) -> None:
    found, task = encoded(examples(seed)), QuestionAnswering()
    batch = pack(found)
    outputs = torch.randn(len(batch.ids), 2, generator=torch.Generator().manual_seed(seed))
    values = task.loss(task.combine(outputs, batch), batch).tolist()
    expected, begin = [], 0
    for one in found:
        count = len(one.sequences)
        answers = one.points[3 * count :].reshape(-1, 2).tolist()
        for null, first, end in one.points[: 3 * count].reshape(-1, 3).tolist():
            places = [null, *range(first, end)]
            start, last = ({p: float(outputs[begin + p, c]) for p in places} for c in (0, 1))
            inside = [(a, b) for a, b in answers if first <= a and b < end] or [(null, null)]
            chance = sum(math.exp(start[a] + last[b]) for a, b in inside)
            total = sum(map(math.exp, start.values())) * sum(map(math.exp, last.values()))
            expected.append(-math.log(chance / total) / 2)
        begin += sum(map(len, one.sequences))
    assert values == pytest.approx(expected, abs=1e-5) and len(values) == len(batch.lengths)


def test_with_one_answer_and_nothing_else_to_choose_the_loss_is_that_of_transformers(tiny_bert: Path) -> None:
    """A question without token, so that all tokens but the separators compete in both."""
    from transformers import AutoModelForQuestionAnswering

    given = [Example(("", "red dog and cat"), ["dog"], True, None, Source("t", 1), ((4, 7),))]
    batch, model = pack(encoded(given)), AutoModelForQuestionAnswering.from_pretrained(tiny_bert).eval()
    ids = torch.from_numpy(batch.ids[None].astype(np.int64))
    with torch.no_grad():
        found = model(ids)
        outputs = torch.stack([found.start_logits[0], found.end_logits[0]], 1)
        outputs[torch.from_numpy(batch.ids == 3)] = -1e9  # separators
        position = int(np.flatnonzero(batch.ids == tiny.tokenizer().token_to_id("dog"))[0])
        theirs = sum(torch.nn.functional.cross_entropy(outputs[None, :, c], torch.tensor([position])) for c in (0, 1)) / 2
    task = QuestionAnswering()
    assert float(task.loss(task.combine(outputs, batch), batch)) == pytest.approx(float(theirs), abs=1e-6)


def test_gradients_are_finite_and_only_of_what_competes() -> None:
    found, task = encoded(examples(3)), QuestionAnswering()
    batch = pack(found)
    outputs = torch.randn(len(batch.ids), 2, requires_grad=True)
    task.loss(task.combine(outputs, batch), batch).sum().backward()
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()
    windows = np.concatenate([windows_of(one.points, len(one.sequences)) for one in found])
    assert int((outputs.grad != 0).any(1).sum()) <= int((windows[:, 2] - windows[:, 1] + 1).sum())
    question = int(np.flatnonzero(batch.ids == tiny.tokenizer().token_to_id("?"))[0])
    assert not outputs.grad[question].any()


# --- decoding --------------------------------------------------------------------------------------------------------------


def combined(found: list[Encoded], outputs: np.ndarray, task: QuestionAnswering) -> Ragged:
    batch: PackedBatch = pack(found)
    values = task.combine(torch.from_numpy(outputs), batch).numpy()
    return Ragged.of(np.split(values, np.cumsum(task.sizes(batch))[:-1]), 2)


@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_decoding_equals_brute_force_over_all_spans_of_all_windows(seed: int, unanswerable: bool) -> None:
    given = examples(seed, 8)
    found, task = encoded(given), QuestionAnswering(unanswerable, 0.3, 3)
    outputs = np.random.default_rng(seed).normal(size=(sum(len(ids) for one in found for ids in one.sequences), 2)).astype(np.float32)
    begin = 0
    for one, example, answer in zip(found, given, task.decode(combined(found, outputs, task), given, found), strict=True):
        offsets, scores, nulls = np.concatenate(one.offsets), {}, []
        for null, first, end in windows_of(one.points, len(one.sequences)).tolist():
            nulls.append(outputs[begin + null].sum())
            for i in range(first, end):
                for j in range(i, min(i + 3, end)):
                    span = int(offsets[i, 0]), int(offsets[j, 1])
                    scores[span] = max(scores.get(span, -np.inf), outputs[begin + i, 0] + outputs[begin + j, 1])
        begin += sum(map(len, one.sequences))
        ranked = sorted(scores.items(), key=lambda item: -item[1])[:20]
        withheld = not ranked or (unanswerable and min(nulls) - ranked[0][1] > 0.3)
        options = [score for _, score in ranked] + ([min(nulls)] if unanswerable or not ranked else [])
        shares = np.exp(np.array(options) - max(options)) / np.exp(np.array(options) - max(options)).sum()
        assert (answer.start, answer.end) == ((None, None) if withheld else ranked[0][0])
        assert answer.answer == ("" if withheld else example.texts[1][answer.start : answer.end])
        assert answer.probability == pytest.approx(shares[-1 if withheld else 0], rel=1e-4)
        assert [one["probability"] for one in answer.nbest] == pytest.approx(sorted(shares, reverse=True), rel=1e-4)
        assert {(one["start"], one["end"]) for one in answer.nbest if one["answer"]} == {span for span, _ in ranked}


@pytest.mark.parametrize("unanswerable", [False, True])
def test_what_is_kept_for_judging_says_what_prediction_says(unanswerable: bool) -> None:
    given = [*examples(5, 8), Example(("q", ""), [], True, None, Source("t", 1))]
    found, task = encoded(given), QuestionAnswering(unanswerable, 0.3, 3)
    values = np.random.default_rng(5).normal(size=(sum(len(ids) for one in found for ids in one.sequences), 2)).astype(np.float32)
    outputs = combined(found, values, task)
    table = SimpleNamespace(
        points=lambda row: found[row].points,
        sequences=np.array([len(one.sequences) for one in found]),
        offsets=lambda row: np.concatenate(found[row].offsets),
        text=lambda row: given[row].texts[1],
    )
    rows: Any = SimpleNamespace(table=table, index=np.arange(len(given)))
    kept = task.reduced(outputs, rows)
    assert kept.values.shape == (len(given), 5) and len(kept) == len(given)
    best = Best.of(kept.finite())
    for i, answer in enumerate(task.decode(outputs, given, found)):
        withheld = bool(best.start[i] < 0 or (unanswerable and best.margin[i] > 0.3))
        assert answer.answer == ("" if withheld else best.text(i, given[i].texts[1]))
    assert best.start[-1] == -1 and np.isinf(best.margin[-1])
    outputs.values[0, 0] = np.nan
    with pytest.raises(Diverged, match="not finite"):
        task.reduced(outputs, rows).finite()


def test_two_thousand_questions_are_decoded_in_seconds() -> None:
    generator = np.random.default_rng(0)
    passage = " ".join(random.Random(0).choices(tiny.ANIMALS, k=180))
    given = [Example(("red cat ?", passage), None, False, None, Source("t", 1))] * 2000
    found, task = encoded(given, 200), QuestionAnswering(True)
    rows = len(places_of(windows_of(found[0].points, len(found[0].sequences))))
    outputs = Ragged(generator.normal(size=(2000 * rows, 2)).astype(np.float32), np.arange(2001) * rows)
    began = time.process_time()
    assert sum(1 for _ in task.decode(outputs, given, found)) == 2000
    assert time.process_time() - began < 20


def test_of_equal_texts_the_one_with_the_highest_score_is_given() -> None:
    given = [Example(("?", "dog cat dog cat dog"), None, False, None, Source("t", 1))]
    found, task = encoded(given), QuestionAnswering()
    outputs = np.zeros((len(found[0].sequences[0]), 2), np.float32)
    third = int(found[0].points[1]) + 2
    outputs[third] = 5
    answer = next(task.decode(combined(found, outputs, task), given, found))
    assert (answer.answer, answer.start, answer.end) == ("dog", 8, 11)


@pytest.mark.parametrize(("passage", "answer"), tiny.ANSWERED)
@pytest.mark.parametrize("max_length", [30, 200])
def test_answers_in_any_script_are_exact_slices(passage: str, answer: str, max_length: int) -> None:
    start = passage.index(answer)
    given = [Example(("q", passage), [answer], True, None, Source("t", 1), ((start, start + len(answer)),))]
    found = PassageEncoder(tiny.byte_level(), Truncation("windows", max_length, 8), 1).encode_examples(given, offsets=True)
    places = found[0].points[3 * len(found[0].sequences) :].reshape(-1, 2)
    outputs = np.zeros((sum(map(len, found[0].sequences)), 2), np.float32)
    outputs[places[:, 0], 0] = outputs[places[:, 1], 1] = 9
    task = QuestionAnswering(max_answer_tokens=40)
    predicted = next(task.decode(combined(found, outputs, task), given, found))
    if len(places):
        assert (predicted.answer, predicted.start, predicted.end) == (answer, start, start + len(answer))
    assert all(one["answer"] == passage[one["start"] : one["end"]] for one in predicted.nbest)


# --- the whole of it -------------------------------------------------------------------------------------------------------


def test_it_learns_and_says_when_there_is_no_answer(trained: tunesmith.TrainResult) -> None:
    assert trained.metrics["f1"] > 0.8 and trained.metrics["no_answer_accuracy"] > 0.5
    assert set(trained.metrics) >= {"exact_match", "has_answer_f1", "best_f1", "best_exact_match", "ece"}
    assert trained.metrics["best_f1"] >= trained.metrics["f1"]
    task = trained.bundle.task
    assert isinstance(task, QuestionAnswering) and task.unanswerable and task.null_threshold != 0
    valid = trained.result["evaluations"]["valid"]["metrics"]
    assert valid["f1"] == pytest.approx(valid["best_f1"]), "the threshold is that of the validation rows"
    kept = json.loads((trained.directory / "tunesmith.json").read_text())["task"]
    assert kept["null_threshold"] == task.null_threshold and tunesmith.load(trained.directory).task == task
    names = [one["name"] for one in trained.result["evaluations"]["test"]["yardsticks"]]
    assert names == ["nearest sentence", "never an answer"]
    mistakes = trained.result["evaluations"]["valid"]["mistakes"]
    assert all({"gold", "predicted", "source"} <= set(one) for one in mistakes)


def test_answers_are_slices_of_the_passage(trained: tunesmith.TrainResult) -> None:
    rows = questions(40, seed=5, none=5)
    for row, answer in zip(rows, trained.bundle.predict(rows), strict=True):
        assert isinstance(answer, tunesmith.Answer)
        if answer.start is None:
            assert answer.answer == "" and answer.end is None
        else:
            assert answer.answer == row["context"][answer.start : answer.end]
        assert sum(one["probability"] for one in answer.nbest) == pytest.approx(1)
    one = trained.bundle.predict(("red", "the old house red dog and a big tree"))
    assert one.answer == "dog" and (one.start, one.end) == (18, 21)


def test_a_long_passage_is_read_in_windows_to_its_last_character(trained: tunesmith.TrainResult) -> None:
    passage = " ".join(["the old house", *["and the tree"] * 60, "red dog"])
    found = trained.bundle.predict(("red", passage))
    assert found.answer == "dog" and found.end == len(passage)
    assert trained.bundle.encoder.encode_examples([Example(("red", passage), None, False, None, Source("t", 1))])[0].lost == 0


def test_an_empty_passage_has_no_answer(trained: tunesmith.TrainResult, tiny_bert: Path, tmp_path: Path) -> None:
    for passage in ("", "   ", "\n"):
        found = trained.bundle.predict(("red", passage))
        assert (found.answer, found.start, found.end) == ("", None, None) and found.probability > 0
    always = tunesmith.train(questions(40), out=tmp_path / "m", model=tiny_bert, progress="quiet", **{**SETTINGS, "epochs": 1})
    found = always.bundle.predict([("red", ""), ("red", "the red dog")])
    assert found[0].answer == "" and found[0].probability == 1 and found[1].answer != ""
    assert set(always.metrics) == {"exact_match", "f1", "ece"}


def test_rows_with_an_empty_passage_or_a_long_question_train(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [*questions(30, none=5), {"id": "e", "question": "red", "context": "", "answers": []}]
    rows.append({**rows[1], "question": rows[1]["question"] + " the old house" * 40})
    found = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, progress="quiet", **{**SETTINGS, "epochs": 1, "valid_size": 0})
    assert sum(part["account"]["rows_truncated"] for part in found.result["data"]["splits"].values() if part) == 1
    with pytest.raises(DataError, match="is not in the passage"):
        tunesmith.train([*rows, {**rows[1], "context": ""}], out=tmp_path / "n", model=tiny_bert, progress="quiet", **SETTINGS)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "mpnet"])
def test_transformers_gives_the_same_logits(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    encoder = tiny.save_encoder(tmp_path / "encoder", architecture)
    rows = questions(16)
    settings = {**SETTINGS, "epochs": 1, "valid_size": 0, "test_size": 0}
    ours = tunesmith.train(rows, out=tmp_path / "m", model=encoder, progress="quiet", **settings).bundle
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "m").eval()
    inputs = tokenizer([row["question"] for row in rows], [row["context"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs)
        theirs = torch.stack([found.start_logits, found.end_logits], -1)[inputs["attention_mask"].bool()]
        batch = pack(
            ours.encoder.encode_examples([Example((r["question"], r["context"]), None, False, None, Source("t", 1)) for r in rows])
        )
        torch.testing.assert_close(ours.model(batch), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["modernbert", "albert", "gpt2"])
def test_other_architectures_train_and_load(architecture: str, tmp_path: Path) -> None:
    encoder = tiny.save_encoder(tmp_path / "encoder", architecture)
    rows = questions(16, none=4)
    settings = {**SETTINGS, "epochs": 1, "valid_size": 0, "test_size": 0}
    trained = tunesmith.train(rows, out=tmp_path / "m", model=encoder, progress="quiet", **settings)
    assert tunesmith.load(tmp_path / "m").predict(rows) == trained.bundle.predict(rows)


def test_questions_on_one_passage_stay_on_one_side_of_a_split(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "question": f"{row['question']} {more}"} for row in questions(30) for more in ("?", "!", "the")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = tunesmith.train(path, out=tmp_path / "m", model=tiny_bert, progress="quiet", **{**SETTINGS, "epochs": 1})
    splits = trained.result["data"]["splits"]
    assert all(part["rows"] % 3 == 0 for part in splits.values()) and splits["test"]["rows"] == 9
    assert "questions on one passage kept together" in splits["test"]["how"]


def test_what_was_put_right_or_cannot_be_learned_is_said(tiny_bert: Path, tmp_path: Path) -> None:
    rows = questions(30)
    rows[3]["answers"][0]["answer_start"] += 1
    rows[4]["answers"] = [{"text": rows[4]["context"], "answer_start": 0}]
    rows[5]["context"] = " ".join(["the house"] * 40)
    rows[5]["answers"] = [{"text": rows[5]["context"], "answer_start": 0}]
    trained = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, progress="quiet", **{**SETTINGS, "epochs": 1})
    notes = " ".join(trained.result["data"]["notes"])
    assert "1 row with an answer moved to where its text is" in notes
    assert "the answers of 1 row of 30 are in no window as a whole" in notes
    assert "the answers of 1 row of 30 are longer than max_answer_tokens 4" in notes


def test_how_answers_are_compared_follows_the_script() -> None:
    assert match_of(["北京是中国的首都", "a", "上海"]) == "characters" and match_of(["Peking", "the 北"]) == "words"


def test_chinese_passages_are_judged_by_characters(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"question": f"谁{i}", "context": f"第{i}个人住在北京市", "answers": ["北京市"]} for i in range(40)]
    trained = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, progress="quiet", **{**SETTINGS, "epochs": 1})
    assert trained.result["evaluations"]["test"]["match"] == "characters"
    assert trained.bundle.evaluate(questions(10))["match"] == "words"
    told = tunesmith.train(
        rows, out=tmp_path / "n", model=tiny_bert, progress="quiet", **{**SETTINGS, "epochs": 1, "answer_match": "words"}
    )
    assert told.result["evaluations"]["test"]["match"] == "words"


def test_yardsticks() -> None:
    def one(question: str, passage: str) -> Example:
        return Example((question, passage), None, True, None, Source("t", 1))

    test = [
        one("Where does the fox live?", "It rains. The fox lives in the wood. Birds sing!"),
        one("What?", ""),
        one("谁住在上海？", "他来了。小明住在上海。"),
    ]
    assert nearest_sentences(test, test, "words")[:2] == ["The fox lives in the wood.", ""]
    assert nearest_sentences(test[2:], test[2:], "characters") == ["小明住在上海。"]
    found = simple_answers(test, test, [["in the wood"], [], ["小明"]], "words")
    assert [one["name"] for one in found] == ["nearest sentence", "never an answer"]
    assert found[1]["metrics"]["no_answer_accuracy"] == 1 and found[1]["metrics"]["exact_match"] == pytest.approx(1 / 3)


def test_from_the_command_line(data: Path, trained: tunesmith.TrainResult, tiny_bert: Path, tmp_path: Path, run: Run) -> None:
    ended = run("train", data, "--model", tiny_bert, "--epochs", 1, "--max-length", 40, "--stride", 8, "--out", "m")
    assert ended.code == 0, ended.err
    assert (
        "texts 'question' and 'context', label 'answers'" in ended.err
        and "question answering (qa), a span of the passage or no answer" in ended.err
    )
    ended = run("predict", trained.directory, data, "-o", "out.csv")
    assert ended.code == 0, ended.err
    header = (tmp_path / "out.csv").read_text().splitlines()[0]
    assert header == "id,title,question,context,answers,is_impossible,answer,answer_start,probability"
    ended = run("predict", trained.directory, "out.csv", "-o", "again.jsonl")
    assert ended.code == 0 and "'predicted_answer'" in ended.err
    first = json.loads((tmp_path / "again.jsonl").read_text().splitlines()[1])
    assert first["nbest"][0].keys() == {"answer", "start", "end", "probability"}
    ended = run("predict", trained.directory, "--format", "json", stdin=data.read_bytes())
    assert ended.code == 0 and len(ended.out.splitlines()) == 200, ended.err
    ended = run("evaluate", trained.directory, data)
    assert ended.code == 0 and "no_answer_accuracy" in ended.out, ended.err
    ended = run("check", data, "--test", data, "--model", tiny_bert)
    assert ended.code == 0 and "labels with one row" not in ended.out, ended.err
    ended = run("train", data, "--task", "qa", "--metric", "accuracy", "--model", tiny_bert, "--out", "x")
    assert ended.code == 2 and "exact_match" in ended.err


def test_rows_without_answers_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    rows = questions(12)
    rows[7]["answers"] = None
    with pytest.raises(DataError, match=r"row 8|:8: no label") as caught:
        tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, progress="quiet", **SETTINGS)
    assert "is_impossible" in str(caught.value)
    empty = [{**row, "answers": []} for row in questions(12)]
    with pytest.raises(DataError, match="no question has an answer"):
        tunesmith.train(empty, out=tmp_path / "m", model=tiny_bert, progress="quiet", **SETTINGS)


def odd_questions() -> list[dict[str, Any]]:
    """Nine rows of which three have something wrong, one says nothing of its answer, and one has none."""
    rows = questions(9)
    rows[1]["answers"][0]["answer_start"] += 1
    rows[2]["question"] = ""
    rows[3] |= {"is_impossible": True}
    rows[4] |= {"answers": None}
    rows[5] |= {"context": " ", "answers": []}
    return rows


def test_a_check_tells_of_the_answers(tiny_bert: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in odd_questions()))
    ended = run("check", "odd.jsonl", "--model", tiny_bert)
    told = " ".join(ended.out.split())
    assert ended.code == 0 and "9 questions on 9 passages: 6 with an answer, 2 without one in the passage" in told, ended.err
    for line, what in (
        (2, "has an answer moved to where its text is"),
        (3, "has no question"),
        (4, "has answers, and is_impossible beside them"),
        (5, "has no answer, and does not say so"),
        (6, "has no passage"),
    ):
        assert f"1 row {what} (odd.jsonl:{line})." in told


def test_a_check_counts_what_is_cut_off_a_long_question(tiny_bert: Path, tmp_path: Path, run: Run) -> None:
    rows = [{"question": "the " * asked + "?", "context": "red cat", "answers": ["cat"]} for asked in (2, 100)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = run("check", "long.jsonl", "--model", tiny_bert, "--max-length", 32)
    row = next(line.split() for line in ended.out.splitlines() if line.split()[:1] == ["windows"])
    short, long = encoded([Example((row["question"], row["context"]), [], True, None, Source("t", 1), ()) for row in rows], 32)
    assert short.lost == 0 < long.lost and len(long.sequences) == 1
    assert row == ["windows", "1", "50.0%", str(long.lost), f"{long.lost / (short.tokens + long.tokens):.1%}", "2"]


def test_moved_answers_of_a_test_are_told(trained: tunesmith.TrainResult) -> None:
    rows = questions(9)
    rows[1]["answers"][0]["answer_start"] += 1
    assert any("1 row with an answer moved to where its text is" in note for note in trained.bundle.evaluate(rows)["notes"])


def test_a_prediction_without_question_or_passage_is_told(trained: tunesmith.TrainResult, tmp_path: Path, run: Run) -> None:
    (tmp_path / "new.csv").write_text("question,context\nred,the red cat\n,the red cat\nred,\n,\n")
    ended = run("predict", trained.directory, "new.csv")
    assert ended.code == 0 and "2 rows have only one of the two texts" in ended.err and "(new.csv:3, new.csv:4)" in ended.err
    assert "1 row has no text" in ended.err


def test_the_report_counts_questions_with_and_without_an_answer(trained: tunesmith.TrainResult) -> None:
    targets = {name: part["targets"] for name, part in trained.result["data"]["splits"].items() if part}
    card = (trained.directory / "README.md").read_text(encoding="utf-8")
    for what in ("with an answer", "without an answer"):
        assert f"| Questions {what} | {' | '.join(str(counts[what]) for counts in targets.values())} |" in card


def test_a_walk_of_a_question_without_answer(data: Path, trained: tunesmith.TrainResult, run: Run) -> None:
    ended = run("walk", data, "--row", 1, "--model", trained.directory)
    assert ended.code == 0 and "label: an empty list" in ended.out, ended.err
