"""Kinds of files that nodes list by name: read, stamped and written alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import bridge
from .api import io
from .queue_checks import Check
from .stamps import stamp

T = TypeVar("T")
PREFIX_CHECK: Check = (("filename_prefix",), bridge.check_prefix)


@dataclass(frozen=True)
class FileKind:
    """Files of one folder that an input names.

    Args:
        folder: ComfyUI's key of their folders, and their folder within the output folder.
        asked: the input, for messages.
        loader: display name of the node that lists those that were saved; "": none are saved.
        told: under which the page is told of them.
    """

    folder: str
    asked: str
    loader: str = ""
    told: str = ""

    def path(self, name: str) -> Path:
        """Where a file lies; raises ValueError for one that is not listed."""
        return bridge.file_path(self.folder, name, self.asked)

    def stamp(self, name: str) -> str:
        """What changes with the file's content."""
        return stamp(self.path(name))

    def read(self, name: str, load: Callable[[Path], T]) -> T:
        """Load a file; errors call it by its name."""
        path = self.path(name)
        with bridge.by_name(path, name):
            return load(path)

    def prefix(self, name: str) -> str:
        """Default place of files that are saved."""
        return f"{self.folder}/{name}"

    def output(self) -> io.Output:
        """The name of a file that was saved."""
        tooltip = f"Name of the file as {self.loader} lists it."
        return io.String.Output(self.asked, display_name=self.asked, tooltip=tooltip)

    def save(
        self, prefix: str, write: Callable[[Path], T], *more: str, extension: str = ".safetensors"
    ) -> tuple[T, str, dict[str, Any]]:
        """Write a new file.

        Args:
            prefix: of its name, a default one or the user's.
            write: writes it.
            more: lines for the user.
            extension: of its name.

        Returns:
            What `write` returned, the name as the loader lists it, and what the page is told.
        """
        with bridge.save_place(prefix, extension) as (path, name, subfolder):
            made = write(path)
        listed = bridge.loadable_name(path, self.folder)
        saved = {"filename": name, "subfolder": subfolder, "type": "output"}
        return made, listed, {self.told: [saved], "text": ["\n".join([f"saved as {listed}", *more])]}


GENERATORS = FileKind(bridge.GENERATORS, "generator_name", "Load StyleGAN2", "generators")
LATENTS = FileKind(bridge.LATENTS, "latent_name", "Load StyleGAN Latent", "latents")
DIRECTIONS = FileKind(bridge.DIRECTIONS, "direction_name", "Load Direction", "directions")
LOOKS = FileKind(bridge.LOOKS, "look_name", "Load Look", "looks")
MAPPERS = FileKind(bridge.MAPPERS, "mapper_name", "StyleCLIP Edit", "mappers")
DICTIONARIES = FileKind(bridge.DICTIONARIES, "dictionary_name")
IDENTITY_NETS = FileKind(bridge.ENCODERS, "identity_file")
E4E_ENCODERS = FileKind(bridge.ENCODERS, "e4e_file")
CLIPS, PERCEPTUAL_FILES = (FileKind(bridge.ENCODERS, asked) for asked in ("clip_file", "perceptual_file"))
