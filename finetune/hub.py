"""Find the folder of a base model: a local path, a hub's cache or a download."""

import logging
import os
import re
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from finetune.config import Model
from finetune.config.choices import Hub
from finetune.errors import UserError, first_line
from finetune.records import read_json

log = logging.getLogger(__name__)

# Everything a sentence-transformers or plain transformers folder needs, and no code: remote code
# is never run. Weights for other frameworks stay where they are.
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "*/config.json"]
_IGNORED = ["onnx/*", "openvino/*", "tf_model*", "flax_model*", "rust_model*", "*.msgpack"]
_NEWEST = "main"


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
        download = _modelscope if model.hub is Hub.modelscope else _huggingface
        folder = download(model.id, pinned(model))
    except ImportError as error:
        raise UserError(f"{error}: pip install 'finetune[{_extra(model.hub)}]'") from error
    except (OSError, ValueError) as error:
        raise UserError(_unreachable(model, error)) from error
    log.info("%s %s (revision %s): %s", model.hub.value, model.id, revision(model, folder), folder)
    return folder


def resolved(model: Model) -> Model:
    """Name the commit of a model on Hugging Face where only a branch, a tag or nothing is named.

    Where it cannot be found out the model stays as it is, and `fetch` says what is amiss.
    """
    if model.hub is not Hub.huggingface or not model.id:
        return model
    commit = commit_if_known(model.id, model.revision)
    return replace(model, revision=commit or model.revision)


def is_commit(revision: str | None) -> bool:
    """True for what names one state for good, as no branch and no tag does."""
    return bool(re.fullmatch("[0-9a-f]{40}", revision or ""))


def commit_if_known(repo: str, revision: str | None) -> str | None:
    """As `commit` for a model; None where it cannot be found out."""
    try:
        return commit(repo, revision)
    except (ImportError, OSError):  # which `fetch` says
        return None


@cache  # all that one command does is done on the same state
def commit(repo: str, revision: str | None = None, kind: str = "model") -> str:
    """The commit that a revision stands for now: Hugging Face is asked, else its cache.

    Args:
        repo: ``owner/name``.
        revision: A commit, which nobody is asked about, a branch or a tag; None: the newest.
        kind: ``model`` or ``dataset``.

    Raises:
        ImportError: When ``huggingface_hub`` is not installed.
        OSError: When the hub knows no such revision, or neither it nor its cache tells.
    """
    if revision and is_commit(revision):
        return revision
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError, RevisionNotFoundError
    from huggingface_hub.file_download import repo_folder_name

    at = revision or _NEWEST
    ref = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type=kind), "refs", at)
    patience = constants.HF_HUB_ETAG_TIMEOUT
    try:
        asked = HfApi().repo_info(repo, repo_type=kind, revision=at, timeout=patience)
        found = str(asked.sha)
    except (OSError, ValueError, HTTPError) as error:  # a proxy that answers something else, too
        if isinstance(error, RevisionNotFoundError) or not ref.is_file():
            raise OSError(str(error)) from error
        found = ref.read_text("utf-8").strip()
        log.warning("%s: the hub does not answer (%s); its cache names %s", repo,
                    first_line(error), found)  # fmt: skip
    else:
        with suppress(OSError):  # a cache that is shared, and others' to write
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(found, "utf-8")
    if revision:
        log.info("%s: revision %s is commit %s", repo, revision, found)
    else:
        log.warning("%s: no revision named; its newest is taken: %s", repo, found)
    return found


def config_of(model: Model) -> dict[str, Any] | None:
    """What ``config.json`` of a model on Hugging Face says: the cache's, else the hub's.

    Asked once and without patience: it is for a forecast.

    Returns:
        None where it cannot be had, which `fetch` tells.
    """
    if model.hub is not Hub.huggingface or not model.id:
        return None
    try:
        import huggingface_hub as library
        from huggingface_hub import constants
        from huggingface_hub.errors import HTTPError
    except ImportError:
        return None
    where = model.id, "config.json"
    at = model.revision or _NEWEST
    try:
        kept = library.try_to_load_from_cache(*where, revision=at)
        if isinstance(kept, str):
            return dict(read_json(Path(kept)))
        answer = library.get_session().get(
            library.hf_hub_url(*where, revision=at), follow_redirects=True,
            headers=library.utils.build_hf_headers(), timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )  # fmt: skip
        return dict(answer.raise_for_status().json())
    except (HTTPError, OSError, ValueError, TypeError):
        return None


