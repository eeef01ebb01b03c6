"""The node of text edits."""

from __future__ import annotations

from typing import Any

from .. import oneshot_core as core
from . import bridge
from .api import io
from .file_kinds import IDENTITY_NETS, MAPPERS
from .finding import GRADIENT, found_direction, text_inputs
from .queue_checks import check_neutral, edit_checks, problem
from .sockets import Latent, Mapper, advanced, encoders_input, generator_input, schema, seed_input
from .values import checked

DIRECTION, OPTIMISATION, MAPPER = "text direction", "latent optimisation", "latent mapper"
NONE = "none"
LOWER = "views, the number of latents or the generator's size"
KEPT = "The edit goes on from its last step when it is queued again"


class StyleCLIPEdit(io.ComfyNode):
    """Latents changed until their pictures show what a text says."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Every method brings its own inputs."""
        return schema(
            node_id="StyleCLIPEdit",
            aliases=("text edit", "prompt", "latent edit", "smile", "semantic edit"),
            shows=True,
            display_name="StyleCLIP Edit",
            description="Changes latents until CLIP sees a text in their pictures: by a direction that fits "
            "all, by a search for each, or by a trained mapper. All generators of the family draw the edit.",
            inputs=[
                generator_input(
                    "Who draws while editing: usually the source, as CLIP knows its pictures best."
                ),
                encoders_input(),
                Latent.Input("latent", tooltip="What to edit: any number of codes, each by itself."),
                *text_inputs(),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(DIRECTION, _direction_inputs()),
                        io.DynamicCombo.Option(OPTIMISATION, _optimisation_inputs()),
                        io.DynamicCombo.Option(MAPPER, _mapper_inputs()),
                    ],
                    tooltip="text direction: found once in seconds, the same for all latents, any strength. "
                    "latent optimisation: a search per latent, any text, slowest. latent mapper: trained "
                    "before for one text; text above is not used.",
                ),
                Mapper.Input(
                    "mapper",
                    optional=True,
                    tooltip="Of Train Latent Mapper, for the method latent mapper, instead of a file.",
                ),
            ],
            outputs=[
                Latent.Output("edited", display_name="latent", tooltip="The edited latents."),
                io.Image.Output("images", display_name="edited", tooltip="Their pictures."),
                io.Image.Output("before", display_name="before", tooltip="The pictures before the edit."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, text: str | None = None, neutral_text: str | None = None, method: Any = None
    ) -> bool | str:
        """Refuse texts that cannot be read; a dynamic combo is handed on whether it is asked for or not."""
        kind = method.get("method") if isinstance(method, dict) else method
        if kind == MAPPER:  # which has a text of its own
            return True
        checks = edit_checks(bridge.queued("StyleCLIPEdit"))
        if kind == DIRECTION:
            checks.append((("neutral_text",), check_neutral))
        return problem(cls, {"text": text, "neutral_text": neutral_text}, *checks)

    @classmethod
    def fingerprint_inputs(cls, method: Any = None, **_: Any) -> str:
        """Run again when a file that is read changed."""
        chosen = method if isinstance(method, dict) else {}
        named = [(kind, chosen.get(kind.asked, NONE)) for kind in (MAPPERS, IDENTITY_NETS)]
        return " ".join(kind.stamp(name) for kind, name in named if name != NONE)

    @classmethod
    @checked
    def execute(
        cls, generator: Any, encoders: Any, latent: Any, text: str, neutral_text: str, method: dict[str, Any],
        mapper: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Edit."""
        core.check_family(latent, generator)  # before CLIP is fetched
        given = (generator, encoders, latent, text, neutral_text, method)
        if method["method"] == MAPPER:
            edited, losses, notes = _mapped(generator, latent, method, mapper)
        elif method["method"] == DIRECTION:
            edited, losses, notes = _directed(*given)
        else:
            return _optimised(*given)
        before, images = _drawn(generator, latent), _drawn(generator, edited)
        return _shown(edited, images, before, losses, notes)


def _directed(
    generator: Any, encoders: Any, latent: Any, text: str, neutral_text: str, method: dict[str, Any]
) -> tuple[Any, dict[str, Any], list[str]]:
    """Edit by the direction of the texts."""
    if not neutral_text.strip():
        raise ValueError("neutral_text is empty; a text direction leads from it to text, such as: a person")
    notes = _notes(generator, encoders, text, neutral_text)
    settings = {**method, "method": GRADIENT}
    found = found_direction(generator, encoders, text, neutral_text, settings)
    edited = core.apply_direction(latent, found.direction, method["strength"])
    return edited, {}, list(dict.fromkeys([*notes, *bridge.said(found.notes)]))


def _mapped(
    generator: Any, latent: Any, method: dict[str, Any], given: Any
) -> tuple[Any, dict[str, Any], list[str]]:
    """Edit by a mapper that is connected, or of a file."""
    mapper = given
    if mapper is None:
        name = method["mapper_name"]
        if name == NONE:
            raise ValueError("mapper_name is none; choose a file, or connect Train Latent Mapper to mapper")
        mapper = MAPPERS.read(name, core.load_mapper)
    bridge.place([generator.generator], 0)
    edited = core.apply_mapper(generator, mapper, latent, method["mapper_strength"])
    return edited, {}, bridge.said([mapper.summary(), *mapper.notes])


def _optimised(
    generator: Any, encoders: Any, latent: Any, text: str, neutral_text: str, method: dict[str, Any]
) -> io.NodeOutput:
    """Edit by a search for every latent."""
    config = _config(method)
    identity = _identity(method["identity_file"]) if config.identity_weight else None
    core.check_edit(generator, latent, text, config)  # before CLIP is fetched
    notes = _notes(generator, encoders, text, neutral_text)
    run = bridge.NodeProgress(config.steps * core.count_of(latent))
    with bridge.working(LOWER, KEPT):
        needed = core.editing_bytes(generator, encoders.clip, config.batch_size, config.views)
        device = bridge.make_room(needed)
        with core.gradients():
            known = None if identity is None else identity.to(device)
            result = core.edit_latents(
                generator.to(device), encoders.to(device).clip, latent, text, config,
                neutral_text=neutral_text, identity=known, callbacks=[run.report],
                kept=bridge.kept_results("edits"), poll=run.check,
            )  # fmt: skip
    images, before = bridge.to_comfy(result.images), bridge.to_comfy(result.before)
    return _shown(result.latent, images, before, result.losses, [*notes, *bridge.said(run.notes)])


def _drawn(generator: Any, latent: Any) -> Any:
    """Pictures of latents as they are."""
    config, run = core.SampleConfig(keep_codes=True), bridge.NodeProgress(core.count_of(latent))
    with bridge.working(LOWER, "Nothing is kept"):
        bridge.place([generator.generator], core.sampling_bytes(generator, config.batch_size))
        return bridge.to_comfy(
            core.sample(generator, latent, config, progress=lambda done, _: run.step(done))
        )


def _shown(latent: Any, images: Any, before: Any, losses: dict[str, Any], notes: list[str]) -> io.NodeOutput:
    curves = {"losses": [core.plot_points(losses)]} if losses else {}
    shown = bridge.compared(("before", before), ("edited", images))
    return io.NodeOutput(latent, images, before, ui={**curves, "text": notes, "notes": notes, **shown})


def _notes(generator: Any, encoders: Any, text: str, neutral_text: str) -> list[str]:
    """Refuse what CLIP cannot read; say what it hardly knows, of the pictures and of the texts."""
    clip = encoders.clip_name
    unread = core.check_texts(encoders.clip, text, neutral_text)
    return bridge.said([*core.encoder_notes(generator, clip, ""), *unread])


def _config(method: dict[str, Any]) -> Any:
    """Settings of the edit, from the inputs of the chosen method."""
    names = ("steps", "learning_rate", "l2_weight", "views", "seed", "space", "identity_weight")
    return core.EditConfig(**{name: method[name] for name in names})


def _identity(name: str) -> Any:
    """The face recogniser of a file; None for none."""
    return None if name == NONE else IDENTITY_NETS.read(name, core.load_arcface)


def _direction_inputs() -> list[io.Input]:
    return [
        _strength(
            5.0,
            "How far, in standard deviations of the channel that changes most; negative: the opposite.",
        ),
        io.Int.Input(
            "channels",
            default=50,
            min=1,
            max=10_000,
            tooltip="How many channels change: colours need 10 to 20, large shapes 100 to 200.",
        ),
        seed_input(SEED),
    ]


SEED = "Decides the random pictures of a text direction, and the random crops of a latent optimisation."


def _strength(default: float, tooltip: str) -> io.Input:
    return io.Float.Input("strength", default=default, min=-100.0, max=100.0, step=0.1, tooltip=tooltip)


def _mapper_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "mapper_name",
            options=[NONE, *bridge.names(bridge.MAPPERS)],
            default=NONE,
            tooltip="A mapper of Train Latent Mapper, or StyleCLIP's own file, in models/oneshot_mappers or "
            "output/oneshot_mappers.",
        ),
        io.Float.Input(
            "mapper_strength", default=1.0, min=-100.0, max=100.0, step=0.05, tooltip="1: as it was trained."
        ),
    ]


def _optimisation_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps", default=100, min=1, max=10_000, tooltip="Optimiser steps; StyleCLIP uses 40 to 300."
        ),
        io.Float.Input(
            "learning_rate", default=0.1, min=0.0001, max=10.0, step=0.001, tooltip="Step size of Adam."
        ),
        io.Float.Input(
            "l2_weight",
            default=0.008,
            min=0.0,
            max=10.0,
            step=0.0001,
            tooltip="How strongly the latent is held near where it was: lower edits more, higher keeps more. "
            "With space style take about 0.0002.",
        ),
        io.Int.Input(
            "views",
            default=0,
            min=0,
            max=32,
            tooltip="Random crops that CLIP sees per step instead of the whole picture, against edits that "
            "please CLIP but show nothing; 0: the whole picture, as StyleCLIP.",
        ),
        seed_input(SEED),
        advanced(
            io.Combo,
            "space",
            options=["w+", "style"],
            default="w+",
            tooltip="What moves: the code (w+), or the styles of the convolutions, which change less.",
        ),
        advanced(
            io.Float,
            "identity_weight",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.001,
            tooltip="How strongly a face recogniser holds who it is (StyleCLIP: 0.005); needs identity_file. "
            "0: it is not used.",
        ),
        advanced(
            io.Combo,
            "identity_file",
            options=[NONE, *bridge.names(bridge.ENCODERS)],
            default=NONE,
            tooltip="The face recogniser's file in models/oneshot_encoders, such as model_ir_se50.pth.",
        ),
    ]
