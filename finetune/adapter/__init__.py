"""A few trained parameters beside a frozen model: what `recipes=lora` and `recipes=prefix` train.

Each class that ``configs/adapter`` names is an `Adapter`: `attach` changes a loaded model in place
and returns what brings it into the form in which it is saved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

_FILE = "trained.safetensors"

# Called with the output folder of training, just before the model is saved.
Finish = Callable[[Path], None]


@dataclass(frozen=True)
class Reads:
    """What a training run is going to encode, for adapters that prepare for it.

    Attributes:
        rows: Texts of the training rows, with their prompts; on disk, of which an adapter reads
            what it needs.
        guard: Texts that the guard encodes at every checkpoint, with their prompts.
        epochs: How often the rows are read.
        autocast: Number format of the forward pass; None for fp32.
        folder: For files that training needs while it runs.
    """

    rows: Sequence[str]
    guard: Sequence[str]
    epochs: float
    autocast: torch.dtype | None
    folder: Path


class Adapter(Protocol):
    """What the ``_target_`` of a file in ``configs/adapter`` makes."""

    def attach(self, model: SentenceTransformer, reads: Reads) -> Finish:
        """Freeze the model, add parameters to it, and return what ends it.

        Raises:
            UserError: The model cannot carry this adapter.
        """
        ...


def is_frozen(model: torch.nn.Module) -> bool:
    """True when a part of the model is not trained."""
    return not all(parameter.requires_grad for parameter in model.parameters())


def is_trained(model: torch.nn.Module) -> bool:
    """True when a part of the model is trained."""
    return any(parameter.requires_grad for parameter in model.parameters())


def counts(model: torch.nn.Module) -> dict[str, int]:
    """Number of parameters in training: all, adapter included, and those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trained in sizes if trained),
    }


def save_trained(model: torch.nn.Module, folder: Path) -> None:
    """Write the trained parameters alone: the rest of the model is where it was loaded from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach() for name, p in _trained(model).items()}, folder / _FILE)


def load_trained(model: torch.nn.Module, folder: Path) -> None:
    """Read what `save_trained` wrote into a model with the same adapter.

    Raises:
        ValueError: It is of another adapter.
    """
    parameters, found = _trained(model), load_file(folder / _FILE)
    if parameters.keys() != found.keys():
        raise ValueError(f"{folder}: {_FILE} holds other parameters than the model trains")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[name])


def _trained(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
