"""Texts as CLIP reads them: token ids, words that a model does not know, and an end that it does not see."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .weights import EncoderError

Tokenizer = Callable[[list[str]], Tensor]  # texts -> ids [N, context], int64
SHOWN = 60  # characters of what is not read


class WordTokenizer:
    """Whole words of a fixed list as token ids, for small models with a vocabulary of their own.

    Ids: 0 padding, 1 … W the words, W + 1 any other word, W + 2 start, W + 3 end. The end has the highest id,
    which is where open_clip's "argmax" pooling reads the text feature.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        if len(set(words)) != len(words) or context_length < 3:
            raise ValueError("words must differ from each other and context_length be at least 3")
        self.ids = {word: number for number, word in enumerate(words, start=1)}
        self.context_length = context_length
        self.unknown, self.start, self.end = (len(words) + offset for offset in (1, 2, 3))
        self.vocab_size = len(words) + 4

    def __call__(self, texts: list[str]) -> Tensor:
        """Turn texts into ids [N, context_length]; what does not fit is cut before the end token."""
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            words = _words(text)[: self.context_length - 2]
            ids = [self.start, *(self.ids.get(word, self.unknown) for word in words), self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def check(self, text: str, name: str) -> None:
        """Refuse a text with a word that is not in the list: all such words would mean the same.

        Args:
            text: any text; an empty one has no such word.
            name: the model's, for the message.

        Raises:
            ValueError: it names those words, and the list.
        """
        wrong = [word for word in dict.fromkeys(_words(text)) if word not in self.ids]
        if not wrong:
            return
        raise ValueError(
            f"the CLIP model {name} does not know {', '.join(map(repr, wrong))}; say it in its words, or use "
            f"another CLIP model. It knows: {', '.join(self.ids)}"
        )

    def not_read(self, text: str) -> str:
        """The end of a text that does not fit, "" where all of it does."""
        return " ".join(_words(text)[self.context_length - 2 :])


@dataclass
class LazyTokenizer:
    """open_clip's tokenizer of a model, made at the first text: some need the transformers package.

    Args:
        name: of the model.
        folder: where its files lie; None: open_clip's.
        options: of open_clip's `get_tokenizer`.
    """

    name: str
    folder: Path | None
    options: dict[str, bool]
    made: Tokenizer | None = None

    def __call__(self, texts: list[str]) -> Tensor:
        """Turn texts into ids; see `make`."""
        return self.make()(texts)

    def make(self) -> Tokenizer:
        """Return open_clip's own; raises EncoderError where it cannot be made."""
        if self.made is None:
            import open_clip

            try:
                folder = str(self.folder) if self.folder else None
                self.made = open_clip.get_tokenizer(self.name, cache_dir=folder, **self.options)
            except (ImportError, OSError, ValueError) as error:
                raise EncoderError(
                    f"the tokenizer of {self.name} cannot be made ({error}); it comes from the transformers "
                    f"package and the hub: install the one, allow the download, or use ViT-B-32-quickgelu"
                ) from error
        return self.made


def check_text(tokenizer: Tokenizer | None, text: str, name: str) -> None:
    """Refuse a text with words that a model with a list of words does not know; raises ValueError."""
    if isinstance(tokenizer, WordTokenizer):
        tokenizer.check(text, name)


def text_notes(tokenizer: Tokenizer | None, text: str, name: str) -> list[str]:
    """Say what of a text a model does not read, or hardly understands.

    Args:
        tokenizer: the model's; of one of an unknown kind nothing is said.
        text: the text.
        name: the model's, for the sentences.

    Returns:
        Sentences; none for a text that is read whole.
    """
    made = tokenizer.make() if isinstance(tokenizer, LazyTokenizer) else tokenizer
    notes, cut = [], _not_read(made, text).strip()
    if cut:
        shown = repr(cut if len(cut) <= SHOWN else f"{cut[:SHOWN]}…")
        notes.append(f"the text is too long for the CLIP model {name}, which does not read its end: {shown}")
    foreign = _foreign_words(text) if _has_own_vocabulary(made) else []
    if foreign:
        notes.append(
            f"the CLIP model {name} learnt from English texts, so that {', '.join(map(repr, foreign))} may "
            "say nothing to it; write it in English"
        )
    return notes


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _not_read(tokenizer: Any, text: str) -> str:
    """The end of a text behind a tokenizer's last token, as far as its kind is known."""
    if isinstance(tokenizer, WordTokenizer):
        return tokenizer.not_read(text)
    if _has_own_vocabulary(tokenizer):
        return str(tokenizer.decode(tokenizer.encode(text)[tokenizer.context_length - 2 :]))
    inner: Any = getattr(tokenizer, "tokenizer", None)  # of the transformers package, within open_clip's
    if not hasattr(inner, "num_special_tokens_to_add"):
        return ""
    ids = inner(tokenizer.clean_fn(text), add_special_tokens=False).input_ids
    return str(inner.decode(ids[tokenizer.context_length - inner.num_special_tokens_to_add() :]))


def _has_own_vocabulary(tokenizer: Any) -> bool:
    """Whether it is CLIP's own, of byte pairs of English texts."""
    return all(hasattr(tokenizer, name) for name in ("bpe_ranks", "encode", "decode", "context_length"))


def _foreign_words(text: str) -> list[str]:
    """Words with letters of another script than Latin."""

    def foreign(letter: str) -> bool:
        return letter.isalpha() and not unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN"))

    return [word for word in dict.fromkeys(text.split()) if any(map(foreign, word))]
