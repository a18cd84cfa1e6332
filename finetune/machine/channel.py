"""What the first process of a run tells the others, through the key-value store of their launcher.

The others look at the store a few times a second. Nothing else holds them while they wait, so that
no timeout can strike, however long the first process works alone.
"""

import logging
import pickle
import time
from datetime import timedelta
from functools import cache
from os import environ
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed import Store

log = logging.getLogger(__name__)

POLL = 0.2  # seconds between two looks at the store
GRACE = 10.0  # seconds that one process gives another to say, or to read, how the run ended
_MEETING = 600.0  # seconds in which all processes come to a step that they do together
# Of a collective. The others stand at one while the first writes a checkpoint.
PATIENCE = timedelta(hours=3)
_END = "end"  # key under which the first process leaves its exit code


class Channel:
    """Messages from the first process to all others, in order.

    Args:
        store: The launcher's.
        rank: Number of this process.
        count: Number of all processes.
    """

    def __init__(self, store: "Store", rank: int, count: int) -> None:
        self.store = store
        self.rank = rank
        self.count = count
        self._position = 0  # messages sent or received so far

    def send(self, message: Any) -> None:
        """Send to all others; what is sent must be small."""
        content = pickle.dumps(message)
        self.store.set(f"message-{self._position}", content)  # type: ignore[arg-type] # takes bytes
        self._position += 1

    def receive(self) -> Any:
        """Wait for the next message.

        Raises:
            SystemExit: When the first process has ended instead.
        """
        key = f"message-{self._position}"
        while not self.has(key):
            if self.code() is not None and not self.has(key):  # sent just before the end?
                self.leave_if_ended()
            time.sleep(POLL)
        self._position += 1
        return pickle.loads(self.store.get(key))

    def meet(self) -> None:
        """Wait until all processes are here, and compute together from here on.

        Raises:
            TimeoutError: When one does not come.
        """
        key = f"here-{self._position}"
        deadline = time.monotonic() + _MEETING
        here = self.store.add(key, 1)
        while here < self.count:
            self.leave_if_ended()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{here} of {self.count} processes came to this step in {_MEETING:.0f} s; see "
                    "what the others said last"
                )
            time.sleep(POLL)
            here = self.store.add(key, 0)

    def group_store(self) -> "Store":
        """Return a store for a process group that starts now."""
        from torch.distributed import PrefixStore

        return PrefixStore(f"group-{self._position}", self.store)

    def end(self, code: int) -> None:
        """Tell the others the exit code, and give them time to read it.

        Others that stand at a collective of an interrupted step are freed only when this process
        is gone.
        """
        import torch

        self.store.set(_END, str(code))
        grace = GRACE / 5 if torch.distributed.is_initialized() else GRACE
        deadline = time.monotonic() + grace
        while self.store.add("gone", 0) < self.count - 1 and time.monotonic() < deadline:
            time.sleep(POLL / 4)

    def code(self) -> int | None:
        """Return the exit code of the first process, once there is one."""
        return int(self.store.get(_END)) if self.has(_END) else None

    def leave_if_ended(self) -> None:
        """End this process with the exit code of the first, once there is one."""
        code = self.code()
        if code is None:
            return
        self.store.add("gone", 1)
        if code == 1:  # of any other end it has told the user
            log.error("process %d ends: the first process failed", self.rank)
        if code:  # launchers name the process that ends first as the cause
            time.sleep(GRACE / 5)
        raise SystemExit(code)

    def has(self, key: str) -> bool:
        """Say whether a key is in the store.

        Raises:
            SystemExit: When the store is gone, and with it the first process.
        """
        from torch.distributed import DistError

        try:
            return bool(self.store.check([key]))
        except DistError as error:
            log.error("process %d ends: the first process is gone", self.rank)
            raise SystemExit(1) from error


@cache
def channel() -> Channel:
    """Return this process's end of the channel; waits until all processes have started."""
    from torch.distributed import PrefixStore, rendezvous

    store, rank, count = next(rendezvous("env://"))
    # A launcher that starts everything again after a failure may keep its store.
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Channel(PrefixStore(f"finetune-{attempt}", store), rank, count)
