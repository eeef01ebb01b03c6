"""Odd values on every input of every node: refused by the input's name; fingerprints that name no folder."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from comfy_pack import needs_comfy, printed

SCRIPT = Path(__file__).parent / "refuse_values.py"


told = partial(printed, SCRIPT)


@needs_comfy()
def test_odd_values_are_refused_by_the_name_of_the_input() -> None:
    cases = told()["cases"]
    assert len(cases) > 1000
    wrong = {
        case: answer
        for case, answer in cases.items()
        if answer[1] != "ValueError" or case.split("/")[1] not in answer[2] or "\n" in answer[2]
    }
    assert wrong == {}


@needs_comfy()
def test_a_refusal_says_where_the_right_value_comes_from() -> None:
    cases = told()["cases"]
    assert cases["OneShotAdapt/generator/a float"][2] == (
        "generator must come from Load StyleGAN2, One-Shot Adapt, Blend Generators or Apply Look, found the "
        "number 1.5"
    )
    assert cases["SampleAdapted/adapted/another pack's dict"][2].endswith("found a dict")
    assert (
        "of another version of this pack; restart ComfyUI"
        in cases["SampleAdapted/adapted/an old generator"][2]
    )
    assert "not finite" in cases["CLIPLatentSearch/target/NaN in it"][2]
    assert "mask must be a mask" in cases["OneShotAdapt/mask/bytes in a mask"][2]
    assert cases["StyleCLIPEdit/method/a float"][2].startswith("method must be one of text direction")


@needs_comfy()
def test_values_of_the_engines_second_copy_are_taken() -> None:
    assert told()["copies"] == [True] * 6


@needs_comfy()
def test_fingerprints_follow_the_content_and_name_no_folder() -> None:
    stamps = dict(told()["stamps"])
    base = stamps.pop("base")
    files = ("LoadStyleGAN", "OneShotLoadLatent", "OneShotLoadLook", "OneShotLoadDirection")
    assert set(stamps) == {*files, "OneShotLoadEncoders"}
    for first, rewritten, other in stamps.values():
        assert first == rewritten != other
        assert re.fullmatch(r"(automatic )?[0-9a-f]{32}", first) and base not in first
