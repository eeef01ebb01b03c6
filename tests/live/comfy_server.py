"""A real ComfyUI server for tests: started on the CPU in a temporary base directory, driven by HTTP."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

PACK = Path(__file__).resolve().parents[2]
START_SECONDS, PROMPT_SECONDS = 400, 300
TINY = "tiny.safetensors"  # an untrained generator of 64 px and few channels, so that a step takes a moment


def comfy_folders() -> list[Path]:
    """COMFYUI_PATH (several by the path separator), else above the pack, else where comfy-cli puts it."""
    named = os.environ.get("COMFYUI_PATH", "")
    places = (
        named.split(os.pathsep) if named else [str(PACK.parents[1]), str(Path.home() / "comfy" / "ComfyUI")]
    )
    found = [Path(place) for place in places if (Path(place) / "comfy_api" / "latest").is_dir()]
    return found if named else found[:1]


def comfy_python(folder: Path) -> str:
    """COMFYUI_PYTHON, else the environment inside ComfyUI, else this interpreter."""
    inside = [folder / name / "bin" / "python" for name in (".venv", "venv")]
    found = [os.environ.get("COMFYUI_PYTHON"), *[str(path) for path in inside if path.is_file()]]
    return next(filter(None, found), sys.executable)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def put_tiny_generator(folder: Path) -> None:
    """Put a generator there that trains in moments."""
    from stand_ins import tiny_bundle  # here: not all that ask this module for folders have the engine

    from oneshot_core import save

    if not (folder / TINY).exists():
        save(tiny_bundle(64), folder / TINY)


class PromptRefused(Exception):
    """The server refused a prompt; `body` is its answer."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(json.dumps(body)[:2000])
        self.body = body


class Server:
    """One server process.

    Args:
        comfy: ComfyUI's folder.
        base: base directory; made with what ComfyUI needs, kept between restarts.
        packs: further packs by folder name.
        arguments: more command-line arguments.
        environment: more environment variables.
        site: folder with a `sitecustomize.py` that the server's interpreter runs first.
    """

    def __init__(
        self,
        comfy: Path,
        base: Path,
        packs: Mapping[str, Path] | None = None,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        site: Path | None = None,
    ) -> None:
        self.comfy, self.base, self.port = comfy, base, free_port()
        self.arguments, self.environment, self.site = arguments, dict(environment or {}), site
        self.client_id = str(uuid.uuid4())
        for name in ("custom_nodes", "user", "input", "output", "models"):
            (base / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(comfy / "input" / "example.png", base / "input")
        for name, pack in {"oneshot-stylegan": PACK, **(packs or {})}.items():
            link = base / "custom_nodes" / name
            if not link.exists():
                link.symlink_to(pack, target_is_directory=True)
        put_tiny_generator(base / "models" / "oneshot_stylegan")
        self.log = base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Server:
        """Start and wait until it answers."""
        command = [
            comfy_python(self.comfy),
            "main.py",
            "--cpu",
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        command += ["--disable-api-nodes", "--base-directory", str(self.base)]
        command += ["--database-url", "sqlite:///:memory:", *self.arguments]
        command += shlex.split(os.environ.get("COMFYUI_ARGUMENTS", ""))
        environment = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        environment.pop("PYTHONPATH", None)
        if self.site is not None:
            environment["PYTHONPATH"] = str(self.site)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.comfy, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at once:\n{self.log_text()[-3000:]}")
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
            else:
                return self
        self.stop(kill=True)
        raise RuntimeError(f"ComfyUI did not answer in {START_SECONDS} s:\n{self.log_text()[-3000:]}")

    def stop(self, kill: bool = False) -> None:
        """End the process; `kill` gives it no chance to clean up."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)

    def resident_bytes(self) -> int:
        """Resident memory of the process (Linux)."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in text.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def cpu_seconds(self) -> float:
        """What the process has computed (Linux): it does not grow while other programs have the cores."""
        assert self.process is not None
        words = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def log_text(self) -> str:
        """What the server printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """GET, JSON decoded."""
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)

    def get_bytes(self, path: str) -> bytes:
        """GET, raw."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON; the answer decoded, None when empty."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                raise PromptRefused(json.loads(text)) from error
            except ValueError:
                raise PromptRefused({"status": error.code, "text": text.decode(errors="replace")}) from error
        return json.loads(text) if text else None

    def queue(self, workflow: Mapping[str, Any]) -> str:
        """Queue an API workflow; returns its prompt id."""
        prompt_id = str(uuid.uuid4())
        body = {"prompt": workflow, "client_id": self.client_id, "prompt_id": prompt_id}
        return str(self.post("/prompt", body)["prompt_id"])

    def watch(self, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> list[dict[str, Any]]:
        """Read websocket events until one is wanted; returns all of them, empty when it did not come."""
        from websockets.sync.client import connect

        seen: list[dict[str, Any]] = []
        address = f"ws://127.0.0.1:{self.port}/ws?clientId={self.client_id}"
        deadline = time.monotonic() + seconds
        with connect(address, max_size=None) as socket:
            while time.monotonic() < deadline:
                try:
                    message = socket.recv(timeout=1)
                except TimeoutError:
                    continue
                if isinstance(message, bytes):
                    kind = int.from_bytes(message[:4], "big")
                    seen.append({"type": "binary", "kind": kind, "bytes": len(message)})
                else:
                    seen.append(json.loads(message))
                if wanted(seen[-1]):
                    return seen
        return []

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Entry of a finished prompt."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def wait(self, prompt_id: str, seconds: float = PROMPT_SECONDS) -> dict[str, Any]:
        """Wait for a prompt to end; returns its history entry."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.history(prompt_id)
            if found is not None:
                return found
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the server died:\n{self.log_text()[-3000:]}")
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} did not end in {seconds} s:\n{self.log_text()[-3000:]}")

    def run(self, workflow: Mapping[str, Any], seconds: float = PROMPT_SECONDS) -> dict[str, Any]:
        """Queue, wait, and insist on success; returns the outputs by node id."""
        entry = self.wait(self.queue(workflow), seconds)
        if entry["status"]["status_str"] != "success":
            raise AssertionError(f"the prompt failed: {failure(entry)}")
        return dict(entry["outputs"])


def failure(entry: Mapping[str, Any]) -> str:
    """Message of the error that ended a prompt, empty where none did."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return str(data["exception_message"])
        if kind == "execution_interrupted":
            return "interrupted"
    return ""


def saved_weights(base: Path, outputs: dict[str, Any]) -> dict[str, Any]:
    """Tensors of the file that node 9 saved."""
    (saved,) = outputs["9"]["generators"]
    return load_file(base / "output" / saved["subfolder"] / saved["filename"])


def kept_runs(base: Path) -> dict[str, int]:
    """When each finished file that trainings left was written: a run that only loads writes none of them."""
    folder = base / "output" / "oneshot_runs"
    # Names that begin with a dot are being written: they may be gone when they are asked for.
    found = [path for path in folder.rglob("*.safetensors") if not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two files hold the same tensors bit for bit."""
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
