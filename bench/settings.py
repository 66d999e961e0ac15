"""The benchmark's rows: which data, which split, which settings, which figure counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One data set with the settings that every variant trains with."""

    name: str
    title: str
    folder: str
    train_file: str
    test_file: str
    text: str
    label: str
    epochs: int
    lr: float
    batch_size: int
    max_length: int
    metric: Literal[
        "accuracy",
        "f1_micro",
        "f1_macro",
        "matthews",
        "f1_positive",
        "pearson",
        "answer_f1",
        "word_accuracy",
        "entity_f1",
        "mrr",
        "ndcg@10",
    ]
    kind: Literal["single", "multi"] = "single"
    seeds: tuple[int, ...] = (0,)
    encoder: Literal["bundled", "multilingual"] = "bundled"
    first: int | None = None  # only the first so many training rows
    text_pair: str | None = None
    task: Literal["classification", "pair", "regression", "qa", "tagging", "ranking"] = "classification"
    also: tuple[str, ...] = ()  # further figures to print
    sample: int | None = None  # a sample of so many rows of both files, balanced over the labels, drawn anew for each seed
    test_sample: int | None = None  # questions: a sample of so many test rows; `sample` is of the training rows then
    stride: int | None = None  # questions: tokens that windows share
    max_answer_tokens: int | None = None
    strip_digit: bool | None = None  # tagging: drop the digit behind each word
    ranker: Literal["cross-encoder", "bi-encoder"] | None = None  # a collection, and what is trained for it
    last_layers: int | None = None  # train only so many of the last layers, and the head; the others are frozen in every program
    candidates: int | None = None  # passages of BM25 for each query of a collection, which a cross-encoder ranks again

    @property
    def columns(self) -> list[str]:
        """The columns of the prepared files."""
        if self.task == "qa":
            return ["question", "context", "answers"]
        if self.task == "tagging":
            return ["tokens", "tags"]
        return ["text", *(["text_pair"] if self.text_pair is not None else []), "label"]


COLLECTIONS = (("cranfield", "Cranfield (aeronautics)"), ("cisi", "CISI (library science)"))

