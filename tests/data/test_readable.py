"""An audit goes on behind rows that cannot be read, and tells of them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from running import Run


def questions(path: Path, bad: int, good: int) -> Path:
    passage = "the red cat likes green fish."
    rows = [{"question": f"who {i}", "context": passage, "answers": ["a dog"] if i < bad else ["red cat"]} for i in range(bad + good)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_all_bad_rows_are_told_and_the_others_audited(run: Run, tmp_path: Path, tiny_bert: Path) -> None:
    questions(tmp_path / "x.jsonl", 3, 20)
    done = run("check", "x.jsonl", "--model", str(tiny_bert))
    assert done.code == 0, done.err
    told = " ".join(done.out.split())
    assert "3 rows of x.jsonl cannot be read (told below)" in told
    assert [f"x.jsonl:{line}: the answer 'a dog' is not in the passage" in told for line in (1, 2, 3)] == [True] * 3
    assert "20 rows" in told
    assert run("check", "x.jsonl", "--strict", "--model", str(tiny_bert)).code == 3


def test_of_many_bad_rows_the_first_are_told(run: Run, tmp_path: Path, tiny_bert: Path) -> None:
    questions(tmp_path / "x.jsonl", 15, 5)
    done = run("check", "x.jsonl", "--json", "--model", str(tiny_bert))
    told = [finding["text"] for finding in json.loads(done.out)["findings"] if finding["severity"] == "error"]
    assert told[0].startswith("15 rows of x.jsonl cannot be read (the first 10 are told below)")
    assert sum("is not in the passage" in text for text in told) == 10


def test_where_no_row_can_be_read_that_is_the_error(run: Run, tmp_path: Path, tiny_bert: Path) -> None:
    questions(tmp_path / "x.jsonl", 4, 0)
    done = run("check", "x.jsonl", "--model", str(tiny_bert))
    assert done.code == 3 and "x.jsonl:1: the answer 'a dog' is not in the passage" in done.err


@pytest.mark.parametrize(("tags", "says"), [(["O"], "1 tag for 2 words"), (["O", ""], "word 2 ('cat') has no tag")])
def test_rows_of_words_too(run: Run, tmp_path: Path, tiny_bert: Path, tags: list[str], says: str) -> None:
    rows = [{"tokens": ["red", "cat"], "tags": tags}, *({"tokens": ["red", "cat"], "tags": ["O", "B-PET"]} for _ in range(8))]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = run("check", "x.jsonl", "--model", str(tiny_bert))
    told = " ".join(done.out.split())
    assert done.code == 0 and says in told and "1 row of x.jsonl cannot be read" in told, done.out + done.err
