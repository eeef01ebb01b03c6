"""Several CLIP models in one name, as recipes hold them."""

from __future__ import annotations

import pytest

from oneshot_core.encoder_choice import EncoderChoice, clips_of, further_clips
from oneshot_core.features import EncoderError
from oneshot_core.file_names import last_part_of_model, models_of


def test_models_are_joined_by_plus_with_a_weight_behind_a_star(tmp_path) -> None:
    assert clips_of("A") == (("A", None, 1.0),)
    assert clips_of("A:openai+B=w.pt*0.5") == (("A:openai", None, 1.0), ("B", "w.pt", 0.5))
    assert further_clips("") == () and further_clips("B*2+C") == (("B", None, 2.0), ("C", None, 1.0))
    file = tmp_path / "a+b.pt"
    file.write_bytes(b"")
    assert models_of(str(file)) == [str(file)] and clips_of(str(file))[0][1] == str(file)
    assert last_part_of_model("A=x/y.pt+B=z/w.pt*0.5") == "A=y.pt+B=w.pt*0.5"


def test_wrong_ones_are_refused() -> None:
    for text, told in (("A+B*x", "write a CLIP model"), ("A*0.5+B", "the first CLIP model has the weight 1")):
        with pytest.raises(EncoderError, match=told):
            clips_of(text)
    with pytest.raises(EncoderError, match="positive weight"):
        EncoderChoice(more_clips=(("B", None, 0.0),))


def test_their_names_are_kept_in_one_that_can_be_read_again() -> None:
    choice = EncoderChoice().named("demo+demo*0.5")
    encoders = choice.open(allow_download=False)
    assert encoders.clip_name == "demo+demo*0.5"
    assert [weight for _, weight in encoders.clips] == [1.0, 0.5] == [w for _, w in encoders.to("cpu").clips]
    assert len(encoders.load().clips) == 2
