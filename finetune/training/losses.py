"""Losses, built from their configuration nodes: nested ones too, in chunks where memory asks."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import get_class
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim, pairwise_cos_sim
from sentence_transformers.util.distributed import all_gather
from torch import Tensor, nn

from finetune.training.memory import Chunked

# Losses with a GradCache form (Gao et al. 2021, https://arxiv.org/abs/2101.06983): the same value
# and gradients, with the activations of only some texts in memory at once.
_CACHED = {MultipleNegativesRankingLoss: Chunked}
# Wrappers that hand the cached embeddings on to the loss inside. Others (AdaptiveLayerLoss) patch
# the model's forward pass, which GradCache repeats after the patch is gone.
_WRAPPERS = (MatryoshkaLoss,)

Node = Mapping[str, Any]
Similarity = Callable[[Tensor, Tensor], Tensor]


def _in_fp32(similarity: Similarity) -> Similarity:
    """Compute a similarity in fp32 under autocast.

    bf16 tells cosines from .5 to 1 apart in steps of .0039: at a scale of 50, a logit's by 0.2.
    """

    @functools.wraps(similarity)
    def compute(one: Tensor, other: Tensor) -> Tensor:
        with torch.autocast(one.device.type, enabled=False):
            return similarity(one.float(), other.float())

    return compute


_EXACT = {each: _in_fp32(each) for each in (cos_sim, pairwise_cos_sim)}


class GatheredCoSENT(CoSENTLoss):
    """CoSENT over the pairs of all processes: the whole batch's loss, the same in each of them.

    The gradients of a process's own embeddings come from every process, so that the mean over the
    processes is the whole batch's gradient.
    """

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Gather, then compare every pair with every other; see `CoSENTLoss`.

        Args:
            embeddings: Of both columns, ``[n, dim]`` each.
            labels: Their scores, ``[n]``.
        """
        everywhere = [all_gather(each, with_grad=True) for each in embeddings]
        return super().compute_loss_from_embeddings(everywhere, all_gather(labels.view(-1)))


def build(node: Node, model: SentenceTransformer, chunk: int | None = None) -> nn.Module:
    """Make a loss, and the losses inside it, each with the model.

    Args:
        node: ``_target_`` and its parameters; a parameter may be such a node itself, of a loss or
            of something else (a similarity).
        model: The model to train. ``matryoshka_dims`` get its own length, of weight 1, where they
            lack it: a length that is not among them is not trained.
        chunk: Texts of one column whose activations are held at once, where the loss has a form
            that can (`in_chunks`); None holds the whole batch's.
    """
    target = get_class(node["_target_"])
    pieces = chunk if in_chunks(node) else None
    parameters: dict[str, Any] = {
        key: build(value, model, pieces) if is_node(value) else value
        for key, value in node.items() if not key.startswith("_")
    }  # fmt: skip
    expected = inspect.signature(target).parameters
    if "similarity_fct" in expected and "similarity_fct" not in parameters:
        default = expected["similarity_fct"].default
        parameters["similarity_fct"] = _EXACT.get(default, default)
    if pieces is not None and target in _CACHED:
        return _CACHED[target](model=model, mini_batch_size=pieces, **parameters)
    if "matryoshka_dims" in parameters:
        parameters |= _with_whole(parameters, model)
    if "model" in expected:
        parameters["model"] = model
    return target(**parameters)


def _with_whole(parameters: Mapping[str, Any], model: SentenceTransformer) -> dict[str, Any]:
    """Put the model's own length first, where it is missing."""
    whole = model.get_embedding_dimension()
    if whole in parameters["matryoshka_dims"]:
        return {}
    own = {"matryoshka_dims": whole, "matryoshka_weights": 1}
    return {key: [first, *parameters[key]] for key, first in own.items() if parameters.get(key)}


def in_chunks(node: Node) -> bool:
    """Say whether a loss has a form that holds only some texts' activations at once."""
    target = get_class(node["_target_"])
    return target in _CACHED or (target in _WRAPPERS and in_chunks(node["loss"]))


def splits(loss: nn.Module) -> bool:
    """Say of a loss that is built whether it has such a form, used or not."""
    if isinstance(loss, _WRAPPERS):
        return splits(loss.loss)
    return type(loss) in (*_CACHED, *_CACHED.values())


def is_node(value: Any) -> bool:
    """Say whether a parameter is a node that makes an object."""
    return isinstance(value, Mapping) and "_target_" in value
