"""The geometry of a head-and-shoulders portrait: named values in, painted layers out.

Lengths are in half picture widths: x runs from -1 (left) to 1, y from -1 (top) to 1. Facial features live on
a ball: `u` is the way around it from the face's middle and `v` the height from the head's middle, so turning
the head moves and foreshortens them together. Everything is smooth in every value, so a network can learn it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .layers import UNITS, Layer, Portrait, distance, ease, flatten, hsv, mix, ramp, rgb

# fmt: off
_SKIN = ((0.99, 0.87, 0.79), (0.96, 0.79, 0.66), (0.86, 0.64, 0.48), (0.66, 0.45, 0.31), (0.44, 0.29, 0.21))
_EYES = ((0.30, 0.17, 0.09), (0.52, 0.36, 0.14), (0.24, 0.50, 0.24), (0.16, 0.42, 0.78))
_HAIR = (  # rows: dark, middle, light; columns: ash, neutral, red
    ((0.09, 0.09, 0.13), (0.17, 0.11, 0.09), (0.32, 0.11, 0.09)),
    ((0.40, 0.40, 0.43), (0.43, 0.27, 0.16), (0.66, 0.24, 0.10)),
    ((0.84, 0.84, 0.86), (0.93, 0.77, 0.46), (0.96, 0.56, 0.20)),
)
# fmt: on
HUE_SPAN = 0.9  # share of the hue circle that a hue factor covers, so that its ends differ
_ZOOM = 1.17  # how much bigger the person is drawn than the lengths below say


@dataclass(frozen=True)
class _Scene:
    """What the parts of one batch of portraits share; fields [N, 1, H, W], values [N, 1, 1, 1]."""

    values: Mapping[str, Tensor]
    column: Tensor  # picture coordinates in units
    row: Tensor
    x: Tensor  # coordinates of the person, about -0.85 to 0.85
    y: Tensor
    head_x: Tensor  # coordinates of the tilted head, origin in its middle
    head_y: Tensor
    u: Tensor  # face coordinates on the turned ball
    v: Tensor
    side: Tensor  # sign of u, smooth around the middle
    yaw: Tensor  # -1 (towards the left edge) to 1
    half_width: Tensor  # of the head
    head: Tensor  # implicit head, negative inside, roughly a distance
    skull: Tensor  # implicit outer edge of the hair, negative inside
    hair_colour: Tensor  # [N, 3, 1, 1]
    skin_colour: Tensor
    light_x: Tensor

    def lit(self, slope_x: Tensor, slope_y: Tensor, contrast: float = 0.5) -> Tensor:
        """Return the light on a surface that faces (slope_x, slope_y), each -1 to 1."""
        toward = (1 - slope_x.square() - slope_y.square()).clamp_min(0.03).sqrt()
        facing = 0.72 * self.light_x * slope_x - 0.42 * slope_y + 0.66 * toward
        return 0.62 + contrast * facing.clamp_min(-0.3)

    def eye_middle(self) -> Tensor:
        """Return the distance of the eyes from the face's middle line."""
        return 0.128 + 0.05 * self.values["eye_spacing"]

    def mouth_height(self) -> Tensor:
        """Return where the mouth is."""
        return 0.262 + 0.03 * self.values["nose_length"]

    def nose_height(self) -> Tensor:
        """Return where the nose ends."""
        return 0.115 + 0.075 * self.values["nose_length"]


def paint(values: Mapping[str, Tensor], size_px: int) -> Portrait:
    """Paint portraits.

    Args:
        values: every factor by name, [N, 1, 1, 1] in [0, 1]; of the switch-like ones ("glasses", "beard",
            "hat") also how far they are there at all, as "glasses_shown" and so on, and "..._kind" in [0, 1].
        size_px: width and height, pixels.

    Returns:
        The layers and what they show together.
    """
    scene = _scene(values, size_px)
    parts = (_background, _clothes, _back_hair, _neck, _ears, _face, _eyes, _mouth, _beard, _brows)
    tops = (_nose, _front_hair, _glasses, _hat)
    layers = [layer for part in parts + tops for layer in part(scene)]
    return flatten(layers, scene.column, scene.row)


