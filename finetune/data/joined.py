"""Negatives that stand in several rows of one pair, as exploded triplets give them."""

from dataclasses import replace

from finetune.data.folding import folded
from finetune.disk import Spilled
from finetune.records import Pair, Scored


class Joined:
    """Negatives of later rows, on disk, by the place of the pair that they are joined to."""

    def __init__(self) -> None:
        self._texts: Spilled[str] = Spilled(str)
        self._of: dict[int, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, place: int, first: Pair | Scored, pair: Pair | Scored) -> bool:
        """Note the negatives of a later row that the first lacks; say whether there are any.

        One that equals the positive, if in the other script, is left out and counted nowhere.
        """
        if not (isinstance(first, Pair) and isinstance(pair, Pair) and pair.negatives):
            return False
        known = set(map(folded, (first.positive, *first.negatives, *self._added(place))))
        new = {folded(text): text for text in reversed(pair.negatives)}
        lacking = [text for form, text in reversed(new.items()) if form not in known]
        for text in lacking:
            self._of.setdefault(place, []).append(len(self._texts))
            self._texts.append(text)
        return bool(lacking)

    def whole(self, place: int, pair: Pair | Scored) -> Pair | Scored:
        """The pair of a place with the negatives of all its rows."""
        if not isinstance(pair, Pair) or place not in self._of:
            return pair
        return replace(pair, negatives=(*pair.negatives, *self._added(place)))

    def _added(self, place: int) -> list[str]:
        return [self._texts[each] for each in self._of.get(place, ())]
