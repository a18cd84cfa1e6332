from finetune.report.exports import notes, published, unpublished
from finetune.report.gates import Gate, Status

GOOD = {"texts": 500, "min_cosine": 0.99, "top10_overlap": 0.97, "misses": {}}


def gate(name, status):
    return Gate(name, status, 0.1, 0.005, 9, 0.1, 0.1, None, "")


def test_published_formats_have_no_gate():
    assert list(unpublished({"fp32": GOOD, "openvino-int8": GOOD})) == []
    bad = {**GOOD, "misses": {"min_cosine": 1}}
    assert published({"fp32": GOOD, "int8-static": bad, "fp16": {}}, []) == ["fp32", "fp16"]


def test_what_failed_its_gate_is_not_published():
    parity = {"fp32": GOOD, "int8-dynamic": GOOD, "openvino-int8": GOOD}
    gates = [gate("int8", Status.failed), gate("openvino-int8", Status.inconclusive)]
    assert published(parity, [*gates, gate("gain", Status.failed)]) == ["fp32", "openvino-int8"]


def test_a_format_that_was_not_published_fails_a_gate():
    bad = {**GOOD, "top10_overlap": 0.4321, "misses": {"top10_overlap": 0.7, "min_cosine": 1}}
    (gate,) = unpublished({"fp32": GOOD, "int8-static": bad})
    assert (gate.name, gate.status) == ("parity-int8-static", Status.failed)
    assert (gate.value, gate.threshold, gate.n) == (0.4321, 0.7, 500)
    assert gate.detail == (
        "onnx-int8-static is not published: on 500 texts its top10 overlap with torch is 0.4321; "
        "it must be 0.7."
    )


def test_fp16_comes_with_a_note():
    assert not list(notes({"fp32": GOOD}))
    (note,) = notes({"fp32": GOOD, "fp16": GOOD})
    assert "made for GPUs" in note


def test_parts_that_stay_fp32_come_with_a_note():
    quality = {"kept": 3, "of": 13, "budget": {"centred_cosine": 0.995},
               "before": {"centred_cosine": 0.98}, "after": {"centred_cosine": 0.996},
               "missed": []}  # fmt: skip
    (note,) = notes({"fp32": GOOD, "int8-static": {**GOOD, "quality": quality}})
    assert note == (
        "onnx-int8-static: 3 of 13 parts stay fp32. All in INT8, it agrees with torch by centred "
        "cosine 0.9800; with these, by centred cosine 0.9960. Its budget (quantize.*) is centred "
        "cosine 0.9950."
    )
    (note,) = notes({"int8-static": {**GOOD, "quality": quality | {"missed": ["centred_cosine"]}}})
    assert note.endswith("which is missed even so.")
    assert not list(notes({"int8-static": {**GOOD, "quality": quality | {"kept": 0}}}))
