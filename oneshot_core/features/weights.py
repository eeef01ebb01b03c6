"""Weight files of the encoders: where they are looked for or downloaded, how they are read, every key fits.

Reading never runs code from a file: safetensors here, torch files through the checkpoints' restricted reader,
and TorchScript archives not at all. Nothing touches the network unless the caller allows a download.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..containers import START_BYTES, recognised, told
from ..tensors import check_finite
from . import telling
from .download import BytesProgress, DownloadError, download, hub_url

_MAX_MEMBERS = 20_000
_ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, OverflowError, struct.error)
SHOWN_KEYS = 3  # how many missing, unexpected or misshaped keys an error lists


class EncoderError(ValueError):
    """An encoder cannot be built or loaded; the text says what was given, what is allowed and what to do."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors without ever running code from it; see `read_with_texts`."""
    return read_with_texts(path)[0]


def read_with_texts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of named tensors without ever running code from it.

    Args:
        path: a safetensors file, or a torch file that holds a state dict; told by content, not by suffix.

    Returns:
        Tensors by name on the CPU, a leading `module.` of all names removed, and a safetensors file's texts.

    Raises:
        EncoderError: no such file, a damaged or refused file, or a TorchScript archive (OpenAI's original
            CLIP files): its program would have to be interpreted, so it must be converted first.
    """
    if not path.is_file():
        raise EncoderError(f"there is no weights file {path}; check the path")
    try:
        with open(path, "rb") as file:
            start, size = file.read(START_BYTES), path.stat().st_size
    except OSError as error:
        raise EncoderError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    found = recognised(start, size)
    kind = "" if found is None else found.name
    texts: dict[str, str] = {}
    if kind == "safetensors":
        tensors, texts = _read_safetensors(path)
    elif kind in ("torch-zip", "torch-legacy", "torchscript", "zip"):
        if is_torchscript(path):
            raise EncoderError(torchscript_advice(path))
        tensors = _read_torch_file(path)
    else:
        raise EncoderError(f"{path} {_other_file(start, size, kind)}")
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors, texts


def _other_file(start: bytes, size: int, kind: str) -> str:
    """Say what a file is that holds no weights of the known kinds."""
    wanted = "weights that can be read (safetensors, or a torch file of tensors)"
    if kind == "pickle":
        program = (
            "a TensorFlow pickle (tflib)" if b"tflib" in start else "a pickle, as TensorFlow programs write"
        )
        return (
            f"is {program}, such as Zhang's vgg16_zhang_perceptual.pkl, not {wanted}; give torchvision's "
            "weights of the backbone, or CLIP's as safetensors"
        )
    advice = "give the model's .safetensors file"
    return told(start, size, wanted, advice) or f"holds no {wanted}; {advice}"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from ..checkpoints.native import opened_tensors

    try:
        with torch.inference_mode(False), opened_tensors(path) as (sources, texts):
            return {name: source.read() for name, source in sources.items()}, texts
    except ValueError as error:
        raise EncoderError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    from ..checkpoints.restricted import read_state_dict

    try:
        return dict(read_state_dict(path))
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise EncoderError(
            f"{path} could not be read as a torch file of tensors: {reason}; use the model's "
            ".safetensors file"
        ) from error


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive (a zip with a program inside)."""
    from ..checkpoints.stored import CheckpointError, opened
    from ..checkpoints.torchfile import directory_place

    try:
        with opened(path) as data:
            if data.read(0, min(4, data.size)) != b"PK\x03\x04" or directory_place(data)[0] > _MAX_MEMBERS:
                return False
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (CheckpointError, *_ZIP_ERRORS):
        return False  # left to the reader, which says what is wrong
    return any("/code/" in name or name.endswith("/constants.pkl") for name in names)


