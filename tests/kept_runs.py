"""Adaptations in a store, for the tests of pipeline and store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_networks import tiny_bundle, tiny_encoders

from oneshot_core.inputs import Inputs, prepared
from oneshot_core.latents import Latent
from oneshot_core.pipeline import adapt_recipe
from oneshot_core.recipe import Recipe
from oneshot_core.run_folder import StoredResult
from oneshot_core.store import RunStore
from oneshot_core.training import Callback, TrainState
from oneshot_core.training.execution import Execution

SIZE, STEPS = 64, 4


def bound(seed: int) -> Recipe:
    return Recipe.of({"training": {"seed": seed, "precision": "float32"}, "inputs": {"size": SIZE}})


class Counting(Callback):
    """Counts steps, and interrupts after one of them."""

    def __init__(self, until: int = 10**9) -> None:
        self.steps, self.until = 0, until

    def after_step(self, state: TrainState) -> None:
        self.steps += 1
        if state.step == self.until:
            raise KeyboardInterrupt  # like ComfyUI's cancel, none of Exception's children


def recipe_of(steps: int = STEPS, seed: int = 0, **more: Any) -> Recipe:
    training = {"steps": steps, "seed": seed, "snapshot_every": 2, "precision": "float32"}
    return Recipe.of({"training": training, **more})


def run(
    root: Path, world: Inputs, steps: int = STEPS, seed: int = 0, **settings: Any
) -> tuple[StoredResult, int]:
    """Adapt in a store; returns the result and how many steps were trained."""
    counting = settings.pop("counting", Counting())
    store = RunStore(root, settings.pop("limit_bytes", None))
    callbacks = [*settings.pop("callbacks", []), counting]
    recipe, inputs = prepared(recipe_of(steps, seed), replace(world, mask=settings.pop("mask", None)))
    result = adapt_recipe(
        recipe, inputs, store, callbacks=callbacks, place=lambda: Execution("cpu"), **settings
    )
    return result, counting.steps


def same(first: Any, second: Any) -> bool:
    one, two = first.generator.state_dict(), second.generator.state_dict()
    return all(torch.equal(one[name], two[name]) for name in one)


def folder_of(root: Path) -> Path:
    (folder,) = [path for path in root.iterdir() if path.is_dir() and ".damaged" not in path.name]
    return folder


def names_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tiny_inputs() -> Inputs:
    bundle = tiny_bundle(SIZE)
    target = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) * 2 - 1
    reference = Latent("w", bundle.mean_latent[None].clone(), bundle.family)
    return Inputs(bundle, tiny_encoders(), target, reference=reference)
