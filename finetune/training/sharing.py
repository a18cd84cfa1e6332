"""Encoding with all processes of a run that have a GPU, or a machine, to themselves.

Texts go out in the chunks that an encoder works through anyway, so that every text shares its batch
with the same others as in one process, and gets the same vector. Whoever is free takes the next
chunk; what another took and does not bring back, the first process encodes too.
"""

import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.inference import Encoder
from finetune.inference.onnx import CHUNK
from finetune.machine import processes
from finetune.records import read_json, write_json

_POLL = 0.05  # seconds between two looks for a chunk
_PATIENCE = 60.0  # seconds, at least, that another process may take for a chunk
_SLOWER = 10.0  # times, at least, that it may take as long as the first

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


class Shared:
    """An `Encoder` of the first process that the others help where there is much to encode.

    Args:
        load: Makes the encoder, in every process that helps; a function of a module, or a
            `functools.partial` of one.
        device: Where it encodes: on ``cuda`` every process helps, on ``cpu`` one a machine, because
            its encoder takes all CPUs.
        folder: For what goes from process to process; on a file system that all see.
    """

    def __init__(self, load: Callable[[], Encoder], device: str, folder: Path) -> None:
        self._load = load
        self._device = device
        self._folder = folder
        self._encoder = load()

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._encoder.dim

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "passage",
        *,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts; see `finetune.inference.Encoder.encode`."""
        encode = partial(self._encoder.encode, prompt=prompt, progress=progress)
        if len(texts) <= CHUNK or processes.helpers(self._device) == 0:
            return encode(texts)
        parts = [list(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
        with tempfile.TemporaryDirectory(
            dir=self._folder, ignore_cleanup_errors=True  # one that is late may still write
        ) as name:  # fmt: skip
            job = Job(Path(name).resolve(), len(parts), prompt)
            for chunk, part in enumerate(parts):
                write_json(job.folder / f"{chunk}.json", part)
            processes.call(_help, pickle.dumps(self._load), self._device, job)
            slowest = job.work(encode)
            deadline = time.monotonic() + max(_PATIENCE, _SLOWER * slowest)
            found = (job.vectors(chunk, deadline) for chunk in range(len(parts)))
            return np.concatenate([
                encode(part) if vectors is None else vectors
                for vectors, part in zip(found, parts, strict=True)
            ])  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Texts that several processes encode: chunk n is ``<folder>/<n>.json``, then ``<n>.npy``."""

    folder: Path
    chunks: int
    prompt: str

    def work(self, encode: Encode) -> float:
        """Encode one chunk after the other until all are taken; return the slowest's seconds."""
        slowest = 0.0
        while (chunk := processes.take(self.folder.name)) < self.chunks:
            start = time.perf_counter()
            vectors = encode(read_json(self.folder / f"{chunk}.json"))
            np.save(self.folder / f"{chunk}.npy", vectors)
            processes.tell(self._brought(chunk))
            slowest = max(slowest, time.perf_counter() - start)
        return slowest

    def vectors(self, chunk: int, deadline: float) -> NDArray[np.float32] | None:
        """Wait for the vectors of a chunk; None where they are not there in time."""
        while not processes.told(self._brought(chunk)):
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL)
        vectors: NDArray[np.float32] = np.load(self.folder / f"{chunk}.npy")
        return vectors

    def _brought(self, chunk: int) -> str:
        return f"{self.folder.name}/{chunk}"


def _help(load: bytes, device: str, job: Job) -> None:
    """What the other processes do."""
    if processes.helps(device):
        processes.use_own_gpu(device)
        encoder = pickle.loads(load)()
        job.work(partial(encoder.encode, prompt=job.prompt))
