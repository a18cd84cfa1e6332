"""Find the folder of a base model: a local path, a hub's cache or a download."""

import logging
from pathlib import Path

from finetune.config import Hub, Model
from finetune.errors import UserError

log = logging.getLogger(__name__)

# Everything a sentence-transformers or plain transformers folder needs, and no code: remote code
# is never run. Weights for other frameworks stay where they are.
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "*/config.json"]
_COMMIT = 40
_IGNORED = ["onnx/*", "openvino/*", "tf_model*", "flax_model*", "rust_model*", "*.msgpack"]


def fetch(model: Model) -> Path:
    """Return the folder that holds the model's files.

    Raises:
        UserError: When the model cannot be had, with what was tried and the ways out.
    """
    if model.hub is Hub.local:
        return local_folder(model)
    if not model.id:
        raise UserError(f"model.id: {model.name} names no hub id; set model.id=<owner/name>")
    try:
        folder = _download(model.hub, model.id, model.revision)
    except ImportError as error:
        raise UserError(f"{error}: pip install 'finetune[{_extra(model.hub)}]'") from error
    except (OSError, ValueError) as error:  # the hubs' errors derive from these
        raise UserError(_unreachable(model, error)) from error
    log.info("%s %s (revision %s): %s", model.hub.value, model.id, revision(model, folder), folder)
    return folder


def local_folder(model: Model) -> Path:
    """Return the folder of a local model.

    Raises:
        UserError: When it is no model folder.
    """
    if model.path is None:
        raise UserError(f"model.path: {model.name} needs one; set model.path=<folder>")
    path = model.path.expanduser()
    if not path.is_dir():
        raise UserError(f"model.path={path}: no such folder; name a sentence-transformers or "
                        "transformers folder")  # fmt: skip
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise UserError(
            f"model.path={path}: not a model (neither modules.json nor config.json in it); name "
            "the folder that holds them"
        )
    return path


def revision(model: Model, folder: Path) -> str:
    """The revision in use: the pinned one, or the one that the hub's cache resolved."""
    if model.revision:
        return model.revision
    return folder.name if folder.parent.name == "snapshots" else "unknown"


def _download(hub: Hub, model_id: str, pinned: str | None) -> Path:
    if hub is Hub.modelscope:
        from modelscope import snapshot_download as modelscope_download

        # The pinned commits are Hugging Face's; ModelScope has its own, and names like "master".
        known = None if pinned and len(pinned) == _COMMIT else pinned
        return Path(modelscope_download(model_id, revision=known, allow_patterns=_FILES))
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            model_id, revision=pinned, allow_patterns=_FILES, ignore_patterns=_IGNORED
        )
    )


def _extra(hub: Hub) -> str:
    return "modelscope" if hub is Hub.modelscope else "train"


def _unreachable(model: Model, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    other = "modelscope" if model.hub is Hub.huggingface else "huggingface"
    return (
        f"model={model.name}: {model.id} (revision {model.revision or 'newest'}) is neither in "
        f"the local cache nor to be had from {model.hub.value}: {reason}. Ways out: connect to "
        f"the network; set HF_ENDPOINT to a mirror; model.hub={other}; copy the folder here and "
        "set model=custom model.path=<folder>; or try model=starter, which needs no hub"
    )
