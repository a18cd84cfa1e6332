"""One encoder's vectors at several lengths."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.inference import Encoder, shortened


def at_lengths(encoder: Encoder, dims: Sequence[int]) -> Iterator[tuple[str, Encoder]]:
    """Yield the encoder, and after it one a length, which asks it.

    Args:
        encoder: At its full length; one that remembers encodes each text once for all lengths.
        dims: Lengths that its vectors may be cut to; those that do not cut are left out.

    Yields:
        What the length adds to the artifact's name (``""``, then ``@256``), and the encoder.
    """
    yield "", encoder
    for dim in dims:
        if dim < encoder.dim:
            yield f"@{dim}", _Shortened(encoder, dim)


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
