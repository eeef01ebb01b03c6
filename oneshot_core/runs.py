"""A store of runs: what took minutes is kept in a folder named by everything that determines it.

Asked for again it is loaded, after a crash or a cancel it goes on, and a damaged folder is set aside. Several
processes may share a store; a lock file beside each folder keeps them out of each other's run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import CheckpointError, GeneratorBundle, load, read_tensors, save
from .features import Encoders
from .json_values import JsonError
from .objective import Aim, Preset
from .saved_states import curves_of, differences, finite, read_record, write_record
from .search import SearchConfig, SearchProgress, SearchResult, check_search, search_latent
from .tensors import Images, gradients
from .training import STATE_FILE, AdaptResult, Callback, TrainConfig, adapt
from .training.checks import check_run
from .training.fingerprints import clip_fingerprints, encoder_fingerprint, fingerprint, network_fingerprint
from .training.loop import SNAPSHOTS, snapshot_files
from .training.state import run_settings, state_file
from .writing import claim, remove_stale_temporaries, rename_patiently

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "oneshot-stored-run", 2
ENGINE = 1  # raise it when the same settings give other numbers
RECORD, RESULT, SEARCH = "run.json", "result.safetensors", "search.safetensors"
MARK, LOCK = "used", ".lock"
KEY_DIGITS = 32
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StoredResult:
    """An adaptation, trained now or loaded.

    Args:
        bundle: the adapted generator; without discriminator where it is a snapshot.
        losses: per name the unweighted value of every step, NaN where a step does not compute it; empty for a
            snapshot of a run that did not end.
        step: steps that the bundle was trained.
        steps: steps of the whole run.
        snapshots: steps whose generator is kept.
    """

    bundle: GeneratorBundle
    losses: dict[str, list[float]]
    step: int
    steps: int
    snapshots: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """A run's folder while it is locked by this process."""

    folder: Path
    settings: dict[str, Any]

    def snapshots(self) -> tuple[int, ...]:
        """Steps whose generator is kept."""
        return tuple(sorted(snapshot_files(self.folder)))

    def result(self, steps: int, snapshot: int | None = None) -> StoredResult | None:
        """Load what is there.

        Args:
            steps: of the whole run.
            snapshot: a step; None: the end.

        Returns:
            None where the run has not come so far.

        Raises:
            CheckpointError: a file is damaged.
            ValueError: the run has ended and keeps no snapshot of that step.
        """
        record = self._record(steps)
        step = steps if snapshot is None else snapshot
        path = self.folder / RESULT if step == steps else snapshot_files(self.folder).get(step)
        if record is None and (step == steps or path is None):
            return None
        if path is None:
            kept = ", ".join(map(str, self.snapshots())) or "none"
            raise ValueError(
                f"this run keeps no snapshot of step {snapshot}; it has {kept}. Choose one of these, or "
                "train again"
            )
        bundle = load(path)
        if bundle.provenance.history.get("step") != step:
            raise CheckpointError(f"{path}: is no generator of step {step}")
        return StoredResult(bundle, record or {}, step, steps, self.snapshots())

    def _record(self, steps: int) -> dict[str, list[float]] | None:
        """The losses that `complete` wrote; None before that."""
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            fields = read_record(path, FORMAT, FORMAT_VERSION)
            differing = differences(fields.value("settings"), self.settings)
            if differing or fields.whole("step") != steps:
                raise JsonError(
                    f"{path}: belongs to another run ({', '.join(differing[:4]) or 'step'} differs)"
                )
            return curves_of(fields.object("losses"), steps)
        except (OSError, JsonError) as error:
            raise CheckpointError(f"{path}: is damaged ({str(error)[:200]})") from error

    def complete(self, result: AdaptResult) -> None:
        """Keep a finished adaptation; its training state is no longer needed."""
        save(result.bundle, self.folder / RESULT)
        losses = {name: finite(curve) for name, curve in result.losses.items()}
        record = {"format": FORMAT, "format_version": FORMAT_VERSION, "step": result.step, "losses": losses}
        write_record(self.folder / RECORD, {**record, "settings": self.settings})
        state_file(self.folder / STATE_FILE).remove()

    def clear(self) -> None:
        """Throw the run away, to start anew."""
        shutil.rmtree(self.folder)
        self._renew()

    def _renew(self) -> None:
        self.folder.mkdir()
        (self.folder / MARK).touch()

    def set_aside(self, reason: object) -> None:
        """Rename a damaged folder and start anew."""
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.damaged-{number}")).exists():
            number += 1
        rename_patiently(self.folder, aside)
        self._renew()
        log.warning("the kept run %s is damaged and was set aside as %s: %s", self.folder, aside.name, reason)


