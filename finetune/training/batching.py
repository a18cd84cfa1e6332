"""Training batches of similar length in which no row's text answers another row's query."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import BatchSampler, SequentialSampler

# Rows sorted together, in batches: enough for even lengths, few enough to keep batches mixed.
_WINDOW = 32


class BucketSampler(DefaultBatchSampler):
    """Length-bucketed batches without false negatives among the in-batch ones.

    Rows are shuffled (by seed and epoch), cut into windows, sorted by length within a window and
    dealt into batches; a row that would bring a known answer of another row's query into the batch
    as a negative goes to a later one. The number of batches is the same in every epoch, so that
    the schedule is known; a row that fits nowhere sits the epoch out (`left_out` counts), as do
    those that are too few for another full batch (`remainder`), in each epoch others.

    Args:
        lengths: Of each training row, ``[n]``.
        candidates: By row, what it brings into a batch as negatives of the others: numbers of its
            positive and its negatives, or the texts themselves.
        answers: Gives a row's known answers, likewise.
        batch_size: Rows in a batch.
        seed: Of the shuffle.
    """

    def __init__(
        self,
        lengths: NDArray[np.float64],
        candidates: Sequence[Iterable[Hashable]] | NDArray[np.int64],
        answers: Callable[[int], Iterable[Hashable]],
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(SequentialSampler(lengths), batch_size=batch_size, drop_last=False)
        self.lengths = lengths
        self.candidates = candidates
        self.answers = answers
        self.seed = seed
        self.left_out = 0

    def __len__(self) -> int:
        """Batches in an epoch: full ones, or a single short one."""
        return max(1, len(self.lengths) // self.batch_size)

    @property
    def remainder(self) -> int:
        """Rows that are too few for another full batch."""
        return max(0, len(self.lengths) - len(self) * self.batch_size)

    def unused(self) -> int:
        """Rows that no batch of the epoch set by ``set_epoch`` holds."""
        next(iter(self), None)  # all are dealt before the first is yielded
        return self.remainder + self.left_out

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row indices of each batch of the epoch set by ``set_epoch``."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        # Noise on the lengths, so that the same rows do not meet in every epoch.
        noisy = self.lengths * rng.uniform(0.9, 1.1, len(self.lengths))
        batches: list[list[int]] = []
        waiting: list[int] = []
        for start in range(0, len(self), _WINDOW):
            count = min(_WINDOW, len(self) - start)
            size = count * self.batch_size
            window = order[start * self.batch_size :][:size]
            ranked = sorted([*waiting, *window.tolist()], key=lambda row: noisy[row])
            dealt, waiting = self._deal(ranked, count)
            batches += dealt
        self.left_out = len(waiting)
        for index in rng.permutation(len(batches)):
            if batches[index]:
                yield batches[index]

    def _deal(self, rows: list[int], count: int) -> tuple[list[list[int]], list[int]]:
        """Put rows, in order, into the first of ``count`` batches that has room and no clash."""
        batches: list[list[int]] = [[] for _ in range(count)]
        given: list[set[Hashable]] = [set() for _ in range(count)]
        asked: list[set[Hashable]] = [set() for _ in range(count)]
        waiting = []
        first = 0
        for row in rows:
            while first < count and len(batches[first]) == self.batch_size:
                first += 1
            candidates, answers = set(self.candidates[row]), set(self.answers(row))
            for index in range(first, count):
                room = len(batches[index]) < self.batch_size
                clash = candidates & asked[index] or answers & given[index]
                if room and not clash:
                    batches[index].append(row)
                    given[index] |= candidates
                    asked[index] |= answers
                    break
            else:
                waiting.append(row)
        return batches, waiting


class BatchSamplerShard(BatchSampler):
    """The rows of each batch that one of several processes computes.

    Rows are dealt in turn, so that all processes get texts of the same lengths; a batch whose size
    is no multiple of the number of processes loses its last rows, since losses that gather
    embeddings need as many from every process.

    Args:
        batches: The whole batches, the same in every process.
        process: Number of the process, from 0.
        processes: How many there are.
    """

    def __init__(self, batches: DefaultBatchSampler, process: int, processes: int) -> None:
        self.batch_sampler = batches  # the trainer sets the epoch of what has this name
        self.process = process
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the rows, as `BucketSampler.set_epoch`."""
        self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's row indices of each batch."""
        for batch in self.batch_sampler:
            even = len(batch) - len(batch) % self.processes
            if even:
                yield batch[self.process : even : self.processes]
