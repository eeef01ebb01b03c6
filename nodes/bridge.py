"""The only file that touches ComfyUI's runtime: folders, device and memory, pictures, progress, stopping."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor, nn

from .. import oneshot_core as core
from ..oneshot_core.choices import DEMO as DEMO
from ..oneshot_core.choices import DEMO_PICTURES
from . import graphs, routes
from .board import CANCELLED, DONE, FAILED, Board, Place, Stops, finite, ui_of, workflow_of
from .pictures import strip, to_core

log = logging.getLogger(__name__)

GENERATORS, LATENTS, ENCODERS = "oneshot_stylegan", "oneshot_latents", "oneshot_encoders"
LOOKS, MAPPERS, DIRECTIONS = "oneshot_looks", "oneshot_mappers", "oneshot_directions"
DICTIONARIES, RUNS, CACHE = "oneshot_dictionaries", "oneshot_runs", "oneshot_cache"
EXTENSIONS = {
    GENERATORS: {".safetensors", ".pt", ".pth", ".pkl"},
    LATENTS: {".safetensors", ".npz", ".npy", ".pt", ".pth"},
    ENCODERS: {".safetensors", ".pt", ".pth", ".bin"},
    **dict.fromkeys((LOOKS, DIRECTIONS, DICTIONARIES), {".safetensors"}),
    MAPPERS: {".safetensors", ".pt", ".pth"},
}
OTHERS_FOLDER = "stylegan"  # of other packs; searched, its registration is left alone
RUNS_LIMIT, RUNS_LIMIT_GB = "ONESHOT_RUNS_LIMIT_GB", 20.0  # environment variable; without it
PREVIEW_SECONDS, EVENT_SECONDS = 1.0, 0.5  # at most one picture, one batch of loss points in this time
PREVIEW_PX, SHOWN_PX = 768, 512
COMPARED = 8  # pictures that a node shows in both looks
PATIENCE_SECONDS = 0.4  # that a cancel waits for the end of a step


# Folders ----------------------------------------------------------------------------------------------


def register_folders() -> None:
    """Tell ComfyUI where generators, latents, looks, directions and encoder weights lie; make the folders."""
    for key, extensions in EXTENSIONS.items():
        places = [Path(folder_paths.models_dir) / key]
        if key != ENCODERS:
            places.append(Path(folder_paths.get_output_directory()) / key)
        for place in places:
            folder_paths.add_model_folder_path(key, str(place))
        paths, known = folder_paths.folder_names_and_paths[key]
        folder_paths.folder_names_and_paths[key] = (paths, set(known) | extensions)
        try:
            places[0].mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("One-Shot StyleGAN: cannot make the folder %s (%s)", places[0], error)


def _others() -> dict[str, Path]:
    """Files in `models/stylegan` of other packs, by relative name."""
    folder = Path(folder_paths.models_dir) / OTHERS_FOLDER
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS[GENERATORS])
    return {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}


def generator_names() -> list[str]:
    """What LoadStyleGAN offers: the demo, then files."""
    own = folder_paths.get_filename_list(GENERATORS)
    return list(dict.fromkeys([DEMO, *own, *_others()]))


def names(key: str) -> list[str]:
    """Files of a model folder."""
    return folder_paths.get_filename_list(key)


def file_path(key: str, name: str, asked: str) -> Path:
    """Find a file by the name a combo offers.

    Args:
        key: of the model folders.
        name: the name.
        asked: id of the combo, for the message.

    Raises:
        ValueError: there is no such file in the folders of that key; names cannot lead out of them.
    """
    listed = {one.replace("\\", "/"): one for one in names(key)}.get(name.replace("\\", "/"))
    found = None if listed is None else folder_paths.get_full_path(key, listed)
    if found is None and key == GENERATORS:
        found = _others().get(name)
    if found is None:
        places = [f"models/{key}", *([] if key == ENCODERS else [f"output/{key}"])]
        raise ValueError(
            f"{asked}: there is no file {name!r} in {' or '.join(places)}; put it there and refresh the node "
            "list"
        )
    return Path(found)


@contextmanager
def by_name(path: Path, name: str) -> Iterator[None]:
    """Let errors about a file call it by the name that its node lists: ComfyUI keeps and sends them."""
    try:
        yield
    except (ValueError, OSError) as error:
        quoted = repr(str(path))[1:-1]  # as an OSError has it, on Windows with doubled backslashes
        raise ValueError(str(error).replace(quoted, name).replace(str(path), name)) from error


def encoder_folder() -> Path:
    """Folder where encoder weights are looked for and downloaded to."""
    return Path(folder_paths.get_folder_paths(ENCODERS)[0])


@contextmanager
def save_place(prefix: str, extension: str) -> Iterator[tuple[Path, str, str]]:
    """Name a new output file by ComfyUI's rules; no other server gives that name away within the block.

    Yields:
        The path, the file name and the subfolder within the output folder; the block writes the file.
    """
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory()
    )
    numbered = (Path(folder) / f"{name}_{number:05}_{extension}" for number in itertools.count(counter))
    with core.first_free(numbered) as path:
        yield path, path.name, subfolder


def check_prefix(prefix: str) -> None:
    """Refuse a prefix of output files that is empty or leads out of the output folder; raises ValueError."""
    root = Path(folder_paths.get_output_directory()).resolve()
    place = (root / prefix.replace("\\", "/")).resolve()
    if not prefix.strip():
        raise ValueError("filename_prefix is empty; give a name such as oneshot_stylegan/adapted")
    if place == root or not place.is_relative_to(root):
        raise ValueError(
            f"filename_prefix {prefix!r} leads out of the output folder; give a name in it, such as "
            "oneshot_stylegan/adapted"
        )


def loadable_name(path: Path, key: str) -> str:
    """Name under which a loader offers an output file; where no loader looks, below the output folder."""
    for folder in (*folder_paths.get_folder_paths(key), folder_paths.get_output_directory()):
        if path.resolve().is_relative_to(Path(folder).resolve()):
            return str(path.resolve().relative_to(Path(folder).resolve()))
    return path.name


def workflow_metadata(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as texts for a file's header; empty when the user disabled metadata."""
    if comfy.cli_args.args.disable_metadata:
        return {}
    found = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    for name, value in (hidden.extra_pnginfo or {}).items():
        found[name] = json.dumps(value)
    return found


