"""What a recipe works with: opened from files or given as values, checked and bound before any work."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .checkpoints import GeneratorBundle, check_family, load, with_fresh_discriminator
from .choices import DEMO, DEMO_TARGET
from .demo.world import demo_generator, target_path
from .encoder_choice import EncoderChoice, encoder_notes
from .features import BytesProgress, ClipEncoder, Encoders, EncodersOnDemand
from .fingerprints import inputs_of, network_fingerprint
from .latent_files import latent_notes, load_latent
from .latents import Latent
from .objective import Aim, Needs
from .pictures import load_target
from .pictures.framing import Target
from .recipe import AimRecipe, EncodersRecipe, Recipe, RecipeError
from .references import reference_notes
from .search import check_search
from .tensors import Images, check_finite
from .training.checks import check_run


@dataclass(frozen=True)
class Inputs:
    """What a recipe works with, opened.

    Args:
        source: the generator.
        encoders: CLIP models and perceptual net.
        target: [M, 3, S, S] in [-1, 1], see `pictures.frame`; None for methods that aim at texts alone.
        mask: [1, 1, S, S] in [0, 1], 1 = counts; None: all of the target.
        reference: the counterparts of the first targets, one code each; None: they are searched where the
            method needs them.
        notes: sentences for the user about what was assumed.
        encoder_names: of CLIP and the perceptual net, as a recipe tells them; None: those of `encoders`.
        told: texts and weights of the aim, as the recipe says them.
    """

    source: GeneratorBundle
    encoders: Encoders | EncodersOnDemand
    target: Images | None = None
    mask: Tensor | None = None
    reference: Latent | None = None
    notes: tuple[str, ...] = ()
    encoder_names: tuple[str, str] | None = None
    told: AimRecipe = AimRecipe()

    def __post_init__(self) -> None:
        if self.reference is not None:  # what keeps it, compares it and adapts from it reads the code alone
            object.__setattr__(self, "reference", self.reference.folded("an adaptation's reference"))

    @property
    def aim(self) -> Aim:
        """What is adapted to."""
        told = self.told
        # Weights of pictures that are not there, such as a preset's, would be refused.
        weights = told.target_weights if self.target is not None else ()
        return Aim(
            self.target, self.reference, told.source_text.strip(), told.texts, weights, told.text_weights
        )


class OpenNetworks:
    """Generators and encoders that recipes of this process opened; the last few are kept for the next.

    They serve many recipes, as nothing changes a network that was opened. Files that were written anew are
    opened anew.

    Args:
        most: generators, and as many encoders.
    """

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._kept: dict[str, dict[Any, Any]] = {"source": {}, "encoders": {}}
        self.opened = 0  # how often something was read from files

    def source(self, name: str, device: torch.device) -> GeneratorBundle:
        """Open a generator on a device."""

        def opened() -> GeneratorBundle:
            bundle = demo_generator() if name == DEMO else load(name)
            return bundle if device.type == "cpu" else bundle.to(device)

        stamp = () if name == DEMO else _stamp(name)
        return cast(GeneratorBundle, self._found("source", (name, stamp, device), opened))

    def encoders(self, choice: EncoderChoice, device: torch.device, found: EncodersOnDemand) -> Encoders:
        """Open encoders on a device.

        Args:
            choice: which.
            device: where they go.
            found: reads them.
        """

        def opened() -> Encoders:
            encoders = found.load()
            return encoders if device.type == "cpu" else encoders.to(device)

        more = [file for _, file, _ in choice.more_clips]
        files = [file for file in (choice.clip_file, choice.perceptual_file, *more) if file]
        return cast(Encoders, self._found("encoders", (choice, *map(_stamp, files), device), opened))

    def _found(self, kind: str, key: Hashable, opened: Callable[[], Any]) -> Any:
        kept = self._kept[kind]
        if key in kept:
            kept[key] = kept.pop(key)  # the last used
            return kept[key]
        while len(kept) >= self._most:
            del kept[next(iter(kept))]
        self.opened += 1
        kept[key] = opened()
        return kept[key]


def _stamp(name: str) -> tuple[int, int]:
    """What tells a file from another that is written in its place; a missing one is told by its reader."""
    try:
        status = Path(name).stat()
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


def open_inputs(
    recipe: Recipe,
    device: torch.device | str = "cpu",
    half: str = "",
    *,
    allow_download: bool = False,
    progress: BytesProgress | None = None,
    networks: OpenNetworks | None = None,
) -> Inputs:
    """Open what a recipe names, from files; names start at the working directory.

    Args:
        recipe: with a target.
        device: where networks go.
        half: "search" where nothing is to be trained.
        allow_download: whether encoders may be downloaded.
        progress: see `EncoderChoice.open`.
        networks: those that earlier recipes opened; None: all is opened anew.

    Raises:
        RecipeError: it names no target, or needs a latent that it does not name.
        ValueError, EncoderError: a file is missing, damaged, or not what it should be; the recipe does not
            fit the generator.
    """
    device, networks = torch.device(device), networks or OpenNetworks()
    recipe = recipe.precised(device)
    if not recipe.generator.strip():
        raise RecipeError("the recipe names no generator; give it (--generator)")
    if half == "search":  # which finds what a latent would be
        recipe = replace(recipe, aim=replace(recipe.aim, latent=None))
    elif recipe.aim.latent is None and "reference" in recipe.inputs:
        raise RecipeError("this recipe started from a given latent that it does not hold; give it (--latent)")
    needs = recipe.preset(64)[0].needs  # of any size: what a method needs does not depend on it
    if not recipe.aim.targets and (half == "search" or needs.target or not recipe.aim.texts):
        raise RecipeError("the recipe names no target; give it (--target)")
    source = networks.source(recipe.generator, device)
    reference, notes = None, list[str]()
    if recipe.aim.latent is not None:
        reference = load_latent(recipe.aim.latent, source.num_layers)
        notes += [f"{Path(recipe.aim.latent).name}: {line}" for line in latent_notes(reference)]
    if half != "search":  # before encoders are downloaded
        recipe.check(_with_discriminator(recipe, source)[0])
    targets = [
        load_target(_picture(name), source.size, recipe.aim.frame, None if place else recipe.aim.mask)
        for place, name in enumerate(recipe.aim.targets)
    ]
    if reference is not None:
        check_family(reference, source, "reference")
    choice = _choice(recipe, source)
    found = choice.open(allow_download=allow_download, progress=progress)
    names, encoders = (found.clip_name, found.perceptual_name), networks.encoders(choice, device, found)
    said = (*(note for one in targets for note in one.notes), *notes)
    pictures, mask = _joined(targets)
    return Inputs(source, encoders, pictures, mask, reference, said, names, recipe.aim)


def _joined(targets: list[Target]) -> tuple[Images | None, Tensor | None]:
    """All targets as one tensor, and the mask of the one that has any.

    Raises:
        RecipeError: several targets, of which one has a part that does not count.
    """
    if not targets:
        return None, None
    if len(targets) > 1 and any(one.mask is not None for one in targets):
        raise RecipeError(
            "a mask, or the bars of the fit letterbox, belong to one target; leave them out, or give one"
        )
    return torch.cat([one.image for one in targets]), targets[0].mask


def _picture(name: str) -> Path:
    """The file that a target's name means."""
    return target_path(name.removeprefix(DEMO_TARGET)) if name.startswith(DEMO_TARGET) else Path(name)


