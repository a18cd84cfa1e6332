"""The examples of docs/deploy.md, run as they stand."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from finetune.config.compose import ROOT
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.inference.script import write_script

WITHOUT = "`bundle/` without finetune"
TEXTS = ["房东不退押金怎么办", "公司拖欠工资"]
TRADITIONAL = "房東不退押金怎麼辦"  # the first, as a model of encode.script=t2s is asked too
HEAVY = ("torch", "transformers", "sentence_transformers", "onnx")


def example(title: str) -> str:
    """The Python of a section."""
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    section = next(part for part in page.split("\n## ") if part.startswith(title))
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


@pytest.fixture(scope="module")
def run_dir(tiny_model, tiny_bundle, tmp_path_factory):
    """A folder with ``model/`` and ``bundle/``, as a run with ``encode.script=t2s`` leaves it."""
    folder = tmp_path_factory.mktemp("deploy")
    shutil.copytree(tiny_model, folder / "model")
    shutil.copytree(tiny_bundle, folder / "bundle")
    write_script(folder / "model", "t2s")
    replace(BundleInfo.read(folder / "bundle"), script="t2s").write(folder / "bundle")
    return folder


def run(code, folder, without, found):
    """The vectors of an example that is run in a folder, as if these packages were not there."""
    # None makes an import fail, wherever the package lies.
    code = (
        f"import sys\nfor name in {without!r}: sys.modules[name] = None\n{code}\n"
        f"import numpy\nnumpy.save({str(found)!r}, vectors)\n"
    )
    words = [sys.executable, "-X", "utf8", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # for the last example
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return np.load(found)


@pytest.mark.parametrize(
    ("title", "without", "precision"),
    [
        (WITHOUT, ("finetune", *HEAVY), "int8-dynamic"),
        ("`model/` in sentence-transformers", ("finetune", "onnxruntime"), "fp32"),
        ("`model/` in transformers", ("finetune", "onnxruntime", "sentence_transformers"), "fp32"),
        ("`bundle/` with `finetune.inference`", HEAVY, "int8-dynamic"),
    ],
)
def test_an_example_gives_the_vectors_of_the_bundle(run_dir, tmp_path, title, without, precision):
    code = example(title)
    assert TEXTS[0] in code
    vectors = run(code.replace(TEXTS[0], TRADITIONAL), run_dir, without, tmp_path / "found.npy")
    expected = OnnxEncoder.load(run_dir / "bundle", precision, threads=1).encode(TEXTS, "query")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_bundle_that_converts_nothing_needs_no_opencc(tiny_bundle, tmp_path):
    without = ("finetune", "opencc", *HEAVY)
    vectors = run(example(WITHOUT), tiny_bundle.parent, without, tmp_path / "found.npy")
    expected = OnnxEncoder.load(tiny_bundle, threads=1).encode(TEXTS, "query")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_what_runs_without_finetune_is_ten_lines_and_two_that_convert():
    code = map(str.strip, example(WITHOUT).splitlines())
    assert sum(bool(line) and not line.startswith(("import", "from")) for line in code) <= 12
