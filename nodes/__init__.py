"""The pack's nodes: thin ComfyUI adapters over `oneshot_core`, listed once here."""

from __future__ import annotations

from . import bridge
from .api import ComfyExtension, io
from .directions import OneShotApplyDirection, OneShotEditGrid, OneShotLoadDirection, OneShotSaveDirection
from .editing import StyleCLIPEdit
from .evaluation import OneShotCompare, OneShotEvaluate
from .finding import OneShotComponentDirection, OneShotLatentDirection, OneShotTextDirection
from .framing import OneShotFrameTarget
from .inversion import OneShotInvertImage
from .latents import OneShotInterpolateLatents, OneShotRandomLatents, OneShotStyleMix
from .loaders import (
    LoadStyleGAN,
    OneShotDemoTarget,
    OneShotLoadEncoders,
    OneShotLoadLatent,
    OneShotSaveGenerator,
    OneShotSaveLatent,
)
from .looks import OneShotApplyLook, OneShotLoadLook, OneShotSaveLook
from .mappers import OneShotTrainMapper
from .methods import OneShotMethod
from .photos import OneShotAlignFace, OneShotPasteBack
from .sampling import OneShotBlendGenerators, SampleAdapted
from .search import CLIPLatentSearch
from .training import OneShotAdapt

NODES: list[type[io.ComfyNode]] = [
    LoadStyleGAN,
    OneShotLoadEncoders,
    OneShotDemoTarget,
    OneShotFrameTarget,
    CLIPLatentSearch,
    OneShotAdapt,
    OneShotMethod,
    SampleAdapted,
    StyleCLIPEdit,
    OneShotEvaluate,
    OneShotCompare,
    OneShotRandomLatents,
    OneShotBlendGenerators,
    OneShotSaveGenerator,
    OneShotSaveLatent,
    OneShotLoadLatent,
    OneShotApplyLook,
    OneShotSaveLook,
    OneShotLoadLook,
    OneShotTrainMapper,
    OneShotTextDirection,
    OneShotComponentDirection,
    OneShotLatentDirection,
    OneShotApplyDirection,
    OneShotSaveDirection,
    OneShotLoadDirection,
    OneShotEditGrid,
    OneShotInterpolateLatents,
    OneShotStyleMix,
    OneShotAlignFace,
    OneShotInvertImage,
    OneShotPasteBack,
]
# Ids without a prefix, which another pack may take as well.
GIVEN = {
    node.__name__: node
    for node in (LoadStyleGAN, CLIPLatentSearch, OneShotAdapt, SampleAdapted, StyleCLIPEdit)
}


class OneshotExtension(ComfyExtension):
    """What ComfyUI's loader asks for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Register folders and routes, look for ids that another pack took, return the nodes."""
        bridge.register_folders()
        bridge.register_routes(GIVEN)
        return NODES
