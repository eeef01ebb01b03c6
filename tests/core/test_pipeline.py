"""Recipes followed in a store: loading instead of training, resuming, damage, locks, limits; one result."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kept_runs import SIZE, STEPS, Counting, bound, folder_of, names_of, recipe_of, run, same, tiny_inputs
from PIL import Image
from tiny_networks import TinyChoice, tiny_bundle

from oneshot_core import cli
from oneshot_core import inputs as opening
from oneshot_core.checkpoints import load, read_tensors, save
from oneshot_core.choices import GO_ON, SEARCH_METHODS, TRAIN_AGAIN
from oneshot_core.demo.world import demo_encoders, demo_generator, demo_target
from oneshot_core.inputs import Inputs, open_inputs, prepared
from oneshot_core.pipeline import adapt_recipe, run_recipe, search_recipe
from oneshot_core.recipe import Recipe
from oneshot_core.run_folder import MARK, RECORD, REFERENCE, RESULT, WORK, Run
from oneshot_core.store import FolderStore, RunStore
from oneshot_core.training import STATE_FILE, Callback, Poll, StopSignal, TrainConfig, TrainState, adapt
from oneshot_core.training.execution import Execution
from oneshot_core.training.loop import SNAPSHOTS
from oneshot_core.training.masking import MASKED_FILE


@pytest.fixture(scope="module")
def world() -> Inputs:
    return tiny_inputs()


def flipped_last(data: bytes) -> bytes:
    """Flip a bit of the last number, or of the record's checksum."""
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


def test_the_second_call_loads_the_same_result(tmp_path: Path, world: Inputs) -> None:
    first, trained = run(tmp_path, world)
    second, again = run(tmp_path, world)
    assert (trained, again) == (STEPS, 0)
    assert same(first.bundle, second.bundle) and second.bundle.discriminator is not None
    assert first.step == second.step == STEPS and list(second.snapshots) == [2, 4]
    assert second.losses["generator"] == first.losses["generator"]


def test_it_equals_a_plain_adaptation(tmp_path: Path, world: Inputs) -> None:
    preset, _ = recipe_of().preset(SIZE)
    plain = adapt(world.source, world.encoders, world.aim, preset, TrainConfig(STEPS, 0))
    assert same(plain.bundle, run(tmp_path, world)[0].bundle)


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 3}], ids=str)
def test_other_settings_are_another_run(tmp_path: Path, world: Inputs, change: dict[str, int]) -> None:
    run(tmp_path, world)
    assert run(tmp_path, world, **change)[1] == change.get("steps", STEPS)


def test_an_interrupted_run_goes_on_and_equals_a_whole_one(tmp_path: Path, world: Inputs) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", world, counting=Counting(until=3))
    resumed, steps = run(tmp_path / "a", world)
    assert steps == 1
    assert same(resumed.bundle, run(tmp_path / "b", world)[0].bundle)


def test_a_snapshot_is_chosen_without_training(tmp_path: Path, world: Inputs) -> None:
    last, _ = run(tmp_path, world)
    early, steps = run(tmp_path, world, snapshot=2)
    assert (steps, early.step, early.bundle.discriminator) == (0, 2, None)
    assert not same(early.bundle, last.bundle)
    assert same(run(tmp_path, world, snapshot=STEPS)[0].bundle, last.bundle)
    with pytest.raises(ValueError, match=r"no snapshot of step 3; it has 2, 4"):
        run(tmp_path, world, snapshot=3)


