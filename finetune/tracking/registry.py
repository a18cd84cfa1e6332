"""Register a bundle as an MLflow model that loads and answers without torch.

The model carries the inference core as code, so that it needs neither torch nor this package.
"""

import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import finetune
from finetune.inference import BundleInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_NEEDS = ("numpy", "onnxruntime", "opencc", "pandas", "tokenizers")
_DIGEST = "bundle"  # tag of a version: SHA-256 of its bundle.json
_CODE = ("__init__.py", "cpu.py", "errors.py", "records.py", "script.py", "inference")


def register(
    bundle: Path, name: str, run_id: str, uri: str, tags: Mapping[str, str]
) -> "ModelVersion":
    """Log a bundle to a run as ``bundle`` and make it a version of a registered model.

    A bundle that this run has registered already keeps its version.

    Args:
        bundle: The bundle folder.
        name: Of the registered model.
        run_id: The run that it belongs to.
        uri: Of the tracking server; its registry gets the model, unless MLFLOW_REGISTRY_URI names
            another.
        tags: Of the version: how its run came out.
    """
    import mlflow

    mlflow.set_tracking_uri(uri)
    name = name.replace("/", "-").replace(":", "-")
    digest = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    there = client(uri)
    versions = there.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    known = [each for each in versions if each.tags.get(_DIGEST) == digest]
    version = known[0] if known else _new_version(there, name, _log(bundle, run_id), run_id)
    for key, value in {**tags, _DIGEST: digest}.items():
        there.set_model_version_tag(name, version.version, key, value)
    there.update_model_version(name, version.version, tags["verdict"])
    return version


def client(uri: str) -> "MlflowClient":
    """A client of the registry that belongs to a tracking server."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _log(bundle: Path, run_id: str) -> str:
    """Log a bundle to a run; return the logged model's id."""
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    dim = BundleInfo.read(bundle).length(None)
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "text")]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dim))]),
        params=ParamSchema([ParamSpec("prompt", "string", "passage")]),
    )
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(_copy_code(Path(folder)))],
            signature=signature,
            input_example=({"text": ["如何申请退款？"]}, {"prompt": "query"}),
            pip_requirements=_requirements(),
        )
    return str(logged.model_id)


def _new_version(there: "MlflowClient", name: str, model_id: str, run_id: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    try:
        there.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    return there.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)


def _copy_code(folder: Path) -> Path:
    """Copy what a bundle needs to run: this package's inference core."""
    source, target = Path(finetune.__file__).parent, folder / "finetune"
    target.mkdir()
    for name in _CODE:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("*.pyc"))
        else:
            shutil.copy2(source / name, target / name)
    return target


def _requirements() -> list[str]:
    """List installed versions; a module may come from another distribution (onnxruntime-gpu)."""
    distributions = importlib.metadata.packages_distributions()
    names = [distributions.get(module, [module])[0] for module in _NEEDS]
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]
