"""Models without training: labels from descriptions, from words that fill a gap, from the nearest examples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import tunesmith
from running import Run
from tunesmith import prompts
from tunesmith.data.cloze import ClozeEncoder
from tunesmith.data.tokens import Truncation
from tunesmith.errors import DataError, ModelError, UsageError
from tunesmith.model import prompted
from tunesmith.model.prompted import ComparedHead
from tunesmith.storage import locked

TOML = 'animal = ["cat dog horse", "mouse bird fish"]\ncolour = "red blue green yellow white black"\n'


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "labels.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a head that guesses hidden words."""
    directory = tmp_path_factory.mktemp("guesser")
    (directory / "raw.txt").write_text("\n".join(row["text"] for row in tiny.rows(40)))
    done = tunesmith.train(
        directory / "raw.txt", task="masked-lm", model=str(tiny.save_encoder(directory / "bert")), epochs=1, precision="fp32",
        test_size=0.0, valid_size=0.0, out=str(directory / "out"),
    )  # fmt: skip
    return done.directory


# --- descriptions ----------------------------------------------------------------------------------------------------------------


def test_a_test_file_and_prompts_are_enough(run: Run, tmp_path: Path, tiny_bert: Path, reviews: Path, told: Path) -> None:
    done = run("train", "--tuning", "none", "--test", reviews, "--prompts", told, "--model", tiny_bert, "--out", "model", "--json")
    assert done.code == 0, done.err
    assert "train: 3 rows (label descriptions)" in done.err and "tuning none: nothing; texts are compared with descriptions" in done.err
    line = json.loads(done.out.splitlines()[-1])
    assert line["test"]["accuracy"] > 0.6 and line["training"]["steps"] == 0 and line["training"]["trained_parameters"] == 0
    saved = run("evaluate", "model", reviews, "--json")
    assert json.loads(saved.out.splitlines()[-1])["metrics"] == line["test"]
    asked = run("predict", "model", stdin=b"text\na red blue house\n")
    found = tunesmith.load(tmp_path / "model").predict("a red blue house")
    assert asked.out == f"text,label,probability\na red blue house,{found.label},{found.probability}\n"
    assert "compared with descriptions of labels" in (tmp_path / "model" / "report.html").read_text()


def test_prompts_alone_make_a_model(run: Run, tiny_bert: Path, told: Path) -> None:
    done = run("train", "--tuning", "none", "--prompts", told, "--model", tiny_bert, "--out", "model")
    assert done.code == 0, done.err
    assert run("predict", "model", stdin=b"text\nthe old dog\n").code == 0


def test_from_python_and_from_a_recipe(tmp_path: Path, tiny_bert: Path, reviews: Path, told: Path, run: Run) -> None:
    said = {"animal": ["cat dog horse", "mouse bird fish"], "colour": "red blue green yellow white black"}
    common = {"model": str(tiny_bert), "test": str(reviews), "tuning": "none"}
    one = tunesmith.train(prompts=said, out=str(tmp_path / "python"), **common)
    shutil.copy(told, tmp_path / "labels.toml")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'tuning = "none"\nprompts = "labels.toml"\nmodel = "{tiny_bert}"\ntest = "{reviews}"\nout = "recipe"\n')
    assert run("train", recipe).code == 0
    assert tunesmith.load(tmp_path / "recipe").evaluate(reviews)["metrics"] == one.result["evaluations"]["test"]["metrics"]


def test_a_label_s_vector_is_the_mean_over_descriptions_and_templates(tmp_path: Path, tiny_bert: Path) -> None:
    done = tunesmith.train(
        tuning="none", model=str(tiny_bert), prompts={"animal": ["cat", "dog"], "colour": "red"}, template="{}|the {} .",
        out=str(tmp_path / "m"),
    )  # fmt: skip
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(tiny_bert), max_seq_length=64)
    other = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), "mean")], device="cpu")
    vectors = other.encode(["cat", "the cat .", "dog", "the dog .", "red", "the red ."], normalize_embeddings=True)
    wanted = np.stack([vectors[:4].mean(0), vectors[4:].mean(0)])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    head = done.bundle.model.head
    assert isinstance(head, ComparedHead)
    assert np.allclose(head.names.numpy(), wanted, atol=1e-5)
    text = other.encode(["a little dog"], normalize_embeddings=True)
    assert np.allclose(
        done.bundle.probabilities(["a little dog"]), torch.softmax(20 * torch.from_numpy(text @ wanted.T), 1).numpy(), atol=1e-4
    )


