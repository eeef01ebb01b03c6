"""The run around the steps: repeatable, resumable after any end, cancellable, never leaving a bad file."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from fuzzing import failures, mutated_json
from tiny_networks import tiny_bundle, tiny_encoders

from oneshot_core.checkpoints import check_family, load, read_tensors, save, write_tensors
from oneshot_core.draws import SeededDraws
from oneshot_core.fingerprints import determining, inputs_of
from oneshot_core.latents import Latent
from oneshot_core.objective import OFFICIAL, Aim
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.saved_states import DamagedState, StateError
from oneshot_core.training import (
    STATE_FILE,
    Callback,
    Progress,
    RunCancelled,
    StopSignal,
    TrainConfig,
    TrainState,
    adapt,
    train,
)
from oneshot_core.training.loop import loss_points

SIZE = 64


def official():
    return oneshot_clip(dataclasses.replace(OFFICIAL, crop_px=8, lpips_dropout=False))


def inputs():
    bundle = tiny_bundle(SIZE)
    target = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return bundle, tiny_encoders(), target, bundle.mean_latent[None]


def run(steps: int, preset=None, folder: Path | None = None, callbacks=(), seed: int = 3):
    bundle, encoders, target, reference = inputs()
    config = TrainConfig(steps=steps, seed=seed, snapshot_every_steps=2, checkpoint_every_steps=2)
    return adapt(
        bundle, encoders, Aim(target, reference), preset, config, run_folder=folder, callbacks=callbacks
    )


def assert_same(first, second) -> None:
    ours, theirs = first.bundle.generator.state_dict(), second.bundle.generator.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = first.bundle.discriminator.state_dict(), second.bundle.discriminator.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, values in first.losses.items():
        pairs = zip(values, second.losses[name], strict=True)
        assert all(a == b or (a != a and b != b) for a, b in pairs), name


def test_same_seed_repeats_bit_for_bit_and_another_seed_does_not() -> None:
    first, second, other = run(5), run(5), run(5, seed=4)
    assert_same(first, second)
    assert first.losses["generator"] != other.losses["generator"]


def test_inputs_are_untouched_and_work_in_inference_mode() -> None:
    bundle, encoders, target, reference = inputs()
    before = {name: value.clone() for name, value in bundle.generator.state_dict().items()}
    with torch.inference_mode():
        made_inside = target.clone(), reference.clone()
        result = adapt(bundle, encoders, Aim(*made_inside), config=TrainConfig(steps=5))
    assert all(torch.equal(before[name], value) for name, value in bundle.generator.state_dict().items())
    assert not any(value.is_inference() for value in result.bundle.generator.state_dict().values())
    moved = [
        name
        for name, value in result.bundle.generator.state_dict().items()
        if not torch.equal(value, before[name])
    ]
    trained = [
        name for name in before if name.startswith(("const", "convs.")) and not name.endswith("noise_const")
    ]
    assert sorted(moved) == sorted(trained)


@pytest.mark.parametrize("preset", [None, official()], ids=["default", "official"])
@pytest.mark.parametrize("stop", [2, 5])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, preset, stop: int) -> None:
    whole = run(9, preset)
    run(stop, preset, tmp_path)
    resumed = run(9, preset, tmp_path)
    assert_same(whole, resumed)


def test_a_run_resumes_inside_inference_mode(tmp_path: Path) -> None:
    """As ComfyUI calls it: what is read there must still be trainable."""
    bundle, encoders, target, reference = inputs()
    whole = run(7)
    with torch.inference_mode():
        for steps in (3, 7):
            config = TrainConfig(steps=steps, seed=3)
            resumed = adapt(bundle, encoders, Aim(target, reference), config=config, run_folder=tmp_path)
    assert_same(whole, resumed)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import test_training, torch
torch.set_num_threads(1)
test_training.run(int(sys.argv[2]), folder=Path(sys.argv[1]))
"""


def _start(folder: Path, steps: int) -> subprocess.Popen:
    here = Path(__file__).resolve()
    paths = [str(here.parent), str(here.parents[1]), str(here.parents[2])]
    return subprocess.Popen([sys.executable, "-c", KILLED.format(paths=paths), str(folder), str(steps)])


