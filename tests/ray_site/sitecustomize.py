"""Run first by a Ray cluster's processes in tests: tiny encoders, and states that are saved all the time.

Nothing is imported now: the engine's modules are changed when a process imports them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from typing import Any


def _tiny_encoders(module: Any) -> None:
    from tiny_networks import TinyChoice

    choice = TinyChoice()  # one for all, as equal names are equal choices
    module._choice = lambda *_: choice


def _frequent_states(module: Any) -> None:
    module.Checkpoints.interval_seconds = 0.2


CHANGES: dict[str, Callable[[Any], None]] = {
    "oneshot_core.inputs": _tiny_encoders,
    "oneshot_core.training.callbacks": _frequent_states,
}


class _Finder:
    """Finds the modules that are changed, and changes them once they are loaded."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        change = CHANGES.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def loading(module: Any) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = loading  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