def test_labelled_rows_join_the_descriptions_and_choose_the_scale(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    rows = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(40, seed=9))
    common = {"model": str(tiny_bert), "test": str(reviews), "tuning": "none", "prompts": {"animal": "the", "colour": "a"}}
    with_rows = tunesmith.train(rows, out=str(tmp_path / "rows"), **common)
    without = tunesmith.train(out=str(tmp_path / "none"), **common)
    assert with_rows.metrics["accuracy"] > without.metrics["accuracy"]
    assert with_rows.metrics["log_loss"] < without.metrics["log_loss"]
    assert "40 examples" in with_rows.result["training"]["tuning"] and "chosen by the examples" in with_rows.result["training"]["tuning"]


def test_names_stand_for_labels_that_are_not_described(run: Run, tmp_path: Path, tiny_bert: Path) -> None:
    rows = tiny.write_csv(tmp_path / "rows.csv", [{**row, "label": f"{row['label']}_word"} for row in tiny.rows(20)])
    done = run("train", rows, "--tuning", "none", "--model", tiny_bert, "--prompts", "animal_word=cat", "--out", "model")
    assert done.code == 0 and "nothing describes 'colour_word' (colour word)" in done.err, done.err


@pytest.mark.parametrize(
    "label, words",
    [("card_arrival", "card arrival"), ("cardArrival", "card arrival"), ("ABBR", "ABBR"), ("Sci/Tech", "sci tech"), ("-", "-")],
)
def test_names_of_labels_are_read_as_words(label: str, words: str) -> None:
    assert prompts.readable(label) == words


def test_templates_follow_the_script_of_the_descriptions() -> None:
    assert "这段文字是关于{}的。" in prompts.templates_of(None, "labels", "Han")
    assert "Тема текста: {}." in prompts.templates_of(None, "labels", "Cyrillic")
    assert prompts.templates_of("{text} 很 [MASK]。", "cloze", "Han") == ["{} 很 [MASK]。"]


# --- nearest examples ------------------------------------------------------------------------------------------------------------


