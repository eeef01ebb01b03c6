"""Names of files as recipes hold them: paths, shipped pictures, models with files; nothing is opened."""

from __future__ import annotations

from pathlib import Path, PurePath

from .choices import DEMO_TARGET


def last_part(name: str | None) -> str | None:
    """Leave the folders out of a name; that of a shipped picture has none."""
    if not name or name.startswith(DEMO_TARGET):
        return name
    return PurePath(name.replace("\\", "/")).name


def last_part_of_model(name: str | None) -> str | None:
    """The same for `MODEL=FILE`, for a file alone, and for several models joined by +."""

    def last(one: str) -> str:
        model, file = model_and_file(one)
        return (last_part(one) or "") if file is None else f"{model}={last_part(file)}"

    return None if name is None else "+".join(map(last, models_of(name)))


def models_of(name: str) -> list[str]:
    """Take models apart that are joined by +, such as `A=FILE+B*0.5`; a file of that name stays whole."""
    return [name] if Path(name).is_file() else name.split("+")


def model_and_file(name: str) -> tuple[str, str | None]:
    """Take `MODEL=FILE` apart; a name without a file is all model, also where its folder holds the sign."""
    model, equals, file = name.partition("=")
    if not equals or {"/", "\\"} & set(model):
        return name, None
    return model, file or None