def _choice(recipe: Recipe, source: GeneratorBundle) -> EncoderChoice:
    """The encoders that a recipe names, or those that suit its generator."""
    return EncoderChoice.suited_to(source).named(recipe.encoders.clip, recipe.encoders.perceptual)


def _with_discriminator(recipe: Recipe, source: GeneratorBundle) -> tuple[GeneratorBundle, list[str]]:
    """Give a generator whose file has no discriminator a fresh one where the method trains one."""
    if source.discriminator is not None or recipe.preset(source.size)[0].needs.path is None:
        return source, []
    note = "the generator's file has no discriminator; training with a freshly initialised one"
    return with_fresh_discriminator(source, recipe.training.seed), [note]


def prepared(
    recipe: Recipe, inputs: Inputs, half: str = "", device: torch.device | None = None
) -> tuple[Recipe, Inputs]:
    """Check a recipe against its inputs, before any work, and bind it to them.

    Args:
        recipe: what is wanted. One that is bound already must have been bound to the same inputs, or the
            notes say which differ.
        inputs: what it works with.
        half: "search" where nothing is to be trained.
        device: where the work will be done, which decides about the precision "auto"; None: where the
            generator is.

    Returns:
        The bound recipe; the inputs with the notes on what was changed, and with a fresh discriminator where
        one is needed and missing.

    Raises:
        ValueError: something does not fit together or is not finite.
    """
    source, notes = inputs.source, list[str]()
    inputs = replace(inputs, told=recipe.aim)
    if half == "search" and inputs.target is not None:
        inputs = replace(inputs, target=inputs.target[:1])  # of several, the first has a counterpart
    recipe = recipe.precised(device or source.generator.const.device)
    preset = recipe.preset(source.size)[0]
    if half != "search":
        source, notes = _with_discriminator(recipe, source)
        notes += recipe.check(source)
    if half == "search" or (preset.needs.reference and inputs.reference is None):
        _check_searches(source, inputs)
    else:
        check_run(source, inputs.aim, preset)
    if half != "search":
        _check_aim(inputs, preset.needs, preset.name)
        notes += _aim_notes(inputs)
    names = inputs.encoder_names or _names(inputs.encoders)
    notes += encoder_notes(source, *names)
    found = inputs_of(source, inputs.encoders, inputs.aim, inputs.mask)
    if "mask" in recipe.inputs and inputs.mask is None:
        raise RecipeError("this recipe was made with a mask, which it does not hold; give it (--mask)")
    both = (recipe.inputs.keys() | found.keys()) if recipe.inputs else set()
    differing = sorted(name for name in both if recipe.inputs.get(name) != found.get(name))
    if differing:
        notes.append(
            f"not the {', '.join(differing)} that the recipe was made with; the result will be another one"
        )
    notes += reference_notes(recipe, found, inputs.reference)
    bound = replace(recipe.bound(found), encoders=EncodersRecipe(*names))
    if EncoderChoice.suited_to(source).clip == DEMO and found["source"] == network_fingerprint(
        demo_generator().generator
    ):
        bound = replace(bound, generator=DEMO)  # however it came: its file lies within this program
    return bound, replace(inputs, source=source, notes=(*inputs.notes, *notes))


