"""Named tensors of a file, wherever they came from: torch file, pickle or safetensors.

Nested dicts become one flat set of dotted names, so that `{"G_ema": {"synthesis.b4.const": ...}}`,
`{"state_dict": {"model.G_ema.synthesis.b4.const": ...}}` and a safetensors file with the name
`G_ema.synthesis.b4.const` are the same to what reads them: a network is a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .rebuild import Record
from .stored import CheckpointError, Source, StoredTensor

MAX_TENSORS = 10_000
MAX_VISITED = 200_000  # entries of dicts that are looked at; shared dicts could be walked endlessly
MAX_DEPTH = 6
MAX_PATH = 400  # characters of a dotted name
_AVERAGED = re.compile(r"(?:^|_)(?:g?ema|smooth|running|avg|average|averaged|shadow|gs)(?:_|$)")
_COPY = re.compile(r"(?:^|_)(?:frozen|source|teacher|orig|original|init|initial|pretrained|old|raw)(?:_|$)")
_JUDGE = re.compile(r"(?:^|_)(?:d|dis|disc|discriminator|netd)(?:_|$)")
_OPTIMISER = re.compile(r"optim|scheduler|sched|scaler")
_END: Any = object()
_MEANS = ("latent_avg", "mean_latent", "w_avg", "dlatent_avg")


@dataclass
class NamedTensors:
    """All tensors of a file by dotted name, in its order, and what else lies at its root."""

    tensors: dict[str, Source] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)  # names at the root
    classes: list[str] = field(default_factory=list)  # of objects in the file, as `package.Class`

    def below(self, prefix: str) -> dict[str, Source]:
        """The tensors whose names start with a prefix, without it."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}

    def network(self, prefix: str, others: Iterable[str]) -> dict[str, Source]:
        """The tensors of one network: `below`, without mean latents and the networks nested below the prefix.

        Args:
            prefix: of the network.
            others: prefixes of other networks.
        """
        nested = tuple(other for other in others if other.startswith(prefix) and other != prefix)
        found = {name: value for name, value in self.tensors.items() if name.startswith(prefix)}
        return {
            name[len(prefix) :]: value
            for name, value in found.items()
            if not name.startswith(nested) and name[len(prefix) :] not in _MEANS
        }

    def unused(self, prefixes: Iterable[str], names: Iterable[str]) -> list[str]:
        """Parts of the file, by their shortest paths, with nothing below the prefixes or among the names."""
        starts, wanted = tuple(prefixes), set(names)
        everything: set[str] = set()
        used: set[str] = set()
        for name in self.tensors:
            everything.update(_paths(name))
            if name in wanted or name.startswith(starts):
                used.update(_paths(name))
        rest = dict.fromkeys(entry for entry in self.entries if entry not in everything)
        for name in self.tensors:
            path = next((path for path in _paths(name) if path not in used), None)
            if path is not None:
                rest[path] = None
        return list(rest)

    def prefixes(self, signs: Iterable[str]) -> list[str]:
        """Prefixes behind which one of the signs stands, in the file's order."""
        found: dict[str, None] = {}
        for name in self.tensors:
            for sign in signs:
                if name == sign or name.endswith(f".{sign}"):
                    found[name[: len(name) - len(sign)]] = None
        return list(found)

    def mean_of(self, prefix: str, own: Iterable[str] = ()) -> Source | None:
        """A network's mean latent: inside it, or beside it or one of the dicts around it."""
        for name in own:
            if (found := self.tensors.get(prefix + name)) is not None:
                return found
        parts = prefix.split(".")[:-1]
        for count in range(len(parts), -1, -1):
            around = "".join(f"{part}." for part in parts[:count])
            for name in _MEANS:
                if (found := self.tensors.get(around + name)) is not None:
                    return found
        return None

    def judges(self) -> list[str]:
        """Prefixes, one part long or two, that are called a discriminator."""
        found: dict[str, None] = {}
        for name in self.tensors:
            parts = name.split(".")[:-1]
            for index, part in enumerate(parts[:4]):
                if _JUDGE.search(part.lower()) and not _OPTIMISER.search(part.lower()):
                    found["".join(f"{one}." for one in parts[: index + 1])] = None
                    break
        return list(found)


def _paths(name: str) -> Iterator[str]:
    """A dotted name's beginnings, from its first part to itself."""
    parts = name.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


def gather(root: Mapping[Any, Any]) -> NamedTensors:
    """Flatten the object of a torch file or pickle.

    Args:
        root: dicts, nested, with tensors among other values. What is no tensor under a text is passed over,
            such as the states of optimisers, which are numbered.

    Returns:
        The tensors, unread.

    Raises:
        CheckpointError: too many, or two of the same name.
    """
    found = NamedTensors(entries=[str(name)[:80] for name in root])
    visited = 0
    for name, value in _walked(root):
        visited += 1
        if visited > MAX_VISITED or len(found.tensors) > MAX_TENSORS:
            raise CheckpointError(
                f"holds more than {MAX_TENSORS} tensors or {MAX_VISITED} entries; no file of networks does"
            )
        if isinstance(value, Record):
            found.classes.append(value.kind)
        elif isinstance(value, StoredTensor):
            if name in found.tensors:
                raise CheckpointError(f"holds two tensors named {name[:80]}; the file is damaged")
            found.tensors[name] = value.source(name)
    return found


def _walked(root: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Every entry of nested dicts with its dotted name, depth first, in order."""
    levels = [("", iter(root.items()))]
    while levels:
        prefix, entries = levels[-1]
        key, value = next(entries, (_END, None))
        if key is _END:
            levels.pop()
            continue
        name = f"{prefix}{key}"
        if isinstance(key, str) and len(name) <= MAX_PATH:
            if isinstance(value, dict) and len(levels) < MAX_DEPTH:
                levels.append((f"{name}.", iter(value.items())))
            yield name, value
        else:
            yield "", None


def of_sources(sources: Mapping[str, Source]) -> NamedTensors:
    """The tensors of a flat file.

    Raises:
        CheckpointError: too many.
    """
    if len(sources) > MAX_TENSORS:
        raise CheckpointError(f"holds {len(sources)} tensors; at most {MAX_TENSORS} are allowed")
    entries = dict.fromkeys(name.split(".")[0][:80] for name in sources)
    return NamedTensors(dict(sources), list(entries))


def rank(prefix: str) -> tuple[bool, bool, int]:
    """Order of generators by what their prefixes say: the moving average first, frozen copies last."""
    parts = [part.lower() for part in prefix.split(".")[:-1]]
    averaged = any(_AVERAGED.search(part) for part in parts)
    return any(map(_COPY.search, parts)), not averaged, len(parts)


def label(prefix: str) -> str:
    """How messages call the network behind a prefix."""
    return prefix.rstrip(".")[:80] or "the state dict"
