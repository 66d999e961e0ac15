"""The search engine: found by words and by vectors, changed without a rebuild of vectors, whole or refused."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tunesmith
from tunesmith.data.lexical import Lexical, words_of
from tunesmith.errors import DataError, ModelError, UsageError
from tunesmith.search import SearchIndex, vectors
from tunesmith.search.index import _Change
from tunesmith.search.store import Passage
from tunesmith.search.unfinished import UNFINISHED, Unfinished

NEWS = [
    {"id": "a1", "title": "Harbour bridge", "text": "The old bridge over the harbour is closed for repairs until spring."},
    {"id": "a2", "title": "", "text": "A new ferry carries cars across the bay while the bridge is shut."},
    {"id": "a3", "title": "Chess", "text": "A girl of twelve won the chess tournament in the town hall."},
    {"id": "a4", "title": "Weather", "text": "Heavy rain is expected on the coast, with wind from the west."},
    {"id": "a5", "title": "天气", "text": "明天上海有大雨。"},
]


@pytest.fixture
def news(tmp_path: Path) -> Path:
    path = tmp_path / "news.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in NEWS), encoding="utf-8")
    return path


def test_the_whole_way_from_the_command_line(news: Path, tiny_bert: Path, tmp_path: Path, run) -> None:
    ended = run("index", news, "-o", "ix", "--model", tiny_bert)
    assert ended.code == 0 and "5 passages, words by BM25, vectors by" in ended.out, ended.err
    ended = run("search", "ix", "harbour bridge", "-k", 2)
    assert ended.code == 0 and ended.out.splitlines()[0].split()[::2][:2] == ["1", "a1"], ended.out
    more = tiny.write_csv(tmp_path / "more.csv", [{"id": "b1", "text": "The harbour bridge opens again."}])
    ended = run("index", "-o", "ix", "--add", more, "--delete", "a1", "--delete", "a3", "--json")
    assert ended.code == 0 and json.loads(ended.out)["passages"] == 4, ended.err
    ended = run("search", "ix", "harbour bridge", "--json")
    hits = json.loads(ended.out)["hits"]
    assert hits[0]["id"] == "b1" and {hit["id"] for hit in hits} == {"a2", "a4", "a5", "b1"}
    assert hits[0]["by_words"] == 1 and all(hit["by_vectors"] for hit in hits)
    assert run("search", "ix", "上海", "-k", 1).out.split()[2] == "a5"


def test_words_only(news: Path, tmp_path: Path, run) -> None:
    assert run("index", news, "-o", "ix", "--model", "none").code == 0
    ended = run("search", "ix", "rain")
    assert [line.split()[2] for line in ended.out.splitlines()[::2]] == ["a4"]
    assert run("search", "ix", "zebra").out == "nothing was found.\n"


def test_a_cross_encoder_orders_the_first_hits(news: Path, tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"query": "bridge", "passage": row["text"], "label": int(row["id"] == "a4")} for row in NEWS]
    settings = {"valid_size": 0, "test_size": 0, "epochs": 1, "max_length": 48, "progress": "quiet"}
    cross = tunesmith.train(rows, out=tmp_path / "cross", model=tiny_bert, **settings)
    bi = tunesmith.train(rows, out=tmp_path / "bi", model=tiny_bert, ranker="bi-encoder", **settings)
    passages = [Passage(row["id"], row["title"], row["text"]) for row in NEWS]
    index = SearchIndex.build(passages, tmp_path / "ix", model=str(bi.directory), reranker=str(cross.directory))
    found = index.search("bridge")
    theirs = cross.bundle.predict([("bridge", passage.whole) for passage in passages])
    expected = {passage.id: one.score for passage, one in zip(passages, theirs, strict=True)}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert {one.id: pytest.approx(one.score, abs=1e-6) for one in found} == expected
    assert index.search("bridge", rerank=False)[0].id in ("a1", "a2")
    for wrong, said in (
        ({"reranker": str(bi.directory)}, "a re-ranker is a cross-encoder"),
        ({"model": str(cross.directory)}, "has no vectors"),
    ):
        with pytest.raises(UsageError, match=said):
            SearchIndex.build(passages, tmp_path / "other", **wrong)


def test_an_index_changed_is_the_index_built_at_once(tiny_bert: Path, tmp_path: Path) -> None:
    generator = random.Random(0)

    def passages(first: int, last: int) -> list[Passage]:
        return [
            Passage(f"p{n}", "", " ".join(generator.choices([*tiny.COLOURS, *tiny.ANIMALS, *tiny.FILLER], k=8))) for n in range(first, last)
        ]

    one, two = passages(0, 40), passages(40, 60)
    index = SearchIndex.build(one, tmp_path / "a", model=str(tiny_bert)).add(two).delete(["p3", "p50"])
    kept = [passage for passage in one + two if passage.id not in ("p3", "p50")]
    whole = SearchIndex.build(kept, tmp_path / "b", model=str(tiny_bert))
    assert len(index) == len(whole) == 58
    for query in ("red cat", "old house near the river", "fish"):
        ours, theirs = ({hit.id: hit.score for hit in found.search(query, 58)} for found in (index, whole))
        assert ours.keys() == theirs.keys()
        words = [{hit.id: hit.by_words for hit in found.search(query, 58) if hit.by_words} for found in (index, whole)]
        assert words[0].keys() == words[1].keys()
    again = index.delete(["p4"]).add([Passage("p3", "", "the red cat is back")])
    assert again.search("red cat back")[0].id == "p3" and len(again) == 58
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.name.startswith(("state", "vectors"))) == [
        "state-5",
        "vectors-5.usearch",
    ]


def test_words_of_many_scripts() -> None:
    assert words_of("The BBC's 3 big_cats, café!") == ["the", "bbc", "s", "3", "big", "cats", "café"]
    assert words_of("明天上海rain") == ["明", "天", "上", "海", "rain"]
    assert words_of("cafe\u0301 हिन्दी") == ["cafe\u0301", "हिन्दी"]
    for text in ("မြန်မာစာ", "ភាសាខ្មែរ", "བོད་སྐད", "ภาษาไทย"):
        assert "".join(words_of(text)) == text, "no sign of a vowel is lost"


def test_bm25_is_that_of_bm25s_and_of_the_formula() -> None:
    texts = ["the red cat", "the blue dog and the red dog", "", "a bird"]
    found = Lexical.of(texts).scores("red dog zebra")
    lengths = np.array([3, 7, 0, 2])
    expected = np.zeros(4)
    for word in ("red", "dog"):
        counts = np.array([text.split().count(word) for text in texts])
        idf = np.log(1 + (4 - (counts > 0).sum() + 0.5) / ((counts > 0).sum() + 0.5))
        expected += idf * counts / (counts + 1.5 * (1 - 0.75 + 0.75 * lengths / lengths.mean()))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    best, scores = Lexical.of(texts).top("red dog", 10)
    assert best.tolist() == [1, 0] and scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_a_torn_or_foreign_directory_is_refused(news: Path, tmp_path: Path, run) -> None:
    assert run("index", news, "-o", "ix", "--model", "none").code == 0
    ended = run("index", news, "-o", "ix", "--model", "none")
    assert ended.code == 2 and "holds an index already" in ended.err
    assert run("index", news, "-o", "ix", "--model", "none", "--overwrite").code == 0
    texts = next((tmp_path / "ix").glob("texts-*.bin"))
    texts.write_bytes(texts.read_bytes()[:-3])
    ended = run("search", "ix", "rain")
    assert ended.code == 4 and "the index is damaged" in ended.err and texts.name in ended.err
    (tmp_path / "ix" / "index.json").write_text("{")
    assert "is damaged" in run("search", "ix", "rain").err
    (tmp_path / "ix" / "index.json").unlink()
    assert "was cut short" in run("search", "ix", "rain").err
    assert run("index", news, "-o", "ix", "--model", "none", "--overwrite").code == 0
    assert "there is no index nowhere" in run("search", "nowhere", "rain").err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "holds other files" in run("index", news, "-o", "other", "--model", "none").err
    assert "is no index" in run("search", "other", "rain").err
    assert "is a file; an index is a directory" in run("search", news, "rain").err


def test_a_flipped_bit_is_refused_by_the_name_of_its_file(news: Path, tiny_bert: Path, tmp_path: Path) -> None:
    passages = [Passage(row["id"], row["title"], row["text"]) for row in NEWS]
    index = SearchIndex.build(passages, tmp_path / "ix", model=str(tiny_bert))
    for name in index.manifest["files"]:
        file = tmp_path / "ix" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
        with pytest.raises(ModelError, match=f"damaged: {name} has another checksum"):
            SearchIndex(tmp_path / "ix")
        file.write_bytes(whole)
    assert SearchIndex(tmp_path / "ix").search("rain")[0].id == "a4"


def test_great_files_are_verified_when_they_cannot_be_read_and_before_a_change(
    news: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SearchIndex.build([Passage(row["id"], row["title"], row["text"]) for row in NEWS], tmp_path / "ix")
    texts = tmp_path / "ix" / "texts-1.bin"
    texts.write_bytes(b"{" + texts.read_bytes()[1:])
    monkeypatch.setattr("tunesmith.search.manifest._SMALL", 0)
    opened = SearchIndex(tmp_path / "ix")
    assert opened.search("rain")[0].id == "a4"
    with pytest.raises(ModelError, match=r"damaged: texts-1\.bin has another checksum"):
        opened.search("harbour")
    with pytest.raises(ModelError, match=r"damaged: texts-1\.bin has another checksum"):
        index.delete(["a4"])


def test_an_index_that_another_process_changes_stays_as_it_was_opened(news: Path, tiny_bert: Path, tmp_path: Path, run) -> None:
    assert run("index", news, "--model", tiny_bert, "--out", "ix").code == 0
    opened = SearchIndex(tmp_path / "ix")
    before = [hit.id for hit in opened.search("rain")]
    tiny.write_csv(tmp_path / "more.csv", [{"id": "new", "text": "rain rain rain"}])
    assert run("index", "-o", "ix", "--add", tmp_path / "more.csv").code == 0
    assert [hit.id for hit in opened.search("rain")] == before
    assert "new" in [hit.id for hit in SearchIndex(tmp_path / "ix").search("rain")]


def test_passages_without_text_are_left_out_and_said(tmp_path: Path, run) -> None:
    blank = tiny.write_csv(tmp_path / "blank.csv", [{"id": "b1", "text": " "}, {"id": "b2", "text": "rain"}])
    ended = run("index", blank, "-o", "ix", "--model", "none")
    assert ended.code == 0 and "blank.csv without text is left out: b1." in ended.err and "ix: 1 passage," in ended.out
    nothing = tiny.write_csv(tmp_path / "nothing.csv", [{"id": "b1", "text": " "}])
    assert "has no passages with text" in run("index", nothing, "-o", "other", "--model", "none").err


def test_a_failed_change_leaves_the_index_as_it_was(news: Path, tmp_path: Path, run) -> None:

    def content() -> dict[str, bytes]:
        files = [path for path in (tmp_path / "ix").rglob("*") if path.is_file() and path.name != ".lock"]
        return {str(path): path.read_bytes() for path in files}

    passages = [Passage(row["id"], row["title"], row["text"]) for row in NEWS]
    index = SearchIndex.build(passages, tmp_path / "ix")
    before = content()

    def broken() -> Iterator[Passage]:
        yield Passage("n1", "", "a text")
        raise KeyboardInterrupt

    for attempt, error in ((broken(), KeyboardInterrupt), (passages[:1], DataError), ([], UsageError)):
        with pytest.raises(error):
            index.add(attempt)
    with pytest.raises(DataError):
        index.add([Passage(NEWS[0]["id"], "", "quokka")])
    assert not [hit for hit in index.search("quokka") if hit.score > 0], "a word of a refused passage is not known"
    with pytest.raises(UsageError, match="no passage with the id 'a9'"):
        index.delete(["a9"])
    assert before == content()


def test_files_of_others_stay_in_the_directory(news: Path, tmp_path: Path, run) -> None:
    assert run("index", news, "-o", "ix", "--model", "none").code == 0
    more = tiny.write_csv(tmp_path / "ix" / "more.csv", [{"id": "m1", "text": "quokka"}])
    (tmp_path / "ix" / "notes-2").mkdir()
    (tmp_path / "ix" / "notes-2" / "state-9").write_text("mine")
    assert run("index", "-o", "ix", "--add", more).code == 0
    assert run("index", "-o", "ix", "--add", more).code == 3, "the id is there"
    assert more.is_file() and (tmp_path / "ix" / "notes-2" / "state-9").is_file()
    assert len([path for path in (tmp_path / "ix").iterdir() if path.name.startswith("state-")]) == 1


def test_passages_are_replaced_at_once_or_not_at_all(news: Path, tmp_path: Path, run) -> None:
    assert run("index", news, "-o", "ix", "--model", "none").code == 0
    first = NEWS[0]["id"]
    twice = tiny.write_csv(tmp_path / "twice.csv", [{"id": "m1", "text": "quokka"}] * 2)
    assert run("index", "-o", "ix", "--delete", first, "--add", twice).code == 3
    assert first in {hit.id for hit in SearchIndex(tmp_path / "ix").search(NEWS[0]["text"])}
    anew = tiny.write_csv(tmp_path / "anew.csv", [{"id": first, "text": "quokka"}])
    done = run("index", "-o", "ix", "--delete", first, "--add", anew)
    assert done.code == 0, done.err
    assert SearchIndex(tmp_path / "ix").search("quokka", 1)[0].id == first
    assert len(SearchIndex(tmp_path / "ix")) == len(NEWS)


def test_an_index_is_searched_from_anywhere(news: Path, tiny_bert: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_bert, tmp_path / "encoder")
    assert run("index", news, "-o", "ix", "--model", "encoder").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("search", "../ix", "rain").code == 0


def test_another_adapter_under_the_same_name_is_noticed(news: Path, tiny_bert: Path, tmp_path: Path, run) -> None:
    rows = [{"query": f"{word} {n}", "passage": f"the {word} cat", "label": 1} for n, word in enumerate(tiny.COLOURS * 3)]
    settings = {"ranker": "bi-encoder", "tuning": "lora", "merge": False, "epochs": 1, "model": tiny_bert, "max_length": 24}
    for seed in (0, 1):
        tunesmith.train(rows, out=tmp_path / "bi", seed=seed, overwrite=seed > 0, test_size=0, valid_size=0, progress="quiet", **settings)
        if seed == 0:
            assert run("index", news, "-o", "ix", "--model", "bi").code == 0
            assert run("search", "ix", "rain").code == 0
    ended = run("search", "ix", "rain")
    assert ended.code == 4 and "is another one than that of the vectors" in ended.err


def cut_off_after(parts: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have vectors made in parts of 4 passages, and Ctrl-C pressed behind `parts` of them; returns how many passages got vectors."""
    made: list[int] = []
    whole = vectors.Embedder.vectors

    def counted(self: vectors.Embedder, texts: Sequence[str], advance: Any = lambda count: None) -> np.ndarray:
        if len(made) == parts:
            raise KeyboardInterrupt
        made.append(len(texts))
        return whole(self, texts, advance)

    monkeypatch.setattr(vectors, "_CHUNK", 4)
    monkeypatch.setattr(vectors.Embedder, "vectors", counted)
    return made


