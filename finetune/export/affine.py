"""What is done to each channel of an activation before it is rounded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper


@dataclass(frozen=True)
class Affine:
    """The map ``(a - shift) / divisor`` of an activation ``[..., k]``.

    The weight that reads it makes up for the divisor, the bias behind it for the shift.

    Attributes:
        shift: ``[k]``; None for 0.
        divisor: ``[k]``; None for 1.
    """

    shift: NDArray[np.float32] | None = None
    divisor: NDArray[np.float32] | None = None

    def nodes(self, name: str) -> tuple[list[NodeProto], str]:
        """Return the nodes that apply it to a tensor, and the name of what they give."""
        nodes, source = [], name
        for kind, values, constant in (
            ("Sub", self.shift, f"{name}/shift"), ("Mul", self.divisor, f"{name}/factors")
        ):  # fmt: skip
            if values is not None:
                target = f"{source}/{kind.lower()}"
                nodes.append(helper.make_node(kind, [source, constant], [target], target))
                source = target
        return nodes, source

    def constants(self, name: str) -> dict[str, NDArray[np.float32]]:
        """Return what those nodes read beside the tensor, by name."""
        found = {} if self.shift is None else {f"{name}/shift": self.shift}
        if self.divisor is not None:
            found[f"{name}/factors"] = (1 / self.divisor).astype(np.float32)
        return found
