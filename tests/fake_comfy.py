"""A stand-in for a ComfyUI server, by the standard library; a restart loses its queue and its history."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import tempfile
import threading
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from PIL import Image
from safetensors import safe_open
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import GeneratorBundle, save

WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSIONS = {
    "comfyui_version": "0.33.0-fake", "pytorch_version": "2.9.0+cpu", "python_version": "3.12.3 (main) [GCC]",
}  # fmt: skip
NODE_TYPES: dict[str, Any] = {  # both ways in which ComfyUI describes a list
    "LoadStyleGAN": {"input": {"required": {"generator_name": [["demo", "ffhq.pt", "church.pt"], {}]}}},
    "OneShotLoadEncoders": {
        "input": {"required": {"clip": ["COMBO", {"options": ["demo", "ViT-B-32:openai"]}]}, "optional": {}}
    },
    "LoadImage": {"input": {"required": {"image": [["example.png"], {"image_upload": True}]}}},
    "OneShotDemoTarget": {"input": {"required": {"look": ["COMBO", {"options": ["comic"]}]}}},
    "StyleCLIPEdit": {
        "input": {
            "required": {
                "method": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "direction", "inputs": {}}]}]
            }
        }
    },
    **{
        name: {"input": {"required": {"steps": ["INT", {"default": 1, "min": 1}]}}}
        for name in ("CLIPLatentSearch", "OneShotAdapt", "SampleAdapted", "OneShotSaveGenerator", "SaveImage")
    },
}
NOTES = ["the generator's file has no discriminator"]
MESSAGES = [["execution_start", {"timestamp": 1000}], ["execution_success", {"timestamp": 3500}]]


@cache
def _bundle() -> GeneratorBundle:
    return tiny_bundle(64)


def generator_file(prompt: dict[str, Any]) -> bytes:
    """A small generator with a prompt in its header, as Save Generator writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = save(_bundle(), Path(folder) / "x.safetensors", metadata={"prompt": json.dumps(prompt)})
        return path.read_bytes()


def prompt_of(path: Path) -> dict[str, Any]:
    """The prompt in a generator's header."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["prompt"])


def png_file() -> bytes:
    """A small picture."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


