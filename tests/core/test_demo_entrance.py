"""The entrance measures tell good encoders from bad ones, and the table says which looks pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from oneshot_core.demo.making import entrance
from oneshot_core.demo.making.entrance import (
    Entrance,
    EntranceTest,
    LookResult,
    consistency,
    crop_share,
    own_share,
    table,
)
from oneshot_core.demo.world import demo_encoders
from oneshot_core.features import ClipEncoder
from oneshot_core.tensors import seeded


def unit(*shape: int, purpose: str = "features") -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=seeded(0, 0, purpose)), dim=-1)


def test_consistency_is_0_for_kept_similarities_and_1_for_collapse() -> None:
    source = unit(12, 8)
    turned = source @ torch.linalg.qr(torch.randn(8, 8, generator=seeded(0, 0, "turn")))[0]
    assert consistency(source, turned) == pytest.approx(0, abs=1e-9)
    assert consistency(source, source[:1].expand(12, -1)) == pytest.approx(1)
    disturbed = F.normalize(source + unit(12, 8, purpose="noise"), dim=1)
    assert 0.02 < consistency(source, disturbed) < 0.5


def test_own_share_counts_rows_that_find_themselves() -> None:
    rows = unit(10, 16)
    assert own_share(rows, rows) == 1.0
    assert own_share(rows, rows.roll(1, 0)) == 0.0
    swapped = rows.clone()
    swapped[[0, 1]] = rows[[1, 0]]
    assert own_share(swapped, rows) == pytest.approx(0.8)


def test_windows_that_look_alike_count_as_not_found() -> None:
    crops = unit(2, 4, 16)
    assert crop_share(crops, crops) == 1.0
    alike = crops.clone()
    alike[:, 1] = alike[:, 0]
    assert crop_share(alike, alike) == pytest.approx(0.5)
    assert crop_share(crops[:, :1].expand(-1, 4, -1), crops) == pytest.approx(0.25)


def result(consistency: float, person: float, crop: float) -> Entrance:
    looks = {look: LookResult(consistency, person, crop) for look in ("comic", "woodcut")}
    return Entrance(looks, {"skin": 0.6, "smile": 0.1}, 0.9)


def test_held_out_looks_have_lower_aims() -> None:
    between = result(0.18, 0.6, 0.35)
    assert not between.passes("comic") and between.passes("woodcut")
    assert result(0.1, 0.9, 0.5).passes("comic") and not result(0.1, 0.9, 0.2).passes("woodcut")
    assert between.read_well() == 1
    text = table({"mine": between})
    assert "| comic | 0.18 | 0.60 | 0.35 | – | no |" in text
    assert "| woodcut (held out) | 0.18 | 0.60 | 0.35 | – | yes |" in text
    assert "| mean, held out | 0.18 | 0.60 | 0.35 | – | 1 of 1 |" in text and "1 of 2 well enough" in text


@pytest.fixture(scope="module")
def small_test() -> EntranceTest:
    return EntranceTest(("watercolour", "blueprint"), people=16, readers=48)


@pytest.mark.slow
def test_the_shipped_clip_passes(small_test: EntranceTest) -> None:
    """In small: a look of its training and one that it has never seen; the whole table is in benchmarks."""
    found = small_test.run(demo_encoders().clip)
    seen, held_out = found.looks["watercolour"], found.looks["blueprint"]
    assert found.passes("watercolour") and found.passes("blueprint")
    assert seen.consistency < 0.1 and held_out.consistency < 0.2 and held_out.person > 0.8
    assert seen.sentence is not None and held_out.sentence is None and found.crop_ceiling > 0.8
    assert found.read_well() >= 8


class _Constant:
    """An encoder that sees nothing."""

    tokenizer = None

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(torch.ones(len(images), 4), dim=1)


def test_an_encoder_that_sees_nothing_fails_everywhere(small_test: EntranceTest) -> None:
    found = small_test.run(_Constant())
    assert not any(map(found.passes, found.looks)) and found.read_well() == 0
    assert found.crop_ceiling == 0 and all(row.crop == 0 for row in found.looks.values())


def test_the_report_is_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Test:
        def __init__(self, device: str) -> None:
            assert device == "cpu"

        def run(self, clip: ClipEncoder) -> Entrance:
            assert clip.name == "demo"
            return result(0.1, 0.9, 0.5)

    monkeypatch.setattr(entrance, "EntranceTest", Test)
    threads = torch.get_num_threads()
    entrance.main(["--report", "--out", str(tmp_path / "report.md"), "--threads", str(threads)])
    told = capsys.readouterr().out
    assert told == (tmp_path / "report.md").read_text(encoding="utf-8") and "### shipped" in told
    assert '"woodcut"' in (tmp_path / "report.json").read_text(encoding="utf-8")