def _scene(values: Mapping[str, Tensor], size_px: int) -> _Scene:
    """Lay out the coordinates and the shapes that several parts need."""
    like = values["yaw"]
    ticks = (torch.arange(size_px, device=like.device, dtype=like.dtype) + 0.5) / size_px
    column, row = ticks.view(1, 1, 1, -1), ticks.view(1, 1, -1, 1)
    x, y = (column * 2 - 1) / _ZOOM, (row * 2 - 0.98) / _ZOOM
    yaw = values["yaw"] * 2 - 1
    angle = (values["tilt"] - 0.5) * 0.5
    cosine, sine = angle.cos(), angle.sin()
    below = y - 0.5  # the head tilts around the neck
    head_x = cosine * x + sine * below
    head_y = cosine * below - sine * x + 0.52
    half_width = 0.315 + 0.065 * values["face_width"]
    ball = 1.15 * half_width
    u = ball * ((head_x / ball).clamp(-0.96, 0.96).asin() - 0.46 * yaw)
    return _Scene(
        values=values,
        column=column * UNITS,
        row=row * UNITS,
        x=x,
        y=y,
        head_x=head_x,
        head_y=head_y,
        u=u,
        v=head_y,
        side=(u / 0.02).tanh(),
        yaw=yaw,
        half_width=half_width,
        head=_head_shape(values, head_x, head_y, yaw, half_width),
        skull=_skull_shape(values, head_x, head_y, yaw, half_width),
        hair_colour=_hair_colour(values),
        skin_colour=ramp(_SKIN, values["skin"]),
        light_x=values["light"] * 2 - 1,
    )


def _hair_colour(values: Mapping[str, Tensor]) -> Tensor:
    """Look the hair's colour up between its nine corners, [N, 3, 1, 1]."""
    rows = torch.stack([ramp(row, values["hair_warmth"]) for row in _HAIR])
    level = values["hair_tone"] * (len(_HAIR) - 1)
    shares = torch.stack([(1 - (level - index).abs()).clamp_min(0) for index in range(len(_HAIR))])
    return (rows * shares).sum(0)


def _head_shape(values: Mapping[str, Tensor], x: Tensor, y: Tensor, yaw: Tensor, half: Tensor) -> Tensor:
    """Return the implicit head: round above, from pointed to square below."""
    down = y.clamp_min(0.0)
    jaw = values["jaw"]
    x = x - 0.085 * yaw * ease(y, -0.2, 0.4)
    x = x * (1 + (0.62 - 0.52 * jaw) * down * (down / 0.4))
    power = 2 + (0.15 + 1.1 * jaw) * ease(y, -0.05, 0.3)
    across = (x.abs() / half).clamp_min(1e-4)
    along = (y.abs() / torch.where(y < 0, 0.46, 0.44)).clamp_min(1e-4)
    return half * ((across.pow(power) + along.pow(power)).pow(1 / power) - 1)


def _skull_shape(values: Mapping[str, Tensor], x: Tensor, y: Tensor, yaw: Tensor, half: Tensor) -> Tensor:
    """Return the implicit outer edge of the hair down to where its length ends."""
    there = ease(values["hair_length"], 0.05, 0.13)
    volume, curl = values["hair_volume"], ease(values["hair_curl"], 0.3, 0.9)
    squash = 1 - 0.75 * values["hat_shown"]
    x = x + 0.05 * yaw
    reach = 0.02 * (1 - there)
    wide = half - reach + there * (0.035 + 0.15 * volume)
    high = 0.46 - reach + there * (0.035 + 0.13 * volume * squash)
    long = 0.05 + there * (0.17 * volume + 1.05 * ease(values["hair_length"], 0.3, 1.0))
    bumps = 1 - there * curl * 0.05 * (13 * torch.atan2(y, x + 1e-6)).cos() * ease(y, 0.5, 0.0)
    x = x + there * curl * 0.035 * (y * 22).sin() * ease(y, 0.0, 0.3)
    power = 2 + 1.2 * ease(y, 0.0, 0.4)
    across = (x.abs() / (wide * bumps)).clamp_min(1e-4)
    along = (y.abs() / torch.where(y < 0, high * bumps, long)).clamp_min(1e-4)
    return half * ((across.pow(power) + along.pow(power)).pow(1 / power) - 1)


