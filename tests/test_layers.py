"""Imports point one way: core, then attention and ssm, nn, the families, systems."""

import ast
from pathlib import Path

import notes_lib

ROOT = Path(notes_lib.__file__).parent
BLOCKS = {"core", "attention", "nn"}
ALLOWED = {
    "core": set(),
    "peft": set(),
    "algorithms": set(),
    "evaluation": set(),
    "data": set(),
    "attention": {"core"},
    "ssm": {"core"},
    "nn": {"core", "attention", "ssm"},
    **{name: BLOCKS for name in ("autoregressive", "diffusion", "latent", "adversarial", "text")},
    "flows": {"core", "nn", "autoregressive"},
}
ALLOWED["systems"] = set(ALLOWED) - {"data", "algorithms", "evaluation"}


def imported(path: Path) -> set[str]:
    """Packages of notes_lib that a module imports, relatively or by their full name."""
    found, depth = set(), len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("notes_lib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("notes_lib.")}
    return found


def test_imports_point_one_way():
    modules = [path for path in ROOT.rglob("*.py") if path.parent != ROOT]
    assert modules
    for path in modules:
        package = path.relative_to(ROOT).parts[0]
        assert package in ALLOWED, f"{package} is not in the architecture: add it here"
        assert imported(path) <= ALLOWED[package] | {package}, path


def test_only_viz_imports_matplotlib():
    for path in ROOT.rglob("*.py"):
        if path.name != "viz.py":
            assert "matplotlib" not in path.read_text(), path