def run_store() -> core.RunStore:
    """Where adaptations are kept: `output/oneshot_runs`, its size limited."""
    return core.RunStore(Path(folder_paths.get_output_directory()) / RUNS, _limit_bytes())


def kept_results(kind: str) -> core.KeptFolders:
    """Where what took long is kept: `output/oneshot_cache/KIND`, each kind's size limited as that of runs."""
    return core.KeptFolders(Path(folder_paths.get_output_directory()) / CACHE / kind, _limit_bytes())


def _limit_bytes() -> int:
    try:
        limit = float(text := os.environ.get(RUNS_LIMIT) or f"{RUNS_LIMIT_GB}")
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        log.warning("%s must be a number of gigabytes, got %r; using %g", RUNS_LIMIT, text, RUNS_LIMIT_GB)
        limit = RUNS_LIMIT_GB
    return int(limit * 1e9)


# Pictures ---------------------------------------------------------------------------------------------


def to_comfy(images: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> IMAGE [N, H, W, 3] in [0, 1], float32 where ComfyUI keeps pictures."""
    values = images.detach().float().nan_to_num(nan=-1.0).clamp(-1, 1).add(1).div(2)
    return values.permute(0, 2, 3, 1).contiguous().to(mm.intermediate_device())


def shown(jpeg: bytes) -> dict[str, str]:
    """Put a picture into the temporary folder, and say where the page finds it."""
    name = f"oneshot_{hashlib.sha256(jpeg).hexdigest()[:24]}.jpg"
    path = Path(folder_paths.get_temp_directory()) / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(jpeg)
        os.replace(part, path)
    return {"filename": name, "subfolder": "", "type": "temp"}


def thumbnails(images: Tensor) -> list[dict[str, str]]:
    """Put pictures [N, H, W, C] in [0, 1] where the page finds them, not larger than it shows them."""
    return [shown(core.jpeg_file(picture, SHOWN_PX)) for picture in core.to_pillow(to_core(images))]


def compared(before: tuple[str, Tensor], after: tuple[str, Tensor]) -> dict[str, list[Any]]:
    """The first pictures of two batches, for the slider that the page shows on the node.

    Args:
        before: name, and pictures [N, H, W, C] in [0, 1].
        after: the same.

    Returns:
        Entries of a node's ui: `pairs` of pictures, `names` of their sides.
    """
    sides = [thumbnails(images[:COMPARED]) for _, images in (before, after)]
    pairs = [{"before": one, "after": other} for one, other in zip(*sides, strict=True)]
    return {"pairs": pairs, "names": [before[0], after[0]]}


def mask_to_comfy(mask: Tensor | None, size: int) -> Tensor:
    """[1, 1, size, size] in [0, 1] -> MASK [1, size, size]; None, where everything counts: ones."""
    values = torch.ones(1, size, size) if mask is None else mask[:, 0].detach().float()
    return values.to(mm.intermediate_device())


def said(notes: Sequence[str]) -> list[str]:
    """Log notes that the user should read, and return them for the node's output."""
    for note in notes:
        log.warning("One-Shot StyleGAN: %s", note)
    return list(notes)


blocked = ExecutionBlocker  # output that stops whoever is connected to it, with a message


# Device and memory ------------------------------------------------------------------------------------


# What a ModelPatcher notes on its network; a copied network must not claim to be loaded.
_NOTES = (
    "device", "model_loaded_weight_memory", "model_offload_buffer_memory", "model_lowvram",
    "lowvram_patch_counter", "current_weight_patches_uuid",
)  # fmt: skip


class _Patcher:
    """A network's patcher, kept on the network itself so that both are freed together; copies have none."""

    def __init__(self, patcher: Any = None) -> None:
        self.patcher = patcher

    def __deepcopy__(self, memo: dict[int, Any]) -> _Patcher:
        return _Patcher()


def _patcher_of(module: nn.Module, device: torch.device) -> Any:
    holder = module.__dict__.setdefault("_oneshot_patcher", _Patcher())
    if holder.patcher is None:
        for note in _NOTES:
            module.__dict__.pop(note, None)
        holder.patcher = comfy.model_patcher.ModelPatcher(module, device, mm.unet_offload_device())
    return holder.patcher


def place(modules: Sequence[nn.Module], working_bytes: int) -> torch.device:
    """Load networks for sampling through ComfyUI's model management; ComfyUI may offload them afterwards.

    Args:
        modules: all that the work needs at once; each stays the same object, only where its weights are
            changes.
        working_bytes: what the work needs besides the weights.

    Returns:
        The device they are on.
    """
    device = mm.get_torch_device()
    patchers = [_patcher_of(module, device) for module in modules]
    mm.load_models_gpu(patchers, memory_required=working_bytes, force_full_load=True)
    for module in modules:
        if any(value.device != device for value in (*module.parameters(), *module.buffers())):
            module.to(device)  # partial loading leaves weights of unknown layers behind
    return device


def device() -> torch.device:
    """Where ComfyUI lets models work."""
    found: torch.device = mm.get_torch_device()
    return found


def make_room(needed_bytes: int) -> torch.device:
    """Let ComfyUI offload its models until so much memory is free; returns the device to work on."""
    device = mm.get_torch_device()
    mm.free_memory(needed_bytes, device)
    return device


def fastest_execution(needed_bytes: int) -> Any:
    """Make room for a training; returns the fastest way of it that fits the memory that is free then."""
    place = make_room(needed_bytes)
    return core.Execution.fastest(place, int(mm.get_free_memory(place)), needed_bytes)


def unless_memory_is_full(work: Callable[[], Any]) -> Any:
    """Do what can be left out; None where memory does not suffice."""
    try:
        return work()
    except mm.OOM_EXCEPTION:
        mm.soft_empty_cache()
        return None


@contextmanager
def working(lower: str, kept: str) -> Iterator[None]:
    """Work that can be cancelled at any layer and whose out-of-memory names what to lower.

    A quick step is finished first, so that its state can be saved; a slow one is left at its next layer.

    Args:
        lower: the inputs that decide about memory, for the message.
        kept: a sentence about what was computed until then.
    """
    asked = [math.inf]  # when the cancel was first seen

    def check(module: nn.Module, inputs: Any) -> None:
        if mm.processing_interrupted():
            asked[0] = min(asked[0], time.monotonic())
            if time.monotonic() - asked[0] > PATIENCE_SECONDS:
                mm.throw_exception_if_processing_interrupted()

    hook = nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield
    except Exception as error:
        if not (isinstance(error, mm.OOM_EXCEPTION) or core.is_out_of_memory(error)):
            raise
        said_by = (str(error) or type(error).__name__).splitlines()[0]
        raise RuntimeError(
            f"out of memory ({said_by}); lower {lower}, or free memory with ComfyUI's unload button. {kept}"
        ) from error
    finally:
        hook.remove()
        mm.soft_empty_cache()


# Progress, previews, events ---------------------------------------------------------------------------

BOARD, STOPS = Board(), Stops()
NOWHERE = Place("", "", "")
_PLACE: ContextVar[Place] = ContextVar("place", default=NOWHERE)  # of the node that executes


@contextmanager
def watched(kind: str, hidden: Any) -> Iterator[Callable[[Any], None]]:
    """Tell the page that a node works, how far it is, and how it ended, in its words; keep it on the board.

    Args:
        kind: id of its class.
        hidden: its hidden inputs, which name the workflow.

    Yields:
        What to call with the node's output once it is there.
    """
    context, workflow = get_executing_context(), workflow_of(getattr(hidden, "extra_pnginfo", None))
    node, prompt = ("", "") if context is None else (str(context.node_id), str(context.prompt_id))
    place, began, shown = Place(workflow, node, prompt), time.monotonic(), dict[str, Any]()
    token = _PLACE.set(place)
    send("oneshot.status", BOARD.begin(place, kind))
    state, error = DONE, ""
    try:
        yield lambda output: shown.update(ui_of(output))
    except mm.InterruptProcessingException:
        state = CANCELLED
        raise
    except Exception as problem:
        state, error = FAILED, str(problem) or type(problem).__name__
        raise
    finally:
        _PLACE.reset(token)
        send("oneshot.status", BOARD.end(place, state, time.monotonic() - began, shown, error))


class NodeProgress:
    """Progress of the node that is executing."""

    def __init__(self, total: int, sheet: Callable[[Tensor], Image.Image] | None = None) -> None:
        """Start the bar of `total` steps; `sheet` lays a preview's pictures out, else side by side."""
        self._sheet = sheet or strip
        self.place = _PLACE.get()
        self._bar = comfy.utils.ProgressBar(total)
        self._total = total
        self._previewed = self._sent = 0.0
        self._points: dict[str, list[list[float]]] = {}
        self.notes: tuple[str, ...] = ()

    def check(self, *_: object) -> None:
        """Raise when the user cancelled."""
        mm.throw_exception_if_processing_interrupted()

    def step(self, done: int, preview: Callable[[], Tensor] | None = None) -> None:
        """Tell how far it is.

        Args:
            done: of the total.
            preview: renders [N, 3, H, W]; called at most once a second.
        """
        self.check()
        picture = None
        if preview is not None and time.monotonic() - self._previewed > PREVIEW_SECONDS:
            picture = ("JPEG", self._sheet(preview()), PREVIEW_PX)
            self._previewed = time.monotonic()
        self._bar.update_absolute(done, self._total, picture)

    def report(self, now: Any) -> None:
        """Tell what the engine's progress says: step, losses, and a preview that is drawn when it is due."""
        self.notes = now.notes
        self.step(now.step, now.preview)
        for name, value in finite(now.losses).items():
            self._points.setdefault(name, []).append([int(now.step), value])
        # In batches: a quick run makes hundreds of steps a second.
        if time.monotonic() - self._sent > EVENT_SECONDS or now.step >= self._total:
            far = {"step": now.step, "steps": self._total, **finite({"eta": round(now.eta_seconds, 1)})}
            send("oneshot.loss", BOARD.progress(self.place, far, self._points))
            self._points, self._sent = {}, time.monotonic()

    @contextmanager
    def stoppable(self) -> Iterator[core.StopSignal]:
        """Let the route `/oneshot/stop_and_keep` end the node's run early with what it has."""
        with STOPS.open(self.place, core.StopSignal()) as signal:
            yield signal


def send(event: str, data: dict[str, Any]) -> None:
    """Send an event to the browser that queued the prompt; data must be plain JSON."""
    server = _server()
    if server is not None and data:
        server.send_sync(event, data, server.client_id)


def _server() -> Any:
    """ComfyUI's web server; None where nodes are loaded without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


# Routes ------------------------------------------------------------------------------------------------


def register_routes(own: Mapping[str, type]) -> None:
    """Add the pack's routes, and look for overridden ids now and once all packs are loaded.

    Args:
        own: class by given node id.
    """
    server = _server()
    if server is None:
        return
    from aiohttp import web

    import nodes

    server.add_on_prompt_handler(graphs.remember)
    allowed = comfy.cli_args.args.enable_cors_header
    targets = {name: core.picture_path(name) for name in DEMO_PICTURES}
    routes.Routes(web, allowed, own, nodes.NODE_CLASS_MAPPINGS, STOPS, BOARD, targets).add_to(server)


def queued(kind: str) -> graphs.Queued | None:
    """The node of a class that is being validated, in its graph; see `graphs.queued`."""
    import nodes

    context = get_executing_context()
    return None if context is None else graphs.queued(str(context.node_id), kind, nodes.NODE_CLASS_MAPPINGS)


def download_progress(done: int, total: int | None) -> None:
    """Show a download on the node that needs it; raises when the user cancelled."""
    mm.throw_exception_if_processing_interrupted()
    if total:
        comfy.utils.ProgressBar(total).update_absolute(done, total)
