"""Masked-language-model pretraining: equality with transformers, and the whole road from raw text to a fine-tuned model."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import tiny
import tunesmith
from running import Run
from tunesmith import masked_metrics
from tunesmith.data.batches import collate
from tunesmith.errors import DataError, ModelError, UsageError
from tunesmith.model.heads import build_model
from tunesmith.model.pretrained import open_pretrained
from tunesmith.model.scratch import learn_vocabulary
from tunesmith.model.spec import HeadSpec
from tunesmith.resolve import resolve

HEAD = HeadSpec("masked-lm", 0)
GAPS = ["the [MASK] cat near the river", "a [MASK] and a [MASK]", "no gap here", "[MASK]"]


def pretrained_with_head(directory: Path, architecture: str, seed: int = 0) -> Path:
    """Write a random masked language model, its own prediction head included."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    tiny.save_encoder(directory, architecture)
    config = AutoConfig.from_pretrained(directory)
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(config)
    for name, value in model.named_parameters():  # biases are born zero, which would hide that they were lost
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(directory)
    return directory


def corpus(path: Path, texts: int = 60, seed: int = 0) -> Path:
    """Write a corpus of documents of three lines, divided by blank lines."""
    lines = [row["text"] for row in tiny.rows(3 * texts, seed=seed)]
    path.write_text("\n\n".join("\n".join(lines[i : i + 3]) for i in range(0, len(lines), 3)) + "\n", encoding="utf-8")
    return path


def pretrain(data: Any, out: Path, encoder: Path | None = None, **settings: Any) -> tunesmith.TrainResult:
    usual: dict[str, Any] = {"epochs": 2, "lr": 3e-3, "batch_size": 4, "max_length": 32, "precision": "fp32"}
    named = {} if encoder is None else {"model": encoder}
    return tunesmith.train(data, out=out, task="masked-lm", progress="quiet", **{**usual, **named, **settings})


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    directory = tmp_path_factory.mktemp("mlm")
    return pretrain(corpus(directory / "corpus.txt"), directory / "m", tiny_bert)


# --- the head ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [name for name in tiny.ARCHITECTURES if name != "gpt2"])
def test_the_checkpoints_own_head_gives_what_transformers_gives(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    directory = pretrained_with_head(tmp_path / "m", architecture)
    reference = AutoModelForMaskedLM.from_pretrained(directory).eval()
    encoder = open_pretrained(str(directory)).load(HEAD)
    assert not encoder.fresh_head
    model = build_model(encoder, HEAD, pooling="cls", dropout=0.0, seed=0).eval()
    assert model.loads_in_transformers
    sequences = [np.array([2, 9, 4, 11, 12, 3], np.int32), np.array([2, 4, 3], np.int32)]
    batch = collate(sequences, np.arange(2))
    places = [2, 4, 7]
    ids = torch.tensor([[2, 9, 4, 11, 12, 3], [2, 4, 3, 0, 0, 0]])
    with torch.no_grad():
        wanted = reference(input_ids=ids, attention_mask=(ids != 0).long()).logits
        everywhere = model(batch)
        found = model(replace(batch, points=np.array(places, np.int32), point_counts=np.array([2, 1], np.int32)))
    torch.testing.assert_close(found, torch.stack([wanted[0, 2], wanted[0, 4], wanted[1, 1]]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, everywhere[places], atol=1e-6, rtol=1e-5)
    model.save(tmp_path / "again")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids, attention_mask=(ids != 0).long()).logits, wanted)


