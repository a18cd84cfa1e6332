"""The sizes of an encoder and of what is trained of it: parameters and operations, worked out.

Lengths are tokens. Nothing here touches torch, a file or the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Geometry:
    """The sizes of a BERT-shaped encoder, as ``config.json`` names them."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    vocabulary: int
    positions: int
    types: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Geometry | None":
        """Read a ``config.json``; None where the architecture has other names for its sizes."""
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
                 "vocab_size", "max_position_embeddings")  # fmt: skip
        sizes = [*(config.get(name) for name in names), config.get("type_vocab_size", 0)]
        return cls(*sizes) if all(isinstance(size, int) for size in sizes) else None

    @property
    def per_layer(self) -> int:
        """Weights of a layer that every token is multiplied with: projections, feed-forward."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.ffn

    @property
    def matrices(self) -> int:
        """Those of all layers."""
        return self.layers * self.per_layer

    @property
    def parameters(self) -> int:
        """All of them; without a pooler, which finetune drops (``hidden² + hidden`` more)."""
        tables = (self.vocabulary + self.positions + self.types) * self.hidden
        # Biases of the four projections and of both feed-forward matrices, two LayerNorms.
        vectors = self.layers * (9 * self.hidden + self.ffn) + 2 * self.hidden
        return tables + self.matrices + vectors

    @property
    def weights(self) -> int:
        """Bytes of the fp32 weights."""
        return 4 * self.parameters


STARTER = Geometry(12, 384, 1536, 12, 33_750, 512, 2)
M3E_BASE = Geometry(12, 768, 3072, 12, 21_128, 512, 2)


@dataclass(frozen=True)
class Adapter:
    """What is trained beside a frozen model.

    Attributes:
        layers: Layers that the gradient passes through; those below run without a graph.
        rank: Of LoRA's matrices beside every linear module of these layers; 0: none.
        prefix: Trained keys and values in each of these layers; 0: none.
    """

    layers: int
    rank: int = 0
    prefix: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], geometry: Geometry) -> "Adapter | None":
        """Read a ``configs/adapter``; None where all parameters are trained."""
        if "peft" in config:
            layers = min(int(config.get("layers", geometry.layers)), geometry.layers)
            return cls(layers, rank=int(config["peft"].get("r", 0)))
        if "length" in config:
            return cls(geometry.layers, prefix=int(config["length"]))
        return None

    def parameters(self, geometry: Geometry) -> int:
        """How many are trained: of LoRA, two matrices a projection and feed-forward matrix."""
        lora = self.rank * (10 * geometry.hidden + 2 * geometry.ffn)
        return self.layers * (lora + 2 * self.prefix * geometry.hidden)


def forward_flops(geometry: Geometry, lengths: Sequence[float]) -> float:
    """Floating-point operations of encoding texts of so many tokens each.

    Two a weight and token, and ``4 x length x hidden`` a token and layer inside the attention.
    """
    attention = 4 * geometry.layers * geometry.hidden
    return sum(length * (2 * geometry.matrices + attention * length) for length in lengths)


def training_passes(
    geometry: Geometry, adapter: Adapter | None, epochs: float, *, chunked: bool = False
) -> float:
    """Operations of training on a text in every epoch, in forward passes through the whole model.

    The backward pass takes as many operations as the forward pass for the gradients of the
    activations, and as many again for those of the weights where they are trained. Frozen lower
    layers run once a text, whatever the epochs.

    Args:
        geometry: Of the model.
        adapter: What is trained; None: everything.
        epochs: How often each text is read.
        chunked: With GradCache the forward pass runs twice.
    """
    if adapter is None:
        return epochs * (3 + chunked)
    upper = adapter.layers / geometry.layers
    return epochs * upper * (2 + chunked) + min(epochs, 1) * (1 - upper)