def _layer(region: str, field: Tensor, colour: Tensor, light: Tensor, line: float = 1.0) -> Layer:
    """Make an opaque layer from an implicit shape."""
    return _cut(region, (field,), colour, light, line)


def _cut(region: str, fields: Sequence[Tensor], colour: Tensor, light: Tensor, line: float = 1.0) -> Layer:
    """Make an opaque layer from what lies inside several implicit shapes at once.

    Each gets its own slope: the largest of the fields would mix slopes along its creases.
    """
    inside = distance(fields[0])
    for field in fields[1:]:
        inside = torch.maximum(inside, distance(field))
    return Layer(region, inside, colour, light, torch.ones_like(light[:1, :, :1, :1]), line)


def _faded(layer: Layer, opacity: Tensor) -> Layer:
    """Give a layer an opacity."""
    return replace(layer, opacity=opacity)


def _solid(region: str, field: Tensor, colour: Tensor, light: Tensor) -> Layer:
    """Make a layer that is a stroke by itself."""
    return replace(_layer(region, field, colour, light), solid=True)


def _background(scene: _Scene) -> list[Layer]:
    """Paint a soft gradient, brighter towards the light."""
    hue = scene.values["background"] * HUE_SPAN
    toward = 0.5 + 0.28 * scene.light_x * scene.x - 0.22 * scene.y
    glow = (-((scene.x - 0.25 * scene.light_x).square() + (scene.y + 0.15).square()) / 0.55).exp()
    colour = mix(hsv(hue + 0.04, 0.52, 0.55), hsv(hue, 0.26, 0.93), (0.65 * toward + 0.4 * glow).clamp(0, 1))
    everywhere = torch.full_like(scene.head, -12.0)
    one = torch.ones_like(scene.head[:1, :, :1, :1])
    return [Layer("background", everywhere, colour, one, one, 0.0)]


def _clothes(scene: _Scene) -> list[Layer]:
    """Paint shoulders."""
    hue = scene.values["clothes"] * HUE_SPAN
    x = scene.x - 0.04 * scene.yaw
    wide = 0.74 + 0.12 * scene.values["jaw"]
    field = 0.60 + 0.30 * (x.abs() / wide).clamp_min(1e-4).pow(2.8) - scene.y
    light = scene.lit((x / 0.95).clamp(-0.9, 0.9), ((scene.y - 0.98) / 0.6).clamp(-0.75, 0.2), 0.46)
    return [_layer("clothes", field, hsv(hue, 0.58, 0.78), light)]


def _back_hair(scene: _Scene) -> list[Layer]:
    """Paint the hair that falls behind the face."""
    light = _hair_light(scene) * (1 - 0.38 * ease(scene.head, 0.10, -0.06) * ease(scene.v, 0.0, 0.3))
    return [_layer("hair", scene.skull, scene.hair_colour, light)]


def _hair_light(scene: _Scene) -> Tensor:
    """Light hair as a ball with a gloss and a few broad locks."""
    x = (scene.head_x + 0.05 * scene.yaw) / (scene.half_width + 0.12)
    light = scene.lit((x * 0.8).clamp(-0.85, 0.85), (scene.v / 0.65).clamp(-0.7, 0.5), 0.5)
    gloss = (-((scene.v + 0.37 - 0.35 * scene.head_x.square()) / 0.06).square()).exp()
    locks = (scene.head_x / (0.07 + 0.10 * (scene.v + 0.6).clamp(0.05, 0.9))).cos()
    return light + 0.17 * gloss * (0.5 + 0.5 * light) + 0.045 * locks