@pytest.mark.parametrize("architecture", [name for name in tiny.ARCHITECTURES if name != "gpt2"])
def test_a_checkpoint_without_a_head_gets_one_tied_to_its_embeddings(architecture: str, tmp_path: Path) -> None:
    encoder = open_pretrained(str(tiny.save_encoder(tmp_path / "m", architecture))).load(HEAD, seed=3)
    assert encoder.fresh_head
    assert encoder.hf.get_output_embeddings().weight is encoder.hf.get_input_embeddings().weight
    same = open_pretrained(str(tmp_path / "m")).load(HEAD, seed=3)
    assert build_model(encoder, HEAD, pooling="cls", dropout=None, seed=0).loads_in_transformers
    for (name, one), (_, two) in zip(encoder.hf.named_parameters(), same.hf.named_parameters(), strict=True):
        assert torch.equal(one, two), name


def test_a_model_that_cannot_guess_in_the_middle_is_refused(tmp_path: Path) -> None:
    decoder = tiny.save_encoder(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ModelError, match="cannot be pretrained here"):
        pretrain(corpus(tmp_path / "c.txt"), tmp_path / "m", decoder)
    settings = json.loads((decoder / "tokenizer_config.json").read_text())
    settings.pop("mask_token")
    (decoder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no mask token"):
        pretrain(corpus(tmp_path / "c.txt"), tmp_path / "m", decoder)


# --- loss and metrics -------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_transformers(trained: tunesmith.TrainResult) -> None:
    from transformers import AutoModelForMaskedLM

    bundle = trained.bundle
    task = bundle.task
    examples = bundle.encoder.encode_examples([tunesmith.bundle._example(row["text"]) for row in tiny.rows(6, seed=4)])
    batch = task.gather(examples, judged=True)
    assert batch.targets is not None and batch.points is not None and batch.parts == len(batch.points)
    with torch.no_grad():
        ours = task.loss(task.combine(bundle.model(batch), batch), batch).sum() / batch.parts
    width = int(batch.lengths.max())
    ids, labels = torch.zeros(6, width, dtype=torch.long), torch.full((len(batch.ids),), -100)
    labels[torch.from_numpy(batch.points.astype("int64"))] = torch.from_numpy(batch.targets)
    wanted = torch.full((6, width), -100)
    for i, (a, b) in enumerate(zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)):
        ids[i, : b - a] = torch.from_numpy(batch.ids[a:b].astype("int64"))
        wanted[i, : b - a] = labels[a:b]
    reference = AutoModelForMaskedLM.from_pretrained(trained.directory).eval()
    with torch.no_grad():
        theirs = reference(input_ids=ids, attention_mask=(ids != 0).long(), labels=wanted).loss
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)


