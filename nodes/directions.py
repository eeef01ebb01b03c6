"""Nodes of directions: added to latents, kept as files, shown as a table of strengths."""

from __future__ import annotations

from functools import partial
from typing import Any

from .. import oneshot_core as core
from . import bridge
from .api import io, ui
from .file_kinds import DIRECTIONS, PREFIX_CHECK
from .queue_checks import check_classes, problem
from .sockets import Direction, Latent, generator_input, prefix_input, schema
from .values import checked

MOST = 100.0


class OneShotApplyDirection(io.ComfyNode):
    """Latents with a direction added."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The latent carries the direction as an edit: it is added when the pictures are drawn."""
        return schema(
            node_id="OneShotApplyDirection",
            aliases=("edit", "styleclip", "ganspace", "sefa", "interfacegan", "slider", "semantic"),
            display_name="Apply Direction",
            description="Adds a direction to latents, at any strength; chain several nodes to add several. "
            "Every generator of the family draws the edit, source and adapted alike.",
            inputs=[
                Latent.Input("latent", tooltip="The latents to edit; they are not changed themselves."),
                Direction.Input("direction", tooltip="The direction to add, of Text Direction or a file."),
                io.Float.Input(
                    "strength",
                    default=3.0,
                    min=-MOST,
                    max=MOST,
                    step=0.1,
                    tooltip="How far. Of text directions, in standard deviations of the channel that changes "
                    "most: 2 to 5 shows, 10 is much. Negative: the opposite.",
                ),
                io.String.Input(
                    "layers",
                    default="",
                    placeholder="all",
                    tooltip="Which slots (w, w+) or styles it may change, such as 0-8; empty: all. Text "
                    "directions count styles: 0-1 at 4 px, then three for each resolution.",
                ),
            ],
            outputs=[
                Latent.Output("latent", display_name="latent", tooltip="The latents with the edit on top.")
            ],
        )

    @classmethod
    def validate_inputs(cls, layers: str | None = None) -> bool | str:
        """Refuse a list that cannot be read."""
        return problem(cls, {"layers": layers}, (("layers",), check_classes))

    @classmethod
    @checked
    def execute(cls, latent: Any, direction: Any, strength: float, layers: str) -> io.NodeOutput:
        """Add it."""
        chosen = core.parse_classes(layers)
        kept = direction.limited(chosen) if chosen else direction
        edited = core.apply_direction(latent, kept, strength)
        return io.NodeOutput(edited, ui={"text": [f"strength {strength:g} of {kept.summary()}"]})


class OneShotSaveDirection(io.ComfyNode):
    """A direction to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Runs with nothing linked behind it; the output is the name as Load Direction lists it."""
        return schema(
            node_id="OneShotSaveDirection",
            aliases=("export direction",),
            display_name="Save Direction",
            description="Writes a direction, with what it was made of, into the output folder, where Load "
            "Direction finds it.",
            is_output_node=True,
            inputs=[
                Direction.Input("direction", tooltip="The direction to save."),
                prefix_input(DIRECTIONS.prefix("direction")),
            ],
            outputs=[DIRECTIONS.output()],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """Refuse a place outside the output folder."""
        return problem(cls, {"filename_prefix": filename_prefix}, PREFIX_CHECK)

    @classmethod
    @checked
    def execute(cls, direction: Any, filename_prefix: str) -> io.NodeOutput:
        """Write the file and report it."""
        write = partial(core.save_direction, direction)
        _, listed, told = DIRECTIONS.save(filename_prefix, write, direction.summary())
        return io.NodeOutput(listed, ui=told)


class OneShotLoadDirection(io.ComfyNode):
    """A direction from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A choice of files without a default, as no direction is shipped."""
        return schema(
            node_id="OneShotLoadDirection",
            aliases=("boundary",),
            display_name="Load Direction",
            description="Reads a direction that Save Direction, or `oneshot directions`, wrote.",
            inputs=[
                io.Combo.Input(
                    "direction_name",
                    options=bridge.names(bridge.DIRECTIONS),
                    tooltip="A file in models/oneshot_directions or output/oneshot_directions: .safetensors.",
                )
            ],
            outputs=[
                Direction.Output(
                    "direction", display_name="direction", tooltip="The direction, for Apply Direction."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, direction_name: str) -> str:
        """Run again when the file changed."""
        return DIRECTIONS.stamp(direction_name)

    @classmethod
    @checked
    def execute(cls, direction_name: str) -> io.NodeOutput:
        """Load."""
        direction = DIRECTIONS.read(direction_name, core.load_direction)
        return io.NodeOutput(direction, ui={"text": [direction.summary()]})


class OneShotEditGrid(io.ComfyNode):
    """Latents at several strengths of a direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Rows: latents; columns: strengths. With a source, each latent has a row of both."""
        return schema(
            node_id="OneShotEditGrid",
            aliases=("xy plot", "strength sweep", "slider"),
            shows=True,
            is_output_node=True,
            display_name="Edit Grid",
            description="Draws latents at several strengths of a direction, a row per latent: for choosing a "
            "strength, and for seeing what else changes.",
            inputs=[
                generator_input("The generator that draws: adapted or any other.", "adapted"),
                generator_input("Its source: then each latent has a row of both.", "source", optional=True),
                Latent.Input("latent", tooltip="The latents, a row each."),
                Direction.Input("direction", tooltip="The direction whose strengths are shown."),
                io.String.Input(
                    "strengths",
                    default="-4, -2, 0, 2, 4",
                    tooltip="Strengths of the columns, at most 25; 0 is the latent as it is.",
                ),
                io.Float.Input(
                    "psi",
                    default=0.7,
                    min=-2.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Truncation of random latents; searched and edited latents stay as they are.",
                ),
            ],
            outputs=[
                io.Image.Output("grid", display_name="grid", tooltip="The table as one picture."),
                io.Image.Output(
                    "images", display_name="images", tooltip="The adapted pictures, column by column."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, strengths: str | None = None) -> bool | str:
        """Refuse a list that cannot be read."""
        return problem(cls, {"strengths": strengths}, (("strengths",), core.parse_edit_strengths))

    @classmethod
    @checked
    def execute(
        cls, adapted: Any, latent: Any, direction: Any, strengths: str, psi: float, source: Any = None
    ) -> io.NodeOutput:
        """Draw the table."""
        if source is not None:
            core.check_pair(source, adapted)
        columns, count = core.parse_edit_strengths(strengths), core.count_of(latent)
        bundles = [bundle for bundle in (source, adapted) if bundle is not None]
        run, each = bridge.NodeProgress(len(bundles) * len(columns) * count), len(columns) * count
        config = core.SampleConfig(psi=psi, keep_codes=True)
        with bridge.working("the number of latents or strengths", "Nothing is kept"):
            bridge.place(
                [bundle.generator for bundle in bundles], core.sampling_bytes(adapted, config.batch_size)
            )
            drawn = [
                core.edit_table(bundle, latent, direction, columns, config, _counted(run, place * each))
                for place, bundle in enumerate(bundles)
            ]
            notes = [] if source is None else bridge.said(core.drift_report(source, adapted).notes())
        grid = core.to_tensor(core.edit_sheet(drawn, latent, columns, direction))
        shown = bridge.to_comfy(grid)
        images = bridge.to_comfy(core.joined_pictures(drawn[-1]))
        picture = ui.PreviewImage(shown, cls=cls).as_dict()
        return io.NodeOutput(shown, images, ui={**picture, "text": notes, "notes": notes})


def _counted(run: Any, before: int) -> Any:
    """Progress of one table among several."""
    return lambda done, _: run.step(before + done)
