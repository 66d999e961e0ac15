"""CoNLL and CoNLL-U files as rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.data.readers import open_file
from tunesmith.errors import DataError


def read(path: Path, text: str, name: str = "x.conll") -> tuple[tuple[str, ...], list[tuple[dict, int]]]:
    (path / name).write_text(text, encoding="utf-8")
    source = open_file(path / name)
    return source.columns, [(dict(row), place.line) for row, place in source]


def test_two_columns(tmp_path: Path) -> None:
    columns, rows = read(tmp_path, "EU\tB-ORG\nrejects\tO\n\n\n# O\nwin\tO\n\n#\tO\nhash\tO\n")
    assert columns == ("text", "tokens", "tags")
    assert rows[0] == ({"text": "EU rejects", "tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}, 1)
    assert rows[1] == ({"text": "win", "tokens": ["win"], "tags": ["O"]}, 6)
    assert rows[2][0]["tokens"] == ["#", "hash"]  # as many columns as the others: a word, no comment


def test_any_number_of_columns_and_documents(tmp_path: Path) -> None:
    columns, rows = read(tmp_path, "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\n\nyes UH O O\n\n-DOCSTART- -X- O O\n\nno UH O O\n")
    assert columns == ("document", "text", "tokens", "column2", "column3", "tags")
    assert [row["document"] for row, _ in rows] == ["1", "1", "2"]
    assert rows[0][0]["column2"] == ["NNP"] and rows[0][0]["tags"] == ["B-ORG"]


def test_comments_give_text_and_names_of_columns(tmp_path: Path) -> None:
    columns, rows = read(tmp_path, "# global.columns = NER FORM\n# text = Hi, Bo!\nO Hi\nO ,\nB-PER Bo\nO !\n\nO yes\n")
    assert columns == ("text", "NER", "tokens")
    assert rows[0][0] == {"text": "Hi, Bo!", "NER": ["O", "O", "B-PER", "O"], "tokens": ["Hi", ",", "Bo", "!"]}
    assert rows[1][0]["text"] == "yes"


def test_a_word_with_a_hash_is_a_word_wherever_it_stands(tmp_path: Path) -> None:
    words = "#\tO\n#Brexit\tB-X\n\n#text\tO\n#newdoc\tO\n"
    for head in ("", "# global.columns = FORM TAG\n", "# a comment of four words\n"):
        _, rows = read(tmp_path, head + words)
        assert [row["tokens"] for row, _ in rows] == [["#", "#Brexit"], ["#text", "#newdoc"]], head
    _, rows = read(tmp_path, "# comment\n-DOCSTART-\n\n#Brexit B-X\nnow O\n")
    assert [row["tokens"] for row, _ in rows] == [["#Brexit", "now"]]


def test_chinese_characters_are_joined_without_spaces(tmp_path: Path) -> None:
    _, rows = read(tmp_path, "吴 B-NAME\n重 M-NAME\n阳 E-NAME\n， O\n2 O\n0 O\nA O\n", "x.bmes")
    assert rows[0][0]["text"] == "吴重阳，20A"


def test_words_alone_are_read_for_prediction(tmp_path: Path) -> None:
    columns, rows = read(tmp_path, "a\nb\n\nc\n")
    assert columns == ("text", "tokens") and [row["tokens"] for row, _ in rows] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a O\nb\n", r"x.conll:2: 1 column in 'b', where line 1 has 2"),
        ("a\tO\n\nb\tO\tO\n", r"x.conll:3: 3 columns .* separated by tabs"),
        ("\n\n", "there is no word in it"),
        ("# text = a\n", "there is no word in it"),
    ],
)
def test_what_is_no_conll_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, text)


def line(number: str, form: str, upos: str = "X", xpos: str = "_", misc: str = "_") -> str:
    return "\t".join([number, form, form.lower(), upos, xpos, "_", "0", "root", "_", misc])


def conllu(*lines: str, comments: str = "") -> str:
    return comments + "\n".join(lines) + "\n\n"


def test_conllu(tmp_path: Path) -> None:
    text = conllu(
        line("1", "Bo", "PROPN"),
        line("2-3", "don't", misc="SpaceAfter=No"),
        line("2", "do", "AUX"),
        line("3", "n't", "PART"),
        line("4", ".", "PUNCT"),
        comments="# newdoc id = d1\n# sent_id = 7\n# text = Bo don't.\n",
    )
    columns, rows = read(tmp_path, text, "x.conllu")
    assert columns == ("document", "sent_id", "text", "tokens", "offsets", "upos", "xpos", "feats")
    row, at = rows[0]
    assert at == 4 and row["document"] == "d1" and row["sent_id"] == "7"
    assert row["tokens"] == ["Bo", "do", "n't", "."] and row["upos"] == ["PROPN", "AUX", "PART", "PUNCT"]
    assert row["text"] == "Bo don't." and row["xpos"] is None
    assert [row["text"][a:b] for a, b in row["offsets"]] == row["tokens"]


def test_conllu_words_that_the_text_does_not_spell_share_the_characters_of_their_token(tmp_path: Path) -> None:
    text = conllu(line("1-2", "du"), line("1", "de"), line("2", "le"), line("3", "pain"), comments="# text = du  pain\n")
    row = read(tmp_path, text, "x.conllu")[1][0][0]
    assert row["text"] == "du  pain" and row["tokens"] == ["de", "le", "pain"]
    assert [row["text"][a:b] for a, b in row["offsets"]] == ["du", "du", "pain"]


def test_conllu_empty_nodes_are_left_out_and_words_may_hold_spaces(tmp_path: Path) -> None:
    text = conllu(line("0.1", "it"), line("1", "10 000"), line("1.1", "is"), line("2", "!"))
    row = read(tmp_path, text, "x.conllu")[1][0][0]
    assert row["tokens"] == ["10 000", "!"] and row["text"] == "10 000 !"


def test_a_conll_file_with_the_columns_of_conllu_is_read_as_such(tmp_path: Path) -> None:
    assert "upos" in read(tmp_path, conllu(line("1", "a", "DET")), "x.conll")[0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((line("1", "a"), line("3", "b")), "x.conllu:2: word 3 where word 2 comes next"),
        ((line("x", "a"),), "x.conllu:1: found 10 columns, the first 'x'"),
        ((line("1-2", "ab"), line("1", "a")), "x.conllu:1: the range 1-2 is not followed"),
        ((line("2-3", "ab"), line("1", "a")), "x.conllu:1: the range 2-3 does not stand"),
        (("1\ta\tb",), "x.conllu:1: found 3 columns"),
    ],
)
def test_what_is_no_conllu_is_named(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, conllu(*lines), "x.conllu")


def test_gzip_and_stdin(tmp_path: Path) -> None:
    import gzip
    import io

    from tunesmith.data.readers import open_stdin

    (tmp_path / "x.conll.gz").write_bytes(gzip.compress(b"a O\n"))
    assert len(list(open_file(tmp_path / "x.conll.gz"))) == 1
    source = open_stdin(io.BytesIO(b"a O\n\nb O\n"), "conll")
    assert [row["tokens"] for row, _ in source] == [["a"], ["b"]]


@pytest.mark.real
@pytest.mark.parametrize("name", ["ud_en_ewt/en_ewt-ud-dev.conllu", "ud_ru_taiga"])
def test_real_treebanks_slice_their_own_texts(name: str) -> None:
    """Every text is that of `# text`, every word its characters but for those of tokens that their words do not spell."""
    place = Path(os.environ["TUNESMITH_DATA"]) / name
    path = place if place.is_file() else sorted(place.glob("*dev*.conllu"))[0]
    lines = path.read_text(encoding="utf-8").splitlines()
    texts = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
    rows = [row for row, _ in open_file(path)]
    assert [row["text"] for row in rows] == texts
    pairs = [(row["text"][a:b], word) for row in rows for word, (a, b) in zip(row["tokens"], row["offsets"], strict=True)]
    assert len(pairs) == sum(line[:1].isdigit() and line.split("\t")[0].isdigit() for line in lines)
    assert sum(text != word for text, word in pairs) < 0.001 * len(pairs)
