"""How every method of `editing_costs.py` is set up and run: `prepare(size)`, then `work(inputs, costs)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from speed import encoders, networks
from torch import Tensor

from oneshot_core.aligned_batches import Alignment, align_batch, paste_batch
from oneshot_core.alignment import three_point_quad
from oneshot_core.checkpoints import GeneratorBundle
from oneshot_core.editing import EditConfig, MapperConfig, apply_mapper, edit_latents, train_mapper
from oneshot_core.editing.components import ganspace_directions, sefa_directions
from oneshot_core.editing.finite_differences import DictionaryConfig, measure_dictionary
from oneshot_core.editing.gradient_dictionary import GradientDictionaryConfig, measure_gradient_dictionary
from oneshot_core.editing.gradient_directions import GradientConfig
from oneshot_core.editing.mapper import LatentMapper, fresh_net
from oneshot_core.editing.spaces import edit_widths
from oneshot_core.editing.statistics import StyleStatistics, latent_moments, style_statistics
from oneshot_core.editing.style_gradients import drawn_px
from oneshot_core.editing.style_layout import convolution_styles, resolution_of
from oneshot_core.editing.table import edit_sheet, edit_table
from oneshot_core.editing.text_methods import SHORTLIST, TextRequest, find_text_direction
from oneshot_core.features import ClipEncoder
from oneshot_core.features.identity import ArcFace
from oneshot_core.inversion import encode_pictures, inversion_config, invert_pictures
from oneshot_core.inversion.e4e import E4eEncoder
from oneshot_core.latents import Latent
from oneshot_core.sampling import random_latents
from oneshot_core.tensors import Images, seeded

TEXT, NEUTRAL = "a smiling face", "a face"
CODES = 10_000  # of the statistics
STEPS, CHANNELS, SAMPLES, IMAGES = 2, 3, 2, 4
PHOTO = 3000, 4000  # rows and columns, 12 megapixels


class Enough(Exception):
    """A method has been measured long enough; raised out of its callback."""


class Costs:
    """When units of work ended, by the clock and in CPU seconds of the process."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()
        self._marks = list[tuple[str, float, float]]()

    def mark(self, unit: str, count: int = 1, most: int | None = None) -> None:
        """Note that `count` units have ended; raises Enough after `most` marks of a kind."""
        wall, cpu = self.elapsed()
        self._marks.append((f"{unit}\0{count}", wall, cpu))
        if most is not None and sum(name.startswith(f"{unit}\0") for name, *_ in self._marks) >= most:
            raise Enough

    def elapsed(self) -> tuple[float, float]:
        """Seconds by the clock and of the processor since the beginning."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]

    def units(self) -> dict[str, dict[str, float]]:
        """Per kind the seconds of one unit, between its last mark and the one before, and how many ended."""
        found: dict[str, dict[str, float]] = {}
        before = (0.0, 0.0)
        for name, wall, cpu in self._marks:
            unit, count = name.split("\0")
            each = int(count)
            total = each + int(found.get(unit, {}).get("count", 0))
            found[unit] = {"wall": (wall - before[0]) / each, "cpu": (cpu - before[1]) / each, "count": total}
            before = wall, cpu
        return found


@dataclass(frozen=True)
class Inputs:
    """What a method is given; made before it is timed.

    Args:
        bundle: the generator.
        clip: None where the method has none.
        more: whatever else it needs.
    """

    bundle: GeneratorBundle
    clip: ClipEncoder | None = None
    more: Any = None

    @property
    def reader(self) -> ClipEncoder:
        """The CLIP of a method that has one."""
        assert self.clip is not None
        return self.clip


@dataclass(frozen=True)
class Method:
    """A method to be measured.

    Args:
        prepare: size -> inputs.
        work: runs it and marks its units.
        defaults: how many of each unit the method has where nothing is said.
    """

    prepare: Callable[[int], Inputs]
    work: Callable[[Inputs, Costs], None]
    defaults: Mapping[str, int] = field(default_factory=dict)


# Inputs -------------------------------------------------------------------------------------------------


def generator_alone(size: int) -> Inputs:
    """A generator of the published widths."""
    return Inputs(replace(networks(size), discriminator=None))


def with_clip(size: int) -> Inputs:
    """A generator and ViT-B/32, which reads texts by CLIP's own vocabulary."""
    import open_clip

    clip = ClipEncoder(
        encoders("ViT-B-32-quickgelu").clip.model, tokenizer=open_clip.SimpleTokenizer(), name="ViT-B/32"
    )
    return replace(generator_alone(size), clip=clip)


def with_statistics(size: int) -> Inputs:
    """Generator, CLIP and statistics of 10,000 codes, which all directions share."""
    inputs = with_clip(size)
    return replace(inputs, more=style_statistics(inputs.bundle, CODES))