def _neck(scene: _Scene) -> list[Layer]:
    """Paint collar and neck, shaded by the chin."""
    lean = scene.x - 0.5 * (scene.values["tilt"] - 0.5) * (0.62 - scene.y).clamp(0, 0.5)
    half = 0.135 + 0.035 * scene.values["jaw"]
    low = (scene.y - 0.58).clamp_min(0.0) * 1.15
    field = (lean.square() + low.square()).sqrt() - half
    field = torch.maximum(field, 0.2 - scene.y)
    shadow = 1 - 0.36 * ease(scene.head, 0.16, -0.02)
    light = scene.lit((lean / half * 0.75).clamp(-0.9, 0.9), torch.zeros_like(lean)) * shadow
    hue = scene.values["clothes"] * HUE_SPAN
    collar = torch.maximum(field - 0.05, 0.60 - scene.y)
    return [
        _layer("collar", collar, hsv(hue + 0.05, 0.42, 0.93), scene.lit(lean, torch.zeros_like(lean))),
        _layer("skin", field, scene.skin_colour * rgb(lean, 0.97, 0.93, 0.91), light),
    ]


def _ears(scene: _Scene) -> list[Layer]:
    """Paint ears; the far one hides behind the turned head."""
    x = (scene.head_x + 0.075 * scene.yaw).abs() - scene.half_width * 0.99
    field = ((x / 0.055).square() + ((scene.v - 0.045) / 0.092).square() + 1e-6).sqrt() - 1
    light = scene.lit(scene.head_x.clamp(-0.6, 0.6), torch.zeros_like(x)) * 0.93
    return [_layer("skin", field, scene.skin_colour * rgb(x, 0.98, 0.90, 0.88), light)]


def _face(scene: _Scene) -> list[Layer]:
    """Paint the head with its soft shades: eye sockets, nose, cheeks."""
    slope_x = (scene.head_x / scene.half_width * 0.80).clamp(-0.88, 0.88)
    light = scene.lit(slope_x, (scene.v / 0.46 * 0.55).clamp(-0.6, 0.6), 0.52)
    u, v, lift = scene.u - 0.05 * scene.yaw, scene.v, scene.light_x
    along_nose = ease(v, -0.10, 0.05) * ease(v, scene.nose_height() + 0.05, scene.nose_height() - 0.03)
    flank = (-((u + 0.055 * lift) / 0.032).square()).exp() * lift.abs().clamp_min(0.35)
    ridge = (-((u - 0.012 * lift) / 0.020).square()).exp()
    sockets = _bump(scene.u.abs() - scene.eye_middle(), v + 0.035, 0.085, 0.055)
    under_lip = _bump(scene.u, v - scene.mouth_height() - 0.075, 0.07, 0.022)
    light = light * (1 + (0.07 * ridge - 0.16 * flank) * along_nose) * (1 - 0.13 * sockets - 0.10 * under_lip)
    cheeks = _bump(scene.u.abs() - 0.19, v - 0.16, 0.085, 0.065)
    blush = scene.skin_colour * rgb(u, 1.0, 0.80, 0.78)
    colour = mix(scene.skin_colour, blush, 0.62 * cheeks)
    under_hair = ease(scene.v - _hairline(scene), 0.11, -0.02) * ease(scene.values["hair_length"], 0.05, 0.13)
    return [_layer("skin", scene.head, colour, light * (1 - 0.20 * under_hair))]


def _bump(x: Tensor, y: Tensor, wide: float, high: float) -> Tensor:
    """Return a soft blob, 1 in its middle."""
    return (-(x / wide).square() - (y / high).square()).exp()


