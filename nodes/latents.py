"""Nodes of latents: seeds as latents, walks from latent to latent, style mixing."""

from __future__ import annotations

from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.choices import OWN_DRAW
from . import bridge
from .api import io, ui
from .queue_checks import check_classes, problem
from .sockets import Latent, advanced, generator_input, schema, seed_draw_input, seeds_input
from .values import checked

_CLASSES = (("classes",), check_classes)


class OneShotRandomLatents(io.ComfyNode):
    """Seeds as latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Codes come out in z; those of a conditional generator in w, which depends on the class."""
        return schema(
            node_id="OneShotRandomLatents",
            aliases=("seeds", "random faces", "z"),
            display_name="Random StyleGAN Latents",
            description="One latent per seed, for editing, mixing or saving.",
            inputs=[
                generator_input("Whose latents; source and adapted generator share them."),
                seeds_input("0-3"),
                advanced(
                    io.String,
                    "classes",
                    default="",
                    placeholder="0",
                    tooltip="Of a conditional generator: class numbers, one for all or one per seed.",
                ),
                seed_draw_input(),
            ],
            outputs=[Latent.Output("latent", display_name="latent", tooltip="One code per seed.")],
        )

    @classmethod
    def validate_inputs(cls, seeds: str | None = None, classes: str | None = None) -> bool | str:
        """Refuse lists that cannot be read."""
        return problem(cls, {"seeds": seeds, "classes": classes}, (("seeds",), core.parse_seeds), _CLASSES)

    @classmethod
    @checked
    def execute(cls, generator: Any, seeds: str, classes: str, seed_draw: str = OWN_DRAW) -> io.NodeOutput:
        """Draw the latents."""
        bridge.place([generator.generator], 0)
        numbers, kinds = core.parse_seeds(seeds), core.parse_classes(classes)
        return io.NodeOutput(core.random_latents(generator, numbers, kinds, seed_draw))


class OneShotInterpolateLatents(io.ComfyNode):
    """A walk from latent to latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Codes of one or two latents, in their order; Sample Adapted draws them as frames."""
        return schema(
            node_id="OneShotInterpolateLatents",
            aliases=("walk", "morph", "video", "animation", "lerp", "slerp"),
            display_name="Interpolate StyleGAN Latents",
            description="Walks from latent to latent: Sample Adapted draws the frames, and ComfyUI's video "
            "nodes make a film of them. Edits are walked too: from a latent to its edited version.",
            inputs=[
                generator_input("Whose latent space; source and adapted generator share it."),
                Latent.Input("latent", tooltip="The latents to walk through, in their order."),
                Latent.Input(
                    "latent_2",
                    optional=True,
                    tooltip="Latents to go on through, such as the edited ones: then the edit comes slowly.",
                ),
                io.Int.Input(
                    "frames",
                    default=24,
                    min=1,
                    max=10_000,
                    tooltip="Frames from each latent to the next; without loop the last latent adds one.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="Go back to the first latent at the end, for endless films.",
                ),
                _psi(),
                advanced(
                    io.Combo,
                    "space",
                    options=["w", "z"],
                    default="w",
                    tooltip="w: straight lines, the shortest way. z: great circles between random latents, "
                    "which stay among pictures that seeds give.",
                ),
            ],
            outputs=[
                Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="One code per frame.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, generator: Any, latent: Any, frames: int, loop: bool, latent_2: Any = None, **more: Any
    ) -> io.NodeOutput:
        """Walk."""
        bridge.place([generator.generator], 0)
        given = [one for one in (latent, latent_2) if one is not None]
        ends = latent if latent_2 is None else core.join_latents(generator, given, more["psi"])
        walk = core.interpolate(generator, ends, frames, loop=loop, **more)
        return io.NodeOutput(walk, ui={"text": [f"{core.count_of(walk)} frames"]})


class OneShotStyleMix(io.ComfyNode):
    """Coarse slots of one latent, fine slots of another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Every latent of the rows with every latent of the columns."""
        return schema(
            node_id="OneShotStyleMix",
            aliases=("style mixing", "crossover", "mix latents", "grid"),
            shows=True,
            display_name="Style Mix StyleGAN Latents",
            description="Takes some slots of one latent and all others of another: pose and shape of the "
            "rows, colours and strokes of the columns. Every row is mixed with every column.",
            inputs=[
                generator_input("The generator that draws the mixtures."),
                Latent.Input("rows", tooltip="Latents that keep the slots that are not mixed."),
                Latent.Input("columns", tooltip="Latents whose slots mix_from to mix_to are taken."),
                io.Int.Input(
                    "mix_from",
                    default=4,
                    min=0,
                    max=18,
                    tooltip="First slot that comes from the columns: at 1024 px 0 pose and shape, 4 "
                    "features, 8 colours; at 128 px colours start at 4.",
                ),
                io.Int.Input(
                    "mix_to",
                    default=-1,
                    min=-1,
                    max=18,
                    tooltip="Slot after the last one from the columns; -1: to the end.",
                ),
                _psi(),
            ],
            outputs=[
                Latent.Output("latent", display_name="latent", tooltip="The mixed latents, row by row (w+)."),
                io.Image.Output("images", display_name="images", tooltip="Their pictures, row by row."),
                io.Image.Output("grid", display_name="grid", tooltip="The pictures as a table."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, generator: Any, rows: Any, columns: Any, mix_from: int, mix_to: int, psi: float
    ) -> io.NodeOutput:
        """Mix and draw."""
        config = core.SampleConfig(
            psi=psi, mix_from=mix_from, mix_to=None if mix_to < 0 else mix_to, keep_codes=True
        )
        run = bridge.NodeProgress(core.count_of(rows) * core.count_of(columns))
        with bridge.working("the number of latents", "Nothing is kept"):
            bridge.place([generator.generator], core.sampling_bytes(generator, config.batch_size))
            latent = core.mixed_latents(generator, rows, columns, config)
            images = core.sample(
                generator, latent, core.SampleConfig(keep_codes=True), progress=lambda done, _: run.step(done)
            )
        heads = [str(key) for key in latent.origin["columns"]]
        names = [str(key) for key in latent.origin["rows"]]
        table = zip(names, images.split(len(heads)), strict=True)
        grid = bridge.to_comfy(core.to_tensor(core.labelled_grid(list(table), columns=heads)))
        return io.NodeOutput(
            latent, bridge.to_comfy(images), grid, ui=ui.PreviewImage(grid, cls=cls).as_dict()
        )


def _psi() -> io.Input:
    return io.Float.Input(
        "psi",
        default=0.7,
        min=-2.0,
        max=2.0,
        step=0.01,
        tooltip="Truncation of random latents: 1 full variety, 0 the mean picture. Searched and edited "
        "latents stay as they are.",
    )
