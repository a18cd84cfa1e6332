"""Training pairs that an evaluation set asks, in any script and with any harmless edit."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from finetune.config.choices import Leak
from finetune.data import near
from finetune.data.folding import folded
from finetune.data.loaded import sides
from finetune.records import Pair, Scored, untitled
from finetune.sets import AnySet, EvaluationSet

LEAK = "leak: query is an evaluation query"
NEAR_LEAK = "leak: query is nearly an evaluation query"
PAIR_LEAK = "leak: pair is an evaluation pair"
GOLD = "positive answers an evaluation query"

# What is dropped. A positive that is an evaluation passage is what retrieval is trained for, and
# says nothing about an evaluation query unless it answers one.
DROPPED: Mapping[Leak, tuple[str, ...]] = {
    Leak.default: (LEAK, NEAR_LEAK, PAIR_LEAK),
    Leak.strict: (LEAK, NEAR_LEAK, PAIR_LEAK, GOLD),
    Leak.off: (),
}

_CHUNK = 50_000  # pairs at a time
Key = tuple[str, ...]
Row = Pair | Scored
# Of pairs by id: why each is suspect, and what it collided with.
Suspects = Mapping[str, tuple[str, str]]


def find(
    pairs: Sequence[Row],
    sets: Iterable[AnySet],
    least: float,
    progress: Callable[[int], None] = lambda count: None,
) -> Suspects:
    """Find the pairs that evaluation sets ask, or whose positive answers another of their queries.

    Args:
        pairs: Training pairs.
        sets: Every set that selects or reports.
        least: Jaccard index of near-equal queries, as for `near.alike`.
        progress: Called with the number of pairs just finished.
    """
    asked: dict[Key, str] = {}
    answered: dict[str, dict[str, str]] = {}  # by passage, the queries that it answers
    for each in sets:
        for name, question in each.questions.items():
            kind = "query" if len(question) == 1 else "pair"
            asked.setdefault(_key(map(folded, question)), f"{each.name}: {kind} {name}")
        if isinstance(each, EvaluationSet):
            _add_golds(each, answered)
    found: dict[str, tuple[str, str]] = {}
    if not asked:
        return found
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        texts = [(folded(first), folded(second)) for first, second in map(sides, chunk)]
        nearly = _nearly(chunk, texts, asked, least)
        for pair, (first, second) in zip(chunk, texts, strict=True):
            suspicion = _asked(pair, first, second, asked, nearly)
            if suspicion is None and isinstance(pair, Pair):
                suspicion = _answered(pair, first, second, answered)
            if suspicion is not None:
                found[pair.id] = suspicion
        progress(len(chunk))
    return found


def _key(texts: Iterable[str]) -> Key:
    """Questions as they are compared; the order of a pair's texts does not count."""
    return tuple(sorted(texts))


def _add_golds(each: EvaluationSet, answered: dict[str, dict[str, str]]) -> None:
    for query, relevance in each.qrels.items():
        for document in (key for key, score in relevance.items() if score > 0):
            places = answered.setdefault(folded(untitled(each.corpus[document])), {})
            place = f"{each.name}: passage {document} of query {query}"
            places.setdefault(folded(each.queries[query]), place)


def _nearly(
    pairs: Sequence[Row],
    texts: Sequence[tuple[str, str]],
    asked: Mapping[Key, str],
    least: float,
) -> Mapping[str, str]:
    """Where each text that is a question by itself is asked in nearly the same words."""
    others = [key[0] for key in asked if len(key) == 1]
    single = dict.fromkeys(
        text for pair, both in zip(pairs, texts, strict=True) for text in _questions(pair, both)
    )
    queries = [text for text in single if (text,) not in asked]
    found: dict[str, str] = {}
    for i, j in near.between(queries, others, least):
        found.setdefault(queries[i], asked[(others[j],)])
    return found


def _questions(pair: Row, texts: tuple[str, str]) -> Sequence[str]:
    """The texts of a pair that an evaluation may ask: its query, or both of a scored pair."""
    return texts if isinstance(pair, Scored) else texts[:1]


def _asked(
    pair: Row, first: str, second: str, asked: Mapping[Key, str], nearly: Mapping[str, str]
) -> tuple[str, str] | None:
    questions = _questions(pair, (first, second))
    for key in (*((text,) for text in questions), _key((first, second))):
        if key in asked:
            return (LEAK if len(key) == 1 else PAIR_LEAK), asked[key]
    return next(((NEAR_LEAK, nearly[text]) for text in questions if text in nearly), None)


def _answered(
    pair: Pair, query: str, positive: str, answered: Mapping[str, Mapping[str, str]]
) -> tuple[str, str] | None:
    place = answered.get(_passage(pair.query, query), {}).get(positive)
    if place is not None:  # asked the other way round
        return PAIR_LEAK, place
    places = answered.get(_passage(pair.positive, positive))
    return (GOLD, next(iter(places.values()))) if places else None


def _passage(text: str, whole: str) -> str:
    """A folded text as answers are compared: whatever the law is called."""
    bare = untitled(text)
    return whole if bare is text else folded(bare)
