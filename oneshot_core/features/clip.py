"""CLIP image and text encoders through open_clip, with the method's own preprocessing."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..tensors import Images, gradients
from .clip_config import check_size, read_config
from .download import BytesProgress
from .preprocess import OPENAI_MEAN, OPENAI_STD, ClipPreprocess
from .tokenizers import LazyTokenizer, Tokenizer, WordTokenizer, check_text, text_notes
from .towers import layout_of, lowered, run_length_first, simplify, tower_weight
from .weights import EncoderError, clip_source, load_strict, read_weights, text_tower_source

log = logging.getLogger(__name__)

OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # numbers in OpenAI's files, not weights
SIMPLE_VOCABULARY = 49408  # entries of CLIP's own byte-pair vocabulary


class ClipEncoder(nn.Module):
    """A frozen CLIP: unit features of pictures and texts, differentiable with respect to the pictures.

    The given model is taken over: set to evaluation, its weights frozen. It stays in evaluation mode whatever
    `train()` is called around it. Computes in the model's own dtype (float64 for parity tests).
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: ClipPreprocess | None = None,
        tokenizer: Tokenizer | None = None,
        name: str = "custom",
    ) -> None:
        """Wrap a model.

        Args:
            model: an open_clip model (`build_clip`).
            preprocess: None for the method's preprocessing at the model's picture size.
            tokenizer: texts -> ids [N, context]; None where no text will be encoded.
            name: for messages and records.
        """
        super().__init__()
        self.model: Any = model.requires_grad_(False)
        self.preprocess = preprocess or ClipPreprocess(image_size=_image_size(model))
        self.tokenizer = tokenizer
        self.name = name
        run_length_first(model.visual)
        self.layout = layout_of(model.visual)
        self.model.visual.to(memory_format=self.layout)
        self.eval()

    def train(self, mode: bool = True) -> ClipEncoder:
        """Stay in evaluation mode: a frozen encoder has no other."""
        return super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the image tower computes."""
        return tower_weight(self.model.visual).dtype

    @property
    def device(self) -> torch.device:
        """Device the weights are on."""
        return tower_weight(self.model.visual).device

    @property
    def logit_scale(self) -> Tensor:
        """By how much the model multiplies cosines; 100 in OpenAI's models. Scalar."""
        return self.model.logit_scale.detach().exp()

    def encode_images(self, images: Images) -> Tensor:
        """Return one unit feature per picture.

        Args:
            images: [N, 3, H, W] in [-1, 1] (not clamped), any size, on the model's device.

        Returns:
            [N, D] of length 1, float32 (float64 if the model is float64), normalised out of place. Gradients
            flow to the pictures, never to the weights.
        """
        return _unit(self.raw_images(images))

    def raw_images(self, images: Images) -> Tensor:
        """The same features before they are normalised, in the model's precision."""
        pixels = self.preprocess(images.to(torch.promote_types(images.dtype, self.dtype)))
        return self._seen(pixels)

    def _seen(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.device, self.dtype).contiguous(memory_format=self.layout)
        return self.model.encode_image(pixels, normalize=False)

    def encode_prepared(self, pixels: Tensor) -> Tensor:
        """Unit features [N, D] of what was prepared elsewhere: [N, 3, side, side], as the model reads it."""
        return _unit(self._seen(pixels))

    def encode_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit features [M, D] of pictures of any size, seen as CLIP's own code sees files; no gradient."""
        with torch.no_grad():
            return _unit(torch.cat([self._seen(self.preprocess.of_picture(one)) for one in pictures]))

    def lowered(self, dtype: torch.dtype) -> ClipEncoder:
        """The same whose image tower multiplies with weights that are stored in a narrow type.

        Under autocast to that type it gives the same features, without rounding frozen weights at every call.
        """
        model = _with_part(self.model, "visual", lowered(self.model.visual, dtype))
        return _with_part(self, "model", model)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return one unit feature per text, [N, D], float32 or float64.

        Raises:
            EncoderError: the encoder was made without a tokenizer.
        """
        return self.encode_tokens(self._reader()([texts] if isinstance(texts, str) else list(texts)))

    def check_text(self, text: str) -> None:
        """Refuse a text that the model cannot read.

        Raises:
            ValueError: words that it does not know, where it has a list of them.
            EncoderError: the encoder was made without a tokenizer.
        """
        check_text(self._reader(), text, self.name)

    def text_notes(self, text: str) -> list[str]:
        """Say what of a text the model does not read or hardly understands; see `tokenizers.text_notes`."""
        return text_notes(self.tokenizer, text, self.name)

    def _reader(self) -> Tokenizer:
        if self.tokenizer is None:
            raise EncoderError(
                f"CLIP model {self.name} has no tokenizer, so it reads no text; pass one to ClipEncoder, or "
                f'put "tokenizer": {{"words": [...]}} into its configuration'
            )
        return self.tokenizer

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Return one unit feature per row of token ids [N, context], [N, D], float32 or float64."""
        return _unit(self.model.encode_text(tokens.to(self.device), normalize=False))


