"""The encoders that score the artifacts of a run, and encode for mining."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.disk import texts
from finetune.script import KEEP
from finetune.stage import Inputs, Settings

if TYPE_CHECKING:
    from finetune.inference import Encoder


def scoring(artifact: str, settings: Settings, inputs: Inputs, out: Path) -> "Encoder":
    """Return the encoder that scores an artifact, helped by the other processes of the run."""
    from finetune.training.sharing import Shared

    folders = {name: path.resolve() for name, path in inputs.items()}
    device = settings["device"] if artifact in ("base", "tuned") else "cpu"
    return Shared(partial(_scoring, artifact, dict(settings), folders), device, out)


def _scoring(artifact: str, settings: Settings, inputs: Inputs) -> "Encoder":
    """Choose the encoder that scores an artifact.

    On a CPU ``base`` and ``tuned`` are scored through their fp32 ONNX graph, which the parity check
    holds to the torch model (cosine 0.9999) and which is more than twice as fast there.
    """
    graph = inputs["export"] / "bundle" / "fp32"
    if artifact in ("base", "tuned") and settings["device"] == "cpu" and graph.is_dir():
        return own("onnx-fp32", settings, inputs)
    return own(artifact, settings, inputs)


def own(artifact: str, settings: Settings, inputs: Inputs) -> "Encoder":
    """Return the encoder of the artifact itself: torch for model folders, ONNX for exports."""
    if artifact in ("base", "tuned"):
        from finetune import model as models
        from finetune.inference.script import converted

        set_threads(settings)
        loaded = models.load(inputs["model"] / "model", settings["device"])
        encoder = models.TorchEncoder(loaded, tokens=settings["encode_tokens"])
        return converted(encoder, settings.get("script", KEEP))
    from finetune.inference import BundleInfo, OnnxEncoder

    folder = bundled(artifact, inputs)
    whole = BundleInfo.read(folder.parent).dim  # shorter ones are cut from it
    device = "auto" if settings["device"] == "cuda" else "cpu"
    return OnnxEncoder.load(folder.parent, folder.name, settings["threads"], whole, device=device)


def is_published(artifact: str, inputs: Inputs) -> bool:
    """Say whether a model, or an export of one, is there: one too far from torch is not."""
    return artifact in ("base", "tuned") or bundled(artifact, inputs).is_dir()


def bundled(artifact: str, inputs: Inputs) -> Path:
    """Where the bundle holds an artifact."""
    return inputs["export"] / "bundle" / artifact.removeprefix("onnx-")


def remembering(
    encoder: "Encoder", settings: Settings, inputs: Inputs, *, learns: bool = True
) -> "Encoder":
    """Encode no text twice; of the base's, none that the corpus step has encoded already."""
    from finetune.evaluation.remembered import Remembering
    from finetune.inference.script import converter

    found = Remembering(encoder, converter(settings.get("script", KEEP)), learns=learns)
    if "corpus" in inputs:
        vectors = np.load(inputs["corpus"] / "passages.npy", mmap_mode="r")
        found.remember(texts(inputs["corpus"] / "passages.jsonl"), vectors)
    return found


def set_threads(settings: Settings) -> None:
    """Let torch use the threads that the run was given."""
    import torch

    torch.set_num_threads(settings["threads"])


def size(artifact: str, inputs: Inputs) -> int:
    """Bytes of the weights on disk."""
    if artifact in ("base", "tuned"):
        return sum(p.stat().st_size for p in (inputs["model"] / "model").rglob("*.safetensors"))
    return sum(path.stat().st_size for path in bundled(artifact, inputs).iterdir())
