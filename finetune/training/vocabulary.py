"""A smaller vocabulary: the pieces that given texts are made of, and the model's rows for them.

A multilingual model's vocabulary is most of its weights, and a domain uses little of it. Pieces of
one character always stay, so that no text becomes unknown that was not so before; a word whose
piece is gone is written in smaller ones.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import nn

from finetune import model as models
from finetune.errors import UserError

log = logging.getLogger(__name__)

_BATCH = 10_000  # texts tokenised at once
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # what Unigram falls back to for unknown characters
# Words in spaces break into these; Chinese text never has `##` pieces.
_CONTINUED = re.compile(r"##[!-~]")


def shrink(model: SentenceTransformer, size: int, texts: Sequence[str]) -> None:
    """Leave a model the pieces that texts use most; its tokenizer and rows are changed in place.

    Args:
        model: The model; it is good for saving only, afterwards.
        size: Pieces that stay.
        texts: What is counted, prompts included.

    Raises:
        UserError: The model has no more pieces, or more of one character, or builds them of others.
    """
    backend: Tokenizer = model.tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())
    kind = content["model"]["type"]
    if kind not in ("WordPiece", "Unigram"):
        raise UserError(
            f"distill.vocabulary={size}: pieces of a {kind} tokenizer are built of others and "
            "cannot be taken out; leave distill.vocabulary=0, or choose a teacher with another"
        )
    pieces = {index: piece for piece, index in backend.get_vocab(with_added_tokens=True).items()}
    if size >= len(pieces):
        raise UserError(
            f"distill.vocabulary={size}: the teacher has {len(pieces)}; a student has fewer"
        )
    # Before the padding piece all stay: RoBERTa's positions are counted from its id.
    always = {each["id"] for each in content["added_tokens"]} | set(
        range((model.tokenizer.pad_token_id or 0) + 1)
    )
    always |= {index for index, piece in pieces.items() if _is_single(kind, piece)}
    if len(always) > size:
        raise UserError(
            f"distill.vocabulary={size}: the teacher's pieces of one character, which stay, are "
            f"{len(always)}; raise it"
        )
    counts = _counts(backend, texts, len(pieces))
    ranked = sorted(pieces.keys() - always, key=lambda index: (-counts[index], index))
    kept = sorted(always | set(ranked[: size - len(always)]))
    model.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(_renumbered(content, kept)))
    _keep_rows(model, kept)
    lost = 1 - counts[kept].sum() / max(counts.sum(), 1)
    log.info("student: %d of %d pieces, all but %.2f %% of those that the texts are made of",
             len(kept), len(pieces), 100 * lost)  # fmt: skip


def _is_single(kind: str, piece: str) -> bool:
    if kind == "WordPiece":
        return len(piece) == 1 or _CONTINUED.fullmatch(piece) is not None
    return len(piece.replace("▁", "")) <= 1 or _BYTE.fullmatch(piece) is not None


def _counts(backend: Tokenizer, texts: Sequence[str], size: int) -> NDArray[np.int64]:
    """How often each piece occurs, ``[size]``."""
    backend.no_truncation()
    backend.no_padding()
    counts = np.zeros(size, np.int64)
    for start in range(0, len(texts), _BATCH):
        for found in backend.encode_batch(list(texts[start : start + _BATCH])):
            counts += np.bincount(found.ids, minlength=size)
    return counts


def _renumbered(content: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return a tokenizer's file with the kept pieces, numbered in their old order."""
    new = {old: index for index, old in enumerate(kept)}
    model = dict(content["model"])
    if model["type"] == "WordPiece":
        model["vocab"] = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
    else:
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
        model["unk_id"] = new.get(model["unk_id"])
    added = [{**each, "id": new[each["id"]]} for each in content["added_tokens"]]
    content = {**content, "model": model, "added_tokens": added}
    for processor in _processors(content["post_processor"]):
        for token in processor.get("special_tokens", {}).values():
            token["ids"] = [new[old] for old in token["ids"]]
        for name in ("cls", "sep"):  # of BertProcessing and RobertaProcessing
            if name in processor:
                processor[name][1] = new[processor[name][1]]
    return content


def _processors(processor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if processor is None:
        return
    yield processor
    for each in processor.get("processors", []):
        yield from _processors(each)


def _keep_rows(model: SentenceTransformer, kept: Sequence[int]) -> None:
    inner = models.inner(model)
    new = {old: index for index, old in enumerate(kept)}
    rows: Any = inner.get_input_embeddings()
    pad = None if rows.padding_idx is None else new[rows.padding_idx]
    inner.set_input_embeddings(
        nn.Embedding.from_pretrained(rows.weight[kept].detach(), freeze=False, padding_idx=pad)
    )
    inner.config.vocab_size = len(kept)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        old = getattr(inner.config, name, None)
        if old is not None:  # one that is no special token here was not used
            setattr(inner.config, name, new.get(old))