def test_the_nearest_examples_vote(run: Run, tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    rows = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(60, seed=9))
    done = run(
        "train", rows, "--test", reviews, "--tuning", "none", "--method", "nearest", "--neighbours", "5", "--model", tiny_bert,
        "--out", "model", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "the 5 nearest of 60 examples vote" in done.err
    line = json.loads(done.out.splitlines()[-1])
    assert line["test"]["accuracy"] > 0.6
    bundle = tunesmith.load(tmp_path / "model")
    assert bundle.evaluate(reviews)["metrics"] == line["test"]
    head = bundle.model.head
    assert isinstance(head, ComparedHead)
    near = (head.examples @ head.examples[7]).topk(5)
    votes = torch.softmax(head.scale * near.values, 0)
    share = float(votes[head.codes[near.indices] == 1].sum())
    found = bundle.probabilities([tiny.rows(60, seed=9)[7]["text"]])[0, 1]
    assert abs(found - (0.99 * share + 0.01 / 2)) < 1e-4


def test_an_example_is_not_its_own_neighbour_when_the_scale_is_chosen() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    codes, own = torch.tensor([0, 1, 0, 1, 0, 1]), torch.arange(6)
    for method in ("nearest", "labels"):
        head = ComparedHead(method, 3, torch.zeros(2, 4), vectors, codes, torch.arange(6))
        found = head.scores(vectors, own)
        for i in range(6):
            rest = own != i
            other = ComparedHead(method, 3, torch.zeros(2, 4), vectors[rest], codes[rest], torch.arange(5))
            assert torch.allclose(found[i], other.scores(vectors[i : i + 1])[0], atol=1e-5)


def test_pairs_by_their_nearest_examples(tmp_path: Path, tiny_bert: Path) -> None:
    pairs = [{"premise": row["text"], "hypothesis": row["text"][:9], "label": row["label"]} for row in tiny.rows(24)]
    data = tiny.write_csv(tmp_path / "pairs.csv", pairs)
    common = {"model": str(tiny_bert), "tuning": "none", "method": "nearest", "neighbours": 1}
    done = tunesmith.train(data, test=str(data), out=str(tmp_path / "p"), **common)
    assert done.metrics["accuracy"] == 1.0, "each is its own nearest"


def test_two_that_add_examples_at_once_lose_none(run: Run, tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    tunesmith.train(tiny.write_csv(tmp_path / "a.csv", tiny.rows(20)), model=tiny_bert, tuning="none", method="nearest", out=tmp_path / "m")
    with locked(tmp_path / "m"):
        done = run("add-examples", "m", reviews)
    assert done.code != 0 and "another run is writing into m" in done.err
    assert run("add-examples", "m", reviews).code == 0


@pytest.mark.parametrize("method", ["nearest", "labels"])
def test_the_scale_is_the_one_with_the_least_loss_however_many_are_compared_at_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator), dim=1)
    codes = torch.arange(30) % 3
    head = ComparedHead(method, 5, torch.zeros(3, 8), vectors, codes, torch.arange(30))
    losses = {}
    for scale in np.geomspace(2.0, 200.0, 41).tolist():
        head.scale.fill_(scale)
        losses[scale] = float(torch.nn.functional.cross_entropy(head.scores(vectors, torch.arange(30)), codes))
    for at_once in (7, 200):
        monkeypatch.setattr(prompted, "_AT_ONCE", at_once)
        head.calibrate(np.arange(30))
        assert float(head.scale) == pytest.approx(min(losses, key=losses.__getitem__))


@pytest.mark.parametrize("method", ["nearest", "labels"])
def test_added_examples_are_those_of_a_model_made_with_all(run: Run, tmp_path: Path, tiny_bert: Path, reviews: Path, method: str) -> None:
    rows = tiny.rows(40, seed=9)
    first, second, whole = (
        tiny.write_csv(tmp_path / f"{name}.csv", part) for name, part in (("one", rows[:20]), ("two", rows[20:]), ("all", rows))
    )
    common = {"model": str(tiny_bert), "test": str(reviews), "tuning": "none", "method": method}
    tunesmith.train(first, out=str(tmp_path / "grown"), **common)
    made = tunesmith.train(whole, out=str(tmp_path / "made"), **common)
    done = run("add-examples", "grown", second)
    assert done.code == 0 and done.out == "20 examples added to grown; it has 40 now\n", done.err
    again = run("add-examples", "grown", whole)
    assert again.out == "0 examples added to grown (40 rows there already); it has 40 now\n"
    grown, head = tunesmith.load(tmp_path / "grown"), made.bundle.model.head
    assert isinstance(grown.model.head, ComparedHead) and isinstance(head, ComparedHead)
    assert torch.allclose(grown.model.head.examples, head.examples, atol=1e-6) and torch.equal(grown.model.head.codes, head.codes)
    assert "40 of 40 rows have a text that the model was trained on" in grown.evaluate(whole)["notes"][0]


# --- a gap ----------------------------------------------------------------------------------------------------------------------