def test_the_scores_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, gold = torch.randn(50, 20, generator=generator), torch.randint(0, 20, (50,), generator=generator)
    surprise = functional.cross_entropy(logits, gold, reduction="none").numpy()
    hit = (logits.argmax(1) == gold).float().numpy()
    found = masked_metrics.masked_scores(surprise, hit)
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(logits, gold)), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"])) and found["masked_accuracy"] == pytest.approx(hit.mean())
    bounds = masked_metrics.masked_intervals(surprise, hit, np.arange(50) // 5, seed=0)
    assert all(bounds[name][0] < found[name] < bounds[name][1] for name in found)
    assert masked_metrics.masked_intervals(surprise, hit, np.arange(50) % 4, seed=0) == {}
    with pytest.raises(DataError, match="no word to guess"):
        masked_metrics.masked_scores(np.zeros(0), np.zeros(0))
    with pytest.raises(ModelError, match="not finite"):
        masked_metrics.masked_scores(np.array([np.nan]), np.zeros(1))


def test_every_evaluation_hides_the_same_words(trained: tunesmith.TrainResult, tmp_path: Path) -> None:
    path = corpus(tmp_path / "new.txt", texts=8, seed=9)
    once, again = trained.bundle.evaluate(path), tunesmith.load(trained.directory).evaluate(path)
    assert once["metrics"] == again["metrics"] and once["rows"] == 8
    assert set(once["metrics"]) == {"perplexity", "loss", "masked_accuracy"}
    assert once["account"]["tokens_lost"] == 0


def test_parts_of_a_batch_give_the_same_training(tiny_bert: Path, tmp_path: Path) -> None:
    data = corpus(tmp_path / "c.txt", texts=12)
    one, parts = (
        pretrain(data, tmp_path / f"m{limit}", tiny_bert, max_tokens=limit, epochs=1, dropout=0, attention_dropout=0)
        for limit in (16384, 32)
    )
    for a, b in zip(one.bundle.model.parameters(), parts.bundle.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_the_yardsticks_are_the_untrained_encoder_and_token_frequencies(trained: tunesmith.TrainResult) -> None:
    test = trained.result["evaluations"]["test"]
    named = {found["name"]: found for found in test["yardsticks"]}
    assert set(named) == {"token frequencies", "encoder before training"}
    assert "freshly drawn" in named["encoder before training"]["note"]
    assert test["metrics"]["perplexity"] < named["encoder before training"]["metrics"]["perplexity"]
    assert test["mistakes"] and all(mistake["source"].split(":")[0].endswith("corpus.txt") for mistake in test["mistakes"])


# --- what it is used for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_filling_gaps_equals_the_pipeline(architecture: str, tmp_path: Path) -> None:
    from transformers import pipeline

    encoder = pretrained_with_head(tmp_path / "e", architecture)
    out = pretrain(corpus(tmp_path / "c.txt", texts=20), tmp_path / "m", encoder, epochs=1).directory
    found = tunesmith.load(out).predict(GAPS)
    pipe = pipeline("fill-mask", str(out), top_k=5)
    for text, filled in zip(GAPS, found, strict=True):
        places = text.count("[MASK]")
        assert len(filled.fill) == places
        if places == 0:
            assert filled.filled == text
            continue
        wanted = pipe(text)
        for guesses, theirs in zip(filled.fill, [wanted] if places == 1 else wanted, strict=True):
            assert [guess.token for guess in guesses] == [one["token_str"] for one in theirs]
            assert [guess.probability for guess in guesses] == pytest.approx([one["score"] for one in theirs], abs=1e-5)
        assert "[MASK]" not in filled.filled and len(filled.filled.split()) == len(text.split())


def test_gaps_of_a_long_text_are_filled_wherever_they_stand(trained: tunesmith.TrainResult) -> None:
    (found,) = trained.bundle.predict([" ".join(["cat dog [MASK] house"] * 40)])
    assert len(found.fill) == 40 and "[MASK]" not in found.filled


def test_prediction_writes_what_it_filled(trained: tunesmith.TrainResult, run: Run, tmp_path: Path) -> None:
    (tmp_path / "gaps.csv").write_text("id,text\n" + "\n".join(f"{i},{text}" for i, text in enumerate(GAPS)) + "\n", encoding="utf-8")
    assert run("predict", trained.directory, "gaps.csv", "-o", "out.csv").code == 0
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"] and rows[2]["filled"] == GAPS[2]
    assert len(json.loads(rows[1]["fill"])) == 2 and json.loads(rows[0]["fill"])[0][0]["token"] in rows[0]["filled"]


def test_the_result_is_an_encoder_that_other_tasks_take(trained: tunesmith.TrainResult, reviews: Path, run: Run, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForMaskedLM

    AutoModelForMaskedLM.from_pretrained(trained.directory)
    body = AutoModel.from_pretrained(trained.directory)
    tuned = run("train", reviews, "--model", trained.directory, "--epochs", 1, "--max-length", 32, "--out", tmp_path / "tuned")
    assert tuned.code == 0, tuned.err
    assert tunesmith.load(tmp_path / "tuned").task.name == "classification"
    walked = run("walk", reviews, "--model", trained.directory, "--max-length", 32)
    assert walked.code == 0 and "UNTRAINED head" in walked.out and "label:" in walked.out, walked.err
    # the training began with what pretraining had learned
    encoder = open_pretrained(str(trained.directory)).load()
    assert torch.equal(encoder.base.embeddings.word_embeddings.weight, body.embeddings.word_embeddings.weight)


def test_the_pooler_of_the_checkpoint_is_not_lost(trained: tunesmith.TrainResult, tiny_bert: Path) -> None:
    from transformers import AutoModel

    before, after = (AutoModel.from_pretrained(place) for place in (tiny_bert, trained.directory))
    assert torch.equal(before.pooler.dense.weight, after.pooler.dense.weight)
    assert not torch.equal(before.embeddings.word_embeddings.weight, after.embeddings.word_embeddings.weight)


# --- data -------------------------------------------------------------------------------------------------------------------


def test_whole_documents_are_split_off_and_no_token_is_lost(trained: tunesmith.TrainResult) -> None:
    splits = trained.result["data"]["splits"]
    assert [splits[name]["rows"] for name in ("train", "valid", "test")] == [48, 6, 6]
    assert splits["valid"]["how"] == "split off 10% of " + splits["valid"]["file"]
    assert all(part["account"]["tokens_lost"] == 0 for part in splits.values())
    # the steps are those of packed sequences, not of rows
    tokens = splits["train"]["account"]["tokens_read"] + splits["train"]["rows"] - 1
    assert trained.result["training"]["steps"] == 2 * math.ceil(math.ceil(tokens / 30) / 4)
    assert trained.result["training"]["epochs"] == 2


def test_texts_of_other_formats_and_of_memory_are_read(tiny_bert: Path, tmp_path: Path) -> None:
    table = tiny.rows(30)
    path = tiny.write_csv(tmp_path / "labelled.csv", table)
    from_file = pretrain(path, tmp_path / "a", tiny_bert, epochs=1)
    from_memory = pretrain([row["text"] for row in table], tmp_path / "b", tiny_bert, epochs=1)
    assert from_file.metrics == from_memory.metrics


def test_a_text_file_can_only_mean_pretraining(tiny_bert: Path, run: Run, tmp_path: Path) -> None:
    path = corpus(tmp_path / "c.txt", texts=20)
    done = run("train", path, "--model", tiny_bert, "--epochs", 1, "--max-length", 32, "--out", "m")
    assert done.code == 0 and "task: masked-lm pretraining" in done.err, done.err
    checked = run("check", path, "--model", tiny_bert)
    assert checked.code == 0 and "20 rows" in checked.out, checked.err


def test_wrong_use_is_named(tiny_bert: Path, run: Run, tmp_path: Path) -> None:
    path = corpus(tmp_path / "c.txt", texts=20)
    assert "no data: name a file of raw texts" in run("pretrain").err
    assert "standard input" in run("pretrain", "-").err
    both = run("pretrain", path, "--from-scratch", "--model", tiny_bert)
    assert both.code == 2 and "--from-scratch and --model exclude each other" in both.err
    uneven = run("pretrain", path, "--from-scratch", "--width", 30, "--heads", 4)
    assert uneven.code == 2 and "--width 30 must be a multiple of --heads 4" in uneven.err
    other = run("train", path, "--task", "classification", "--from-scratch")
    assert other.code == 2 and "knows nothing yet" in other.err
    labelled = run("train", tiny.write_csv(tmp_path / "l.csv", tiny.rows(20)), "--from-scratch")
    assert labelled.code == 2 and "--from-scratch means nothing for classification" in labelled.err
    (tmp_path / "nothing.txt").write_text("\u200b\n\n\u200b\u200b\n", encoding="utf-8")
    assert "makes no token" in run("pretrain", "nothing.txt", "--model", tiny_bert, "--valid-size", 0, "--test-size", 0).err
    assert "--mask-share is '1.5'" in run("pretrain", path, "--mask-share", "1.5").err
    assert "no such file" in run("pretrain", "missing.txt").err
    metric = run("pretrain", path, "--model", tiny_bert, "--metric", "accuracy")
    assert metric.code == 2 and "perplexity" in metric.err
    (tmp_path / "table.csv").write_text("a,b\nx,y\n", encoding="utf-8")
    assert "which column is the text" in run("pretrain", "table.csv", "--model", tiny_bert).err


# --- from scratch -----------------------------------------------------------------------------------------------------------

SIZES = {"from_scratch": True, "vocab_size": 200, "layers": 1, "width": 32, "heads": 2}


def test_a_vocabulary_is_a_function_of_its_texts() -> None:
    texts = [row["text"] for row in tiny.rows(200)] + ["这 个 酒店很好。 Ärger über Öl", "สวัสดี ありがとう"] * 3
    one, two = learn_vocabulary(texts, 300), learn_vocabulary(texts, 300)
    assert one.to_str() == two.to_str() and one.get_vocab_size() <= 300
    assert one.encode("Das Hotel 酒店", add_special_tokens=False).tokens[-2:] == ["酒", "店"]
    assert one.encode("ÄRGER", add_special_tokens=False).tokens == ["ärger"]
    assert one.encode("สวั", add_special_tokens=False).tokens == list("สวั")
    assert one.decode(one.encode("the very old cat", add_special_tokens=False).ids) == "the very old cat"
    with pytest.raises(DataError, match="no words"):
        learn_vocabulary(["", " "], 300)


def test_a_new_vocabulary_is_that_of_the_chosen_column(run: Run, tmp_path: Path) -> None:
    rows = [{"title": "alpha beta", "body": "gamma delta"} for _ in range(30)]
    data = tiny.write_csv(tmp_path / "d.csv", rows)
    sizes = ["--from-scratch", "--vocab-size", 100, "--layers", 1, "--width", 32, "--heads", 2, "--epochs", 1, "--max-length", 16]
    for column, word in (("title", "alpha"), ("body", "gamma")):
        done = run("pretrain", data, "--text", column, *sizes, "--out", column)
        assert done.code == 0, done.err
        assert word in json.loads((tmp_path / column / "tokenizer.json").read_text())["model"]["vocab"]


def test_the_whole_road_from_raw_text_to_a_fine_tuned_model(reviews: Path, run: Run, tmp_path: Path) -> None:
    data = corpus(tmp_path / "corpus.txt", texts=40)
    sizes = ["--from-scratch", "--vocab-size", 200, "--layers", 1, "--width", 32, "--heads", 2]
    first = run(
        "pretrain", data, *sizes, "--epochs", 3, "--lr", "3e-3", "--max-length", 32, "--batch-size", 4, "--out", "encoder", "--json"
    )
    assert first.code == 0, first.err
    assert json.loads(first.out.splitlines()[-1])["test"]["perplexity"] < 200
    card = (tmp_path / "encoder" / "README.md").read_text(encoding="utf-8")
    assert "new BERT (1 layers, width 32" in card and "fill-mask" in card
    second = run(
        "train", reviews, "--model", "encoder", "--epochs", 8, "--lr", "5e-3", "--max-length", 32, "--batch-size", 8, "--out", "tuned"
    )
    assert second.code == 0, second.err
    assert tunesmith.load(tmp_path / "tuned").description["result"]["evaluations"]["test"]["metrics"]["accuracy"] > 0.8


def test_a_new_encoder_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = corpus(tmp_path / "c.txt", texts=20)
    for name in ("a", "b"):
        monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / f"cache-{name}"))
        pretrain(data, tmp_path / name, **SIZES, epochs=1)
    for file in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_new_encoder_needs_a_size_that_fits() -> None:
    with pytest.raises(UsageError, match="multiple of"):
        resolve({"from_scratch": True, "width": 10, "heads": 4})


def test_a_way_that_leaves_the_encoder_as_it_is_is_refused(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(UsageError, match=r"tuning='head' leaves the encoder as it is, but masked-lm is to change it. Take tuning='last:1'"):
        pretrain(corpus(tmp_path / "c.txt"), tmp_path / "m", tiny_bert, tuning="head")