def _with_part(module: Any, name: str, part: nn.Module) -> Any:
    """A module like another that shares its parts but for one."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, name: part}
    return twin


def _unit(features: Tensor) -> Tensor:
    """Normalise rows to length 1 in float32 or better, whatever precision they came in."""
    wide = features if features.dtype == torch.float64 else features.float()
    return F.normalize(wide, dim=-1)


def _image_size(model: Any) -> int:
    size = getattr(model.visual, "image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise EncoderError(f"only models with square pictures are supported, this one reads {size}")
    return int(sides.pop())


def build_clip(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Build an untrained open_clip model from a configuration.

    Args:
        config: open_clip's keys (`embed_dim`, `vision_cfg`, `text_cfg`, optional `quick_gelu`, `custom_text`,
            `multimodal_cfg`, …); a key `tokenizer` is this project's and is left to `load_clip`.
        seed: of the initial weights; torch's global random state is as before afterwards.

    Returns:
        A trainable model on the CPU, float32, in training mode.

    Raises:
        EncoderError: a key is missing or unknown.
    """
    import open_clip

    settings = copy.deepcopy({key: value for key, value in config.items() if key != "tokenizer"})
    absent = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in settings]
    if absent:
        raise EncoderError(f"the CLIP configuration lacks {', '.join(absent)}; it has {', '.join(config)}")
    # Base weights of a borrowed tower are never wanted: the whole model's file brings them.
    if "timm_model_name" in settings["vision_cfg"]:
        settings["vision_cfg"]["timm_model_pretrained"] = False
    borrowed_text = "hf_model_name" in settings["text_cfg"]
    if borrowed_text:
        settings["text_cfg"]["hf_model_pretrained"] = False
    kind: Any = open_clip.CLIP
    if settings.pop("custom_text", False) or borrowed_text:
        kind = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return kind(**settings)
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise EncoderError(f"open_clip cannot build this CLIP configuration: {reason}") from error