def with_identity(size: int) -> Inputs:
    """Generator, CLIP and IR-SE50."""
    return replace(with_clip(size), more=_frozen(ArcFace()))


def with_picture(size: int) -> Inputs:
    """A generator, AlexNet and a picture to invert."""
    return replace(generator_alone(size), more=(encoders("ViT-B-32-quickgelu").perceptual, picture(size)))


def with_e4e(size: int) -> Inputs:
    """A generator, its e4e encoder and a picture."""
    inputs = generator_alone(size)
    return replace(inputs, more=(_frozen(E4eEncoder(inputs.bundle.num_layers)), picture(size)))


def with_mapper(size: int) -> Inputs:
    """A generator and an untrained mapper with three levels in W+."""
    inputs = generator_alone(size)
    config, generator = MapperConfig(), inputs.bundle.generator
    net = fresh_net(config.space, edit_widths(generator, config.space), config.groups(generator), 0)
    return replace(inputs, more=LatentMapper(_frozen(net), family=inputs.bundle.family))


def picture(rows: int, columns: int | None = None) -> Images:
    """A smooth picture [1, 3, rows, columns] in [-1, 1]."""
    small = torch.rand(1, 3, 12, 16, generator=seeded(0, 0, "costs.picture")) * 2 - 1
    return torch.nn.functional.interpolate(small, (rows, columns or rows), mode="bicubic").clamp(-1, 1)


def one_code(inputs: Inputs) -> Latent:
    """A latent of one code."""
    return random_latents(inputs.bundle, [0])


def _frozen(module: Any) -> Any:
    return module.eval().requires_grad_(False)


# Directions ---------------------------------------------------------------------------------------------


def by_gradient(inputs: Inputs, costs: Costs, at_once: int) -> None:
    """Two looks at a few samples each."""
    samples = max(SAMPLES, at_once)
    config = GradientConfig(samples=samples, most_samples=samples, batch_size=at_once)
    request = TextRequest(TEXT, NEUTRAL, config, inputs.more)
    find_text_direction(
        "gradient", inputs.bundle, inputs.reader, request, lambda *_: costs.mark("sample", at_once)
    )


def by_hybrid(inputs: Inputs, costs: Costs) -> None:
    """Gradients of a few samples, then differences of the first channels."""
    config = GradientConfig(samples=SAMPLES, most_samples=SAMPLES, batch_size=1)
    request = TextRequest(TEXT, NEUTRAL, config, inputs.more)

    def told(_: int, total: int) -> None:
        if total < SHORTLIST:  # else it counts channels
            costs.mark("sample")
        else:
            costs.mark("channel", most=CHANNELS)

    find_text_direction("hybrid", inputs.bundle, inputs.reader, request, told)


