"""What somebody should look at before training: nothing here is dropped, everything is shown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from finetune.config.pairs import Check
from finetune.data import groups, texts
from finetune.data.leaks import DROPPED, Suspects
from finetune.data.loaded import Loaded, sides
from finetune.data.multilingual import ADVISED
from finetune.data.problems import printable
from finetune.mining import usual
from finetune.records import Pair, Scored, write_jsonl

_EXAMPLES = 8  # shown of each finding
_TEXT = 200  # characters shown of a text
_BOTH_SCRIPTS = 0.05  # share of the rarer script from which on a set is in both
_CHUNK = 50_000  # pairs between two reports of progress


@dataclass(frozen=True)
class Example:
    """A place to look at, its text, and what it collided with."""

    place: str
    text: str
    other: str = ""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        name: What.
        count: How many texts or pairs.
        of: Out of how many.
        unit: ``texts`` or ``pairs``.
        warning: Whether something should be done about it; else it is good to know.
        meaning: What it means for training.
        fix: What to do.
        examples: The first of them.
        file: Name of the file that holds all of them, as `Example` rows; empty where there is none.
    """

    name: str
    count: int
    of: int
    unit: str
    warning: bool
    meaning: str
    fix: str
    examples: tuple[Example, ...] = ()
    file: str = ""


Progress = Callable[[int], None]


def look(
    loaded: Loaded,
    suspects: Suspects,
    check: Check,
    progress: Progress = lambda count: None,
    *,
    multilingual: bool = False,
    near: Path | None = None,
) -> list[Finding]:
    """Look through the pairs that are left.

    Args:
        loaded: Pairs, after leaks were dropped.
        suspects: What `leaks.find` found among them and what was dropped.
        check: From where on to speak up.
        progress: Called with the number of pairs just finished; each pair counts three times.
        multilingual: Whether the base knows other languages too.
        near: File for all near duplicates.
    """
    if not loaded.pairs:
        return []
    counts, html, broken, compatible = _scan(loaded, progress)
    grouped = groups.group(loaded.pairs, progress)
    found = [
        *_languages(loaded, counts, check, multilingual),
        *_scripts(loaded, counts),
        _html(loaded, html),
        _broken(loaded, broken),
        _compatible(loaded, compatible),
        *_suspects(loaded, suspects, check),
        _near(loaded, grouped, check, progress, near),
        _conflicts(loaded, grouped),
        _boilerplate(loaded, grouped, check),
        _negatives(loaded),
    ]
    return [each for each in found if each.count]


def place(loaded: Loaded, pair: Pair | Scored) -> str:
    """File and line of a pair, or its source and id."""
    line = loaded.lines.get(pair.id)
    return f"{loaded.origin}:{line}" if line else f"{pair.source} {pair.id}"


def _scan(
    loaded: Loaded, progress: Progress
) -> tuple[texts.Counts, list[int], list[int], list[int]]:
    """Count the characters of all texts (query, positive, query, ...).

    Find those with remains of HTML, in a broken encoding, and with compatibility characters.
    """
    rows, html, broken, compatible = [], [], [], []
    for start in range(0, len(loaded.pairs), _CHUNK):
        chunk = loaded.pairs[start : start + _CHUNK]
        both = [text for pair in chunk for text in sides(pair)]
        html += [2 * start + index for index, text in enumerate(both) if texts.has_html(text)]
        broken += [2 * start + index for index, text in enumerate(both) if texts.is_broken(text)]
        compatible += [2 * start + index for index in texts.with_compatible(both)]
        rows.append(texts.count(both).by_kind)
        progress(len(chunk))
    return texts.Counts(np.concatenate(rows)), html, broken, compatible


