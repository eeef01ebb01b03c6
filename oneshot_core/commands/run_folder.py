"""The folder of one adaptation: its settings file, what is in it, and whether it may be used again."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import CheckpointError, verify
from ..json_values import Fields, JsonError, read
from ..saved_states import ForeignRecord, curves_of, differences, read_record, write_record
from ..search import search_states
from ..training import STATE_FILE
from ..training.loop import SNAPSHOTS, snapshot_files
from ..training.masking import MASKED_FILE
from ..training.state import state_file
from ..writing import MARK, atomic_path, claim, remove_stale_temporaries, set_aside
from .console import BadInput
from .resources import out_folder

FORMAT, FORMAT_VERSION = "oneshot-adaptation", 2
HOLD_TRIES, HOLD_SECONDS = 5, 0.1  # whoever only looks for leftovers lets go at once
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

    @property
    def _copy(self) -> Path:
        """A second settings file, for the case that the first is damaged."""
        return self.run / "settings.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, keep other processes out of it, and remove what killed ones left half-written.

        Raises:
            BadInput: another process is at work there.
        """
        out_folder(str(self.path))
        for place in (self.path, self.run, self.run / SNAPSHOTS):
            remove_stale_temporaries(place)
        held = None
        for _ in range(HOLD_TRIES):
            held = claim(self.path / f".in-use{MARK}")
            if held is not None:
                break
            time.sleep(HOLD_SECONDS)
        if held is None:
            raise BadInput(
                f"another process is at work in {self.path}; wait until it has ended, or choose another --out"
            )
        try:
            yield
        finally:
            held.release()

    def open(self, steps: int, fresh: bool) -> dict[str, Any] | None:
        """Look at what an earlier run left in the folder.

        Args:
            steps: steps that are asked for.
            fresh: throw the earlier run away.

        Returns:
            The earlier run's record, None where there is none; "complete" says whether nothing is left to do.

        Raises:
            BadInput: it holds a run with other settings or with more steps, or something else of that name.
        """
        if fresh:
            self._clear()
        record = self._read()
        if record is None:
            self._refuse_unknown()
            return None
        differing = differences(record["settings"], json.loads(json.dumps(self.settings)))
        if differing and self._is_untouched(record):
            return None
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
        ended = record.get("result_step") == steps and "files" in record
        return {**record, "complete": ended and self._is_sound(steps)}

    def _is_sound(self, steps: int) -> bool:
        """Whether the adapted generator is there, whole, and of that step; a damaged one is set aside."""
        if not self.adapted.is_file():
            return False
        try:
            history = Fields(verify(self.adapted), "the header").object("provenance").object("history")
            if history.value("step", None) != steps:
                raise CheckpointError(f"it is not of step {steps}")
        except (CheckpointError, JsonError) as error:
            set_aside(self.adapted, error)
            return False
        return True

    def _is_untouched(self, record: Mapping[str, Any]) -> bool:
        """Whether nothing but the settings file was written: a run that was ended before it did anything."""
        states = (search_states(self.search_state), state_file(self.run / STATE_FILE))
        kept = (*RESULTS, self.latent.name)
        return not record["step"] and not any(
            [*(one.exists for one in states), *((self.path / name).exists() for name in kept)]
        )

    def _refuse_unknown(self) -> None:
        """Do not write over results that no settings file explains."""
        found = [name for name in (*RESULTS, "reference.safetensors") if (self.path / name).exists()]
        if found:
            raise BadInput(
                f"{self.path} holds {found[0]} but no readable settings.json; choose another --out, or add "
                "--fresh to throw it away"
            )

    def _read(self) -> dict[str, Any] | None:
        """Read the settings file, or its copy where it is damaged; None where there is neither."""
        damaged: JsonError | None = None
        for path in (self._file, self._copy):
            if not path.is_file():
                continue
            try:
                record = _record_of(read_record(path, FORMAT, FORMAT_VERSION))
            except ForeignRecord as error:
                raise BadInput(f"{error}; choose another --out, or add --fresh") from None
            except JsonError as error:
                damaged = error
                continue
            if damaged is not None:
                set_aside(self._file, damaged)
            return record
        if damaged is not None:
            raise BadInput(f"{damaged}; choose another --out, or add --fresh to throw the run away")
        return None

    def _clear(self) -> None:
        """Remove what runs write, and nothing else; the settings last: a kill then leaves a known folder."""
        pictures = ("reference.png", "target.png", "masked_target.png")
        names = (*RESULTS, *pictures, "reference.safetensors")
        damaged = (f"{Path(name).stem}.damaged{Path(name).suffix}" for name in (*RESULTS, "settings.json"))
        for path in (
            *(self.path / name for name in (*names, *damaged)),
            *snapshot_files(self.run).values(),
        ):
            path.unlink(missing_ok=True)
        (self.run / MASKED_FILE).unlink(missing_ok=True)
        state_file(self.run / STATE_FILE).remove()
        search_states(self.search_state).remove()
        for path in (self._copy, self._file):
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
        for path in (self._file, self._copy):
            write_record(path, record)
        return record

    def placed(self, files: Mapping[str, str]) -> dict[str, str]:
        """Paths of files that the settings file names within the folder; where that is, it does not say."""
        return {name: str(self.path / file) for name, file in files.items()}

    def search_losses(self) -> dict[str, list[float]]:
        """Losses of the search that are kept; empty where there are none, or no readable ones."""
        try:
            fields = Fields(read(self.path / "losses.json"), "losses.json")
            return curves_of(fields.object("search", {}))
        except (OSError, JsonError):
            return {}


def _record_of(fields: Fields) -> dict[str, Any]:
    """The values of a settings file that are used again."""
    record: dict[str, Any] = {"step": fields.whole("step", 0)}
    fields.object("settings")
    record["settings"] = fields.value("settings")
    if "files" in fields:
        files = fields.object("files")
        losses = fields.object("losses")
        record["files"] = {name: files.text(name) for name in files.names()}
        record["losses"] = {n: losses.number(n) if n in losses else None for n in losses.names()}
        record["seconds"] = fields.number("seconds", 0)
    if "result_step" in fields:
        record["result_step"] = fields.whole("result_step", 0)
    return record


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file; atomic."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    try:
        own = metadata.version("oneshot-stylegan")
    except metadata.PackageNotFoundError:
        own = "source"
    return {"oneshot-stylegan": own, "torch": torch.__version__, "python": platform.python_version()}