def load_clip(
    name: str = "ViT-B-32-quickgelu",
    weights: Path | str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    folder: Path | str | None = None,
    allow_download: bool = True,
    antialias: bool = False,
    progress: BytesProgress | None = None,
) -> ClipEncoder:
    """Load a trained CLIP model; never returns one whose weights are not all from the file.

    Args:
        name: an open_clip model, `NAME` or `NAME:TAG` ("ViT-B-32:laion2b_s34b_b79k"); OpenAI's spelling
            "ViT-B/32" works. Without a tag: OpenAI's weights where they exist, else the only ones there are.
            Whether a model uses QuickGELU follows from the weights (OpenAI's all do), not from the name.
            With `config` only a label.
        weights: a local file (safetensors, or a torch file with a state dict) instead of a search.
        config: architecture of a custom model: open_clip's keys, or `{"model_cfg": …, "preprocess_cfg": …}`,
            as a mapping or a JSON file; with a key `"tokenizer": {"words": […]}` it reads those words
            (`WordTokenizer`). The weights then come from `weights`.
        folder: searched before the usual caches, and where downloads go; None: open_clip's own cache folder.
        allow_download: False never touches the network.
        antialias: see `ClipPreprocess`.
        progress: called during a download with (bytes there, bytes in all or None); raising stops it, and
            the next call goes on from there.

    Returns:
        A frozen float32 encoder on the CPU.

    Raises:
        EncoderError: unknown name or tag, missing weights (with file, places and origin), differing keys.
    """
    place = Path(folder).expanduser() if folder else None
    plan = _custom_plan(name, config) if config is not None else _published_plan(name, weights is not None)
    plan = _with_text_layout(plan, place, allow_download, progress)
    path = Path(weights).expanduser() if weights else _located(plan, place, allow_download, progress)
    with gradients():
        tensors = read_weights(path)
        if plan.custom:
            check_size(plan.config, sum(value.numel() for value in tensors.values()), path)
        model = build_clip(plan.config)
        load_strict(model, _renamed(model, tensors, path), path)
        simplify(model.visual)
        preprocess = ClipPreprocess(_image_size(model), antialias=antialias, mean=plan.mean, std=plan.std)
        return ClipEncoder(model, preprocess, _tokenizer(plan, place, allow_download), plan.name)


@dataclass(frozen=True)
class _Plan:
    """What a name or a configuration means, before any file is opened."""

    name: str
    config: dict[str, Any]
    tag: str = ""
    entry: dict[str, Any] = field(default_factory=dict)  # open_clip's table row of the weights
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    custom: bool = False


def _custom_plan(name: str, config: Mapping[str, Any] | Path | str) -> _Plan:
    found = read_config(config)
    mean, std = found.get("mean", OPENAI_MEAN), found.get("std", OPENAI_STD)
    return _Plan(name, found["model"], mean=mean, std=std, custom=True)


