"""LoRA in the upper layers, with the frozen lower layers run once a text.

Reference: Hu et al., LoRA, https://arxiv.org/abs/2106.09685.
"""

import copy
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from sentence_transformers import SentenceTransformer

from finetune.adapter import Finish, Reads
from finetune.adapter.frozen import Activations, Lower, end_of, obstacle, remember
from finetune.errors import UserError, first_line
from finetune.records import read_json, write_json

log = logging.getLogger(__name__)

FOLDER = "adapter"
_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Lora:
    """A peft adapter in the upper layers, merged before the model is saved.

    Attributes:
        layers: How many upper layers carry it; those below are frozen and see no gradient.
        cache_gb: Disk (10^9 bytes) for the outputs of the frozen layers while training runs.
        peft: What each of the layers carries.
    """

    layers: int
    cache_gb: float
    peft: PeftConfig

    def attach(self, model: SentenceTransformer, reads: Reads) -> Finish:
        """Add the adapter; what is returned writes ``adapter/`` and merges.

        Raises:
            UserError: The model has fewer layers, or none of the modules that peft is to change.
        """
        inner: Any = model[0].model
        frozen = inner.config.num_hidden_layers - self.layers
        if frozen < 0:
            raise UserError(
                f"adapter.layers={self.layers}: the model has {inner.config.num_hidden_layers} "
                "layers; name at most as many"
            )
        model.requires_grad_(False)  # peft freezes the transformer only, not a Dense behind it
        adapted = self._adapt(inner, range(frozen, frozen + self.layers))
        lower = self._split(model, frozen, reads)

        def finish(out: Path) -> None:
            if lower is not None:
                lower.restore(inner)
            save(adapted, out / FOLDER)
            adapted.merge_and_unload()

        return finish

    def _adapt(self, inner: Any, layers: range) -> PeftModel:
        config: Any = copy.deepcopy(self.peft)
        if not hasattr(config, "layers_to_transform"):
            raise UserError(
                f"adapter.peft: {type(config).__name__} cannot be held to some of the layers; "
                "choose one that has layers_to_transform, as peft.LoraConfig"
            )
        config.layers_to_transform = list(layers)
        try:
            adapted = get_peft_model(inner, config)
        except ValueError as error:
            names = {name.rpartition(".")[2] for name, module in inner.named_modules()
                     if isinstance(module, torch.nn.Linear)}  # fmt: skip
            raise UserError(
                f"adapter.peft: cannot be added to {type(inner).__name__} ({first_line(error)}); "
                f"its linear modules are called {', '.join(sorted(names))}: name some of them in "
                "adapter.peft.target_modules"
            ) from error
        for module in inner.modules():
            if isinstance(module, LoraLayer):
                # Autocast casts inputs itself; by way of fp32 first, they take a tenth more memory.
                module.cast_input_dtype_enabled = False
        return adapted

    def _split(self, model: SentenceTransformer, frozen: int, reads: Reads) -> Lower | None:
        """Run the frozen layers apart, and once for each text that is read more than once."""
        if not frozen:
            return None
        reason = obstacle(model, frozen)
        if reason:
            log.info("lora: the frozen layers run at every step: %s", reason)
            return None
        inner: Any = model[0].model
        kept = Activations(
            reads.folder, inner.config.hidden_size, reads.autocast or inner.dtype,
            int(self.cache_gb * 1e9),
        )  # fmt: skip
        end = end_of(model.tokenizer)
        assert end is not None  # else there were an obstacle
        lower = Lower(inner, frozen, end, kept)
        remember(model, lower, reads.guard, reads.autocast)
        if reads.epochs > 1:
            remember(model, lower, reads.rows, reads.autocast)
        return lower


def save(adapted: PeftModel, folder: Path) -> None:
    """Write an adapter as peft does, without the place where its base happened to lie."""
    # "auto" would ask a hub for the base's configuration.
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink()  # says nothing but that place
    path = folder / _CONFIG
    write_json(path, read_json(path) | {"base_model_name_or_path": None})


def scaled(source: Path, weight: float, folder: Path) -> None:
    """Write the adapter that moves the base by a share of what another moves it.

    Of one whose share is not its alpha's (DoRA, or none of LoRA's kind) nothing is written.

    Args:
        source: The folder of the other.
        weight: The share.
        folder: Is made.
    """
    config = read_json(source / _CONFIG)
    if config.get("lora_alpha") is None or config.get("use_dora"):
        return
    alphas = {name: alpha * weight for name, alpha in (config.get("alpha_pattern") or {}).items()}
    shutil.copytree(source, folder)
    write_json(
        folder / _CONFIG,
        config | {"lora_alpha": config["lora_alpha"] * weight, "alpha_pattern": alphas},
    )
