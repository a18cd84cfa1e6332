"""What training in several processes asks of a loss, and of the user's Accelerate configuration."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from transformers import Trainer

from finetune.config.choices import Precision
from finetune.errors import UserError
from finetune.machine import processes
from finetune.training.losses import GatheredCoSENT, is_node


def gathering(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Let losses compare the shares of all processes, gradients included.

    In-batch losses then compute each process's part of the whole batch's loss, CoSENT the whole in
    each; either way the mean of the gradients is that of the whole batch.
    """
    node = {key: gathering(value) if is_node(value) else value for key, value in loss.items()}
    if "gather_across_devices" in inspect.signature(get_class(loss["_target_"])).parameters:
        node["gather_across_devices"] = processes.count() > 1
    if get_class(loss["_target_"]) is CoSENTLoss and processes.count() > 1:
        node["_target_"] = f"{GatheredCoSENT.__module__}.{GatheredCoSENT.__name__}"
    return node


def check(trainer: Trainer, precision: Precision) -> None:
    """Refuse what the user's Accelerate configuration may ask for and would spoil the saved model.

    Raises:
        UserError: The weights are sharded, or kept in half precision.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or (plugin and plugin.zero_stage == 3):
        raise UserError(
            "accelerate: FSDP and DeepSpeed's stage 3 shard the weights, which are saved as a "
            "whole here; take distributed_type: MULTI_GPU, or DEEPSPEED with zero_stage 1 or 2"
        )
    if plugin and precision is not Precision.fp32:
        raise UserError(
            f"hardware.precision={precision.value}: DeepSpeed would keep the weights in it; set "
            "hardware.precision=fp32, or take distributed_type: MULTI_GPU"
        )