def _shown(loaded: Loaded, rows: Sequence[int]) -> tuple[Example, ...]:
    """The first of these texts."""
    found = []
    for row in rows[:_EXAMPLES]:
        pair = loaded.pairs[row // 2]
        found.append(Example(place(loaded, pair), short(sides(pair)[row % 2])))
    return tuple(found)


def short(text: str) -> str:
    """A text on one line, cut."""
    return printable(text if len(text) <= _TEXT else text[: _TEXT - 1] + "…")


def _both(pair: Pair | Scored) -> str:
    return " → ".join(map(short, sides(pair)))


def _languages(
    loaded: Loaded, counts: texts.Counts, check: Check, multilingual: bool
) -> Iterator[Finding]:
    base = " or ".join(f"model={name}" for name in ADVISED)
    meaning = "Chinese base models know little of other languages."
    fix = f"Take a multilingual base ({base}), or leave these rows out."
    if multilingual:
        meaning = "The base is multilingual and reads them."
        fix = "Leave these rows out if nobody will ask in these languages."
    for name, mask in (
        ("kana", counts.of(texts.Kind.kana) > 1),  # one stands for の in brand names
        ("hangul", counts.of(texts.Kind.hangul) > 0),
        ("mostly English", counts.english),
    ):
        rows = np.flatnonzero(mask).tolist()
        many = len(rows) >= check.foreign_share * len(mask)
        yield Finding(
            name, len(rows), len(mask), "texts", many and not multilingual, meaning, fix,
            _shown(loaded, rows),
        )  # fmt: skip


def _scripts(loaded: Loaded, counts: texts.Counts) -> Iterator[Finding]:
    simplified, traditional = counts.simplified, counts.traditional
    rarer = min(simplified.sum(), traditional.sum())
    both = rarer > _BOTH_SCRIPTS * (simplified.sum() + traditional.sum())
    meaning = "Bases trained on Simplified Chinese rank Traditional texts lower."
    fix = "Evaluate in both scripts; train and evaluate on texts in the script of your users."
    for name, mask in (("Traditional", traditional), ("both scripts in one text", counts.mixed)):
        rows = np.flatnonzero(mask).tolist()
        yield Finding(name, len(rows), len(mask), "texts", bool(both and mask is traditional),
                      meaning, fix, _shown(loaded, rows))  # fmt: skip


def _html(loaded: Loaded, rows: Sequence[int]) -> Finding:
    return Finding(
        "HTML remains", len(rows), 2 * len(loaded.pairs), "texts", True,
        "Tags and entities (<br>, &nbsp;) take room in the window and mean nothing to readers.",
        "Export the texts without them, or strip them.", _shown(loaded, rows),
    )  # fmt: skip


def _broken(loaded: Loaded, rows: Sequence[int]) -> Finding:
    return Finding(
        "broken encoding", len(rows), 2 * len(loaded.pairs), "texts", True,
        "They were read in another encoding than they were written in: � and 锟斤拷 stand for what "
        "could not be read, æŠ¼é‡‘, 鎶奸噾 and Ñº½ð for 押金.",
        "Export them again from their source, read in its own encoding (often GB18030 or UTF-8); "
        "leave out what stays broken.", _shown(loaded, rows),
    )  # fmt: skip


def _compatible(loaded: Loaded, rows: Sequence[int]) -> Finding:
    examples = []
    for row, example in zip(rows, _shown(loaded, rows), strict=False):
        found = texts.compatible(sides(loaded.pairs[row // 2])[row % 2])
        made = ", ".join(f"{char} → {plain}" for char, plain in found.items())
        examples.append(replace(example, other=short(made)))
    return Finding(
        "compatibility characters", len(rows), 2 * len(loaded.pairs), "texts", False,
        "Characters such as ①, ㎡, full-width Ａ１ and half-width ｶ are others than 1, m2, A1 and "
        "カ: some tokenizers read them as these, others as unknown. They stay as they are.",
        "Write the plain ones, shown behind the arrows, if your users type those.",
        tuple(examples),
    )  # fmt: skip


def _suspects(loaded: Loaded, suspects: Suspects, check: Check) -> Iterator[Finding]:
    """Suspect pairs that were not dropped, by reason."""
    by_reason: dict[str, list[int]] = {}
    for row, pair in enumerate(loaded.pairs):
        if pair.id in suspects:
            by_reason.setdefault(suspects[pair.id][0], []).append(row)
    for reason, rows in sorted(by_reason.items()):
        leak = reason in DROPPED[type(check.leak).default]
        yield Finding(
            reason, len(rows), len(loaded.pairs), "pairs", leak,
            "Trained on, what the evaluation asks makes its scores too good." if leak else
            "Normal where questions share their answers; scores on unseen answers may be lower.",
            "check.leak=default drops them." if leak else "check.leak=strict drops them.",
            tuple(Example(place(loaded, pair), short(sides(pair)[0]), suspects[pair.id][1])
                  for pair in (loaded.pairs[row] for row in rows[:_EXAMPLES])),
        )  # fmt: skip


def _near(
    loaded: Loaded, grouped: groups.Grouped, check: Check, progress: Progress, file: Path | None
) -> Finding:
    first: dict[int, int] = {}
    for i, j in groups.near_pairs(loaded.pairs, grouped, check.near, progress):
        first.setdefault(j, i)
    rows = sorted(first)
    pairs = loaded.pairs

    def example(row: int) -> Example:
        partner = pairs[first[row]]
        return Example(place(loaded, pairs[row]), _both(pairs[row]),
                       f"{place(loaded, partner)}: {_both(partner)}")  # fmt: skip

    if file is not None:
        write_jsonl(file, map(example, rows))
    return Finding(
        "near duplicates", len(rows), len(pairs), "pairs", len(rows) > len(pairs) / 10,
        "Pairs that differ from an earlier one in words without content only; they are kept, and "
        "weigh what they say the more.",
        "Delete one of each where that is not meant.",
        tuple(map(example, rows[:_EXAMPLES])), file.name if file else "",
    )  # fmt: skip


def _conflicts(loaded: Loaded, grouped: groups.Grouped) -> Finding:
    found = list(groups.conflicts(loaded.pairs, grouped))
    pairs = loaded.pairs
    return Finding(
        "conflicting labels", len(found), len(pairs), "pairs", True,
        "The positive of one row is a negative of another row with the same query. Training takes "
        "it out of the negatives.",
        "Decide which of the two rows is right.",
        tuple(Example(place(loaded, pairs[i]), _both(pairs[i]), place(loaded, pairs[j]))
              for i, j in found[:_EXAMPLES]),
    )  # fmt: skip


def _boilerplate(loaded: Loaded, grouped: groups.Grouped, check: Check) -> Finding:
    pairs = loaded.pairs
    answers = isinstance(pairs[0], Pair)  # of scored pairs, neither text answers the other
    least = check.boilerplate_queries, check.near
    found = groups.boilerplate(pairs, grouped, *least) if answers else []
    return Finding(
        "boilerplate positives", sum(len(rows) for rows in found), len(pairs), "pairs", True,
        "One text, or its near duplicates, answers many questions that have nothing in common, as "
        "greetings do: it teaches that they are alike.",
        "Leave these rows out, unless the text does answer all of them.",
        tuple(Example(place(loaded, pairs[rows[0]]), short(sides(pairs[rows[0]])[1]),
                      f"{len(rows):,} queries, as: " + " | ".join(
                          short(sides(pairs[row])[0])[:40] for row in islice(rows, 3)))
              for rows in found[:_EXAMPLES]),
    )  # fmt: skip


def _negatives(loaded: Loaded) -> Finding:
    given = [len(pair.negatives) for pair in loaded.pairs if isinstance(pair, Pair)]
    return Finding(
        "given negatives", sum(count > 0 for count in given), len(loaded.pairs), "pairs", False,
        "Recipes that mine find negatives of their own and do not train on these; the others use "
        f"as many as half of the pairs have: {usual(given)}.",
        "recipes=full with negatives in every row, or recipes=contrastive, which mines.",
    )  # fmt: skip


def counted(found: Sequence[Finding]) -> Mapping[str, int]:
    """How many of each, for the summary of a run."""
    return {each.name: each.count for each in found}
