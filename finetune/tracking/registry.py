"""Register a bundle as an MLflow model that loads and answers without torch.

The model carries the inference core as code, so that it needs neither torch nor this package.
"""

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

import finetune
from finetune.inference import BundleInfo

_NEEDS = ("numpy", "onnxruntime", "pandas", "tokenizers")
_CODE = ("__init__.py", "errors.py", "inference")


def register(bundle: Path, name: str, run_id: str, uri: str) -> None:
    """Log a bundle to a run as ``bundle`` and make it a new version of a registered model.

    Args:
        bundle: The bundle folder.
        name: Of the registered model.
        run_id: The run that it belongs to.
        uri: Of the tracking server; its registry gets the model, unless MLFLOW_REGISTRY_URI names
            another.
    """
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    info = BundleInfo.read(bundle)
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "text")]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, info.dim))]),
        params=ParamSchema([ParamSpec("prompt", "string", "passage")]),
    )
    mlflow.set_tracking_uri(uri)
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
    _new_version(name.replace("/", "-").replace(":", "-"), logged.model_id, run_id)


def _new_version(name: str, model_id: str, run_id: str) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)


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
