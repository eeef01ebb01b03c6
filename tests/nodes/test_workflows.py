"""Templates and their API forms, as far as they can be checked without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from template_nodes import CORE, PAGE_ONLY, TITLES, nodes_of, origin_of, template_file

from oneshot_core.demo.world import demo_recipe

PACK = Path(__file__).resolve().parents[2]
FORMS = sorted((PACK / "tests" / "workflows").glob("*.json"))
BATCH = PACK / "oneshot_core" / "runners" / "batch_workflow.json"
TEMPLATES = sorted((PACK / "example_workflows").glob("*.json"))
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_template_has_its_api_form() -> None:
    assert [path.stem for path in TEMPLATES] == list(TITLES.values())  # in the order that they are listed in
    assert {path.stem for path in FORMS} == set(TITLES)


@pytest.mark.parametrize("path", [*TEMPLATES, *BLUEPRINTS], ids=lambda path: path.stem)
def test_every_node_says_which_pack_brings_it(path: Path) -> None:
    """ComfyUI-Manager finds a missing pack by these; `ver` is the version of pyproject.toml."""
    nodes = nodes_of(read(path))
    assert {node["type"] for node in nodes} <= {*SCHEMAS, *CORE, *PAGE_ONLY}
    for node in nodes:
        found = {name: value for name, value in node["properties"].items() if name in ("cnr_id", "ver")}
        assert found == origin_of(node["type"]), f"{node['type']}: run tests/live/make_templates.py"


def test_the_sweep_has_the_blueprint_in_it() -> None:
    (path,) = BLUEPRINTS
    (ours,) = read(path)["definitions"]["subgraphs"]
    (theirs,) = read(template_file("target_sweep"))["definitions"]["subgraphs"]
    kinds = [[(node["type"], node["widgets_values"]) for node in one["nodes"]] for one in (ours, theirs)]
    assert kinds[0] == kinds[1], "make the sweep anew from the blueprint"
    assert [one["name"] for one in ours["inputs"]] == [one["name"] for one in theirs["inputs"]]


@pytest.mark.parametrize("path", [*FORMS, BATCH], ids=lambda path: path.stem)
def test_every_input_is_given_and_known(path: Path) -> None:
    for key, node in read(path).items():
        if node["class_type"] in CORE:
            continue
        known = dict(SCHEMAS[node["class_type"]]["inputs"])
        for name, (*_, nested) in SCHEMAS[node["class_type"]]["inputs"].items():
            if nested:
                chosen = nested[node["inputs"][name]]["inputs"]
                known |= {f"{name}.{inner}": spec for inner, spec in chosen.items()}
        assert set(node["inputs"]) <= set(known), key
        assert {name for name, spec in known.items() if spec[0] == "required"} <= set(node["inputs"]), key


@pytest.mark.parametrize("name", ["quick_start", "text_edit", "target_sweep"])
def test_those_for_the_demo_use_the_settings_of_the_verb_demo(name: str) -> None:
    recipe = demo_recipe()
    search_recipe, method = recipe.search, recipe.method
    nodes = read(PACK / "tests" / "workflows" / f"{name}.json").values()
    searches = [node["inputs"] for node in nodes if node["class_type"] == "CLIPLatentSearch"]
    runs = [node["inputs"] for node in nodes if node["class_type"] == "OneShotAdapt"]
    assert searches and len(searches) == len(runs)
    for search in searches:
        assert (search["steps"], search["learning_rate"]) == (
            search_recipe.steps,
            search_recipe.learning_rate,
        )
        assert {term: search[f"{term}_weight"] for term in search_recipe.weights} == search_recipe.weights
    for run in runs:
        assert (run["steps"], run["learning_rate"]) == (
            recipe.training.steps,
            method.learning_rate,
        )
        steps = method.schedule
        assert {"reference": run["reference_steps"], "random": run["random_steps"]} == steps
        assert run["ema_half_life"] == 0  # at most an eighth of the steps done, as the verb has it