@pytest.mark.slow
def test_run_killed_in_the_middle_resumes_exactly(tmp_path: Path) -> None:
    process = _start(tmp_path, 100_000)
    deadline = time.monotonic() + 120
    while not (tmp_path / "snapshots" / "step_000004.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")}
    states = (STATE_FILE, "state.previous.safetensors")
    assert all(name in states or name.startswith("step_") for name in left)
    killed_at = max(
        int(path.stem.split("_")[1]) for path in (tmp_path / "snapshots").glob("step_*.safetensors")
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert_same(run(killed_at + 3), run(killed_at + 3, folder=tmp_path))
    finally:
        torch.set_num_threads(before)


def test_snapshots_are_loadable_and_state_their_step(tmp_path: Path) -> None:
    run(5, folder=tmp_path)
    snapshots = sorted((tmp_path / "snapshots").iterdir())
    assert [path.name for path in snapshots] == [f"step_{step:06d}.safetensors" for step in (2, 4, 5)]
    history = load(snapshots[0]).provenance.history
    assert history["step"] == 2
    assert history["settings"]["preset"]["name"] == "oneshot_clip"


def test_the_saved_generator_carries_its_loss_curves(tmp_path: Path) -> None:
    result = run(6)
    save(result.bundle, tmp_path / "adapted.safetensors")
    curves = load(tmp_path / "adapted.safetensors").provenance.history["losses"]
    assert curves.keys() == result.losses.keys()
    for name, points in curves.items():
        known = [(step, v) for step, v in enumerate(result.losses[name], 1) if v == v]
        assert [step for step, _ in points] == [step for step, _ in known]
        assert [v for _, v in points] == pytest.approx([v for _, v in known], rel=1e-4)


def test_long_loss_curves_are_thinned_and_keep_their_end() -> None:
    history = {"loss": [float(step) for step in range(1, 5001)], "rare": [float("nan")] * 4999 + [7.0]}
    curves = loss_points(history)
    assert len(curves["loss"]) <= 400 and curves["loss"][-1] == [5000, 5000.0]
    assert curves["rare"] == [[5000, 7.0]]


@pytest.mark.slow
def test_cancel_is_noticed_within_one_step_and_the_run_goes_on_later(tmp_path: Path) -> None:
    signal_ = StopSignal()
    seen: list[int] = []

    def report(progress) -> None:
        seen.append(progress.step)
        if progress.step == 5:
            signal_.cancel()

    with pytest.raises(RunCancelled, match="step 5"):
        run(9, folder=tmp_path, callbacks=[Progress(report), signal_])
    assert seen[-1] == 5
    assert_same(run(9), run(9, folder=tmp_path))


def test_stop_and_keep_returns_what_is_there() -> None:
    signal_ = StopSignal()

    def report(progress) -> None:
        if progress.step == 3:
            signal_.stop_and_keep()

    result = run(9, callbacks=[Progress(report), signal_])
    assert result.step == 3
    assert_same(result, run(3))


def test_progress_tells_losses_time_and_preview() -> None:
    seen = []
    run(4, callbacks=[Progress(seen.append, preview_seeds=(1, 2, 3))])
    assert [progress.step for progress in seen] == [1, 2, 3, 4]
    assert {"discriminator", "generator", "lpips", "pixel", "r1"} <= set(seen[0].losses)
    assert {"semantic", "patch"} <= set(seen[1].losses)
    assert "pixel" not in seen[1].losses
    assert seen[0].eta_seconds > 0
    assert seen[-1].eta_seconds == 0
    assert seen[-1].preview().shape == (3, 3, SIZE, SIZE)


def test_on_a_busy_machine_threads_sleep_which_is_told_and_changes_nothing(busy_machine) -> None:
    told: list[tuple[str, ...]] = []
    slept: list[bool] = []

    def report(progress) -> None:
        told.append(progress.notes)
        slept.append(busy_machine.asleep)

    result = run(7, callbacks=[Progress(report)])
    assert slept == [True] * 7 and not busy_machine.asleep
    assert told[0] == () and "from step 2 of the training on its threads slept" in told[-1][0]
    busy_machine.busy = False
    assert_same(result, run(7))


def test_threads_spin_again_when_a_run_is_cancelled(busy_machine) -> None:
    stop = StopSignal()
    with pytest.raises(RunCancelled):
        run(7, callbacks=[Progress(lambda now: stop.cancel() if now.step == 3 else None), stop])
    assert busy_machine.log == ["sleep", "spin"]


@dataclasses.dataclass
class Poison(Callback):
    """Put a NaN into a trained weight after some step."""

    step: int

    def after_step(self, state: TrainState) -> None:
        if state.step == self.step:
            next(iter(state.adapted.convs)).weight.data[0, 0, 0, 0] = float("nan")


def test_nan_stops_with_the_term_and_leaves_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError, match=r"('fake_score'|'discriminator') became nan at step 5 \(seed 3\)"
    ):
        run(9, folder=tmp_path, callbacks=[Poison(5)])
    assert_same(run(7), run(7, folder=tmp_path))


