"""Nodes that find directions: from texts, from components of the latent space, from latents."""

from __future__ import annotations

from typing import Any

from .. import oneshot_core as core
from . import bridge
from .api import io
from .file_kinds import DICTIONARIES
from .queue_checks import Check, check_classes, direction_checks, problem
from .sockets import Direction, Latent, advanced, encoders_input, generator_input, schema, seed_input
from .values import checked

GRADIENT, HYBRID, DIFFERENCES = "gradient", "hybrid", "finite differences"
MEASURE = "measure"  # a dictionary, instead of a file
SEFA, GANSPACE = "sefa", "ganspace"
PARTS = 1000  # of the progress bar
LOWER = "the generator's size, or use a smaller CLIP"
KEPT = "The pictures that were looked at are kept until it is queued again"


class OneShotTextDirection(io.ComfyNode):
    """The direction of style space from one text to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The method brings its own inputs; a dictionary that is measured is kept on disk."""
        return schema(
            node_id="OneShotTextDirection",
            aliases=("styleclip", "global direction", "text edit", "stylemc", "prompt", "clip"),
            display_name="Text Direction",
            description="Finds which channels of the generator's styles change from one text to the other: "
            "an edit for every latent, in seconds, without training.",
            inputs=[
                generator_input("Measured on this generator: usually the source, whose pictures CLIP knows."),
                encoders_input(),
                *text_inputs(),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(GRADIENT, [_channels(), _samples(), _seed()]),
                        io.DynamicCombo.Option(HYBRID, [_channels(), _samples(), _seed()]),
                        io.DynamicCombo.Option(DIFFERENCES, [_channels(), _dictionary(), _images(), _seed()]),
                    ],
                    tooltip="gradient: seconds. hybrid: the same, then its best channels are tried in "
                    "pictures; a minute or more. finite differences: StyleCLIP's own; a dictionary of all "
                    "channels is measured once, for hours at 1024 px, then any text takes a moment.",
                ),
                advanced(
                    io.Float,
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.005,
                    tooltip="Take all channels whose score is at least this, instead of a number of them "
                    "(StyleCLIP's beta: 0.08 to 0.3, of finite differences); 0: channels decides.",
                ),
                advanced(
                    io.String,
                    "layers",
                    default="",
                    placeholder="all",
                    tooltip="Styles that may change, such as 0-8; empty: all. Coarse ones are shape, fine "
                    "ones colour.",
                ),
            ],
            outputs=[
                Direction.Output(
                    "direction",
                    display_name="direction",
                    tooltip="Strength 1 moves its strongest channel by one standard deviation.",
                ),
                io.String.Output("info", display_name="info", tooltip="What was found, and what to know."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        text: str | None = None,
        neutral_text: str | None = None,
        layers: str | None = None,
        method: Any = None,
    ) -> bool | str:
        """Refuse texts that cannot be read, or that are none; a dynamic combo is handed on unasked."""
        checks = direction_checks(bridge.queued("OneShotTextDirection"))
        values = {"text": text, "neutral_text": neutral_text, "layers": layers}
        return problem(cls, values, *checks, _LAYERS)

    @classmethod
    def fingerprint_inputs(cls, method: Any = None, **_: Any) -> str:
        """Run again when the dictionary's file changed."""
        name = method.get("dictionary_name", MEASURE) if isinstance(method, dict) else MEASURE
        return "" if name == MEASURE else DICTIONARIES.stamp(name)

    @classmethod
    @checked
    def execute(
        cls, generator: Any, encoders: Any, text: str, neutral_text: str, method: dict[str, Any], **more: Any
    ) -> io.NodeOutput:
        """Find it."""
        core.check_texts(encoders.clip, text, neutral_text)
        found = found_direction(generator, encoders, text, neutral_text, method | more)
        notes = bridge.said(found.notes)
        info = "\n".join([found.summary(), *notes])
        return io.NodeOutput(found.direction, info, ui={"text": [info], "notes": notes})


def found_direction(generator: Any, encoders: Any, text: str, neutral: str, settings: dict[str, Any]) -> Any:
    """Find a direction as the settings say; on the device, with progress, cancel and advice on memory."""
    method, run, config = settings["method"], bridge.NodeProgress(PARTS), _gradient_config(settings)
    config.selection.check(len(generator.generator.style_widths))
    told = _told(run)
    with bridge.working(LOWER, KEPT):
        device = bridge.make_room(core.editing_bytes(generator, encoders.clip, 8, 0))
        with core.gradients():  # what is moved in inference mode could not be taken back through
            placed, clip = generator.to(device), encoders.to(device).clip
            given = _given_dictionary(placed, clip, settings, told, run.check)
            request = core.TextRequest(
                text, neutral, config, dictionary=given,
                kept=bridge.kept_results("directions"), poll=run.check,
            )  # fmt: skip
            return core.find_text_direction(method, placed, clip, request, told)


def _told(run: Any) -> Any:
    """Progress of work whose total may grow, as shares of the bar."""
    return lambda done, total: run.step(round(PARTS * done / max(1, total)))


def _gradient_config(settings: dict[str, Any]) -> Any:
    taken = (
        {"beta": settings["threshold"]} if settings.get("threshold") else {"channels": settings["channels"]}
    )
    layers = core.parse_classes(settings.get("layers", "")) or None
    names = {"samples": "most_samples", "seed": "seed"}
    given = {own: settings[name] for name, own in names.items() if name in settings}
    return core.GradientConfig(selection=core.Selection(**taken, layers=layers), **given)


def _given_dictionary(generator: Any, clip: Any, settings: dict[str, Any], told: Any, poll: Any) -> Any:
    """The dictionary that finite differences read, of a file or measured and kept; None for others."""
    if settings["method"] != DIFFERENCES:
        return None
    name = settings["dictionary_name"]
    if name != MEASURE:
        return DICTIONARIES.read(name, core.load_dictionary)
    config = core.DictionaryConfig(images=settings["images"], seed=settings["seed"])
    return core.cached_dictionary(
        bridge.kept_results("dictionaries"), generator, clip, config, progress=told, poll=poll
    )


def text_inputs() -> list[io.Input]:
    """The two texts of a direction."""
    return [
        io.String.Input(
            "text",
            default="a smiling person",
            multiline=True,
            tooltip="What the pictures should show, such as: a smiling person. The demo's CLIP knows the "
            "words of portraits only.",
        ),
        io.String.Input(
            "neutral_text",
            default="a person",
            tooltip="What they show now, in the same words but for the one thing, such as: a person. Needed "
            "by text directions; elsewhere empty: CLIP compares with the text alone.",
        ),
    ]


def _channels() -> io.Input:
    return io.Int.Input(
        "channels",
        default=50,
        min=1,
        max=10_000,
        tooltip="How many channels change: colours need 10 to 20, large shapes 100 to 200.",
    )


def _samples() -> io.Input:
    return io.Int.Input(
        "samples",
        default=256,
        min=2,
        max=4096,
        tooltip="Most random pictures that are looked at; it stops earlier once two halves of them agree.",
    )


def _dictionary() -> io.Input:
    return io.Combo.Input(
        "dictionary_name",
        options=[MEASURE, *bridge.names(bridge.DICTIONARIES)],
        default=MEASURE,
        tooltip="A dictionary of this generator and CLIP, in models/oneshot_dictionaries, such as one "
        "converted from StyleCLIP's files; measure: it is made, and kept for every other text.",
    )


def _images() -> io.Input:
    return io.Int.Input(
        "images",
        default=16,
        min=1,
        max=1000,
        tooltip="Random pictures in which every channel is tried, to both sides; StyleCLIP has 100.",
    )


def _seed() -> io.Input:
    return seed_input("First seed of the random pictures.")


_LAYERS: Check = (("layers",), check_classes)


class OneShotComponentDirection(io.ComfyNode):
    """A direction that needs no text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One component; its number counts from the strongest."""
        return schema(
            node_id="OneShotComponentDirection",
            aliases=("ganspace", "sefa", "pca", "principal component", "unsupervised"),
            display_name="Component Direction",
            description="A direction that needs no text: a component of the latent space (GANSpace), or what "
            "changes the generator's styles most (SeFa). What it does is seen in Edit Grid.",
            inputs=[
                generator_input("Whose directions; those of the source fit adapted generators too."),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(SEFA, []),
                        io.DynamicCombo.Option(GANSPACE, [_codes(), seed_input("Seed of the random codes.")]),
                    ],
                    tooltip="sefa: from the weights, at once. ganspace: principal components of many codes.",
                ),
                io.Int.Input(
                    "component",
                    default=0,
                    min=0,
                    max=511,
                    tooltip="Which one: 0 is the strongest.",
                ),
                io.String.Input(
                    "layers",
                    default="",
                    placeholder="all",
                    tooltip="Slots that may change, such as 0-3 for pose and shape; empty: all. SeFa looks "
                    "at these layers only.",
                ),
            ],
            outputs=[
                Direction.Output(
                    "direction",
                    display_name="direction",
                    tooltip="Of GANSpace, strength 1 is a standard deviation of the component.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, layers: str | None = None, method: Any = None) -> bool | str:
        """Refuse a list that cannot be read; a dynamic combo is handed on unasked."""
        return problem(cls, {"layers": layers}, _LAYERS)

    @classmethod
    @checked
    def execute(cls, generator: Any, method: dict[str, Any], component: int, layers: str) -> io.NodeOutput:
        """Find it."""
        chosen, told = core.parse_classes(layers), _told(bridge.NodeProgress(PARTS))
        if component >= len(generator.mean_latent):
            raise ValueError(
                f"component must be 0 to {len(generator.mean_latent) - 1} for this generator, got {component}"
            )
        if method["method"] == SEFA:
            found = core.sefa_directions(generator, chosen or None, component + 1)[component]
            return io.NodeOutput(found, ui={"text": [found.summary()]})
        if chosen and max(chosen) >= (slots := generator.generator.config.num_layers):
            raise ValueError(
                f"layers must be slots from 0 to {slots - 1} for this generator, got {max(chosen)}"
            )
        with bridge.working("codes", "Nothing is kept"):
            bridge.place([generator.generator], 0)
            every = core.ganspace_directions(
                generator, component + 1, method["codes"], method["seed"], progress=told
            )
        found = every[component].limited(chosen) if chosen else every[component]
        return io.NodeOutput(found, ui={"text": [found.summary()]})


def _codes() -> io.Input:
    return io.Int.Input(
        "codes",
        default=100_000,
        min=100,
        max=1_000_000,
        tooltip="Random codes whose components are taken; the published program has a million.",
    )


class OneShotLatentDirection(io.ComfyNode):
    """The direction between latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """From the mean of some latents to the mean of others."""
        return schema(
            node_id="OneShotLatentDirection",
            aliases=("difference", "boundary", "average", "attribute vector"),
            display_name="Direction Between Latents",
            description="The direction from some latents to others, such as from people before an edit to "
            "the same people after it: an edit that was found slowly goes onto others at once.",
            inputs=[
                generator_input("Whose latents they are."),
                Latent.Input("latent_with", tooltip="Latents of pictures that have it, such as edited ones."),
                Latent.Input("latent_without", tooltip="Latents of pictures that do not, such as before."),
                io.String.Input(
                    "name", default="difference", tooltip="What the direction is called in lists and files."
                ),
            ],
            outputs=[
                Direction.Output(
                    "direction",
                    display_name="direction",
                    tooltip="Strength 1 goes from latent_without to latent_with.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, generator: Any, latent_with: Any, latent_without: Any, name: str) -> io.NodeOutput:
        """Take the difference."""
        bridge.place([generator.generator], 0)
        found = core.reference_direction(generator, latent_with, latent_without, name)
        return io.NodeOutput(found, ui={"text": [found.summary()]})
