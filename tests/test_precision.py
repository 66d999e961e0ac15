"""In which number format a training computes, why, and that it goes on in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import tunesmith
from cutting import cut_off_at
from running import Run
from tunesmith.errors import UsageError
from tunesmith.model import arithmetic
from tunesmith.model.arithmetic import Gain, choose_precision
from tunesmith.model.attention import Attention
from tunesmith.model.devices import CPU


def processor(monkeypatch: pytest.MonkeyPatch, *flags: str, times_faster: float = 1.0) -> None:
    """Be a processor with these flags, so many times as fast in bf16 as in fp32."""
    now = 0.0

    def linear(left: torch.Tensor, right: torch.Tensor) -> None:
        nonlocal now
        now += 1.0 if left.dtype == torch.float32 else 1 / times_faster

    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: now)
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    arithmetic.gain_of_bf16.cache_clear()


@pytest.fixture(autouse=True)
def measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    measured = arithmetic.gain_of_bf16  # of which tests put another in its place
    measured.cache_clear()
    yield
    measured.cache_clear()


@pytest.mark.parametrize(
    ("flags", "times_faster", "wanted", "why"),
    [
        (("avx2",), 2.0, "fp32", "no native bf16"),
        (
            ("avx2", "avx512_bf16"),
            2.0,
            "bf16",
            r"natively \(avx512_bf16\), measured 2.0 times as fast in it as in fp32 on \d{4}-\d\d-\d\d;",
        ),
        (("avx2", "avx512_bf16"), 0.5, "fp32", r"\(avx512_bf16\), but measured 0.5 times as fast in it"),
        (("amx_bf16",), 1.1, "fp32", "but measured 1.1 times as fast"),
    ],
)
def test_the_faster_format_is_taken(
    flags: tuple[str, ...], times_faster: float, wanted: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, *flags, times_faster=times_faster)
    chosen, reason = choose_precision("auto", CPU)
    assert chosen == wanted
    assert re.search(why, reason)


def test_it_is_measured_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx512_bf16", times_faster=2.0)
    assert choose_precision("auto", CPU)[0] == "bf16"
    processor(monkeypatch, "avx512_bf16", times_faster=0.5)
    assert choose_precision("auto", CPU)[0] == "bf16"
    processor(monkeypatch, "avx512_bf16", "avx2", times_faster=0.5)
    assert choose_precision("auto", CPU)[0] == "fp32", "another machine"
    (tmp_path / "cache" / "precision.json").write_text("{damaged")
    processor(monkeypatch, "avx512_bf16", times_faster=0.5)
    assert choose_precision("auto", CPU)[0] == "fp32"


def test_an_old_measurement_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx512_bf16", times_faster=2.0)
    assert choose_precision("auto", CPU)[0] == "bf16"
    known = tmp_path / "cache" / "precision.json"
    [(key, kept)] = json.loads(known.read_text()).items()
    for day, wanted in ((kept["day"], "bf16"), ("2020-01-01", "fp32"), ("2999-01-01", "fp32"), ("yesterday", "fp32")):
        known.write_text(json.dumps({key: {**kept, "day": day}}))
        processor(monkeypatch, "avx512_bf16", times_faster=0.5)
        assert choose_precision("auto", CPU)[0] == wanted, day


def test_the_backward_pass_takes_the_same_kernels(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.write_csv(tmp_path / "data.csv", tiny.rows(64))
    seen: dict[str, set[str]] = {"forward": set(), "backward": set()}
    for name in seen:
        plain = getattr(Attention, name)

        def noting(*values: Any, name: str = name, plain: Any = plain) -> Any:
            seen[name].add(torch.get_float32_matmul_precision())
            return plain(*values)

        monkeypatch.setattr(Attention, name, staticmethod(noting))
    monkeypatch.setattr(arithmetic, "is_from_amd", lambda: True)
    tunesmith.train(data, out=tmp_path / "m", model=tiny_bert, epochs=1, precision="fp32", test_size=0, valid_size=0, progress="quiet")
    assert "medium" in seen["forward"] and seen["backward"] == {"medium"}  # a look at the fresh model runs forward, too
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_was_asked_for_is_taken_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "gain_of_bf16", lambda: pytest.fail("measured"))
    assert choose_precision("bf16", CPU) == ("bf16", "as asked for")


def test_a_run_goes_on_in_the_format_that_it_began_in(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.write_csv(tmp_path / "data.csv", tiny.rows(64))
    settings = {"model": tiny_bert, "epochs": 2, "batch_size": 8, "valid_size": 0, "checkpoint_steps": 2}
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(arithmetic, "gain_of_bf16", lambda: Gain(2.0, "2026-01-01"))
    whole = tunesmith.train(data, out=tmp_path / "whole", **settings)
    with cut_off_at(6):
        tunesmith.train(data, out=tmp_path / "cut", **settings)
    monkeypatch.setattr(arithmetic, "gain_of_bf16", lambda: Gain(0.5, "2026-01-01"))
    resumed = tunesmith.train(data, out=tmp_path / "cut", resume=True, **settings)
    other = tunesmith.train(data, out=tmp_path / "other", **settings)
    assert [found.result["machine"]["precision"] for found in (whole, resumed, other)] == ["bf16", "bf16", "fp32"]
    saved = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut", "other")]
    assert saved[0] == saved[1] != saved[2]


def test_predictions_in_the_faster_format(
    reviews: Path, tiny_bert: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(arithmetic, "gain_of_bf16", lambda: Gain(2.0, "2026-01-01"))
    model = tunesmith.train(
        reviews, out=tmp_path / "m", model=tiny_bert, epochs=1, precision="fp32", max_length=32, progress="quiet"
    ).bundle
    texts = ["the cat", "a very red house"]
    exact, quick, auto = (model.probabilities(texts, precision=precision).tolist() for precision in ("fp32", "bf16", "auto"))
    assert exact != quick == auto
    with pytest.raises(UsageError, match="it must be fp32, bf16 or auto"):
        model.predict(texts, precision="half")
    for command in ("predict", "evaluate"):
        assert run(command, tmp_path / "m", reviews, "--precision", "auto").code == 0
        ended = run(command, tmp_path / "m", reviews, "--precision", "half")
        assert ended.code == 2 and "--precision is 'half'; it must be fp32, bf16 or auto" in ended.err


@pytest.mark.skipif(not arithmetic.is_from_amd(), reason="on AMD's processors alone float32 goes through oneDNN")
def test_the_products_of_float32_are_as_exact_as_torchs_usual_ones() -> None:
    """The setting would allow a processor with a matrix unit to round to bf16."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(rows, 384, generator=generator) for rows in (500, 700))
    truth = left.double() @ right.double().T
    usual = float((left @ right.T - truth).norm())
    with arithmetic.float32_products("fp32", CPU):
        found = float((left @ right.T - truth).norm())
    assert found <= 2 * usual < 1e-5 * float(truth.norm())