def test_words_fill_a_gap(run: Run, tmp_path: Path, guesser: Path, reviews: Path) -> None:
    done = run(
        "train", "--tuning", "none", "--method", "cloze", "--test", reviews, "--prompts", "animal=house,colour=tree", "--template",
        "{} and [MASK] .", "--model", guesser, "--out", "model", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    line = json.loads(done.out.splitlines()[-1])
    bundle = tunesmith.load(tmp_path / "model")
    assert bundle.evaluate(reviews)["metrics"] == line["test"]
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(guesser), AutoModelForMaskedLM.from_pretrained(guesser).eval()

    def odds(text: str) -> torch.Tensor:
        given = tokenizer(f"{text} and [MASK] .", return_tensors="pt")
        place = int((given["input_ids"][0] == tokenizer.mask_token_id).nonzero()[-1])
        with torch.no_grad():
            logits = model(**given).logits[0, place]
        return logits[tokenizer.convert_tokens_to_ids(["house", "tree"])]

    empty = torch.stack([torch.softmax(odds(text), 0) for text in ("N/A", "", "[MASK]")]).mean(0)
    wanted = torch.softmax(odds("a red house") - torch.log(empty), 0)
    assert np.allclose(bundle.probabilities(["a red house"])[0], wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("template, gap", [("{} and [MASK] .", -3), ("a [MASK] house . {}", 2)])
def test_a_long_text_is_cut_and_the_template_never(template: str, gap: int) -> None:
    reader = ClozeEncoder(tiny.tokenizer(), Truncation("head", 12), template)
    short, long = reader.encode(["red cat", "red " * 50])
    assert reader.gap == gap
    assert len(long.sequences[0]) == 12 and long.lost == 50 - reader.budget
    for found in (short, long):
        assert reader.tokenizer.id_to_token(int(found.sequences[0][gap])) == "[MASK]"
    words = [reader.tokenizer.id_to_token(token) for token in short.sequences[0]]
    assert " ".join(words) == "[CLS] " + template.replace("{}", "red cat") + " [SEP]"


def test_an_encoder_without_a_trained_head_is_refused(run: Run, tiny_bert: Path, reviews: Path) -> None:
    done = run(
        "train", "--tuning", "none", "--method", "cloze", "--test", reviews, "--prompts", "animal=cat,colour=red", "--model", tiny_bert
    )
    assert done.code == 4 and "comes without a trained head that guesses hidden words. Take --method labels" in done.err


# --- wrong use -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"prompts": {"animl": "cat"}}, r"'animl' is not a label. Did you mean 'animal'\? Labels: animal, colour"),
        ({"prompts": {"animal": ""}}, "label 'animal' has no description"),
        ({"prompts": {"animal": []}}, "label 'animal' has no description"),
        ({"prompts": "animal"}, "there is no file animal"),
        ({"prompts": "animal=cat,animal=dog"}, "'animal' stands there twice"),
        ({"template": "about that"}, r"'about that' must have \{\} once, where the description of a label stands"),
        ({"method": "cloze", "prompts": "animal=cat,colour=red", "template": "{} is"}, r"must have \[MASK\] once"),
        ({"method": "cloze"}, "method='cloze' needs prompts"),
        ({"method": "nearest", "prompts": "animal=cat"}, "prompts changes nothing with method='nearest'"),
        ({"neighbours": 3}, "neighbours changes nothing with method='labels'"),
        ({"lr": 1e-3}, "lr changes nothing with tuning='none'"),
        ({"epochs": 4, "loss": "focal"}, "epochs changes nothing with tuning='none'"),
        ({"pooling": "cls"}, "pooling cls: tuning='none' compares texts by the mean"),
        ({"tuning": "full", "prompts": "animal=cat"}, "prompts changes nothing with tuning='full'; it belongs to none"),
        ({"task": "regression"}, "learns labels of texts"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, tiny_bert: Path, settings: dict[str, object], words: str) -> None:
    data = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(20))
    with pytest.raises(UsageError, match=words):
        tunesmith.train(data, **{"tuning": "none", "model": str(tiny_bert), "out": str(tmp_path / "m"), **settings})


def test_words_that_a_gap_cannot_take(tmp_path: Path, guesser: Path, reviews: Path) -> None:
    common = {"tuning": "none", "method": "cloze", "test": str(reviews), "model": str(guesser), "out": str(tmp_path / "m")}
    with pytest.raises(UsageError, match="'zebra' of label 'animal' is 5 tokens"):
        tunesmith.train(prompts={"animal": "zebra", "colour": "red"}, **common)
    with pytest.raises(UsageError, match="'red' stands for 'animal' and for 'colour'"):
        tunesmith.train(prompts={"animal": "red", "colour": "red"}, **common)
    with pytest.raises(UsageError, match="tokens of the template"):
        tunesmith.train(prompts={"animal": "cat", "colour": "red"}, max_length=5, **common)
    rows = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(20))
    with pytest.raises(UsageError, match="has none for 'colour'"):
        tunesmith.train(rows, prompts={"animal": "cat"}, **{**common, "template": "{} a [MASK]"})


