import codecs
import io
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.cli import main
from finetune.commands import encoding
from finetune.inference import TYPES, BundleInfo, OnnxEncoder
from finetune.inference.onnx import CHUNK
from finetune.inference.sessions import DEVICES

pytestmark = pytest.mark.usefixtures("logs_as_they_were")
DONE, BAD_INPUT = 0, 2


def piped(buffer, terminal=False):
    return SimpleNamespace(buffer=buffer, isatty=lambda: terminal)


def encode(monkeypatch, text: bytes, *arguments: str) -> tuple[int, bytes]:
    out = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", piped(io.BytesIO(text)))
        patch.setattr(sys, "stdout", piped(out))
        return main(["encode", *arguments]), out.getvalue()


@pytest.mark.parametrize(
    ("more", "prompt", "precision"),
    [
        ([], "passage", "int8-dynamic"),
        (["--prompt", "query", "--precision", "fp32"], "query", "fp32"),
    ],
)
def test_encode_turns_lines_into_vectors(monkeypatch, tiny_bundle, more, prompt, precision):
    lines = ["房东不退押金", "", "老板", "法律规定"]
    text = ("\n".join(lines) + "\n").encode()
    code, out = encode(monkeypatch, text, str(tiny_bundle), *more)
    vectors = np.load(io.BytesIO(out))
    assert code == DONE and vectors.dtype == np.float32 and vectors.shape == (4, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    expected = OnnxEncoder.load(tiny_bundle, precision).encode(lines, prompt)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_encode_holds_only_a_part_of_the_lines(monkeypatch, tiny_bundle):
    monkeypatch.setattr(encoding, "_IN_MEMORY", 100)
    texts = [f"押金{n % 7}" for n in range(CHUNK + 500)]
    written: list[bytes] = []
    lines = (f"{text}\n".encode() for text in texts)  # cannot be read but line by line
    monkeypatch.setattr(sys, "stdin", piped(lines))
    out = SimpleNamespace(write=lambda part: written.append(bytes(part)))
    monkeypatch.setattr(sys, "stdout", piped(out))
    assert main(["encode", str(tiny_bundle), "--threads", "1"]) == DONE
    head, *parts = written
    assert [len(part) for part in parts] == [CHUNK * 32 * 4, 500 * 32 * 4]
    expected = OnnxEncoder.load(tiny_bundle, threads=1).encode(texts)
    saved = io.BytesIO()
    np.save(saved, expected)
    assert b"".join(written) == saved.getvalue()


@pytest.mark.parametrize(
    ("text", "lines"),
    [(b"", 0), ("甲\r\n乙".encode(), 2), ("甲\u2028乙\x0c丙\n丁\n".encode(), 2), (b"a\n\n\nb", 4)],
)
def test_a_row_of_the_output_is_a_line_of_the_input(monkeypatch, tiny_bundle, text, lines):
    _, out = encode(monkeypatch, text, str(tiny_bundle))
    assert np.load(io.BytesIO(out)).shape == (lines, 32)


def test_a_mark_of_byte_order_is_no_part_of_a_text(monkeypatch, tiny_bundle):
    text = "押金\n老板\n".encode()
    marked = codecs.BOM_UTF8 + text
    plain, found = (encode(monkeypatch, each, str(tiny_bundle)) for each in (text, marked))
    assert found == plain and found[0] == DONE


@pytest.mark.parametrize(
    ("text", "arguments", "phrase"),
    [
        ("问".encode("gb18030"), [], "standard input: not UTF-8 at byte 0"),
        ("问\n".encode() + "a问".encode("gb18030"), [], "at byte 5; save it as UTF-8: iconv"),
        (b"a", ["--precision", "int4"], "'int4' is not there; it has: fp32, int8-dynamic"),
        (b"a", ["--prompt", "title"], "prompt 'title' is unknown"),
        (b"a", ["--input", "texts.txt"], "--input and --output go together"),
        (b"a", ["--column", "text"], "belong to --input"),
    ],
)
def test_encode_what_cannot_be(monkeypatch, capsys, tiny_bundle, text, arguments, phrase):
    code, out = encode(monkeypatch, text, str(tiny_bundle), *arguments)
    assert code == BAD_INPUT and out == b""
    said = capsys.readouterr().err
    assert phrase in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_a_terminal_is_not_waited_for_nor_written_to(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "stdin", piped(io.BytesIO(), name == "stdin"))
    monkeypatch.setattr(sys, "stdout", piped(io.BytesIO(), name == "stdout"))
    assert main(["encode", "bundle"]) == BAD_INPUT
    assert "name --input and --output, or use < lines.txt > vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "known"), [("--dtype", TYPES), ("--device", DEVICES)], ids=["dtype", "device"]
)
def test_choices_are_those_of_the_core(capsys, option, known):
    with pytest.raises(SystemExit) as ended:
        main(["encode", "bundle", option, "int4"])
    assert ended.value.code == BAD_INPUT
    assert f"(choose from {', '.join(map(repr, known))})" in capsys.readouterr().err


def test_encode_without_a_precision_takes_what_the_bundle_has(monkeypatch, tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    info = BundleInfo.read(tiny_bundle)
    only = {"fp32": info.precisions["fp32"]}
    replace(info, precisions=only).write(tmp_path / "bundle")
    code, out = encode(monkeypatch, "押金\n".encode(), str(tmp_path / "bundle"))
    assert code == DONE
    expected = OnnxEncoder.load(tiny_bundle, "fp32").encode(["押金"])
    np.testing.assert_allclose(np.load(io.BytesIO(out)), expected, atol=1e-6)


def test_encode_a_file(tiny_bundle, tmp_path):
    lines = ["房东不退押金", "老板", "法律规定"]
    rows = "".join(json.dumps({"问": line}) + "\n" for line in lines)
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    words = f"{tiny_bundle} --input {tmp_path}/rows.jsonl --column 问 --output {tmp_path}/out.npy"
    assert main(["encode", *words.split(), "--prompt", "query", "--dtype", "float16"]) == DONE
    expected = OnnxEncoder.load(tiny_bundle).encode(lines, "query").astype("float16")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy", mmap_mode="r"), expected)
