"""Files and functions stay within their limits; no modules and no packages of `src` import each other."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"

MOST_SOURCE_LINES = 500
MOST_TEST_LINES = 600
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 7

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _long_files(folder: Path, most: int) -> list[str]:
    counts = {path.relative_to(folder.parent): len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
    return [f"{path}: {count} lines" for path, count in sorted(counts.items()) if count > most]


@cache
def _functions(folder: Path) -> list[tuple[str, Function, bool]]:
    """Return place (`file:line name`) and node of each function, and True if it is a method."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        tree = _parsed(path)
        methods = {id(node) for scope in ast.walk(tree) if isinstance(scope, ast.ClassDef) for node in scope.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((f"{path.relative_to(folder)}:{node.lineno} {node.name}", node, id(node) in methods))
    return found


def _parameters(function: Function, method: bool) -> list[ast.arg]:
    """Return the parameters without `self` and `cls`; `*args` and `**options` count."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.decorator_list)
    return [each for each in every if each is not None][1 if method and not static else 0 :]


def _has_options(function: Function) -> bool:
    """Return True if an annotation or a default of a parameter is a Typer option or argument."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    parts = [*(each.annotation for each in every), *given.defaults, *given.kw_defaults]
    calls = [node for part in parts if part for node in ast.walk(part) if isinstance(node, ast.Call)]
    return any(ast.unparse(call.func) in ("typer.Option", "typer.Argument") for call in calls)


# Imports -------------------------------------------------------------------------------------------------------------

Imports = dict[str, dict[str, int]]
"""The imported modules of each module, each with the first line that imports it."""


@cache
def _imports(source: Path) -> Imports:
    """Return all imports between the modules of a folder, those in functions and under TYPE_CHECKING included.

    `from package import name` imports the module `package.name` if it exists, otherwise the package. An import of
    `a.b.c` does not count as an import of `a` and `a.b`.
    """
    paths = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: Imports = {}
    for module, path in paths.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found[module] = {}
        for node in ast.walk(_parsed(path)):
            if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
                continue
            for target in _targets(node, package, paths):
                if target in paths and target != module:
                    found[module][target] = min(node.lineno, found[module].get(target, node.lineno))
    return found


def _targets(node: ast.Import | ast.ImportFrom | ast.Call, package: str, modules: Mapping[str, Path]) -> list[str]:
    """Return the modules that a node of a module in `package` imports; [] if it is no import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        names = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in modules else base for name in names]
    if "import_module" not in (getattr(node.func, "attr", ""), getattr(node.func, "id", "")):
        return []
    return [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _cycles(imports: Imports) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in imports[module]:
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            at = stack.index(module)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                cycles.append(sorted(component))

    for module in imports:
        if module not in order:
            visit(module)
    return sorted(cycles)


def _between_packages(imports: Imports, depth: int) -> Imports:
    """Return the imports between the packages with `depth` parts, each with the imported modules of its modules.

    Each module belongs to its package with `depth` parts. A module of a shorter package belongs to none.
    """
    parents = {module.rpartition(".")[0] for module in imports}

    def package_of(module: str) -> str | None:
        parts = (module if module in parents else module.rpartition(".")[0]).split(".")
        return ".".join(parts[:depth]) if len(parts) >= depth else None

    found: Imports = {}
    for module, targets in imports.items():
        package = package_of(module)
        if package is None:
            continue
        of_package = found.setdefault(package, {})
        for target, line in targets.items():
            other = package_of(target)
            if other is not None and other != package:
                of_package.setdefault(other, line)
    return found


def _report(cycle: list[str], imports: Imports) -> str:
    lines = [
        f"  {module}:{line} imports {target}"
        for module in cycle
        for target, line in sorted(imports[module].items())
        if target in cycle
    ]
    return "\n".join([f"{len(cycle)} modules import each other:", *lines])


# Checks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "most"), [(SOURCE, MOST_SOURCE_LINES), (TESTS, MOST_TEST_LINES)])
def test_no_file_is_too_long(folder: Path, most: int) -> None:
    long = _long_files(folder, most)
    assert not long, "\n".join(long)


def test_no_function_is_too_long() -> None:
    lengths = {place: (node.end_lineno or node.lineno) - node.lineno + 1 for place, node, _ in _functions(SOURCE)}
    long = [f"{place}: {length} lines" for place, length in lengths.items() if length > MOST_FUNCTION_LINES]
    assert not long, "\n".join(long)


def test_no_function_except_a_command_has_too_many_parameters() -> None:
    many = [
        f"{place}: {len(_parameters(node, method))} parameters"
        for place, node, method in _functions(SOURCE)
        if len(_parameters(node, method)) > MOST_PARAMETERS and not _has_options(node)
    ]
    assert not many, "\n".join(many)


def test_no_modules_import_each_other() -> None:
    imports = _imports(SOURCE)
    cycles = [_report(cycle, imports) for cycle in _cycles(imports)]
    assert not cycles, "\n".join(cycles)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_no_packages_import_each_other(depth: int) -> None:
    imports = _between_packages(_imports(SOURCE), depth)
    cycles = [_report(cycle, imports) for cycle in _cycles(imports)]
    assert not cycles, "\n".join(cycles)


# The checks themselves -----------------------------------------------------------------------------------------------


def test_cycles_of_every_kind_of_import_are_found(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from room import a",
        "a.py": "import room.b\nfrom . import lone",
        "b.py": "def later():\n    from .inner.c import name",
        "inner/__init__.py": "",
        "inner/c.py": "if TYPE_CHECKING:\n    from ..a import Name\nfrom room.inner import d",
        "inner/d.py": "import importlib\nimportlib.import_module('room.inner.c')",
        "lone.py": "import json\nfrom room.inner import nothing",
    }
    for name, text in files.items():
        path = tmp_path / "room" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    imports = _imports(tmp_path)
    assert _cycles(imports) == [["room.a", "room.b", "room.inner.c", "room.inner.d"]]
    assert _report(["room.a", "room.b", "room.inner.c", "room.inner.d"], imports) == (
        "4 modules import each other:\n"
        "  room.a:1 imports room.b\n"
        "  room.b:2 imports room.inner.c\n"
        "  room.inner.c:2 imports room.a\n"
        "  room.inner.c:3 imports room.inner.d\n"
        "  room.inner.d:2 imports room.inner.c"
    )
    assert imports["room.lone"] == {"room.inner": 2}


def test_cycles_of_packages_without_a_cycle_of_modules_are_found() -> None:
    imports = {
        "room": {}, "room.lone": {"room.a.one": 1},
        "room.a": {}, "room.a.one": {"room.b.one": 2}, "room.a.two": {},
        "room.b": {}, "room.b.one": {}, "room.b.two": {"room.a.two": 3, "room.lone": 4},
    }  # fmt: skip
    assert _cycles(imports) == []
    packages = _between_packages(imports, 2)
    assert packages == {"room.a": {"room.b": 2}, "room.b": {"room.a": 3}}
    assert _cycles(packages) == [["room.a", "room.b"]]


def test_self_does_not_count_as_a_parameter_and_a_command_is_exempt() -> None:
    tree = ast.parse(
        "class A:\n"
        "    def method(self, a, /, b, *rest, c, **more): ...\n"
        "    @staticmethod\n"
        "    def static(a, b): ...\n"
        "def command(a: Annotated[str, typer.Option('--a')]): ...\n"
        "def old_command(a=typer.Argument()): ...\n"
    )
    scope, command, old_command = tree.body
    assert isinstance(scope, ast.ClassDef)
    method, static = scope.body
    for function, count in ((method, 5), (static, 2)):
        assert isinstance(function, ast.FunctionDef)
        assert len(_parameters(function, True)) == count
        assert not _has_options(function)
    for function in (command, old_command):
        assert isinstance(function, ast.FunctionDef)
        assert len(_parameters(function, False)) == 1
        assert _has_options(function)
