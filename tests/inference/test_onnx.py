import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder, encode_file
from finetune.inference import onnx as module

ROOT_HALF = 0.5**0.5


@pytest.fixture
def encoder(bundle):
    return OnnxEncoder.load(bundle, "fp32", threads=1)


def test_worked_by_hand(encoder):
    vectors = encoder.encode(["甲", "甲乙", "乙", "甲甲甲乙"])
    expected = [[1, 0], [ROOT_HALF, ROOT_HALF], [0, 1], [3 / 10**0.5, 1 / 10**0.5]]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert vectors.dtype == np.float32


def test_the_prompt_goes_before_the_text(encoder):
    # 问 is (-1, 0): with 乙 it points up and to the left, with 甲甲 it leaves one 甲.
    vectors = encoder.encode(["乙", "甲甲"], prompt="query")
    np.testing.assert_allclose(vectors, [[-ROOT_HALF, ROOT_HALF], [1, 0]], atol=1e-6)


def test_cuts_at_the_length_of_the_bundle_prompt_included(encoder):
    np.testing.assert_allclose(encoder.encode(["甲甲甲甲乙乙乙乙"]), [[1, 0]], atol=1e-6)
    # 问甲甲甲 is left, so 甲 twice.
    vectors = encoder.encode(["甲甲甲乙乙乙乙"], prompt="query")
    np.testing.assert_allclose(vectors, [[1, 0]], atol=1e-6)


def test_rows_keep_the_order_of_the_texts_over_batches_and_chunks(encoder, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    rng = random.Random(0)
    texts = ["".join(rng.choices("甲乙", k=rng.randint(1, 4))) for _ in range(40)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-6)


def test_tokenised_in_parts_the_batches_are_the_same(encoder, monkeypatch):
    rng = random.Random(0)
    texts = ["".join(rng.choices("甲乙", k=rng.randint(0, 9))) for _ in range(60)]
    monkeypatch.setattr(module, "CHUNK", 25)
    monkeypatch.setattr(encoder, "_budget", 12)
    whole = list(encoder.batches(texts, "query"))
    monkeypatch.setattr(module, "PART", 7)  # some texts are longer by themselves
    for (rows, feed), (others, other) in zip(encoder.batches(texts, "query"), whole, strict=True):
        np.testing.assert_array_equal(rows, others)
        for name in feed:
            np.testing.assert_array_equal(feed[name], other[name])


def test_parts_are_bounded_and_hold_every_text_once(monkeypatch):
    monkeypatch.setattr(module, "PART", 5)
    texts = ["甲" * n for n in (0, 2, 3, 1, 9, 0, 5, 1)]
    parts = list(module._parts(texts))
    assert [[len(text) for text in part] for part in parts] == [[0, 2, 3], [1], [9], [0, 5], [1]]
    assert list(module._parts([])) == []


def test_a_batch_is_padded_on_the_right_and_masked(encoder):
    ((indices, feed),) = encoder.batches(["甲", "甲乙乙"])
    assert indices.tolist() == [1, 0]
    assert feed["input_ids"].tolist() == [[2, 3, 3], [2, 0, 0]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_no_text(encoder):
    vectors = encoder.encode([])
    assert vectors.shape == (0, 2) and vectors.dtype == np.float32


def test_progress_counts_every_text_once(encoder):
    counts: list[int] = []
    encoder.encode(["甲乙甲乙"] * 300, progress=counts.append)
    assert sum(counts) == 300 and len(counts) == 3  # 128 texts of 4 tokens fill 512


def test_many_threads_at_once(encoder):
    texts = ["甲" * (n % 4 + 1) + "乙" for n in range(50)]
    expected = encoder.encode(texts)
    with ThreadPoolExecutor(8) as pool:
        for vectors in pool.map(lambda _: encoder.encode(texts), range(32)):
            np.testing.assert_array_equal(vectors, expected)


def test_threads_with_different_texts_and_prompts_do_not_meet(tiny_bundle):
    shared = OnnxEncoder.load(tiny_bundle, "int8-dynamic", threads=2)
    calls = [
        ([f"{'房东不退押金' * (n % 5)}{n}" for n in range(size)], prompt)
        for size in (1, 2, 17, 64) for prompt in ("query", "passage")
    ] * 4  # fmt: skip
    expected = [shared.encode(*call) for call in calls]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda call: shared.encode(*call), calls))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic"])
def test_the_number_of_threads_changes_no_vector(tiny_bundle, precision):
    texts = ["房东不退押金" * (n % 9) for n in range(40)]
    one, two = (
        OnnxEncoder.load(tiny_bundle, precision, threads=n).encode(texts) for n in (1, 2)
    )  # fmt: skip
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_an_unknown_prompt_names_the_known_ones(encoder):
    with pytest.raises(UserError, match="'document' is unknown.*passage, query"):
        encoder.encode(["甲"], prompt="document")


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["甲", "乙\ud83d甲"], ValueError, r"texts\[1\].*U\+D83D at character 1"),
        (["甲", None], TypeError, r"texts\[1\] is NoneType"),
        ("甲乙", TypeError, "one string"),
    ],
)
def test_texts_that_cannot_be_tokenised(encoder, texts, error, message):
    with pytest.raises(error, match=message):
        encoder.encode(texts)


def test_a_lone_surrogate_is_found_in_a_later_chunk(encoder, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    with pytest.raises(ValueError, match=r"texts\[3\]"):
        encoder.encode(["甲", "甲", "甲", "\udc00"])


def test_int8_is_the_default(two_precisions):
    assert OnnxEncoder.load(two_precisions).encode(["甲"]).tolist() == [[1, 0]]


def test_where_int8_failed_its_gate_the_fastest_is_taken_and_told(bundle, caplog, tmp_path):
    assert OnnxEncoder.load(bundle).encode(["甲"]).tolist() == [[1, 0]]
    assert "has no int8-dynamic" in caplog.text and "fp32 is taken" in caplog.text
    (tmp_path / "texts").write_text("甲\n", "utf-8")
    assert encode_file(tmp_path / "texts", tmp_path / "out.npy", bundle) == 1
    with pytest.raises(UserError, match="'int8-dynamic' is not there; it has: fp32"):
        OnnxEncoder.load(bundle, "int8-dynamic")  # what was asked for by name
    replace(BundleInfo.read(bundle), precisions={}).write(bundle)
    with pytest.raises(UserError, match="'int8-dynamic' is not there; it has: none"):
        OnnxEncoder.load(bundle)


def test_another_tokenizer_is_refused(bundle):
    path = bundle / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("甲", "丙"), encoding="utf-8")
    with pytest.raises(UserError, match="is not the tokeniser"):
        OnnxEncoder.load(bundle, "fp32")


def test_a_missing_tokenizer(bundle):
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json: is not there"):
        OnnxEncoder.load(bundle, "fp32")


def test_the_core_runs_without_torch(bundle):
    code = (
        "import sys, pathlib, finetune.inference as core\n"
        "encoder = core.OnnxEncoder.load(pathlib.Path(sys.argv[1]), 'fp32')\n"
        "assert encoder.encode(['甲']).shape == (1, 2)\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'onnx', 'pandas', 'rich'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, str(bundle)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
