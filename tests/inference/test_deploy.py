"""The examples of docs/deploy.md, run as they stand."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from finetune.config.compose import ROOT
from finetune.inference import OnnxEncoder

TEXTS = ["房东不退押金怎么办", "公司拖欠工资"]
HEAVY = ("torch", "transformers", "sentence_transformers", "onnx")


def example(title: str) -> str:
    """The Python of a section."""
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    section = next(part for part in page.split("\n## ") if part.startswith(title))
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


@pytest.fixture(scope="module")
def run_dir(tiny_model, tiny_bundle, tmp_path_factory):
    """A folder with ``model/`` and ``bundle/``, as a run leaves it."""
    folder = tmp_path_factory.mktemp("deploy")
    shutil.copytree(tiny_model, folder / "model")
    shutil.copytree(tiny_bundle, folder / "bundle")
    return folder


@pytest.mark.parametrize(
    ("title", "without", "precision"),
    [
        ("`bundle/` without finetune", ("finetune", *HEAVY), "int8-dynamic"),
        ("`model/` in sentence-transformers", ("finetune", "onnxruntime"), "fp32"),
        ("`model/` in transformers", ("finetune", "onnxruntime", "sentence_transformers"), "fp32"),
        ("`bundle/` with `finetune.inference`", HEAVY, "int8-dynamic"),
    ],
)
def test_an_example_gives_the_vectors_of_the_bundle(run_dir, title, without, precision):
    # None makes an import fail, wherever the package lies.
    code = (
        f"import sys\nfor name in {without!r}: sys.modules[name] = None\n{example(title)}\n"
        "import numpy\nnumpy.save('found.npy', vectors)\n"
    )
    words = [sys.executable, "-X", "utf8", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # for the last example
    done = subprocess.run(
        words, cwd=run_dir, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = OnnxEncoder.load(run_dir / "bundle", precision, threads=1).encode(TEXTS, "query")
    np.testing.assert_allclose(np.load(run_dir / "found.npy"), expected, atol=1e-5)


def test_what_runs_without_finetune_is_ten_lines():
    code = example("`bundle/` without finetune").splitlines()
    assert sum(bool(line) and not line.startswith(("import", "from")) for line in code) <= 10