ROWS = (
    Row("trec", "TREC, 6 classes", "trec", "train.csv", "test.csv", "text", "label", 3, 5e-5, 16, 256, "accuracy", seeds=(0, 1, 2)),
    Row("banking77", "BANKING77", "banking77", "train.csv", "test.csv", "text", "category", 4, 1e-4, 32, 256, "accuracy", seeds=(0, 1, 2)),
    Row("sst2", "SST-2, first 10,000 rows", "sst2", "train.csv", "test.csv", "text", "label", 3, 5e-5, 32, 256, "accuracy", first=10_000),
    Row(
        "goemotions", "GoEmotions, first 10,000 rows, multi-label", "goemotions", "train.csv", "test.csv", "text", "labels",
        3, 1e-4, 32, 256, "f1_micro", kind="multi", first=10_000,
    ),
    Row("cola", "CoLA, dev set as test", "cola", "train.csv", "dev.csv", "text", "label", 3, 5e-5, 32, 256, "matthews", seeds=(0, 1, 2)),
    Row("imdb", "IMDB, 2,000 rows", "imdb", "train.csv", "test.csv", "text", "label", 1, 5e-5, 16, 256, "accuracy", sample=2_000),
    Row(
        "imdb-last2", "IMDB, 5,000 rows, the last 2 layers and the head", "imdb", "train.csv", "test.csv", "text", "label",
        3, 5e-5, 16, 256, "accuracy", sample=5_000, last_layers=2, seeds=(0, 1, 2),
    ),
    Row(
        "chnsenticorp", "ChnSentiCorp, 3,000 rows, multilingual encoder", "chnsenticorp", "train.csv", "test.csv", "text", "label",
        1, 5e-5, 16, 128, "accuracy", seeds=(0, 1, 2), encoder="multilingual", first=3_000,
    ),
    Row(
        "chnsenticorp-all", "ChnSentiCorp (Chinese), whole, multilingual encoder", "chnsenticorp", "train.csv", "test.csv", "text",
        "label", 1, 5e-5, 16, 128, "accuracy", encoder="multilingual",
    ),
    Row(
        "mrpc", "MRPC (paraphrases)", "mrpc", "train.csv", "test.csv", "sentence1", "label", 4, 5e-5, 16, 256, "accuracy",
        text_pair="sentence2", task="pair", also=("f1_positive",), seeds=(0, 1, 2),
    ),
    Row(
        "rte", "RTE (entailment), dev set as test", "rte", "train.csv", "dev.csv", "premise", "label", 4, 5e-5, 16, 256, "accuracy",
        text_pair="hypothesis", task="pair", seeds=(0, 1, 2),
    ),
    Row(
        "stsb", "STS-B (similarity)", "stsb", "train.csv", "test.csv", "sentence1", "score", 4, 5e-5, 16, 256, "pearson",
        text_pair="sentence2", task="regression", also=("spearman",), seeds=(0, 1, 2),
    ),
    Row(
        "squad", "SQuAD 1.1, 10,000 questions, 2,000 of dev as test", "squad", "train-v1.1.json", "dev-v1.1.json", "question", "answers",
        2, 5e-5, 16, 384, "answer_f1", task="qa", also=("exact_match",), sample=10_000, test_sample=2_000, stride=128, max_answer_tokens=30,
    ),
    Row(
        "cmrc", "CMRC 2018 (Chinese), its dev to train, its trial as test, multilingual encoder", "cmrc2018", "cmrc2018_dev.json",
        "cmrc2018_trial.json", "question", "answers", 2, 5e-5, 16, 384, "answer_f1", task="qa", also=("exact_match",), stride=128,
        max_answer_tokens=50, encoder="multilingual",
    ),
    Row(
        "squad-to-cmrc", "trained on SQuAD 1.1 (10,000 questions), asked in Chinese: CMRC 2018 trial, multilingual encoder", "squad",
        "train-v1.1.json", "../cmrc2018/cmrc2018_trial.json", "question", "answers", 2, 5e-5, 16, 384, "answer_f1", task="qa",
        also=("exact_match",), sample=10_000, stride=128, max_answer_tokens=50, encoder="multilingual",
    ),
    Row(
        "ewt-upos", "UD English-EWT, 17 UPOS tags", "ud_en_ewt", "en_ewt-ud-train.conllu", "en_ewt-ud-test.conllu", "tokens", "upos",
        3, 1e-4, 16, 128, "word_accuracy", task="tagging",
    ),
    Row(
        "ewt-xpos", "UD English-EWT, 49 XPOS tags", "ud_en_ewt", "en_ewt-ud-train.conllu", "en_ewt-ud-test.conllu", "tokens", "xpos",
        3, 1e-4, 16, 128, "word_accuracy", task="tagging",
    ),
    Row(
        "taiga", "UD Russian-Taiga, UPOS, multilingual encoder", "ud_ru_taiga", "ru_taiga-ud-train.conllu", "ru_taiga-ud-test.conllu",
        "tokens", "upos", 3, 1e-4, 16, 128, "word_accuracy", task="tagging", encoder="multilingual",
    ),
    Row(
        "weibo", "Weibo NER (Chinese), multilingual encoder", "weibo_ner", "weiboNER_2nd_conll.train", "weiboNER_2nd_conll.test",
        "tokens", "tags", 10, 1e-4, 16, 256, "entity_f1", task="tagging", also=("entity_f1_default",), encoder="multilingual",
        strip_digit=True,
    ),
    Row(
        "resume", "Resume NER (Chinese), multilingual encoder", "resume_ner", "train.char.bmes", "test.char.bmes", "tokens", "tags",
        3, 1e-4, 16, 256, "entity_f1", task="tagging", also=("entity_f1_default",), encoder="multilingual",
    ),
    Row(
        "wikiqa", "WikiQA (answer sentences), its dev to train, cross-encoder", "wikiqa", "dev.csv", "test.csv", "query", "label",
        3, 1e-4, 8, 128, "mrr", text_pair="passage", task="ranking", also=("map",),
    ),  # the batch is of queries
    *(
        Row(
            f"{name}-cross", f"{title}, half of the queries to train, 20 candidates of BM25 ranked again by a cross-encoder", name,
            "qrels.tsv", "qrels.tsv", "text", "label", 2, 1e-4, 8, 128, "ndcg@10", text_pair="passage", task="ranking",
            also=("mrr", "map"), ranker="cross-encoder", candidates=20,
        )
        for name, title in COLLECTIONS
    ),
    *(
        Row(
            f"{name}-bi", f"{title}, half of the queries to train, the whole collection searched by a bi-encoder", name, "qrels.tsv",
            "qrels.tsv", "text", "label", 4, 5e-5, 16, 256, "ndcg@10", text_pair="passage", task="ranking", also=("mrr", "map"),
            seeds=(0, 1, 2), ranker="bi-encoder",
        )
        for name, title in COLLECTIONS
    ),
)  # fmt: skip

SEPARATOR = "|"  # between the labels of one cell in multi-label files

VARIANTS = ("tunesmith", "tunesmith-padded", "trainer-best", "trainer-default")
