"""The examples of docs/deploy.md, run as they stand."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from serving import free_port

from finetune.config.compose import ROOT, compose
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.inference.script import write_script

WITHOUT = "`bundle/` without finetune"
TEXTS = ["房东不退押金怎么办", "公司拖欠工资"]
TRADITIONAL = "房東不退押金怎麼辦"  # the first, as a model of encode.script=t2s is asked too
HEAVY = ("torch", "transformers", "sentence_transformers", "onnx")


def section(title: str) -> str:
    """What stands under a heading."""
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    return next(part for part in page.split("\n## ") if part.startswith(title))


def example(title: str) -> str:
    """The Python of a section."""
    (code,) = re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)
    return code


def commands() -> list[list[str]]:
    """The command lines of *Serve it*, in words."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", section("Serve it"), re.DOTALL | re.MULTILINE)
    plain = "".join(text for language, text in blocks if not language)
    lines = plain.replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines if line]


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


@contextmanager
def running(words, folder, **environment):
    """A server, ended with all that it started."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            words, cwd=folder, env={**os.environ, "PATH": path, **environment}, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def curl(words, port, process, folder):
    """What a server answers to a curl command of the page; asked until it is up."""
    data = words[words.index("-d") + 1].encode()
    types = {"Content-Type": "application/json"}
    url = re.sub(r":\d+", f":{port}", next(word for word in words if word.startswith("http://")))
    deadline = time.monotonic() + 120
    while True:
        try:
            with urlopen(Request(url, data, types), timeout=60) as answer:
                return json.loads(answer.read())
        except (URLError, ConnectionError):
            said = (folder / "server.log").read_text(errors="replace")[-2000:]
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)


def test_the_service_answers_with_the_nearest_passage(run_dir):
    code = example("Serve it")
    port = free_port()
    stand_in = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
    words = [sys.executable, "-X", "utf8", "-c", stand_in + code.replace("8000", str(port))]
    with running(words, run_dir, PYTHONPATH=str(ROOT)) as process:
        found = curl(commands()[0], port, process, run_dir)
    encoder = OnnxEncoder.load(run_dir / "bundle", threads=1)
    passages = ["押金应当退还。", "工资应当按月支付。"]
    query, corpus = encoder.encode(TEXTS[:1], "query"), encoder.encode(passages)
    cosines = (query @ corpus.T)[0].tolist()
    assert found == [{"text": passages[cosines.index(max(cosines))], "cosine": found[0]["cosine"]}]
    assert abs(found[0]["cosine"] - max(cosines)) < 1e-3


@pytest.mark.slow
def test_mlflow_serves_the_registered_bundle(run_dir, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    from finetune.tracking.registry import register

    serve, asked = commands()[1:]
    (setting, *serve) = serve
    uri = setting.partition("=")[2]
    assert uri == compose(["recipes=full"]).tracking.uri
    monkeypatch.chdir(tmp_path)  # where the database and the artifacts go
    client = MlflowClient(tracking_uri=uri)
    run_id = client.create_run("0").info.run_id
    name, _, alias = serve[serve.index("-m") + 1].removeprefix("models:/").partition("@")
    version = register(run_dir / "bundle", name, run_id, uri, {"verdict": "better"})
    client.set_registered_model_alias(name, alias, version.version)
    port = free_port()
    serve = [word.replace("5000", str(port)) for word in serve]
    with running(serve, tmp_path, MLFLOW_TRACKING_URI=uri, PYTHONPATH="") as process:
        found = curl(asked, port, process, tmp_path)
    expected = OnnxEncoder.load(run_dir / "bundle", threads=1).encode(TEXTS[:1], "query")
    np.testing.assert_allclose(found["predictions"], expected, atol=1e-5)
