"""The model that MLflow serves: texts in, vectors out; no torch.

MLflow keeps a copy of this file beside the bundle and runs it to load the model ("models from
code"); nothing else imports it for use.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from finetune.inference import BundleInfo, OnnxEncoder


class ServedBundle(PythonModel):
    """Encodes the column ``text`` of a table; parameter ``prompt``: ``query`` or ``passage``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the INT8 model of the bundle, or what it has."""
        folder = Path(context.artifacts["bundle"])
        self.encoder = OnnxEncoder.load(folder, BundleInfo.read(folder).fastest)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pandas.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> NDArray[np.float32]:
        """Return one unit vector a row, ``[n, dim]`` float32."""
        prompt = (params or {}).get("prompt", "passage")
        return self.encoder.encode([str(text) for text in model_input["text"]], prompt)


set_model(ServedBundle())
