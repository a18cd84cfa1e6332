"""Words of the user's: what OpenCC is not to convert or how, and terms in two languages."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from finetune.data.problems import Problems, shown
from finetune.errors import AS_UTF8, UserError
from finetune.inference.script import Convert

Span = tuple[int, int]


def read_dictionary(path: Path) -> dict[str, str]:
    """Read a dictionary in OpenCC's text format: a word, a tab, what it becomes.

    Of several conversions, which spaces part, the first counts, as it does for OpenCC. Empty lines
    and lines that begin with ``#`` say nothing.

    Args:
        path: A file, or a folder of dictionaries (``.txt``): of a word that several have, the file
            that comes first by name counts.

    Raises:
        UserError: With every line that is no entry, or when a file cannot be read or there is none.
    """
    expected = "a word, a tab and what it becomes"
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"opencc.dictionary={path}: no .txt file in it; expected {expected} a line")
    found: dict[str, str] = {}
    problems = Problems()
    for file in files:
        try:
            for word, values in _entries(file, "opencc.dictionary", expected):
                found.setdefault(word, values.split()[0])
        except UserError as error:
            problems.include(error)
    problems.check()
    return found


def read_terms(path: Path) -> list[tuple[str, str]]:
    """Read terms with what else they are called: two columns with a tab between.

    Empty lines and lines that begin with ``#`` say nothing.

    Raises:
        UserError: With every line that is no entry, or when the file cannot be read or has none.
    """
    expected = "a term, a tab and what else it is called"
    found = _entries(path, "augment.terms", expected)
    if not found:
        raise UserError(f"augment.terms={path}: holds no terms; expected {expected} a line")
    return found


def _entries(path: Path, key: str, expected: str) -> list[tuple[str, str]]:
    """The two columns of a file that a key names, without the spaces around them."""
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file; expected {expected} a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; {AS_UTF8}") from error
    problems = Problems()
    found = []
    for number, line in enumerate(lines, start=1):
        word, _, values = line.partition("\t")
        if not line.strip() or line.startswith("#"):
            continue
        if not (word.strip() and values.strip()):
            problems.add(f"{path}:{number}: {shown(line)}; expected {expected}")
        else:
            found.append((word.strip(), values.strip()))
    problems.check()
    return found


def swapped(dictionary: Mapping[str, str]) -> dict[str, str]:
    """The dictionary of the way back; where two words become one, the first is what it becomes."""
    back: dict[str, str] = {}
    for word, value in dictionary.items():
        back.setdefault(value, word)
    return back


def decided(dictionary: Mapping[str, str], protect: Iterable[str]) -> dict[str, str]:
    """The words of a dictionary that do not count, with the protected word that decides instead.

    Such a word, or what it becomes, holds the protected one: the entry would count one way alone.
    """
    return {
        word: kept
        for kept in protect
        for word, value in dictionary.items()
        if word != value and (kept in word or kept in value)
    }


def around(convert: Convert, protect: Iterable[str], dictionary: Mapping[str, str]) -> Convert:
    """Return a conversion that leaves words alone, and converts those of a dictionary by it.

    Every character of a protected word stays as it is, wherever the word stands, also where two
    protected words overlap. Of a dictionary's words the leftmost counts, and of those that begin
    together the longest; none reaches into a protected word. What lies between is converted apart,
    so that no word of OpenCC's reaches into it either.
    """
    kept, replaced = _finder(protect), _finder(dictionary)
    if kept is None and replaced is None:
        return convert

    def run(text: str) -> str:
        parts, end = [], 0
        for start, stop, value in _fixed(text, kept, replaced, dictionary):
            parts += [convert(text[end:start]), value]
            end = stop
        return "".join([*parts, convert(text[end:])])

    return run


Finder = Callable[[str], Iterator[Span]]


def _finder(words: Iterable[str]) -> Finder | None:
    """Make what finds, at each place where a word begins, the longest that does."""
    beginning: dict[str, list[str]] = {}
    for word in sorted(words, key=len, reverse=True):
        beginning.setdefault(word[0], []).append(word)
    if not beginning:
        return None
    first = re.compile("[" + re.escape("".join(sorted(beginning))) + "]")

    def find(text: str) -> Iterator[Span]:
        for found in first.finditer(text):
            start = found.start()
            for word in beginning[found[0]]:
                if text.startswith(word, start):
                    yield start, start + len(word)
                    break

    return find


def _fixed(
    text: str, kept: Finder | None, replaced: Finder | None, dictionary: Mapping[str, str]
) -> list[tuple[int, int, str]]:
    """Places whose conversion is known, with it, in order and without overlaps."""
    protected = _joined(kept(text)) if kept else []
    fixed = [(start, stop, text[start:stop]) for start, stop in protected]
    end = 0
    for start, stop in replaced(text) if replaced else ():
        if start >= end and not any(start < high and low < stop for low, high in protected):
            fixed.append((start, stop, dictionary[text[start:stop]]))
            end = stop
    return sorted(fixed)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Overlapping places as one."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined
