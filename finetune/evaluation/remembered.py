"""An encoder that knows some passages already."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.disk import Lookup, numbers
from finetune.inference import Encoder


class Remembered:
    """Answers for known passages from memory and asks the encoder for the rest.

    Args:
        encoder: The encoder that made the known vectors.
        texts: ``m`` passages.
        vectors: Their vectors, ``[m, dim]``.
    """

    def __init__(
        self, encoder: Encoder, texts: Sequence[str], vectors: NDArray[np.float32]
    ) -> None:
        self._encoder = encoder
        self._places = Lookup(numbers(texts))
        self._vectors = vectors

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
        if prompt != "passage":
            return self._encoder.encode(texts, prompt, progress=progress)
        rows = self._places.find(numbers(texts))
        unknown = np.flatnonzero(rows < 0)
        vectors = self._vectors[rows]
        if unknown.size:
            new = [texts[index] for index in unknown.tolist()]
            vectors[unknown] = self._encoder.encode(new, prompt, progress=progress)
        if progress is not None:
            progress(len(texts) - unknown.size)
        return vectors
