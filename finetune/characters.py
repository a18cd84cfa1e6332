"""Characters that a tokenizer does not know, with the embedding of their counterpart.

Vocabularies of Chinese models lack many Traditional characters: the text of such a one is the same
to the model as that of any other. Its counterpart in Simplified Chinese is nearly always there, and
means the same.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import nn

from finetune import model as models
from finetune.data import tokens
from finetune.errors import UserError
from finetune.inference.script import Convert, is_han

log = logging.getLogger(__name__)


def add_characters(
    model: SentenceTransformer, texts: Iterable[str], converts: Sequence[Convert]
) -> dict[str, str]:
    """Give a model the characters of texts, in either script, that its tokenizer does not know.

    A character gets the embedding of its counterpart in the other script, as OpenCC's tables know
    it; one without a counterpart that is known stays unknown. Tokenizer and rows are changed in
    place.

    Args:
        model: The model; it is good for saving only, afterwards.
        texts: Of the domain.
        converts: What becomes of them; they are looked at as they are, too.

    Returns:
        Each added character with its counterpart.

    Raises:
        UserError: The tokenizer builds its pieces of others.
    """
    backend: Tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    found = Counter[str]()
    for text in texts:
        for form in {text, *(convert(text) for convert in converts)}:
            found.update(form)
    han = {char: count for char, count in found.items() if is_han(char)}
    unknown = tokens.unknown_characters(backend, han)
    rows = {char: _counterpart(backend, char) for char in unknown}
    added = {char: row for char, row in rows.items() if row is not None}
    log.info("%d characters unknown to the tokenizer, %d of them added", len(unknown), len(added))
    if added:
        content = _extended(json.loads(backend.to_str()), list(added))
        model.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
        _add_rows(model, content, {char: row for char, (_, row) in added.items()})
    return {char: other for char, (other, _) in added.items()}


def _counterpart(backend: Tokenizer, char: str) -> tuple[str, int] | None:
    """The character's counterpart in the other script and its row, where it is a known piece."""
    unknown = tokens.unknown_id(backend)
    for other in tokens.counterparts(char):
        row = backend.token_to_id(other)
        if row is not None and row != unknown:
            return other, int(row)
    return None


def _extended(content: dict[str, Any], chars: Sequence[str]) -> dict[str, Any]:
    """Return a tokenizer's file with further pieces of one character, behind all others."""
    model = dict(content["model"])
    ids = [each["id"] for each in content["added_tokens"]]
    if model["type"] == "WordPiece":
        first = 1 + max(*model["vocab"].values(), *ids)
        model["vocab"] = model["vocab"] | {char: first + n for n, char in enumerate(chars)}
    elif model["type"] == "Unigram" and max(ids, default=0) < len(model["vocab"]):
        # As likely as the rarest piece: less likely than any, and still more than unknown.
        score = min(score for _, score in model["vocab"])
        model["vocab"] = [*model["vocab"], *([char, score] for char in chars)]
    else:
        raise UserError(
            f"encode.add_characters: pieces of a {model['type']} tokenizer with these ids cannot "
            "be added to; leave encode.add_characters=false"
        )
    return {**content, "model": model}


def _add_rows(model: SentenceTransformer, content: dict[str, Any], rows: dict[str, int]) -> None:
    """Give the new pieces their rows; rows that the model has to spare are used first."""
    inner = models.inner(model)
    old: Any = inner.get_input_embeddings()
    ids = Tokenizer.from_str(json.dumps(content)).get_vocab()
    places = {ids[char]: row for char, row in rows.items()}
    weight = old.weight.detach()
    missing = max(0, 1 + max(places) - len(weight))
    weight = torch.cat([weight, weight.new_zeros(missing, weight.shape[1])])
    for place, row in places.items():
        weight[place] = old.weight[row].detach()
    inner.set_input_embeddings(
        nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=old.padding_idx)
    )
    inner.config.vocab_size = len(weight)
