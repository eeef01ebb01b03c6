"""How every method of the editing benchmark finds its edit; one function each, `ask -> Made`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from demo_measures import READER
from editing_measures import at_length, drawn, people
from torch import Tensor

from oneshot_core.demo.making.entrance import open_encoder
from oneshot_core.demo.making.faces import FACTORS, factors_from_latents
from oneshot_core.demo.making.readings import reading_targets
from oneshot_core.demo.making.sentences import READINGS
from oneshot_core.demo.world import demo_encoders, demo_generator
from oneshot_core.editing.components import ganspace_directions, sefa_directions
from oneshot_core.editing.dictionary import Dictionary
from oneshot_core.editing.direction import Direction
from oneshot_core.editing.finite_differences import DictionaryConfig, measure_dictionary
from oneshot_core.editing.global_directions import Selection, direction_of, find_direction, text_change
from oneshot_core.editing.gradient_dictionary import measure_gradient_dictionary
from oneshot_core.editing.gradient_directions import GradientConfig
from oneshot_core.editing.statistics import StyleStatistics, style_statistics
from oneshot_core.editing.style_gradients import drawn_px
from oneshot_core.editing.text_methods import TextRequest, find_text_direction, select_secants
from oneshot_core.edits import STYLE, LatentEdit
from oneshot_core.features import ClipEncoder
from oneshot_core.latents import z_from_seeds
from oneshot_core.tensors import seeded

ENCODERS = ("demo", "reader")
SOURCES_SEED = 60_000  # of the people that methods look at, where the method has no seeds of its own
COMPONENTS, CHOOSERS = 8, 16  # of SeFa and GANSpace, and the people on whom CLIP chooses among them
RANDOM_DRAWS = 8
REGRESSED = 4096  # faces whose true factors give the reference directions
MAPPER_STEPS, MAPPER_RATE = 200, 2.0  # so short a training goes further by Adam than by Ranger
OPTIMISED, OPTIMISER_STEPS = 8, 40  # people whose codes are optimised, and for how long


@dataclass(frozen=True)
class Ask:
    """What an edit is asked for.

    Args:
        factor: one of `editing_measures.FIT`.
        encoder: one of `ENCODERS`.
        length: at which edits are compared, in sigmas.
        images: samples of the dictionary by finite differences.
        out: folder where dictionaries are kept.
    """

    factor: str
    encoder: str
    length: float
    images: int
    out: Path

    @property
    def texts(self) -> tuple[str, str]:
        """Text and neutral text."""
        less, more = READINGS[self.factor]
        return more, less

    @property
    def clip(self) -> ClipEncoder:
        """The encoder itself."""
        return encoder(self.encoder)


@dataclass(frozen=True)
class Made:
    """Edits, of which a row is the median, and what they cost.

    Args:
        edits: one, or several draws.
        forwards: pictures drawn and read for this factor.
        backwards: passes back.
        more: further values of the row.
    """

    edits: tuple[LatentEdit, ...]
    forwards: int = 0
    backwards: int = 0
    more: Mapping[str, float | str | None] = field(default_factory=dict)


@lru_cache(maxsize=2)
def encoder(name: str) -> ClipEncoder:
    """Load the demo's CLIP, or the reader, with which no demo is adapted."""
    return demo_encoders().clip if name == "demo" else open_encoder(READER)


@lru_cache(maxsize=1)
def statistics() -> StyleStatistics:
    """Of the source."""
    return style_statistics(demo_generator())


def _asked(ask: Ask, method: str, config: GradientConfig | None = None) -> Made:
    more, less = ask.texts
    request = TextRequest(more, less, config or GradientConfig(), statistics(), name=ask.factor)
    found = find_text_direction(method, demo_generator(), ask.clip, request)
    told = {"samples": found.samples, "agreement": found.agreement}
    return Made((found.direction.at(1.0),), found.forwards, found.backwards, told)


def gradient(ask: Ask) -> Made:
    """The engine's default settings."""
    return _asked(ask, "gradient")


def hybrid(ask: Ask) -> Made:
    """The engine's default settings."""
    return _asked(ask, "hybrid")


@lru_cache(maxsize=4)
def difference_dictionary(encoder_name: str, images: int, out: Path) -> Dictionary:
    """Measure the whole dictionary by finite differences, or go on with it; hours in all."""
    clip = encoder(encoder_name)
    config = DictionaryConfig(images, max_px=drawn_px(demo_generator().generator, clip))
    state = out / "dictionaries" / f"{encoder_name}-{images}.safetensors"
    state.parent.mkdir(parents=True, exist_ok=True)
    return measure_dictionary(demo_generator(), clip, config, statistics(), state=state)


def finite_differences(ask: Ask) -> Made:
    """StyleCLIP's global direction, 50 channels; the dictionary's passes are shared by all texts."""
    dictionary = difference_dictionary(ask.encoder, ask.images, ask.out)
    found = find_direction(dictionary, ask.clip, *ask.texts, Selection())
    return Made((found.direction.at(1.0),), 2 * ask.images * len(dictionary.rows), 0)


def secants(ask: Ask) -> Made:
    """The same dictionary, channels weighted by how much they change at all, as the hybrid does."""
    dictionary = difference_dictionary(ask.encoder, ask.images, ask.out)
    amplitudes = select_secants(dictionary, text_change(ask.clip, *ask.texts), Selection()).amplitudes
    found = direction_of(dictionary, amplitudes)
    return Made((found.at(1.0),), 2 * ask.images * len(dictionary.rows), 0)


@lru_cache(maxsize=2)
def tangent_dictionary(encoder_name: str) -> Dictionary:
    """Measure the whole dictionary by gradients."""
    return measure_gradient_dictionary(demo_generator(), encoder(encoder_name), None, statistics())


