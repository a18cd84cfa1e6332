import gzip
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder, as_type, encode_file, openvino
from finetune.inference.lines import TextFile

LINES = [f"{'房东不退押金' * (n % 7)}老板{n}" for n in range(50)]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "vectors.npy"


def test_row_i_belongs_to_line_i(source, out, tiny_bundle):
    assert encode_file(source, out, tiny_bundle, "query", threads=1) == 50
    vectors = np.load(out, mmap_mode="r")
    expected = OnnxEncoder.load(tiny_bundle, threads=1).encode(LINES, "query")
    np.testing.assert_array_equal(vectors, expected)
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "texts.txt", "vectors.npy", "vectors.npy.json"
    ]  # fmt: skip
    record = json.loads((out.parent / "vectors.npy.json").read_text("utf-8"))
    assert (record["rows"], record["done"], record["dim"], record["prompt"]) == (50, 50, 32, "问")


# Where a process dies: the statement that runs before the n-th chunk is counted, and n.
KILLS = {
    "half a chunk is written": ("file.write(b'x' * 100); file.flush(); die()", "append", 3),
    "written, not counted": ("file.write(rows.data); file.flush(); die()", "append", 2),
    "counted": ("real(self, file, rows); die()", "append", 4),
    "before the first": ("die()", "append", 1),
    "not renamed": ("real(self, file, rows); die()", "append", 1),
}


def until_killed(source, out, bundle, point):
    """Encode in a process of its own that kills itself at a point."""
    statement, name, calls = KILLS[point]
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from finetune.inference import encode_file\n"
        "from finetune.inference.output import Output\n"
        f"real, count = Output.{name}, [0]\n"
        "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def patched(self, file, rows):\n"
        "    count[0] += 1\n"
        f"    if count[0] == {calls}:\n"
        f"        {statement}\n"
        "    real(self, file, rows)\n"
        f"Output.{name} = patched\n"
        "encode_file(*map(Path, sys.argv[1:]), chunk=7, threads=1)\n"
    )
    words = [sys.executable, "-c", code, *map(str, (source, out, bundle))]
    assert subprocess.run(words, check=False).returncode == -9


def test_killed_again_and_again_the_vectors_are_identical(source, out, tiny_bundle, tmp_path):
    whole = tmp_path / "whole.npy"
    encode_file(source, whole, tiny_bundle, chunk=7, threads=1)
    counted = []
    for point in KILLS:
        until_killed(source, out, tiny_bundle, point)
        assert not out.exists()
        counted.append(json.loads((tmp_path / "vectors.npy.json").read_text("utf-8"))["done"])
    assert counted == [14, 21, 49, 49, 50]
    told: list[int] = []
    encode_file(source, out, tiny_bundle, chunk=7, threads=1, progress=told.append)
    # INT8 with scales by batch: equal to the last bit only where the same texts share a batch.
    assert out.read_bytes() == whole.read_bytes()
    other = OnnxEncoder.load(tiny_bundle, threads=1).encode(LINES)
    assert np.abs(np.load(out) - other).max() > 0
    assert sum(told) == 50


def test_a_finished_file_is_not_made_again(source, out, tiny_bundle):
    encode_file(source, out, tiny_bundle, threads=1)
    made = out.stat().st_mtime_ns
    told: list[int] = []
    assert encode_file(source, out, tiny_bundle, threads=1, progress=told.append) == 50
    assert out.stat().st_mtime_ns == made and told == [50]


def test_several_processes_give_the_same_file(source, out, tiny_bundle, tmp_path):
    encode_file(source, out, tiny_bundle, chunk=11, threads=1)
    encode_file(source, tmp_path / "two.npy", tiny_bundle, chunk=11, threads=1, processes=2)
    assert (tmp_path / "two.npy").read_bytes() == out.read_bytes()


def test_what_was_killed_goes_on_with_fewer_processes(source, out, bundle, monkeypatch):
    monkeypatch.setattr("finetune.cpu.count", lambda: 4)

    def ended(load, texts, prompt, **settings):
        yield load().encode([next(texts) for _ in range(7)], prompt)
        raise UserError("one of 2 encoding processes was ended from outside")

    monkeypatch.setattr("finetune.inference.files.encode_in_processes", ended)
    with pytest.raises(UserError, match="ended from outside"):
        encode_file(source, out, bundle, precision="fp32", chunk=7, processes=2)
    told: list[int] = []
    encode_file(source, out, bundle, precision="fp32", chunk=7, progress=told.append)
    record = json.loads(out.with_name("vectors.npy.json").read_text("utf-8"))
    assert told[0] == 7 and (record["threads"], record["done"]) == (2, 50)
    with pytest.raises(UserError, match="threads 2, now 3"):
        encode_file(source, out, bundle, precision="fp32", chunk=7, threads=3)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_types(source, out, tiny_bundle, dtype):
    encode_file(source, out, tiny_bundle, dtype=dtype, threads=1)
    vectors = np.load(out)
    expected = as_type(OnnxEncoder.load(tiny_bundle, threads=1).encode(LINES), dtype)
    assert vectors.dtype == dtype
    np.testing.assert_array_equal(vectors, expected)


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines(out, tiny_bundle, tmp_path, packed):
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    rows = [json.dumps({"id": n, "text": line}) for n, line in enumerate(LINES)]
    content = ("\n\n".join(rows) + "\n").encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    assert encode_file(path, out, tiny_bundle, column="text", threads=1) == 50
    expected = OnnxEncoder.load(tiny_bundle, threads=1).encode(LINES)
    np.testing.assert_array_equal(np.load(out), expected)


