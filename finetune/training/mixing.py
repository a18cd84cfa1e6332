"""What the trainer is fed with: rows, batches and prompts of one training set, or of several mixed.

Of several, each batch comes from one set, so that a loss sees one kind of rows, and in-batch
negatives are texts of the same set.
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import SequentialSampler

from finetune import disk
from finetune.config.choices import Kind
from finetune.config.pairs import Mixed
from finetune.disk import Lazy, Lookup, number
from finetune.errors import UserError
from finetune.machine import processes
from finetune.mining import known_answers
from finetune.records import AnyRow, Mined, Pair, Scored, normalised, passage
from finetune.training.batching import BucketSampler
from finetune.training.negatives import without_known

_ROWS = 10_000  # written at once


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
    """

    dataset: Dataset | DatasetDict
    batches: "Batches"
    prompts: dict[str, Any]

    @property
    def texts(self) -> "Texts":
        """All texts with their prompts, row by row."""
        if isinstance(self.dataset, DatasetDict):
            return Texts([(each, self.prompts[name]) for name, each in self.dataset.items()])
        return Texts([(self.dataset, self.prompts)])


class Texts(Lazy[str]):
    """The texts of data sets, with the prompts of their columns, read as they are asked for.

    Args:
        sets: One after the other; of some columns, as labels, there are no texts.
    """

    def __init__(self, sets: Sequence[tuple[Dataset, Mapping[str, str]]]) -> None:
        self._sets = [
            (dataset, {name: prompts.get(name, "") for name, value in dataset[0].items()
                       if isinstance(value, str)})
            for dataset, prompts in sets
        ]  # fmt: skip

    def __len__(self) -> int:
        return sum(len(dataset) * len(columns) for dataset, columns in self._sets)

    def _at(self, place: int) -> str:
        for dataset, columns in self._sets:
            row, column = divmod(place, len(columns))
            if row < len(dataset):
                name = list(columns)[column]
                return str(columns[name] + dataset[row][name])
            place -= len(dataset) * len(columns)
        raise IndexError(place)

    def __iter__(self) -> Iterator[str]:
        for dataset, columns in self._sets:
            for row in dataset:
                yield from (prompt + row[name] for name, prompt in columns.items())


def read_parts(mix: Mapping[str, Mixed], folder: Path, loss: Mapping[str, Any]) -> list[Part]:
    """Read the sets that `finetune.data.mix` wrote; ``loss`` is that of sets without their own."""
    kinds: Mapping[Kind, type[Pair | Scored]] = {Kind.pairs: Pair, Kind.scored: Scored}
    parts = []
    for name, each in mix.items():
        own = disk.rows(folder / name / "train.jsonl", kinds[each.kind])
        parts.append(Part(name, own, each.loss or loss, each.weight, each.prompts))
    return parts


def examples(
    parts: Sequence[Part],
    others: Sequence[Pair],
    prompts: Mapping[str, str | None],
    batch_size: int,
    seed: int,
    folder: Path,
) -> Examples:
    """Make the rows ready for training.

    Args:
        parts: The domain's own set, then those mixed with it. Of their rows' negatives, as many
            are used as half of the set's rows have.
        others: Pairs that are not trained on, whose positives are no negatives all the same.
        prompts: The model's own, by name.
        batch_size: Rows in a batch.
        seed: Of the batches, and of what fills up rows with fewer negatives.
        folder: Gets the columns as files, which must stay as long as the examples are used.

    Raises:
        UserError: There are fewer rows in a set than processes.
    """
    # A text that answers a query in one set is no negative of it in another.
    known = known_answers(chain(*(part.rows for part in parts), others))
    datasets, samplers = {}, []
    for part in parts:
        if len(part.rows) < processes.count():
            raise UserError(
                f"only {len(part.rows)} training pairs of {part.name} for {processes.count()} "
                "processes; start fewer processes, or add pairs"
            )
        traits = _Traits()
        rows = map(traits.noted, without_known(part.rows, known, seed))
        file = folder / f"{part.name}-{processes.rank()}.arrow"
        datasets[part.name] = _dataset(rows, file)
        samplers.append(traits.sampler(known, batch_size, seed))
    columns = {part.name: _columns(part.prompts or prompts) for part in parts}
    if len(parts) == 1:
        (name,) = datasets
        return Examples(datasets[name], samplers[0], columns[name])
    mixed = MixedSampler(samplers, [part.weight for part in parts[1:]], seed)
    return Examples(DatasetDict(datasets), mixed, columns)


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


class _Traits:
    """What the batches need to know of a set's rows, gathered as they go by."""

    def __init__(self) -> None:
        self._lengths, self._asked, self._brought = array("q"), array("q"), array("q")

    def noted(self, row: AnyRow) -> AnyRow:
        """Note a row; return it."""
        texts = [normalised(text) for _, text in row.prompted]
        self._lengths.append(sum(map(len, texts)))
        # A text of a scored pair is no other pair's negative, so that any batch will do.
        self._asked.append(0 if isinstance(row, Scored) else number(texts[0]))
        self._brought.extend(number(passage(text)) for _, text in row.prompted[1:])
        return row

    def sampler(self, known: Lookup, batch_size: int, seed: int) -> BucketSampler:
        """Deal the rows noted so far into batches."""
        asked, brought = np.array(self._asked), np.array(self._brought)
        return BucketSampler(
            np.array(self._lengths, np.float64), brought.reshape(len(asked), -1),
            lambda row: known[asked[row]], batch_size, seed,
        )  # fmt: skip


def _dataset(rows: Iterable[AnyRow], file: Path) -> Dataset:
    """Write rows as columns into a file that is mapped, so that a batch's rows alone are read."""
    stream = iter(rows)
    batches = map(_columned, iter(lambda: list(islice(stream, _ROWS)), []))
    first = next(batches)
    file.unlink(missing_ok=True)  # an earlier attempt may have it mapped still
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)
    return Dataset.from_file(str(file))


def _columned(rows: Sequence[AnyRow]) -> pa.RecordBatch:
    if isinstance(rows[0], Scored):
        columns = {name: [getattr(row, name) for row in rows] for name in ("a", "b", "score")}
    else:
        pairs = cast(Sequence[Pair | Mined], rows)
        columns = {"query": [row.query for row in pairs],
                   "positive": [row.positive for row in pairs]}  # fmt: skip
        for index in range(len(pairs[0].negatives)):
            columns[f"negative_{index + 1}"] = [row.negatives[index] for row in pairs]
    kinds = {name: pa.float64() if name == "score" else pa.string() for name in columns}
    return pa.RecordBatch.from_pydict(columns, pa.schema(kinds))