def many(count: int = 18) -> list[Passage]:
    return [Passage(f"n{i}", "", f"a {tiny.COLOURS[i % 6]} {tiny.ANIMALS[i % 5]} {i}") for i in range(count)]


@pytest.mark.parametrize("killed", [False, True])
def test_a_build_that_was_cut_off_goes_on_with_its_vectors(
    killed: bool, tiny_bert: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tiny.write_csv(tmp_path / "many.csv", [{"id": one.id, "text": one.text} for one in many()])
    told = ("index", corpus, "--model", tiny_bert, "-o", "ix")
    with monkeypatch.context() as patched:
        made = cut_off_after(3, patched)
        if killed:  # nothing is put in order
            patched.setattr(_Change, "undone_on_failure", lambda self: contextlib.nullcontext())
        ended = run(*told)
    assert ended.code == 130 and made == [4, 4, 4]
    assert "vectors of 12 passages are kept: the same command goes on with them." in ended.err
    if killed:
        assert "--overwrite builds it, with the vectors that it has" in run(*told).err
    with monkeypatch.context() as patched:
        made = cut_off_after(9, patched)
        ended = run(*told, *(["--overwrite"] if killed else []))
    assert ended.code == 0 and made == [4, 2] and "vectors of 12 passages are those of the run that was cut off" in ended.err, ended.err
    run("index", corpus, "--model", tiny_bert, "-o", "whole")
    assert not (tmp_path / "ix" / UNFINISHED).exists()
    for query in ("red cat", "blue horse 7"):
        found = [SearchIndex(tmp_path / name).search(query, 18) for name in ("ix", "whole")]
        assert found[0] == found[1] and len(found[0]) == 18


def test_vectors_of_other_texts_or_damaged_ones_are_made_anew(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(passages: list[Passage]) -> Path:
        with monkeypatch.context() as patched:
            cut_off_after(3, patched)
            with pytest.raises(KeyboardInterrupt):
                SearchIndex.build(passages, tmp_path / "ix", model=str(tiny_bert))
        return tmp_path / "ix" / UNFINISHED

    def made_anew(passages: list[Passage]) -> list[int]:
        with monkeypatch.context() as patched:
            made = cut_off_after(9, patched)
            SearchIndex.build(passages, tmp_path / "ix", model=str(tiny_bert), overwrite=True)
        return made

    kept = cut_off(many())
    other = [*many()[:5], Passage("n5", "", "something else"), *many()[6:]]
    assert made_anew(other) == [4, 4, 4, 2]  # all but the first four
    shutil.rmtree(tmp_path / "ix")
    size = cut_off(many()).stat().st_size // 3
    kept.write_bytes(kept.read_bytes()[: size + 20] + b"?" + kept.read_bytes()[size + 21 :])
    assert made_anew(many()) == [4, 4, 4, 2]
    shutil.rmtree(tmp_path / "ix")
    kept = cut_off(many())
    kept.write_bytes(kept.read_bytes()[:-1])
    assert made_anew(many()) == [4, 4, 2]


def test_a_disk_without_room_for_kept_vectors_stops_nothing(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path / UNFINISHED, "m", 2)
    unfinished.close()
    unfinished._file = open("/dev/full", "r+b")  # noqa: SIM115 - closed by what is tested
    for _ in range(2):
        assert unfinished.part(["a"], lambda texts: np.ones((1, 2), np.float32)).tolist() == [[1, 1]]
        assert unfinished.kept == 0 and not (tmp_path / UNFINISHED).exists()


def test_wrong_use(news: Path, tmp_path: Path, run) -> None:
    for arguments, said in (
        ([news], "name it with -o DIR"),
        (["-o", "ix"], "name a corpus"),
        ([news, "-o", "ix", "--add", news], "CORPUS builds an index anew"),
        (["-", "-o", "ix"], "read from a file"),
        (["nowhere.csv", "-o", "ix"], "there is no such file"),
        ([news, "-o", "ix", "--text", "nothing"], "there is no column 'nothing'"),
        ([news, "-o", "ix", "--text", "txt"], "Did you mean 'text'?"),
        ([news, "-o", "ix", "--model", "nothing-like-it"], "nothing-like-it"),
    ):
        ended = run("index", *arguments)
        assert ended.code in (2, 3, 4) and said in ended.err, (arguments, ended.err)
    twice = tiny.write_csv(tmp_path / "twice.csv", [{"id": "1", "text": "a"}, {"id": "1", "text": "b"}])
    assert "1 id stands there more than once: 1" in run("index", twice, "-o", "ix", "--model", "none").err
    assert not list((tmp_path / "ix").glob("*-1*"))
    nothing = tiny.write_csv(tmp_path / "no.csv", [{"left": "1", "right": "a"}])
    assert "cannot tell which column is the text" in run("index", nothing, "-o", "ix", "--model", "none").err
    assert run("index", news, "-o", "ix", "--model", "none").code == 0
    assert "the query is empty" in run("search", "ix", " ").err


def test_another_model_than_that_of_the_vectors_is_refused(tmp_path: Path) -> None:
    encoder = tiny.save_encoder(tmp_path / "encoder")
    SearchIndex.build([Passage("1", "", "a cat")], tmp_path / "ix", model=str(encoder))
    tiny.save_encoder(encoder, seed=1)
    with pytest.raises(ModelError, match="is another one than that of the vectors"):
        SearchIndex(tmp_path / "ix").search("cat")


@pytest.mark.slow
def test_twenty_thousand_passages(tmp_path: Path) -> None:
    """The mechanics at size: nothing but ids and one bit a passage is held, hits are exact by words and near-exact by vectors."""
    encoder = tiny.save_encoder(tmp_path / "encoder")
    generator = random.Random(1)
    words = [f"{a}{b}" for a in "bcdfgklmnp" for b in tiny.ANIMALS] + tiny.FILLER

    def passages() -> Iterator[Passage]:
        for number in range(20_000):
            yield Passage(str(number), "", f"{' '.join(generator.choices(words, k=6))} n{number}")

    index: Any = SearchIndex.build(passages(), tmp_path / "ix", model=str(encoder))
    assert len(index) == 20_000
    assert [index.search(f"n{number}", 1)[0].id for number in (0, 777, 19_999)] == ["0", "777", "19999"]
    text = index.passage(4321).text
    near = index._nearest.top(index._the_embedder().vectors([text])[0], 1)
    assert index.passage(int(near[0][0])).text == text or near[1][0] > 0.999
    index = index.add([Passage("new", "", "a quokka")])
    assert index.search("quokka", 1)[0].id == "new"