@pytest.mark.slow
def test_a_state_with_nan_is_never_saved(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"so the state was not saved at step 4 \(seed 3\)"):
        run(9, folder=tmp_path, callbacks=[Poison(4)])
    assert_same(run(7), run(7, folder=tmp_path))


def test_nan_after_the_last_step_gives_no_generator_and_no_snapshot(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(FloatingPointError, match=r"adapted.convs.0.weight .* at step 3 \(seed 3\)"):
            run(3, folder=folder, callbacks=[Poison(3)])
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["step_000002.safetensors"]


def test_a_saved_state_with_nan_is_set_aside(tmp_path: Path) -> None:
    run(2, folder=tmp_path)
    path = tmp_path / STATE_FILE
    tensors, header = read_tensors(path)
    tensors["ema.const"][0, 0] = float("inf")
    write_tensors(path, tensors, header)
    assert_same(run(4), run(4, folder=tmp_path))
    assert (tmp_path / "state.damaged.safetensors").is_file()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    run(2, folder=tmp_path)
    with pytest.raises(ValueError, match="seed"):
        run(4, folder=tmp_path, seed=8)
    with pytest.raises(ValueError, match="weight"):
        run(4, oneshot_clip().reweighted({"semantic": 3.0}), tmp_path)


class Interrupt(Callback):
    """Ends the run after a step, by something that is none of Exception's children."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state: TrainState) -> None:
        if state.step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """The folder of a run that was ended after step 5."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        run(9, folder=folder, callbacks=[Interrupt(5)])
    return folder


@pytest.fixture(scope="module")
def whole():
    """A run of 7 steps that nothing interrupted."""
    return run(7)


def rewritten(path: Path, **changes) -> None:
    """Change a state's header and keep the checksums right, as no damage of a disk would."""
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, {**header, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\x40" + path.read_bytes()[-8:]),
        lambda path: rewritten(path, step=-3),
        lambda path: rewritten(path, step=0),
        lambda path: rewritten(path, step=6),
        lambda path: rewritten(path, step=10**6),
    ],
)
def test_a_damaged_state_gives_way_to_the_one_before(
    tmp_path: Path, interrupted: Path, whole, damage, caplog
) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    states = [folder / STATE_FILE, folder / "state.previous.safetensors"]
    assert [read_tensors(path)[1]["step"] for path in states] == [5, 4]
    damage(states[0])
    seen = []
    resumed = run(7, folder=folder, callbacks=[Progress(lambda now: seen.append(now.step))])
    assert seen == [5, 6, 7] and "set aside as state.damaged.safetensors" in caplog.text
    assert_same(whole, resumed)
    assert not states[1].exists()  # the run has come to its end


def test_without_a_sound_state_the_run_starts_anew(tmp_path: Path, caplog) -> None:
    run(2, folder=tmp_path)
    (tmp_path / STATE_FILE).write_bytes(b"\0" * 500)
    assert_same(run(4), run(4, folder=tmp_path))
    assert "starts anew" in caplog.text


@pytest.mark.slow
def test_damaged_states_change_nothing_and_end_in_one_kind_of_error(tmp_path: Path) -> None:
    run(2, folder=tmp_path)
    bundle, encoders, target, reference = inputs()
    draws, path = SeededDraws(3), tmp_path / STATE_FILE
    aim, preset = Aim(target, reference), oneshot_clip()
    settings = determining(inputs_of(bundle, encoders, aim), preset=preset, training={"seed": 3})
    state = TrainState.create(bundle, encoders, aim, preset, draws, settings)
    sound = path.read_bytes()
    before = {name: value.clone() for name, value in state.tensors().items()}
    assert list(failures(state.restore, sound, path, range(60), (StateError,), head=8000)) == []
    path.write_bytes(sound[:-5])
    with pytest.raises(DamagedState):
        state.restore(path)
    assert all(torch.equal(value, before[name]) for name, value in state.tensors().items())
    path.write_bytes(sound)
    tensors, header = read_tensors(path)
    for seed in range(40):
        odd = mutated_json({name: header[name] for name in ("step", "history")}, seed)
        write_tensors(path, tensors, {**header, **(odd if isinstance(odd, dict) else {"step": odd})})
        with suppress(StateError):
            state.restore(path)
            assert state.step == 2


