"""One encoder's vectors at several lengths, each text encoded once."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.remembered import Remembering
from finetune.inference import Encoder, shortened


def at_lengths(encoder: Encoder, dims: Sequence[int]) -> Iterator[tuple[str, Encoder]]:
    """Yield the encoder, and after it one a length; they share what they have encoded.

    Args:
        encoder: At its full length.
        dims: Lengths that its vectors may be cut to; those that do not cut are left out.

    Yields:
        What the length adds to the artifact's name (``""``, then ``@256``), and the encoder.
    """
    shorter = [dim for dim in dims if dim < encoder.dim]
    if not shorter:
        yield "", encoder
        return
    known = Remembering(encoder)
    yield "", known
    for dim in shorter:
        yield f"@{dim}", _Shortened(known, dim)


class _Shortened:
    """Cuts the vectors of another encoder."""

    def __init__(self, encoder: Encoder, dim: int) -> None:
        self._encoder = encoder
        self.dim = dim

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "passage",
        *,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        return shortened(self._encoder.encode(texts, prompt, progress=progress), self.dim)