def finite_differences(inputs: Inputs, costs: Costs) -> None:
    """Two channels each of a coarse, a middle and the finest layer that is drawn, a few samples each."""
    generator = inputs.bundle.generator
    side = drawn_px(generator, inputs.reader)
    statistics: StyleStatistics = inputs.more
    styles = [one for one in convolution_styles(len(statistics.widths)) if resolution_of(one) <= side]
    places = [
        (style, channel) for style in (styles[0], styles[len(styles) // 2], styles[-1]) for channel in (0, 1)
    ]
    config = DictionaryConfig(IMAGES, channels=tuple(places), max_px=side, batch_size=2 * IMAGES)

    def told(done: int, _: int) -> None:
        costs.mark(f"channel of {IMAGES} samples at {resolution_of(places[done - 1][0])} px")

    measure_dictionary(inputs.bundle, inputs.reader, config, statistics, progress=told)


def gradient_dictionary(inputs: Inputs, costs: Costs) -> None:
    """A few samples with two vectors of CLIP's space and a few with six."""
    dimensions = torch.eye(inputs.reader.model.visual.output_dim)
    config = GradientDictionaryConfig(SAMPLES, batch_size=1)
    for vectors in (2, 6):
        basis: Tensor = dimensions[:vectors]

        def told(_: int, __: int, vectors: int = vectors) -> None:
            costs.mark(f"sample with {vectors} vectors")

        measure_gradient_dictionary(
            inputs.bundle, inputs.reader, config, inputs.more, basis=basis, progress=told
        )


def sefa(inputs: Inputs, costs: Costs) -> None:
    """Of all layers."""
    sefa_directions(inputs.bundle)
    costs.mark("run")


def statistics_and_components(inputs: Inputs, costs: Costs) -> None:
    """What statistics of style space and GANSpace share, and each."""
    moments = latent_moments(inputs.bundle, CODES)
    costs.mark(f"{CODES:,} codes")
    style_statistics(inputs.bundle, moments=moments)
    costs.mark("statistics")
    ganspace_directions(inputs.bundle, moments=moments)
    costs.mark("GANSpace")


# Codes --------------------------------------------------------------------------------------------------


def optimised(inputs: Inputs, costs: Costs, space: str) -> None:
    """Two steps of the optimisation of one code, with the identity term where there is such a net."""
    config = EditConfig(space=space, identity_weight=0.1 if inputs.more else 0.0)
    edit_latents(
        inputs.bundle, inputs.reader, one_code(inputs), TEXT, config, neutral_text=NEUTRAL,
        identity=inputs.more, callbacks=[lambda _: costs.mark("step", most=STEPS)],
    )  # fmt: skip


def trained_mapper(inputs: Inputs, costs: Costs) -> None:
    """Two steps of a mapper's training, two codes each."""
    train_mapper(
        inputs.bundle, inputs.reader, TEXT, MapperConfig(), neutral_text=NEUTRAL,
        callbacks=[lambda _: costs.mark("step", most=STEPS)],
    )  # fmt: skip


def applied_mapper(inputs: Inputs, costs: Costs) -> None:
    """The mapper's edit of a code; drawing it is another matter."""
    for _ in range(STEPS):
        apply_mapper(inputs.bundle, inputs.more, one_code(inputs))
        costs.mark("code")


def inverted(inputs: Inputs, costs: Costs, method: str) -> None:
    """Two steps of an inversion."""
    perceptual, wanted = inputs.more
    invert_pictures(
        inputs.bundle, wanted, perceptual, inversion_config(method),
        callbacks=[lambda _: costs.mark("step", most=STEPS)],
    )  # fmt: skip


def encoded(inputs: Inputs, costs: Costs) -> None:
    """The encoder's pass, twice."""
    encoder, wanted = inputs.more
    for _ in range(STEPS):
        encode_pictures(inputs.bundle, encoder, wanted)
        costs.mark("picture")


# Pictures -----------------------------------------------------------------------------------------------


def grid(inputs: Inputs, costs: Costs) -> None:
    """One code at five strengths, drawn and laid out."""
    (direction,) = sefa_directions(inputs.bundle, count=1)
    latent, strengths = one_code(inputs), (-3.0, -1.5, 0.0, 1.5, 3.0)
    table = edit_table(inputs.bundle, latent, direction, strengths, progress=lambda *_: costs.mark("picture"))
    edit_sheet([table], latent, strengths, direction)
    costs.mark("layout")


def aligned(inputs: Inputs, costs: Costs) -> None:
    """A face of 1,200 px cut out of a photo of 12 megapixels, and put back; it is not looked for."""
    rows, columns = PHOTO
    photo = picture(rows, columns)
    costs.mark("photo made")
    quad = three_point_quad((1800, 1300), (2200, 1320), (1990, 1750), columns, rows)
    alignment = Alignment((quad,))
    cut = align_batch(photo, alignment, inputs.bundle.size)
    costs.mark("align")
    paste_batch(photo, cut, alignment)
    costs.mark("paste back")


METHODS: Mapping[str, Method] = {
    "SeFa": Method(generator_alone, sefa, {"run": 1}),
    "GANSpace and statistics": Method(
        generator_alone, statistics_and_components, {f"{CODES:,} codes": 10, "statistics": 1, "GANSpace": 1}
    ),
    "align and paste back, 12 megapixels": Method(generator_alone, aligned, {"align": 1, "paste back": 1}),
    "mapper, applied": Method(with_mapper, applied_mapper, {"code": 1}),
    "e4e encoder": Method(with_e4e, encoded, {"picture": 1}),
    "edit grid of five": Method(generator_alone, grid, {"picture": 5, "layout": 1}),
    "text direction, gradient, 1 at once": Method(
        with_statistics, partial(by_gradient, at_once=1), {"sample": 192}
    ),
    "hybrid": Method(with_statistics, by_hybrid, {"sample": 192, "channel": SHORTLIST}),
    "finite differences": Method(with_statistics, finite_differences),
    "gradient dictionary": Method(with_statistics, gradient_dictionary),
    "optimisation, W+": Method(with_clip, partial(optimised, space="w+"), {"step": 100}),
    "optimisation, styles": Method(with_clip, partial(optimised, space="style"), {"step": 100}),
    "optimisation, W+, with identity": Method(with_identity, partial(optimised, space="w+"), {"step": 100}),
    "projector, NVIDIA": Method(with_picture, partial(inverted, method="projector (nvidia)"), {"step": 1000}),
    "projector, rosinality": Method(
        with_picture, partial(inverted, method="projector (rosinality)"), {"step": 1000}
    ),
    "II2S": Method(with_picture, partial(inverted, method="ii2s"), {"step": 1000}),
    "mapper, trained": Method(with_clip, trained_mapper, {"step": 2000}),
    "text direction, gradient, 8 at once": Method(
        with_statistics, partial(by_gradient, at_once=8), {"sample": 192}
    ),
}