def torchscript_advice(path: Path) -> str:
    """Say why a TorchScript archive is refused and how to convert it once, in a place where it is trusted."""
    target = path.with_suffix(".safetensors")
    return (
        f"{path} is a TorchScript archive (the form of OpenAI's original CLIP files and of NVIDIA's "
        f"vgg16.pt): it carries a program, and files are never run here. Use the same weights as "
        f"safetensors, or, if you trust the file, "
        f'convert it once with: python -c "import torch, safetensors.torch as s; '
        f"m = torch.jit.load(r'{path}', map_location='cpu'); "
        f"s.save_file({{k: v.contiguous() for k, v in m.state_dict().items()}}, r'{target}')\""
    )


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Give a module its weights, all of them and nothing else.

    Args:
        module: receives the tensors (a module on the meta device takes them over as they are).
        tensors: by state-dict name; floating point of any width, converted to the module's dtype.
        source: file or description for the message.

    Raises:
        EncoderError: with the first missing, unexpected and misshaped names and what the file looks like, or
            with the first weight that is not finite.
    """
    wanted = module.state_dict()
    problems = [
        _listed("missing", [key for key in wanted if key not in tensors]),
        _listed("unexpected", [key for key in tensors if key not in wanted]),
        _listed(
            "of another shape",
            [
                f"{key} {list(tensors[key].shape)} instead of {list(wanted[key].shape)}"
                for key in wanted
                if key in tensors and tensors[key].shape != wanted[key].shape
            ],
        ),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise EncoderError(
            f"{source} does not fit {type(module).__name__}: {found}.{telling.told(tensors)} "
            f"Give the file that belongs to this model, or name the model that belongs to this file"
        )
    # `assign` also serves modules on the meta device; the copy leaves nothing mapped to the file.
    ready = {key: tensors[key].to(dtype=wanted[key].dtype, copy=True).contiguous() for key in wanted}
    _check_finite(ready, source)
    module.load_state_dict(ready, strict=True, assign=True)


def stored_weights(module: nn.Module, dtype: str) -> dict[str, Tensor]:
    """A module's weights by name, its floats in a type, as a file keeps them.

    Args:
        module: any device.
        dtype: "float16" or "float32".

    Raises:
        ValueError: another dtype, or a weight beyond its range.
    """
    from ..checkpoints.native import DTYPES

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    tensors = {}
    for name, value in module.state_dict().items():
        tensors[name] = value.to(DTYPES[dtype]) if value.is_floating_point() else value
        check_finite(tensors[name], f"{name} as {dtype}", "write it as float32")
    return tensors


def _listed(what: str, keys: Sequence[str]) -> str:
    """Describe a list of keys by its length and its first entries; empty when there are none."""
    if not keys:
        return ""
    more = ", …" if len(keys) > SHOWN_KEYS else ""
    return f"{len(keys)} {what} ({', '.join(keys[:SHOWN_KEYS])}{more})"


def _check_finite(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse weights that are not finite; raises EncoderError with the first name."""
    for key, value in tensors.items():
        if value.is_floating_point() and value.numel():
            low, high = value.detach().aminmax()  # NaN wins both
            if not (math.isfinite(low) and math.isfinite(high)):
                raise EncoderError(
                    f"{source}: {key} is not made of finite numbers (NaN or infinity); the file is damaged "
                    "or its training broke down: fetch it again or use another"
                )


@dataclass(frozen=True)
class WeightSource:
    """Where a published file comes from and under which names it may lie on this machine.

    Attributes:
        what: for messages, such as "weights of CLIP model ViT-B-32 (tag openai)".
        repository: owner/name on the Hugging Face hub, "" when it is not there.
        hub_files: file names inside that repository, preferred first.
        url: address of a single file, "" when there is none; downloaded from only without a repository.
        sha256: of the file at `url`, all hex digits or the first; "" when unknown. The hub sends its own.
        plain_files: names under which a copy is looked for in an ordinary folder, preferred first; a
            download takes the first with the kind (`.safetensors`, `.bin`) of what is downloaded.
        plain_folder: folder for such copies when the caller names none.
    """

    what: str
    repository: str
    hub_files: tuple[str, ...]
    url: str
    sha256: str
    plain_files: tuple[str, ...]
    plain_folder: Path

    def locate(
        self, folder: Path | None, allow_download: bool, progress: BytesProgress | None = None
    ) -> Path:
        """Return a copy on this machine, downloaded if need be and if that is allowed.

        Args:
            folder: searched first, as a plain folder and as a hub cache; then the usual places. Where a
                download goes; None: `plain_folder`.
            allow_download: False never touches the network.
            progress: as of `download`.

        Raises:
            EncoderError: missing or not to be had, with the file, the places and the way by hand; or there is
                only a TorchScript archive.
        """
        found = self._find(folder)
        if found is not None and not is_torchscript(found):
            return found
        if allow_download:
            return self._fetch(folder, progress)
        if found is not None:
            raise EncoderError(torchscript_advice(found))
        raise self._missing(folder, "it is not on this machine and downloads are switched off")

    def _find(self, folder: Path | None) -> Path | None:
        """Return the first copy on this machine, readable ones before TorchScript archives, else None."""
        found = [path for path in self._places(folder) if path.is_file()]
        return min(found, key=is_torchscript, default=None)  # `min` keeps the order among equals

    def _fetch(self, folder: Path | None, progress: BytesProgress | None) -> Path:
        """Download the file; of a repository the first of the files that it has."""
        if self.repository and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise self._missing(folder, "HF_HUB_OFFLINE switches downloads from the hub off")
        offers = [(hub_url(self.repository, name), "") for name in self.hub_files]
        offers = offers or [(self.url, self.sha256)]
        for number, (url, sha256) in enumerate(offers, start=1):
            kind = Path(url).suffix
            name = next(plain for plain in self.plain_files if plain.endswith(kind))
            try:
                return download(url, (folder or self.plain_folder) / name, sha256=sha256, progress=progress)
            except DownloadError as error:
                if error.absent and number < len(offers):
                    continue
                raise self._missing(folder, f"the download failed ({error})") from error
        raise AssertionError("the last offer returns or raises")

    def _missing(self, folder: Path | None, reason: str) -> EncoderError:
        """Return the error that says which file is missing, where it was looked for and where to get it."""
        looked_in = sorted({str(place) for place in self._folders(folder)})
        hub = f"{self.hub_files[0]} from {self.repository} on the Hugging Face hub" if self.repository else ""
        origin = hub or self.url
        return EncoderError(
            f"no {self.what}: {reason}. The file is {origin}. Looked in {', '.join(looked_in)} "
            f"for {', '.join(dict.fromkeys((*self.hub_files, *self.plain_files)))}. Allow the download, or "
            f"fetch the file by hand and either pass its path or put it as {self.plain_files[0]} into "
            f"{folder or self.plain_folder}"
        )

    def _folders(self, folder: Path | None) -> list[Path]:
        hub = [_default_hub_cache()] if self.repository else []
        return [*([folder] if folder else []), *[place for place in hub if place], self.plain_folder]

    def _places(self, folder: Path | None) -> Iterable[Path]:
        for place in [folder, None] if folder else [None]:
            for name in self.hub_files:
                yield from _hub_cached(self.repository, name, place)
            for name in self.plain_files:
                yield (place or self.plain_folder) / name


