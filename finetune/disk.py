"""What need not be in memory: rows of a file, read as they are asked for, and texts by number.

A number of eight bytes stands for a text. Of ten million texts any two share one with a probability
of three in a million; of Python's strings and sets they would take some ten gigabytes.
"""

import dataclasses
import hashlib
import json
import marshal
import mmap
import os
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter, eq, itemgetter
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from finetune.records import as_row

Item = TypeVar("Item")
_BLOCK = 1_000  # rows that are read at a time where all are


class Lazy(Sequence[Item], Generic[Item]):
    """A sequence whose items are made as they are asked for, by place or by slice.

    It equals any sequence of the same items.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    @abstractmethod
    def _at(self, place: int) -> Item:
        """The item of a place that is there, counted from the first."""

    def _some(self, places: range) -> list[Item]:
        """The items of such places."""
        return [self._at(place) for place in places]

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        places = range(len(self))[place]
        return self._some(places) if isinstance(places, range) else self._at(places)


class Rows(Lazy[Item]):
    """The rows of a JSON Lines file that the project wrote, which does not change meanwhile.

    In memory are eight bytes a row, and pages of the file that the system takes back at need.

    Args:
        path: Of the file.
        make: Makes an item of a row's content.
    """

    def __init__(self, path: Path, make: Callable[[dict[str, Any]], Item]) -> None:
        self._path = path
        self._make = make
        with path.open("rb") as file:
            lengths = np.fromiter(map(len, file), np.int64)
            self._starts = np.concatenate([[0], np.cumsum(lengths)])
            # An empty file cannot be mapped.
            self._content = (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if len(lengths) else b""
            )

    def __len__(self) -> int:
        return len(self._starts) - 1

    def _at(self, place: int) -> Item:
        start, end = self._starts[place : place + 2].tolist()
        return self._make(json.loads(self._content[start:end]))

    def __iter__(self) -> Iterator[Item]:
        with self._path.open("rb") as file:
            yield from map(self._make, map(json.loads, file))


class Spilled(Lazy[Item]):
    """Rows as they are appended, in a file without a name that goes when they do.

    In memory are eight bytes a row. The file lies where temporary files do (``TMPDIR``).

    Args:
        kind: ``str``, or a dataclass of two fields or more, whose values are texts, numbers and
            tuples of them.
        items: The first of them.
    """

    def __init__(self, kind: type[Item], items: Iterable[Item] = ()) -> None:
        self._make = kind
        self._values = _alone if kind is str else attrgetter(*_fields(kind))
        self._file = tempfile.TemporaryFile(prefix="finetune-")  # noqa: SIM115 (open as long as this is)
        self._ends = array("q", [0])
        self.extend(items)

    def extend(self, items: Iterable[Item]) -> None:
        """Add rows."""
        for item in items:
            self.append(item)

    def append(self, item: Item) -> None:
        """Add a row."""
        self._ends.append(self._ends[-1] + self._file.write(marshal.dumps(self._values(item))))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _at(self, place: int) -> Item:
        return self._block(range(place, place + 1))[0]

    def _some(self, places: range) -> list[Item]:
        return self._block(places) if places and places.step == 1 else super()._some(places)

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]

    def _block(self, places: range) -> list[Item]:
        self._file.flush()
        ends = self._ends[places.start : places.stop + 1]
        content = os.pread(self._file.fileno(), ends[-1] - ends[0], ends[0])
        rows = (content[start - ends[0] : end - ends[0]] for start, end in pairwise(ends))
        return [self._make(*marshal.loads(row)) for row in rows]


def _alone(text: Any) -> tuple[Any]:
    return (text,)


def _fields(kind: Any) -> Iterator[str]:
    return (each.name for each in dataclasses.fields(kind))


class Chosen(Lazy[Item]):
    """Some of the items of a sequence, in eight bytes an item.

    Args:
        items: The sequence.
        places: Where they stand in it.
    """

    def __init__(self, items: Sequence[Item], places: Iterable[int]) -> None:
        self._places = array("q", places)
        self._items = items
        if isinstance(items, Chosen):
            self._places = array("q", map(items._places.__getitem__, self._places))
            self._items = items._items

    def __len__(self) -> int:
        return len(self._places)

    def _at(self, place: int) -> Item:
        return self._items[self._places[place]]


def rows(path: Path, kind: type[Item]) -> Rows[Item]:
    """The rows of a kind that `finetune.records.write_jsonl` wrote."""
    return Rows(path, partial(as_row, kind))


def texts(path: Path) -> Rows[str]:
    """The texts of a file with a ``text`` a row."""
    return Rows(path, itemgetter("text"))


def number(text: str) -> int:
    """The number that stands for a text, the same everywhere."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def numbers(texts: Iterable[str]) -> NDArray[np.int64]:
    """The numbers of texts, ``[n]``."""
    return np.fromiter(map(number, texts), np.int64)


def distinct(texts: Iterable[str]) -> Iterator[str]:
    """Yield each text once, in order."""
    seen: set[int] = set()
    for text in texts:
        key = number(text)
        if key not in seen:
            seen.add(key)
            yield text


class Lookup:
    """The values that each number has, in sixteen bytes an entry.

    Args:
        keys: ``[n]``, in any order, perhaps several times.
        values: What each has, ``[n]``; None for its place.
    """

    def __init__(self, keys: NDArray[np.int64], values: NDArray[np.int64] | None = None) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._values = order if values is None else values[order]

    def __getitem__(self, key: int) -> NDArray[np.int64]:
        """All values of a number, in the order given; none where it is not there."""
        start = np.searchsorted(self._keys, key, "left")
        end = np.searchsorted(self._keys, key, "right")
        return self._values[start:end]

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first value of each number, ``[n]``; -1 where it is not there."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._values[places], -1)

    def first(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first value of each number, ``[n]``.

        Raises:
            KeyError: One is not there.
        """
        found = self.find(keys)
        if (found < 0).any():
            raise KeyError("a text that was looked up is not there")
        return found
