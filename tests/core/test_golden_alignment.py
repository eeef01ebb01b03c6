"""Recorded alignments of encoder4editing, repeated through the public code: quads and aligned pictures."""

from __future__ import annotations

import ast
import operator
import os
from pathlib import Path

import golden_support as golden
import numpy as np
import pytest
from PIL import Image

from oneshot_core.alignment import align, ffhq_quad

FOLDER = Path(os.environ.get("ONESHOT_GOLDEN_EDITING") or Path(__file__).parents[1] / "golden_editing")
FOUND = [path for path in sorted(FOLDER.glob("*.json")) if "faces" in golden.describe(path)]
FACES = [(path, index) for path in FOUND for index in range(len(golden.describe(path)["faces"]))]
OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FACES, reason=f"no recorded alignment in {FOLDER}"),
]


def computed(node: ast.expr, names: dict[str, np.ndarray]) -> np.ndarray | float:
    """Value of a formula of x and y."""
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](computed(node.left, names), computed(node.right, names))
    if isinstance(node, ast.Call):
        return {"sin": np.sin, "cos": np.cos}[node.func.id](computed(node.args[0], names))
    return names[node.id] if isinstance(node, ast.Name) else float(node.value)


def drawn(formula: str, width: int, height: int) -> Image.Image:
    """The picture of a formula such as "x, y pixel indices; R = 9*sin(x), G = y, B = x; clip to ..."."""
    y, x = np.mgrid[:height, :width].astype(float)
    text = formula.split(";")[1]
    parts = [
        part.split("=", 1)[1].strip() for part in text.replace(", G", "\nG").replace(", B", "\nB").split("\n")
    ]
    values = [computed(ast.parse(part, mode="eval").body, {"x": x, "y": y}) for part in parts]
    return Image.fromarray(np.stack(values, axis=-1).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("path", "index"), FACES, ids=lambda value: getattr(value, "stem", str(value)))
def test_a_face_is_aligned_as_recorded(path, index):
    told, tensors = golden.describe(path)["faces"][index], golden.tensors_of(path)
    width, height = told["image_size_wh"]
    quad = ffhq_quad(tensors[f"in.landmarks.{index}"], width, height)
    recorded = tensors[f"out.quad.{index}"].numpy()
    np.testing.assert_allclose(quad.corners, recorded, atol=1e-9 * max(1, abs(recorded).max()), rtol=0)
    assert quad.side == pytest.approx(told["qsize"], rel=1e-9)
    checks, stored = told["aligned_checks"], tensors[f"out.aligned.{index}"].numpy().astype(int)
    out_px = round((checks["numel"] / 3) ** 0.5)
    picture = drawn(told["image_formula"], width, height)
    found = np.asarray(align(picture, quad, out_px, max(told["transform_size"]))).astype(int)
    every = -(-out_px // len(stored))
    assert abs(found[::every, ::every] - stored).max() <= 1
    assert abs(found.flatten()[checks["sample_index"]] - checks["sample"]).max() <= 1
    assert (found.mean(), found.std()) == pytest.approx((checks["mean"], checks["std"]), abs=0.1)
