"""Raw text made ready for pretraining: documents, words, packed sequences, hidden words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tiny
from tunesmith.data.documents import documents_of
from tunesmith.data.memory import open_data
from tunesmith.data.packing import Masking, PackedTable, seed_of
from tunesmith.data.schema import Example, Schema, Source
from tunesmith.data.table import open_table
from tunesmith.data.tokens import Truncation
from tunesmith.data.whole_words import WholeWordEncoder


def words_of(tokenizer: Tokenizer, text: str, max_length: int = 512) -> list[str]:
    """Return the text of each word that `WholeWordEncoder` marks."""
    (found,) = WholeWordEncoder(tokenizer, Truncation(max_length=max_length)).encode_examples([example(text)], offsets=True)
    ends = [*found.points[1:], len(found.sequences[0]) - 1]
    return [text[found.offsets[0][a][0] : found.offsets[0][b - 1][1]].strip() for a, b in zip(found.points, ends, strict=True)]


def example(text: str) -> Example:
    return Example((text,), None, False, None, Source("x", 1))


def trained(model: str, texts: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer as RoBERTa's, or a SentencePiece-like one as XLM-R's, with its special tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if model == "bytes":
        result = Tokenizer(models.BPE())
        result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        result.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    else:
        result = Tokenizer(models.Unigram())
        result.pre_tokenizer = pre_tokenizers.Metaspace()
        result.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    result.train_from_iterator(texts, trainer)
    result.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return result


# --- documents --------------------------------------------------------------------------------------------------------------


def test_blank_lines_divide_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\none\ntwo\n\n\nthree\n \nfour\nfive\n", encoding="utf-8")
    found = [(row["text"], place.line) for row, place in documents_of(open_data(path))]
    assert found == [("one\ntwo", 2), ("three", 6), ("four\nfive", 8)]


def test_without_blank_lines_every_line_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\nthree\n\n", encoding="utf-8")
    assert [row["text"] for row, _ in documents_of(open_data(path))] == ["one", "two", "three"]


def test_a_very_long_document_goes_on_in_further_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x\n\n" + ("y" * 999 + "\n") * 2500, encoding="utf-8")
    rows = [row["text"] for row, _ in documents_of(open_data(path))]
    assert len(rows) == 4 and max(map(len, rows)) < 1_010_000 and sum(row.count("y") for row in rows) == 999 * 2500


def test_rows_of_other_formats_are_documents_already(tmp_path: Path) -> None:
    path = tiny.write_csv(tmp_path / "a.csv", tiny.rows(3))
    source = open_data(path)
    assert documents_of(source) is source


# --- words ------------------------------------------------------------------------------------------------------------------


def test_words_are_those_of_the_tokenizer() -> None:
    assert words_of(tiny.tokenizer(), "the redcat, a DOG!") == ["the", "redcat", ",", "a", "DOG", "!"]


@pytest.mark.parametrize("model", ["bytes", "pieces"])
def test_words_begin_at_leading_space_pieces(model: str) -> None:
    text = "the small house near the river and the old mill near the small river"
    assert words_of(trained(model, [text]), text) == text.split()


def test_in_scripts_without_spaces_characters_are_words() -> None:
    text = "天气很好 ok"
    plain = Tokenizer(models.WordLevel({"[UNK]": 0, "天": 1, "气": 2, "很": 3, "好": 4, "ok": 5, "[CLS]": 6}, unk_token="[UNK]"))
    plain.normalizer = normalizers.BertNormalizer()
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    plain.post_processor = processors.TemplateProcessing("[CLS] $A [CLS]", special_tokens=[("[CLS]", 6)])
    assert words_of(plain, text) == ["天", "气", "很", "好", "ok"]
    assert words_of(trained("bytes", ["hello world"]), text) == ["天", "气", "很", "好", "ok"]
    pieces = words_of(trained("pieces", ["天气很好 ok 天气不好 no 天很好 天气 很好"]), text)
    assert "".join(pieces) == "天气很好ok" and len(pieces) > 2  # the pieces that this tokenizer takes for words


# --- packing ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [5, 16, 64])
def test_packing_loses_nothing_and_keeps_every_word(max_length: int) -> None:
    generator = random.Random(max_length)
    texts = [" ".join(generator.choices(tiny.WORDS[:40], k=generator.choice([0, 1, 3, 20, 200]))) for _ in range(30)]
    encoder = WholeWordEncoder(tiny.tokenizer(), Truncation(max_length=max_length))
    table = open_table(open_data(texts), Schema(("text",)), encoder)
    rows = np.array([row for row in range(30) if row % 3])
    packed = PackedTable(table, rows, encoder)
    wanted, starts, origins = [], [], []
    for row in rows:
        encoding = encoder.tokenizer.encode(texts[row], add_special_tokens=False)
        if not len(encoding):
            continue
        begins = [i == 0 or encoding.word_ids[i] != encoding.word_ids[i - 1] for i in range(len(encoding))]
        wanted += [*encoding.ids, 3]
        starts += [*begins, True]
        origins += [row] * (len(begins) + 1)
    wanted, starts = wanted[:-1], starts[:-1]
    found = [packed.example(i) for i in range(len(packed))]
    assert [token for one in found for token in one.sequences[0][1:-1]] == wanted
    assert all(one.sequences[0][0] == 2 and one.sequences[0][-1] == 3 for one in found)
    assert [len(one.sequences[0]) for one in found[:-1]] == [max_length] * (len(found) - 1)
    assert packed.kept.tolist() == [len(one.sequences[0]) for one in found] and packed.tokens.sum() == len(wanted)
    flags = np.zeros(len(wanted), bool)
    for i, one in enumerate(found):
        flags[one.points - 1 + i * (max_length - 2)] = True
    begins = np.array(starts)
    begins[:: max_length - 2] = True  # the first of a sequence may be the rest of a word
    assert flags.tolist() == begins.tolist()
    assert [packed.row(i) for i in range(len(packed))] == origins[:: max_length - 2][: len(packed)]


def test_packing_depends_on_its_rows_alone() -> None:
    encoder = WholeWordEncoder(tiny.tokenizer(), Truncation(max_length=16))
    table = open_table(open_data([row["text"] for row in tiny.rows(20)]), Schema(("text",)), encoder)
    one, same, other = (PackedTable(table, np.arange(n), encoder) for n in (20, 20, 19))
    assert one.key == same.key != other.key


# --- hiding -----------------------------------------------------------------------------------------------------------------


def masking(share: float = 0.15) -> Masking:
    special = np.zeros(len(tiny.SPECIAL) + len(tiny.WORDS), bool)
    special[: len(tiny.SPECIAL)] = True
    return Masking(share, 4, special)


def test_whole_words_are_hidden_in_the_shares_of_bert() -> None:
    encoder = WholeWordEncoder(tiny.tokenizer(), Truncation(max_length=512))
    generator = random.Random(0)
    pool = ["redcat", "the", "bluedog", "a", "horses", "near"]
    (given,) = encoder.encode_examples([example(" ".join(generator.choices(pool, k=120)))])
    ids, ends = given.sequences[0], [*given.points[1:], len(given.sequences[0]) - 1]
    masked = same = other = words = 0
    for seed in range(300):
        hidden, gold = masking().hide(given, seed)
        assert (ids[hidden.points] == gold).all() and 2 not in gold and 3 not in gold
        rest = np.setdiff1d(np.arange(len(ids)), hidden.points)
        assert (hidden.sequences[0][rest] == ids[rest]).all()
        places = set(hidden.points.tolist())
        for start, end in zip(given.points, ends, strict=True):
            inside = places & set(range(start, end))
            assert len(inside) in (0, end - start)  # all of a word or nothing of it
            if inside:
                now = hidden.sequences[0][start:end]
                masked, same = masked + bool((now == 4).all()), same + bool((now == ids[start:end]).all())
                other += bool((now != 4).all() and not (now == ids[start:end]).all())
                words += 1
    assert words == 300 * round(0.15 * len(given.points))
    assert masked / words == pytest.approx(0.8, abs=0.02)
    assert same / words == pytest.approx(0.1, abs=0.02) and other / words == pytest.approx(0.1, abs=0.02)


def test_what_is_hidden_depends_on_the_seed_alone() -> None:
    (given,) = WholeWordEncoder(tiny.tokenizer(), Truncation(max_length=64)).encode_examples(
        [example("the old cat near a red house by day")]
    )
    one, again, other = (masking(0.4).hide(given, seed)[0] for seed in (1, 1, 2))
    assert one.points.tolist() == again.points.tolist() and (one.sequences[0] == again.sequences[0]).all()
    assert one.points.tolist() != other.points.tolist() or (one.sequences[0] != other.sequences[0]).any()
    assert seed_of(given.sequences[0]) == seed_of(given.sequences[0].copy()) != seed_of(one.sequences[0])


def test_one_word_at_least_is_hidden_and_none_where_there_is_none() -> None:
    encoder = WholeWordEncoder(tiny.tokenizer(), Truncation(max_length=64))
    one, none, unknown = encoder.encode_examples([example("cat"), example(""), example("§ §§")])
    assert len(masking(0.01).hide(one, 0)[1]) == 1
    for given in (none, unknown):
        hidden, gold = masking(0.9).hide(given, 0)
        assert len(gold) == len(hidden.points) == 0 and (hidden.sequences[0] == given.sequences[0]).all()
