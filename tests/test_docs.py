"""The documentation says what the code does: pages, commands, keys, examples and links fail here when they drift."""

import itertools
import re
import runpy
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from paths import ROOT
from seodang.cli import app
from seodang.data.read import column_names
from seodang.data.read.convert import convert
from seodang.data.read.layout import find_layout
from seodang.data.read.sources import read
from seodang.model import packaged
from seodang.recipe import Recipe, Source, load_recipe
from seodang.run.folder import REPORT
from seodang.serve.session import COMMANDS

DOCS = ROOT / "docs"
MOST_ITEMS = 20  # of a numbered list
PAGES = sorted([*ROOT.glob("README*.md"), *DOCS.rglob("*.md")])
RUN_ELSEWHERE = {
    "langchain.md",
    "notebook.md",
    "judge.md",
    "README.ko.md",
}  # by their own tests; the last mirrors README.md
BLOCK = re.compile(r"^(?:<!-- rows: (\w+) -->\n)?```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SOUND = {
    "name": "sound",
    "model": "package:gemma-3-270m",
    "sources": [
        {"name": "medical", "role": "domain", "path": "sample:ko_medical"},
        {"name": "general", "role": "general", "path": "sample:ko_general"},
    ],
}
generate = runpy.run_path(str(DOCS / "generate.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for _, language, body in BLOCK.findall(text_of(page)) if language in languages]


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text_of(page)))


def command_lines(page: Path) -> Iterator[str]:
    """Every `seodang …` in a block or between backticks."""
    for line in "".join(blocks(page, "", "sh", "bash", "console")).splitlines():
        yield from re.findall(r"(?:^|\| |\$ )(seodang .*)", line)
    for span in code_spans(page):
        yield from re.findall(r"(?:^|\| )(seodang .*)", span)


def is_key(dotted: str) -> bool:
    """Whether a dotted key leads somewhere in a recipe; the items of a list are named."""
    model: type[BaseModel] | None = Recipe
    parts = dotted.split(".")
    while parts:
        field = model.model_fields.get(parts.pop(0)) if model else None
        if field is None:
            return False
        model = next(generate["_models"](field.annotation), None)
        if model and "tuple" in str(field.annotation) and parts:
            parts.pop(0)
    return True


@pytest.mark.parametrize("name", generate["pages"]())
def test_generated_pages_are_up_to_date(name: str) -> None:
    """docs/ holds what docs/generate.py would write now."""
    assert text_of(DOCS / name) == generate["pages"]()[name], "run python docs/generate.py"


def test_every_key_of_a_recipe_is_described() -> None:
    """The recipe reference leaves no cell of its last column empty."""
    for path, model in generate["sections"]():
        for name, field in model.model_fields.items():
            assert generate["_description"](path, name, field), f"{path}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_name_commands_and_options_that_there_are(page: Path) -> None:
    """Commands, options and KEY=VALUE changes in the documentation are known to the command line."""
    commands: Any = generate["typer"].main.get_command(app).commands
    for line in command_lines(page):
        words = shlex.split(re.sub(r"\s#.*", "", line))[1:]
        if words[0] == "COMMAND" or words[0].startswith(("-", "…")):
            continue
        assert words[0] in commands, line
        parameters = commands[words[0]].params
        known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)} | {"--help"}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, line
            elif re.match(r"[a-z_.]+=", word):
                assert is_key(word.partition("=")[0]), line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_keys_between_backticks_are_keys_of_a_recipe(page: Path) -> None:
    """`train.max_tokens` and its like exist."""
    sections = "|".join(
        name for name, field in Recipe.model_fields.items() if any(generate["_models"](field.annotation))
    )
    for span in code_spans(page):
        found = re.fullmatch(rf"((?:{sections})\.[a-z_.]+)(?:[:=].*)?", span)
        if found and span != REPORT:
            assert is_key(found[1]), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_blocks_are_sound_recipes_or_parts_of_one(page: Path) -> None:
    """Each block is a recipe, or becomes one together with what it leaves out."""
    for block in blocks(page, "yaml"):
        load_recipe({**SOUND, **yaml.safe_load(block)})


