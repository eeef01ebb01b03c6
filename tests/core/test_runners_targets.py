"""The pictures of a plan: files, patterns, shipped looks, and what they are called."""

from __future__ import annotations

import pytest

from oneshot_core.choices import TARGET_LOOKS
from oneshot_core.demo.world import target_path
from oneshot_core.runners.plan import PlanError, plan_from_values
from oneshot_core.runners.targets import TargetError, find_target, find_targets, name_of, text_of

HEAD = {"format": "oneshot-batch", "format_version": 1}


def test_files_lie_beside_the_plan(tmp_path):
    for name in ("b.png", "a.png", "c.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert find_target(tmp_path, "a.png", "job") == tmp_path / "a.png"
    found = find_targets(tmp_path, ["*.png", "demo:comic", "[ac].*"])
    assert [name_of(path) for path in found] == ["a", "b", "comic", "c"]
    assert text_of(found[0]) == str(tmp_path / "a.png") and text_of(found[2]) == "demo:comic"


@pytest.mark.parametrize("look", TARGET_LOOKS)
def test_shipped_pictures_are_meant_by_their_look(tmp_path, look):
    path = find_target(tmp_path, f"demo:{look}", "job")
    assert path == target_path(look) and (name_of(path), text_of(path)) == (look, f"demo:{look}")


@pytest.mark.parametrize("name", ["demo:", "demo:cubism", "no.png", "\0", "x" * 5000])
def test_what_is_not_there_is_said(tmp_path, name):
    with pytest.raises(
        TargetError, match=r"jobs\[0\]: (there is no target picture of look|the target .* is not)"
    ):
        find_target(tmp_path, name, "jobs[0]")
    with pytest.raises(TargetError, match="there is no target picture of look|no file matches the targets"):
        find_targets(tmp_path, [name])


def test_a_plan_of_shipped_pictures_runs_anywhere(tmp_path):
    values = {
        **HEAD,
        "defaults": {"generator": "demo"},
        "grid": {"targets": ["demo:comic", "demo:oil painting"]},
    }
    plan = plan_from_values(values, tmp_path)
    assert [job.name for job in plan.jobs] == ["comic", "oil painting"]
    plan.check(on_server=False)
    jobs = [*plan.jobs]
    recipe = plan.recipe(jobs[1])
    assert recipe.aim.target == "demo:oil painting" and recipe.generator == "demo"
    assert jobs[1].describe() == {"target": "demo:oil painting", "generator": "demo"}
    keys = {plan.key(job, on_server) for job in plan.jobs for on_server in (True, False)}
    assert len(keys) == 4
    with pytest.raises(PlanError, match="there is no target picture of look 'cubism'; there are: comic, oil"):
        plan_from_values({**HEAD, "jobs": [{"target": "demo:cubism"}]}, tmp_path)
