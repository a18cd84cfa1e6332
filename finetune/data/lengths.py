"""How much of the texts a model's window takes in."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from finetune.config import Model
from finetune.config.choices import Hub
from finetune.data.findings import Example, Finding, place, short
from finetune.data.loaded import Loaded, sides
from finetune.errors import UserError
from finetune.hub import pinned

log = logging.getLogger(__name__)

MEASURED = "measured with its tokenizer"
ESTIMATED = "estimated: the tokenizer is not at hand"
# Tokens a character where that is so. The starter's SentencePiece: 0.64 on law, 0.81 on questions.
ASSUMED = {Hub.starter: 0.7}
_FILE = "tokenizer.json"
_SAMPLE = 2_000  # texts that are tokenized to learn how many tokens a character takes
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


def cut(
    texts: Sequence[str],
    rate: tuple[float, str],
    model: Model,
    max_length: int,
) -> Cut:
    """Say what training cuts.

    Args:
        texts: What is trained on.
        rate: Tokens a character, and what that is known from.
        model: The base, which may read less than training would give it.
        max_length: Tokens that training gives it.
    """
    windows = {"train.max_length": max_length, "model.max_length": model.max_length}
    name, window = min(windows.items(), key=lambda item: item[1])
    tokens = np.fromiter(map(len, texts), np.int64, len(texts)) * rate[0] + _SPECIAL
    over, lost = _beyond(tokens, window)
    return Cut(f"{name}={window}", int((over > 0).sum()), len(texts), lost, *rate)


def tokens_per_character(
    tokenizer: Tokenizer | None, texts: Sequence[str], otherwise: float
) -> tuple[float, str]:
    """Return the rate, and what it is known from.

    Args:
        tokenizer: The model's, as `tokenizer_of` finds it.
        texts: Of the data.
        otherwise: The rate without a tokenizer.
    """
    if tokenizer is None:
        return otherwise, ESTIMATED
    return measured(tokenizer, texts), MEASURED


def measured(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Tokens a character, of a sample; the tokenizer cuts nothing."""
    sample = texts[:: max(1, len(texts) // _SAMPLE)]
    encoded = tokenizer.encode_batch(list(sample), add_special_tokens=False)
    return sum(len(each.ids) for each in encoded) / max(sum(map(len, sample)), 1)


def too_long(loaded: Loaded, rate: float, known: str, windows: dict[str, int]) -> Iterator[Finding]:
    """Yield a finding for each window (tokens by the name of its setting) that cuts texts.

    It is a warning where much is lost and the rate was measured, not estimated.
    """
    characters = lengths(loaded)
    tokens = characters * rate + _SPECIAL
    for name, window in windows.items():
        over, lost = _beyond(tokens, window)
        rows = np.argsort(-over.ravel(), kind="stable")[:8].tolist()
        longest = [row for row in rows if over.ravel()[row] > 0]
        if longest:
            yield Finding(
                f"longer than {name}={window}", int((over > 0).sum()), tokens.size, "texts",
                lost > _LOST and known != ESTIMATED,
                f"What stands behind {window} tokens (some {window / rate:,.0f} characters) is not "
                f"read: {lost:.1%} of all tokens, {rate:.2f} a character ({known}).",
                f"Raise {name} as far as the model goes, or cut the texts where their sense ends.",
                tuple(Example(place(loaded, loaded.pairs[row // 2]),
                              short(sides(loaded.pairs[row // 2])[row % 2]),
                              f"{characters.ravel()[row]:,} characters") for row in longest),
            )  # fmt: skip


def lengths(loaded: Loaded) -> NDArray[np.int64]:
    """Characters of both texts, ``[pairs, 2]``."""
    sizes = (len(text) for pair in loaded.pairs for text in sides(pair))
    return np.fromiter(sizes, np.int64, 2 * len(loaded.pairs)).reshape(-1, 2)


def _beyond(tokens: NDArray[np.floating[Any]], window: int) -> tuple[NDArray[np.float64], float]:
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
    path = _tokenizer_file(model)
    if path is None:
        return None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizer_file(model: Model) -> Path | None:
    if model.path is not None:
        path = model.path.expanduser() / _FILE
        return path if path.is_file() else None
    if not model.id:
        return None
    if model.hub is Hub.modelscope:
        return _of_modelscope(model.id, pinned(model))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.id, _FILE, revision=model.revision)
    return Path(found) if isinstance(found, str) else None


def _of_modelscope(model_id: str, revision: str | None) -> Path | None:
    """Where `finetune.hub.fetch` leaves it; the library itself takes two seconds to load."""
    cache = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    snapshots = cache / "models" / model_id.replace("/", "--") / "snapshots"
    path = snapshots / (revision or "master") / _FILE
    return path if path.is_file() else None
