"""Training pairs from documents alone: what in a document asks, and what in it answers.

Every generator turns passages into pairs by a rule; none needs a label or a model. They differ in
how near the made query is to what users type, and in how much it gives the answer away:

===========  ==============================================  =========================
generator    query                                           positive
===========  ==============================================  =========================
title        the document's title                            its first passage
heading      title and heading                               a passage under it
question     a sentence that asks                            the sentences up to the next
phrases      the passage's rarest phrases, at times asked    the passage
words        its most telling terms, as in a search box      the passage
cloze        a sentence of the passage                       the passage without it
neighbours   a sentence                                      the next sentence
identity     the passage (dropout makes the views differ)    the same passage
===========  ==============================================  =========================

``cloze`` is the inverse cloze task (arXiv:1906.00300), ``identity`` unsupervised SimCSE
(arXiv:2104.08821); both are measured for retrieval in GPL's comparison (arXiv:2112.07577).
"""

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, takewhile

from finetune.data.clean import comparable
from finetune.data.cutting import cutter
from finetune.inference.script import is_traditional
from finetune.records import Pair, Passage

Made = Iterator[tuple[str, str]]

_SHORTEST = 8  # characters of a sentence that says something by itself
_ASKS = ("？", "?", "吗", "嗎", "么", "麼")
_SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;]?")
# Where a phrase ends, in either script: punctuation, words that join or point, numbers of articles.
_BETWEEN = re.compile(
    r"[^\w]|可以|[应應][当當]|不得|或者|以及|及其|按照|依照|依法|根[据據]|[规規]定|下列|情形之一"
    r"|有[关關]|[的了在是和与與或及对對为為爲被把将將]|第?[一二三四五六七八九十百]+[条條款项項]"
)
_PHRASE = range(2, 9)  # characters
_PHRASES = 3  # of one query
_WORDS = 5  # of one query, at most
_ENDINGS = ("", "", "怎么办？", "怎么规定的？", "有什么规定？", "怎么处理？")
_TRADITIONAL_ENDINGS = ("", "", "怎麼辦？", "怎麼規定的？", "有什麼規定？", "怎麼處理？")


def synthesize(
    passages: Sequence[Passage], weights: Mapping[str, float], count: int, seed: int
) -> list[Pair]:
    """Make pairs from passages.

    Args:
        passages: All of them; their order does not change what is made of each.
        weights: Share of the pairs by generator (a key of `GENERATORS`); any positive scale.
        count: At most so many pairs; a generator that finds fewer than its share makes fewer.
        seed: Of every choice.

    Returns:
        Pairs with ids ``<generator>-<passage id>-<number>`` and the source
        ``generated-<generator>``; none whose sides are equal, none twice.
    """
    total = sum(weights.values())
    found: dict[tuple[str, str], Pair] = {}
    for name in sorted(weights):
        wanted = round(count * weights[name] / total)
        if wanted:
            pairs = list(_pairs(name, passages, seed))
            random.Random(f"{seed} {name}").shuffle(pairs)
            for pair in pairs[:wanted]:
                found.setdefault((comparable(pair.query), comparable(pair.positive)), pair)
    return list(found.values())


def _pairs(name: str, passages: Sequence[Passage], seed: int) -> Iterator[Pair]:
    make = GENERATORS[name](passages)
    for passage in passages:
        draw = random.Random(hashlib.sha256(f"{seed} {name} {passage.id}".encode()).digest())
        for number, (query, positive) in enumerate(make(passage, draw)):
            alike = comparable(query) == comparable(positive)
            if query.strip() and positive.strip() and (name == "identity" or not alike):
                yield Pair(f"{name}-{passage.id}-{number}", query, positive, f"generated-{name}")


def sentences(text: str) -> list[str]:
    """Split at sentence ends, semicolons and line ends; what is left is stripped, never empty."""
    found = (match[0].strip() for match in _SENTENCE.finditer(text))
    return [each for each in found if comparable(each)]


