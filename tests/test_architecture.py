"""The arrows between the four packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "lens_core": ROOT / "core" / "lens_core",
    "lens_reasoner": ROOT / "reasoner" / "lens_reasoner",
    "lens_prompt_opt": ROOT / "prompt_opt" / "lens_prompt_opt",
    "lens_sdk": ROOT / "lens_sdk" / "lens_sdk",
}
ALLOWED = {
    "lens_core": set(),
    "lens_reasoner": set(),
    "lens_prompt_opt": {"lens_reasoner"},
    "lens_sdk": {"lens_core", "lens_reasoner", "lens_prompt_opt"},
}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors"}
MAY_LOAD_PIPELINES = {"diffusers.py", "diffusers_loading.py"}
LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _imports(tree: ast.AST) -> Iterator[str]:
    """Top-level names of everything imported anywhere, under TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            yield from (
                argument.value.split(".")[0]
                for argument in node.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def _trees(package: str) -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for path in PACKAGES[package].rglob("*.py")
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_their_arrows_allow(package: str) -> None:
    trees = _trees(package)
    assert trees
    others = PACKAGES.keys() - {package} - ALLOWED[package]
    wrong = {
        str(path.relative_to(ROOT)): found
        for path, tree in trees.items()
        if (found := others & set(_imports(tree)))
    }
    assert wrong == {}


def test_the_reasoner_and_the_optimiser_know_no_torch() -> None:
    for package in ("lens_reasoner", "lens_prompt_opt"):
        for path, tree in _trees(package).items():
            if path.name not in MAY_LOAD_PIPELINES:
                assert not HEAVY & set(_imports(tree)), path


def test_the_adapter_of_pipelines_brings_torch_only_when_it_draws() -> None:
    for path, tree in _trees("lens_reasoner").items():
        if path.name in MAY_LOAD_PIPELINES:
            at_import = ast.Module([n for n in tree.body if not isinstance(n, LATER)], [])
            assert not HEAVY & set(_imports(at_import))
            assert HEAVY & set(_imports(tree))


def test_the_check_sees_every_kind_of_import() -> None:
    code = """
import a.b, c
from d.e import f
from . import g
def late():
    from h import i
    import_module("j.k")
"""
    assert set(_imports(ast.parse(code))) == {"a", "c", "d", "h", "j"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file()
