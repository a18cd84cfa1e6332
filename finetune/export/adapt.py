"""Lets a graph give activations that are easier to round, and the same vectors in the end.

Where it can be, the map of an activation is made part of constants that are there already, so that
nothing is left to compute:

- of the scale and bias of the LayerNormalization that gives it; the residual connection beside the
  products takes a shift back in the bias that is added to it, a divisor by one multiplication;
- of the weight and bias of attention's values, which attention only averages, if they are divided.

Elsewhere a node subtracts and a node multiplies.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from finetune.export.graph import biases, name_of, products

_Steps = Sequence[tuple[str, NDArray[np.floating] | None]]

# From what attention's output reads back to its values: each node, and how it turns or reshapes.
_SWAP = [0, 2, 1, 3]
_TO_VALUES: tuple[tuple[str, Sequence[int | None]], ...] = (
    ("Reshape", [0, 0, -1]), ("Transpose", _SWAP), ("MatMul", []), ("Transpose", _SWAP),
    ("Reshape", [0, 0, -1, None]),
)  # fmt: skip


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

    def __bool__(self) -> bool:
        """Whether it does anything."""
        return self.shift is not None or self.divisor is not None


def adapt(graph: onnx.GraphProto, maps: Mapping[str, Affine]) -> None:
    """Apply maps to activations of products; what the graph gives stays the same.

    Args:
        graph: Changed in place. Weights keep their names, activations keep theirs after the map.
        maps: By activation, one that a node makes and whose weights serve no other (see
            `finetune.export.graph.adaptable`); one that is shifted has a bias behind each product.
    """
    adaption = _Adaption(graph)
    for name, affine in maps.items():
        if affine:
            adaption.apply(name, affine)


class _Adaption:
    """Changes one graph in place; knows who makes and who reads each tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.values = {each.name: each for each in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.products = {name_of(node): node for node in products(graph)}
        self.biases = biases(graph)
        # By what a product and its bias give together, the product.
        self.sums = {
            addition.output[0]: self.products[name] for name, (addition, _) in self.biases.items()
        }

    def apply(self, name: str, affine: Affine) -> None:
        """Make a tensor what its map gives, and let those who read it make up for that."""
        own: list[NodeProto] = []
        others: list[NodeProto] = []
        for node in self.readers[name]:
            is_product = name_of(node) in self.products and node.input[0] == name
            (own if is_product else others).append(node)
        for weight in dict.fromkeys(node.input[1] for node in own):
            self._make_up(weight, [node for node in own if node.input[1] == weight], affine)
        if self._in_norm(name, affine):
            self._take_back(name, others, affine)
        elif others or not self._in_values(name, affine):
            self._by_nodes(name, others, affine)

    def _make_up(self, weight: str, readers: Sequence[NodeProto], affine: Affine) -> None:
        values = self._array(weight)
        if affine.shift is not None:
            for product in readers:
                self._add_to_bias(product, affine.shift @ values)
        if affine.divisor is not None:
            self._set(weight, values * affine.divisor[:, None])

    def _in_norm(self, name: str, affine: Affine) -> bool:
        """Make a map part of the LayerNormalization that gives the tensor; False if none does."""
        norm = self.makers[name]
        constant = all(each in self.values for each in norm.input[1:])
        if norm.op_type != "LayerNormalization" or len(norm.input) != 3 or not constant:
            return False
        scale, bias = self._array(norm.input[1]), self._array(norm.input[2])
        shift = 0 if affine.shift is None else affine.shift
        divisor = 1 if affine.divisor is None else affine.divisor
        norm.input[1] = self._set(f"{name}/scale", scale / divisor)
        norm.input[2] = self._set(f"{name}/bias", (bias - shift) / divisor)
        return True

    def _take_back(self, name: str, readers: Sequence[NodeProto], affine: Affine) -> None:
        """Give readers that are no products the tensor as it was."""
        shift = affine.shift
        beside = [each for node in readers if (each := self._beside(name, node)) is not None]
        if shift is not None and len(beside) == len(readers):
            for product in beside:
                self._add_to_bias(product, shift)
            shift = None
        source = self._chain(name, [("Mul", affine.divisor), ("Add", shift)]) if readers else name
        self._read_instead(readers, name, source)

    def _beside(self, name: str, node: NodeProto) -> NodeProto | None:
        """The product that a residual connection adds to a tensor, if it has a bias of its own."""
        others = [each for each in node.input if each != name]
        if node.op_type != "Add" or len(others) != 1 or len(self.readers[others[0]]) != 1:
            return None
        return self.sums.get(others[0])

    def _in_values(self, name: str, affine: Affine) -> bool:
        """Divide attention's values instead of what it makes of them; False if it cannot be."""
        tensor = name
        for kind, wanted in _TO_VALUES:
            node = self.makers.get(tensor)
            if node is None or node.op_type != kind or not self._turns(node, wanted):
                return False
            tensor = node.input[1 if kind == "MatMul" else 0]
            if len(self.readers[tensor]) != 1:
                return False
        product = self.sums.get(tensor)
        if product is None or len(self.readers[product.input[1]]) != 1:
            return False
        if affine.shift is not None or affine.divisor is None:
            return False
        self._set(product.input[1], self._array(product.input[1]) / affine.divisor)
        addition, at = self.biases[name_of(product)]
        self._set_bias(product, self._array(addition.input[at]) / affine.divisor)
        return True

    def _turns(self, node: NodeProto, wanted: Sequence[int | None]) -> bool:
        """Whether a node turns or reshapes as it must; None stands for any size."""
        found: Sequence[int] = []
        if node.op_type == "Transpose":
            found = node.attribute[0].ints
        elif node.op_type == "Reshape" and node.input[1] in self.values:
            found = self._array(node.input[1]).astype(int).tolist()
        return len(found) == len(wanted) and all(
            size in (each, None) for each, size in zip(found, wanted, strict=True)
        )

    def _by_nodes(self, name: str, others: Sequence[NodeProto], affine: Affine) -> None:
        """Let nodes apply the map; the tensor as it was gets another name."""
        plain = f"{name}/plain"
        maker = self.makers[name]
        maker.output[:] = [plain if each == name else each for each in maker.output]
        self.makers[plain] = maker
        factors = None if affine.divisor is None else 1 / affine.divisor
        self._chain(plain, [("Sub", affine.shift), ("Mul", factors)], name)
        self._read_instead(others, name, plain)

    def _chain(self, source: str, steps: _Steps, target: str | None = None) -> str:
        """Add a node a step behind the maker of a tensor, and return what the last one gives."""
        told = [(kind, values) for kind, values in steps if values is not None]
        at = next(i for i, node in enumerate(self.graph.node) if node is self.makers[source])
        for number, (kind, values) in enumerate(told, start=1):
            constant = self._set(f"{source}/{kind.lower()}/by", values)
            gives = target if target and number == len(told) else f"{source}/{kind.lower()}"
            node = helper.make_node(kind, [source, constant], [gives], gives)
            self.graph.node.insert(at + number, node)
            self.makers[gives] = self.graph.node[at + number]
            source = gives
        return source

    def _read_instead(self, readers: Sequence[NodeProto], name: str, instead: str) -> None:
        for node in readers if name != instead else ():
            node.input[:] = [instead if each == name else each for each in node.input]

    def _add_to_bias(self, product: NodeProto, values: NDArray[np.floating]) -> None:
        addition, at = self.biases[name_of(product)]
        self._set_bias(product, self._array(addition.input[at]) + values)

    def _set_bias(self, product: NodeProto, values: NDArray[np.floating]) -> None:
        """Give a product a bias of its own: graphs share equal ones."""
        addition, at = self.biases[name_of(product)]
        addition.input[at] = self._set(f"{name_of(product)}/bias", values)

    def _array(self, name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(self.values[name])

    def _set(self, name: str, values: NDArray[np.floating]) -> str:
        """Give a constant its values; a new one where there is none of that name."""
        tensor = numpy_helper.from_array(np.asarray(values, np.float32), name)
        if name in self.values:
            self.values[name].CopyFrom(tensor)
        else:
            self.graph.initializer.append(tensor)
            self.values[name] = self.graph.initializer[-1]
        return name
