"""Names of files as recipes hold them: paths, shipped pictures, a model with its file; no file is touched."""

from __future__ import annotations

from pathlib import PurePath

from .choices import DEMO_TARGET


def last_part(name: str | None) -> str | None:
    """Leave the folders out of a name; that of a shipped picture has none."""
    if not name or name.startswith(DEMO_TARGET):
        return name
    return PurePath(name.replace("\\", "/")).name


def last_part_of_model(name: str | None) -> str | None:
    """The same for `MODEL=FILE`, and for a file alone."""
    model, file = model_and_file(name or "")
    return last_part(name) if file is None else f"{model}={last_part(file)}"


def model_and_file(name: str) -> tuple[str, str | None]:
    """Take `MODEL=FILE` apart; a name without a file is all model, also where its folder holds the sign."""
    model, equals, file = name.partition("=")
    if not equals or {"/", "\\"} & set(model):
        return name, None
    return model, file or None