def _check_searches(source: GeneratorBundle, inputs: Inputs) -> None:
    """Refuse targets that cannot be searched for; raises ValueError."""
    if inputs.target is None or not len(inputs.target):
        raise RecipeError("a search needs a target picture; none was given")
    check_search(source, inputs.encoders, inputs.target[:1], inputs.mask)


def _check_aim(inputs: Inputs, needs: Needs, method: str) -> None:
    """Refuse what the method would not look at, or could not read; raises ValueError."""
    told = inputs.told
    if inputs.mask is not None and not needs.reference:
        raise RecipeError(
            f"the method {method} draws no counterpart, whose picture would fill what the mask leaves out; "
            "leave the mask out, or use oneshot_clip"
        )
    if bool(told.source_text.strip()) != bool(told.texts):
        raise RecipeError("source_text and target_text belong together; give both, or none")
    if told.texts and not (needs.texts or needs.direction):
        raise RecipeError(
            f"the method {method} reads no texts as it is set; leave them out, or give its term text a "
            "weight above 0, where it has one"
        )
    for clip, text in _readings(inputs):
        clip.check_text(text)
    if inputs.target is not None:
        check_finite(inputs.target, "the target", "give another picture")


def _aim_notes(inputs: Inputs) -> list[str]:
    """What of the texts the encoders do not read."""
    return [note for clip, text in _readings(inputs) for note in clip.text_notes(text)]


def _readings(inputs: Inputs) -> list[tuple[ClipEncoder, str]]:
    """Each CLIP model with each text of the aim that it will read; without texts none is opened."""
    told = inputs.told
    if not told.texts:
        return []
    return [(clip, text) for clip, _ in inputs.encoders.clips for text in (told.source_text, *told.texts)]


def _names(encoders: Encoders | EncodersOnDemand) -> tuple[str, str]:
    if isinstance(encoders, EncodersOnDemand):
        return encoders.clip_name, encoders.perceptual_name
    return encoders.clip.name, encoders.perceptual.name