class RunStore:
    """Folders of runs below one root.

    Args:
        root: made when the first run is claimed.
        limit_bytes: size beyond which the runs longest unused are removed; None: no limit.
    """

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root, self.limit_bytes = Path(root), limit_bytes

    @contextmanager
    def claim(self, settings: Mapping[str, Any], poll: Callable[[], None] | None = None) -> Iterator[Run]:
        """Lock the folder of a run.

        Args:
            settings: JSON values of everything that determines the result; their hash is the folder's name.
            poll: called while another process holds the run; it may raise to give up.

        Yields:
            The run, whose folder exists.
        """
        values = json.loads(json.dumps(dict(settings)))
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        folder = self.root / hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]
        self.root.mkdir(parents=True, exist_ok=True)
        while (held := claim(_lock_of(folder))) is None:
            time.sleep(POLL_SECONDS)
            if poll is not None:
                poll()
        try:
            folder.mkdir(exist_ok=True)
            (folder / MARK).touch()
            for place in (folder, folder / SNAPSHOTS):
                remove_stale_temporaries(place)
            yield Run(folder, values)
        finally:
            with suppress(OSError):
                (folder / MARK).touch()  # a run of hours was in use all the time
            held.release()

    def trim(self) -> list[Path]:
        """Remove what killed processes left half-made, then the runs longest unused, down to the limit.

        Damaged folders that were set aside go before all others; a run that a process holds stays.

        Returns:
            The folders of the runs that were removed for the limit.
        """
        if not self.root.is_dir():
            return []
        self._tidy()
        sizes = {folder: _size(folder) for folder in self.root.iterdir() if folder.is_dir()}
        total, removed = sum(sizes.values()), []
        for folder in sorted(sizes, key=_last_use):
            if self.limit_bytes is None or total <= self.limit_bytes:
                break
            if _remove_unused(folder):
                total -= sizes[folder]
                removed.append(folder)
                log.info("removed the kept run %s: the store exceeds %d bytes", folder, self.limit_bytes)
        return removed

    def _tidy(self) -> None:
        """Remove empty runs, locks of killed processes and half-written files."""
        remove_stale_temporaries(self.root)
        for path in list(self.root.iterdir()):
            if path.is_dir() and set(_names(path)) <= {MARK}:
                _remove_unused(path)
            elif path.suffix == LOCK and path.is_file():
                held = claim(path)
                if held is not None:
                    held.release()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:  # another process removed it, or it may not be read: then it is not empty
        return [str(error)]


def _remove_unused(folder: Path) -> bool:
    """Remove a run's folder unless a process holds it."""
    held = claim(_lock_of(folder))
    if held is None:
        return False
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        held.release()
    return True


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{LOCK}")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # another process is at work there
            continue
    return total


def _last_use(folder: Path) -> float:
    try:
        return (folder / MARK).stat().st_mtime if ".damaged-" not in folder.name else 0.0
    except OSError:
        return 0.0