def _eyes(scene: _Scene) -> list[Layer]:
    """Paint lashes, whites, irises, pupils and glints, both eyes at once."""
    size = scene.values["eye_size"]
    wide, high = 0.072 + 0.026 * size, 0.037 + 0.026 * size
    x, y = scene.u.abs() - scene.eye_middle(), scene.v - 0.01
    squint = 1 - 0.22 * ease(scene.values["smile"], 0.5, 1.0)
    high = high * torch.where(y > 0, squint, 1.0)
    white = ((x / wide).square() + (y / high).square() + 1e-6).sqrt() - 1
    lash_y = y + 0.014
    lash = ((x / (wide + 0.016)).square() + (lash_y / (high + 0.010)).square() + 1e-6).sqrt() - 1
    gaze = x - scene.side * (-0.018 * scene.yaw)
    radius = 0.040 + 0.013 * size
    ring = (gaze.square() + (y + 0.004).square() + 1e-6).sqrt()
    inside = white * 0.06
    light = scene.lit(scene.head_x, torch.zeros_like(x)).clamp_min(0.8)
    glint_x = scene.u - scene.side * scene.eye_middle() - 0.014 * scene.light_x
    glint = (glint_x.square() + (y + 0.017).square() + 1e-6).sqrt() - 0.0135
    iris = ramp(_EYES, scene.values["eye_colour"])
    shade = iris * (0.75 + 0.5 * ease(y, -0.03, 0.04))
    return [
        _layer("lash", lash, mix(scene.hair_colour, rgb(x, 0.12, 0.08, 0.07), 0.75), light, 0.0),
        _layer("eye", white, rgb(x, 0.97, 0.96, 0.95), light * (1 - 0.25 * ease(y, 0.0, -0.06)), 0.7),
        _layer("iris", torch.maximum(ring - radius, inside), shade, light, 0.4),
        _solid("pupil", torch.maximum(ring - radius * 0.54, inside), rgb(x, 0.05, 0.04, 0.05), light),
        _layer("eye", torch.maximum(glint, inside), rgb(x, 1.0, 1.0, 1.0), torch.ones_like(light), 0.0),
    ]


@dataclass(frozen=True)
class _Mouth:
    """The shape of the mouth: a bent line with lips and an opening around it."""

    wide: Tensor  # half width
    y: Tensor  # height below the bent line
    belly: Tensor  # 1 in the middle, 0 at the corners, negative outside
    gap: Tensor  # how far a smile opens it

    def lips(self) -> tuple[Tensor, Tensor]:
        """Return two implicit shapes; the lips lie inside both."""
        return -self.y - (0.026 + 0.3 * self.gap) * self.belly, self.y - (0.036 + self.gap) * self.belly

    def opening(self) -> tuple[Tensor, Tensor]:
        """Return two implicit shapes; the opening lies inside both."""
        return 0.005 - self.y - 0.3 * self.gap * self.belly, 0.005 + self.y - self.gap * self.belly


def _mouth_shape(scene: _Scene) -> _Mouth:
    """Bend and open the mouth with the smile."""
    smile = scene.values["smile"]
    wide = 0.085 + 0.060 * scene.values["mouth_width"]
    across = (scene.u / wide).square()
    bend = -0.022 + 0.097 * smile
    y = scene.v - scene.mouth_height() - 0.45 * bend + bend * across.clamp_max(2.5)
    return _Mouth(wide, y, 1 - across.clamp_max(3.0), 0.044 * ease(smile, 0.55, 0.85))


