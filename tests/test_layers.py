"""The architecture holds: layers, single importers, sizes, names."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from picture import layers, stages

from paths import ROOT

SOURCE = ROOT / "src" / "seodang"
LAYERS = {name: height for height, names in enumerate(layers()) for name in names}
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_MODULES, MOST_LINES, MOST_FUNCTION_LINES = 15, 450, 60  # of a folder, a module, a function
LATE_IMPORTERS = {"pipeline.py", "__init__.py", "serve/chat_model.py"}  # what the call at hand needs
LATE_PACKAGES = {  # optional, or needed by some calls only and slow to import
    *("peft", "bitsandbytes", "flash_attn", "gguf", "prompt_toolkit", "datasets", "matplotlib", "sacrebleu", "torch"),
    *("transformers", "jinja2", "rich", "filelock", "pyarrow", "safetensors", "tokenizers", "xllamacpp", "httpx"),
    *("wandb", "mlflow", "trackio", "huggingface_hub"),
}


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imported(node: ast.AST) -> list[tuple[str, str]]:
    """(module, name) of every import in a statement."""
    if isinstance(node, ast.Import):
        return [(alias.name, "") for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [(node.module, alias.name) for alias in node.names]
    return []


@cache
def _imports(path: Path) -> tuple[tuple[str, str], ...]:
    """Every import of a module, also those inside functions and for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(found for node in ast.walk(tree) for found in _imported(node))


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_package_stands_in_one_layer() -> None:
    """docs/architecture.md lists each package and each module at the top, and nothing that is not there."""
    assert {_package(path) for path in MODULES} - {"__init__"} == set(LAYERS)
    assert sum(map(len, layers())) == len(LAYERS)


def test_the_pipeline_names_its_stages_as_the_documentation_does() -> None:
    """The line of stages is the same in pipeline.py, in docs/architecture.md and on the site's first page."""
    line = " → ".join(stages())
    for file in (SOURCE / "pipeline.py", ROOT / "docs" / "index.md"):
        assert line in file.read_text(encoding="utf-8"), file


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_imports_its_own_package_and_the_layers_below(path: Path) -> None:
    """No module imports from above, or from another package in its layer; __init__.py hands out names from anywhere."""
    package = _package(path)
    if package == "__init__":
        return
    for module, name in _imports(path):
        if module == "seodang":
            other = name
        elif module.startswith("seodang."):
            other = module.split(".")[1]
        else:
            continue
        assert other == package or LAYERS[other] < LAYERS[package], f"{path}: {package} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    """No module has more than 450 lines, no function more than 60."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    for node in _functions(path):
        assert (node.end_lineno or 0) - node.lineno < MOST_FUNCTION_LINES, f"{path}:{node.lineno}: {node.name}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_stand_at_the_top(path: Path) -> None:
    """Few modules import seodang's own late; others import late what is optional or slow."""
    if _name(path) in LATE_IMPORTERS or _package(path) == "cli":
        return
    for function in _functions(path):
        for module, _ in (pair for node in ast.walk(function) for pair in _imported(node)):
            assert module.split(".")[0] in LATE_PACKAGES, f"{path}: {function.name} imports {module}"


def test_folders_stay_small_and_names_are_found() -> None:
    """No folder holds more than 15 modules, no two modules share a name, and none hides a package of another folder."""
    modules = [path for path in MODULES if path.name != "__init__.py"]
    sizes = Counter(path.parent for path in modules)
    assert not {folder: count for folder, count in sizes.items() if count > MOST_MODULES}
    twice = {name for name, count in Counter(path.stem for path in modules).items() if count > 1}
    assert not twice
    packages = {path.parent for path in MODULES if path.name == "__init__.py"} - {SOURCE}
    for path in modules:
        for package in packages:
            assert path.stem != package.name or path.parent == package, f"{path} bears the name of {package}"


def _importers(wanted: str, names: set[str] | None = None) -> set[str]:
    """Modules that import a package, or of it only some names."""
    return {
        _name(path)
        for path in MODULES
        for module, name in _imports(path)
        if re.match(rf"{wanted}(\.|$)", module) and (names is None or name in names)
    }


def test_single_importers() -> None:
    """trainer.py alone imports transformers.Trainer, the package cli alone the command-line library."""
    assert _importers("transformers", {"Trainer"}) == {"train/trainer.py"}
    assert {name.split("/")[0] for name in _importers("typer") | _importers("click")} == {"cli"}


def test_few_modules_reach_the_hub() -> None:
    """Data sets, models and uploads have one module each, as has the first question: nobody else fetches or sends."""
    calls = {"load_dataset", "load_dataset_builder", "cached_file", "hf_hub_download", "snapshot_download", "HfApi"}
    calls |= {"get_session"}
    reach = {
        _name(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id in calls) or (isinstance(node, ast.Attribute) and node.attr in calls)
    }
    assert reach == {
        *("hub_access/contact.py", "data/read/containers/hub_dataset.py"),
        *("model/load.py", "publish/hub.py"),
    }


def test_few_modules_ask_other_servers() -> None:
    """A judge and what is verified are asked by one module each; the servers that seodang starts by serve/server.py."""
    asking = _importers("httpx") | _importers("urllib.request") | _importers("http.client")
    assert asking == {"judge/client.py", "serve/verify/endpoint.py", "serve/server.py"}


def test_rows_know_no_torch() -> None:
    """Nothing in data/, check/, judge/ and starter/ imports torch, not even late."""
    assert not {name for name in _importers("torch") if name.startswith(("data/", "check/", "judge/", "starter/"))}


def test_showing_loads_no_model() -> None:
    """show/ takes values, whatever they come from: it imports neither torch nor transformers."""
    assert not {name for name in _importers("torch") | _importers("transformers") if name.startswith("show/")}


def test_modules_import_without_cycles() -> None:
    """Imports at the top of modules form no cycle."""
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        name = "seodang." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        top = ast.parse(path.read_text(encoding="utf-8")).body
        graph[name] = {
            target
            for node in top
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seodang.")
            for target in (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
        }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above, name))
        if name in graph and name not in done:
            for target in graph[name]:
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())
