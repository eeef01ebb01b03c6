"""Where the latents of a batch come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from ..latents import mix
from ..networks import Generator
from ..ranges import check_number
from ..tensors import Latents
from .aim import Aim
from .contract import Needs, StepDraws

MAPPINGS = ("source", "own")


class Origin(Protocol):
    """A source of codes, as data."""

    @property
    def needs(self) -> Needs:
        """What it takes from the aim."""
        ...

    def remixed(self, mixing: float) -> Origin:
        """The same with another probability of style mixing, where it has one."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether every step has other latents."""
        ...

    def codes(self, request: CodeRequest) -> Latents:
        """W+ codes [N, L, W] for one generator call."""
        ...


@dataclass(frozen=True)
class CodeRequest:
    """One generator call that wants codes.

    Args:
        mapper: the generator whose mapping network turns z into w.
        aim: for origins that read it.
        draws: of the step.
        size: number of codes N.
        purpose: whose z and mixing decision are used.
        plan_of: whose crossover is used; another than `purpose` where two calls share z but not that.
        place: which target the step is about.
    """

    mapper: Generator
    aim: Aim
    draws: StepDraws
    size: int
    purpose: str
    # Two fields only for the published accident Q1: same z, other crossover.
    plan_of: str
    place: int = 0


@dataclass(frozen=True)
class Prior:
    """Fresh z from N(0, 1), mapped; sometimes two of them share a code from a drawn slot on.

    Args:
        mixing: probability of style mixing.

    Source: rosinality stylegan2-pytorch train.py mixing_noise and Generator.forward, with the plan passed in.
    """

    mixing: float = 0.0
    needs: ClassVar[Needs] = Needs()
    fresh: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.mixing, "mixing, a probability,", low=0, high=1)

    def remixed(self, mixing: float) -> Prior:
        """See `Origin.remixed`."""
        return Prior(mixing)

    def codes(self, request: CodeRequest) -> Latents:
        """See `Origin.codes`."""
        mapper, draws, purpose = request.mapper, request.draws, request.purpose
        mixes = float(draws.uniform(f"{purpose}.mix")) < self.mixing
        z = draws.normal(f"{purpose}.z", (2 if mixes else 1, request.size, mapper.config.z_dim))
        # Never truncated in training (methods.md B3).
        codes = [mapper.map(part.to(mapper.const)) for part in z]
        if not mixes:
            return codes[0]
        # 1 to L - 1: each code keeps at least one slot, else nothing would be mixed.
        crossover = 1 + int(draws.integers(f"{request.plan_of}.crossover", mapper.config.num_layers - 1))
        return mix(codes[0], codes[1], crossover)


@dataclass(frozen=True)
class Reference:
    """The counterpart of the target that the step is about, in every place of the batch."""

    needs: ClassVar[Needs] = Needs(reference=True)
    fresh: ClassVar[bool] = False

    def remixed(self, mixing: float) -> Reference:
        """See `Origin.remixed`; a fixed latent is never mixed."""
        return self

    def codes(self, request: CodeRequest) -> Latents:
        """See `Origin.codes`."""
        reference = request.aim.codes
        if reference is None:
            raise ValueError("this method draws the reference latent, but none was given; search for one")
        one = reference[request.place : request.place + 1]
        return request.mapper.broadcast(one).expand(request.size, -1, -1)


@dataclass(frozen=True)
class Anchors:
    """Latents near a few fixed ones, as many as there are targets: their pictures stand for the targets.

    Args:
        spread: standard deviation of what is added to an anchor in every step.

    Source: few-shot adaptation (arXiv 2104.06820) section 3.2; utkarshojha/few-shot-gan-adaptation train.py.
    """

    spread: float = 0.1
    needs: ClassVar[Needs] = Needs(target=True)
    fresh: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.spread, "the spread of anchors", low=0)

    def remixed(self, mixing: float) -> Anchors:
        """See `Origin.remixed`; anchors are never mixed, for each stands for a target."""
        return self

    def codes(self, request: CodeRequest) -> Latents:
        """See `Origin.codes`."""
        mapper, draws, purpose = request.mapper, request.draws, request.purpose
        if request.aim.targets is None:
            raise ValueError("anchors stand for target pictures, but none was given")
        count, width = len(request.aim.targets), mapper.config.z_dim
        anchors = draws.draws.normal(0, "anchors.z", (count, width))  # the same in every step
        chosen = draws.integers(f"{purpose}.anchor", count, (request.size,))
        z = anchors[chosen].to(mapper.const)
        moved = z + self.spread * draws.normal(f"{purpose}.spread", tuple(z.shape)).to(mapper.const)
        return mapper.map(moved)


@dataclass(frozen=True)
class Batch:
    """Pictures that a step draws.

    Args:
        latents: where the codes come from.
        size: number of pictures N.
        mapping: whose mapping network maps z: "source": the source's for both generators, without gradient;
            "own": that of the generator that draws.
        shared_mixing: source and adapted generator use the same crossover.
        shared_noise: and the same noise maps.
    """

    latents: Origin
    size: int = 1
    # Both have the same mapping while it is frozen; few-shot adaptation, which trains it, needs "own".
    mapping: str = "source"
    shared_mixing: bool = True  # Q1
    shared_noise: bool = True  # Q2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a batch must have at least 1 picture, got {self.size}")
        if self.mapping not in MAPPINGS:
            raise ValueError(f"mapping must be one of {', '.join(MAPPINGS)}, got {self.mapping!r}")

    @property
    def shared_codes(self) -> bool:
        """Whether source and adapted generator draw the very same codes."""
        # Then the codes are made once for both.
        return self.shared_mixing and self.mapping == "source"

    def codes(
        self, request: Callable[[Generator], CodeRequest], drawing: Generator, source: Generator
    ) -> Latents:
        """W+ codes [N, L, W] for one generator call.

        Args:
            request: makes the request for a mapper.
            drawing: the generator that is to draw them.
            source: the frozen generator.
        """
        # With gradient: here the mapping is trained.
        if self.mapping == "own" and drawing is not source:
            return self.latents.codes(request(drawing))
        # The mapping is not trained here, so its graph would serve nothing.
        with torch.no_grad():
            return self.latents.codes(request(source))
