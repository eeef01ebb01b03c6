"""Wire nodes wrongly, in ComfyUI's loader, and print as JSON what each of them says.

Run by ComfyUI's interpreter in its folder:

python wire_wrongly.py PACK
"""

from __future__ import annotations

import contextlib
import copy
import io as text_io
import json
import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

from dump_schemas import base, nodes

import torch  # isort: skip - ComfyUI's environment, set up by dump_schemas

NODES = nodes.NODE_CLASS_MAPPINGS
engine = NODES["LoadStyleGAN"].__module__.rpartition(".nodes")[0] + ".oneshot_core"
core, networks = (import_module(f"{engine}{part}") for part in ("", ".networks"))


def run(kind: str, **values: Any) -> Any:
    """What a node gives: its values and its `ui`; inputs that are not named have their defaults."""
    node = NODES[kind]
    inputs = {one.id: default(one) for one in node.GET_SCHEMA().inputs if not one.optional}
    with contextlib.redirect_stdout(text_io.StringIO()), torch.inference_mode():
        return node.execute(**{**inputs, **values})


def default(one: Any, key: str = "") -> Any:
    if one.get_io_type() == "COMFY_DYNAMICCOMBO_V3":
        option = next(each for each in one.options if key in ("", each.key))
        return {one.id: option.key, **{two.id: default(two) for two in option.inputs}}
    return getattr(one, "default", None)


def generator(name: str, size: int = 64, **settings: int) -> Any:
    """An untrained generator from a file of that name."""
    torch.manual_seed(len(name))
    shape = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, **settings}
    config = networks.GeneratorConfig(size, (8,) * (size.bit_length() - 2), **shape)
    made = networks.Generator(config).eval().requires_grad_(False)
    known = core.Provenance("test", name)
    return saved(core.GeneratorBundle(made, None, None, torch.zeros(8), known), name)


def saved(bundle: Any, name: str) -> Any:
    folder = base / "models" / "oneshot_stylegan"
    folder.mkdir(parents=True, exist_ok=True)
    core.save(bundle, folder / name, with_discriminator=False)
    return run("LoadStyleGAN", generator_name=name)[0]


def adapted(parent: Any, name: str) -> Any:
    known = parent.provenance
    origin = {"file_name": known.file_name, "sha256": known.sha256, "family": parent.family}
    return saved(replace(parent, provenance=replace(known, history={"parent": origin})), name)


def foreign(name: str, width: int) -> Any:
    """Latents of another program's file."""
    import numpy

    folder = base / "models" / "oneshot_latents"
    folder.mkdir(parents=True, exist_ok=True)
    numpy.savez(folder / name, w=numpy.zeros((1, 18, width), "float32"))
    return run("OneShotLoadLatent", latent_name=name)[0]


def louder(network: Any) -> Any:
    """The same generator with more noise at 4 px."""
    changed = copy.deepcopy(network)
    changed.convs[0].noise_strength += 1
    return changed


def look_of(bundle: Any, name: str, by: float = 0.1) -> Any:
    """A look that shifts every style of a generator's kind alike."""
    widths = [len(layer.bias) for layer in bundle.generator.affine_layers()]
    return core.Look(tuple(torch.full((width,), by) for width in widths), name, bundle.family, "demo")


def said(kind: str, **values: Any) -> str:
    """The error that a node ends in."""
    try:
        run(kind, **values)
    except ValueError as error:
        return str(error)
    return "accepted"


