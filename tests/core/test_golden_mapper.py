"""Recorded numbers of StyleCLIP's latent mapper: its networks, its loss and its optimiser.

Fixtures are found by their JSON, see `golden_editing_support`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import golden_support as golden
import pytest
import torch
from golden_clip import recorded_clip
from golden_editing_support import IRSE, cases, checked, filled, read
from torch import Tensor

from oneshot_core.editing.goal import TextGoal
from oneshot_core.editing.mapper import (
    STEP,
    LatentMapper,
    MapperNet,
    levels_groups,
    mapped,
    single_groups,
    style_groups,
)
from oneshot_core.editing.mapper_config import MapperLoss
from oneshot_core.editing.ranger import Ranger, RangerPlan
from oneshot_core.features.identity import ArcFace

pytestmark = pytest.mark.golden
VALUE, GRADIENT, RANGER = 1e-9, 1e-7, 1e-6  # README of the recordings, section 9
MAPPER = ((r".*\.weight", 100.0, 0.0), (r".*\.bias", 10.0, 0.0))


def network(case: dict[str, Any], tensors: dict[str, Tensor], name: str, seed: int) -> MapperNet:
    """The network of a case, with the formula's weights, in float64."""
    if case["cls"] == "WithoutToRGBStyleSpaceMapper":
        net = MapperNet("style", case["dims"], style_groups(len(case["dims"])))
    else:
        width, slots = tensors[f"{name}.in.x"].shape[2], case["rows"]
        options = case["options"]
        on = {one: not options.get(f"no_{one}_mapper", False) for one in ("coarse", "medium", "fine")}
        groups = single_groups(slots) if case["cls"] == "SingleMapper" else levels_groups(slots, **on)
        net = MapperNet("w+", (width,) * slots, groups)
    golden.fill_with_formula(net, case["prefix"], seed, MAPPER)
    golden.check_weights(net.state_dict(), case.get("weight_checks", {}))
    return net.double()


def parts(case: dict[str, Any], tensors: dict[str, Tensor], name: str, what: str) -> tuple[Tensor, ...]:
    """A tensor by slot or style."""
    if "dims" in case:
        key = next(key for key in tensors if key.startswith(f"{name}.{what}") and "concatenated" in key)
        return tensors[key].double().split(case["dims"], dim=1)
    return tensors[f"{name}.{what}"].double().unbind(dim=1)


def joined(changes: dict[int, Tensor], like: tuple[Tensor, ...], case: dict[str, Any]) -> Tensor:
    """All changes as recorded; what has none gives 0."""
    whole = [changes.get(key, torch.zeros_like(part)) for key, part in enumerate(like)]
    return torch.cat(whole, dim=1) if "dims" in case else torch.stack(whole, dim=1)


def is_loss(case: Any) -> bool:
    (path,) = case.values
    return path is not None and "clip_config" in golden.describe(path)


@pytest.mark.slow  # 3 s: 512 channels in float64
@pytest.mark.parametrize("path", [case for case in cases("latent_mapper") if not is_loss(case)])
def test_a_mapper_gives_the_recorded_changes(path: Path) -> None:
    told, tensors = read(path)
    for name, case in told["cases"].items():
        net = network(case, tensors, name, told["seed"])
        x = tuple(part.requires_grad_() for part in parts(case, tensors, name, "in.x"))
        y = joined(net(x), x, case)
        recorded = joined(dict(enumerate(parts(case, tensors, name, "out.y.f64"))), x, case)
        torch.testing.assert_close(y, recorded, atol=VALUE, rtol=0)
        if (edited := tensors.get(f"{name}.out.w_hat.f64")) is not None:
            added = joined(mapped(LatentMapper(net, STEP), x), x, case)
            torch.testing.assert_close(torch.stack(x, dim=1) + added, edited, atol=VALUE, rtol=0)
        if f"{name}.in.R" not in tensors:
            continue
        total = (y * tensors[f"{name}.in.R"]).sum()
        weights = dict(net.named_parameters())
        found = torch.autograd.grad(total, [*x, *weights.values()], allow_unused=True)
        gradient = torch.stack(
            [torch.zeros_like(x[0]) if one is None else one for one in found[: len(x)]], dim=1
        )
        close(gradient, tensors.get(f"{name}.out.xgrad.f64"), "x")
        for key, one in zip(weights, found[len(x) :], strict=True):
            golden.assert_checks(one, case["gradcheck"][key], GRADIENT, key)
            corner = golden.recorded_part(tensors, f"{name}.out.grad.{key}.f64")
            if corner is not None:
                close(golden.part(one, corner[1]), corner[0], key)