def test_example_rows_are_read_as_the_page_says(tmp_path: Path) -> None:
    """Each example of formats.md is read as its format, and no row of it is dropped."""
    examples = [found for found in BLOCK.findall(text_of(DOCS / "formats.md")) if found[0]]
    assert {form for form, _, _ in examples} == {
        *("qa", "alpaca", "messages", "sharegpt", "prompt_completion", "text"),
    }
    for form, language, body in examples:
        file = tmp_path / f"rows.{language}"
        file.write_text(body, encoding="utf-8")
        source = Source(name="rows", role="domain", path=(str(file),))
        assert find_layout(read(source), source).format == form
        rows, counts = convert(read(source), source)
        assert len(rows) == counts.rows_in == counts.kept


def test_every_known_column_name_is_listed() -> None:
    """formats.md lists the names by which columns are known."""
    spans = set(code_spans(DOCS / "formats.md"))
    known = (
        column_names.QUESTION
        | column_names.ANSWER
        | column_names.CONTEXT
        | column_names.TURNS
        | column_names.TEXT
        | column_names.SYSTEM
        | column_names.TOOLS
    )
    assert known <= spans


def test_every_command_of_a_chat_is_listed() -> None:
    """quickstart.md lists the commands that seodang chat knows, and no other."""
    listed = re.findall(r"`/(\w+)[^`]*`", text_of(DOCS / "quickstart.md"))
    assert set(listed) == set(COMMANDS)


def test_extras_exist() -> None:
    """What `pip install -e '.[…]'` names is in pyproject.toml."""
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"(?:\.|seodang)\[([\w,]+)\]", text_of(page)):
            assert set(named.split(",")) <= set(extras), f"{page}: {named}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_name_their_columns_and_no_number_begins_a_line(page: Path) -> None:
    """A screen reader announces a cell by its column; a wrapped line that begins with `130. ` becomes a list."""
    lines = BLOCK.sub("", text_of(page)).splitlines()
    for number, (line, after) in enumerate(itertools.pairwise(lines), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if after.startswith("|") and not set(after) - set("|-: "):
            assert all(cells) or not any(cells), f"{page}:{number}: {line}"
        begins = re.match(r"\s*(\d+)\. ", after)
        assert not begins or int(begins[1]) < MOST_ITEMS, f"{page}:{number + 1}: {after}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_internal_links_resolve(page: Path) -> None:
    """Linked files exist, and so do the headings that links name."""
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text_of(page))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if DOCS in page.parents:
            assert linked.is_relative_to(DOCS), f"{target} is not on the site"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text_of(linked)), re.MULTILINE)
            assert anchor in {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}, target


def test_the_site_lists_every_page() -> None:
    """Each page of docs/ stands in mkdocs.yml, and each page there exists."""

    def listed(entries: Any) -> Iterator[str]:
        if isinstance(entries, str):
            yield entries
        else:
            for entry in entries.values() if isinstance(entries, dict) else entries:
                yield from listed(entry)

    nav = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))["nav"]
    assert sorted(listed(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_the_two_readmes_mirror_each_other() -> None:
    """README.ko.md has the sections, links, commands and keys of README.md."""
    english, korean = (ROOT / "README.md"), (ROOT / "README.ko.md")
    for what in (
        lambda page: [len(mark) for mark in re.findall(r"^(#+) ", text_of(page), re.MULTILINE)],
        lambda page: sorted(set(re.findall(r"\]\((\w+/[^)]+|http[^)]+)\)", text_of(page)))),
        lambda page: [line.partition(" (")[0] for line in command_lines(page)],
        lambda page: [yaml.safe_load(block) for block in blocks(page, "yaml")],
        lambda page: blocks(page, "python"),
    ):
        assert what(english) == what(korean)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page.name not in RUN_ELSEWHERE], ids=name_of
)
def test_python_blocks_run(
    page: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of a page runs from top to bottom, with a tiny random model as the packaged one and as the demo's."""
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_folder, tmp_path / "cache" / "models" / f"gemma-3-270m-v{packaged._CONVERSION}")
    monkeypatch.chdir(tmp_path)
    if "runs/demo" in "".join(blocks(page, "python")):
        exec("from seodang import load_recipe, tune; tune(load_recipe('demo', ['train.steps=1', 'ask.holdout=1']))", {})
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, name_of(page), "exec"), namespace)
    assert capsys.readouterr().out
