"""A Ray cluster of this machine for tests: two cores, started and killed as its own processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

TESTS = Path(__file__).parent
MARK = "ONESHOT_TEST_MARK"


def environment() -> dict[str, str]:
    """Variables for processes that use tiny encoders; they carry a mark by which what is left is found."""
    paths = [str(TESTS / "ray_site"), str(TESTS), str(TESTS.parent)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # a token of the user's would lie in the home folder
        "RAY_memory_monitor_refresh_ms": "0",  # a busy machine's memory is not this test's business
        "OMP_NUM_THREADS": "1",
        MARK: uuid.uuid4().hex,
    }


def processes_of(variables: dict[str, str]) -> dict[int, str]:
    """Processes that carry a mark, with their command lines."""
    found = {}
    wanted = f"{MARK}={variables[MARK]}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return {pid: line for pid, line in found.items() if line}  # a zombie has none


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A head with two cores, which are all of the cluster.

    Args:
        variables: of its processes.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables, self.port = dict(variables), free_port()
        self.variables[MARK] = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="osr-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Cluster:
        """Start the head and wait until it runs."""
        words = ["start", "--head", "--block", f"--port={self.port}", "--num-cpus=2", "--num-gpus=0"]
        words += [
            "--include-dashboard=false",
            f"--object-store-memory={100 * 2**20}",
            "--disable-usage-stats",
        ]
        words += [f"--temp-dir={self.folder / uuid.uuid4().hex[:6]}"]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("ray")), *words],
                cwd=TESTS.parent, env=self.variables, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            if "Ray runtime started" in (self.folder / "log").read_text():
                return self
            time.sleep(0.2)
        raise TimeoutError((self.folder / "log").read_text()[-2000:])

    def workers(self) -> list[int]:
        """Processes that follow a recipe now."""
        return [pid for pid, line in processes_of(self.variables).items() if line.startswith("ray::follow")]

    def kill(self) -> None:
        """End all of it at once, as a machine that loses its power."""
        for _ in range(3):  # what was being started meanwhile
            for pid in processes_of(self.variables):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        if self.process is not None:
            self.process.wait(20)

    def close(self) -> None:
        """End it and leave nothing."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
