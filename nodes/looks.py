"""Nodes of looks: what an adaptation of style offsets learnt, kept as a small file, added to generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.choices import LOOK_STRENGTHS, STYLE_OFFSETS
from . import bridge
from .api import io
from .file_kinds import LOOKS, PREFIX_CHECK
from .queue_checks import problem
from .sockets import Generator, Look, generator_input, prefix_input, schema
from .values import checked


class OneShotApplyLook(io.ComfyNode):
    """A generator with looks added."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One look with its strength; two more may be linked, and their offsets add up."""

        def more(number: int) -> list[io.Input]:
            return [
                Look.Input(
                    f"look_{number}",
                    optional=True,
                    tooltip="Another look: the offsets of all of them add up.",
                ),
                _strength(f"strength_{number}", f"Strength of look_{number}.", optional=True),
            ]

        return schema(
            node_id="OneShotApplyLook",
            aliases=("style offsets", "style fader", "mix looks", "lora", "styledomain"),
            display_name="Apply Look",
            description="Adds looks to a generator: the one they were learnt with, another adaptation of it, "
            "or any generator of the same widths.",
            inputs=[
                generator_input("The generator that the look is added to; it is not changed."),
                Look.Input("look", tooltip="A look of Load Look or Save Look."),
                _strength(
                    "strength", "0: nothing is added, 1: what was learnt, 2: twice that, -1: its opposite."
                ),
                *more(2),
                *more(3),
            ],
            outputs=[
                Generator.Output(
                    "generator",
                    display_name="generator",
                    tooltip="The generator with the looks, and its discriminator: it can be adapted further.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        generator: Any,
        look: Any,
        strength: float,
        look_2: Any = None,
        strength_2: float = 1.0,
        look_3: Any = None,
        strength_3: float = 1.0,
    ) -> io.NodeOutput:
        """Add what is linked."""
        given = ((look, strength), (look_2, strength_2), (look_3, strength_3))
        looks = [(one, amount) for one, amount in given if one is not None]
        bundle = core.apply_looks(generator, looks)
        notes = bridge.said(core.look_notes(generator, looks))
        text = [f"strength {amount:g} of {one.summary()}" for one, amount in looks]
        return io.NodeOutput(bundle, ui={"text": ["\n".join([*text, *notes])], "notes": notes})


def _strength(name: str, tooltip: str, optional: bool = False) -> io.Input:
    low, high = LOOK_STRENGTHS
    return io.Float.Input(
        name,
        default=1.0,
        min=low,
        max=high,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        optional=optional,
        tooltip=tooltip,
    )


class OneShotSaveLook(io.ComfyNode):
    """A look out of an adaptation, to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Runs with nothing linked behind it; the look itself comes out too, for trying it at once."""
        return schema(
            node_id="OneShotSaveLook",
            aliases=("export look", "style offsets", "extract look"),
            display_name="Save Look",
            description="Takes the look out of a generator that was adapted by its style offsets, and writes "
            "it as a file of at most 40 KB into the output folder, where Load Look finds it.",
            is_output_node=True,
            inputs=[
                generator_input("The generator that was adapted.", "source"),
                generator_input(
                    f"What One-Shot Adapt made of it with trained_parts {STYLE_OFFSETS}: nothing else may "
                    "differ.",
                    "adapted",
                ),
                prefix_input(LOOKS.prefix("look")),
            ],
            outputs=[
                Look.Output("look", display_name="look", tooltip="The look, for Apply Look."),
                LOOKS.output(),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """Refuse a place outside the output folder."""
        return problem(cls, {"filename_prefix": filename_prefix}, PREFIX_CHECK)

    @classmethod
    @checked
    def execute(cls, source: Any, adapted: Any, filename_prefix: str) -> io.NodeOutput:
        """Write the file, named like the look, and report it."""

        def write(path: Path) -> Any:
            look = core.look_between(source, adapted, path.stem.rstrip("_"))
            core.save_look(look, path)
            return look

        look, listed, told = LOOKS.save(filename_prefix, write)
        told["text"] = [f"{told['text'][0]}\n{look.summary()}"]
        return io.NodeOutput(look, listed, ui=told)


class OneShotLoadLook(io.ComfyNode):
    """A look from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A choice of files without a default, as no look is shipped."""
        return schema(
            node_id="OneShotLoadLook",
            aliases=("load style offsets",),
            display_name="Load Look",
            description="Reads a look that Save Look, or `oneshot look`, wrote.",
            inputs=[
                io.Combo.Input(
                    "look_name",
                    options=bridge.names(bridge.LOOKS),
                    tooltip="A file in models/oneshot_looks or output/oneshot_looks: .safetensors.",
                )
            ],
            outputs=[Look.Output("look", display_name="look", tooltip="The look, for Apply Look.")],
        )

    @classmethod
    def fingerprint_inputs(cls, look_name: str) -> str:
        """Run again when the file changed."""
        return LOOKS.stamp(look_name)

    @classmethod
    @checked
    def execute(cls, look_name: str) -> io.NodeOutput:
        """Load."""
        look = LOOKS.read(look_name, core.load_look)
        return io.NodeOutput(look, ui={"text": [look.summary()]})
