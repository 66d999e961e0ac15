"""The report, the card and the terminal table: complete, escaped, free of NaN, right with parts missing."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from tunesmith import metrics
from tunesmith.data.schema import Schema
from tunesmith.report import model_card, render_table, wording, write_report
from tunesmith.report import view as views
from tunesmith.report.charts import curve, heat_map, reliability
from tunesmith.tasks.classification import Classification
from tunesmith.yardsticks import scored

HOSTILE = '<script>alert("1")</script>'


def evaluation(labels, kind, rows, seed, skill):
    rng = np.random.default_rng(seed)
    count = len(labels)
    if kind == "single":
        gold = rng.integers(0, count, rows)
        scores = rng.normal(size=(rows, count)) + skill * np.eye(count)[gold]
        probabilities = np.exp(2 * scores) / np.exp(2 * scores).sum(1, keepdims=True)
    else:
        gold = rng.random((rows, count)) < 0.2
        probabilities = 1 / (1 + np.exp(-(rng.normal(size=(rows, count)) + skill * (gold - 0.5))))
    found = metrics.evaluation(gold, probabilities, labels, kind, seed=seed)
    prior = np.full((rows, count), 1 / count)
    weak = 0.6 * probabilities + 0.4 * rng.dirichlet(np.ones(count), rows)
    yardsticks = [
        {"name": "majority class", "probabilities": prior, "thresholds": None, "note": f"always {labels[0]!r}"},
        {"name": "TF-IDF + logistic regression", "probabilities": weak, "thresholds": None, "note": "on words and word pairs"},
        {"name": "broken", "probabilities": None, "thresholds": None, "note": "skipped: no words"},
    ]
    found["yardsticks"] = scored(yardsticks, gold, labels, kind, seed)
    predicted = metrics.predicted_labels(probabilities, kind)
    wrong = np.flatnonzero(predicted != gold if kind == "single" else (predicted != gold).any(1))[:12]
    found["mistakes"] = [
        {
            "source": f"test.csv:{row + 2}",
            "text": f"a text about {HOSTILE} & more " * 4,
            "gold": labels[gold[row]] if kind == "single" else ", ".join(labels[c] for c in np.flatnonzero(gold[row])),
            "predicted": labels[predicted[row]] if kind == "single" else ", ".join(labels[c] for c in np.flatnonzero(predicted[row])),
            "probability": float(probabilities[row].max()),
        }
        for row in wrong
    ]
    return found


def make(labels=("negative", "neutral", "positive"), kind="single", rows=300, skill=2.0):
    """Build a result with every key that a run writes."""
    labels = list(labels)
    task = Classification(labels, kind)
    rng = np.random.default_rng(1)

    def split(name, how, size):
        account = {
            "rows_read": size + 7,
            "rows_used": size,
            "dropped_empty": 2,
            "dropped_duplicates": 5,
            "dropped_unlabelled": 0,
            "duplicates_found": 5,
            "rows_truncated": size // 20,
            "tokens_read": 40 * size,
            "tokens_lost": size,
            "max_length": 128,
            "truncation": "head",
            "windows": size,
        }
        counts = {label: size // len(labels) for label in labels}
        return {"file": f"data/private/{name}.csv", "rows": size, "how": how, "targets": counts, "account": account}

    steps = range(1, 901)
    return {
        "task": "classification",
        "kind": kind,
        "name": "reviews-model",
        "created": "2025-03-01T12:00:00+00:00",
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "pooling": "cls",
        "loads_in_transformers": True,
        "sentence": task.sentence(),
        "hub": asdict(task.hub(Schema(("review",), "sentiment"))),
        "labels": labels,
        "thresholds": [0.5] * len(labels) if kind == "multi" else None,
        "recipe": {"epochs": 3, "learning_rate": 5e-5, "freeze": None, "layer_decay": 0.0, "warm_start": False, "text": ["review"]},
        "versions": {"tunesmith": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.9"},
        "machine": {"cpu": "Example CPU", "threads": 2, "precision": "bf16", "note": ""},
        "data": {
            "columns": {"text": "review", "label": "sentiment"},
            "splits": {
                "train": split("train", "given", 9000),
                "valid": split("train", "split off 10% of train, stratified by label", 1000),
                "test": split("test", "given", rows),
            },
            "notes": ["3 test texts also occur in the training rows."],
        },
        "training": {
            "epochs": 3.0,
            "steps": 900,
            "tokens": 1_200_000,
            "seconds": 187.4,
            "tokens_per_s": 6400.0,
            "peak_memory_mb": 812.0,
            "parameters": 22_700_000,
            "trained_parameters": 22_700_000,
            "best_step": 600,
            "stopped": "finished",
            "history": [
                {"step": s, "epoch": s / 300, "loss": float(1.5 * np.exp(-s / 250) + 0.15 * rng.random()), "lr": 5e-5} for s in steps
            ],
            "evaluations": [
                {"step": s, "epoch": s / 300, "metrics": {"f1_macro": 0.9 - abs(s - 600) / 3000}} for s in range(150, 901, 150)
            ],
        },
        "metric": "f1_macro",
        "evaluations": {"valid": evaluation(labels, kind, rows, 2, skill), "test": evaluation(labels, kind, rows, 3, skill)},
    }


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text, and the cells of each table by id."""

    VOID = frozenset({"meta", "br", "hr", "link", "input", "img"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.attributes, self.words, self.tables = [], [], [], [], {}
        self.table = None
        self.feed(html)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(dict(attrs).get("id", f"table {len(self.tables)}"), [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.table[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(result, directory):
    path = write_report(result, directory)
    assert path == directory / "report.html"
    return Page(path.read_text(encoding="utf-8"))


NAMES = {
    "2": ["ham", "spam"],
    "26": [f"intent_{i}" for i in range(26)],
    "77": [f"card_payment_{i}" for i in range(77)],
    "201": [f"l{i}" for i in range(201)],
    "scripts": [
        "房间很干净服务也很好下次还会再来住的一家酒店",
        "очень положительный отзыв с длинным названием",
        "مراجعة إيجابية للغاية مع اسم طويل جدا",
    ],
}


@pytest.mark.parametrize(
    ("names", "kind"),
    [("2", "single"), ("26", "single"), ("77", "single"), ("201", "single"), ("scripts", "single"), ("scripts", "multi"), ("26", "multi")],
)
def test_page_is_whole(names, kind, tmp_path):
    labels = NAMES[names]
    result = make(labels, kind, rows=1500)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    page = page_of(result, tmp_path)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "onload", "onclick")]
    assert not re.search(r"\bnan\b|\binf\b|None|undefined", page.text, re.IGNORECASE)
    assert [row[0] for row in page.tables["per-label"][1:]] == [
        r["label"] for r in sorted(result["evaluations"]["test"]["per_label"], key=lambda r: r["f1"])
    ]
    test = result["evaluations"]["test"]
    header, first = page.tables["metrics"][:2]
    assert header == ["Metric", "This model", "majority class", "TF-IDF + logistic regression"]
    assert first[0] == "F1, macro"
    assert first[1] == f"{test['metrics']['f1_macro']:.3f} [{test['intervals']['f1_macro'][0]:.3f}, {test['intervals']['f1_macro'][1]:.3f}]"
    assert ("confusion" in {value for _, name, value in page.attributes if name == "id"}) == (kind == "single")
    assert "chosen: step 600" in page.text
    assert "broken: skipped: no words" in page.text
    assert "test.csv:" in page.text
    account = {row[0]: row[1:] for row in page.tables["account"]}
    assert account["Rows used"] == ["9,000 (1,000 split off)", "1,000", "1,500"]
    assert account["Tokens lost"][0] == "9,000 (2.5%)"
    assert "Dropped: no label" not in account


def test_hostile_text_stays_text(tmp_path):
    labels = [HOSTILE, "a|b `code` **x** [y](z)", '"quoted" & <b>', "line\nbreak \x00 \ud800"]
    result = make(labels)
    result["name"] = result["base_model"] = HOSTILE
    result["recipe"][HOSTILE] = HOSTILE
    result["data"]["notes"] = [HOSTILE]
    result["data"]["columns"] = {"text": HOSTILE, "label": ["a", "b"]}
    for part in result["data"]["splits"].values():
        part["file"] = HOSTILE
    result["machine"]["cpu"] = HOSTILE
    page = page_of(result, tmp_path)
    assert "script" not in page.tags and "b" in page.tags
    assert page.text.count("alert(") > 10
    card = model_card(result)
    assert "<script" not in card.split("---", 2)[2].replace("`", "")
    assert "a\\|b" in card
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["name"] == HOSTILE
    card.encode("utf-8")
    rows = [line for line in card.splitlines() if line.startswith("| a\\|b")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 6
    render_table(result).encode("utf-8")


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_without_test_set_the_report_says_that_the_figures_are_optimistic(kind, tmp_path):
    result = make(kind=kind)
    result["evaluations"]["test"] = None
    result["data"]["splits"]["test"] = None
    for text in (page_of(result, tmp_path).text, model_card(result), render_table(result)):
        assert "no test set" in text and "optimistic" in text
    assert "validation, 300 rows" in render_table(result)
    assert yaml.safe_load(model_card(result).split("---\n")[1])["model-index"][0]["results"][0]["dataset"]["split"] == "validation"


def test_without_any_evaluation(tmp_path):
    result = make()
    result["evaluations"] = {"valid": None, "test": None}
    result["data"]["splits"] |= {"valid": None, "test": None}
    result["training"] |= {"best_step": None, "history": [], "evaluations": []}
    for text in (page_of(result, tmp_path).text, model_card(result), render_table(result)):
        assert "not evaluated" in text
    assert "model-index" not in yaml.safe_load(model_card(result).split("---\n")[1])


def test_values_that_are_not_finite_or_missing_never_show(tmp_path):
    result = make()
    result["evaluations"]["test"]["metrics"] |= {"log_loss": float("nan"), "ece": float("inf")}
    result["training"]["history"][3]["loss"] = float("nan")
    result["training"]["evaluations"][0]["metrics"] = {}
    result["training"]["peak_memory_mb"] = None
    result["metric"] = "roc_auc"
    del result["evaluations"]["test"]["metrics"]["roc_auc"]
    for text in (page_of(result, tmp_path).text, model_card(result), render_table(result)):
        assert not re.search(r"\bnan\b|\binf\b", text, re.IGNORECASE)


def test_card(tmp_path):
    result = make()
    card = model_card(result)
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["pipeline_tag"] == "text-classification" and "language" not in matter
    assert matter["base_model"] == "sentence-transformers/all-MiniLM-L6-v2" and matter["library_name"] == "transformers"
    measured = matter["model-index"][0]["results"][0]
    assert measured["dataset"] == {"name": "test.csv", "type": "custom", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in measured["metrics"]}
    assert values["F1, macro"] == pytest.approx(result["evaluations"]["test"]["metrics"]["f1_macro"], abs=1e-4)
    assert "pipeline(" in card and "data/private" not in card
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")
    compile(card.split("```python\n")[2].split("```")[0], "card", "exec")
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table

    result["recipe"] |= {"train": "/home/someone/rows.csv", "output": "C:\\Users\\someone\\model\\", "learning_rate": "1e-5, 2e-5"}
    result["loads_in_transformers"] = False
    result["base_model"] = str(tmp_path)
    card = model_card(result)
    matter = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in matter and matter["library_name"] == "tunesmith"
    assert "someone" not in card and "| train | rows.csv |" in card and "| output | model |" in card and "1e-5, 2e-5" in card
    assert "needs tunesmith" in card and "pipeline(" not in card and str(tmp_path.parent) not in card


def test_terminal_table():
    result = make()
    text = render_table(result)
    header = next(line for line in text.splitlines() if line.startswith("test, 300 rows"))
    assert "majority class" in header and "TF-IDF + logistic regression" in header
    assert text.splitlines()[2].startswith("f1_macro *")
    assert (
        "training (data/private/train.csv, given): 9,000 of 9,007 rows used (1,000 split off), 2 empty dropped, 5 duplicates dropped"
        in text
    )
    assert "cut at 128 tokens" in text
    assert text.isascii() and "\x1b" not in text


def test_verdict_speaks_of_chance():
    result = make(rows=1500)
    test = result["evaluations"]["test"]
    test["metrics"]["f1_macro"], test["intervals"]["f1_macro"] = 0.9, [0.88, 0.92]
    majority, rival = test["yardsticks"][:2]
    majority["metrics"]["f1_macro"], majority["intervals"]["f1_macro"] = 0.2, [0.19, 0.21]
    for value, bounds, words in (
        (0.8, [0.78, 0.82], "do not overlap"),
        (0.89, [0.87, 0.91], "intervals overlap"),
        (0.9, [0.88, 0.92], "no better than"),
        (0.91, [0.89, 0.93], "no better than"),
        (0.95, [0.94, 0.96], "worse than"),
    ):
        rival["metrics"]["f1_macro"], rival["intervals"]["f1_macro"] = value, bounds
        assert words in views.verdict(result) and "TF-IDF" in views.verdict(result)
    result["metric"] = "ece"
    test["metrics"]["ece"], rival["metrics"]["ece"], majority["metrics"]["ece"] = 0.02, 0.05, 0.04
    assert "It beats the best yardstick, majority class, at 0.040" in views.verdict(result)


def test_few_rows_without_a_mistake_are_not_certain():
    result = make()
    test = result["evaluations"]["test"]
    gold = np.array([0, 1, 2, 0, 1, 2, 0])
    test |= metrics.evaluation(gold, np.eye(3)[gold], result["labels"], "single")
    tie = {"name": "TF-IDF", "probabilities": 0.5 * np.eye(3)[gold] + 1 / 6, "thresholds": None, "note": ""}
    weaker = {"name": "majority class", "probabilities": np.eye(3)[[0, 1, 2, 0, 1, 2, 1]], "thresholds": None, "note": ""}
    for rivals in ([tie], [weaker]):
        test["yardsticks"] = scored(rivals, gold, result["labels"], "single")
        said = views.limitations(result)
        assert "7 rows are few: even with no mistake in 7 rows, accuracy may be as low as 0.59 (95% interval)." in said
        assert "1.000]" not in views.verdict(result).split("on 7 test rows")[0]
    assert "95% intervals of accuracy overlap" in views.verdict(result)
    assert any("labels have fewer than 10 test rows" in sentence for sentence in said)
    test |= metrics.evaluation(gold, np.eye(3)[(gold + 1) % 3], result["labels"], "single")
    assert "7 rows are few: even with none of 7 rows right, accuracy may be as high as 0.41 (95% interval)." in views.limitations(result)
    assert "is worse than" in views.verdict(result)


def test_limitations_are_measured():
    result = make(rows=40, skill=0.3)
    said = " ".join(views.limitations(result))
    for words in ("40 rows are few", "F1 is below 0.5", "too high", "Texts over 128 tokens", "also occur in the training"):
        assert words in said
    result = make(rows=1500, skill=4)
    result["data"]["notes"] = []
    for part in result["data"]["splits"].values():
        part["account"]["rows_truncated"] = 0
    result["evaluations"]["test"]["metrics"]["ece"] = 0.01
    assert views.limitations(result) == []
    assert "None of the checks found one" in model_card(result)


def test_a_label_without_test_rows_has_no_score(tmp_path):
    result = make()
    row = result["evaluations"]["test"]["per_label"][1]
    row |= {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    card = model_card(result)
    assert "| neutral | 0.000 | – | – | 0 |" in card
    assert page_of(result, tmp_path).tables["per-label"][-1][:5] == ["neutral", "–", "0.000", "–", "0"]
    assert 'tunesmith.load("path/to/model")' in card


def test_rows_split_off_are_told_from_rows_lost():
    result = make()
    splits = result["data"]["splits"]
    splits["test"] |= {"how": "split off 10% of train", "rows": 700}
    assert views.split_off(result, "train") == " (1,000 + 700 split off)" and views.split_off(result, "test") == ""
    splits["valid"]["how"] = splits["test"]["how"] = "given"
    assert views.split_off(result, "train") == ""


def test_figures_in_the_units_of_the_data_keep_their_digits():
    assert [wording.figure("mse", value) for value in (1.234e-5, 0.5, 912.36, 77151.3, None)] == [
        "1.234e-05",
        "0.5",
        "912.4",
        "77,151",
        "–",
    ]
    assert wording.figure("accuracy", 0.92949) == "0.929" and wording.interval([0.00012, 91234.5], "mae") == "[0.00012, 91,234]"


def test_numbers():
    assert [wording.number(v) for v in (0, 0.92949, None, float("nan"))] == ["0.000", "0.929", "–", "–"]
    assert [wording.share(1, 5000), wording.share(0, 5), wording.share(1, 0), wording.share(1, 8)] == ["<0.1%", "0.0%", "–", "12.5%"]
    assert [wording.duration(s) for s in (3.21, 59.7, 187, 3720)] == ["3.2 s", "1 min 0 s", "3 min 7 s", "1 h 2 min"]
    assert [wording.setting(v) for v in (0, 0.0, None, False, 5e-5, ["a", "b"])] == ["0", "0", "–", "no", "5e-05", "a, b"]
    assert wording.moment("2025-03-01T12:00:00+00:00") == "2025-03-01 12:00 UTC" and wording.moment("2025-03-01") == "2025-03-01 00:00"
    assert wording.title("f1_macro") == "F1, macro" and wording.title("new_metric") == "new_metric"


def test_shortened_labels_keep_both_ends():
    short = wording.shorten("card_payment_wrong_exchange_rate", 20)
    assert wording.columns_wide(short) <= 20 and short.startswith("card_paymen") and short.endswith("e_rate")
    assert wording.columns_wide(wording.shorten("房间很干净服务也很好下次还会再来住", 20)) <= 20
    assert wording.shorten("short", 20) == "short"


def test_charts_of_little_data():
    assert curve([], "loss", None) is None and reliability([]) is None
    assert curve([(1, float("nan"))], "loss", None, raw=True) is None
    for points in ([(5, 0.7)], [(1, 0.0), (2, 0.0)]):
        for raw in (False, True):
            Page(str(curve(points, "loss", 5, raw=raw)))
    Page(str(reliability([{"low": 0.0, "high": 0.1, "confidence": 0.0, "accuracy": 0.0, "count": 1}])))
    Page(str(heat_map([[0, 0], [3, 0]], ["a", "b"])))
    assert heat_map([[0] * 201] * 201, [str(i) for i in range(201)]) is None


def test_the_result_is_not_changed(tmp_path):
    result = make()
    before = copy.deepcopy(result)
    page_of(result, tmp_path), model_card(result), render_table(result)
    assert result == before
