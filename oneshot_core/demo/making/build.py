"""Makes the demo world's assets: `python -m oneshot_core.demo.making.build --work DIR [--stage NAME]`.

All but the CLIP and the judge, which `train_encoders` makes. Seeded and restartable: every stage saves its
state in the work folder each minute and goes on from there. Assets are written at the end of the stage that
makes them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...checkpoints import save
from ...checkpoints.bundle import GeneratorBundle, Provenance, estimate_mean_latent
from ...features import save_perceptual
from ...networks import Discriminator, Generator, MappingNetwork
from ...pictures import save_png
from ..world import ASSETS, TARGET_LOOKS, target_file
from .faces import draw
from .pool import Pool, draw_pool, load_pool
from .pretrain import Trainee
from .pretrain_encoders import (
    CLIP_LOOKS,
    PERCEPTUAL_STAGE,
    EncoderStage,
    pretrain_perceptual,
)
from .pretrain_generator import (
    ADVERSARIAL,
    CHANNELS,
    MAPPING,
    SUPERVISED,
    AdversarialStage,
    MappingStage,
    SupervisedStage,
    pretrain_adversarial,
    pretrain_mapping,
    pretrain_supervised,
)
from .truth import TARGET_SEED, target_factors


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides what the assets become; the default made the shipped ones."""

    seed: int = 0
    plain_faces: int = 16384
    training_look_faces: int = 768  # per look
    channels: tuple[int, ...] = CHANNELS
    mapping: MappingStage = MAPPING
    supervised: tuple[SupervisedStage, ...] = SUPERVISED
    adversarial: AdversarialStage = ADVERSARIAL
    perceptual: EncoderStage = PERCEPTUAL_STAGE

    def shortened(self, steps: int, faces: int, channels: tuple[int, ...]) -> BuildPlan:
        """Return a plan that takes seconds, for tests: few steps, few faces, narrow networks."""
        return replace(
            self,
            plain_faces=faces,
            training_look_faces=faces,
            channels=channels,
            mapping=replace(self.mapping, steps=steps, batch=8),
            supervised=tuple(replace(stage, steps=steps, batch=2) for stage in self.supervised),
            adversarial=replace(self.adversarial, steps=steps, batch=2, alone_steps=steps // 2),
            perceptual=EncoderStage(steps, 4),
        )


@dataclass(frozen=True)
class Build:
    """One run of the build: the plan and where its files go."""

    plan: BuildPlan
    work: Path
    assets: Path = ASSETS
    jobs: int = 1  # processes that draw faces

    def generator(self) -> None:
        """Train the generator on (latent, picture) pairs, one resolution after the other."""
        self._supervised()

    def discriminator(self) -> None:
        """Fine-tune the generator with a discriminator; writes generator.safetensors."""
        start = self._supervised()
        state = pretrain_adversarial(
            self._plain(), self.plan.adversarial, start, self._state("adversarial"), self.plan.seed
        )
        self._write_generator(state)

    def perceptual(self) -> None:
        """Train the perceptual net; writes perceptual.safetensors."""
        net = pretrain_perceptual(
            self._looks(), self.plan.perceptual, self._state("perceptual"), self.plan.seed
        )
        save_perceptual(net, self.assets / "perceptual.safetensors")

    def targets(self) -> None:
        """Draw the target pictures, each of another person; writes target_*.png."""
        for look in TARGET_LOOKS:
            picture = draw(target_factors(look), look, TARGET_SEED)
            save_png(picture, self.assets / target_file(look))

    def _supervised(self) -> Trainee:
        pool, state = self._plain(), None
        start: Generator | MappingNetwork = pretrain_mapping(
            self.plan.mapping, self._state("mapping"), self.plan.seed
        )
        for number, stage in enumerate(self.plan.supervised):
            path = self._state(f"generator-{number}-{stage.size_px}")
            state = pretrain_supervised(pool, stage, start, path, self.plan.seed, self.plan.channels)
            average = state.modules["average"]
            assert isinstance(average, Generator)
            start = average
        assert state is not None
        return state

    def _plain(self) -> Pool:
        return self._drawn(("plain",), self.plan.plain_faces)

    def _looks(self) -> Pool:
        return self._drawn(CLIP_LOOKS, self.plan.training_look_faces)

    def _drawn(self, looks: tuple[str, ...], faces: int) -> Pool:
        draw_pool(self.work / "pool", looks, faces, self.plan.seed, self.jobs)
        return load_pool(self.work / "pool", looks, faces)

    def _state(self, name: str) -> Path:
        return self.work / f"{name}.safetensors"

    def _write_generator(self, state: Trainee) -> None:
        generator, discriminator = state.modules["average"], state.modules["discriminator"]
        assert isinstance(generator, Generator) and isinstance(discriminator, Discriminator)
        provenance = Provenance(
            "oneshot-demo",
            "generator.safetensors",
            history={
                "made_by": "oneshot_core.demo.making.build",
                "seed": self.plan.seed,
                "seconds": round(state.seconds),
            },
        )
        generator = generator.requires_grad_(False).eval()
        bundle = GeneratorBundle(generator, discriminator, None, estimate_mean_latent(generator), provenance)
        save(bundle, self.assets / "generator.safetensors", dtype="float16")


STAGES: dict[str, Callable[[Build], None]] = {
    "generator": Build.generator,
    "discriminator": Build.discriminator,
    "perceptual": Build.perceptual,
    "targets": Build.targets,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one stage, or all in order."""
    parser = argparse.ArgumentParser(prog="python -m oneshot_core.demo.making.build", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for drawn faces and saved states")
    parser.add_argument("--stage", choices=list(STAGES), help="only this one; all without it")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder the assets are written to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; the shipped assets: 1")
    parser.add_argument("--jobs", type=int, default=2, help="processes that draw faces")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    build = Build(BuildPlan(seed=options.seed), options.work, options.out, options.jobs)
    for name in [options.stage] if options.stage else list(STAGES):
        STAGES[name](build)
        print(f"{name}: done")


if __name__ == "__main__":
    main()