def _published_plan(name: str, own_file: bool) -> _Plan:
    """Resolve `NAME` or `NAME:TAG` to a configuration whose activation is the one of the weights."""
    import open_clip

    given, _, tag = name.partition(":")
    model = given.replace("@336px", "-336").replace("/", "-")
    config = open_clip.get_model_config(model) if given != "hf-hub" else None
    if config is None:
        close = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.4)
        raise EncoderError(
            f"{name!r} is no model that open_clip knows; close ones: {', '.join(close) or 'none'}. For a "
            f"model of your own pass `config` and `weights`"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    chosen = tag or _default_tag(model, tags, own_file)
    entry = dict(open_clip.get_pretrained_cfg(model, chosen) if chosen else {})
    if chosen and not entry:
        raise EncoderError(f"{model} has no weights {chosen!r}; there are: {', '.join(tags) or 'none'}")
    if chosen == "openai" or entry.get("quick_gelu"):
        config["quick_gelu"] = True
    if own_file and not tag:
        log.warning("the CLIP weights file %s", activation_note(model, bool(config.get("quick_gelu"))))
    mean, std = tuple(entry.get("mean") or OPENAI_MEAN), tuple(entry.get("std") or OPENAI_STD)
    return _Plan(model, config, chosen, entry, mean, std)


def activation_note(model: str, quick: bool) -> str:
    """Say which activation a file's weights are taken to have, which no file says itself.

    Args:
        model: open_clip's name.
        quick: whether it is QuickGELU.

    Returns:
        A sentence that goes on after "the CLIP weights file".
    """
    bare = model.removesuffix("-quickgelu")
    if quick:
        return (
            f"is read as {model} with QuickGELU, as OpenAI's weights have it; for weights with GELU, such as "
            f"LAION's, choose that model and tag (on the command line --clip {bare}:TAG=FILE)"
        )
    return (
        f"is read as {model} with GELU; for weights with QuickGELU, such as OpenAI's, choose {bare}:openai "
        f"(on the command line --clip {bare}:openai=FILE)"
    )


def assumed_activation(name: str) -> str:
    """Say which activation `NAME:TAG` gives to a weights file; see `activation_note`.

    Raises:
        EncoderError: open_clip does not know the model or the tag.
    """
    plan = _published_plan(name, own_file=True)
    return activation_note(plan.name, bool(plan.config.get("quick_gelu")))


def _default_tag(model: str, tags: Sequence[str], own_file: bool) -> str:
    if "openai" in tags:
        return "openai"
    if len(tags) == 1 or (tags and own_file):
        return tags[0]
    if own_file:
        return ""
    raise EncoderError(
        f"say which weights of {model} are meant, as {model}:TAG; there are: {', '.join(tags)}"
        if tags
        else f"open_clip knows no published weights of {model}; pass a file as `weights`"
    )


def _located(plan: _Plan, folder: Path | None, allow_download: bool, progress: BytesProgress | None) -> Path:
    """Find the weights on this machine, else download them if that is allowed."""
    if plan.custom:
        raise EncoderError(
            f"a custom configuration ({plan.name}) needs its own weights: pass a file as `weights`"
        )
    return clip_source(plan.name, plan.tag, plan.entry).locate(folder, allow_download, progress)


def _with_text_layout(
    plan: _Plan, folder: Path | None, allow_download: bool, progress: BytesProgress | None
) -> _Plan:
    """Let a text tower of the transformers package read its layout from a local folder, not from the hub."""
    text = plan.config["text_cfg"]
    name = str(text.get("hf_model_name") or "")
    if not name or Path(name).is_dir():
        return plan
    layout = text_tower_source(name).locate(folder, allow_download, progress)
    return replace(plan, config={**plan.config, "text_cfg": {**text, "hf_model_name": str(layout.parent)}})


def _renamed(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Undo the harmless differences between published files of one architecture; all else stays strict."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    tensors = {key: value for key, value in tensors.items() if key not in OPENAI_EXTRAS}
    try:
        tensors = convert_state_dict(model, tensors)
    except Exception as error:
        raise EncoderError(
            f"{source} has the names of a CLIP model but not its shapes ({type(error).__name__}); it is "
            "damaged or of another model: fetch it again"
        ) from error
    wanted = model.state_dict()
    if "positional_embedding" in tensors and "positional_embedding" not in wanted:
        tensors = convert_to_custom_text_state_dict(tensors)
    for key in ("logit_scale", "logit_bias"):  # a number in some files, one entry in others
        if key in tensors and key in wanted and tensors[key].numel() == 1:
            tensors[key] = tensors[key].reshape(wanted[key].shape)
    position_ids = "text.transformer.embeddings.position_ids"  # dropped by newer transformers
    if position_ids not in wanted:
        tensors.pop(position_ids, None)
    return tensors


def _tokenizer(plan: _Plan, folder: Path | None, allow_download: bool) -> Tokenizer | None:
    import open_clip

    text = plan.config["text_cfg"]
    words = plan.config.get("tokenizer", {}).get("words")
    if words is not None:
        small = WordTokenizer(words, int(text.get("context_length", 77)))
        if small.vocab_size > int(text.get("vocab_size", SIMPLE_VOCABULARY)):
            raise EncoderError(
                f"a list of {len(words)} words needs vocab_size {small.vocab_size} in text_cfg, "
                f"which has {text.get('vocab_size')}"
            )
        return small
    if (
        not text.get("hf_tokenizer_name")
        and int(text.get("vocab_size", SIMPLE_VOCABULARY)) < SIMPLE_VOCABULARY
    ):
        return None
    if plan.custom:
        return open_clip.SimpleTokenizer(context_length=int(text.get("context_length", 77)))
    options = {"local_files_only": not allow_download} if text.get("hf_tokenizer_name") else {}
    return LazyTokenizer(plan.name, folder, options)
