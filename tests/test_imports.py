"""Imports point one way: what design rule 2 says, checked on the source without running it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "thingstuff"
VOCABULARY = {"structures", "labels", "errors"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((SOURCE / PACKAGE).rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def nodes(tree: ast.AST, *, at_import_time: bool) -> Iterator[ast.AST]:
    """Every node; or only those that run when the module is imported."""
    for child in ast.iter_child_nodes(tree):
        yield child
        if at_import_time and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import_time and isinstance(child, ast.If) and is_type_checking(child):
            for other in child.orelse:
                yield other
                yield from nodes(other, at_import_time=True)
            continue
        yield from nodes(child, at_import_time=at_import_time)


def imports(name: str, *, at_import_time: bool = False) -> set[str]:
    """Modules that a module of the package imports anywhere, also lazily and for type checking."""
    found = set()
    for node in nodes(ast.parse(FILES[name].read_text(encoding="utf-8")), at_import_time=at_import_time):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: write the full name instead of a relative import"
            assert node.module is not None
            # `from package import module` imports the module, `from module import name` does not import a name.
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(full & FILES.keys() or {node.module})
    return found


def own(name: str) -> set[str]:
    """What a module imports of the package, as the parts of the name behind the package's."""
    return {module.removeprefix(f"{PACKAGE}.") for module in imports(name) if module.split(".")[0] == PACKAGE}


def modules_of(folder: str) -> list[str]:
    modules = [name for name in FILES if name.startswith(f"{PACKAGE}.{folder}")]
    assert modules, f"no module in {folder}"
    return modules


def folder_of(module: str) -> str:
    return module.split(".")[0]


def test_the_walk_sees_imports_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport numpy as np\nfrom thingstuff import labels\n"
        "from thingstuff.model.boxes import iou\nif TYPE_CHECKING:\n    import torch\nelse:\n    import json\n"
        "def f():\n    import yaml\n    class C:\n        from thingstuff.data.coco import x\n",
        encoding="utf-8",
    )
    monkeypatch.setitem(FILES, "sample", path)
    always = {"typing", "numpy", "thingstuff.labels", "thingstuff.model.boxes", "json"}
    assert imports("sample") == always | {"torch", "yaml", "thingstuff.data.coco"}
    assert imports("sample", at_import_time=True) == always
    assert own("sample") == {"labels", "model.boxes", "data.coco"}


@pytest.mark.parametrize("name", modules_of("structures") + modules_of("errors"))
def test_the_vocabulary_imports_nothing_of_ours(name: str) -> None:
    assert own(name) == set()


def test_labels_import_errors_alone() -> None:
    assert own(f"{PACKAGE}.labels") <= {"errors"}


@pytest.mark.parametrize("name", modules_of("model"))
def test_the_model_knows_neither_data_nor_training_nor_evaluation_nor_recipes(name: str) -> None:
    allowed = VOCABULARY | ({"recipe", "recipe_model"} if name == f"{PACKAGE}.model.build" else set())
    assert {module for module in own(name) if folder_of(module) != "model"} <= allowed


@pytest.mark.parametrize("name", modules_of("data"))
def test_data_know_the_vocabulary_alone(name: str) -> None:
    assert {module for module in own(name) if folder_of(module) != "data"} <= VOCABULARY


@pytest.mark.parametrize("name", modules_of("evaluation"))
def test_evaluation_knows_the_vocabulary_alone_and_no_torch(name: str) -> None:
    assert {module for module in own(name) if folder_of(module) != "evaluation"} <= VOCABULARY
    assert not {module for module in imports(name) if module.split(".")[0] in ("torch", "torchvision", "timm")}


@pytest.mark.parametrize("name", ["objective", "losses", "targets", "optim"])
def test_what_is_learned_does_not_know_where_pictures_come_from(name: str) -> None:
    folders = {folder_of(module) for module in own(f"{PACKAGE}.training.{name}")}
    assert folders <= VOCABULARY | {"recipe", "model", "training"}


@pytest.mark.parametrize("name", modules_of("training"))
def test_training_does_not_know_how_it_is_called_or_shown(name: str) -> None:
    folders = {folder_of(module) for module in own(name)}
    assert not folders & {"cli", "commands", "demo", "convert", "evaluation", "report", "viz", "serve", "export"}


def test_the_schema_knows_the_vocabulary_alone() -> None:
    assert own(f"{PACKAGE}.recipe_model") <= VOCABULARY
    assert own(f"{PACKAGE}.recipe") <= VOCABULARY | {"recipe_model"}


@pytest.mark.parametrize("name", modules_of("recipes"))
def test_recipes_know_the_schema_alone(name: str) -> None:
    folders = {folder_of(module) for module in own(name)}
    assert folders <= VOCABULARY | {"recipe", "recipe_model", "recipes"}


def test_no_two_modules_import_each_other() -> None:
    graph = {name: {module for module in imports(name, at_import_time=True) if module in FILES} for name in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize("name", ["structures", "labels", "errors"])
def test_the_vocabulary_does_not_import_torch(name: str) -> None:
    assert "torch" not in imports(f"{PACKAGE}.{name}", at_import_time=True)
