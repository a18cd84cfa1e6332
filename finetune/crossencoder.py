"""Cross-encoders: models that read a query and a text together, slow and sharp."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

from finetune.errors import UserError, first_line
from finetune.judging import Filter
from finetune.model import UNREADABLE

log = logging.getLogger(__name__)

_MANY = 1_000  # texts that take long enough for a bar
_HEADS = ("ForSequenceClassification", "ForCausalLM")


def load(source: str | Path, device: str, margin: float) -> Filter:
    """Load a cross-encoder with one output; no code of the model's own is ever run.

    Args:
        source: A folder, or a hub id as ``owner/name`` or ``owner/name@revision``.
        device: ``cpu`` or ``cuda``.
        margin: Of the filter.

    Returns:
        A filter whose scores are the sigmoid of the model's output.

    Raises:
        UserError: When it cannot be had, or is none.
    """
    local = isinstance(source, Path)
    name, _, revision = (str(source), "", "") if local else str(source).partition("@")
    if not local and not revision:
        log.warning("mine.filter=%s: no revision named; pin one: %s@<commit>", source, source)
    try:
        model = CrossEncoder(
            name, device=device, revision=revision or None, trust_remote_code=False,
            local_files_only=local, activation_fn=torch.nn.Sigmoid(),
        )  # fmt: skip
    except UNREADABLE as error:
        raise UserError(_refusal(source, f"cannot be loaded ({first_line(error)})")) from error
    # A plain model gets a random head, with a warning that nobody reads.
    kinds = (model.model and model.model.config.architectures) or []
    if len(model) == 1 and not any(kind.endswith(_HEADS) for kind in kinds):
        raise UserError(_refusal(source, f"has no head that was trained to score ({kinds})"))
    if model.num_labels != 1:
        raise UserError(_refusal(source, f"has {model.num_labels} outputs instead of one"))

    def judge(asked: Sequence[tuple[str, str]]) -> Sequence[float]:
        return model.predict(list(asked), show_progress_bar=len(asked) > _MANY).tolist()

    return Filter(judge, margin)


def _refusal(source: str | Path, why: str) -> str:
    return (
        f"mine.filter={source}: {why}; expected a reranker: its folder, or its hub id as "
        "owner/name@revision. mine.filter=null mines without one"
    )
