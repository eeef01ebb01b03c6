"""What "auto" means on a device, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oneshot_core import precision
from oneshot_core.precision import check_precision, resolved
from oneshot_core.recipe import MethodRecipe, Recipe, TrainingRecipe

CPU = torch.device("cpu")


def pretend(monkeypatch, avx512: bool | None, amx: bool | None = None) -> None:
    for name, answer in (("_is_avx512_bf16_supported", avx512), ("_is_amx_tile_supported", amx)):
        if answer is None:
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)


@pytest.mark.parametrize(
    ("avx512", "amx", "wanted"),
    [
        (True, False, "bfloat16"),
        (False, True, "bfloat16"),
        (False, False, "float32"),
        (None, None, "float32"),
    ],
)
def test_a_cpu_gets_bfloat16_where_it_multiplies_that(monkeypatch, avx512, amx, wanted: str) -> None:
    pretend(monkeypatch, avx512, amx)
    assert resolved("auto", CPU) == wanted
    assert resolved("auto", CPU, as_published=True) == "float32"
    assert [resolved(name, CPU) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("capability", "wanted"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_a_gpu_gets_it_from_ampere_on(monkeypatch, capability: tuple[int, int], wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert resolved("auto", torch.device("cuda")) == wanted


def test_other_devices_get_float32() -> None:
    assert resolved("auto", torch.device("mps")) == "float32"
    with pytest.raises(ValueError, match="no bfloat16 forward passes on the device meta"):
        resolved("bfloat16", torch.device("meta"))
    with pytest.raises(ValueError, match="one of float32, bfloat16, got 'auto'"):
        check_precision("auto")


def test_a_recipe_knows_its_precision_once_the_device_is_known(monkeypatch) -> None:
    pretend(monkeypatch, True)
    recipe = Recipe()
    assert recipe.training.precision == "auto"
    assert recipe.precised(CPU).training.precision == "bfloat16"
    official = replace(recipe, method=MethodRecipe(profile="official"))
    assert official.precised(CPU).training.precision == "float32"
    wanted = replace(official, training=TrainingRecipe(precision="bfloat16"))
    assert wanted.precised(CPU).training.precision == "bfloat16"
    assert precision.PRECISIONS.keys() | {"auto"} == {"auto", "float32", "bfloat16"}
