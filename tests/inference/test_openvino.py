import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder


@pytest.fixture
def folder(bundle):
    """The bundle worked out by hand, its graph for OpenVINO too."""
    info = BundleInfo.read(bundle)
    files = {**info.precisions, "openvino-int8": info.precisions["fp32"]}
    replace(info, precisions=files).write(bundle)
    return bundle


def test_it_runs_the_same_graph(folder):
    pytest.importorskip("openvino")
    texts = ["甲", "乙乙甲", "甲乙", "", "乙" * 9] * 5
    expected = OnnxEncoder.load(folder, "fp32", threads=1).encode(texts)
    encoder = OnnxEncoder.load(folder, "openvino-int8", threads=1)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-6)


def test_results_stay_when_the_next_batch_runs(folder):
    pytest.importorskip("openvino")
    encoder = OnnxEncoder.load(folder, "openvino-int8", threads=1)
    first = encoder.encode(["甲"])
    before = first.copy()
    encoder.encode(["乙"])
    np.testing.assert_array_equal(first, before)


def test_threads_share_it(folder):
    pytest.importorskip("openvino")
    encoder = OnnxEncoder.load(folder, "openvino-int8", threads=1)
    texts = [["甲"], ["乙"], ["甲乙"], ["乙乙甲"]] * 20
    expected = [encoder.encode(each) for each in texts]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(encoder.encode, texts), expected, strict=True):
            np.testing.assert_array_equal(found, one)


def test_without_the_package_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'finetune\[openvino\]'"):
        OnnxEncoder.load(folder, "openvino-int8")
