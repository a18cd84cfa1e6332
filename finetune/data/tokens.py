"""What a tokenizer makes of texts in either script: tokens a character, unknown ones, what is cut.

tokens per character = tokens (without those that every text gets) / characters
unknown              = share of these tokens that stand for "not in the vocabulary"
cut                  = share of texts with more tokens than the model reads
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from finetune.data.findings import Finding
from finetune.inference.script import Convert, converter
from finetune.records import read_dicts
from finetune.script import BACK

_SAMPLE = 2_000  # texts of each set whose tokens are counted
_SCANNED = 50_000  # texts in all whose characters are looked at
_MANY = 0.001  # of all characters; from here on unknown ones are a warning
_SHOWN = 40  # unknown characters that are listed


@dataclass(frozen=True)
class Row:
    """What a tokenizer makes of a set's texts, converted into one script."""

    set: str
    script: str
    texts: int
    tokens_per_character: float
    unknown: float
    cut: float


def report(
    tokenizer: Tokenizer,
    sets: Mapping[str, Sequence[str]],
    window: int,
    converts: Mapping[str, Convert],
) -> dict[str, Any]:
    """Tell what a tokenizer makes of texts in both scripts.

    Args:
        tokenizer: Without truncation.
        sets: Texts by what they are called; of each a sample is taken.
        window: Tokens that the model reads.
        converts: What puts texts into each script, by its name.

    Returns:
        ``rows`` (`Row`) and ``unknown``: by script, how many ``characters`` the tokenizer does not
        know, how many ``times`` they stand in the texts, of how many (``of``), and the most
        ``frequent``.
    """
    rows = [
        asdict(_row(tokenizer, name, script, list(map(convert, _spread(texts, _SAMPLE))), window))
        for name, texts in sets.items() if texts for script, convert in converts.items()
    ]  # fmt: skip
    step = max(1, -(-sum(map(len, sets.values())) // _SCANNED))
    every = [text for texts in sets.values() for text in texts[::step]]
    return {"rows": rows, "unknown": {
        script: _told(unknown_characters(tokenizer, characters(every, convert)))
        | {"of": sum(map(len, every))}
        for script, convert in converts.items()
    }}  # fmt: skip


def findings(found: Mapping[str, Any], given: str) -> Iterator[Finding]:
    """Yield, by script, that the tokenizer does not know characters of the texts.

    A warning only in the script that the texts are ``given`` in.
    """
    for script, each in found["unknown"].items():
        if each["characters"]:
            many = each["times"] > _MANY * each["of"]
            yield Finding(
                f"characters that the tokenizer does not know, in {script.capitalize()}",
                each["times"], each["of"], "characters", many and script == given,
                "All of them are one and the same to the model. They are: " + each["frequent"],
                "encode.add_characters=true gives Chinese ones the embedding of their counterpart "
                "in the other script; encode.script=t2s leaves out those of Traditional.",
            )  # fmt: skip


def characters(texts: Iterable[str], convert: Convert) -> Counter[str]:
    """Count the characters of texts after a conversion."""
    found = Counter[str]()
    for text in texts:
        found.update(convert(text))
    return found


def unknown_characters(tokenizer: Tokenizer, counts: Mapping[str, int]) -> dict[str, int]:
    """Those of the characters that the tokenizer turns to unknown, with their counts."""
    unknown = unknown_id(tokenizer)
    if unknown is None:
        return {}
    chars = sorted(counts)
    encoded = tokenizer.encode_batch(chars, add_special_tokens=False)
    found = {char: counts[char] for char, each in zip(chars, encoded, strict=True)
             if unknown in each.ids}  # fmt: skip
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The token of what is not in the vocabulary; None where there is none."""
    model = json.loads(tokenizer.to_str())["model"]
    if "unk_id" in model:
        return None if model["unk_id"] is None else int(model["unk_id"])
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def counterparts(char: str) -> Iterator[str]:
    """What a character is in the other script, by OpenCC's tables of characters."""
    for way in (*BACK, *BACK.values()):
        other = converter(way)(char)
        if other != char and len(other) == 1:
            yield other


def domain_texts(pairs: Iterable[Path], sets: Path | None = None) -> Iterator[str]:
    """Yield the texts that a model is adapted to: training rows, passages and select questions.

    Args:
        pairs: Output of steps that leave training rows.
        sets: Output of the step that leaves the evaluation sets.
    """
    for folder in pairs:
        for row in read_dicts(folder / "train.jsonl"):
            yield from (row[name] for name in ("query", "positive", "a", "b") if name in row)
            yield from row.get("negatives", ())
    for path in sorted(sets.glob("select/*/*.jsonl")) if sets else ():
        for row in read_dicts(path):
            yield from (row[name] for name in ("text", "a", "b") if name in row)


def _row(tokenizer: Tokenizer, name: str, script: str, sample: Sequence[str], window: int) -> Row:
    encoded = tokenizer.encode_batch(sample, add_special_tokens=False)
    counts = [len(each.ids) for each in encoded]
    unknown, tokens = unknown_id(tokenizer), max(sum(counts), 1)
    room = window - tokenizer.num_special_tokens_to_add(False)
    return Row(
        name, script, len(sample),
        sum(counts) / max(sum(map(len, sample)), 1),
        sum(each.ids.count(unknown) for each in encoded) / tokens if unknown is not None else 0.0,
        sum(count > room for count in counts) / len(sample),
    )  # fmt: skip


def _told(found: Mapping[str, int]) -> dict[str, Any]:
    return {"characters": len(found), "times": sum(found.values()),
            "frequent": "".join(list(found)[:_SHOWN])}  # fmt: skip


def _spread(texts: Sequence[str], most: int) -> list[str]:
    """So many texts at most, from everywhere."""
    return list(texts[:: -(-len(texts) // most)]) if texts else []
