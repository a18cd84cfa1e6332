import builtins
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.inference.script import converted, converter, read_script, write_script


class Recorder:
    dim = 2

    def encode(self, texts, prompt="passage", *, progress=None):
        self.seen = (list(texts), prompt)
        return np.zeros((len(texts), 2), np.float32)


def test_an_encoder_that_converts_what_it_is_given():
    inner = Recorder()
    encoder = converted(inner, "t2s")
    assert encoder.encode(["房東", "天下"], "query").shape == (2, 2) and encoder.dim == 2
    assert inner.seen == (["房东", "天下"], "query")
    assert converted(inner, "keep") is inner
    with pytest.raises(TypeError, match="one string"):
        encoder.encode("房東")


def test_a_missing_package_answers_with_the_command(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "opencc":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    converter.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    assert converter("keep")("房東") == "房東"
    with pytest.raises(UserError, match="pip install opencc"):
        converter("t2s")


def scripted(bundle, way):
    replace(BundleInfo.read(bundle), script=way).write(bundle)
    return OnnxEncoder.load(bundle, "fp32", 1)


def test_the_bundle_says_how_its_texts_are_converted(bundle):
    assert "script" not in json.loads((bundle / "bundle.json").read_text("utf-8"))
    plain = OnnxEncoder.load(bundle, "fp32", 1)
    encoder = scripted(bundle, "t2s")
    assert BundleInfo.read(bundle).script == "t2s"
    np.testing.assert_array_equal(encoder.encode(["甲", "乙"]), plain.encode(["甲", "乙"]))
    ((_, feed),) = encoder.batches(["甲", "後乙"])
    assert feed["input_ids"].tolist() == [[1, 3], [2, 0]]


def test_both_scripts_of_a_text_get_one_vector(tiny_bundle, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    plain = OnnxEncoder.load(folder, "fp32", 1).encode(["离婚财产", "離婚財產"])
    assert plain[0] @ plain[1] < 0.99
    both = scripted(folder, "t2s").encode(["离婚财产", "離婚財產"])
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_allclose(both[0], plain[0], atol=1e-6)


def test_a_text_that_is_none_is_named_before_conversion_too(bundle):
    encoder = scripted(bundle, "t2s")
    with pytest.raises(TypeError, match=r"texts\[1\] is int"):
        encoder.encode(["甲", 3])
    with pytest.raises(ValueError, match=r"texts\[0\] holds the lone surrogate"):
        encoder.encode(["\ud800"])


def test_a_conversion_of_another_version(bundle):
    replace(BundleInfo.read(bundle), script="t2x").write(bundle)
    with pytest.raises(UserError, match="script is 't2x'"):
        OnnxEncoder.load(bundle, "fp32")


def test_the_note_in_a_model_folder(tmp_path):
    assert read_script(tmp_path) == "keep"
    write_script(tmp_path, "tw2s")
    assert read_script(tmp_path) == "tw2s"
    write_script(tmp_path, "keep")
    assert list(tmp_path.iterdir()) == []
