"""Queries that mix languages: a term of the user's list, called by its other name."""

import re
from collections.abc import Iterable
from random import Random

from finetune.data.typos import Change

_LATIN = re.compile(r"[A-Za-z0-9]")


def switched(terms: Iterable[tuple[str, str]]) -> Change:
    """Make what calls one term of a text by its other name (违约金 → liquidated damages, or back).

    Of terms that overlap the leftmost counts, and of those that begin together the longest: 合同
    within 劳动合同 stays. A Latin term is found as a whole word, in any case.
    """
    others: dict[str, list[str]] = {}
    for pair in terms:
        for term, other in (pair, pair[::-1]):
            others.setdefault(term.lower(), []).append(other)
    longest_first = sorted(others, key=lambda term: (-len(term), term))
    find = re.compile("|".join(map(_pattern, longest_first)), re.IGNORECASE)

    def change(text: str, rng: Random) -> str:
        found = [each for each in find.finditer(text) if each[0].lower() in others]
        if not found:
            return text
        chosen = rng.choice(found)
        other = rng.choice(others[chosen[0].lower()])
        return _joined(_joined(text[: chosen.start()], other), text[chosen.end() :])

    return change


def _pattern(term: str) -> str:
    before = rf"(?<!{_LATIN.pattern})" if _LATIN.match(term[0]) else ""
    after = rf"(?!{_LATIN.pattern})" if _LATIN.match(term[-1]) else ""
    return before + re.escape(term) + after


def _joined(left: str, right: str) -> str:
    """Both texts; a space keeps Latin words apart."""
    apart = left and right and _LATIN.match(left[-1]) and _LATIN.match(right[0])
    return f"{left} {right}" if apart else left + right