def cached(model: Model, file: str) -> Path | None:
    """Where a file of a model lies already, in its folder or in the hub's cache; None: nowhere."""
    if model.path is not None:
        path = model.path.expanduser() / file
    elif not model.id:
        return None
    elif model.hub is Hub.modelscope:  # where `fetch` leaves it; the library takes 2 s to load
        cache = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
        snapshots = cache / "models" / model.id.replace("/", "--") / "snapshots"
        path = snapshots / (pinned(model) or "master") / file
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model.id, file, revision=model.revision)
        return Path(found) if isinstance(found, str) else None
    return path if path.is_file() else None


def local_folder(model: Model) -> Path:
    """Return the folder of a local model.

    Raises:
        UserError: When it is no model folder.
    """
    if model.path is None:
        raise UserError(f"model.path: {model.name} needs one; set model.path=<folder>, or "
                        "model.hub=huggingface model.id=<owner/name>")  # fmt: skip
    path = model.path
    if not path.is_dir():
        raise UserError(f"model.path={path}: no such folder; name a sentence-transformers or "
                        "transformers folder")  # fmt: skip
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise UserError(
            f"model.path={path}: not a model (neither modules.json nor config.json in it); name "
            "the folder that holds them"
        )
    return path


def pinned(model: Model) -> str | None:
    """The revision that the hub is asked for; None: its newest.

    The pinned commits are Hugging Face's; ModelScope has its own, and names like "master".
    """
    foreign = model.hub is Hub.modelscope and is_commit(model.revision)
    return None if foreign else model.revision


def revision(model: Model, folder: Path) -> str:
    """The revision in use: the pinned one, or the one that the hub's cache resolved."""
    return pinned(model) or (folder.name if folder.parent.name == "snapshots" else "unknown")


def _huggingface(model_id: str, revision: str | None) -> Path:
    """Download what is missing in ``<cache>/models--<owner>--<name>/snapshots/<commit>``.

    The library itself looks into that cache where the network fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(
            model_id, revision=revision, allow_patterns=_FILES, ignore_patterns=_IGNORED
        ))  # fmt: skip
    except HTTPError as error:  # a proxy that refuses, a line that breaks
        raise OSError(first_line(error)) from error


def _modelscope(model_id: str, revision: str | None) -> Path:
    """Download what is missing in ``<cache>/models/<owner>--<name>/snapshots/<revision>``.

    The library also finds what its versions before 1.38 kept in ``models/<owner>/<name>``, but
    never looks into a cache because the network fails.
    """
    from modelscope.hub.errors import CacheNotFound, HubError, NetworkError, ServerError
    from modelscope.hub.snapshot_download import snapshot_download

    download = partial(
        snapshot_download, model_id, revision,
        allow_patterns=_FILES, ignore_patterns=_IGNORED,
    )  # fmt: skip
    try:
        return Path(download())
    except (NetworkError, ServerError) as error:
        try:
            folder = Path(download(local_files_only=True))
        except CacheNotFound as missing:
            raise OSError(f"tried {missing.cache_dir} and {first_line(error)}") from error
        log.warning("modelscope: %s; taken from its cache: %s", first_line(error), folder)
        return folder
    except HubError as error:  # a damaged file, a wrong token
        raise OSError(first_line(error)) from error


def _extra(hub: Hub) -> str:
    return "modelscope" if hub is Hub.modelscope else "train"


def _unreachable(model: Model, error: Exception) -> str:
    reason = _tried(model.hub) + first_line(error).rstrip(".")
    other, mirror = "huggingface", ""
    if model.hub is Hub.huggingface:
        other, mirror = "modelscope", "set HF_ENDPOINT to a mirror; "
    return (
        f"model={model.name}: {model.id} (revision {pinned(model) or 'newest'}) is neither in "
        f"the local cache nor to be had from {model.hub.value}: {reason}. Ways out: connect to "
        f"the network; {mirror}model.hub={other} (and model.id, where it has another name there); "
        "copy the folder here and set model=custom model.path=<folder>; or try model=starter, "
        "which needs no hub"
    )


def _tried(hub: Hub) -> str:
    """Where Hugging Face's library looked; ModelScope's errors say it themselves."""
    if hub is not Hub.huggingface:
        return ""
    from huggingface_hub import constants

    return f"tried {constants.HF_HUB_CACHE} and {constants.ENDPOINT}: "
