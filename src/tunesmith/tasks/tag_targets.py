"""The tags of a table's words as numbers, and what is wrong with them. N examples, W words, C labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunesmith.data.schemes import convert, opening, recognise, split_tag, strangers, written_otherwise
from tunesmith.data.table import Labels, TokenTable
from tunesmith.errors import DataError, counted, did_you_mean, listing, setting
from tunesmith.tasks.viterbi import transitions

_PLACES = 5


@dataclass(frozen=True)
class TagTargets:
    """Tags of N examples, one a word: those of example i are `names[code] for code in codes[starts[i]:starts[i+1]]`.

    names: the C labels, then the tags that were not learned; codes: int32[W]; starts: int64[N + 1]
    """

    codes: np.ndarray
    starts: np.ndarray
    names: list[str]
    labels: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, row: int) -> np.ndarray:
        """Return int32[W], the tags of one example."""
        return self.codes[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[W], the tags of all words of examples `rows`, one example behind the other."""
        parts = [self.of(row) for row in rows.tolist()]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def words(self, rows: np.ndarray) -> int:
        """Return how many words the examples have."""
        return int((self.starts[rows + 1] - self.starts[rows]).sum())

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[len(names)], how many words of the examples have each tag."""
        return np.bincount(self.take(rows), minlength=len(self.names))

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """Return how many words have each tag, and below the name of each type how many entities begin with it where tags say so."""
        counts = dict(zip(self.names, self.counts(rows).tolist(), strict=True))
        found: dict[str, float] = dict(counts)
        for tag, words in counts.items():
            letter, label = split_tag(tag)
            if letter in "BSU":
                found[label] = found.get(label, 0) + words
        return found

    def stratum(self) -> np.ndarray:
        """Return int64[N], by which a split spreads sentences: the rarest type of entity in it (or tag); the number of them for none."""
        kinds = [split_tag(name)[1] if split_tag(name)[0] != "O" else name for name in self.names]
        number = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
        codes = np.array([number[kind] for kind in kinds], np.int64)[self.codes] if len(self.codes) else np.zeros(0, np.int64)
        result = np.full(len(self), len(number), np.int64)
        owner = np.repeat(np.arange(len(self)), np.diff(self.starts))
        order = np.argsort(-np.bincount(codes, minlength=len(number))[codes], kind="stable")  # the rarest is written last
        result[owner[order]] = codes[order]
        return result

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for examples with the same tags in the same order (and, but for one chance in 2**64, only for those)."""
        generator = np.random.default_rng(0)
        mixed = generator.integers(0, 2**64, len(self.names), np.uint64)
        longest = int(np.diff(self.starts).max(initial=0))
        place = generator.integers(0, 2**63, longest, np.uint64) * np.uint64(2) + np.uint64(1)
        within = np.arange(len(self.codes)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        values = mixed[self.codes] * place[within]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
        return sums[self.starts[1:]] - sums[self.starts[:-1]]


def place_of(table: TokenTable, labels: Labels, at: int) -> str:
    """Return where tag number `at` of a table stands: file, line of the row, and number of the word."""
    row = int(np.searchsorted(labels.starts, at, side="right")) - 1
    return f"{table.name}:{table.line[row]}: word {at - int(labels.starts[row]) + 1}"


def written_in(labels: Labels) -> str | None:
    """Return the scheme in which the tags of a table are written (`iob1` too); None for plain tags."""
    scheme = recognise(labels.names)
    if scheme != "bio" or not len(labels.codes):
        return scheme
    number = {letter: i for i, letter in enumerate(("", "B", "I"))}
    opens = np.array([[number.get(opening(before, tag), 0) for tag in labels.names] for before in (*labels.names, None)], np.int8)
    counts = np.bincount(opens[_before(labels), labels.codes], minlength=len(number))
    return recognise(labels.names, {letter: int(counts[i]) for letter, i in number.items()})


def _before(labels: Labels) -> np.ndarray:
    """Return int64[W], the tag of the word before each; one more than the last tag's number at the beginning of a sentence."""
    before = np.concatenate([[len(labels.names)], labels.codes[:-1].astype(np.int64)])
    before[labels.starts[:-1][np.diff(labels.starts) > 0]] = len(labels.names)
    return before


def scheme_of(table: TokenTable, labels: Labels, wanted: str) -> str | None:
    """Return the scheme in which the tags of a table are written; None for plain tags.

    wanted: the setting `scheme`; none takes all tags as they stand
    Raises `DataError` where tags of a scheme and others stand side by side, or none is of the scheme that is wanted.
    """
    if wanted == "none":
        return None
    found = written_in(labels)
    if found is None:
        if wanted != "auto":
            raise DataError(
                f"{table.name}: {setting('scheme')} is {wanted}, but no tag is like B-PER; the tags are {listing(labels.names, 8)}. "
                f"Is {setting('label')} the right column?"
            )
        return None
    odd = strangers(labels.names)
    if odd:
        at = int(np.argmax(labels.codes == labels.names.index(odd[0])))
        raise DataError(
            f"{place_of(table, labels, at)}: tag {odd[0]!r} is neither O nor like B-PER, as others of the file are. Correct it, or take "
            f"all tags as they stand, without entities, with {setting('scheme', 'none')}."
        )
    return found


def read_as(table: TokenTable, scheme: str | None) -> list[str]:
    """Return a sentence on tags of a table that are converted to `scheme`, or that are plain (None) and look as if they meant a scheme."""
    labels = table.labels()
    if scheme is None:
        way = written_otherwise(labels.names)
        if way is None:
            return []
        return [
            f"the tags of {table.name} ({listing(labels.names, 8)}) are plain ones, so that no entities are counted: those of a scheme are "
            f"like B-PER, and these have {way}. Write them so if they mean entities."
        ]
    source = written_in(labels)
    if source is None or source == scheme:
        return []
    why = ", with B only for an entity right behind another one of its type" if source == "iob1" else ""
    return [f"the tags of {table.name} are {source.upper()}{why}; they are converted to {scheme.upper()}."]


def broken(table: TokenTable, index: np.ndarray, scheme: str, advice: str) -> list[str]:
    """Return a sentence on the tags of rows `index` that break their scheme, with the first places; none where none does."""
    labels = table.labels()
    source = written_in(labels)
    if source is None or source == "io":
        return []
    if source != scheme:
        advice = f"They are converted to {scheme.upper()} as seqeval's default mode reads them."
    border = len(labels.names)
    may_follow = transitions(labels.names, source)
    codes, starts = labels.codes.astype(np.int64), labels.starts
    before, ends = _before(labels), starts[1:][np.diff(starts) > 0]
    wrong = ~may_follow[before, codes]
    cut = np.zeros(len(codes), bool)
    cut[ends - 1] = ~may_follow[codes[ends - 1], border]
    owner = np.repeat(np.arange(len(table)), np.diff(starts))
    chosen = np.zeros(len(table), bool)
    chosen[index] = True
    places = np.flatnonzero((wrong | cut) & chosen[owner])
    if not len(places):
        return []
    told = []
    for at in places[:_PLACES].tolist():
        tag = labels.names[codes[at]]
        last = labels.names[before[at]] if before[at] != border else None
        after = f"after {last}" if last is not None else "at the beginning"
        told.append(f"{place_of(table, labels, at)} ({f'{tag} {after}' if wrong[at] else f'the sentence ends after {tag}'})")
    more = f" and {len(places) - len(told):,} more" if len(places) > len(told) else ""
    rows = len(np.unique(owner[places]))
    breaks = "breaks" if len(places) == 1 else "break"
    return [
        f"{counted(len(places), 'tag')} in {counted(rows, 'sentence')} of {table.name} {breaks} the scheme {source.upper()}: "
        f"{'; '.join(told)}{more}. {advice}"
    ]


def tags_of(table: TokenTable, names: list[str], scheme: str | None) -> TagTargets:
    """Return the tags of a table as numbers of the labels `names`, written in `scheme`; tags that are not among them follow.

    Raises `DataError` when none of the tags is a label.
    """
    labels = table.labels()
    source = written_in(labels) if scheme is not None else None
    number = {name: i for i, name in enumerate(names)}
    if scheme is None or source is None or source == scheme:
        if scheme is not None and (way := written_otherwise(labels.names)) is not None:
            raise DataError(
                f"{table.name}: the tags ({listing(labels.names, 8)}) have {way}, and the model knows those of the scheme {scheme.upper()} "
                f"({listing(names, 8)}). Write them so. Is {setting('label')} the right column?"
            )
        if labels.names and not any(name in number for name in labels.names):
            raise DataError(
                f"{place_of(table, labels, 0)}: none of the tags ({listing(labels.names, 8)}) is one that was learned "
                f"({listing(names, 8)}). Is {setting('label')} the right column?"
            )
        codes = np.array([number.setdefault(name, len(number)) for name in labels.names], np.int32)
        return TagTargets(codes[labels.codes] if len(codes) else codes, labels.starts, list(number), len(names))
    changed: list[int] = []
    for start, end in zip(labels.starts[:-1].tolist(), labels.starts[1:].tolist(), strict=True):
        tags = convert([labels.names[code] for code in labels.codes[start:end]], source, scheme)
        changed += [number.setdefault(tag, len(number)) for tag in tags]
    return TagTargets(np.array(changed, np.int32), labels.starts, list(number), len(names))


def new_tags(table: TokenTable, names: list[str], scheme: str | None) -> list[str]:
    """Return the tags of a table, written in `scheme`, that are not among `names`, in order. Raises `DataError` for one of no scheme."""
    if scheme is not None:
        scheme_of(table, table.labels(), "auto")
    targets = tags_of(table, names, scheme)
    return sorted(targets.names[len(names) :])


def unknown(table: TokenTable, index: np.ndarray, targets: TagTargets, known: list[str]) -> list[str]:
    """Return a sentence on tags of rows `index` that were not learned; none where all were."""
    counts = targets.counts(index)[targets.labels :]
    names = [name for name, count in zip(targets.names[targets.labels :], counts.tolist(), strict=True) if count]
    if not names:
        return []
    code = targets.names.index(names[0])
    chosen = np.zeros(len(targets), bool)
    chosen[index] = True
    owner = np.repeat(np.arange(len(targets)), np.diff(targets.starts))
    at = int(np.flatnonzero((targets.codes == code) & chosen[owner])[0])
    row = int(owner[at])
    words = int(counts.sum())
    have = "has" if words == 1 else "have"
    named = listing(map(repr, names), 5)
    where = f"{table.name}:{table.line[row]}: word {at - int(targets.starts[row]) + 1}"
    return [
        f"{counted(words, 'word')} of {table.name} {have} a tag that no training row has ({named}; first at {where}): "
        f"the model cannot predict it, and it counts as wrong.{did_you_mean(names[0], known)}"
    ]
