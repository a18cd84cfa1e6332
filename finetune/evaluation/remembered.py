"""An encoder that encodes no text twice."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.disk import Lookup, numbers
from finetune.inference import Encoder


class Remembering:
    """Answers from memory for texts that it has seen, and asks the encoder for the others.

    The same questions in two scripts share a corpus; with ``encode.script`` the corpora of both
    scripts become one; vectors are wanted whole and cut.

    Args:
        encoder: Any encoder.
        convert: What the encoder makes of a text before it reads it: texts that become the same
            have the same vector.
        learns: Whether it keeps in memory what it is asked, too; else it knows what it was told.
    """

    def __init__(
        self, encoder: Encoder, convert: Callable[[str], str] = str, *, learns: bool = True
    ) -> None:
        self._encoder = encoder
        self._convert = convert
        self._learns = learns
        self._known: dict[str, list[tuple[Lookup, NDArray[np.float32]]]] = defaultdict(list)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._encoder.dim

    def remember(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Learn the vectors ``[m, dim]`` of ``m`` passages that the encoder has made before."""
        self._known["passage"].append((Lookup(self._numbers(texts)), vectors))

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "passage",
        *,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts; see `finetune.inference.Encoder.encode`."""
        keys = self._numbers(texts)
        vectors = np.empty((len(texts), self.dim), np.float32)
        unknown = np.arange(len(texts))
        for places, known in self._known[prompt]:
            rows = places.find(keys[unknown])
            vectors[unknown[rows >= 0]] = known[rows[rows >= 0]]
            unknown = unknown[rows < 0]
        if progress is not None and unknown.size < len(texts):
            progress(len(texts) - unknown.size)
        if unknown.size:
            new = [texts[index] for index in unknown.tolist()]
            made = self._encoder.encode(new, prompt, progress=progress)
            vectors[unknown] = made
            if self._learns:
                self._known[prompt].append((Lookup(keys[unknown]), made))
        return vectors

    def _numbers(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return numbers(map(self._convert, texts))