class FakeComfy:
    """Starts on a free port; prompts run when `run_next` is called, or by themselves with `automatic`.

    A node OneShotSaveGenerator saves a generator whose header holds the prompt; a node Fail raises.
    """

    def __init__(self, automatic: bool = True) -> None:
        self.automatic = automatic
        self.files: dict[tuple[str, str, str], bytes] = {}  # survive a restart, as a folder does
        self.uploads: list[tuple[str, bytes]] = []
        self.submitted: list[dict[str, Any]] = []
        self.cut_downloads = 0
        self.asked: list[str] = []
        self.node_types = {name: dict(values) for name, values in NODE_TYPES.items()}
        self.stats = {"system": {**VERSIONS, "os": "linux"}, "devices": []}
        self.sockets: list[Any] = []
        self.lock, self.turn = threading.RLock(), threading.Lock()
        self.port = 0
        self._forget()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _forget(self) -> None:
        self.pending: list[dict[str, Any]] = []
        self.running: list[dict[str, Any]] = []
        self.history: dict[str, Any] = {}

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"comfy": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """End without a word; queue and history are lost."""
        self.http.shutdown()
        self.http.server_close()
        with self.lock:
            self._forget()
            for socket in self.sockets:
                with suppress(OSError):
                    socket.shutdown(2)
            self.sockets.clear()

    def take(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            unknown = [
                (node, values)
                for node, values in body["prompt"].items()
                if values["inputs"].get("generator_name") == "missing.pt"
            ]
            if unknown:
                node, values = unknown[0]
                wrong = {
                    "message": "Value not in list",
                    "details": "generator_name: 'missing.pt' not in ['demo']",
                }
                errors = {node: {"class_type": values["class_type"], "errors": [wrong]}}
                error = {
                    "type": "prompt_outputs_failed_validation",
                    "message": "Prompt outputs failed",
                    "details": "",
                }
                return 400, {"error": error, "node_errors": errors}
            self.submitted.append(body)
            self.pending.append(body)
            if self.automatic:
                threading.Thread(target=self.run_next, daemon=True).start()
            return 200, {"prompt_id": body["prompt_id"], "number": len(self.submitted), "node_errors": {}}

    def begin_next(self) -> dict[str, Any] | None:
        with self.lock:
            if not self.pending:
                return None
            body = self.pending.pop(0)
            self.running.append(body)
        self.tell("execution_start", prompt_id=body["prompt_id"])
        return body

    def run_next(self) -> None:
        with self.turn:  # one after the other, in the order of the queue
            body = self.begin_next()
            if body is not None:
                self.finish(body)

    def finish(self, body: dict[str, Any]) -> None:
        prompt_id, prompt = body["prompt_id"], body["prompt"]
        status = {"status_str": "success", "completed": True, "messages": MESSAGES}
        for node, values in prompt.items():
            kind = values["class_type"]
            steps = values["inputs"].get("steps")
            if isinstance(steps, int):
                points = {"points": {"lpips": [[1, 0.5], [steps, 0.25]]}, "step": steps, "steps": steps}
                self.tell("oneshot.loss", node=node, prompt_id=prompt_id, **points)
                self.tell("progress", node=node, prompt_id=prompt_id, value=steps, max=steps)
            if kind in ("Fail", "Interrupt"):
                message = {"node_id": node, "node_type": kind, "exception_type": "ValueError"}
                name = "execution_error" if kind == "Fail" else "execution_interrupted"
                status = {"status_str": "error", "completed": False}
                status["messages"] = [
                    ["execution_start", {}],
                    [name, {**message, "exception_message": "too bad\n"}],
                ]
        outputs = self._outputs(prompt) if status["completed"] else {}
        with self.lock:
            if body not in self.running:  # the server was stopped
                return
            self.running.remove(body)
            self.history[prompt_id] = {"prompt": [0, prompt_id, prompt], "outputs": outputs, "status": status}
        self.tell("executing", node=None, prompt_id=prompt_id)

    def _outputs(self, prompt: dict[str, Any]) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        for node, values in prompt.items():
            if values["class_type"] == "OneShotSaveGenerator":
                subfolder, _, stem = values["inputs"]["filename_prefix"].rpartition("/")
                name = f"{stem}_00001_.safetensors"
                self.files["output", subfolder, name] = generator_file(prompt)
                outputs[node] = {"generators": [{"filename": name, "subfolder": subfolder, "type": "output"}]}
                outputs[node]["text"] = ["saved"]
            elif values["class_type"] == "OneShotAdapt":
                curves = {"lpips": [[1, 0.5], [values["inputs"].get("steps", 2), 0.25]], "patch": []}
                outputs[node] = {"losses": [curves], "text": ["done"], "notes": NOTES}
                outputs[node]["versions"] = [{"oneshot-stylegan": "0.1.0"}]
            elif values["class_type"] == "PreviewImage":
                outputs[node] = {"images": [{"filename": "p.png", "subfolder": "", "type": "temp"}]}
            elif values["class_type"] == "SaveImage":
                self.files["output", "", "x.png"] = png_file()
                outputs[node] = {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}
        return outputs

    def tell(self, kind: str, **data: Any) -> None:
        text = json.dumps({"type": kind, "data": data}).encode()
        head = b"\x81" + (bytes([len(text)]) if len(text) < 126 else b"\x7e" + struct.pack(">H", len(text)))
        with self.lock:
            for socket in self.sockets:
                with suppress(OSError):
                    socket.sendall(head + text)


class _Handler(BaseHTTPRequestHandler):
    comfy: FakeComfy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts, comfy = urlsplit(self.path), self.comfy
        comfy.asked.append(f"GET {parts.path}")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/ws":
            self._websocket()
        elif parts.path == "/system_stats":
            self._answer(200, comfy.stats)
        elif parts.path == "/queue":
            with comfy.lock:
                found = {
                    f"queue_{name}": [[0, body["prompt_id"], body["prompt"], {}, []] for body in bodies]
                    for name, bodies in (("running", comfy.running), ("pending", comfy.pending))
                }
            self._answer(200, found)
        elif parts.path.startswith("/history/"):
            prompt_id = parts.path.rpartition("/")[2]
            with comfy.lock:
                found = {prompt_id: comfy.history[prompt_id]} if prompt_id in comfy.history else {}
            self._answer(200, found)
        elif parts.path.startswith("/object_info/"):
            name = unquote(parts.path.rpartition("/")[2])
            self._answer(200, {name: comfy.node_types[name]} if name in comfy.node_types else {})
        elif parts.path == "/view":
            self._file(comfy.files.get((query["type"], query.get("subfolder", ""), query["filename"])))
        else:
            self._answer(404, b"404: Not Found")

    def do_POST(self) -> None:
        body, comfy = self.rfile.read(int(self.headers["Content-Length"])), self.comfy
        comfy.asked.append(f"POST {self.path}")
        if self.path == "/prompt":
            self._answer(*comfy.take(json.loads(body)))
        elif self.path == "/upload/image":
            name = body.split(b'filename="')[1].split(b'"')[0].decode()
            content = body.split(b"application/octet-stream\r\n\r\n")[1].rpartition(b"\r\n--")[0]
            subfolder = body.split(b'name="subfolder"\r\n\r\n')[1].split(b"\r\n")[0].decode()
            comfy.uploads.append((f"{subfolder}/{name}", content))
            self._answer(200, {"name": name, "subfolder": subfolder, "type": "input"})
        elif self.path == "/queue":
            delete = json.loads(body)["delete"]
            with comfy.lock:
                comfy.pending = [one for one in comfy.pending if one["prompt_id"] not in delete]
            self._answer(200, b"")
        elif self.path == "/interrupt":
            with comfy.lock:
                comfy.running.clear()
            self._answer(200, b"")
        else:
            self._answer(404, b"404: Not Found")

    def _answer(self, code: int, values: Any) -> None:
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._answer(404, b"")
        elif self.comfy.cut_downloads:
            self.comfy.cut_downloads -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:5])
            self.close_connection = True
        else:
            self._answer(200, content)

    def _websocket(self) -> None:
        key = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + WEBSOCKET_KEY).encode()).digest()
        with self.comfy.lock:  # whoever has seen the answer is told everything
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(key).decode())
            self.end_headers()
            self.comfy.sockets.append(self.connection)
        with suppress(OSError):
            while (head := self.connection.recv(4096)) and head[
                0
            ] & 15 != 8:  # until a frame that says goodbye
                continue
            self.connection.sendall(b"\x88\x00")
        self.close_connection = True