def test_bad_inputs_are_refused_before_any_work() -> None:
    bundle, encoders, target, reference = inputs()
    with pytest.raises(ValueError, match="target must have shape"):
        adapt(bundle, encoders, Aim(target[:, :, :32], reference))
    with pytest.raises(ValueError, match="reference latent must have shape"):
        adapt(bundle, encoders, Aim(target, reference[:, :4]))
    with pytest.raises(ValueError, match="trains a discriminator"):
        adapt(dataclasses.replace(bundle, discriminator=None), encoders, Aim(target, reference))
    with pytest.raises(ValueError, match="this reference is of another generator"):
        adapt(bundle, encoders, Aim(target, Latent("w", reference, family="another")))
    with pytest.raises(ValueError, match="at least 64 px"):
        small = tiny_bundle(32)
        adapt(small, encoders, Aim(target[:, :, :32, :32], small.mean_latent[None]))
    with pytest.raises(ValueError, match="no term"):
        oneshot_clip().reweighted({"semnatic": 1.0})


def test_ablations_and_schedules_are_settings() -> None:
    ablated = oneshot_clip().reweighted({"semantic": 0.0, "patch": 0.0})
    result = run(5, ablated)
    assert not {"semantic", "patch"} & set(result.losses)
    paper = oneshot_clip().scheduled({"reference": 3, "random": 1})
    result = run(5, paper)
    is_reference = [value == value for value in result.losses["pixel"]]
    assert is_reference == [True, True, True, False, True]


def test_small_generators_use_the_image_head_in_the_official_profile() -> None:
    bundle = tiny_bundle(32)
    state = TrainState.create(
        bundle,
        tiny_encoders(),
        Aim(torch.zeros(1, 3, 32, 32), bundle.mean_latent[None]),
        official(),
        draws=SeededDraws(0),
    )
    assert state.heads is None
    train(state, 3)
    assert state.step == 3


def test_a_stop_at_a_multiple_keeps_its_snapshot(tmp_path: Path) -> None:
    signal_ = StopSignal()

    def report(progress) -> None:
        if progress.step == 4:
            signal_.stop_and_keep()

    run(9, folder=tmp_path, callbacks=[Progress(report), signal_])
    assert (tmp_path / "snapshots" / "step_000004.safetensors").is_file()


def test_other_encoders_are_other_settings(tmp_path: Path) -> None:
    run(2, folder=tmp_path)
    bundle, encoders, target, reference = inputs()
    encoders.clip.weight += 0.1
    with pytest.raises(ValueError, match="clip"):
        adapt(bundle, encoders, Aim(target, reference), config=TrainConfig(4, seed=3), run_folder=tmp_path)


def test_fewer_steps_than_a_run_has_are_refused(tmp_path: Path) -> None:
    run(4, folder=tmp_path)
    with pytest.raises(ValueError, match="4 steps, asked for 3"):
        run(3, folder=tmp_path)


def test_official_child_of_a_raw_generator_draws_its_parents_latents() -> None:
    bundle, encoders, target, _ = inputs()
    bundle = dataclasses.replace(bundle, raw_generator=tiny_bundle(SIZE, seed=1).generator)
    reference = Latent("w", bundle.mean_latent[None], bundle.family)
    result = adapt(bundle, encoders, Aim(target, reference), official(), TrainConfig(steps=2))
    assert result.bundle.family != bundle.family  # the average's mapping moves towards the raw one (Q22)
    check_family(reference, result.bundle)


def test_objectives_without_any_term_are_refused() -> None:
    bundle, encoders, target, reference = inputs()
    preset = oneshot_clip().reweighted({"adversarial": 0.0, "lpips": 0.0, "pixel": 0.0})
    with pytest.raises(ValueError, match="every term of the reference steps"):
        adapt(bundle, encoders, Aim(target, reference), preset)


def test_without_an_adversarial_term_no_discriminator_is_trained() -> None:
    result = run(4, oneshot_clip().reweighted({"adversarial": 0.0}))
    assert not {"discriminator", "r1"} & set(result.losses)
    kept = result.bundle.discriminator.state_dict()  # as it was: the result can be adapted again
    assert all(torch.equal(v, kept[name]) for name, v in tiny_bundle(SIZE).discriminator.state_dict().items())
