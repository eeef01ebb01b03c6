"""What a file of encoder weights is, told from the names and shapes in it, when it does not fit.

Source: the state-dict names of each program, as its published files have them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

_SHAPES: dict[tuple[int, ...], str] = {  # of CLIP's patch embedding: width, colours, patch -> model
    (768, 3, 32, 32): "ViT-B-32",
    (768, 3, 16, 16): "ViT-B-16",
    (1024, 3, 14, 14): "ViT-L-14",
    (1280, 3, 14, 14): "ViT-H-14",
    (1408, 3, 14, 14): "ViT-g-14",
    (1664, 3, 14, 14): "ViT-bigG-14",
}
_TRANSFORMERS = (
    "the names are those of the transformers package; open_clip's file of the same model is usually called "
    "open_clip_model.safetensors"
)
_NO_CLIP = "give the weights of a whole CLIP model, such as open_clip's"

# What a file is by a name in it, the more telling first: pattern, what it is, what to do.
_PROGRAMS: tuple[tuple[str, str, str], ...] = (
    (
        r"vision_model\.head\.(probe|attention)|visual\.trunk\.attn_pool\.|vision_model\.head\.mlp",
        "a SigLIP model, which is built unlike CLIP",
        "give a CLIP model's weights, or name open_clip's SigLIP model that the file belongs to",
    ),
    (r"model\.diffusion_model\.|first_stage_model\.|cond_stage_model\.", "a diffusion checkpoint", _NO_CLIP),
    (r"conditioner\.embedders\.", "the text encoders of a diffusion checkpoint", _NO_CLIP),
    (r"encoder\.block\.\d+\.layer\.|shared\.weight", "a T5 text encoder", _NO_CLIP),
    (r"decoder\.up_blocks\.|encoder\.down_blocks\.|quant_conv\.", "an image autoencoder (VAE)", _NO_CLIP),
    (r"visual_encoder\.|text_decoder\.|Qformer\.", "a BLIP model", _NO_CLIP),
    (
        r"(visual\.)?blocks\.\d+\.ls1\.gamma|register_tokens|encoder\.layer\.\d+\.layer_scale1",
        "DINOv2",
        _NO_CLIP,
    ),
    (
        r"visual\.rope\.|visual\.blocks\.\d+\.(attn\.[qv]_bias|norm1)",
        "an EVA-CLIP model",
        "name open_clip's EVA model that the file belongs to",
    ),
    (r"modality_(trunks|preprocessors)\.", "an ImageBind model", _NO_CLIP),
    (r"arc_?face|output_layer\.\d+\.|body\.\d+\.res_layer", "a face recognition network (ArcFace)", _NO_CLIP),
    (r"convs\.\d+\.conv\.modulation|synthesis\.b\d+\.", "a StyleGAN2 generator", "give it as the generator"),
    (r"visual\.layer1\.\d+\.conv1|visual\.attnpool\.", "CLIP with a ResNet", "name it, such as RN50"),
    (r"lora_(up|down|A|B)|\.alpha$", "a LoRA, which changes another model's weights", "give the whole model"),
)
_LPIPS_HEAD = re.compile(r"lin(s\.)?\d\.(model\.)?\d*\.?weight")


def told(tensors: Mapping[str, Tensor]) -> str:
    """Say what a file of weights looks like.

    Args:
        tensors: by name.

    Returns:
        A sentence with its full stop and a space in front, "" where the names tell nothing.
    """
    found = _told(tensors)
    return f" {found[:1].upper()}{found[1:]}." if found else ""


def _told(tensors: Mapping[str, Tensor]) -> str:
    names = list(tensors)
    if names and all(_LPIPS_HEAD.fullmatch(name) for name in names):
        return (
            "it holds only the heads of LPIPS (its linear layers), which come with the lpips package; the "
            "backbone's weights, torchvision's ImageNet ones, are needed"
        )
    for pattern, what, advice in _PROGRAMS:
        expression = re.compile(pattern)
        if any(expression.match(name) or expression.search(name) for name in names):
            return f"the names are those of {what}; {advice}"
    halves = _halves(names)
    if halves:
        return halves
    return _backbone(tensors) or _clip_size(tensors)


def _halves(names: Collection[str]) -> str:
    """Tell a half of CLIP, and CLIP under the transformers package's names."""
    vision = any(name.startswith("vision_model.") for name in names)
    text = any(name.startswith(("text_model.", "transformer.text_model.")) for name in names)
    if vision and text:
        return _TRANSFORMERS
    if text:
        return f"it holds only the text half of CLIP: the picture half (vision) is missing; {_TRANSFORMERS}"
    if vision:
        return f"it holds only the picture half of CLIP (vision): the text half is missing; {_TRANSFORMERS}"
    visual = any(name.startswith("visual.") for name in names)
    words = any(name.removeprefix("text.").startswith("token_embedding.") for name in names)
    if words and not visual:
        return f"it holds only the text half of CLIP: the picture half (vision) is missing; {_NO_CLIP}"
    if visual and not words and any(name.startswith("visual.transformer.") for name in names):
        return f"it holds only the picture half of CLIP (vision): the text half is missing; {_NO_CLIP}"
    return ""


def _shape(tensors: Mapping[str, Tensor], *names: str) -> tuple[int, ...]:
    return next((tuple(tensors[name].shape) for name in names if name in tensors), ())


def _backbone(tensors: Mapping[str, Tensor]) -> str:
    """Tell the networks that torchvision has beside the three that LPIPS uses."""
    if _shape(tensors, "layer1.0.conv1.weight"):
        return "it holds a ResNet, which LPIPS does not use"
    if _shape(tensors, "features.1.running_mean", "1.running_mean"):
        return "it holds a VGG with batch normalisation; LPIPS uses the one without"
    if _shape(tensors, "features.34.weight", "34.weight"):
        return "it holds VGG19; LPIPS uses VGG16 (vgg)"
    first = _shape(tensors, "features.0.weight", "0.weight", "slice1.0.weight")  # or renamed
    if first == (64, 3, 11, 11):
        return "it holds AlexNet (alex)"
    if _shape(tensors, "features.3.squeeze.weight", "3.squeeze.weight"):
        return "it holds SqueezeNet (squeeze)"
    return "it holds a VGG (vgg)" if first == (64, 3, 3, 3) else ""


def _clip_size(tensors: Mapping[str, Tensor]) -> str:
    """Tell CLIP's size from the embedding of its patches."""
    if "positional_embedding_res" in tensors:
        return "it holds Long-CLIP, whose texts are longer (context 248) than CLIP's"
    model = _SHAPES.get(_shape(tensors, "visual.conv1.weight"))
    return f"it looks like {model}; name it as {model}:TAG=FILE" if model else ""
