"""The shape of everything that turns texts into vectors."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """Turns texts into unit vectors; `OnnxEncoder` and `finetune.model.TorchEncoder` are two.

    Evaluation, mining and the data checks are handed one and never ask which.
    """

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "passage",
        *,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts.

        Args:
            texts: Any number of texts; none gives shape ``[0, dim]``.
            prompt: Name of the prompt put before each text: ``query`` or ``passage``.
            progress: Called after each batch with the number of texts it held (not the sum).

        Returns:
            ``[n, dim]``, each row of length 1; row i belongs to text i.
        """
        ...


def shortened(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Cut vectors ``[n, d]`` to their first numbers, and give them length 1 again: ``[n, dim]``."""
    first = vectors[:, :dim]
    return first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)


def check_texts(texts: Sequence[str]) -> None:
    """Raise where `texts` cannot be tokenised, naming the first text at fault.

    The tokeniser itself only says "TextInputSequence must be str", so this runs after it failed.

    Raises:
        TypeError: `texts` is one string, or holds something that is no string.
        ValueError: A text holds a lone surrogate, which is no character and has no UTF-8 form.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string; expected a sequence of strings: put it in a list")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] is {type(text).__name__}; expected str")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"texts[{index}] holds the lone surrogate U+{ord(text[error.start]):04X} at "
                f"character {error.start}; expected valid Unicode: decode the source with the "
                'right encoding, or drop it with text.encode("utf-8", "ignore").decode()'
            ) from error