def _mouth(scene: _Scene) -> list[Layer]:
    """Paint lips, the line between them, and teeth when the smile opens."""
    mouth = _mouth_shape(scene)
    past = (scene.u.abs() - mouth.wide * 0.92).clamp_min(0.0)
    closed = (mouth.y.square() + past.square() + 1e-6).sqrt() - 0.010
    light = scene.lit(scene.head_x, torch.zeros_like(closed))
    red = mix(scene.skin_colour, rgb(closed, 0.74, 0.20, 0.24), 0.52)
    teeth = _cut("eye", mouth.opening(), rgb(closed, 0.97, 0.95, 0.92), light.clamp_min(0.85), 0.35)
    return [
        _cut("lips", mouth.lips(), red, light * (1 - 0.14 * ease(mouth.y, 0.01, -0.02)), 0.35),
        _solid("mouth", closed, scene.skin_colour * rgb(closed, 0.42, 0.24, 0.24), light),
        _faded(teeth, ease(mouth.gap, 0.004, 0.012)),
    ]


def _beard(scene: _Scene) -> list[Layer]:
    """Paint a beard that grows up from the chin; the lips stay free."""
    shown, full = scene.values["beard_shown"], scene.values["beard_kind"]
    across = (scene.u.abs() / scene.half_width).clamp_max(1.2)
    top = scene.nose_height() + 0.035 + 0.09 * ease(across, 0.15, 0.5) - 0.30 * ease(across, 0.55, 1.05)
    edge = top + (1 - shown) * 0.42 - scene.v
    grown = scene.head - (0.012 + 0.10 * full * ease(scene.v, 0.15, 0.45)) * shown
    lips = torch.maximum(*_mouth_shape(scene).lips())
    fields = (grown, edge, 0.006 - lips)
    slope = (scene.head_x / scene.half_width * 0.7).clamp(-0.85, 0.85)
    light = scene.lit(slope, (scene.v / 0.5).clamp(-0.5, 0.8), 0.48) * 0.95
    colour = scene.hair_colour * 0.88
    return [_faded(_cut("beard", fields, colour, light), ease(shown, 0.0, 0.3))]


def _brows(scene: _Scene) -> list[Layer]:
    """Paint eyebrows."""
    thick = 0.013 + 0.019 * scene.values["brow_thickness"]
    tilt = (scene.values["brow_tilt"] - 0.5) * 0.6
    x = scene.u.abs() - scene.eye_middle() - 0.008
    height = -0.105 - 0.030 * scene.values["eye_size"]
    y = scene.v - height + tilt * x - 1.5 * (x.square() - 0.003)
    past = (x.abs() - 0.075).clamp_min(0.0)
    field = (y.square() + past.square() + 1e-6).sqrt() - thick * (1 - 4.0 * x.clamp(-0.05, 0.1))
    colour = mix(scene.hair_colour * 0.8, rgb(x, 0.20, 0.13, 0.10), 0.45)
    return [_solid("brow", field, colour, scene.lit(scene.head_x, torch.zeros_like(x)))]


def _nose(scene: _Scene) -> list[Layer]:
    """Paint the shade under the nose, drawn as a stroke by looks with outlines."""
    u, y = scene.u - 0.05 * scene.yaw, scene.v - scene.nose_height()
    arc = y - 0.012 + 7.0 * u.square()
    past = (u.abs() - 0.042).clamp_min(0.0)
    field = (arc.square() + past.square() + 1e-6).sqrt() - 0.0135
    light = scene.lit(scene.head_x, torch.zeros_like(u))
    return [_solid("nose", field, scene.skin_colour * rgb(u, 0.80, 0.64, 0.60), light)]


def _hairline(scene: _Scene) -> Tensor:
    """Return the height of the hair's lower edge around the face."""
    values = scene.values
    there = ease(values["hair_length"], 0.05, 0.13)
    fringe = values["fringe"]
    across = scene.u / scene.half_width
    middle = -0.33 + 0.19 * ease(fringe, 0.35, 1.0)
    swept = 0.34 * fringe * (1 - fringe) * across * ease(across.abs(), 1.3, 0.6)
    sides = 0.04 + 1.1 * ease(values["hair_length"], 0.32, 0.85)
    edge = ease(across.abs(), 0.55, 1.25)
    wave = 0.02 * ease(values["hair_curl"], 0.4, 1.0) * (scene.u * 34).cos()
    return middle + swept + (sides - middle) * edge + wave - (1 - there) * 0.35


