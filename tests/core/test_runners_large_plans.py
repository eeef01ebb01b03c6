"""Plans and manifests of many jobs: they are read line by line, and memory does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from manifests import with_checksum

from oneshot_core.runners.jobs import PlanError
from oneshot_core.runners.local import run_here
from oneshot_core.runners.manifest import DONE, FAILED, Manifest
from oneshot_core.runners.plan import plan_from_values, read_plan

HEAD = {"format": "oneshot-batch", "format_version": 1}
ROOT = Path(__file__).parents[2]


def write_lines(folder: Path, *jobs: Any, **head: Any) -> Path:
    """A plan of JSON lines, with one blank line."""
    lines = [json.dumps({**HEAD, **head}), "", *map(json.dumps, jobs)]
    (folder / "p.jsonl").write_text("\n".join(lines))
    return folder / "p.jsonl"


def test_lines_say_the_same_as_a_list(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    head = {"defaults": {"generator": "demo", "steps": 5, "recipe": {"method": {"batch": 1}}}}
    jobs = [{"target": "a.png"}, {"name": "two", "target": "b.png", "seed": 3, "steps": 6}]
    lines = read_plan(write_lines(tmp_path, *jobs, **head))
    listed = plan_from_values({**HEAD, **head, "jobs": jobs}, tmp_path, "p")
    assert [*lines.jobs] == [*listed.jobs] and len(lines.jobs) == len(listed.jobs) == 2
    assert [lines.key(job, False) for job in lines.jobs] == [listed.key(job, False) for job in listed.jobs]
    lines.check(on_server=False)
    assert (lines.name, lines.workflow) == ("p", None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{}, {"steps": 0}], "line 4: steps must be a whole number"),
        ([{}, {"step": 1}], "line 4 has the unknown entry 'step'"),
        ([{}, [3]], "line 4 must be an object"),
        ([], "a line for each job below the first"),
        ([{"name": "a"}, {"name": "b"}, {"name": "A"}], "two jobs are named 'A'"),
        ([{"target": "no.png"}], "no.png is not a file"),
    ],
)
def test_what_a_line_may_not_say(tmp_path, lines, message):
    with pytest.raises(PlanError, match=message):
        read_plan(write_lines(tmp_path, *lines))


def test_what_the_first_line_may_not_say(tmp_path):
    for head, message in (({"jobs": []}, "unknown entry 'jobs'"), ({"format": "x"}, "is not a plan")):
        with pytest.raises(PlanError, match=message):
            read_plan(write_lines(tmp_path, {}, **head))
    (tmp_path / "p.jsonl").write_text("{")
    with pytest.raises(PlanError, match="line 1: is no JSON"):
        read_plan(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_bytes(json.dumps(HEAD).encode() + b"\n" + b" " * (1 << 20) + b"{}")
    with pytest.raises(PlanError, match="more than 1 MiB"):
        read_plan(tmp_path / "p.jsonl")
    with pytest.raises(PlanError, match="there is no plan"):
        read_plan(tmp_path / "none.jsonl")


def test_a_plan_that_is_changed_while_it_runs_is_refused(tmp_path):
    plan = read_plan(write_lines(tmp_path, {"name": "a"}))
    write_lines(tmp_path, {"name": "a"}, {"name": "b"})
    with pytest.raises(PlanError, match="was changed while its jobs ran"):
        list(plan.jobs)


def test_a_target_that_goes_while_the_plan_runs_fails_its_own_job(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    grid = {"targets": "*.png", "generators": ["demo"]}
    plan, said = plan_from_values({**HEAD, "grid": grid}, tmp_path), []

    def work(recipe: Any, folder: Path) -> dict[str, Any]:
        (tmp_path / "b.png").unlink(missing_ok=True)
        folder.mkdir(parents=True)
        (folder / "grid.png").write_bytes(b"grid")
        return {"files": {"grid": str(folder / "grid.png")}}

    statuses = run_here(plan, Manifest(tmp_path / "out", "p"), work, said.append)
    assert statuses == {"a": DONE, "b": FAILED, "c": DONE}
    assert any("b failed: " in text and "b.png" in text for text in said)


PEAK_MB = 1.0  # of the list of seeds, and eight bytes a job; the jobs would take three and more


@pytest.mark.slow
def test_a_grid_of_many_jobs_takes_no_memory_for_them(tmp_path):
    """Names, marks and seeds stay; no job does."""
    grid = {"targets": ["demo:comic"], "seeds": list(range(1500)), "settings": [{"steps": 8}, {"steps": 9}]}
    tracemalloc.start()
    try:
        plan = plan_from_values({**HEAD, "defaults": {"generator": "demo"}, "grid": grid}, tmp_path)
        assert sum(1 for _ in plan.jobs) == len(plan.jobs) == 3000
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert peak < PEAK_MB


def test_lines_of_many_jobs_take_no_memory_for_them(tmp_path):
    with open(tmp_path / "p.jsonl", "w") as file:
        file.write(json.dumps({**HEAD, "defaults": {"target": "demo:comic", "generator": "demo"}}) + "\n")
        file.writelines(f'{{"name": "job{number}", "seed": {number}}}\n' for number in range(5000))
    tracemalloc.start()
    try:
        plan = read_plan(tmp_path / "p.jsonl")
        names = [job.name for job in islice(plan.jobs, 3)]
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert len(plan.jobs) == 5000 and names == ["job0", "job1", "job2"]
    assert peak < PEAK_MB


def entry(number: int) -> dict[str, Any]:
    """A line as a job of this process leaves it: seven files, five losses."""
    kinds = ("adapted", "grid", "reference", "latent", "losses", "run", "picture")
    facts = {"bytes": 1000, "sha256": "a" * 64, "changed_ns": 1764300000000000000}
    files = [{"path": f"job{number}/{kind}.png", "kind": kind, **facts} for kind in kinds]
    files[-1]["path"] = f"pictures/job{number}.png"
    return {
        "job": f"job{number}", "status": DONE, "key": f"{number:032x}",
        "settings": {"target": f"job{number}.png", "generator": "ffhq.pt", "seed": number}, "files": files,
        "losses": dict.fromkeys("abcde", 0.123456), "notes": [], "seconds": 123.4, "step": 1000,
        "versions": {"oneshot-stylegan": "0.1.0", "torch": "2.9.0", "python": "3.12.3"},
        "updated": "2026-11-28T05:00:00Z",
    }  # fmt: skip


def lines(count: int) -> Iterator[bytes]:
    """Entries of so many jobs, their names put into the text of the first."""
    text = with_checksum(entry(0)).rpartition(b',"checksum"')[0]
    for number in range(count):
        body = text.replace(b"job0", b"job%d" % number)
        yield b'%s,"checksum":"%08x"}\n' % (body, zlib.crc32(body))


@pytest.mark.slow
def test_a_manifest_of_a_hundred_thousand_jobs_is_read_in_seconds(tmp_path):
    head = {"format": "oneshot-batch-manifest", "format_version": 3, "plan": "p"}
    with open(tmp_path / "manifest.jsonl", "wb") as file:
        file.write(with_checksum(head))
        file.writelines(lines(100_000))
    began = time.process_time()
    manifest = Manifest(tmp_path, "p")
    seconds = time.process_time() - began
    assert len(manifest.statuses()) == 100_000 and manifest.last("job77777")["step"] == 1000
    assert seconds < 10.0  # some two on a quiet machine
    size = manifest.path.stat().st_size
    began = time.process_time()
    for number in range(20):
        manifest.record(f"job{number}", entry(number))
    assert time.process_time() - began < 1.0
    assert manifest.path.stat().st_size - size < 20 * 3000  # a line each, nothing is rewritten
    tell = {"read_seconds": round(seconds, 2), "bytes": size}
    sys.stdout.write(f"{tell}\n")


RUN = """
import sys
from pathlib import Path
from oneshot_core.runners.manifest import Manifest
from oneshot_core.runners.plan import plan_from_values
grid = {"targets": ["demo:comic"], "seeds": list(range(int(sys.argv[2])))}
values = {"format": "oneshot-batch", "format_version": 1, "defaults": {"generator": "demo"}, "grid": grid}
plan = plan_from_values(values, Path("."))
manifest = Manifest(Path(sys.argv[1]), "p")
entries = ((job.name, {"key": "k", "status": "failed", "settings": job.describe()}) for job in plan.jobs)
manifest.record_all(entries)
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the size")
def test_what_stays_in_memory_of_a_job_is_its_name_and_a_number(tmp_path):
    sizes = {}
    for count in (1000, 101_000):
        (tmp_path / str(count)).mkdir()
        words = [sys.executable, "-c", RUN, str(tmp_path / str(count)), str(count)]
        told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
        sizes[count] = int(told.stdout)
    each = (sizes[101_000] - sizes[1000]) / 100_000
    sys.stdout.write(f"{each:.0f} bytes a job\n")
    assert 10 < each < 500
