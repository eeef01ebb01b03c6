"""Texts as CLIP reads them: unknown words are refused, an end that is cut off and foreign script are told."""

from __future__ import annotations

from types import SimpleNamespace

import open_clip
import pytest
import torch

from oneshot_core.demo.world import check_demo_text, demo_encoders
from oneshot_core.editing import check_texts
from oneshot_core.features import EncoderError, WordTokenizer
from oneshot_core.features.tokenizers import LazyTokenizer, check_text, text_notes

WORDS = WordTokenizer(["a", "face", "with", "hat"], context_length=8)  # six words, a start and an end
OWN = LazyTokenizer("ViT-B-32", None, {})
CUT = "the text is too long for the CLIP model X, which does not read its end: "


def test_unknown_words_are_refused_with_those_that_are_known() -> None:
    WORDS.check("A face, with... HAT!", "X")
    WORDS.check("", "X")
    with pytest.raises(ValueError) as error:
        WORDS.check("a crown, a Queen with a crown", "X")
    assert str(error.value) == (
        "the CLIP model X does not know 'crown', 'queen'; say it in its words, or use another CLIP model. It "
        "knows: a, face, with, hat"
    )
    check_text(None, "a crown", "X")
    check_text(OWN, "a crown", "X")


def test_the_end_that_does_not_fit_is_named() -> None:
    for tokenizer, most in ((WORDS, 6), (OWN, 75)):
        assert text_notes(tokenizer, "face " * most, "X") == []
        assert text_notes(tokenizer, "face " * most + "hat with a", "X") == [f"{CUT}'hat with a'"]
        ids = [tokenizer(["face " * most + end])[0] for end in ("", "hat")]
        assert torch.equal(*ids), "the note must be true"
    (note,) = text_notes(OWN, "face " * 200, "X")
    assert note.startswith(f"{CUT}'face face") and note.endswith("…'") and len(note) < 140


def test_the_end_is_named_for_the_transformers_package_too() -> None:
    class Inner:
        """As its tokenizers answer: one number a word, a start and an end around it."""

        def num_special_tokens_to_add(self) -> int:
            return 2

        def __call__(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
            assert not add_special_tokens
            return SimpleNamespace(input_ids=text.split())

        def decode(self, ids: list[str]) -> str:
            return " ".join(ids)

    made = SimpleNamespace(tokenizer=Inner(), clean_fn=str.lower, context_length=5)
    assert text_notes(made, "A face with", "X") == []  # type: ignore[arg-type]
    assert text_notes(made, "A face with a HAT", "X") == [f"{CUT}'a hat'"]  # type: ignore[arg-type]


def test_foreign_script_is_told_where_the_vocabulary_is_english() -> None:
    assert text_notes(OWN, "a café with naïve Æsir, 3 hats & 100 %", "X") == []
    assert text_notes(OWN, "a улыбка 微笑 of улыбка", "X") == [
        "the CLIP model X learnt from English texts, so that 'улыбка', '微笑' may say nothing to it; "
        "write it in English"
    ]
    unknown = SimpleNamespace()
    assert text_notes(None, "微笑", "X") == text_notes(unknown, "微笑", "X") == []  # type: ignore[arg-type]


def test_a_tokenizer_is_made_once_and_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = LazyTokenizer("ViT-B-32", None, {})
    assert lazy.make() is lazy.make()

    def missing(*_: object, **__: object) -> None:
        raise ImportError("no transformers")

    monkeypatch.setattr(open_clip, "get_tokenizer", missing)
    with pytest.raises(EncoderError, match=r"tokenizer of X cannot be made \(no transformers\)"):
        text_notes(LazyTokenizer("X", None, {}), "a face", "X")


def test_the_demos_words_are_known_without_its_clip() -> None:
    clip = demo_encoders().clip
    for text in ("a smiling person", "a person with white hair"):
        check_demo_text(text)
        assert check_texts(clip, text, "a person") == []
    said = []
    for check in (check_demo_text, clip.check_text):
        with pytest.raises(ValueError, match=r"^the CLIP model demo does not know 'smile'; say it") as error:
            check("a person with a smile")
        said.append(str(error.value))
    assert said[0] == said[1]
    with pytest.raises(ValueError, match="does not know 'queen'"):
        check_texts(clip, "a person", "a queen")
    long = "hat " * 47
    assert check_texts(clip, long, long) == [CUT.replace("X", "demo") + "'hat'"]
