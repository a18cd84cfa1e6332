"""Queries that mix languages: a term of the user's list, called by its other name."""

import re
from collections.abc import Iterable, Mapping
from random import Random

from finetune.data.typos import Change
from finetune.inference.script import Convert, is_traditional

_LATIN = re.compile(r"[A-Za-z0-9]")


def switched(terms: Iterable[tuple[str, str]], to_traditional: Convert) -> Change:
    """Make what calls one term of a text by its other name (违约金 → liquidated damages, or back).

    Of terms that overlap the leftmost counts, and of those that begin together the longest: 合同
    within 劳动合同 stays. A Latin term is found as a whole word, in any case. In a Traditional text
    both names are Traditional.

    Args:
        terms: Each with its other name.
        to_traditional: What converts them for Traditional texts.
    """
    given = list(terms)
    converted = [(to_traditional(term), to_traditional(other)) for term, other in given]
    names = {False: _names(given), True: _names(converted)}
    find = {traditional: _any_of(each) for traditional, each in names.items()}

    def change(text: str, rng: Random) -> str:
        traditional = is_traditional(text)
        others = names[traditional]
        found = [each for each in find[traditional].finditer(text) if each[0].lower() in others]
        if not found:
            return text
        chosen = rng.choice(found)
        other = rng.choice(others[chosen[0].lower()])
        return _joined(_joined(text[: chosen.start()], other), text[chosen.end() :])

    return change


def _names(terms: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    """By each name in lower case, the others."""
    found: dict[str, list[str]] = {}
    for pair in terms:
        for term, other in (pair, pair[::-1]):
            found.setdefault(term.lower(), []).append(other)
    return found


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(_pattern, longest_first)), re.IGNORECASE)


def _pattern(term: str) -> str:
    before = rf"(?<!{_LATIN.pattern})" if _LATIN.match(term[0]) else ""
    after = rf"(?!{_LATIN.pattern})" if _LATIN.match(term[-1]) else ""
    return before + re.escape(term) + after


def _joined(left: str, right: str) -> str:
    """Both texts; a space keeps Latin words apart."""
    apart = left and right and _LATIN.match(left[-1]) and _LATIN.match(right[0])
    return f"{left} {right}" if apart else left + right
