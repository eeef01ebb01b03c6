"""The folder of one adaptation: its settings file, what is in it, and whether it may be used again."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..console import BadInput
from ..tensors import atomic_path
from ..training import STATE_FILE
from ..training.state import differences

FORMAT, FORMAT_VERSION = "oneshot-adaptation", 1
RESULTS = ("adapted.safetensors", "grid.png", "losses.png", "losses.json")


@dataclass(frozen=True)
class RunFolder:
    """Paths of an adaptation's folder and its settings file.

    Args:
        path: the folder.
        settings: JSON values of everything that determines the result, but for the number of steps.
    """

    path: Path
    settings: dict[str, Any]

    @property
    def run(self) -> Path:
        """Folder of the training state and the snapshots."""
        return self.path / "run"

    @property
    def adapted(self) -> Path:
        """The result."""
        return self.path / "adapted.safetensors"

    @property
    def latent(self) -> Path:
        """The reference latent."""
        return self.path / "reference.safetensors"

    @property
    def search_state(self) -> Path:
        """The search under way."""
        return self.run / "search.safetensors"

    @property
    def _file(self) -> Path:
        return self.path / "settings.json"

    def open(self, steps: int, fresh: bool) -> dict[str, Any] | None:
        """Make the folder, or look at what an earlier run left in it.

        Args:
            steps: steps that are asked for.
            fresh: throw the earlier run away.

        Returns:
            The earlier run's record, None where there is none; "complete" says whether nothing is left to do.

        Raises:
            BadInput: it holds a run with other settings or with more steps, or something else of that name.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if fresh:
            self._clear()
        if not self._file.exists():
            self._refuse_unknown()
            return None
        record = self._read()
        differing = differences(record["settings"], json.loads(json.dumps(self.settings)))
        if differing:
            raise BadInput(
                f"{self.path} holds a run with other settings ({', '.join(differing[:4])} differ); choose "
                "another --out, or add --fresh to throw it away"
            )
        if record["step"] > steps:
            raise BadInput(
                f"{self.path} holds a run of {record['step']} steps, {steps} were asked for; earlier "
                f"generators are in {self.run / 'snapshots'}; choose another --out, or add --fresh"
            )
        complete = record.get("result_step") == steps and "files" in record and self.adapted.is_file()
        return {**record, "complete": complete}

    def _refuse_unknown(self) -> None:
        """Do not write over results that no settings file explains."""
        found = [name for name in (*RESULTS, "reference.safetensors") if (self.path / name).exists()]
        if found:
            raise BadInput(
                f"{self.path} holds {found[0]} but no readable settings.json; choose another --out, or add "
                "--fresh to throw it away"
            )

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._file.read_text(encoding="utf-8"))
            if record["format"] != FORMAT or not isinstance(record["step"], int):
                raise ValueError
            dict(record["settings"])
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f"{self._file} was not written by this program; choose another --out, or add --fresh"
            ) from None
        return record

    def _clear(self) -> None:
        """Remove what runs write, and nothing else."""
        snapshots = sorted((self.run / "snapshots").glob("step_*.safetensors"))
        pictures = ("reference.png", "target.png", "masked_target.png")
        names = (*RESULTS, *pictures, "settings.json", "reference.safetensors")
        for path in (
            *(self.path / name for name in names),
            self.run / STATE_FILE,
            self.search_state,
            *snapshots,
        ):
            path.unlink(missing_ok=True)

    def record(self, step: int, steps: int, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the settings file: what was asked for and how far it is."""
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "step": step,
            "steps": steps,
            "done": step >= steps,
            "settings": self.settings,
            "versions": versions(),
            **(extra or {}),
        }
        write_json(self._file, record)
        return record

    def placed(self, files: Mapping[str, str]) -> dict[str, str]:
        """Paths of files that the settings file names within the folder; where that is, it does not say."""
        return {name: str(self.path / file) for name, file in files.items()}

    def losses(self) -> dict[str, Any]:
        """Read the losses that are kept, by "search" and "adapt"; empty where there are none."""
        try:
            return json.loads((self.path / "losses.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file; atomic."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def finite(values: Sequence[float]) -> list[float | None]:
    """Replace what JSON does not know, NaN and infinity, by None."""
    return [value if math.isfinite(value) else None for value in values]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    try:
        own = metadata.version("oneshot-stylegan")
    except metadata.PackageNotFoundError:
        own = "source"
    return {"oneshot-stylegan": own, "torch": torch.__version__, "python": platform.python_version()}