def _front_hair(scene: _Scene) -> list[Layer]:
    """Paint the hair over forehead and temples."""
    edge = scene.v - _hairline(scene)
    there = ease(scene.values["hair_length"], 0.05, 0.13)
    light = _hair_light(scene) * (1 - 0.12 * ease(edge, -0.08, 0.0))
    layer = _cut("hair", (scene.skull, edge), scene.hair_colour, light)
    return [_faded(layer, ease(there, 0.0, 0.4))]


def _glasses(scene: _Scene) -> list[Layer]:
    """Paint glasses, from round to square, with thin temples."""
    shown, kind = scene.values["glasses_shown"], scene.values["glasses_kind"]
    x, y = scene.u.abs() - scene.eye_middle() - 0.004, scene.v - 0.02
    power = 2 + 3 * kind
    wide, high = 0.112, 0.105 - 0.018 * kind
    round_x, round_y = (x.abs() / wide).clamp_min(1e-4), (y.abs() / high).clamp_min(1e-4)
    lens = wide * ((round_x.pow(power) + round_y.pow(power)).pow(1 / power) - 1)
    rim = lens.abs() - 0.016 * shown
    bridge = torch.maximum((y + 0.025).abs() - 0.014 * shown, x + wide)
    temple = torch.maximum((y + 0.03).abs() - 0.014 * shown, torch.maximum(wide - x, scene.head))
    frame = torch.minimum(rim, torch.minimum(bridge, temple))
    colour = hsv(0.55 + 0.5 * kind, 0.45, 0.26)
    light = torch.ones_like(lens)
    glass = rgb(x, 0.86, 0.93, 1.0)
    return [
        _faded(_layer("lens", lens, glass, light, 0.0), 0.17 * shown),
        _faded(_solid("glasses", frame, colour, light), ease(shown, 0.0, 0.5)),
    ]


def _hat(scene: _Scene) -> list[Layer]:
    """Paint a hat that slides down from above: a cap that grows a brim."""
    shown, kind = scene.values["hat_shown"], scene.values["hat_kind"]
    x = scene.head_x + 0.02 * scene.yaw
    line = -0.23 - (1 - shown) * 0.62
    top = 0.55 + 0.10 * kind
    body = (
        (x.abs() / (scene.half_width + 0.075)).clamp_min(1e-4).pow(2.3 + 0.5 * kind)
        + ((scene.v - 0.02).abs() / top).clamp_min(1e-4).pow(2.3 + 0.5 * kind)
    ) - 1
    under = scene.v - line - 0.22 * x.square()
    crown = torch.maximum(body * 0.3, under)
    band = torch.maximum(body * 0.3 - 0.012, torch.maximum(under, -under - 0.12))
    brim_wide = scene.half_width + 0.08 + 0.26 * ease(kind, 0.35, 0.75)
    brim = ((x / brim_wide).square() + (under / 0.055).square() + 1e-6).sqrt() - 1
    hue = scene.values["clothes"] * HUE_SPAN + 0.38
    light = scene.lit((x / 0.5).clamp(-0.85, 0.85), ((scene.v + 0.3) / 0.5).clamp(-0.7, 0.3), 0.5)
    opacity = ease(shown, 0.0, 0.25)
    brimmed = opacity * ease(kind, 0.30, 0.45)
    return [
        _faded(_layer("hat", crown, hsv(hue, 0.55, 0.70), light), opacity),
        _faded(_layer("band", band, hsv(hue, 0.62, 0.52), light), opacity),
        _faded(_layer("hat", brim, hsv(hue, 0.55, 0.66), light * 0.95), brimmed),
    ]
