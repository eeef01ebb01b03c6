"""Nodes that draw: samples of source and adapted generator, blends of generators."""

from __future__ import annotations

from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.choices import OWN_DRAW
from ..oneshot_core.recipe import SEED_MAX
from . import bridge
from .api import io
from .queue_checks import problem, sample_checks
from .sockets import (
    Generator,
    Latent,
    advanced,
    generator_input,
    schema,
    seed_draw_input,
    seeds_input,
)
from .values import checked

RESOLUTIONS = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
FADER, SWAP, PER_RESOLUTION = "fader", "layer swap", "per resolution"


class SampleAdapted(io.ComfyNode):
    """Pictures of the adapted generator, and of its source for the same latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Latents, where linked, take the place of the seeds; the source and the reference are optional.

        Pictures of a source that is not linked are refused when the graph is queued; where ComfyUI does not
        tell the graph then, they are blocked, and what they feed does not run.
        """
        return schema(
            node_id="SampleAdapted",
            aliases=("sample stylegan", "generate faces", "draw", "seeds", "truncation"),
            shows=True,
            display_name="Sample Adapted",
            description="Draws pictures from seeds or latents, with the adapted generator and, where it is "
            "connected, with its source.",
            inputs=[
                generator_input("The generator that draws: adapted, blended or any other.", "adapted"),
                generator_input("Its source, for the same latents drawn as before.", "source", optional=True),
                Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Latents to draw instead of the seeds, such as edited ones.",
                ),
                seeds_input(),
                io.Float.Input(
                    "psi",
                    default=0.7,
                    min=-2.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Truncation of seeds (and latents in z): 1 full variety, 0 the mean picture; "
                    "0.7 is usual. Latents in w and w+ (searched, edited) are drawn as they are.",
                ),
                *_advanced_inputs(),
                Latent.Input(
                    "reference",
                    optional=True,
                    tooltip="Code whose fine slots replace those of every sample, see replace_from.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="adapted", tooltip="Pictures of the adapted generator."
                ),
                io.Image.Output(
                    "source_images",
                    display_name="source",
                    tooltip="The same latents drawn by the source, without replace_from; needs the "
                    "source connected.",
                ),
                Latent.Output(
                    "codes",
                    display_name="latent",
                    tooltip="The latents that the adapted generator drew (w+).",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, seeds: str | None = None, mix_seeds: str | None = None, classes: str | None = None
    ) -> bool | str:
        """Refuse lists that cannot be read, too many pictures, and those of a source that is not there."""
        checks = sample_checks(bridge.queued("SampleAdapted"))
        return problem(cls, {"seeds": seeds, "mix_seeds": mix_seeds, "classes": classes}, *checks)

    @classmethod
    @checked
    def execute(
        cls,
        adapted: Any,
        seeds: str,
        source: Any = None,
        latent: Any = None,
        reference: Any = None,
        **more: Any,
    ) -> io.NodeOutput:
        """Draw."""
        samples = core.parse_seeds(seeds) if latent is None else latent
        config, run = _config(more), bridge.NodeProgress(core.count_of(samples))
        options = {"classes": core.parse_classes(more["classes"]), "reference": reference}
        options |= {"progress": lambda done, _: run.step(done), "convert": bridge.to_comfy}
        with bridge.working("batch_size, or draw fewer at a time", "The pictures drawn so far are not kept"):
            working = core.sampling_bytes(adapted, config.batch_size)
            bridge.place([bundle.generator for bundle in (adapted, source) if bundle is not None], working)
            if source is None:
                images, codes = core.sample_with_codes(adapted, samples, config, **options)
                plain = bridge.blocked("connect the source generator to get its pictures")
            else:
                pairs = core.sample_pairs(source, adapted, samples, config, **options)
                images, codes, plain = pairs.adapted, pairs.latent, pairs.source
        pairs_shown = {} if source is None else bridge.compared(("source", plain), ("adapted", images))
        return io.NodeOutput(images, plain, codes, ui=pairs_shown)


def _advanced_inputs() -> list[io.Input]:
    def slot(name: str, default: int, tooltip: str) -> io.Input:
        return advanced(io.Int, name, default=default, min=-1, max=18, tooltip=tooltip)

    return [
        slot("cutoff", -1, "How many first slots (coarse) psi acts on; -1: all."),
        advanced(
            io.Combo,
            "noise",
            options=["const", "none", "random"],
            default="const",
            tooltip="Fine noise: the maps stored with the weights, none, or drawn per picture from "
            "noise_seed.",
        ),
        advanced(
            io.Int,
            "noise_seed",
            default=0,
            min=0,
            max=SEED_MAX,
            control_after_generate=False,
            tooltip="Seed of the random noise.",
        ),
        advanced(
            io.String,
            "mix_seeds",
            default="",
            placeholder="none",
            tooltip="Style mixing: a seed for all pictures, or one per picture; empty: none.",
        ),
        slot("mix_from", 0, "First slot that comes from mix_seeds; 0 is coarse, the last is fine."),
        slot("mix_to", -1, "Slot after the last one from mix_seeds; -1: to the end."),
        slot(
            "replace_from",
            -1,
            "Slots from here on come from the reference latent, or the mean where none is connected: the "
            "method's trick for cleaner strokes (11 of 18 at 1024 px). -1: off.",
        ),
        advanced(
            io.String,
            "classes",
            default="",
            placeholder="0",
            tooltip="Of a conditional generator: class numbers, one for all or one per picture; empty: "
            "class 0.",
        ),
        advanced(
            io.Int,
            "batch_size",
            default=8,
            min=1,
            max=256,
            tooltip="Pictures drawn at once; fewer need less memory. Does not change the pictures.",
        ),
        seed_draw_input(),
    ]


def _config(settings: dict[str, Any]) -> Any:
    """Settings of the sampling; -1 means none."""

    def slot(name: str) -> int | None:
        return None if settings[name] < 0 else settings[name]

    return core.SampleConfig(
        psi=settings["psi"],
        cutoff=slot("cutoff"),
        noise=settings["noise"],
        noise_seed=settings["noise_seed"],
        mix_seeds=core.parse_seeds(settings["mix_seeds"]) if settings["mix_seeds"].strip() else (),
        mix_from=max(0, settings["mix_from"]),
        mix_to=slot("mix_to"),
        replace_from=slot("replace_from"),
        batch_size=settings["batch_size"],
        keep_codes=True,
        seed_draw=settings.get("seed_draw", OWN_DRAW),
    )


class OneShotBlendGenerators(io.ComfyNode):
    """Between two generators."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The mode brings its own input: a strength, a resolution, or a strength per resolution."""
        fader = io.Float.Input(
            "strength",
            default=0.5,
            min=-1.0,
            max=2.0,
            step=0.01,
            display_mode=io.NumberDisplay.slider,
            tooltip="0: the first generator, 1: the second, between: a mixture; beyond: exaggerated.",
        )
        swap = io.Combo.Input(
            "from_resolution",
            options=[str(r) for r in RESOLUTIONS],
            default="32",
            tooltip="Layers of this resolution in pixels and finer come from the second generator, coarser "
            "ones from the first: shapes of the first, strokes and colours of the second.",
        )
        table = io.String.Input(
            "strengths",
            default="4: 0, 8: 0, 16: 0.5, 32: 1, 64: 1, 128: 1",
            tooltip="Strength per resolution in pixels; resolutions that are not named stay with the first.",
        )
        return schema(
            node_id="OneShotBlendGenerators",
            aliases=("layer swap", "toonify", "fader", "interpolate", "mix generators"),
            display_name="Blend Generators",
            description="Mixes the weights of a generator and one adapted from it: a fader between the two "
            "looks, or a swap of layers by resolution.",
            inputs=[
                generator_input("Strength 0: usually the source.", "first"),
                generator_input("Strength 1: usually the adapted one.", "second"),
                io.DynamicCombo.Input(
                    "mode",
                    options=[
                        io.DynamicCombo.Option(FADER, [fader]),
                        io.DynamicCombo.Option(SWAP, [swap]),
                        io.DynamicCombo.Option(PER_RESOLUTION, [table]),
                    ],
                    tooltip="fader: one strength for all layers. layer swap: coarse layers of one, fine "
                    "layers of the other. per resolution: a strength for each.",
                ),
            ],
            outputs=[
                Generator.Output(
                    "generator", display_name="generator", tooltip="The mixture, without discriminator."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool | str:
        """Refuse a table of strengths that cannot be read."""
        mode = values.get("mode")
        chosen = mode.get("strengths") if isinstance(mode, dict) else None
        return problem(
            cls, {"mode": mode}, (("mode",), lambda _: chosen is None or core.parse_strengths(chosen))
        )

    @classmethod
    @checked
    def execute(cls, first: Any, second: Any, mode: dict[str, Any]) -> io.NodeOutput:
        """Blend."""
        strength: Any = mode.get("strength")
        if mode["mode"] == SWAP:
            strength = core.swap_from(first.size, int(mode["from_resolution"]))
        elif mode["mode"] == PER_RESOLUTION:
            strength = core.parse_strengths(mode["strengths"])
        return io.NodeOutput(core.blend_generators(first, second, strength))
