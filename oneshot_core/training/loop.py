"""The training loop, and `adapt`: one picture in, a generator out."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import CheckpointError, GeneratorBundle, save
from ..checkpoints.bundle import estimate_mean_latent
from ..checkpoints.native import opened_file
from ..copies import private_copy
from ..draws import SeededDraws
from ..features import Encoders
from ..fingerprints import determining, inputs_of
from ..json_values import Fields, JsonError
from ..memory import is_out_of_memory
from ..objective import Aim, Preset
from ..objective.presets import oneshot_clip
from ..pictures.covers import draw_cover, model_card
from ..saved_states import StateError
from ..stages import kept, recomputed
from ..tensors import gradients, owned
from ..threads import ThreadWatch
from ..writing import remove_stale_temporaries
from .callbacks import Callback, Checkpoints, RunStopped, Snapshots
from .checks import check_run
from .config import TrainConfig
from .masking import counted_aim
from .phases import phases_due, run_phase, start_round
from .state import TrainState, state_file

log = logging.getLogger(__name__)

STATE_FILE, SNAPSHOTS = "state.safetensors", "snapshots"
MAX_POINTS = 400  # of a loss curve in a file's header: 50 kB in all; ComfyUI shows headers up to 1 MiB


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation gives.

    Args:
        bundle: the adapted generator (moving average) with its discriminator; a sibling of the source.
        losses: per name the unweighted value of every step, NaN where a step does not compute it.
        step: steps done; fewer than asked for after "stop and keep".
    """

    bundle: GeneratorBundle
    losses: dict[str, list[float]]
    step: int


def train(state: TrainState, steps: int, callbacks: Sequence[Callback] = ()) -> None:
    """Run a state up to `steps` steps in all.

    Args:
        state: from `TrainState.create`, possibly restored; it is changed.
        steps: the step to reach.
        callbacks: told about every phase and step; one that raises stops the run.

    Raises:
        FloatingPointError: a loss or a gradient became NaN or infinite; the message names term, step and
            seed. The file of a `Checkpoints` callback then holds the last good state that was saved.
    """
    # ComfyUI runs nodes in inference mode, in which nothing could be trained (comfyui.md 3.1).
    with gradients(), ThreadWatch(state.source.const.device, "training") as watch:
        for callback in callbacks:
            callback.started(state, steps)
        try:
            while state.step < steps:
                # Draws depend on (seed, step) alone, not on earlier ones: a resumed run repeats bit for bit.
                watch.begin()
                losses = _one_step(state, callbacks)
                watch.end(state.step + 1, tuple(losses))
                state.notes = watch.notes
                state.record(losses)
                state.step += 1  # before the callbacks: what they save resumes at the next step
                state.amid_step = False
                for callback in callbacks:
                    callback.after_step(state)
        except RunStopped:
            pass  # between two steps: what `finished` saves is whole
        except BaseException:  # Ctrl-C, and since 0.20 ComfyUI's cancel, are no children of Exception
            for callback in callbacks:
                callback.aborted(state)
            raise
        for callback in callbacks:
            callback.finished(state)


def _one_step(state: TrainState, callbacks: Sequence[Callback]) -> dict[str, float]:
    current = start_round(state)
    losses: dict[str, float] = {}
    for phase in phases_due(current):
        for callback in callbacks:
            callback.before_phase(state)
        state.amid_step = True
        for name, value in run_phase(phase, current).items():
            # Waits for the device: a NaN must be named before another phase spreads it. The phase that made
            # it took no step (`run_phase`).
            losses[name] = float(value)
            if not math.isfinite(losses[name]):
                raise state.broken(f"the {phase} phase's {name!r} became {losses[name]}")
    return losses


def adapt(  # noqa: PLR0913 - what is adapted to what and how, and how to follow it
    bundle: GeneratorBundle,
    encoders: Encoders,
    aim: Aim,
    preset: Preset | None = None,
    config: TrainConfig | None = None,
    *,
    mask: Tensor | None = None,
    run_folder: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
    device: torch.device | str | None = None,
    recompute: bool = False,
    about: Mapping[str, Any] | None = None,
) -> AdaptResult:
    """Adapt a generator to the look of one picture.

    Args:
        bundle: the source generator with its discriminator; it is not changed.
        encoders: CLIP models and perceptual net, on the device.
        aim: the target picture, and the latent whose picture is its counterpart, from `search_latent`.
        preset: the method; default `oneshot_clip()`.
        config: steps, seed, intervals.
        mask: [1, 1, S, S] in [0, 1], 1 = counts: where it is 0, the source's own picture of the reference is
            the target. None: all of the target counts.
        run_folder: where the state and snapshots are kept; a run found there with the same settings is
            resumed and gives what an uninterrupted run would have given. None: nothing is written.
        callbacks: told about every phase and step.
        device: where to train; None: where the generator is.
        recompute: keep less for the backward pass and compute it again there: slower, in less memory, with
            the same result.
        about: JSON values for the headers of the result and its snapshots, such as its recipe.

    Returns:
        The adapted generator, on that device, and the losses.

    Raises:
        ValueError: something does not fit or is not finite.
        StateError: a ValueError too: the run folder holds a run with other settings or more steps. A state
            that is damaged is set aside instead, and the run goes on from the one before it or starts anew.
        FloatingPointError: a loss, a gradient or a weight became NaN or infinite.
        RunCancelled: a `StopSignal` was cancelled; the run folder keeps what was done.
    """
    preset, config = preset or oneshot_clip(), config or TrainConfig()
    # `create` checks again, but a mask makes the source draw before that.
    check_run(bundle, aim, preset)
    # Of target and mask as given: what fills the masked part is rendered, and its last bits may differ.
    settings = determining(inputs_of(bundle, encoders, aim, mask), preset=preset, training=config.describe())
    folder = None if run_folder is None else Path(run_folder)
    if mask is not None:
        aim = counted_aim(aim, bundle, mask, folder)
    draws = SeededDraws(config.seed)
    state = TrainState.create(bundle, encoders, aim, preset, draws, settings, config.precision, device)
    state.stage = recomputed if recompute else kept
    state.about = dict(about or {})
    before, after = ([], []) if folder is None else _resumed(state, bundle, config, folder)
    train(state, config.steps, [*before, *callbacks, *after])
    state.check_finite()  # no step comes after the last that would notice
    state.freeze()  # it ends here: its networks are the result, without a copy
    return AdaptResult(adapted_bundle(state, bundle, copied=False), dict(state.history), state.step)


