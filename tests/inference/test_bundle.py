import json
from dataclasses import replace

import pytest

from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.inference.bundle import is_bundle, sha256


def edit(bundle, **changes):
    """Change keys of bundle.json; None drops one."""
    path = bundle / "bundle.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content), encoding="utf-8")


def test_round_trip(bundle, tmp_path):
    info = BundleInfo.read(bundle)
    assert info.name == "手算" and info.prompts == {"query": "问", "passage": ""}
    assert "手算" in info.write(tmp_path).read_text(encoding="utf-8")  # readable, not escaped
    assert BundleInfo.read(tmp_path) == info


def test_describes_its_files(bundle):
    entry = BundleInfo.read(bundle).precisions["fp32"]
    assert entry.file == "fp32/model.onnx"
    assert entry.bytes == (bundle / entry.file).stat().st_size
    assert entry.sha256 == sha256(bundle / entry.file)


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_folder_that_is_no_bundle_says_what_it_holds(tmp_path):
    (tmp_path / "modules.json").touch()
    assert not is_bundle(tmp_path)
    with pytest.raises(UserError, match=r"is no bundle \(it holds modules.json\)"):
        OnnxEncoder.load(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        OnnxEncoder.load(tmp_path / "nowhere")


def test_a_precision_that_is_not_there(bundle):
    with pytest.raises(UserError, match="'int8-dynamic' is not there; it has: fp32"):
        OnnxEncoder.load(bundle, "int8-dynamic")


def test_a_model_that_was_cut_short(bundle):
    model = bundle / "fp32" / "model.onnx"
    size = model.stat().st_size
    model.write_bytes(model.read_bytes()[:-5])
    with pytest.raises(UserError, match=f"has {size - 5} bytes; expected {size}"):
        OnnxEncoder.load(bundle, "fp32")
    model.unlink()
    with pytest.raises(UserError, match="is not there; expected"):
        OnnxEncoder.load(bundle, "fp32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format is 2; this version of finetune reads 1"),
        ({"dim": None}, r"missing keys \['dim'\]"),
        ({"tone": "formal"}, r"unknown keys \['tone'\]"),
        ({"script": "simplified"}, "script is 'simplified'"),
        ({"precisions": {"fp32": {"path": "x"}}}, "expected file, sha256, bytes and plan"),
        ({"precisions": ["fp32"]}, "expected file, sha256, bytes and plan"),
    ],
)
def test_content_that_cannot_be_understood(bundle, changes, message):
    edit(bundle, **changes)
    with pytest.raises(UserError, match=message):
        BundleInfo.read(bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is no JSON"), (b"\xff\xfe\x00", "is no JSON"), (b"[]", "holds a list")],
)
def test_a_file_that_is_no_object(bundle, content, message):
    (bundle / "bundle.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        BundleInfo.read(bundle)


def test_prompts_are_looked_up_by_name(bundle):
    info = replace(BundleInfo.read(bundle), prompts={})
    with pytest.raises(UserError, match="'query' is unknown"):
        info.prompt("query")
