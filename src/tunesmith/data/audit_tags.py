"""What an audit says of tagged words: how many there are, and where their tags break the scheme."""

from __future__ import annotations

from collections import Counter

from tunesmith.data.audit_types import SHOWN, Finding
from tunesmith.data.schema import RowSource, Schema
from tunesmith.data.schemes import default_entities, faults, openings, recognise, strangers, written_otherwise
from tunesmith.data.words import ELSEWHERE
from tunesmith.errors import counted, listing, setting

_LONG = 1000  # words of an only sentence, from which on it will be a file without the blank lines between sentences


def examine_places(source: RowSource, schema: Schema) -> list[Finding]:
    """Return a finding on sentences whose words are not those of the text that the row gives beside them."""
    places = [str(place) for row, place in source if ELSEWHERE in schema.parse(row, place).mended]
    if not places:
        return []
    text = f"{counted(len(places), 'row')} {'has' if len(places) == 1 else 'have'} {ELSEWHERE} ({listing(places, SHOWN)})."
    advice = "The words are read, the text is not, and predictions give no characters. Do text and words belong together?"
    return [Finding("warning", text, advice)]


def examine_tags(source: RowSource, schema: Schema) -> list[Finding]:
    """Return a note on words, tags and entities of `source`, and findings on tags that belong to no scheme or break theirs."""
    if schema.target is None:
        return []
    rows = words = empty = 0
    tags: Counter[str] = Counter()
    begun: Counter[str] = Counter()
    beside_hash: set[str] = set()
    for row, place in source:
        example = schema.parse(row, place)
        target = example.target
        if target is not None:
            beside_hash.update(tag for word, tag in zip(example.words, target, strict=False) if word == "#")
            rows, words, empty = rows + 1, words + len(target), empty + (not target)
            tags.update(target)
            begun.update(openings(target))
    scheme = recognise(tags, begun)
    said = f"{counted(words, 'word')} in {counted(rows, 'tagged sentence')}{f', {empty:,} of them without a word' if empty else ''}"
    if scheme is None:
        most = listing([f"{tag} {count:,}" for tag, count in tags.most_common()], 8)
        text = f"{said}; tags of no scheme: {most}."
        way = written_otherwise(tags)
        if way is None:
            return [Finding("note", text, "They are learned as they stand, such as parts of speech.")]
        advice = f"They have {way}. If they mean entities write them as B-PER, I-PER and O: plain tags are learned one by one."
        return [Finding("warning", text, advice)]
    odd = strangers(tags)
    if odd:
        named = listing([f"{tag!r} ({tags[tag]:,})" for tag in odd], 8)
        advice = f"Write them as O or B-TYPE, or take all tags as they stand with {setting('scheme', 'none')}."
        if beside_hash.issuperset(odd):
            advice = "The word of each is #: they are comments of two words, which two columns do not tell from words. Delete them."
        return [Finding("error", f"beside tags of the scheme {scheme.upper()} there are others: {named}.", advice)]
    kinds: Counter[str] = Counter()
    wrong, sentences, places = 0, 0, list[str]()
    for row, place in source:
        target = schema.parse(row, place).target
        if target is None:
            continue
        kinds.update(entity.label for entity in default_entities(target))
        found = faults(target, scheme)
        wrong, sentences = wrong + len(found), sentences + bool(found)
        places += [f"{place}: word {at + 1} ({why})" for at, why in found[: max(SHOWN - len(places), 0)]]
    entities = listing([f"{kind} {count:,}" for kind, count in kinds.most_common()], 12)
    result = [Finding("note", f"{said}; scheme {scheme.upper()}, entities: {entities}.", "Types with few entities are learned badly.")]
    if rows == 1 and words > _LONG:
        advice = "Between sentences of CoNLL stands a blank line: without them nothing can be split off for validation and test."
        result.append(Finding("warning", f"all {words:,} words are one sentence.", advice))
    if wrong:
        more = f" and {wrong - len(places):,} more" if wrong > len(places) else ""
        text = (
            f"{counted(wrong, 'place')} in {counted(sentences, 'sentence')} break the scheme {scheme.upper()}: {'; '.join(places)}{more}."
        )
        as_they_stand = "they are learned as they stand, and strict metrics see no entity there"
        advice = f"Correct them: {as_they_stand if scheme != 'iob1' else 'IOB1 has B only right behind an entity of the same type'}."
        result.append(Finding("warning", text, advice))
    return result
