"""A real `mlflow server` that can be killed and started again, and a proxy that makes it slow."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from serving import free_port

_STARTS = 120  # seconds at most, on a busy machine


class Server:
    """An MLflow server on loopback; database and artifacts outlive its death."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.database = folder, database
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.database}",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **quiet}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _STARTS
        while not self._answers():
            said = (self.folder / "server.log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)

    def kill(self) -> None:
        """End it and its workers, as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.uri}/health", timeout=2):
                return True
        except (URLError, OSError):
            return False


class Slow:
    """A proxy in front of a server, which keeps every request waiting for ``delay`` seconds."""

    def __init__(self, port: int, delay: float) -> None:
        self.delay = delay
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, waits in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, waits), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, waits: bool) -> None:
        try:
            while data := source.recv(65536):
                if waits:
                    time.sleep(self.delay)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def at(config, uri):
    return dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, uri=uri))


def train(path, steps) -> None:
    """Write curves as training does, a row for each of these steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for step in steps:
            row = {"step": step, "loss": 1 / (1 + step), "memory_mb": 900.0, "time": time.time()}
            file.write(json.dumps(row) + "\n")
            file.flush()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
