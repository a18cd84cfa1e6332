"""Lengths that vectors are trained to be cut to, in the loss and in the names of artifacts.

``tuned@256`` is ``tuned`` with its vectors cut to their first 256 numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError


def of(loss: Mapping[str, Any]) -> list[int]:
    """Return the lengths that a loss names, longest first."""
    return sorted(set(loss.get("matryoshka_dims", ())), reverse=True)


def named(artifacts: Iterable[str], dims: Sequence[int]) -> list[str]:
    """Return each artifact's name, followed by its names at the lengths."""
    return [name + suffix for name in artifacts for suffix in ("", *(f"@{dim}" for dim in dims))]


def split(artifacts: Iterable[str]) -> tuple[list[str], list[int]]:
    """Return what `named` was given."""
    names = [name.partition("@") for name in artifacts]
    dims = [int(dim) for _, cut, dim in names if cut]
    return [name for name, cut, _ in names if not cut], list(dict.fromkeys(dims))


def check(dims: Sequence[int], base: Path, model: str) -> None:
    """Hold the lengths against that of the base model's vectors.

    Args:
        dims: The lengths.
        base: Bundle of the base model.
        model: What the message calls it.

    Raises:
        UserError: One is longer.
    """
    if not dims:
        return
    from finetune.inference import BundleInfo

    whole = BundleInfo.read(base).dim
    longer = [dim for dim in dims if dim > whole]
    if longer:
        raise UserError(
            f"loss.matryoshka_dims: {', '.join(map(str, longer))}; the vectors of model={model} "
            f"have {whole} numbers: leave out what is longer"
        )