def adapt_in_store(  # noqa: PLR0913 - what `adapt` takes, and where it is kept
    store: RunStore,
    bundle: GeneratorBundle,
    encoders: Encoders,
    aim: Aim,
    preset: Preset,
    config: TrainConfig,
    *,
    mask: Tensor | None = None,
    place: Callable[[], torch.device | str] = lambda: "cpu",
    callbacks: Sequence[Callback] = (),
    poll: Callable[[], None] | None = None,
    fresh: bool = False,
    snapshot: int | None = None,
) -> StoredResult:
    """Adapt a generator, or load what an earlier call with the same inputs left.

    Args:
        store: where the run is kept.
        bundle: see `adapt`, as the others that are not listed.
        place: called before training, and only then; makes room and names the device for the copies.
        poll: called while another process trains the same; it may raise.
        fresh: throw away a run that has ended and train again; one that was interrupted goes on.
        snapshot: give the generator as it was after this step; it is not trained again for that.

    Returns:
        The result; with fewer steps than asked for after "stop and keep", then the next call goes on.

    Raises:
        ValueError, FloatingPointError, RunCancelled: as `adapt`; or no snapshot of that step.
    """
    check_run(bundle, aim, preset)
    settings = {
        **run_settings(bundle, encoders, aim, preset, config.describe(), mask),
        **{"kind": "adaptation", "steps": config.steps, "precision": config.precision, "engine": ENGINE},
    }
    store.trim()  # also what cancelled runs left
    with store.claim(settings, poll) as run:
        if fresh and (run.folder / RECORD).is_file():
            run.clear()
        found = _sound(run, lambda: run.result(config.steps, snapshot))
        if found is not None:
            return found
        device = place()

        def train() -> AdaptResult:
            with gradients():
                seen = encoders.to(device)
            more: dict[str, Any] = {"run_folder": run.folder, "callbacks": callbacks, "device": device}
            return adapt(bundle, seen, aim, preset, config, mask=mask, **more)

        kept = _kept(run, _sound(run, train) or train(), config.steps, snapshot)
    store.trim()
    return kept


def _kept(run: Run, result: AdaptResult, steps: int, snapshot: int | None) -> StoredResult:
    """Keep what was trained where it is complete; return it, or the snapshot that is wanted."""
    if result.step == steps:
        run.complete(result)
    if snapshot is not None and (result.step == steps or snapshot in run.snapshots()):
        chosen = run.result(steps, snapshot)
        if chosen is not None:
            return chosen
    return StoredResult(result.bundle.to("cpu"), result.losses, result.step, steps, run.snapshots())


def _sound(run: Run, work: Callable[[], Any]) -> Any:
    """Do something with a run's files; None, and the folder set aside, where they are damaged."""
    try:
        return work()
    except CheckpointError as error:
        run.set_aside(error)
        return None


def search_in_store(  # noqa: PLR0913 - what `search_latent` takes, and where it is kept
    store: RunStore,
    bundle: GeneratorBundle,
    encoders: Encoders,
    target: Images,
    config: SearchConfig,
    *,
    mask: Tensor | None = None,
    place: Callable[[], torch.device | str] = lambda: "cpu",
    callbacks: Sequence[Callable[[SearchProgress], None]] = (),
    poll: Callable[[], None] | None = None,
) -> SearchResult:
    """Search a latent, or load what an earlier call with the same inputs found; see `search_latent`.

    Args:
        store: where the search is kept.
        place: called before it runs, not when it is only loaded; makes room and names the device.
        poll: called while another process does the same search; it may raise.
    """
    check_search(bundle, encoders, target, mask)
    raw = bundle.raw_generator if config.profile.trains_raw_generator else None
    settings = {
        "kind": "search",
        "source": network_fingerprint(bundle.generator),
        **({} if raw is None else {"raw": network_fingerprint(raw)}),
        "mean": fingerprint({"mean": bundle.mean_latent}),
        "clip": clip_fingerprints(encoders),
        "perceptual": encoder_fingerprint(encoders.perceptual),
        "target": fingerprint({"target": target}),
        "mask": None if mask is None else fingerprint({"mask": mask}),
        "config": config.describe(),
        "engine": ENGINE,
    }
    with store.claim(settings, poll) as run, gradients():
        device = "cpu" if _is_done(run.folder / SEARCH, config.steps) else place()
        networks, judges = bundle.to(device), encoders.to(device)

        def work() -> SearchResult:
            return search_latent(
                networks,
                judges,
                target,
                config,
                mask=mask,
                callbacks=callbacks,
                state_file=run.folder / SEARCH,
            )

        return _sound(run, work) or work()


def _is_done(path: Path, steps: int) -> bool:
    """Whether a saved search has come to its end, so that nothing is left to compute."""
    try:
        return path.is_file() and read_tensors(path)[1].get("step") == steps
    except CheckpointError:
        return False  # the search itself says what is wrong with it
