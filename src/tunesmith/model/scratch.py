"""A new encoder from raw text alone: a vocabulary learned from it, and a BERT with freshly drawn weights."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tunesmith.data.scripts import UNSPACED
from tunesmith.data.table import cache_directory, evict, note_use
from tunesmith.errors import DataError, setting
from tunesmith.model.hub import save_new_bert
from tunesmith.model.pretrained import Pretrained, open_pretrained
from tunesmith.progress import Progress
from tunesmith.seeds import seed_for
from tunesmith.storage import new_directory

if TYPE_CHECKING:
    from tunesmith.config import Config

_FORMAT = 1  # raised whenever equal settings give another encoder
_POSITIONS = 512
_CACHE_LIMIT_BYTES = 5 * 2**30
_LONGEST_WORD = 100  # in characters; what is longer no word of a language is, and a WordPiece model takes for unknown
_AT_ONCE = 1000
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def new_pretrained(config: Config, texts: Iterable[str], fingerprint: str, progress: Progress) -> Pretrained:
    """Return a new BERT of the size that `config` states, with a vocabulary of `texts`, whose content has this fingerprint.

    It is kept in the cache, and depends on nothing but its arguments: the same texts and settings give the same encoder.
    Raises `DataError` when the texts have too few different characters and words for a vocabulary.
    """
    sizes = {name: getattr(config, name) for name in ("vocab_size", "layers", "width", "heads", "seed")}
    positions = max(_POSITIONS, config.max_length)
    key = hashlib.blake2b(repr([_FORMAT, tokenizers.__version__, fingerprint, sizes, positions]).encode(), digest_size=16).hexdigest()
    path = cache_directory() / "encoders" / key
    if not path.is_dir():
        with progress.track("learning a vocabulary", None, "texts") as tracker:
            tokenizer = learn_vocabulary(texts, config.vocab_size, tracker.advance)
        with new_directory(path, replace=False) as directory:
            save_new_bert(
                directory,
                tokenizer,
                SPECIAL,
                layers=config.layers,
                width=config.width,
                heads=config.heads,
                positions=positions,
                seed=seed_for(config.seed, "new encoder"),
            )
        evict(path.parent, keep=path, limit=_CACHE_LIMIT_BYTES)
    note_use(path)
    found = open_pretrained(str(path))
    size = len(found.tokenizer)
    progress.say(f"new encoder: BERT, {config.layers} layers, width {config.width}, {config.heads} heads; vocabulary of {size:,} tokens")
    name = f"new BERT ({config.layers} layers, width {config.width}, {size:,} tokens)"
    return replace(found, located=replace(found.located, name=name))


def learn_vocabulary(texts: Iterable[str], size: int, advance: Callable[[int], None] | None = None) -> Tokenizer:
    """Return a lower-casing WordPiece tokenizer with at most `size` tokens, learned by `tokenizers`; a pure function.

    Words are divided at spaces and punctuation; Chinese characters, and those of other scripts without spaces, are words of their own
    as in the multilingual BERT (its tokenizer: Devlin et al. 2019, "BERT"; WordPiece: Wu et al. 2016, section 4.1).

    Raises `DataError` when there are no words.
    """
    tokenizer = _bare(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)))
        if advance is not None:
            advance(1)
    if not words:
        raise DataError(f"there are no words in the training texts to learn a vocabulary from. Is {setting('text')} the right column?")
    characters: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        inside.update(word[1:])
        for char in word:
            characters[char] += count
    alphabet: list[str] = []
    for char, _ in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        alphabet += [char, f"##{char}"] if char in inside else [char]
        # half of the vocabulary is left to pieces of more than one character
        if len(alphabet) >= size // 2 - len(SPECIAL):
            break
    # The trainer numbers pieces in the order in which it meets them, which differs from run to run, and breaks ties by number. Pieces
    # that are there from the beginning, as its special tokens are, have one number always.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL.values(), *alphabet], limit_alphabet=0, min_frequency=2, show_progress=False
    )
    training = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    training.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    training.train_from_iterator(_repeated(words), trainer)
    special = set(SPECIAL.values())
    pieces = [*SPECIAL.values(), *sorted(piece for piece in training.get_vocab(with_added_tokens=True) if piece not in special)]
    result = _bare(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token=SPECIAL["unk_token"]))
    ends = [(SPECIAL[name], pieces.index(SPECIAL[name])) for name in ("cls_token", "sep_token")]
    result.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
    result.decoder = decoders.WordPiece()
    return result


def _bare(model: models.WordPiece) -> Tokenizer:
    """Return a tokenizer that lower-cases and divides text into words, and knows no more of its vocabulary than `model` does."""
    tokenizer = Tokenizer(model)
    # accents tell words apart in most languages that write them
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(f"[{UNSPACED}]"), "isolated")]
    )
    return tokenizer


def _repeated(words: Counter[str]) -> Iterator[str]:
    """Yield every word as often as it was counted, in an order that depends on nothing else."""
    for word, count in sorted(words.items()):
        if len(word) <= _LONGEST_WORD:
            for left in range(count, 0, -_AT_ONCE):
                yield f"{word} " * min(left, _AT_ONCE)