def _title(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    first: dict[tuple[str, str], str] = {}
    for passage in passages:
        first.setdefault(_document(passage), passage.id)

    def make(passage: Passage, draw: random.Random) -> Made:
        if passage.title and first[_document(passage)] == passage.id:
            yield passage.title, passage.indexed

    return make


def _heading(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    def make(passage: Passage, draw: random.Random) -> Made:
        if passage.heading:
            yield f"{passage.title} {passage.heading}".strip(), passage.text

    return make


def _question(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    def make(passage: Passage, draw: random.Random) -> Made:
        lines = sentences(passage.text)
        if passage.heading.endswith(_ASKS):
            yield passage.heading, passage.text
        for asked, *after in (lines[i : i + 4] for i in range(len(lines) - 1)):
            answer = list(takewhile(lambda line: not line.endswith(_ASKS), after))
            if asked.endswith(_ASKS) and answer:
                yield asked, "".join(answer)

    return make


def _phrases(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    """Rarity is the mean inverse document frequency of a phrase's character bigrams."""
    frequency = Counter(pair for each in passages for pair in set(_bigrams(each.text)))
    total = len(passages)

    def rarity(phrase: str) -> float:
        pairs = _bigrams(phrase)
        return sum(math.log(total / frequency[pair]) for pair in pairs) / len(pairs)

    def make(passage: Passage, draw: random.Random) -> Made:
        phrases = {each for each in _BETWEEN.split(passage.text) if len(each) in _PHRASE}
        best = sorted(phrases, key=lambda each: (-rarity(each), each))[: 2 * _PHRASES]
        if len(best) >= 2:
            chosen = draw.sample(best, min(len(best), draw.randint(2, _PHRASES)))
            endings = _TRADITIONAL_ENDINGS if is_traditional(passage.text) else _ENDINGS
            yield "，".join(chosen) + draw.choice(endings), passage.indexed

    return make


def _words(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    """What tells most stands here often and in few passages (tf-idf).

    What stands once in all of them may be no term, but cut wrongly.
    """
    cut = cutter(piece for each in passages for piece in _BETWEEN.split(each.text))

    def terms(passage: Passage) -> Counter[str]:
        return Counter(term for piece in _BETWEEN.split(passage.text) for term in cut(piece))

    frequency = Counter(term for each in passages for term in terms(each))
    total = len(passages)

    def make(passage: Passage, draw: random.Random) -> Made:
        telling = {
            term: count * math.log(total / frequency[term])
            for term, count in terms(passage).items() if count > 1 or frequency[term] > 1
        }  # fmt: skip
        best = sorted(telling, key=lambda term: (-telling[term], term))[:_WORDS]
        if len(best) >= 2:
            chosen = draw.sample(best, draw.randint(2, len(best)))
            yield " ".join(sorted(chosen, key=passage.text.index)), passage.indexed

    return make


def _cloze(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    def make(passage: Passage, draw: random.Random) -> Made:
        lines = sentences(passage.text)
        long = [index for index, line in enumerate(lines) if len(line) >= _SHORTEST]
        if len(lines) > 1 and long:
            chosen = draw.choice(long)
            rest = "".join(lines[:chosen] + lines[chosen + 1 :])
            yield lines[chosen].rstrip("。；;：:，"), passage.label + rest

    return make


def _neighbours(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    def make(passage: Passage, draw: random.Random) -> Made:
        beside = pairwise(sentences(passage.text))
        telling = [pair for pair in beside if min(map(len, pair)) >= _SHORTEST]
        if telling:
            yield draw.choice(telling)

    return make


def _identity(passages: Sequence[Passage]) -> Callable[[Passage, random.Random], Made]:
    def make(passage: Passage, draw: random.Random) -> Made:
        yield passage.indexed, passage.indexed

    return make


def _document(passage: Passage) -> tuple[str, str]:
    """The file and the title of a passage's document; rows of one title are one document."""
    return passage.id.rpartition("#")[0], passage.title


def _bigrams(text: str) -> list[str]:
    return [text[index : index + 2] for index in range(len(text) - 1)]


GENERATORS: Mapping[
    str, Callable[[Sequence[Passage]], Callable[[Passage, random.Random], Made]]
] = {
    "title": _title,
    "heading": _heading,
    "question": _question,
    "phrases": _phrases,
    "words": _words,
    "cloze": _cloze,
    "neighbours": _neighbours,
    "identity": _identity,
}  # fmt: skip
