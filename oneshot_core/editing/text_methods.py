"""Ways from two texts to a direction of style space, by name: gradients, differences, and both in turn.

The hybrid takes gradients first and then true differences of the channels that these put first: a secant sees
what a tangent cannot, such as glasses that come and go, and looking at some hundred channels is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..checkpoints import GeneratorBundle
from ..features import ClipEncoder
from ..kept_folders import KeptFolders
from .dictionary import Dictionary
from .dictionary_cache import cached_dictionary
from .direction import check_told
from .finite_differences import DictionaryConfig, measure_dictionary
from .global_directions import (
    Selected,
    Selection,
    direction_of,
    find_direction,
    relevance,
    select,
    text_change,
)
from .gradient_directions import (
    GradientConfig,
    TextDirection,
    agreement_notes,
    checked_view,
    kept_gradients,
    shortlist,
    text_direction,
)
from .statistics import Progress, StyleStatistics

# Channels that the hybrid looks at again, at least, and samples that it has for that.
SHORTLIST, DIFFERENCE_IMAGES = 100, 8


@dataclass(frozen=True)
class TextRequest:
    """What is asked of a method.

    Args:
        text: what the pictures are to show.
        neutral_text: what they show now.
        gradient: settings of gradients; its selection is that of every method.
        statistics: of the generator's styles; None: measured.
        dictionary: of the generator or its source, for the method that needs one.
        name: of the direction; "": the text.
        kept: where samples are kept, so that a stopped work goes on; None: nowhere.
        poll: called while another process is at the same work; may raise to give up.
    """

    text: str
    neutral_text: str
    gradient: GradientConfig = field(default_factory=GradientConfig)
    statistics: StyleStatistics | None = None
    dictionary: Dictionary | None = None
    name: str = ""
    kept: KeptFolders | None = None
    poll: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        check_told({"text": self.text, "neutral_text": self.neutral_text, "name": self.name})

    def texts(self, clip: ClipEncoder, method: str) -> dict[str, str]:
        """What a direction says of itself."""
        return {
            "name": self.name or self.text, "text": self.text, "neutral_text": self.neutral_text,
            "clip": clip.name, "method": method,
        }  # fmt: skip


Finder = Callable[[GeneratorBundle, ClipEncoder, TextRequest, Progress | None], TextDirection]


@dataclass(frozen=True)
class TextMethod:
    """A way to find a direction.

    Args:
        find: finds it.
        told: what it does, in one sentence for the user.
        needs_dictionary: whether the request must have one.
    """

    find: Finder
    told: str
    needs_dictionary: bool = False


def by_gradient(
    bundle: GeneratorBundle, clip: ClipEncoder, request: TextRequest, progress: Progress | None = None
) -> TextDirection:
    """See `gradient_directions.text_direction`."""
    return text_direction(
        bundle, clip, request.text, request.neutral_text, request.gradient, request.statistics,
        name=request.name, progress=progress, kept=request.kept, poll=request.poll,
    )  # fmt: skip


def by_hybrid(
    bundle: GeneratorBundle, clip: ClipEncoder, request: TextRequest, progress: Progress | None = None
) -> TextDirection:
    """Find channels by gradients, then how far each moves by finite differences.

    The samples are those of the first seeds of the gradients. Progress counts samples and then channels.

    Raises:
        ValueError: see `gradient_directions.text_direction`.
    """
    config = request.gradient
    view = checked_view(bundle, clip, config, request.statistics)
    with torch.inference_mode(False):
        change = text_change(clip, request.text, request.neutral_text)
        count = max(SHORTLIST, config.selection.channels or 0)

        def looked(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total + count)

        found = kept_gradients(view, change, config, looked, request.kept, request.poll)
        channels = shortlist(found.gradients, count, config.selection)
        differences = DictionaryConfig(
            DIFFERENCE_IMAGES, seed=config.seed, channels=tuple(channels), max_px=view.max_px,
            batch_size=max(2, config.batch_size),
        )  # fmt: skip

        def told(done: int, _: int) -> None:
            if progress is not None:
                progress(found.forwards + done, found.forwards + len(channels))

        asked = bundle, clip, differences, view.statistics
        if request.kept is None:
            measured = measure_dictionary(*asked, progress=told)
        else:
            measured = cached_dictionary(request.kept, *asked, progress=told, poll=request.poll)
        selected = select_secants(measured, change, config.selection)
        direction = direction_of(measured, selected.amplitudes, request.texts(clip, HYBRID))
    drawn = found.forwards + 2 * DIFFERENCE_IMAGES * len(channels)
    return TextDirection(
        direction, HYBRID, len(found.gradients.values), drawn,
        found.backwards, found.agreement,
        (*clip.text_notes(request.text), *agreement_notes(found, config)), selected.beta,
    )  # fmt: skip


def select_secants(dictionary: Dictionary, change: Tensor, selection: Selection | None = None) -> Selected:
    """Choose channels by what each adds to the agreement with a change per sigma.

    Where StyleCLIP ranks channels by direction alone, so that one which hardly changes a picture counts as
    much as one that changes it all, this is relevance times effect.

    Args:
        dictionary: with effects.
        change: [D] unit change of CLIP's feature.
        selection: which channels.

    Raises:
        ValueError: the dictionary knows no effects, or see `global_directions.select`.
    """
    if dictionary.effect is None:
        raise ValueError("this dictionary says nothing of effects; measure one here")
    values = relevance(dictionary, change) * dictionary.effect.double()
    return select(dictionary, values, selection)


def by_dictionary(
    bundle: GeneratorBundle, clip: ClipEncoder, request: TextRequest, progress: Progress | None = None
) -> TextDirection:
    """Read the direction from a dictionary, as StyleCLIP does.

    Raises:
        ValueError: the request has no dictionary, or one of another generator or CLIP model; see also
            `global_directions.find_direction`.
    """
    if request.dictionary is None:
        raise ValueError(
            "the method finite differences reads a direction from a dictionary, and there is none; measure "
            "one first (minutes to hours), load one, or choose the method gradient"
        )
    request.dictionary.check_fits(bundle)
    found = find_direction(
        request.dictionary, clip, request.text, request.neutral_text, request.gradient.selection, request.name
    )
    direction = replace(found.direction, method=FINITE_DIFFERENCES)
    return TextDirection(
        direction, FINITE_DIFFERENCES, 0, 0, 0, notes=tuple(clip.text_notes(request.text)), beta=found.beta
    )


GRADIENT, HYBRID, FINITE_DIFFERENCES = "gradient", "hybrid", "finite differences"
METHODS: Mapping[str, TextMethod] = {
    GRADIENT: TextMethod(by_gradient, "seconds: one backward pass per sample tells every channel"),
    HYBRID: TextMethod(
        by_hybrid, "a minute or more: the gradient's first channels are looked at in pictures"
    ),
    FINITE_DIFFERENCES: TextMethod(
        by_dictionary, "at once, from a dictionary that was measured before", True
    ),
}
DEFAULT_METHOD = GRADIENT  # passes as often as the hybrid, in a quarter of the time: benchmarks/README.md


def find_text_direction(
    method: str,
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    request: TextRequest,
    progress: Progress | None = None,
) -> TextDirection:
    """Find a direction by a method of `METHODS`.

    Args:
        method: its name.
        bundle: the generator, adapted or not.
        clip: reads pictures and texts.
        request: texts, settings and what was measured before.
        progress: told how much of how much is done; one that raises stops.

    Raises:
        ValueError: an unknown method, or see that method.
    """
    if method not in METHODS:
        raise ValueError(f"a method of text directions is one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method].find(bundle, clip, request, progress)