class StopAt(StopSignal):
    """Ends a run after a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.at = step

    def after_step(self, state: TrainState) -> None:
        if state.step == self.at:
            self.stop_and_keep()
        super().after_step(state)


def test_stop_and_keep_is_final_until_it_is_to_go_on(tmp_path: Path, world: Inputs) -> None:
    early, _ = run(tmp_path / "a", world, callbacks=[StopAt(1)])
    assert (early.step, early.steps) == (1, STEPS)
    for _ in range(2):
        again, steps = run(tmp_path / "a", world)
        assert (steps, again.step, again.steps) == (0, 1, STEPS) and same(again.bundle, early.bundle)
        assert again.bundle.discriminator is not None and len(again.losses["generator"]) == 1
    with pytest.raises(ValueError, match=r"no snapshot of step 2; .*it was stopped and kept at step 1"):
        run(tmp_path / "a", world, snapshot=2)
    later, steps = run(tmp_path / "a", world, kept=GO_ON, callbacks=[StopAt(3)])
    assert (steps, later.step) == (1, 3) and run(tmp_path / "a", world)[0].step == 3
    assert run(tmp_path / "a", world, snapshot=2)[0].step == 2
    resumed, steps = run(tmp_path / "a", world, kept=GO_ON)
    assert steps == STEPS - 3 and same(resumed.bundle, run(tmp_path / "b", world)[0].bundle)
    assert run(tmp_path / "a", world, kept=GO_ON)[1] == run(tmp_path / "a", world)[1] == 0


def test_a_stopped_run_is_thrown_away_when_it_is_to_be_trained_again(tmp_path: Path, world: Inputs) -> None:
    run(tmp_path, world, callbacks=[StopAt(2)])
    assert run(tmp_path, world, kept=TRAIN_AGAIN)[1] == STEPS


@pytest.mark.slow
def test_more_steps_go_on_where_a_shorter_run_ended(tmp_path: Path, world: Inputs) -> None:
    for steps in (1, 3):  # each goes on from the one before
        run(tmp_path / "a", world, steps=steps)
    longer, trained = run(tmp_path / "a", world, steps=6)
    whole, _ = run(tmp_path / "b", world, steps=6)
    assert (
        trained == 3 and same(longer.bundle, whole.bundle) and list(longer.snapshots) == list(whole.snapshots)
    )
    assert [len(values) for values in longer.losses.values()] == [6] * len(longer.losses)
    assert [run(tmp_path / "a", world, steps=steps)[1] for steps in (1, 3, 6)] == [0, 0, 0]
    assert run(tmp_path / "a", world, steps=2)[1] == 1  # from the run of one step
    assert run(tmp_path / "a", world, steps=6, seed=1)[1] == 6  # another run


def test_more_steps_go_on_where_a_run_was_stopped(tmp_path: Path, world: Inputs) -> None:
    run(tmp_path, world, callbacks=[StopAt(2)])
    assert run(tmp_path, world, steps=6)[1] == 4
    assert run(tmp_path, world)[0].step == 2  # it stays as it is


def test_it_trains_inside_inference_mode(tmp_path: Path, world: Inputs) -> None:
    plain, _ = run(tmp_path / "a", world)
    with torch.inference_mode():
        inside = replace(world, source=world.source.to("cpu"), target=world.target.clone())
        result, _ = run(tmp_path / "b", inside)
        loaded, steps = run(tmp_path / "b", inside)
    assert steps == 0 and same(plain.bundle, result.bundle) and same(plain.bundle, loaded.bundle)


def test_fresh_trains_again(tmp_path: Path, world: Inputs) -> None:
    run(tmp_path, world)
    assert run(tmp_path, world, kept=TRAIN_AGAIN)[1] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("names", [[RESULT], [RECORD, f"{WORK}/{RECORD}"]], ids=["result", "records"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: b"", flipped_last], ids=["cut", "empty", "flipped"]
)
def test_what_is_damaged_of_a_run_is_set_aside(
    tmp_path: Path, world: Inputs, names: list[str], damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, world, steps=1)
    for name in names:
        path = folder_of(tmp_path) / name
        path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        # A lost result is drawn from the state of the last step, a run without a record trained anew.
        assert run(tmp_path, world, steps=1)[1] == (0 if names == [RESULT] else 1)
    assert "set aside" in caplog.text
    assert [path for path in tmp_path.rglob("*") if "damaged" in path.name]
    assert run(tmp_path, world, steps=1)[1] == 0


def test_a_damaged_record_gives_way_to_its_copy(tmp_path: Path, world: Inputs) -> None:
    run(tmp_path, world, steps=1)
    (folder_of(tmp_path) / RECORD).write_bytes(b"")
    assert run(tmp_path, world, steps=1)[1] == 0


def test_a_damaged_state_is_set_aside_within_its_run(
    tmp_path: Path, world: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, counting=Counting(until=2))
    path = folder_of(tmp_path) / WORK / STATE_FILE
    path.write_bytes(flipped_last(path.read_bytes()))
    assert run(tmp_path, world)[1] == STEPS
    assert "set aside as state.damaged.safetensors" in caplog.text
    assert names_of(folder_of(tmp_path)) == sorted([MARK, RECORD, RESULT, WORK])
    assert names_of(folder_of(tmp_path) / WORK) == sorted([RECORD, SNAPSHOTS, STATE_FILE])


def test_a_resumed_run_has_the_bytes_of_a_whole_one(tmp_path: Path, world: Inputs) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", world, counting=Counting(until=3))
    resumed, whole = run(tmp_path / "a", world)[0], run(tmp_path / "b", world)[0]
    assert list(resumed.losses) == list(whole.losses)
    for name in (RESULT, RECORD, *(f"{WORK}/{SNAPSHOTS}/step_00000{step}.safetensors" for step in (2, 4))):
        one, two = (folder_of(tmp_path / side) / name for side in "ab")
        assert one.read_bytes() == two.read_bytes(), name


def test_snapshots_of_a_run_that_no_longer_counts_go(tmp_path: Path, world: Inputs) -> None:
    """Of other settings, damaged, or under another step's name; the run's own ones stay."""
    inputs = {"bundle": world.source, "encoders": world.encoders, "aim": world.aim}
    adapt(**inputs, config=TrainConfig(4, 1, snapshot_every_steps=2), run_folder=tmp_path)
    folder = tmp_path / SNAPSHOTS
    (tmp_path / STATE_FILE).unlink()
    foreign = folder / "step_000003.safetensors"
    foreign.write_bytes((folder / "step_000002.safetensors").read_bytes())
    (folder / "step_000009.safetensors").write_bytes(b"")
    adapt(**inputs, config=TrainConfig(1, 1), run_folder=tmp_path)
    assert names_of(folder) == [f"step_{step:06d}.safetensors" for step in (1, 2, 4)]
    (tmp_path / STATE_FILE).unlink()
    adapt(**inputs, config=TrainConfig(1, 0), run_folder=tmp_path)
    assert names_of(folder) == ["step_000001.safetensors"]


def test_poll_ends_a_run_between_steps(tmp_path: Path, world: Inputs) -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tmp_path, world, callbacks=[Poll(check)])
    assert (folder_of(tmp_path) / WORK / STATE_FILE).is_file()
    assert run(tmp_path, world)[1] == STEPS - 2


def test_a_cancel_on_the_step_of_a_snapshot_does_not_cost_it(tmp_path: Path, world: Inputs) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, counting=Counting(2))
    assert list(run(tmp_path, world)[0].snapshots) == [2, 4]


def test_a_snapshot_that_is_not_kept_is_refused_in_the_call_that_trains(
    tmp_path: Path, world: Inputs
) -> None:
    with pytest.raises(ValueError, match="keeps no snapshot of step 3"):
        run(tmp_path, world, snapshot=3)


def test_stray_files_among_the_snapshots_do_no_harm(tmp_path: Path, world: Inputs) -> None:
    run(tmp_path, world)
    (folder_of(tmp_path) / WORK / SNAPSHOTS / "step_000002 (1).safetensors").write_bytes(b"a copy")
    assert list(run(tmp_path, world)[0].snapshots) == [2, 4]


def test_an_interrupted_run_goes_on_although_a_fresh_one_is_asked_for(tmp_path: Path, world: Inputs) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, counting=Counting(2), kept=TRAIN_AGAIN)
    assert run(tmp_path, world, kept=TRAIN_AGAIN)[1] == STEPS - 2


def test_a_mask_belongs_to_the_run_and_its_filled_target_is_drawn_once(tmp_path: Path, world: Inputs) -> None:
    mask = torch.ones(1, 1, SIZE, SIZE)
    mask[..., :16] = 0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, world, counting=Counting(2), mask=mask)
    (kept,) = tmp_path.rglob(MASKED_FILE)
    before = kept.read_bytes()
    masked, steps = run(tmp_path, world, mask=mask)
    assert steps == STEPS - 2 and kept.read_bytes() == before
    target = read_tensors(kept)[0]["target"]
    assert torch.equal(target[..., 16:], world.target[..., 16:])
    assert not torch.equal(target[..., :16], world.target[..., :16])
    assert run(tmp_path, world)[1] == STEPS  # without a mask it is another run
    assert run(tmp_path, world, mask=mask)[1] == 0


@pytest.mark.parametrize("method", SEARCH_METHODS)
def test_a_search_is_kept_and_resumed(tmp_path: Path, world: Inputs, method: str) -> None:
    values = {"search": {"steps": 4, "method": method}}
    recipe, inputs = prepared(Recipe.of(values), replace(world, reference=None), "search")
    seen: list[int] = []

    def search(stop_at: int = 0) -> Any:
        def report(now: SimpleNamespace) -> None:
            seen.append(now.step)
            if now.step == stop_at:
                raise KeyboardInterrupt

        return search_recipe(recipe, inputs, RunStore(tmp_path), callbacks=[report])

    with pytest.raises(KeyboardInterrupt):
        search(stop_at=2)
    found = search()
    assert seen == [1, 2, 3, 4]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert torch.equal(search().latent.values, found.latent.values) and len(seen) == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == written  # only loaded
    path = folder_of(tmp_path) / WORK / "search.safetensors"
    path.write_bytes(flipped_last(path.read_bytes()))
    assert torch.equal(search().latent.values, found.latent.values)
    assert seen == [1, 2, 3, 4, 3, 4]  # from the state before it
    assert path.with_name("search.damaged.safetensors").is_file()


def test_the_method_of_the_search_is_part_of_what_determines_a_result(world: Inputs) -> None:
    def key(half: str, **search: Any) -> str:
        given = replace(world, reference=None)
        return prepared(Recipe.of({"search": {"steps": 4, **search}}), given, half)[0].key(half)

    for half in ("search", ""):
        assert key(half) == key(half, method="clip") != key(half, method="ii2s")
    assert "method" not in prepared(Recipe(), world, "search")[0].settings("search")["search"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["oneshot_clip", "mind_the_gap"])
def test_ii2s_finds_the_reference_of_an_adaptation(tmp_path: Path, world: Inputs, preset: str) -> None:
    values = recipe_of(1, method={"preset": preset}, search={"steps": 3, "method": "ii2s"}).values()
    given = prepared(Recipe.of({**values, "inputs": {}}), replace(world, reference=None))
    made = run_recipe(*given, FolderStore(tmp_path / "one"))
    assert made.reference is not None and made.reference.space == "w+"
    assert set(made.search_losses) == {"pixel", "lpips", "prior"} and made.adapted.step == 1
    found = search_recipe(*prepared(given[0].bound({}), given[1], "search"), RunStore(tmp_path / "store"))
    assert torch.equal(found.latent.values, made.reference.values)


# One result, whichever way ---------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    save(tiny_bundle(SIZE), tmp_path / "source.safetensors")
    Image.linear_gradient("L").convert("RGB").resize((90, 70)).save(tmp_path / "target.png")
    Image.linear_gradient("L").resize((90, 70)).save(tmp_path / "mask.png")
    return {name: str(tmp_path / f"{name}.png") for name in ("target", "mask")} | {
        "generator": str(tmp_path / "source.safetensors")
    }


def test_command_plan_and_the_two_halves_of_the_canvas_give_one_result(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the nodes call, in their two halves below a root; the live tests queue a real graph."""
    values = {
        "generator": files["generator"],
        "aim": {"target": files["target"], "mask": files["mask"]},
        "search": {"steps": 3},
        "training": {"steps": 2, "snapshot_every": 1},
        "method": {"weights": {"patch": 0.5}},
    }
    recipe = Recipe.of(values)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.values()))
    words = ["adapt", "--recipe", str(tmp_path / "recipe.json"), "--device", "cpu", "--threads", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "command")]) == 0

    job = {"target": files["target"], "generator": files["generator"], "name": "x", "recipe": values}
    del values["generator"], values["aim"]["target"]
    plan = {"format": "oneshot-batch", "format_version": 1, "jobs": [job]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = ["batch", str(tmp_path / "plan.json"), "--out", str(tmp_path / "batch"), "--device", "cpu"]
    assert cli.main([*words, "--threads", "1"]) == 0

    store, opened = RunStore(tmp_path / "store"), open_inputs(recipe)
    found = search_recipe(*prepared(recipe, opened, "search"), store, place=lambda: Execution("cpu"))
    half = prepared(recipe, replace(opened, reference=found.latent))
    canvas = adapt_recipe(*half, store, place=lambda: Execution("cpu")).bundle
    for other in (tmp_path / "command", tmp_path / "batch" / "x"):
        assert same(load(other / RESULT), canvas)
    assert (tmp_path / "command" / RESULT).read_bytes() == (tmp_path / "batch" / "x" / RESULT).read_bytes()
    made = [load(path / RESULT).provenance.history["recipe"] for path in (tmp_path / "command",)]
    assert made == [canvas.provenance.history["recipe"]]  # the canvas's, too, tells of the search


@pytest.mark.slow
def test_a_result_can_be_made_again_from_its_own_header(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ["--steps", "2", "--search-steps", "2", "--fit", "stretch", "--device", "cpu", "--threads", "1"]
    named = ["--generator", files["generator"], "--target", files["target"]]
    assert cli.main(["adapt", *named, *short, "--out", str(tmp_path / "one")]) == 0
    result = tmp_path / "one" / RESULT
    assert str(tmp_path) not in json.dumps(load(result).provenance.history["recipe"])
    for number, source in enumerate((result, tmp_path / "one", tmp_path / "one" / RECORD)):
        again = tmp_path / f"again{number}"
        words = ["adapt", "--recipe", str(source), *named, *short[-4:], "--out", str(again)]
        assert cli.main(words) == 0
        assert (again / RESULT).read_bytes() == result.read_bytes()
    capsys.readouterr()
    assert cli.main(["recipe", str(result)]) == 0
    told = capsys.readouterr().out
    assert Recipe.of(json.loads(told)).aim.fit == "stretch"
    Image.new("RGB", (9, 9)).save(files["target"])
    assert cli.main([*words[:-1], str(tmp_path / "other")]) == 0
    assert "not the target that the recipe was made with" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_goes_on_whichever_half_was_interrupted(tmp_path: Path, files: dict[str, str]) -> None:
    values = {"generator": files["generator"], "aim": {"target": files["target"]}, "search": {"steps": 3}}
    recipe = recipe_of(**values)
    recipe, inputs = prepared(recipe, open_inputs(recipe))
    seen: list[str] = []

    def follow(fail_at: str) -> dict[str, Any]:
        def note(name: str) -> None:
            seen.append(name)
            if name == fail_at:
                raise KeyboardInterrupt

        class Noting(Callback):
            def after_step(self, state: TrainState) -> None:
                note(f"adapt {state.step}")

        return {"search_callbacks": [lambda now: note(f"search {now.step}")], "callbacks": [Noting()]}

    store = FolderStore(tmp_path / "out")
    for fail_at in ("search 2", "adapt 3"):
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, inputs, store, **follow(fail_at))
    done = run_recipe(recipe, inputs, store, **follow(""))
    assert seen == [*(f"search {step}" for step in (1, 2, 3)), *(f"adapt {step}" for step in (1, 2, 3, 4))]
    whole = run_recipe(recipe, inputs, FolderStore(tmp_path / "whole"))
    assert same(done.adapted.bundle, whole.adapted.bundle)
    assert (tmp_path / "out" / REFERENCE).read_bytes() == (tmp_path / "whole" / REFERENCE).read_bytes()


@pytest.mark.parametrize("half", ["search", "adaptation"])
def test_a_process_that_ends_between_result_and_record_loses_nothing(
    tmp_path: Path, world: Inputs, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    """Whoever comes next goes on from the state, or loads; nothing is set aside."""
    recipe = recipe_of(search={"steps": 3})
    given = world if half == "adaptation" else replace(world, reference=None)
    work = adapt_recipe if half == "adaptation" else search_recipe
    bound_to = prepared(recipe, given, "" if half == "adaptation" else half)
    record = Run.record

    def failing(run: Run, step: int, losses: Any = None, **more: Any) -> None:
        if losses:
            raise KeyboardInterrupt
        record(run, step, losses, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", failing)
        with pytest.raises(KeyboardInterrupt):
            work(*bound_to, RunStore(tmp_path))
    counting = Counting()
    follow = [counting] if half == "adaptation" else [lambda now: counting.after_step(now)]
    found = work(*bound_to, RunStore(tmp_path), callbacks=follow)
    assert found.losses and all(map(len, found.losses.values()))
    assert counting.steps == 0 and not [path for path in tmp_path.rglob("*") if "damaged" in path.name]


def test_what_the_results_file_holds_is_part_of_the_key(world: Inputs) -> None:
    moved = replace(world.source, mean_latent=world.source.mean_latent + 1)
    recipe = recipe_of(method={"weights": {"adversarial": 0.0}})
    keys = {
        prepared(recipe, replace(world, source=source))[0].key("adaptation")
        for source in (world.source, moved, replace(world.source, discriminator=None))
    }
    assert len(keys) == 3


def test_the_same_settings_have_one_key_however_they_are_given(world: Inputs) -> None:
    plain, told = bound(0), {"clip": 1, "deviation": 0.01}
    assert Recipe.of({"search": {"weights": told}}, plain).key("search") == plain.key("search")
    shown = prepared(recipe_of(), Inputs(demo_generator(), demo_encoders(), demo_target()))[0]
    assert shown.generator == "demo"  # on the canvas it came as a value