def test_data_that_do_not_fit(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    common = {"tuning": "none", "model": str(tiny_bert), "out": str(tmp_path / "m")}
    with pytest.raises(DataError, match=r"reviews.csv:3: label 'colour' is not one of"):
        tunesmith.train(test=str(reviews), prompts={"animal": "cat", "tree": "tree"}, **common)
    with pytest.raises(UsageError, match="prompts speaks of 'animal' alone; at least 2 labels"):
        tunesmith.train(test=str(reviews), prompts={"animal": "cat"}, **common)
    with pytest.raises(UsageError, match="needs prompts"):
        tunesmith.train(test=str(reviews), **common)
    with pytest.raises(UsageError, match="compares texts with labelled examples: name a file"):
        tunesmith.train(test=str(reviews), method="nearest", **common)
    rows = tiny.rows(20)
    several = tiny.write_csv(tmp_path / "several.csv", [{**row, "label": "animal|colour"} for row in rows])
    with pytest.raises(UsageError, match="gives one label a row"):
        tunesmith.train(several, label_separator="|", **common)
    pairs = tiny.write_csv(tmp_path / "pairs.csv", [{"premise": row["text"], "hypothesis": "a", "label": row["label"]} for row in rows])
    with pytest.raises(UsageError, match="reads one text a row, and these rows are pairs"):
        tunesmith.train(pairs, **common)


def test_examples_that_do_not_fit(run: Run, tmp_path: Path, tiny_bert: Path, told: Path) -> None:
    rows = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(20))
    assert run("train", "--tuning", "none", "--prompts", told, "--model", tiny_bert, "--out", "model").code == 0
    before = (tmp_path / "model" / "head.safetensors").read_bytes()
    wrong = tiny.write_csv(tmp_path / "wrong.csv", [{"text": "a cat", "label": "animl"}])
    done = run("add-examples", "model", wrong)
    assert done.code == 3 and "wrong.csv:2: label 'animl' is not one of" in done.err and "Did you mean 'animal'?" in done.err
    empty = tiny.write_csv(tmp_path / "empty.csv", [{"text": "a cat", "label": ""}])
    assert run("add-examples", "model", empty).code == 3
    half = tiny.write_csv(tmp_path / "half.csv", [{"text": "a cat", "label": "animal"}, {"text": "a dog", "label": ""}])
    done = run("add-examples", "model", half)
    assert done.code == 3 and "half.csv:3: no text or no label (1 such row)" in done.err
    assert (tmp_path / "model" / "head.safetensors").read_bytes() == before
    assert run("train", rows, "--model", tiny_bert, "--epochs", "1", "--out", "trained").code == 0
    done = run("add-examples", "trained", rows)
    assert done.code == 2 and "has no use for examples: it was made with --tuning full" in done.err
    (tmp_path / "model" / "head.safetensors").write_bytes(before[:100])
    done = run("predict", "model", rows)
    assert done.code == 4 and "head.safetensors is damaged" in done.err


def test_a_head_of_a_gap_has_no_use_for_examples(tmp_path: Path, guesser: Path, reviews: Path) -> None:
    tunesmith.train(tuning="none", method="cloze", prompts={"animal": "cat", "colour": "red"}, model=str(guesser), out=str(tmp_path / "m"))
    with pytest.raises(UsageError, match="no use for examples"):
        tunesmith.add_examples(tmp_path / "m", reviews)
    with pytest.raises(ModelError):
        tunesmith.add_examples(tmp_path / "nothing", reviews)
