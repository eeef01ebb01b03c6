"""Other programs by their names: rows of the table against names of real state dicts, none against ours."""

from __future__ import annotations

import time

import pytest

from oneshot_core.checkpoints import foreign
from tests import other_names
from tests.tiny_networks import tiny_bundle

BUNDLE = tiny_bundle(size=32)
ENCODER = [
    "encoder.input_layer.0.weight",
    "encoder.body.0.res_layer.1.weight",
    "encoder.styles.0.convs.0.weight",
]
SAMPLES = [
    ("StyleGAN 1", ["g_mapping.dense0.weight", "g_synthesis.blocks.4x4.epi1.style_mod.lin.weight"]),
    ("StyleGAN 1", ["generator.progression.0.conv1.0.conv.weight_orig",
        "generator.to_rgb.0.conv.weight_orig"]),
    ("StyleGAN 1", ["synthesis.layer0.epilogue.apply_noise.weight", "mapping.dense0.linear.weight"]),
    ("StyleGAN3", ["synthesis.input.freqs", "synthesis.input.phases", "synthesis.L0_36_512.weight"]),
    ("StyleGAN3", ["G_ema.synthesis.L14_256_3.affine.weight"]),
    ("StyleGAN-T", ["synthesis.input.freqs", "synthesis.b8.conv0.affine.proj.weight",
        "mapping.mlp.fc0.weight"]),
    ("EG3D", ["backbone.synthesis.b4.const", "superresolution.block0.conv0.weight", "decoder.net.0.weight"]),
    ("EG3D", ["training.triplane.TriPlaneGenerator"]),
    ("StyleSDF", ["renderer.network.pts_linears.0.weight", "decoder.conv1.conv.modulation.weight"]),
    ("StyleNeRF", ["synthesis.fg_nerf.blocks.0.weight", "mapping.fc0.weight"]),
    ("SWAGAN", ["to_rgbs.0.iwt.ll", "input.input"]),
    ("DualStyleGAN", ["generator.convs.0.conv.weight", "res.0.conv.0.weight"]),
    ("VToonify", ["generator.generator.convs.0.conv.weight", "fusion_out.0.conv.weight",
        "generator.res.0.conv.0"]),
    ("GFPGAN", ["stylegan_decoder.style_convs.0.weight", "condition_scale.0.0.weight"]),
    ("GPEN", ["ecd0.0.0.weight", "generator.convs.0.conv.weight"]),
    ("CodeFormer", ["quantize.embedding.weight", "fuse_convs_dict.32.scale.0.weight",
        "ft_layers.0.linear1.weight"]),
    ("FastGAN", ["init.init.0.weight_orig", "feat_8.1.weight_orig",
        "se_64.main.1.weight_orig", "to_big.weight_orig"]),
    ("FastGAN", ["pg_modules.networks_fastgan.Generator"]),
    ("lucidrains' stylegan2-pytorch", ["GAN.S.net.0.weight", "GAN.G.blocks.0.to_style1.weight"]),
    ("lucidrains' stylegan2-pytorch", ["S.net.0.weight", "G.initial_block"]),
    ("lightweight-gan", ["GAN.G.initial_conv.0.weight", "GAN.G.layers.0.0.1.weight",
        "GAN.GE.sle_map.0.weight"]),
    ("adriansahlman", ["G_synthesis.state_dict.conv_blocks.0.conv_block.0.bias",
        "G_synthesis.state_dict.const"]),
    ("adriansahlman", ["conv_blocks.0.conv_block.0.bias", "to_data_layers.0.bias", "const"]),
    ("MMGeneration", ["generator.convs.0.conv1.style_modulation.linear.weight_orig"]),
    ("StyleMapGAN", ["decoder.conv1.conv.gamma.weight", "mapping_network.mapping.1.weight"]),
    ("SemanticStyleGAN", ["local_nets.0.linears.0.conv.weight", "render_net.convs.0.conv.weight",
        "style.1.weight"]),
    ("StarGAN v2", ["generator.module.decode.0.norm1.fc.weight", "generator.module.encode.0.conv1.weight"]),
    ("ProGAN", ["scaleLayers.0.0.module.weight", "toRGBLayers.0.module.weight", "formatLayer.module.weight"]),
    ("ProGAN", ["lod", "layer0.weight", "output0.weight"]),
    ("BigGAN", ["shared.weight", "linear.weight", "blocks.0.0.bn1.gain.weight", "blocks.0.0.conv1.weight"]),
    ("BigGAN", ["generator.gen_z.weight_orig", "generator.layers.0.bn_0.scale.weight_orig"]),
    ("SPADE", ["head_0.norm_0.mlp_shared.0.weight"]),
    ("VQGAN", ["quantize.embedding.weight", "decoder.conv_in.weight", "encoder.conv_in.weight"]),
    ("ESRGAN", ["RRDB_trunk.0.RDB1.conv1.weight", "conv_first.weight"]),
    ("ESRGAN", ["params_ema.body.0.rdb1.conv1.weight"]),
    ("ESRGAN", ["model.1.sub.0.RDB1.conv1.0.weight"]),
    ("SwinIR", ["layers.0.residual_group.blocks.0.attn.qkv.weight", "patch_embed.norm.weight"]),
    ("Stable Diffusion", ["model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.encoder.conv_in.bias"]),
    ("diffusion", ["down_blocks.0.attentions.0.norm.weight", "time_embedding.linear_1.weight",
        "conv_in.weight"]),
    ("diffusion", ["input_blocks.0.0.weight", "time_embed.0.weight", "out.0.weight"]),
    ("diffusion", ["double_blocks.0.img_attn.qkv.weight", "img_in.weight"]),
    ("LoRA", ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"]),
    ("LoRA", ["transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"]),
    ("LoRA", ["unet.down_blocks.0.attentions.0.to_k.lora.up.weight", "lora_te1_text_model.lora_up.weight"]),
    ("VAE", ["decoder.mid.attn_1.k.weight", "decoder.conv_in.weight", "quant_conv.weight"]),
    ("VAE", ["decoder.up_blocks.0.resnets.0.conv1.weight", "encoder.conv_in.weight"]),
    ("ControlNet", ["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"]),
    ("CLIP", ["visual.transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight"]),
    ("CLIP", ["vision_model.encoder.layers.0.self_attn.q_proj.weight"]),
    ("SigLIP", ["vision_model.head.probe", "vision_model.encoder.layers.0.self_attn.q_proj.weight"]),
    ("e4e or pSp", ENCODER),
    ("e4e or pSp", [f"state_dict.{name}" for name in ENCODER]),
    ("ArcFace", ["input_layer.0.weight", "body.0.res_layer.1.weight", "output_layer.3.weight"]),
    ("ArcFace", ["layer1.0.prelu.weight", "layer1.0.bn1.weight", "prelu.weight", "features.weight"]),
    ("mapper", ["mapper.course_mapping.mapping.1.weight", "mapper.fine_mapping.mapping.1.weight"]),
    ("LPIPS", ["lin0.model.1.weight", "net.slice1.0.weight"]),
    ("VGG", ["features.0.weight", "features.2.weight", "classifier.0.weight"]),
    ("ResNet", ["conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight"]),
    ("Inception", ["Mixed_5b.branch1x1.conv.weight", "Conv2d_1a_3x3.conv.weight"]),
    ("language model", ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "names"), SAMPLES, ids=[f"{row}-{name}" for row, (name, _) in enumerate(SAMPLES)]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_programs(name: str, names: list[str], prefix: str) -> None:
    found = foreign.program([prefix + one for one in names])
    assert found is not None and name in found
    said = foreign.refusal(names)
    assert said is not None and name in said and "StyleGAN2" in said and "\n" not in said


@pytest.mark.parametrize("layout", [*other_names.GENERATORS, "own"])
def test_stylegan2_is_no_foreign_program(layout: str) -> None:
    names = list(getattr(other_names, layout)(BUNDLE.generator))
    for prefix in ("", "g_ema.", "state_dict.decoder.", "generator.", "model.G_ema."):
        assert foreign.program([prefix + name for name in names], wrappers_only=True) is None
        if layout != "mmgeneration":
            assert foreign.program([prefix + name for name in names]) is None


def test_what_may_stand_beside_a_generator() -> None:
    """Encoders, judges and mappers in the same file do not make a foreign program of it."""
    names = [f"state_dict.decoder.{name}" for name in other_names.rosinality(BUNDLE.generator)]
    for beside in (
        ENCODER,
        ["hypernet.a.weight"],
        ["mapper.course_mapping.mapping.1.weight"],
        ["lpips.lin0.model.1.weight"],
    ):
        assert (
            foreign.program([*names, *(f"state_dict.{name}" for name in beside)], wrappers_only=True) is None
        )


def test_nothing_known() -> None:
    assert foreign.program([]) is None and foreign.refusal(["weight", "a.b.c"]) is None


def test_many_and_long_names_take_no_time() -> None:
    names = [f"{'a.' * 90}layer{index}" for index in range(20_000)] + [
        "x" * 100_000,
        "a\nmodel.diffusion_model.b",
    ]
    start = time.perf_counter()
    assert foreign.program(names) is None
    assert time.perf_counter() - start < 10  # without bounds it takes minutes