def _hub_cached(repository: str, name: str, cache_dir: Path | None) -> Iterable[Path]:
    """Yield the cached copy of a hub file, if there is one; asks the disk only."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return
    path = try_to_load_from_cache(repository, name, cache_dir=cache_dir)
    if isinstance(path, str):
        yield Path(path)


def _default_hub_cache() -> Path | None:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    return Path(HF_HUB_CACHE)


def _open_clip_folder() -> Path:
    """Return where open_clip keeps files from plain addresses."""
    return Path.home() / ".cache" / "clip"


def clip_source(name: str, tag: str, entry: Mapping[str, Any]) -> WeightSource:
    """Describe the weights of an open_clip model.

    Args:
        name: open_clip's name of the model.
        tag: open_clip's name of the weights.
        entry: open_clip's row for the two: `hf_hub` is `owner/name/` or `owner/name/file`, `url` a file.
    """
    from open_clip import constants

    repository, _, file = str(entry.get("hf_hub", "")).rpartition("/")
    file = file or constants.HF_WEIGHTS_NAME
    safe = constants.HF_SAFE_WEIGHTS_NAME
    if file != constants.HF_WEIGHTS_NAME:
        safe = re.sub(r"\.(bin|pth?)$", ".safetensors", file)
    url = str(entry.get("url", ""))
    original = Path(url).name
    originals = (Path(original).with_suffix(".safetensors").name, original) if original else ()
    return WeightSource(
        what=f"weights of CLIP model {name} (tag {tag})",
        repository=repository,
        hub_files=tuple(dict.fromkeys((safe, file))) if repository else (),
        url=url,
        sha256=_clip_digest(url),
        plain_files=(f"{name}-{tag}.safetensors", f"{name}-{tag}{Path(file).suffix}", *originals),
        plain_folder=_open_clip_folder(),
    )


def _clip_digest(url: str) -> str:
    """Return the hash inside an address of OpenAI's or open_clip's own files, "" for others."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    return Path(url).stem.rpartition("-")[2] if "mlfoundations" in url else ""


def text_tower_source(hub_name: str) -> WeightSource:
    """Describe the layout (`config.json`) of a text tower that open_clip takes from the transformers package.

    Args:
        hub_name: repository on the hub.
    """
    return WeightSource(
        what=f"layout of the text tower {hub_name} (ViT models such as ViT-B-32-quickgelu need none)",
        repository=hub_name,
        hub_files=("config.json",),
        url="",
        sha256="",
        plain_files=(f"{hub_name.replace('/', '--')}/config.json",),
        plain_folder=_open_clip_folder(),
    )


def torchvision_source(architecture: str) -> WeightSource:
    """Describe torchvision's ImageNet weights of a network such as "alexnet"."""
    from torchvision.models import get_model_weights

    url = str(get_model_weights(architecture)["IMAGENET1K_V1"].url)
    digest = re.search(r"-([0-9a-f]{8,})\.", url)  # torch's rule for names of published files
    return WeightSource(
        what=f"weights of torchvision's {architecture} (IMAGENET1K_V1)",
        repository="",
        hub_files=(),
        url=url,
        sha256=digest[1] if digest else "",
        plain_files=(Path(url).name,),
        plain_folder=Path(torch.hub.get_dir()) / "checkpoints",
    )