def close(mine: Tensor, recorded: Tensor | None, what: str) -> None:
    if recorded is not None:
        most = GRADIENT * float(recorded.abs().max())
        torch.testing.assert_close(mine, recorded, atol=most, rtol=0, msg=lambda text: f"{what}: {text}")


def styles_of(text: str, values: Tensor) -> list[Tensor]:
    """Slices such as "[:, 0, :100], [:, 1, :37] of in.w": tensors [N, C]."""
    found = re.findall(r"\[:, (\d+), :(\d+)\]", text)
    assert found
    return [values[:, int(row), : int(end)] for row, end in found]


@pytest.mark.slow  # 10 s: the face recogniser in float64
@pytest.mark.parametrize("path", [case for case in cases("latent_mapper") if is_loss(case)])
def test_the_loss_of_a_mapper(path: Path) -> None:
    told, tensors = read(path)
    clip = recorded_clip(told, told["clip_weight_checks"])
    identity = None
    if any(case.get("id_lambda") for case in told["cases"].values()):
        identity = filled(ArcFace().double(), told["seed"], told["arcface_prefix"], IRSE).double()
        checked(told["arcface_weight_checks"], identity)
        for name in ("x", "x_hat"):
            if (recorded := tensors.get(f"out.arcface.{name}.f64")) is not None:
                mine = identity(tensors[f"in.{name}"].double())
                torch.testing.assert_close(mine, recorded, atol=VALUE, rtol=0)
    goal = TextGoal.of(clip, told["text"], preprocessing="legacy")
    for name, case in told["cases"].items():
        weights = {
            "clip": case.get("clip_lambda", 0), "identity": case.get("id_lambda", 0),
            "deviation": case["latent_l2_lambda"],
        }  # fmt: skip
        x_hat, w_hat = (tensors[f"in.{one}"].double().requires_grad_() for one in ("x_hat", "w_hat"))
        change = w_hat - tensors["in.w"].double()
        changes = styles_of(case["styles"], change) if "styles" in case else [change]
        total, terms = MapperLoss(goal, weights, identity)(x_hat, tensors["in.x"].double(), changes)
        assert total.item() == pytest.approx(case["loss"], abs=VALUE)
        known = {"clip": "loss_clip", "identity": "loss_id", "deviation": "loss_l2_latent"}
        assert set(terms) == {term for term in known if weights[term]}
        for term, value in terms.items():
            assert value.item() == pytest.approx(case[known[term]], abs=VALUE), (name, term)
        for one, value in (("w_hat", w_hat), ("x_hat", x_hat)):
            if (recorded := tensors.get(f"out.{name}.grad.{one}.f64")) is not None:
                close(torch.autograd.grad(total, value, retain_graph=True)[0], recorded, f"{name} {one}")


@pytest.mark.parametrize("path", cases("ranger"))
def test_ranger_takes_the_recorded_steps(path: Path) -> None:
    told, tensors = read(path)
    defaults = told["defaults"]
    assert not defaults["weight_decay"] and not defaults["step_counter"]
    plan = RangerPlan(
        told["lr"], tuple(defaults["betas"]), defaults["eps"], defaults["N_sma_threshhold"],
        defaults["k"], defaults["alpha"],
    )  # fmt: skip
    numbers = sorted(int(key[4:]) for key in tensors if re.fullmatch(r"in\.p\d+", key))
    assert numbers
    # The recorded start holds the values after the last step.
    start = [
        torch.from_numpy(
            golden.formula_draw(f"ranger/p{number}", tensors[f"in.p{number}"].shape, told["seed"]).astype(
                "float32"
            )
        )
        for number in numbers
    ]
    own = [torch.nn.Parameter(one) for one in start]
    optimiser = Ranger(own, plan)
    for step in range(told["steps"]):
        for number, parameter in zip(numbers, own, strict=True):
            parameter.grad = tensors[f"in.grad{number}.{step}"].clone()
        optimiser.step()
        for number, parameter in zip(numbers, own, strict=True):
            recorded = tensors[f"out.p{number}.{step}.f32"]
            torch.testing.assert_close(parameter.detach(), recorded, atol=RANGER, rtol=0)


def test_the_defaults_are_the_published_ones() -> None:
    for case in cases("ranger"):
        (path,) = case.values
        if path is None:
            pytest.skip("no recording")
        defaults, plan = read(path)[0]["defaults"], RangerPlan()
        assert plan.betas == tuple(defaults["betas"]) and plan.epsilon == defaults["eps"]
        assert (plan.threshold, plan.every_steps) == (defaults["N_sma_threshhold"], defaults["k"])
        assert plan.follow == defaults["alpha"]
