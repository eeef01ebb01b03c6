"""The shape of the code: imports point down, no cycle, no ComfyUI, no unpickling, sizes within budget."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import oneshot_core

PACKAGE = Path(oneshot_core.__file__).parent

# From low to high: a unit (file or folder) imports from units before it and from itself.
ORDER = (
    "texts",
    "choices",
    "method_recipe",
    "json_values",
    "ranges",
    "quads",
    "frames",
    "file_names",
    "memory",
    "threads",
    "pace",
    "digests",
    "writing",
    "kept_folders",
    "quad_files",
    "containers",
    "tensors",
    "resampling",
    "precision",
    "stages",
    "copies",
    "draws",
    "ops",
    "metrics",
    "network_configs",
    "networks",
    "edits",
    "latents",
    "checkpoints",
    "edit_files",
    "latent_files",
    "looks",
    "look_files",
    "saved_states",
    "whitening",
    "features",
    "augmentation",
    "objective",
    "batches",
    "sampling",
    "pairs",
    "blending",
    "interpolation",
    "alignment",
    "pictures",
    "aligned_batches",
    "fingerprints",
    "latent_optimiser",
    "latent_chunks",
    "counterpart",
    "search",
    "training",
    "methods",
    "recipe_values",
    "recipe",
    "references",
    "run_folder",
    "store",
    "evaluation",
    "editing",
    "inversion",
    "demo",
    "encoder_choice",
    "inputs",
    "pipeline",
    "runners",
    "commands",
    "cli",
    "__main__",
)
COMFY = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "server",
    "nodes",
    "execution",
}
PICKLING = {"pickle", "pickletools", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")  # which imports up


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def each_file() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", FILES, ids=map(name_of, FILES))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_file(folder: Path, parts: list[str]) -> Path | None:
    """File of a dotted name below a folder, None where it is a name within the folder's module."""
    place = folder.joinpath(*parts)
    if place.with_suffix(".py").is_file() and parts:
        return place.with_suffix(".py")
    return place / "__init__.py" if (place / "__init__.py").is_file() else None


def imported_files(path: Path) -> Iterator[Path]:
    """Engine files that a file imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        parts = node.module.split(".") if node.module else []
        for alias in node.names:
            found = module_file(folder, [*parts, alias.name]) or module_file(folder, parts)
            assert found is not None, f"{name_of(path)}: cannot find {node.module}.{alias.name}"
            yield found


def absolute_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


@each_file()
def test_imports_point_down(path):
    assert unit_of(path) in ORDER, f"{name_of(path)} has no place in the order; give it one"
    own = ORDER.index(unit_of(path))
    for found in imported_files(path):
        assert found != PACKAGE / "__init__.py", f"{name_of(path)} imports the package's public names"
        assert ORDER.index(unit_of(found)) <= own, (
            f"{name_of(path)} imports {name_of(found)}, which is above it"
        )


def test_no_cycles():
    edges = {path: sorted({found for found in imported_files(path) if found != path}) for path in FILES}
    finished: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(map(name_of, (*above, path)))
        if path not in finished:
            for found in edges.get(path, []):
                visit(found, (*above, path))
            finished.add(path)

    for path in FILES:
        visit(path, ())


@each_file()
def test_no_foreign_program_and_no_unpickling(path):
    top = {name.split(".")[0] for name in absolute_imports(path)}
    assert not top & COMFY
    assert "oneshot_core" not in top, "the engine imports itself by relative names"
    if unit_of(path) == "checkpoints":
        return
    assert not top & PICKLING
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load"), f"{name_of(path)}:{node.lineno}"


@each_file()
def test_files_and_functions_stay_in_budget(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@each_file()
def test_the_library_writes_no_tensors(path):
    """Safetensors' own writer leaves a temporary of full size behind when the process is killed."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "safetensors.torch":
            assert not {alias.name for alias in node.names} & {"save", "save_file", "save_model"}


def test_every_public_name_is_there_and_is_listed():
    assert oneshot_core.__all__ == sorted(oneshot_core._HOMES)
    assert len(oneshot_core._HOMES) == sum(len(names.split()) for names in oneshot_core._MODULES.values())
    for name in oneshot_core.__all__:
        assert getattr(oneshot_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = oneshot_core.nothing


def test_the_type_checker_sees_the_same_public_names():
    guard = next(node for node in tree_of(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == oneshot_core._HOMES