def mistakes() -> dict[str, str]:
    """Every mistake, and what is said."""
    demo = run("LoadStyleGAN", generator_name="demo")[0]
    encoders = run("OneShotLoadEncoders", download=False)[0]
    church, small = generator("church.safetensors"), generator("small.safetensors", 32)
    animals = generator("animals.safetensors", c_dim=3)
    sketch = adapted(demo, "sketch.safetensors")
    people = run("OneShotRandomLatents", generator=demo, seeds="0,1")[0]
    drawn = run("SampleAdapted", adapted=demo, seeds="0,1")[2]
    blend = run("OneShotBlendGenerators", first=demo, second=sketch)[0]
    picture = torch.full((1, 8, 8, 3), 0.5)
    learn = {"encoders": encoders, "target": picture}
    mask = {"generator": demo, "encoders": encoders, "target": picture[..., 0]}
    looked = run("OneShotApplyLook", generator=demo, look=look_of(demo, "pencil"), strength=1.0)[0]
    loud = adapted(replace(demo, generator=louder(demo.generator)), "loud.safetensors")
    edit = {"generator": demo, "encoders": encoders, "latent": people}
    return {
        "drawn by a stranger": said("SampleAdapted", adapted=church, latent=people),
        "drawn by a stranger, w+": said("SampleAdapted", adapted=church, latent=drawn),
        "another program's": said("SampleAdapted", adapted=demo, latent=foreign("pose.npz", 512)),
        "no source": said("SampleAdapted", adapted=sketch, source=church, seeds="0"),
        "swapped": said("SampleAdapted", adapted=demo, source=sketch, seeds="0"),
        "two codes for slots": said("SampleAdapted", adapted=demo, reference=people, replace_from=3),
        "a stranger's code for slots": said("SampleAdapted", adapted=church, reference=drawn, replace_from=3),
        "slots beyond the last": said("SampleAdapted", adapted=demo, replace_from=15),
        "classes without classes": said("SampleAdapted", adapted=demo, classes="1"),
        "a class that is not there": said("SampleAdapted", adapted=animals, seeds="0", classes="7"),
        "random as reference": said("OneShotAdapt", generator=demo, reference=people, **learn),
        "two references": said("OneShotAdapt", generator=demo, reference=drawn, **learn),
        "a stranger's reference": said("OneShotAdapt", generator=church, reference=drawn, **learn),
        "adapting classes": said("OneShotAdapt", generator=animals, reference=drawn, **learn),
        "strangers blended": said("OneShotBlendGenerators", first=demo, second=church),
        "sizes blended": said("OneShotBlendGenerators", first=church, second=small),
        "a blend and a stranger": said("OneShotBlendGenerators", first=church, second=blend),
        "editing for a stranger": said("StyleCLIPEdit", **{**edit, "generator": church}, text="a hat"),
        "unknown words": said("StyleCLIPEdit", **edit, text="A person with a Crown"),
        "unknown neutral words": said("StyleCLIPEdit", **edit, text="a hat", neutral_text="queen"),
        "one meaning": said("StyleCLIPEdit", **edit, text="a hat", neutral_text="a hat"),
        "a picture as a generator": said("SampleAdapted", adapted=picture),
        "latents as a generator": said("SampleAdapted", adapted=people),
        "a generator as latents": said("SampleAdapted", adapted=demo, latent=demo),
        "encoders as a generator": said("OneShotRandomLatents", generator=encoders),
        "diffusion latents": said("OneShotSaveLatent", latent={"samples": torch.zeros(1, 4, 8, 8)}),
        "a look of other widths": said("OneShotApplyLook", generator=church, look=look_of(demo, "pencil")),
        "a generator as a look": said("OneShotApplyLook", generator=demo, look=demo),
        "a look as a generator": said("OneShotApplyLook", generator=look_of(demo, "pencil"), look=None),
        "too strong": said(
            "OneShotApplyLook", generator=demo, look=look_of(demo, "pencil"), strength=1.0, strength_2=2.5
        ),
        "a look of equals": said("OneShotSaveLook", source=demo, adapted=sketch),
        "a look, swapped": said("OneShotSaveLook", source=looked, adapted=demo),
        "a look of strangers": said("OneShotSaveLook", source=church, adapted=sketch),
        "a look of everything": said("OneShotSaveLook", source=demo, adapted=loud),
        "a mask as a picture": said("CLIPLatentSearch", **mask),
    }  # fmt: skip


def notes() -> list[str]:
    """What is said of an edit that is allowed: the demo's encoders look at another generator's pictures."""
    church = run("LoadStyleGAN", generator_name="church.safetensors")[0]
    latent = run("OneShotRandomLatents", generator=church, seeds="0")[0]
    encoders = run("OneShotLoadEncoders", download=False)[0]
    (combo,) = (one for one in NODES["StyleCLIPEdit"].GET_SCHEMA().inputs if one.id == "method")
    method = default(combo, "latent optimisation")
    given = {"generator": church, "encoders": encoders, "latent": latent, "text": "a hat " * 30}
    return list(run("StyleCLIPEdit", **given, method={**method, "steps": 1}).ui["text"])


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps({"mistakes": mistakes(), "notes": notes()}) + "\n")
