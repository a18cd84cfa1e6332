"""What the trainer is fed with: rows, batches and prompts of one training set, or of several mixed.

Of several, each batch comes from one set, so that a loss sees one kind of rows, and in-batch
negatives are texts of the same set.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset, DatasetDict
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import SequentialSampler

from finetune import processes
from finetune.batching import BucketSampler
from finetune.choices import Kind
from finetune.config import Mixed
from finetune.errors import UserError
from finetune.mining import known_answers, without_known
from finetune.records import AnyRow, Mined, Pair, Scored, normalised, read_jsonl


@dataclass(frozen=True)
class Part:
    """One of the sets; without a weight it is the domain's own, whose every batch is used.

    Attributes:
        name: What it is called in the configuration.
        rows: All of one kind.
        loss: As in ``configs/loss``.
        weight: Its share of all batches.
        prompts: Of queries and passages; None for the model's.
    """

    name: str
    rows: Sequence[AnyRow]
    loss: Mapping[str, Any]
    weight: float = 0.0
    prompts: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Examples:
    """What a model trains on.

    Attributes:
        dataset: Columns as the loss reads them, without prompts; of several sets, one each.
        batches: How the rows are dealt.
        prompts: By column; of several sets, by set and column.
        texts: All texts with their prompts.
    """

    dataset: Dataset | DatasetDict
    batches: "Batches"
    prompts: dict[str, Any]
    texts: Sequence[str]


def read_parts(mix: Mapping[str, Mixed], folder: Path, loss: Mapping[str, Any]) -> list[Part]:
    """Read the sets that `finetune.data.mix` wrote; ``loss`` is that of sets without their own."""
    kinds: Mapping[Kind, type[Pair | Scored]] = {Kind.pairs: Pair, Kind.scored: Scored}
    parts = []
    for name, each in mix.items():
        rows = list(read_jsonl(folder / name / "train.jsonl", kinds[each.kind]))
        parts.append(Part(name, rows, each.loss or loss, each.weight, each.prompts))
    return parts


def examples(
    parts: Sequence[Part],
    others: Sequence[Pair],
    prompts: Mapping[str, str | None],
    batch_size: int,
    seed: int,
) -> Examples:
    """Make the rows ready for training.

    Args:
        parts: The domain's own set, then those mixed with it. Of their rows' negatives, as many
            are used as the poorest row of the set has.
        others: Pairs that are not trained on, whose positives are no negatives all the same.
        prompts: The model's own, by name.
        batch_size: Rows in a batch.
        seed: Of the batches.

    Raises:
        UserError: There are fewer rows in a set than processes.
    """
    # A text that answers a query in one set is no negative of it in another.
    known = known_answers([*(row for part in parts for row in part.rows), *others])
    rows = {part.name: without_known(part.rows, known) for part in parts}
    columns = {part.name: _columns(part.prompts or prompts) for part in parts}
    samplers = [_sampler(part.name, rows[part.name], known, batch_size, seed) for part in parts]
    texts = [
        columns[name]["query" if prompt == "query" else "positive"] + text
        for name, own in rows.items() for row in own for prompt, text in row.prompted
    ]  # fmt: skip
    if len(parts) == 1:
        (name,) = rows
        return Examples(_dataset(rows[name]), samplers[0], columns[name], texts)
    datasets = DatasetDict({name: _dataset(own) for name, own in rows.items()})
    mixed = MixedSampler(samplers, [part.weight for part in parts[1:]], seed)
    return Examples(datasets, mixed, columns, texts)


class MixedSampler(DefaultBatchSampler):
    """Batches of several sets in a seeded order, as row indices into the sets one after the other.

    An epoch holds every batch of the first set; the others are drawn from, again and again where
    they are small, so that each has its share of all batches.

    Args:
        samplers: Of the sets; the first is the domain's own.
        weights: Share of all batches of each set but the first.
        seed: Of the order.
    """

    def __init__(
        self, samplers: Sequence[BucketSampler], weights: Sequence[float], seed: int
    ) -> None:
        rows = [len(sampler.lengths) for sampler in samplers]
        own = samplers[0]
        super().__init__(SequentialSampler(range(sum(rows))), own.batch_size, drop_last=False)
        self.samplers = samplers
        self.offsets = [0, *itertools.accumulate(rows)][:-1]
        total = len(own) / (1 - sum(weights))
        self.counts = [len(own), *(max(1, round(total * weight)) for weight in weights)]
        self.seed = seed

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(self.counts)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row indices of each batch of the epoch set by ``set_epoch``."""
        own, *others = self.samplers
        own.set_epoch(self.epoch)
        streams = [iter(own), *(_endless(each, self.epoch) for each in others)]
        turns = np.repeat(np.arange(len(streams)), self.counts)
        for turn in np.random.default_rng([self.seed, self.epoch]).permutation(turns).tolist():
            # Rows that fit into no batch may leave the domain's own with one fewer than planned.
            batch = next(streams[turn], None)
            if batch is not None:
                yield [row + self.offsets[turn] for row in batch]


Batches = BucketSampler | MixedSampler


def _endless(sampler: BucketSampler, epoch: int) -> Iterator[list[int]]:
    """Yield a set's batches, in another order each time round and in each epoch."""
    for again in itertools.count():
        sampler.set_epoch(epoch * 1_000_000 + again)
        yield from sampler


def _columns(prompts: Mapping[str, str | None]) -> dict[str, str]:
    query, passage = (prompts.get(name) or "" for name in ("query", "passage"))
    # Both texts of a scored pair are queries, as they are in evaluation.
    columns = {"query": query, "positive": passage, "a": query, "b": query}
    return columns | {f"negative_{i}": passage for i in range(1, 33)}


def _dataset(rows: Sequence[AnyRow]) -> Dataset:
    if isinstance(rows[0], Scored):
        names = ("a", "b", "score")
        return Dataset.from_dict({name: [getattr(row, name) for row in rows] for name in names})
    pairs = cast(Sequence[Pair | Mined], rows)
    columns = {"query": [row.query for row in pairs], "positive": [row.positive for row in pairs]}
    for index in range(len(pairs[0].negatives)):
        columns[f"negative_{index + 1}"] = [row.negatives[index] for row in pairs]
    return Dataset.from_dict(columns)


def _sampler(
    name: str,
    rows: Sequence[AnyRow],
    known: Mapping[str, set[str]],
    batch_size: int,
    seed: int,
) -> BucketSampler:
    if len(rows) < processes.count():
        raise UserError(
            f"only {len(rows)} training pairs of {name} for {processes.count()} processes"
        )
    texts = [[normalised(text) for _, text in row.prompted] for row in rows]
    # A text of a scored pair is no other pair's negative, so that any batch will do.
    answers = [set() if isinstance(row, Scored) else known[text[0]]
               for row, text in zip(rows, texts, strict=True)]  # fmt: skip
    return BucketSampler(texts, answers, batch_size, seed)
