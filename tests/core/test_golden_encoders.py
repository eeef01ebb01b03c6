"""IR-SE50 as e4e's encoder and as the identity net, against recordings of the original programs."""

from __future__ import annotations

import golden_editing_support as editing
import golden_support as golden
import pytest
import torch

from oneshot_core.features.identity import ArcFace, identity_distance
from oneshot_core.inversion.e4e import E4eEncoder

pytestmark = [pytest.mark.golden, pytest.mark.slow]  # 20 s: full networks in float64


@pytest.mark.parametrize("path", editing.cases("e4e_encoder"))
def test_e4e_gives_the_recorded_codes(path):
    told, tensors = editing.read(path)
    with torch.device("meta"):
        encoder = E4eEncoder(told["style_count"])
    assert {name: list(one.shape) for name, one in encoder.state_dict().items()} == told["shapes"]
    editing.filled(encoder, told["seed"], told["prefix"], editing.IRSE)
    editing.checked(told["weight_checks"], encoder)
    encoder.mean_latent = tensors["in.latent_avg"].double()
    picture = tensors["in.image_u8"][None].double() / 127.5 - 1
    encoder.double()
    codes = encoder(picture)
    expected = tensors["out.codes_with_latent_avg.f64"]
    assert float((codes - expected).abs().max()) < 1e-9
    offsets = codes - encoder.mean_latent
    for name, value in tensors.items():
        if name.startswith("out.encoder_w.stage"):  # heads above the stage left out
            stage = int(name.removeprefix("out.encoder_w.stage").split(".")[0])
            cut = torch.where(torch.arange(encoder.rows)[:, None] > stage, offsets[:, :1], offsets)
            assert float((cut - value).abs().max()) < 1e-9, name
    taps = told.get("taps", {})
    places = {int(tap.removeprefix("body")): tap for tap in taps if tap.startswith("body")}
    maps = dict(zip(sorted(places), encoder.maps(picture, places), strict=True))
    for place, tap in places.items():
        golden.assert_checks(maps[place], taps[tap], 1e-6, tap)
    single = encoder.float()(picture.float()) - encoder.mean_latent
    assert float((single - tensors["out.encoder_w.f32"]).abs().max()) < 1e-4


@pytest.mark.parametrize("path", editing.cases("latent_mapper_loss", "arcface"))
def test_the_identity_net_gives_the_recorded_features(path):
    told, tensors = editing.read(path)
    with torch.device("meta"):
        network = ArcFace()
    assert {name: list(one.shape) for name, one in network.state_dict().items()} == told["arcface_shapes"]
    editing.filled(network, told["seed"], told["arcface_prefix"], editing.IRSE)
    editing.checked(told["arcface_weight_checks"], network)
    network.double()
    found = {name: network(tensors[f"in.{name}"].double()) for name in ("x", "x_hat")}
    for name, features in found.items():
        assert float((features - tensors[f"out.arcface.{name}.f64"]).abs().max()) < 1e-9, name
    distance = float(identity_distance(found["x_hat"], found["x"]).mean())
    recorded = [case["loss_id"] for case in told["cases"].values() if "loss_id" in case]
    assert recorded and all(distance == pytest.approx(one, abs=1e-9) for one in recorded)


@pytest.mark.parametrize("path", editing.cases("clip_opt_wplus_id"))
def test_the_identity_of_an_edited_picture(path):
    told, tensors = editing.read(path)
    with torch.device("meta"):
        network = ArcFace()
    prefix = told.get("arcface_prefix", "arcface.")
    editing.filled(network, told["config"]["weight_seed"], prefix, editing.IRSE)
    editing.checked(told["weight_checks"]["arcface"], network)
    network.double()
    last, first = (network(tensors[f"out.img_{name}.f64"]) for name in ("last", "orig"))
    found = float(identity_distance(last, first).mean())
    assert found == pytest.approx(told["steps"][-1]["id_loss"], abs=1e-9)
