"""What is refused before any work: generators and aims that a method cannot use."""

from __future__ import annotations

from ..checkpoints import GeneratorBundle, check_family
from ..latents import Latent
from ..networks import Generator
from ..objective import MAIN, Aim, Preset
from ..tensors import check_finite, check_shape


def trained_generator(bundle: GeneratorBundle, preset: Preset) -> Generator:
    """The generator that training starts from: the average, or the raw one where method and file have it."""
    raw = bundle.raw_generator if preset.start == "raw" else None
    return raw or bundle.generator


def check_adaptable(bundle: GeneratorBundle, preset: Preset) -> None:
    """Refuse a generator that a preset cannot adapt, before any work (even the search) starts.

    Raises:
        ValueError: no discriminator, a conditional generator, too small, a batch or crops that do not fit.
    """
    if bundle.generator.config.c_dim:
        raise ValueError(
            f"{bundle.title} is a conditional generator ({bundle.generator.config.c_dim} classes), which "
            "cannot be adapted; give one without classes"
        )
    needs = preset.needs
    if needs.path is not None:
        _check_discriminator(bundle, preset)
    if needs.latent:
        raise ValueError(
            f"preset {preset.name} has a term that belongs to a latent search; leave it out of the adaptation"
        )
    preset.trainable.names(bundle.generator)
    for kind in preset.due:
        kind.check(bundle.size)


def _check_discriminator(bundle: GeneratorBundle, preset: Preset) -> None:
    """Refuse a missing discriminator, or batches that it cannot judge."""
    if bundle.discriminator is None:
        raise ValueError(
            f"preset {preset.name} trains a discriminator, but {bundle.provenance.file_name} has none; "
            "load a checkpoint with its discriminator (key `d`, or an NVIDIA .pkl), or give the generator a "
            "fresh one (with_fresh_discriminator)"
        )
    heads = uses_heads(preset, bundle.size)
    for kind in preset.due:
        if kind.path is None or (heads and kind.path == "patch"):
            continue
        size = kind.batches[MAIN].size
        group = bundle.discriminator.config.mbstd_group or size
        if size % min(group, size):
            raise ValueError(f"the discriminator needs a batch divisible by {group}, got {size}")


def check_run(bundle: GeneratorBundle, aim: Aim, preset: Preset) -> None:
    """Refuse what cannot be adapted, before any work starts.

    Raises:
        ValueError: see `check_adaptable`; a part of the aim that is missing or of another shape; NaN or
            infinity in it or in a weight of the generator, its discriminator or its mean latent.
    """
    check_adaptable(bundle, preset)
    bundle.check_finite(training=True)
    _check_given(aim, preset)
    if aim.targets is not None:
        check_shape(aim.targets, "target", (None, 3, bundle.size, bundle.size))
        if not len(aim.targets):
            raise ValueError("the targets hold no picture; give at least one")
        check_finite(aim.targets, "the target", "give another picture")
    if aim.codes is not None:
        _check_reference(aim, bundle)


def _check_given(aim: Aim, preset: Preset) -> None:
    needs = preset.needs
    if needs.target and aim.targets is None:
        raise ValueError(f"preset {preset.name} needs a target picture; none was given")
    if needs.reference and aim.reference is None:
        raise ValueError(f"preset {preset.name} needs the reference latent; search for it, or give one")
    told = bool(aim.source_text.strip()) and bool(aim.target_texts) and all(map(str.strip, aim.target_texts))
    if (needs.texts or aim.target_texts or aim.source_text) and not told:
        raise ValueError(
            f"preset {preset.name} needs a source text and a target text; give both"
            if needs.texts
            else "a source text and a target text belong together; give both, or none"
        )
    if needs.direction and not (told or aim.directions or aim.targets is not None):
        raise ValueError(
            f"preset {preset.name} needs a target picture, or a source and a target text; give one"
        )


def _check_reference(aim: Aim, bundle: GeneratorBundle) -> None:
    codes, config = aim.codes, bundle.generator.config
    assert codes is not None
    if isinstance(aim.reference, Latent):
        if aim.reference.space == "z":
            raise ValueError(
                "random latents (z) cannot be the reference, which is the target's counterpart: let the "
                "latent search find it"
            )
        check_family(aim.reference, bundle, "reference")
    targets = 0 if aim.targets is None else len(aim.targets)
    if not 1 <= len(codes) <= max(1, targets):
        wanted = (
            "one code, the target's counterpart" if targets < 2 else f"1 to {targets} codes, one per target"
        )
        raise ValueError(f"the reference must be {wanted}; this one holds {len(codes)}")
    shape = (None, config.num_layers, config.w_dim) if codes.ndim == 3 else (None, config.w_dim)
    check_shape(codes, "reference latent", shape)
    check_finite(codes, "the reference latent", "search it again")


def uses_heads(preset: Preset, size: int) -> bool:
    """Whether some steps go through patch heads; too small a generator is refused where the plan says so."""
    if not any(kind.path == "patch" for kind in preset.due):
        return False
    if size >= 64:
        return True
    assert preset.discriminator is not None
    if preset.discriminator.small == "refuse":
        raise ValueError(
            f"patch heads need a generator of at least 64 px, this one makes {size} px; use the profile "
            "'official', which judges whole images instead"
        )
    return False
