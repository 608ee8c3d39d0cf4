"""The public API: what is listed is there, documented, and shown by examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("atoll", "atoll.clients", "atoll.strategies", "atoll.attacks")
IMPORT = re.compile(r"^\s*(?:>>> )?(?:from|import)\s+(atoll[\w.]*)", re.MULTILINE)
# Arguments that a whole family of functions shares are documented at their first.
SEE_ALSO = re.compile(r"parameters are those of|As for :|as for :", re.IGNORECASE)


def _public() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for name in importlib.import_module(package).__all__:
            if not name.startswith("__"):
                yield package, name


PUBLIC = list(_public())


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_the_package_imports_for_type_checkers_and_lists(package: str) -> None:
    module = importlib.import_module(package)
    source = Path(module.__file__ or "").read_text()
    for_types = {
        alias.asname or alias.name
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    lazily = {name for names in module._MODULES.values() for name in names}
    assert for_types == lazily
    assert lazily <= set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_a_public_name_is_documented(package: str, name: str) -> None:
    value = getattr(importlib.import_module(package), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert (value.__doc__ or "").strip(), f"{package}.{name} has no docstring"
    # A field that a subclass gives another default is documented where it was introduced.
    kinds = inspect.getmro(value) if inspect.isclass(value) else (value,)
    text = "\n".join(kind.__doc__ or "" for kind in kinds)
    missing = [
        argument for argument in _arguments(value) if not re.search(rf"\b{argument}\b", text)
    ]
    assert not missing or SEE_ALSO.search(text), f"{package}.{name} does not document {missing}"


def _arguments(value: Any) -> list[str]:
    """Return a function's arguments; of a class, those fields that are its own."""
    if inspect.isclass(value):
        own = vars(value).get("__annotations__", {})
        return [
            n for n, kind in own.items() if not n.startswith("_") and "ClassVar" not in str(kind)
        ]
    parameters = inspect.signature(value).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_examples_in_docstrings_run(package: str, name: str) -> None:
    value = getattr(importlib.import_module(package), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for case in finder.find(value, name, module=False, globs={"__name__": "__main__"}):
        runner.run(case, out=report.append)
        for example in case.examples:
            used = re.match(IMPORT, f">>> {example.source}")
            assert used is None or used.group(1) in PACKAGES, f"{name} imports {used.group(1)}"
    assert runner.failures == 0, "".join(report)


# Their examples are shown and not run: they start Ray, or read a directory that a run has left.
NEED_A_RUN = {
    "RayGrid",
    "network_arrays",
    "open_run",
    "resume",
    "run",
    "run_arena",
    "run_attack",
    "run_audit",
    "run_labels",
    "run_membership",
    "run_rounds",
    "run_sweep",
    "run_unlearning",
}
# Their examples are shown and not run: they fetch weights, or read what a run has recorded.
NEED_FILES = {"LPIPS", "leaked_labels", "tokenizer_of"}
# Objects that Atoll makes and a user reads. What returns them has the example.
RETURNED = {
    "Arena": "load_arena",
    "AuditResult": "run_audit",
    "ArenaResult": "run_arena",
    "Diagnosis": "diagnose",
    "DomainGradients": "GradientStrategy",
    "LabelsRun": "run_labels",
    "MembershipRun": "run_membership",
    "Observation": "observe",
    "PersonalClient": "PersonalMethod",
    "Predictions": "open_run",
    "PublicData": "references_of",
    "RecordedRun": "open_run",
    "RunResult": "run",
    "Sweep": "load_sweep",
    "SweepResult": "run_sweep",
}


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_a_public_class_or_function_has_an_example_that_runs(package: str, name: str) -> None:
    value = getattr(importlib.import_module(package), name)
    is_error = inspect.isclass(value) and issubclass(value, Exception)
    if is_error or not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    if name in RETURNED:
        source = getattr(importlib.import_module(package), RETURNED[name])
        assert ">>>" in (source.__doc__ or ""), f"{RETURNED[name]} has no example"
        return
    examples = doctest.DocTestParser().get_examples(vars(value).get("__doc__") or value.__doc__)
    assert examples, f"{package}.{name} has no example"
    shown = [e for e in examples if e.want or doctest.SKIP in e.options]
    assert shown, f"the example of {package}.{name} shows no result"
    skipped = any(doctest.SKIP in example.options for example in examples)
    assert skipped == (name in NEED_A_RUN | NEED_FILES), f"{package}.{name}"


def test_importing_atoll_loads_neither_torch_nor_ray_nor_flower() -> None:
    program = (
        "import sys, atoll; assert 'RayGrid' in dir(atoll);"
        "print([name for name in ('torch', 'ray', 'flwr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_package_is_typed() -> None:
    module: ModuleType = importlib.import_module("atoll")
    assert (Path(module.__file__ or "").parent / "py.typed").is_file()


# What documents and runs from the outside: these files import the public API alone.
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    + [
        path
        for folder in ("docs", "experiments")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".md", ".toml", ".py"}
        and not {"_ext", "_build", "generated", "jupyter_execute"} & set(path.parts)
    ]
)
REFERENCE = re.compile(r"[\"'](atoll[\w.]*):\w+[\"']")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_import_the_public_api_alone(path: Path) -> None:
    text = path.read_text()
    named = {*IMPORT.findall(text), *REFERENCE.findall(text)}
    assert named <= set(PACKAGES), f"{path} names {sorted(named - set(PACKAGES))}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_that_documents_import_are_public(path: Path) -> None:
    pattern = re.compile(
        r"^\s*(?:>>> )?from (atoll[\w.]*) import (\([^)]*\)|[^\n#]*)", re.MULTILINE
    )
    for package, names in pattern.findall(path.read_text()):
        public = importlib.import_module(package).__all__
        unknown = {name.strip() for name in names.strip("()").split(",") if name.strip()} - {
            *public
        }
        assert not unknown, f"{path} imports {sorted(unknown)} from {package}"


# A path in backticks, or in a command; generated ones and patterns are left out.
NAMED_PATH = re.compile(
    r"(?<![\w/.-])((?:atoll|tests|docs|experiments|benchmarks|deploy)/[\w./-]*\w)"
    r"(?![\w./-]*[{*])"
)


@pytest.mark.parametrize(
    "path",
    [p for p in [*DOCUMENTS, ROOT / "ARCHITECTURE.md", ROOT / "SECURITY.md"] if p.suffix == ".md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_that_documents_name_are_there(path: Path) -> None:
    named = {name for name in NAMED_PATH.findall(path.read_text()) if "_build" not in name}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"{path} names {missing}"
