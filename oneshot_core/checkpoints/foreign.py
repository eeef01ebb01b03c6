"""Other programs by the names in their files: what a file is when it is no StyleGAN2 network.

A foreign file is not a damaged one. Every row of the table has a handful of telling names; all of a row's
signs must be found. Names are those of tensors, dotted, with any prefix, or of classes (`package.Class`).

Source: state-dict names of the public repositories of the named programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

MAX_CHARACTERS = 200_000  # of all names; more are not looked at
MAX_NAME = 200  # characters of a name that are looked at
_ANYWHERE = r"\S*"
_NUMBER = re.compile(r"\.\d+\.(?=\D)")  # layers are alike: their number tells nothing
_INSTEAD = "use a StyleGAN2 network (rosinality's .pt or NVIDIA's .pkl)"
_ENCODER = "it encodes pictures and draws none"
_JUDGE = f"it judges pictures and draws none; {_INSTEAD}"
_WHOLE = "give the file of the generator alone"


@dataclass(frozen=True)
class Program:
    """A program, or a kind of network, that writes files with these names."""

    name: str  # as in "a file of NAME"
    signs: tuple[str, ...]  # patterns; each must be found behind a dot or at the start of some name
    do: str = _INSTEAD  # what the user can do
    wraps: bool = False  # holds parts with StyleGAN2's own names, which do not draw the same pictures alone

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """The compiled signs; those that may stand anywhere are searched without a start, which is faster."""
        return tuple(
            re.compile(
                sign.removeprefix(_ANYWHERE) if sign.startswith(_ANYWHERE) else rf"(?:^|\.)(?:{sign})", re.M
            )
            for sign in self.signs
        )

    def wrote(self, text: str) -> bool:
        """Whether a text of one name per line has all signs."""
        return all(pattern.search(text) for pattern in self.patterns)


def _wrapper(name: str, *signs: str, do: str = _INSTEAD) -> Program:
    return Program(name, signs, do, wraps=True)


def _other(name: str, *signs: str, do: str = _INSTEAD) -> Program:
    return Program(name, signs, do)


# The first row that fits counts: what is most telling stands first.
PROGRAMS = (
    # Generators around a StyleGAN2: the parts have its names, the pictures need the rest too.
    _wrapper("SWAGAN (a generator of wavelets)", r"(?:iwt|dwt)\.(?:ll|lh|hl|hh)$"),
    _wrapper("VToonify", r"(?:generator\.){2}\S*convs\.0\.", r"fusion_(?:out|skip)\.0\."),
    _wrapper("DualStyleGAN", r"res\.\d+\.(?:conv|norm|style|norm2|conv2)\b", r"generator\.(?:convs|conv1)\."),
    _wrapper("GFPGAN (a restorer of faces)", r"stylegan_decoder\.", r"(?:condition_scale|conv_body_first)\."),
    _wrapper("GPEN (a restorer of faces)", r"ecd0\.", r"generator\."),
    _wrapper("EG3D (a 3-D generator with tri-planes)", r"backbone\.", r"(?:superresolution|decoder\.net)\."),
    _wrapper("EG3D (a 3-D generator with tri-planes)", r"\w*TriPlaneGenerator$"),
    _wrapper("StyleNeRF (a 3-D generator)", r"synthesis\.(?:fg_nerf|bg_nerf|nerf_)"),
    _wrapper("StyleSDF (a 3-D generator)", r"renderer\.network\.(?:pts_linears|views_linears)"),
    _wrapper("GANformer", r"synthesis\.b\d+\.\w+\.(?:transformer|attention)\."),
    # StyleGAN's other versions and its relatives.
    _other("StyleGAN-T", r"synthesis\.input\.freqs$", r"\S*affine\.proj\."),
    _other(
        "StyleGAN3",
        r"(?:synthesis\.)?input\.(?:freqs|phases)$|synthesis\.L\d+_\d+_\d+\.",
        do="it cannot be converted; use a StyleGAN2 network (the stylegan3 repository trains them with "
        "--cfg=stylegan2)",
    ),
    _other("StyleGAN 1", r"\w*(?:epi[12]|lod_?\w*|epilogue)\.(?:style_mod|top_epi|pre_style_op|\w*noise)"),
    _other("StyleGAN 1", r"\S*(?:adain\d?|ada_?in\w*)\.(?:style|norm)"),
    _other("StyleGAN 1 (progressive growing)", r"generator\.progression\.\d+\."),
    _other("ALAE", r"(?:decode_block|decoder\.layer_to_resolution|mapping_tl|mapping_fl)\b"),
    _other("StyleMapGAN", r"conv\.(?:gamma|beta)\.(?:weight|bias)$", r"\S*(?:local_)?mapping"),
    _other("StyleMapGAN", r"\S*convs?\d?(?:\.\d+)?\.conv\.(?:gamma|beta)\.(?:weight|bias)$"),
    _other("SemanticStyleGAN", r"local_nets\.\d+\.", r"render_net\."),
    _other("StyleSwin", r"layers\.\d+\.blocks\.\d+\.attn", r"(?:to_rgbs|style)\.\d+\."),
    _other("CIPS", r"(?:lff\.ffm|emb\.input)\b"),
    _other("FastGAN", r"\S*(?:FastganSynthesis\b|networks_fastgan\.)"),
    _other("FastGAN", r"(?:feat_\d+|se_\d+)\.", r"(?:init\.|to_(?:big|\d+)\b)"),
    _other("projected GAN (its discriminator)", r"\S*(?:pg_modules\.|feature_network\.pretrained\.)"),
    _other("lucidrains' stylegan2-pytorch", r"S\.net\.\d+\.", r"G\.(?:initial_block|blocks\.\d+\.to_style)"),
    _other("lucidrains' stylegan2-pytorch", r"(?:GE?|GAN)\.(?:blocks\.\d+\.to_style1|initial_block)"),
    _other("lucidrains' lightweight-gan", r"GE?\.(?:sle\w*|initial_conv|layers\.\d+\.\d+)\.", r"GE?\."),
    _other(
        "adriansahlman's stylegan2_pytorch (Gs.pth with G_mapping and G_synthesis)",
        r"(?:G_synthesis\.(?:state_dict\.)?)?conv_blocks\.\d+\.conv_block\.\d+\.",
        r"(?:G_synthesis\.(?:state_dict\.)?)?to_data_layers\.\d+\.",
    ),
    _other(
        "adriansahlman's stylegan2_pytorch (Gs.pth with G_mapping and G_synthesis)",
        r"G_(?:mapping|synthesis)\.state_dict\.",
    ),
    _other("MMGeneration (another generator than its StyleGAN2)", r"style_modulation\.linear\.weight_orig"),
    _other("ProGAN", r"(?:scaleLayers|toRGBLayers|formatLayer)\.", r"\S*module\.(?:weight|bias)$"),
    _other("ProGAN or StyleGAN 1 of genforce", r"(?:synthesis\.)?(?:lod$|layer0\.wscale)", r"\S*output\d+\."),
    _other("ProGAN", r"(?:progression_\d+|progress\.\d+|initial_block)\.", r"(?:to_rgb\w*|toRGB\w*)\."),
    _other("MSG-GAN", r"rgb_converters\.\d+\."),
    _other("BigGAN", r"\S*bn[12_]\w*\.(?:gain|bias|scale|offset)", r"\S*(?:linear|gen_z|shared)\."),
    _other("StarGAN v2", r"(?:decode|encode)\.\d+\.(?:norm[12]\.fc|conv1x1|conv[12])\b"),
    _other("SPADE / GauGAN", r"\S*norm_[01s]\.mlp_shared\."),
    _other("U-GAT-IT", r"(?:UpBlock1_\d|rho)\b", r"DownBlock\."),
    _other("AnimeGAN", r"block_[a-e]\.\d+\."),
    _other("TransGAN", r"(?:tRGB_\d|upsample_blocks\.\d+\.block)"),
    _other("CodeFormer (a restorer of faces)", r"(?:fuse_convs_dict|quantize)\.", r"ft_layers\."),
    _other("VQGAN", r"quantize\.embedding\.weight$", do=f"{_INSTEAD}; VQGAN draws from codes"),
    _other("ESRGAN or another enlarger", r"\S*(?:RRDB_trunk\.|(?:RDB|rdb)[123]\.conv\d)"),
    _other("SwinIR or another enlarger", r"layers\.\d+\.residual_group\.blocks\.\d+\."),
    # Diffusion.
    _other("LoRA weights (diffusion)", r"\S*lora[_.](?:unet_|te\d?_|transformer_|(?:up|down|[AB])\b)"),
    _other("ControlNet (diffusion)", r"(?:control_model|controlnet_\w+|input_hint_block|zero_convs)\."),
    _other("IP-Adapter (diffusion)", r"\S*(?:ip_adapter\.\d+\.|to_[kv]_ip\b)"),
    _other("AnimateDiff (diffusion)", r"\S*motion_modules\.\d+\."),
    _other("Stable Diffusion", r"(?:model\.diffusion_model|cond_stage_model|conditioner)\."),
    _other("a diffusion model", r"(?:double_blocks|single_blocks|joint_blocks|transformer_blocks)\.\d+\."),
    _other("a diffusion model (U-Net)", r"(?:down|up)_blocks\.\d+\.(?:resnets|attentions)\.", r"\S*time_emb"),
    _other("a diffusion model (U-Net)", r"(?:input_blocks|output_blocks)\.\d+\.\d+\.", r"time_embed\."),
    _other("a VAE (diffusion)", r"(?:de|en)coder\.(?:mid|up|down|mid_block|up_blocks)\b", r"\S*conv_in"),
    _other("a VAE of a diffusion model", r"first_stage_model\."),
    # Encoders, judges and others that draw nothing.
    _other("SigLIP", r"vision_model\.head\.(?:probe|attention)", do=f"{_ENCODER}; {_INSTEAD}"),
    _other(
        "CLIP weights",
        r"(?:visual\.)?transformer\.resblocks\.\d+\.|(?:vision|text)_model\.encoder\.layers\.|visual\.attnpool",
        do="CLIP weights belong to the input for CLIP (--clip), not to the one for the generator",
    ),
    _other(
        "a StyleCLIP mapper without its decoder",
        r"(?:mapper\.)?(?:course|coarse|medium|fine)_mapping\.mapping\.",
        do="give the generator that the mapper was trained with",
    ),
    _other(
        "an e4e or pSp encoder without its decoder",
        r"(?:encoder\.)?styles\.\d+\.(?:convs|linear)\.",
        r"(?:encoder\.)?input_layer\.\d+\.",
        do=f"{_ENCODER}; give the whole file with decoder.*, or the generator that it was trained with",
    ),
    _other("a hypernetwork without its decoder", r"hypernet\.", do=_WHOLE),
    _other(
        "ArcFace / InsightFace (a face recogniser)",
        r"(?:output_layer|body)\.\d+\.|layer1\.0\.prelu\.",
        r"(?:input_layer\.\d+|bn2|prelu)\.",
        do=f"it compares faces and draws none; {_INSTEAD}",
    ),
    _other("LPIPS", r"lin\d\.model\.\d+\.weight$", do=_JUDGE),
    _other("Inception (the network of FID)", r"Mixed_\d[a-e]\.", do=_JUDGE),
    _other("VGG or AlexNet", r"features\.0\.weight$", do=_JUDGE),
    _other("DINO or another vision transformer", r"patch_embed\.proj\.", r"blocks\.\d+\.attn\.qkv\."),
    _other("a ResNet", r"layer1\.0\.conv1\.weight$", r"layer4\.0\.", do=f"{_ENCODER}; {_INSTEAD}"),
    _other("YOLO (a detector)", r"model\.\d+\.(?:m|cv[1-4])\.", do=_JUDGE),
    _other("a language model", r"(?:lm_head|embed_tokens|layers\.\d+\.self_attn|encoder\.layer\.\d+)\b"),
    _other("a language model (T5)", r"encoder\.block\.\d+\.layer\.\d+\."),
    _other("CycleGAN or pix2pix", r"model\.\d+\.conv_block\.\d+\.|model\.model\.\d+\."),
    _other("DCGAN", r"(?:main|net)\.\d+\.weight$", r"(?:main|net)\.\d+\.running_mean$"),
)  # fmt: skip


def _text(names: Iterable[str]) -> str:
    chosen: dict[str, None] = {}
    left = MAX_CHARACTERS
    for name in names:
        text = _NUMBER.sub(".0.", str(name)[:MAX_NAME].replace("\n", " "))
        if text not in chosen:
            chosen[text] = None
            left -= len(text)
            if left < 0:
                break
    return "\n".join(chosen)


def _find(names: Iterable[str], wrappers_only: bool) -> Program | None:
    text = _text(names)
    rows = (row for row in PROGRAMS if row.wraps or not wrappers_only)
    return next((row for row in rows if row.wrote(text)), None)


def program(names: Iterable[str], *, wrappers_only: bool = False) -> str | None:
    """Name the program that writes such files.

    Args:
        names: of tensors (dotted, any prefix) and of classes.
        wrappers_only: look only for programs that put a StyleGAN2 with its own names inside another network.

    Returns:
        The program's name, or None where no row of the table fits.
    """
    found = _find(names, wrappers_only)
    return None if found is None else found.name


def refusal(names: Iterable[str], *, wrappers_only: bool = False) -> str | None:
    """Say in one sentence what a file is and what to do; None where no row of the table fits.

    Args:
        names: see `program`.
        wrappers_only: see `program`.

    Returns:
        A text without the file's name, such as "is a file of StyleGAN3, not StyleGAN2; ...".
    """
    found = _find(names, wrappers_only)
    if found is None:
        return None
    return f"holds {_with_article(found.name)}, no StyleGAN2 network; {found.do}"


def _with_article(name: str) -> str:
    known = name.startswith(("a ", "an ", "CLIP weights", "LoRA weights"))
    return name if known else f"a network of {name}"
