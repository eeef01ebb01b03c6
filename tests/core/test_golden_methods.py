"""Recorded runs of StyleGAN-NADA, Mind the Gap and few-shot adaptation, through the public training code.

Fixtures: tests/golden_methods, or the folder that ONESHOT_GOLDEN_METHODS names.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_methods_support import FOLDER, TRACE, CdcTrace, MtgTrace, NadaTrace, Trace, replay, traces

from oneshot_core.latents import mix, truncate
from oneshot_core.networks import Generator

pytestmark = pytest.mark.golden
KINDS: dict[str, type[Trace]] = {"nada": NadaTrace, "mtg": MtgTrace, "cdc": CdcTrace}


def recordings() -> list[Path]:
    return [path for kind in KINDS for path in traces(f"{kind}_trace_*.json")]


def of(path: Path) -> Trace:
    return KINDS[path.name.partition("_")[0]](path)


@pytest.mark.slow
@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_all_recorded_iterations_are_followed(path: Path) -> None:
    trace = of(path)
    state = replay(trace, len(trace.iterations))
    for told in trace.told.get("inference", []):
        if told["after_iterations"] == len(trace.iterations):
            compare_inference(trace, told, state.adapted, state.source)


@pytest.mark.slow
@pytest.mark.parametrize("path", traces("mtg_trace_*.json"), ids=lambda path: path.stem)
def test_mind_the_gap_draws_as_recorded_before_training(path: Path) -> None:
    trace = of(path)
    generator = trace.bundle().generator
    compare_inference(trace, trace.told["inference"][0], generator, generator)


def compare_inference(trace: Trace, told: dict, adapted: Generator, source: Generator) -> None:
    """Truncation, then fine slots of the reference: the sampling policy of the preset."""
    policy, reference = trace.preset().sampling, trace.aim().codes
    assert (policy.psi, policy.replace_from) == (told["truncation"], told["mix_from_slot"])
    assert policy.replaces_with == "reference"
    codes = source.map(trace.double(told["z"]).reshape(-1, source.config.z_dim))
    short = truncate(codes, trace.bundle().mean_latent, policy.psi)
    drawn = {
        "src": (source, codes),
        "without_color": (adapted, short),
        "color": (adapted, mix(short, reference, policy.replace_from)),
        "rec": (adapted, reference),
    }
    for name, (generator, w) in drawn.items():
        noise = [trace.double(key) for key in told[name]["noise"]]
        with torch.no_grad():
            images = generator.synthesize(w, noise)
        assert (images[:, :, ::2, ::2] - trace.double(told[name]["image"])).abs().max() < 10 * TRACE, name


def test_there_is_a_recording() -> None:
    assert recordings(), f"no recorded run in {FOLDER}"