@pytest.mark.parametrize(
    ("content", "rows"), [(b"", 0), (b"a\n\nb", 3), ("甲\u2028乙\x0c\r\n".encode(), 1)]
)
def test_a_line_is_what_ends_in_a_line_feed(out, bundle, tmp_path, content, rows):
    (tmp_path / "texts.txt").write_bytes(content)
    assert encode_file(tmp_path / "texts.txt", out, bundle, precision="fp32") == rows
    assert np.load(out).shape == (rows, 2)


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        (
            "a.txt",
            "甲\n".encode() + "问题".encode("gb18030"),
            None,
            r"a.txt:2: not UTF-8 at byte 0; save it as UTF-8: iconv",
        ),
        ("a.jsonl", b'{"text": "a"}\n', None, r"name the text's column"),
        ("a.jsonl", b'{"id": 1, "q": "a"}\n', "text", r"a.jsonl:1: no column 'text'; found id, q"),
        ("a.jsonl", b'\n{"text": 3}\n{"text"\n', "text", r"(?s):2: text is int.*:3: no JSON"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', "text", r"a.jsonl:1: text holds a lone surrogate"),
        ("a.gz", b"plain", None, r"a.gz: cannot be unpacked"),
    ],
)
def test_a_file_that_cannot_be_encoded(bundle, out, tmp_path, name, content, column, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        encode_file(tmp_path / name, out, bundle, column=column, precision="fp32")
    assert not list(tmp_path.glob("vectors*"))


def test_a_file_that_may_not_be_read(source, out, bundle, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("finetune.inference.lines._open", refuse)  # root may read any
    with pytest.raises(UserError, match=r"texts.txt: cannot be read \(Permission denied\); copy"):
        encode_file(source, out, bundle, precision="fp32")


def test_a_source_that_changes_while_it_is_read(source, out, bundle, monkeypatch):
    read = TextFile.read

    def then(lines):
        def patched(path, column):
            found = read(path, column)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            return found

        monkeypatch.setattr(TextFile, "read", patched)

    then([*LINES, "what came later"])
    assert encode_file(source, out, bundle, precision="fp32") == 50
    assert len(np.load(out)) == 50
    then(LINES[:9])
    cut = out.with_name("cut.npy")
    with pytest.raises(UserError, match=r"cut.npy: got 9 of 51 rows: the source changed.*delete"):
        encode_file(source, cut, bundle, precision="fp32")
    assert not cut.exists()


def test_what_lies_there_must_be_the_same_thing(source, out, tiny_bundle):
    encode_file(source, out, tiny_bundle, threads=1)
    with pytest.raises(UserError, match="made in another way.*prompt '', now '问'"):
        encode_file(source, out, tiny_bundle, "query", threads=1)
    source.write_text("other\n", encoding="utf-8")
    with pytest.raises(UserError, match="rows 50, now 1"):
        encode_file(source, out, tiny_bundle, threads=1)
    out.with_name("vectors.npy.json").unlink()
    with pytest.raises(UserError, match=r"no vectors.npy.json beside it"):
        encode_file(source, out, tiny_bundle, threads=1)


def test_what_another_conversion_or_runtime_made_is_another_thing(source, out, bundle, monkeypatch):
    info = BundleInfo.read(bundle)
    entry = info.precisions["fp32"]
    replace(info, precisions={"int8-static": entry, "openvino-int8": entry}).write(bundle)
    encode_file(source, out, bundle, precision="int8-static", threads=1)
    monkeypatch.setattr(openvino, "version", lambda model: "openvino 1.2.3")
    told = "runtime '.*', now 'openvino 1.2.3'"  # of the same file
    with pytest.raises(UserError, match=told):
        encode_file(source, out, bundle, precision="openvino-int8", threads=1)
    replace(info, script="t2s", precisions={"int8-static": entry}).write(bundle)
    with pytest.raises(UserError, match="script None, now 't2s'"):
        encode_file(source, out, bundle, precision="int8-static", threads=1)


def test_a_record_that_a_power_cut_left_empty(source, out, bundle):
    out.with_name("vectors.npy.json").touch()
    with pytest.raises(UserError, match=r"vectors.npy.json: is no JSON.*delete it and what lies"):
        encode_file(source, out, bundle, precision="fp32")


def test_a_folder_that_is_not_there(source, tmp_path, bundle):
    with pytest.raises(UserError, match=r"vectors.npy: there is no folder .*gone to write it to"):
        encode_file(source, tmp_path / "gone/vectors.npy", bundle, precision="fp32")


def test_an_encoder_needs_nothing_that_windows_lacks():
    code = "import sys; sys.modules['fcntl'] = None; from finetune.inference import OnnxEncoder"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_processes_do_not_write_one_file(source, out, bundle):
    import fcntl

    with out.with_name("vectors.npy.partial").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process writes it"):
            encode_file(source, out, bundle, precision="fp32")


def test_settings_that_mean_nothing(source, out, bundle):
    with pytest.raises(UserError, match="dtype=int4.*float32, float16, int8"):
        encode_file(source, out, bundle, precision="fp32", dtype="int4")
