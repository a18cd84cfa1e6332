"""``finetune encode`` (lines or a file, of any size, to vectors) and ``finetune tune-threads``."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from finetune.commands.outputs import check_outputs
from finetune.errors import AS_UTF8, UserError

log = logging.getLogger(__name__)

# As finetune.inference has them, which takes half a second to import (a test holds them equal).
_TYPES, _DEVICES = ("float32", "float16", "int8"), ("auto", "cpu", "cuda")
_PRECISION = "default: int8-dynamic, or the fastest that the bundle has"
_IN_MEMORY = 2**24  # bytes of standard input; what is more lies in a temporary file


def add(commands: Any) -> None:
    """Add the commands to the command line's (argparse names no type for the latter)."""
    encode = commands.add_parser("encode", help="lines on standard input, or a file, to .npy")
    encode.add_argument("bundle", type=Path)
    encode.add_argument("--prompt", default="passage", help="query or passage (default)")
    encode.add_argument("--precision", help=_PRECISION)
    encode.add_argument("--dim", type=int, help="cut vectors to it: one of the bundle's dims")
    encode.add_argument("--dtype", default="float32", choices=_TYPES,
                        help="default: float32; int8 is compared by cosine")  # fmt: skip
    encode.add_argument("--threads", type=int, help="default: all CPUs")
    encode.add_argument("--device", default="auto", choices=_DEVICES,
                        help="default: auto, fp16 on a GPU if any")  # fmt: skip
    encode.add_argument("--input", type=Path, help="file of texts; goes on where it was killed")
    encode.add_argument("--output", type=Path, help="the .npy file that --input is turned into")
    encode.add_argument("--column", help="of --input, if it is JSON Lines: where the text stands")
    encode.add_argument("--processes", type=int, default=1, help="that share the CPUs; of --input")
    encode.set_defaults(run=_encode)
    tune = commands.add_parser("tune-threads", help="measure a bundle's best settings here")
    tune.add_argument("bundle", type=Path)
    tune.add_argument("--precision", help=_PRECISION)
    tune.add_argument("--texts", type=Path, help="file of texts, one a line, as will be encoded")
    tune.set_defaults(run=_tune_threads)


def _encode(arguments: argparse.Namespace) -> int:
    if arguments.input and arguments.output:
        return _encode_file(arguments)
    if arguments.input or arguments.output:
        raise UserError("--input and --output go together; without them, lines of standard input")
    if arguments.column or arguments.processes != 1:
        raise UserError("--column and --processes belong to --input")
    return _encode_lines(arguments)


def _encode_file(arguments: argparse.Namespace) -> int:
    from finetune.inference import encode_file
    from finetune.progress import bar

    check_outputs(output=arguments.output)
    with bar(f"encoding {arguments.input}", None) as progress:
        encode_file(
            arguments.input, arguments.output, arguments.bundle, arguments.prompt,
            column=arguments.column, precision=arguments.precision, dim=arguments.dim,
            dtype=arguments.dtype, threads=arguments.threads, processes=arguments.processes,
            device=arguments.device, progress=progress,
        )  # fmt: skip
    return 0


def _encode_lines(arguments: argparse.Namespace) -> int:
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UserError(
            "finetune encode: reads lines and writes a .npy file, neither of which a terminal is "
            "for; name --input and --output, or use < lines.txt > vectors.npy"
        )
    import numpy as np

    from finetune.inference import OnnxEncoder, as_type, encode_iter
    from finetune.inference.vectors import header

    encoder = OnnxEncoder.load(
        arguments.bundle, arguments.precision, arguments.threads, arguments.dim,
        device=arguments.device,
    )  # fmt: skip
    none = as_type(encoder.encode([], arguments.prompt), arguments.dtype)
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as lines:
        # The header of an .npy file says how many rows follow.
        count = _spool(sys.stdin.buffer, lines)
        sys.stdout.buffer.write(header(count, none.shape[1], none.dtype))
        for vectors in encode_iter(encoder, _texts(lines), arguments.prompt):
            rows = np.ascontiguousarray(as_type(vectors, arguments.dtype))
            sys.stdout.buffer.write(rows.data)
    return 0


def _spool(lines: Iterable[bytes], out: IO[bytes]) -> int:
    """Write down lines as they come, and count them.

    Raises:
        UserError: They are not UTF-8.
    """
    count = size = 0
    for raw in lines:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            place = size + error.start
            raise UserError(f"standard input: not UTF-8 at byte {place}; {AS_UTF8}") from error
        out.write(raw)
        count, size = count + 1, size + len(raw)
    out.seek(0)
    return count


def _texts(lines: Iterable[bytes]) -> Iterator[str]:
    # A form feed or U+2028 within a text ends no line of a file.
    for number, raw in enumerate(lines):
        text = raw.decode("utf-8" if number else "utf-8-sig")  # a file may begin with a mark
        yield text.removesuffix("\n").removesuffix("\r")


def _tune_threads(arguments: argparse.Namespace) -> int:
    from finetune.inference.lines import TextFile
    from finetune.inference.tuning import expected_seconds, tune

    texts = list(TextFile.read(arguments.texts).texts()) if arguments.texts else ()
    log.info("about %.0f s on a machine that does nothing else", expected_seconds())
    found, kept = tune(arguments.bundle, arguments.precision, texts)
    log.info("fastest: %d threads, batches of %d tokens: %.0f texts/s, %.0f by default: %s",
             found.threads, found.budget, found.texts_per_second, found.by_default,
             f"kept in {arguments.bundle}/tuned.json" if kept else "the defaults stay")  # fmt: skip
    return 0
