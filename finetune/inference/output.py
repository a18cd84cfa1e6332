"""An ``.npy`` file that grows chunk by chunk and survives being killed.

While it grows there are ``<out>.partial``, the rows so far, and ``<out>.json``, which says what
they are and how many of them are safely on disk. Rows are written, brought to the disk, and only
then counted; who comes next cuts off what was not counted. At the end the file gets its name, and
``<out>.json`` stays as the record of what it holds.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError
from finetune.inference.vectors import header
from finetune.records import read_json, write_json


class Output:
    """A growing file of ``shape`` rows and columns; `done` rows are on disk.

    Appending and not a memory map: pages of a map that were written count as memory used, and
    would be as many as the result is large.

    Args:
        path: Of the finished file.
        shape: Rows and columns.
        dtype: Of the numbers.
        settings: All that decides what the rows are.

    Raises:
        UserError: What lies there was made with other settings.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int], dtype: str, settings: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.settings = dict(settings)
        self.done = self._known()

    @property
    def partial(self) -> Path:
        """The file while it grows."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def record(self) -> Path:
        """What the rows are, and how many are done."""
        return _record(self.path)

    @property
    def finished(self) -> bool:
        """Whether the file is there, whole and made with these settings."""
        return self.done == self.shape[0] and self.path.is_file() and not self.partial.is_file()

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Hold the file, set behind the last row that is done; at the end give it its name.

        Raises:
            UserError: Another process writes it, or fewer rows came than it was to hold.
        """
        import fcntl  # here, because Windows has none and an encoder needs none

        with self.partial.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another process writes it; wait for it, or name another file"
                ) from None
            self.done = self._known()  # as the last owner left it
            end = self._end(self.done)
            if os.fstat(file.fileno()).st_size < end:  # someone else's rows, or none
                self.done = 0
            file.truncate(end if self.done else 0)
            if not self.done:
                self._begin(file)
            yield file
            if self.done != self.shape[0]:
                raise UserError(
                    f"{self.path}: got {self.done} of {self.shape[0]} rows: the source changed "
                    f"while it was read; delete {self.record} and what lies beside it, and encode "
                    "the source again once nothing writes it"
                )
            self.partial.replace(self.path)

    def append(self, file: IO[bytes], rows: NDArray[np.generic]) -> None:
        """Add rows; when this returns they are on disk and counted."""
        file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.done += len(rows)
        self._count(file)

    def _begin(self, file: IO[bytes]) -> None:
        file.write(header(*self.shape, self.dtype))
        self._count(file)

    def _end(self, rows: int) -> int:
        """Bytes of the file with so many rows."""
        return len(header(*self.shape, self.dtype)) + rows * self.shape[1] * self.dtype.itemsize

    def _count(self, file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())
        write_json(self.record, {**self.settings, "done": self.done})

    def _known(self) -> int:
        """Read how many rows an earlier call got done."""
        if not self.record.is_file():
            if self.path.exists():
                raise UserError(
                    f"{self.path}: is there, and no {self.record.name} beside it says what it is; "
                    "delete it, or name another file"
                )
            return 0
        found = read_record(self.path)
        done = found.pop("done", 0)
        other = sorted(
            key for key in {*found, *self.settings} if found.get(key) != self.settings.get(key)
        )
        if other:
            told = ", ".join(f"{k} {found.get(k)!r}, now {self.settings.get(k)!r}" for k in other)
            raise UserError(
                f"{self.path}: was made in another way ({told}); ask for the same, or delete "
                f"{self.record} and what lies beside it, or name another file"
            )
        return int(done) if self.partial.is_file() or self.path.is_file() else 0


def read_record(path: Path) -> dict[str, Any]:
    """Read what is known of a file that was begun or finished; nothing of one that was not.

    Raises:
        UserError: There is no folder for it, or a power cut has left no whole record.
    """
    if not path.parent.is_dir():
        raise UserError(
            f"{path}: there is no folder {path.parent} to write it to; make it, or name a file "
            "elsewhere"
        )
    record = _record(path)
    try:
        found: dict[str, Any] = read_json(record) if record.is_file() else {}
    except json.JSONDecodeError as error:
        raise UserError(
            f"{record}: is no JSON, as a power cut may leave it ({error}); delete it and what lies "
            "beside it, and encode again"
        ) from error
    return found


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")
