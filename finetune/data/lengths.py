"""How much of the texts a model's window takes in."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from finetune.config import Model
from finetune.config.choices import Hub
from finetune.data.findings import Example, Finding, place, short
from finetune.data.loaded import Loaded, sides
from finetune.errors import UserError
from finetune.hub import pinned

MEASURED = "measured with its tokenizer"
ESTIMATED = "estimated: the tokenizer is not at hand"
# Tokens a character where that is so. The starter's SentencePiece: 0.64 on law, 0.81 on questions.
ASSUMED = {Hub.starter: 0.7}
_FILE = "tokenizer.json"
_SAMPLE = 2_000  # texts that are tokenized to learn how many tokens a character takes
_SPECIAL = 2  # tokens that every text gets, [CLS] and [SEP]
_LOST = 0.05  # share of all tokens that may be lost without a warning


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
    sample = texts[:: max(1, len(texts) // _SAMPLE)]
    encoded = tokenizer.encode_batch(list(sample), add_special_tokens=False)
    characters = sum(map(len, sample))
    return sum(len(each.ids) for each in encoded) / max(characters, 1), MEASURED


def too_long(loaded: Loaded, rate: float, known: str, windows: dict[str, int]) -> Iterator[Finding]:
    """Yield a finding for each window (tokens by the name of its setting) that cuts texts.

    It is a warning where much is lost and the rate was measured, not estimated.
    """
    characters = lengths(loaded)
    tokens = characters * rate + _SPECIAL
    for name, window in windows.items():
        over = np.maximum(tokens - window, 0)
        lost = float(over.sum() / max(tokens.sum(), 1))
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