def tangents(ask: Ask) -> Made:
    """The dictionary by gradients, channels weighted by how much they change at all."""
    dictionary = tangent_dictionary(ask.encoder)
    change = text_change(ask.clip, *ask.texts)
    found = direction_of(dictionary, select_secants(dictionary, change, Selection()))
    return Made((found.at(1.0),), 16, 16 * dictionary.rows.shape[1])


@lru_cache(maxsize=4)
def _ways(kind: str, encoder_name: str, length: float) -> list[tuple[Direction, int, Tensor]]:
    """Components of a kind with both signs, and the mean unit feature [D] of people edited by each."""
    source = demo_generator()
    find = {"SeFa": sefa_directions, "GANSpace": ganspace_directions}[kind]
    latent = people(source, SOURCES_SEED, CHOOSERS)
    ways = []
    for direction in find(source, count=COMPONENTS):
        for sign in (-1, 1):
            edited = at_length(latent, direction.at(float(sign)), length, statistics())
            features = encoder(encoder_name).encode_images(drawn(source, edited))
            ways.append((direction, sign, features.mean(dim=0)))
    return ways


def _best(ask: Ask, kind: str) -> Made:
    """The component and the sign of which CLIP says that pictures follow the texts most."""
    change, ways = text_change(ask.clip, *ask.texts), _ways(kind, ask.encoder, ask.length)
    best, sign, _ = max(ways, key=lambda way: float(way[2] @ change))
    return Made((best.at(float(sign)),), len(ways) * CHOOSERS, 0, {"component": best.name})


def sefa(ask: Ask) -> Made:
    """The best of eight eigenvectors, as CLIP chooses."""
    return _best(ask, "SeFa")


def ganspace(ask: Ask) -> Made:
    """The best of eight principal components, as CLIP chooses."""
    return _best(ask, "GANSpace")


def reference(ask: Ask) -> Made:
    """What the true factors say: the slope of w along the factor, all others held, by least squares."""
    z = z_from_seeds(range(SOURCES_SEED, SOURCES_SEED + REGRESSED), demo_generator().generator.config.z_dim)
    truth = factors_from_latents(z).double()
    with torch.no_grad():
        w = demo_generator().generator.map_single(z).double()
    plain = [column for column, factor in enumerate(FACTORS) if factor.name not in READINGS]
    table = torch.cat([reading_targets(truth), truth[:, plain], torch.ones(len(z), 1)], dim=1)
    slopes = torch.linalg.lstsq(table, w).solution[list(READINGS).index(ask.factor)]
    widths = (demo_generator().generator.config.w_dim,) * demo_generator().num_layers
    return Made((Direction("w", {0: slopes.float()}, widths).at(1.0),))


def random(ask: Ask) -> Made:
    """Directions of style space that nobody looked for."""
    sigma, edits = statistics().sigma, []
    for draw in range(RANDOM_DRAWS):
        vectors = {
            style: (torch.randn(len(one), generator=seeded(draw, style, "random")) * one).float()
            for style, one in enumerate(sigma)
        }
        edits.append(LatentEdit(STYLE, vectors, statistics().widths))
    return Made(tuple(edits))


def _optimised(ask: Ask, space: str) -> Made:
    """Codes of the first people, each optimised by itself with the directional loss."""
    from editing_measures import FIRST_PERSON

    from oneshot_core.editing.optimisation import EditConfig, edit_latents

    more, less = ask.texts
    latent = people(demo_generator(), FIRST_PERSON, OPTIMISED)
    config = EditConfig(steps=OPTIMISER_STEPS, batch_size=4, space=space)
    found = edit_latents(demo_generator(), ask.clip, latent, more, config, neutral_text=less)
    passes = OPTIMISED * OPTIMISER_STEPS
    return Made((found.change,), passes, passes, {"people": OPTIMISED})


def optimised_codes(ask: Ask) -> Made:
    """StyleCLIP's latent optimisation in W+."""
    return _optimised(ask, "w+")


def optimised_styles(ask: Ask) -> Made:
    """StyleCLIP's latent optimisation in style space."""
    return _optimised(ask, STYLE)


def latent_mapper(ask: Ask) -> Made:
    """StyleCLIP's latent mapper, trained on random people, on the first of those that are judged."""
    from editing_measures import FIRST_PERSON

    from oneshot_core.editing.mapper import apply_mapper
    from oneshot_core.editing.mapper_config import MapperConfig
    from oneshot_core.editing.mapper_training import train_mapper

    more, less = ask.texts
    config = MapperConfig(steps=MAPPER_STEPS, optimiser="adam", learning_rate=MAPPER_RATE)
    made = train_mapper(demo_generator(), ask.clip, more, config, neutral_text=less).mapper
    latent = people(demo_generator(), FIRST_PERSON, OPTIMISED)
    edit = apply_mapper(demo_generator(), made, latent).edits[-1]
    passes = MAPPER_STEPS * config.batch_size
    return Made((edit,), passes, passes, {"people": OPTIMISED})


METHODS: Mapping[str, Callable[[Ask], Made]] = {
    "gradient": gradient,
    "hybrid": hybrid,
    "finite differences": finite_differences,
    "differences by effect": secants,
    "gradient dictionary": tangents,
    "optimisation, W+": optimised_codes,
    "optimisation, styles": optimised_styles,
    "mapper": latent_mapper,
    "SeFa": sefa,
    "GANSpace": ganspace,
    "reference": reference,
    "random": random,
}
BLIND = ("reference", "random")  # that no encoder takes part in
