"""A student: made of a part of its teacher, then taught the teacher's vectors."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import nn

from finetune import model as models
from finetune.embedded import vectors_of
from finetune.errors import UserError
from finetune.records import Pair, read_jsonl
from finetune.training.batching import BucketSampler
from finetune.training.mixing import Examples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taught:
    """A text as a model is fed it, prompt included, and its teacher's vector ``[dim]``."""

    text: str
    vector: NDArray[np.float32]


def keep_layers(model: SentenceTransformer, layers: int) -> None:
    """Leave a model some of its layers, and all else that it has; it is changed in place.

    The first two thirds of what stays are the model's first layers, the rest its last: those in
    the middle do the most alike work, and neighbours that stay neighbours find the inputs that
    they know (Sajjad et al. 2020, https://arxiv.org/abs/2004.03844, compare what to leave out).

    Raises:
        UserError: The model has no more layers than that, or none that can be taken out.
    """
    inner = models.inner(model)
    encoder = getattr(inner, "encoder", None)
    stack = getattr(encoder, "layer", None)
    if encoder is None or not isinstance(stack, nn.ModuleList):
        raise UserError(
            f"distill.layers={layers}: layers of a {type(inner).__name__} cannot be taken out; "
            "choose a teacher of BERT's family (model=m3e-base, starter and others)"
        )
    if layers >= len(stack):
        raise UserError(
            f"distill.layers={layers}: the teacher has {len(stack)}; a student has fewer"
        )
    kept = outer(len(stack), layers)
    encoder.layer = nn.ModuleList(stack[index] for index in kept)
    inner.config.num_hidden_layers = layers
    log.info("student: layers %s of %d", ", ".join(map(str, kept)), len(stack))


def outer(count: int, kept: int) -> list[int]:
    """Positions of ``kept`` of ``count`` layers, without some in the middle."""
    last = round(kept / 3)
    return [*range(kept - last), *range(count - last, count)]


def texts(pairs: Path, encoded: Path, prompts: Mapping[str, str | None]) -> list[str]:
    """Return all that a student could learn from, prompts included; see `lessons`."""
    rows, _ = _rows(pairs, encoded, prompts)
    return [row.text for row in rows]


def lessons(
    pairs: Path, encoded: Path, student: Path, *, limit: int, max_length: int, seed: int
) -> list[Taught]:
    """Gather what a student learns from: training texts, then passages of the corpus.

    Texts longer than training sees are left out: their vectors tell of what would be cut off.

    Args:
        pairs: The step's output that holds the training pairs.
        encoded: What the embed step made of them, and of the corpus, with the teacher.
        student: The student's folder, for prompts and tokenizer.
        limit: Texts at most; which, where there are more, is drawn, training texts first.
        max_length: Tokens that training sees.
        seed: Of the draw.

    Raises:
        UserError: Every text is too long.
    """
    model = models.load(student)
    rows, trained = _rows(pairs, encoded, model.prompts)
    lengths = list(map(len, model.tokenizer([row.text for row in rows])["input_ids"]))
    rng = np.random.default_rng(seed)
    order = [*rng.permutation(trained), *(trained + rng.permutation(len(rows) - trained))]
    kept = [rows[index] for index in order if lengths[index] <= max_length][:limit]
    log.info(
        "%d texts to learn from; of %d, %d are longer than %d tokens",
        len(kept), len(rows), sum(length > max_length for length in lengths), max_length,
    )  # fmt: skip
    if not kept:
        raise UserError(
            f"train.max_length={max_length}: each of {len(rows)} texts has more tokens; raise it"
        )
    return kept


def examples(rows: Sequence[Taught], batch_size: int, seed: int) -> Examples:
    """Make batches of texts of similar length; the loss finds their vectors as labels."""
    dataset = Dataset.from_dict({
        "text": [row.text for row in rows], "label": np.stack([row.vector for row in rows]),
    })  # fmt: skip
    # Nothing in a batch can clash: no text is another's answer.
    lengths = np.array([len(row.text) for row in rows], np.float64)
    batches = BucketSampler(lengths, [()] * len(rows), lambda row: (), batch_size, seed)
    return Examples(dataset, batches, {})


def _rows(
    folder: Path, encoded: Path, prompts: Mapping[str, str | None]
) -> tuple[list[Taught], int]:
    """All texts with the teacher's vectors, and how many of them, the first, are training texts."""
    pairs = list(read_jsonl(folder / "train.jsonl", Pair))
    asked = list(dict.fromkeys(pair.query for pair in pairs))
    vectors, pool = vectors_of(encoded, asked)
    query, passage = (prompts.get(name) or "" for name in ("query", "passage"))
    rows = [Taught(query + text, vector) for text, vector in zip(asked, vectors[:], strict=True)]
    rows += [Taught(passage + text, vector)
             for text, vector in zip(pool.texts, pool.vectors, strict=True)]  # fmt: skip
    # The pool begins with the positives.
    return rows, len(asked) + len({pair.positive for pair in pairs})
