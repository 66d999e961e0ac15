"""Finding and loading encoders, and what a user is told when that fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from tunesmith.data.batches import collate
from tunesmith.errors import ModelError
from tunesmith.model.heads import build_model
from tunesmith.model.pretrained import load_saved, open_pretrained

LABELS = ["a", "b"]


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the tiny BERT to damage."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "copy"))


def edit_config(model: Path, **values: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_loading_says_nothing_and_changes_no_global_state(tiny_bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    level, bars, state = logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.random.get_rng_state()
    encoder = open_pretrained(str(tiny_bert)).load(tiny.labelled(LABELS))
    build_model(encoder, tiny.labelled("ab"), pooling="mean", dropout=None, seed=0)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_without_labels_the_bare_body_is_loaded(tiny_bert: Path) -> None:
    from transformers import AutoModel

    encoder = open_pretrained(str(tiny_bert)).load()
    assert not encoder.has_head and encoder.base is encoder.hf
    reference = AutoModel.from_pretrained(tiny_bert).state_dict()
    assert {name: value.tolist() for name, value in encoder.hf.state_dict().items()} == {
        name: value.tolist() for name, value in reference.items()
    }


def test_save_and_load_is_the_identity(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = open_pretrained(str(tiny_bert)).load(tiny.labelled(LABELS), seed=3)
    encoder.save(tmp_path / "saved")
    again = load_saved(tmp_path / "saved", head="sequence-classification")
    ours, theirs = encoder.hf.state_dict(), again.hf.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.tokenizer.backend_tokenizer.to_str() == encoder.tokenizer.backend_tokenizer.to_str()
    assert not list((tmp_path / "saved").glob("*.bin"))


def test_damaged_saved_head_is_an_error(tiny_bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    open_pretrained(str(tiny_bert)).load(tiny.labelled(LABELS)).save(tmp_path / "saved")
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    weights.pop("classifier.bias")
    save_file(weights, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks classifier\.bias; it is damaged"):
        load_saved(tmp_path / "saved", head="sequence-classification")


def test_truncated_weights(copy: Path) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match=str(copy)):
        open_pretrained(str(copy)).load(tiny.labelled(LABELS))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "cannot be loaded"),
        ("config.json", '{"model_type": "no-such-type"}', "no-such-type"),
        ("tokenizer.json", "{", "cannot be loaded"),
    ],
)
def test_unreadable_files(copy: Path, name: str, content: str, message: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        open_pretrained(str(copy)).load(tiny.labelled(LABELS))
    assert str(copy) in str(caught.value)


def test_a_tokenizer_larger_than_the_embedding(copy: Path) -> None:
    edit_config(copy, vocab_size=50)
    with pytest.raises(ModelError, match=r"tokenizer has \d+ tokens but its embedding only 50"):
        open_pretrained(str(copy))


def test_no_fast_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError):
        open_pretrained(str(copy))


def test_missing_directory_and_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model directory"):
        open_pretrained(str(tmp_path / "nothing"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"no config\.json \(it has notes\.txt\)"):
        open_pretrained(str(tmp_path))


def test_unknown_name_without_a_network() -> None:
    with pytest.raises(ModelError, match="was not found") as caught:
        open_pretrained("all-minilm-l6-v3")
    message = str(caught.value)
    assert "Did you mean 'all-minilm-l6-v2'?" in message
    assert all(place in message for place in ("a bundled name", "a directory", "local hub cache", "model hub"))


def test_longest_sequence_of_an_encoder(tiny_bert: Path) -> None:
    pretrained = open_pretrained(str(tiny_bert))
    assert pretrained.max_length == 64
    pretrained.config.max_position_embeddings = -1
    assert pretrained.max_length is None


def test_attention_while_training_and_afterwards(tiny_bert: Path) -> None:
    encoder = open_pretrained(str(tiny_bert)).load(tiny.labelled(LABELS))
    usual = encoder.config._attn_implementation
    assert usual == "sdpa"
    with encoder.attention_for_training(64):  # the packed forward has its own
        assert encoder.config._attn_implementation == "sdpa"
    assert encoder.choose_engine("padded") == "padded batches, as asked for"
    with encoder.attention_for_training(257):
        assert encoder.config._attn_implementation == "sdpa"
    batch = collate([np.arange(5, 20, dtype=np.int32), np.arange(9, 12, dtype=np.int32)], np.arange(2))
    with torch.no_grad():
        expected = encoder.eval()(batch)
        with encoder.attention_for_training(256):
            assert encoder.config._attn_implementation == "eager"
            torch.testing.assert_close(encoder(batch), expected, atol=1e-5, rtol=0)
    assert encoder.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="stop"), encoder.attention_for_training(10):
        raise ValueError("stop")
    assert encoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("architecture", ["gpt2", "modernbert-decoder", "llama"])
def test_decoders_speak_by_their_last_token(tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not transformers calls the head `score`."""
    monkeypatch.setitem(tiny.ARCHITECTURES, "modernbert-decoder", {**tiny.SIZE, "global_attn_every_n_layers": 2, "local_attention": 16})
    monkeypatch.setitem(tiny.ARCHITECTURES, "llama", {**tiny.SIZE, "num_key_value_heads": 2})
    model = str(tiny.save_encoder(tmp_path / "m", architecture))
    encoder = open_pretrained(model).load(tiny.labelled(LABELS)).eval()
    assert encoder.is_decoder
    packed = build_model(encoder, tiny.labelled("ab"), pooling="cls", dropout=None, seed=0).eval()
    assert packed.loads_in_transformers
    ids = torch.arange(10, 17)[None]
    with torch.no_grad():
        found = packed(collate([ids[0].numpy().astype(np.int32)], np.zeros(1)))
        torch.testing.assert_close(found, encoder.hf(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    assert build_model(
        open_pretrained(model).load(tiny.labelled(LABELS)), tiny.labelled("ab"), pooling="mean", dropout=None, seed=0
    ).head.last


def test_encoders_are_no_decoders(tmp_path: Path, tiny_bert: Path) -> None:
    assert not open_pretrained(str(tiny_bert)).load(tiny.labelled(LABELS)).is_decoder
    assert not open_pretrained(str(tiny.save_encoder(tmp_path / "m", "deberta-v2"))).load(tiny.labelled(LABELS)).is_decoder


def test_an_encoder_decoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    monkeypatch.setitem(tiny.ARCHITECTURES, "t5", size)
    encoder = open_pretrained(str(tiny.save_encoder(tmp_path / "m", "t5"))).load(tiny.labelled(LABELS))
    for pooling in ("cls", "mean"):
        with pytest.raises(ModelError, match="'t5' cannot be run as a text encoder"):
            build_model(encoder, tiny.labelled("ab"), pooling=pooling, dropout=None, seed=0)


def test_padding_of_a_tokenizer_that_has_none(tmp_path: Path) -> None:
    """A decoder of transformers finds the last token by the padding token of its configuration: the tokenizer's is the same."""
    model = tiny.save_encoder(tmp_path / "m", "gpt2")
    pretrained = open_pretrained(str(model))
    assert pretrained.config.pad_token_id == 0 and pretrained.tokenizer.pad_token_id == 0
    edit_config(model, pad_token_id=None)
    pretrained = open_pretrained(str(model))
    assert pretrained.tokenizer.pad_token == "[SEP]"  # its end of text
    assert pretrained.load(tiny.labelled(LABELS)).config.pad_token_id == pretrained.tokenizer.pad_token_id == 3
    edit_config(model, pad_token_id=5000)  # names no token
    assert open_pretrained(str(model)).tokenizer.pad_token == "[SEP]"


def test_token_that_stands_for_an_empty_text(tmp_path: Path, tiny_bert: Path) -> None:
    assert open_pretrained(str(tiny.save_encoder(tmp_path / "m", "gpt2"))).fallback_token == 3
    assert open_pretrained(str(tiny_bert)).fallback_token == 1  # unknown; BERT's own template never needs it
