"""Asking a server whether it can run a plan's jobs, before anything is uploaded or queued."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from .answers import Choice
from .comfy_client import ComfyClient
from .jobs import Plan, given
from .transfer import ComfyError, ServerUnreachable, plain
from .workflow import Workflow, filled

OLDEST = (0, 8)  # ComfyUI's version that this pack's nodes need
SHOWN = 5  # jobs, or values of a list, that a line names
_UPLOADED = "\0"  # stands for a picture that would be uploaded; no file has such a name
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class ServerCheck:
    """What a server said about a plan.

    Args:
        server: its address.
        versions: of ComfyUI, torch and Python; empty where it did not say.
        node_types: that the plan's jobs need.
        waiting: prompts in its queue, those that run too; None: it does not say.
        problems: a line each; none: the jobs can be queued.
    """

    server: str
    versions: Mapping[str, str] = field(default_factory=dict)
    node_types: tuple[str, ...] = ()
    waiting: int | None = None
    problems: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "server": self.server,
            "versions": dict(self.versions),
            "node_types": list(self.node_types),
            "waiting": self.waiting,
            "problems": list(self.problems),
        }


@dataclass
class _Use:
    """A value of an input in the jobs' workflows: where it stands, and who has it there."""

    node: str
    class_type: str
    name: str
    value: Any
    jobs: list[str] = field(default_factory=list)  # the first few
    count: int = 0

    def add(self, job: str) -> None:
        """Count a job that has it."""
        self.count += 1
        if len(self.jobs) < SHOWN:
            self.jobs.append(job)


def check_server(plan: Plan, client: ComfyClient, most: int | None = None) -> ServerCheck:
    """Ask a server whether it is ComfyUI, has what the plan's jobs use, and answers about its queue.

    Args:
        plan: checked for a server.
        client: of the server; it is only asked, nothing is sent.
        most: jobs that are looked at, from the first on; None: all.
    """
    try:
        versions = client.versions()
    except ServerUnreachable as error:
        return ServerCheck(client.server, problems=(plain(error),))
    except ComfyError as error:
        return ServerCheck(client.server, problems=(f"{client.server} is no ComfyUI: {plain(error)}",))
    types = _types(plan, most)
    problems, known = [*_too_old(versions["comfyui"])], dict[str, Mapping[str, Choice] | None]()
    waiting: int | None = None
    try:
        for name in types:
            found, told = _asked(f"the node type {plain(name, 80)}", partial(client.choices, name))
            problems += told
            known |= {} if told else {name: found}
        queue, told = _asked("its queue", client.queued)
        problems += told
        waiting = None if queue is None else len(queue)
    except ServerUnreachable as error:
        problems.append(plain(error))
    offered = {(kind, name) for kind, choices in known.items() for name in choices or ()}
    uses = _uses(plan, most, offered) if offered else []
    problems += [*_lacking(known), *(_refusal(use, known.get(use.class_type)) for use in uses)]
    return ServerCheck(client.server, versions, types, waiting, tuple(filter(None, problems)))


def _asked(what: str, ask: Callable[[], _Answer]) -> tuple[_Answer | None, list[str]]:
    """An answer, or a line about what is wrong with it; a connection that breaks passes through."""
    try:
        return ask(), []
    except ServerUnreachable:
        raise
    except ComfyError as error:
        return None, [f"it gives no proper answer about {what}: {plain(error)}"]


def _workflows(plan: Plan, most: int | None) -> Iterator[tuple[str, Workflow]]:
    """The workflows that would be sent, with the jobs' names."""
    for job in islice(plan.jobs, most):
        fields = given(job, None if job.target is None else _UPLOADED)
        yield job.name, filled(plan.workflow or {}, job.name, fields, job.inputs)


def _types(plan: Plan, most: int | None) -> tuple[str, ...]:
    """Every node type of the jobs' workflows."""
    nodes = (node for _, workflow in _workflows(plan, most) for node in workflow.values())
    return tuple(dict.fromkeys(node["class_type"] for node in nodes))


def _uses(plan: Plan, most: int | None, offered: Collection[tuple[str, str]]) -> list[_Use]:
    """Every value that the jobs' workflows hold of inputs that are chosen from a list, with who has it.

    Args:
        plan: the jobs.
        most: of them.
        offered: node types and their inputs that are chosen from a list; values of others, such as seeds,
            may be as many as the jobs.
    """
    found: dict[tuple[str, str, str, str], _Use] = {}
    for job, workflow in _workflows(plan, most):
        for node, values in workflow.items():
            for name, value in values["inputs"].items():
                kind = values["class_type"]
                if (kind, name) in offered:
                    found.setdefault((node, kind, name, repr(value)), _Use(node, kind, name, value)).add(job)
    return list(found.values())


def _too_old(version: str) -> Iterator[str]:
    numbers = re.match(r"v?(\d{1,6})\.(\d{1,6})", version)
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST:
        yield f"it is ComfyUI {version}; the nodes need {'.'.join(map(str, OLDEST))} or newer"


def _lacking(known: Mapping[str, Mapping[str, Choice] | None]) -> Iterator[str]:
    """Say which node types the server does not have: those of one pack are usually missing together."""
    names = [plain(name, 80) for name, choices in known.items() if choices is None]
    if names:
        yield (
            f"it has no node type {', '.join(names)}; install the pack that brings it on the server, or see "
            "in the server's log why that did not load"
        )


def _refusal(use: _Use, choices: Mapping[str, Choice] | None) -> str:
    """Say that a value is none of those that the server offers; empty where all is well."""
    choice = (choices or {}).get(use.name)
    if choice is None or isinstance(use.value, list) or use.value == _UPLOADED or choice.allows(use.value):
        return ""
    texts = [str(value) for value in choice.values]
    near = get_close_matches(str(use.value), texts, SHOWN, cutoff=0.0)
    offered = _listed([plain(text, 80) for text in near], len(texts)) or "nothing"
    return (
        f"node {plain(use.node, 40)} ({plain(use.class_type, 80)}): the server does not offer "
        f"{plain(use.value, 200)!r} as {plain(use.name, 80)}, it offers {offered}; used by "
        f"{_listed(use.jobs, use.count)}"
    )


def _listed(names: list[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