def _resumed(
    state: TrainState, bundle: GeneratorBundle, config: TrainConfig, folder: Path
) -> tuple[list[Callback], list[Callback]]:
    """Continue what the folder holds; return the callbacks that keep the run there.

    Snapshots come before all others: one that raises, or a state saved at the same step, must not cost one.
    """
    path = folder / STATE_FILE
    # A killed run leaves half-written files under temporary names.
    for place in (folder, folder / SNAPSHOTS):
        remove_stale_temporaries(place)
    state_file(path).load(state.restore)
    if state.step > config.steps:
        raise StateError(
            f"{folder} holds a run of {state.step} steps, asked for {config.steps}; ask for at least as "
            "many, use a snapshot of that run, or another folder"
        )
    for step, found in snapshot_files(folder).items():
        if not _is_of(found, step, state.settings):
            log.warning("removed the snapshot %s: it is damaged or belongs to an earlier run", found)
            found.unlink(missing_ok=True)
    snapshots = Snapshots(lambda now: _save_snapshot(now, bundle, folder), config.snapshot_every_steps)
    states = Checkpoints(path, config.checkpoint_every_steps, config.checkpoint_every_seconds)
    # Last: a step whose state is saved is not done again, so what others missed of it stays missed.
    return [snapshots], [states]


def snapshot_files(folder: Path) -> dict[int, Path]:
    """The snapshots in a run's folder by their step."""
    found = [
        # `_save_snapshot` writes six digits, more from step 1,000,000 on.
        (re.fullmatch(r"step_(\d{6,})\.safetensors", path.name), path)
        for path in (folder / SNAPSHOTS).glob("*")
    ]
    return {int(match[1]): path for match, path in sorted(found, key=lambda one: one[1].name) if match}


def _is_of(path: Path, step: int, settings: Mapping[str, Any]) -> bool:
    """Whether a snapshot is sound and was made by a run of these settings."""
    try:
        with opened_file(path) as (_, header):
            history = Fields(header, "the header").object("provenance").object("history")
        return history.value("settings", None) == settings and history.value("step", None) == step
    except (CheckpointError, JsonError):
        return False


def _save_snapshot(state: TrainState, bundle: GeneratorBundle, folder: Path) -> None:
    """Keep the generator as it is now, without its discriminator, with a picture to choose by."""
    state.check_finite()
    path = folder / SNAPSHOTS / f"step_{state.step:06d}.safetensors"
    now = adapted_bundle(state, bundle, copied=False)
    try:
        cover = draw_cover(now)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        cover = None  # the file matters more
    card = model_card(now, cover, title=f"step {state.step}")
    save(now, path, with_discriminator=False, metadata=card)  # half the size


def loss_points(history: Mapping[str, Sequence[float]]) -> dict[str, list[list[float]]]:
    """Loss curves for a file's header: {name: [[step, value], ...]}, at most 400 points each.

    Args:
        history: per name one value per step, NaN where a step does not compute it.
    """
    curves = {}
    for name, values in history.items():
        # A term has values in steps of its kind only, so each point carries its step.
        points = [[step, float(f"{v:.5g}")] for step, v in enumerate(values, 1) if math.isfinite(v)]
        stride = math.ceil(len(points) / MAX_POINTS)
        curves[name] = points[::-1][:: max(1, stride)][::-1]  # the last one stays
    return curves


def adapted_bundle(state: TrainState, source: GeneratorBundle, copied: bool = True) -> GeneratorBundle:
    """Take the averaged generator out of a state, with its provenance.

    Args:
        state: the run.
        source: the bundle the run started from.
        copied: copy the networks, so that the run can go on; else they are the state's own.
    """
    history = {
        "parent": {
            "file_name": source.provenance.file_name,
            "sha256": source.provenance.sha256,
            "family": source.family,
        },
        "step": state.step,
        **state.about,
        "settings": state.settings,
        "losses": loss_points(state.history),
    }
    # No file yet, hence no checksum.
    provenance = replace(source.provenance, format="adapted", sha256=None, history=history)

    maps_anew = "mapping" in state.preset.trainable.parts

    def taken(network: Any) -> Any:
        return private_copy(network) if copied and network is not None else network

    return GeneratorBundle(
        generator=taken(state.ema),
        # Also one that no step has trained: with it the result can be adapted again.
        discriminator=source.discriminator if state.discriminator is None else taken(state.discriminator),
        raw_generator=None,
        # The source's while the mapping is frozen: test_sample.py truncates towards it (methods.md C).
        mean_latent=estimate_mean_latent(state.ema) if maps_anew else owned(source.mean_latent),
        provenance=provenance,
    )
