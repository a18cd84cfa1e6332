import os
import signal
from functools import partial
from itertools import islice

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference import OnnxEncoder, encode_in_processes, encode_iter

TEXTS = ["甲" * (n % 3) + "乙" * (n % 2) + "甲乙"[n % 2] for n in range(40)]


def test_a_stream_is_read_a_chunk_at_a_time(bundle):
    encoder = OnnxEncoder.load(bundle, "fp32", 1)
    read = []

    def endless():
        while True:
            read.append(1)
            yield "甲乙"

    parts = list(islice(encode_iter(encoder, endless(), chunk=5), 3))
    assert [part.shape for part in parts] == [(5, 2)] * 3 and len(read) == 15


def test_a_stream_gives_what_a_list_gives(tiny_bundle):
    encoder = OnnxEncoder.load(tiny_bundle, "int8-dynamic", 1)
    counts: list[int] = []
    texts = [f"房东不退押金{n}" * (n % 5 + 1) for n in range(60)]
    found = np.concatenate(list(encode_iter(encoder, iter(texts), "query", progress=counts.append)))
    np.testing.assert_array_equal(found, encoder.encode(texts, "query"))
    assert sum(counts) == 60
    assert list(encode_iter(encoder, [])) == []


def test_several_processes_give_what_one_gives(bundle):
    load = partial(OnnxEncoder.load, bundle, "fp32", 1)
    one = np.concatenate(list(encode_iter(load(), TEXTS, "query", chunk=3)))
    several = encode_in_processes(load, iter(TEXTS), "query", processes=2, chunk=3)
    np.testing.assert_array_equal(np.concatenate(list(several)), one)


def broken() -> OnnxEncoder:
    raise UserError("the bundle is gone")


def killed() -> OnnxEncoder:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize(
    ("load", "message"), [(broken, "the bundle is gone"), (killed, "ended from outside")]
)
def test_what_goes_wrong_in_a_process_is_told(load, message):
    with pytest.raises(UserError, match=message):
        list(encode_in_processes(load, TEXTS, processes=1, chunk=30))
