"""Prepared rows are found again by the next start, and nothing else is."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

import seodang
from command import json_lines
from command import seodang as command
from seodang.check.audit import audit
from seodang.data import row_cache as module
from seodang.data.prepare import Prepared, RenderedSources, gather, mix_sources, render_sources
from seodang.data.row_cache import ENTRY, Store, code_hash, rows_key, sources_key
from seodang.data.template.find import apply_template, find_template
from seodang.data.template.renderer import Renderer
from seodang.errors import SourceError
from seodang.recipe import Recipe, Template, load_recipe
from seodang.types import IGNORED


def _rows(count: int, thought: str | None = None) -> list[dict[str, object]]:
    answer = {"role": "assistant", "content": "물과 함께 드세요."} | ({"reasoning_content": thought} if thought else {})
    return [
        {
            "messages": [
                {"role": "user", "content": f"{n}번 약은 어떻게 먹나요?" + " 네?" * (n % 5)},
                {**answer, "content": f"{n}번."},
            ]
        }
        for n in range(count)
    ]


def _recipe(folder: Path, **changes: object) -> Recipe:
    for name, count in (("medical", 40), ("general", 30)):
        if not (folder / f"{name}.jsonl").exists():
            (folder / f"{name}.jsonl").write_text(json_lines(_rows(count)), encoding="utf-8")
    sources = [
        {"name": "medical", "role": "domain", "path": str(folder / "medical.jsonl"), "holdout": 5},
        {"name": "general", "role": "general", "path": str(folder / "general.jsonl"), "holdout": 5},
    ]
    base = {"name": "x", "model": "none", "sources": sources, "train": {"max_tokens": 64}}
    return load_recipe(base | changes)


@pytest.fixture
def renderer(tiny_tokenizer: PreTrainedTokenizerFast) -> Renderer:
    template = find_template(
        tiny_tokenizer, Template(borrow="chatml"), num_embeddings=512, load_tokenizer=lambda _: tiny_tokenizer
    )
    apply_template(tiny_tokenizer, template)
    return Renderer(tiny_tokenizer, template)


class _Maker:
    """Makes what a store asks for, and counts how often."""

    def __init__(self, recipe: Recipe, renderer: Renderer) -> None:
        self.recipe, self.renderer, self.times = recipe, renderer, 0

    def __call__(self, folder: Path | None) -> RenderedSources:
        self.times += 1
        gathered = gather(self.recipe.sources, self.recipe.split)
        gathered = replace(gathered, findings=tuple(audit(gathered.splits, self.recipe.split)))
        settings = self.recipe.train
        return render_sources(
            gathered, self.renderer, max_tokens=settings.max_tokens, too_long=settings.too_long, into=folder
        )


def _join(recipe: Recipe, rendered: RenderedSources) -> Prepared:
    return mix_sources(rendered, recipe.mix, max_tokens=recipe.train.max_tokens)


def _key(recipe: Recipe, renderer: Renderer) -> str:
    settings = recipe.train
    sources = sources_key(recipe.sources, recipe.split)
    return rows_key(sources, renderer, max_tokens=settings.max_tokens, too_long=settings.too_long)


@pytest.fixture
def warnings() -> list[str]:
    return []


def _same(one: Prepared, other: Prepared) -> bool:
    """In rows and in all that is shown."""
    shown = [(p.lengths, p.samples) for p in (one, other)]
    facts = [json.dumps([[asdict(x) for x in (*p.counts, *p.findings)]], ensure_ascii=False) for p in (one, other)]
    sides = [[one.rows[side][:], other.rows[side][:]] for side in ("train", "holdout")]
    tests = [[p.holdouts[name][:] for name in ("medical", "general")] for p in (one, other)]
    return shown[0] == shown[1] and facts[0] == facts[1] and all(a == b for a, b in sides) and tests[0] == tests[1]


def test_the_second_time_nothing_is_made_and_everything_is_the_same(
    tmp_path: Path, renderer: Renderer, warnings: list[str]
) -> None:
    """Rows, order, counts with their dropped rows, findings, lengths and first rows."""
    recipe = _recipe(tmp_path, train={"max_tokens": 48})
    make, store = _Maker(recipe, renderer), Store(tmp_path / "prepared", warnings.append)
    fresh = _join(recipe, make(None))
    first, second = (_join(recipe, store.get("a-b", make)) for _ in range(2))
    assert make.times == 2
    assert any(counts.notes and counts.stage == "render" for counts in second.counts)
    assert _same(first, second)
    assert _same(fresh, first)
    assert first.rows["train"][0]["labels"].count(IGNORED) > 0
    rendered = {(c.source, c.stage): c for c in first.counts}
    for name in ("medical", "general"):  # each split counts its own
        for split, stage in (("train", "render"), ("holdout", "render holdout")):
            cut = first.lengths.cut if split == "train" else first.lengths.cut_holdout
            assert cut[name] == sum(rendered[name, stage].dropped.values())
        assert first.lengths.cut[name] > 0
    assert warnings == []
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.is_dir()] == ["a-b"]


def test_another_mix_of_the_same_rows_makes_nothing(tmp_path: Path, renderer: Renderer, warnings: list[str]) -> None:
    """Shares, seeds and training settings are no part of the rows."""
    one = _recipe(tmp_path)
    other = _recipe(tmp_path, mix={"seed": 1, "medical": 0.8, "general": 0.2}, train={"max_tokens": 64, "epochs": 9})
    keys = {_key(recipe, renderer) for recipe in (one, other)}
    assert len(keys) == 1
    make, store = _Maker(one, renderer), Store(tmp_path / "prepared", warnings.append)
    rows = [_join(recipe, store.get("a-b", make)).rows["train"]["row_id"][:] for recipe in (one, other)]
    assert rows[0] != rows[1]
    assert make.times == 1


def _edit(folder: Path) -> Recipe:
    """One letter of one row, with size and time of the file as they were."""
    path = folder / "general.jsonl"
    known = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace("7번.", "8번.", 1), encoding="utf-8")
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns + 1))
    assert path.stat().st_size == known.st_size
    return _recipe(folder)


@pytest.mark.parametrize(
    "change",
    [
        _edit,
        lambda folder: _recipe(folder, split={"by": "row"}),
        lambda folder: _recipe(folder, split={"seed": 7}),
        lambda folder: _recipe(folder, train={"max_tokens": 63}),
        lambda folder: _recipe(folder, train={"max_tokens": 64, "too_long": "cut_question"}),
    ],
    ids=["one letter", "split by", "split seed", "max_tokens", "too_long"],
)
def test_whatever_makes_other_rows_has_another_key(
    change: Callable[[Path], Recipe], tmp_path: Path, renderer: Renderer
) -> None:
    """Contents and settings."""
    recipe = _recipe(tmp_path)
    before = _key(recipe, renderer)
    changed = change(tmp_path)
    assert _key(changed, renderer) != before


def test_tokenizer_template_and_system_are_part_of_the_key(tmp_path: Path, renderer: Renderer) -> None:
    """One more token, another system text, other supervised tokens."""
    tokenizer, template = renderer.tokenizer, renderer.template
    others = [Renderer(tokenizer, template, system="친절하게."), Renderer(tokenizer, template, loss_on="all")]
    keys = [rows_key("s", made, max_tokens=64, too_long="drop") for made in (renderer, *others)]
    tokenizer.add_tokens(["<새>"])
    keys.append(rows_key("s", renderer, max_tokens=64, too_long="drop"))
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    "changed",
    ["data/split.py", "data/read/convert.py", "data/encode/mask.py", "data/template/renderer.py", "check/audit.py"],
)
def test_another_line_of_code_gives_another_key(changed: str, tmp_path: Path) -> None:
    """Code in data/, in its subpackages and of the audit is part of the key; that of other packages is not."""
    package = tmp_path / "seodang"
    shutil.copytree(Path(seodang.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "samples"))
    before = code_hash(package)
    for path, is_part in (("model/load.py", False), (changed, True)):
        other = tmp_path / path.replace("/", "-")
        shutil.copytree(package, other)
        (other / path).write_text((other / path).read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        assert (code_hash(other) != before) == is_part


def test_a_missing_source_is_told_before_anything_is_looked_up(tmp_path: Path) -> None:
    """As reading it would."""
    recipe = _recipe(tmp_path)
    (tmp_path / "general.jsonl").unlink()
    with pytest.raises(SourceError, match="no such file"):
        sources_key(recipe.sources, recipe.split)


def _truncate(entry: Path) -> None:
    rows = entry / "medical-train.arrow"
    rows.write_bytes(rows.read_bytes()[:-100])


def _flip(entry: Path) -> None:
    rows = entry / "medical-train.arrow"
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)


def _change(entry: Path, key: str, value: object) -> None:
    facts = json.loads((entry / ENTRY).read_text(encoding="utf-8"))
    (entry / ENTRY).write_text(json.dumps({**facts, key: value}), encoding="utf-8")


def _file_instead(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("")


def _dangling_link(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.symlink_to(entry.parent / "nowhere")


def _link_to_another_folder(entry: Path) -> None:
    other = entry.parent.parent / "other"
    other.mkdir()
    (other / "keep.txt").write_text("not ours")
    shutil.rmtree(entry)
    entry.symlink_to(other)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda entry: (entry / "general-holdout.arrow").unlink(),
        lambda entry: (entry / ENTRY).write_text("{"),
        lambda entry: (entry / ENTRY).write_text("{}"),
        lambda entry: (entry / ENTRY).unlink(),
        lambda entry: (entry / ENTRY).write_text("[]"),
        lambda entry: (entry / ENTRY).write_text("null"),
        lambda entry: (entry / ENTRY).write_bytes(b"\xff\xfe"),
        lambda entry: _change(entry, "samples", {"medical": 3}),
        lambda entry: _change(entry, "samples", {"medical": {"train": {"where": "a:1", "text": None}}}),
        lambda entry: _change(entry, "counts", [{"stage": "split"}]),
        lambda entry: _change(entry, "splits", {"../../x": {}}),
        lambda entry: _change(entry, "files", {"gone.arrow": {"num_bytes": 1, "checksum": "a"}}),
        lambda entry: _change(entry, "schema_version", 0),
        _file_instead,
        _dangling_link,
        _link_to_another_folder,
    ],
    ids=[
        "cut off", "one bit", "a file gone", "no JSON", "empty", "no entry", "a list", "null", "no text", "odd samples",
        "a sample without its fields", "odd counts", "odd splits", "an unknown file", "another version", "a file",
        "a dangling link", "a link",
    ],
)  # fmt: skip
def test_a_damaged_entry_is_told_and_made_again(
    damage: Callable[[Path], None], tmp_path: Path, renderer: Renderer, warnings: list[str]
) -> None:
    """One sentence that names the folder; then it is as it was."""
    recipe = _recipe(tmp_path)
    make, store = _Maker(recipe, renderer), Store(tmp_path / "prepared", warnings.append)
    before = _join(recipe, store.get("a-b", make)).rows["train"][:]
    damage(tmp_path / "prepared" / "a-b")
    again = _join(recipe, store.get("a-b", make))
    assert again.rows["train"][:] == before
    assert (make.times, len(warnings)) == (2, 1)
    assert "prepared/a-b are damaged" in warnings[0]
    store.get("a-b", make)
    assert make.times == 2
    other = tmp_path / "other"
    assert not other.exists() or (other / "keep.txt").read_text() == "not ours"


def test_a_byte_in_the_middle_of_a_large_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte counts, whatever the file's size."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 12)
    path = tmp_path / "rows.arrow"
    content = bytearray(100_001)
    path.write_bytes(content)
    known = module._File.of(path)
    for position in (0, 4095, 50_000, 100_000):
        content[position] ^= 1
        path.write_bytes(content)
        assert module._File.of(path) != known
        content[position] ^= 1
    path.write_bytes(content)
    assert module._File.of(path) == known


def test_whatever_lies_in_the_cache_does_not_stop_a_start(
    tmp_path: Path, renderer: Renderer, warnings: list[str]
) -> None:
    """Other people's files, links and folders beside the entries are left alone; so is what went away meanwhile."""
    folder = tmp_path / "prepared"
    (folder / "s-folder").mkdir(parents=True)
    (folder / "s-file").write_text("")
    for name in ("s-link", ".unfinished-renamed-meanwhile"):
        (folder / name).symlink_to("nowhere")
    (folder / "s-other").mkdir()
    (folder / "s-other" / ENTRY).symlink_to("nowhere")
    store = Store(folder, warnings.append)
    assert store.has_thinking("s") is None
    recipe = _recipe(tmp_path)
    assert len(_join(recipe, store.get("s-b", _Maker(recipe, renderer))).rows["train"]) > 20
    assert store.has_thinking("s") is False
    assert warnings == []


def test_an_entry_that_cannot_be_replaced_is_prepared_without(
    tmp_path: Path, renderer: Renderer, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a damaged entry cannot be removed, rows are made all the same, and said not to be kept."""

    def refuse(_: Path) -> None:
        raise PermissionError("not yours")

    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "a-b").write_text("")
    monkeypatch.setattr(module, "_remove", refuse)
    recipe = _recipe(tmp_path)
    rendered = Store(tmp_path / "prepared", warnings.append).get("a-b", _Maker(recipe, renderer))
    assert len(_join(recipe, rendered).rows["train"]) > 20
    assert [("damaged" in warning, "not cached" in warning) for warning in warnings] == [(True, False), (False, True)]


def test_what_fails_leaves_nothing(tmp_path: Path, warnings: list[str]) -> None:
    """An interrupted preparation is not found by the next start."""

    def fail(folder: Path | None) -> RenderedSources:
        assert folder is not None
        (folder / "medical-train.arrow").write_bytes(b"half")
        raise KeyboardInterrupt

    store = Store(tmp_path / "prepared", warnings.append)
    with pytest.raises(KeyboardInterrupt):
        store.get("a-b", fail)
    assert [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()] == []


def test_where_nothing_can_be_kept_rows_are_prepared_all_the_same(
    tmp_path: Path, renderer: Renderer, warnings: list[str]
) -> None:
    """A file in the folder's place: warnings, and made in the temporary folder."""
    (tmp_path / "file").write_text("")
    make = _Maker(_recipe(tmp_path), renderer)
    rendered = Store(tmp_path / "file" / "prepared", warnings.append).get("a-b", make)
    assert len(rendered.splits["medical"].train) > 20
    assert len(warnings) == 1
    assert "not cached" in warnings[0]


def test_entries_used_least_recently_make_room(
    tmp_path: Path, renderer: Renderer, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was used last stays, what was left unfinished long ago goes."""
    store, folder = Store(tmp_path / "prepared", warnings.append), tmp_path / "prepared"
    make = _Maker(_recipe(tmp_path), renderer)
    for age, key in enumerate(("s-new", "s-old", "s-older")):
        store.get(key, make)
        os.utime(folder / key, (0, time.time() - 100 * age))
    size = sum(file.stat().st_size for file in (folder / "s-new").iterdir())
    for name, age in ((".unfinished-killed", 1e6), (".unfinished-at-work", 0)):
        (folder / name).mkdir()
        os.utime(folder / name, (0, time.time() - age))
    monkeypatch.setattr(module, "MOST_BYTES", int(2.5 * size))
    store.get("s-next", make)
    left = {path.name for path in folder.iterdir() if path.is_dir()}
    assert left == {"s-new", "s-old", "s-next", ".unfinished-at-work"}


def test_the_second_start_shows_the_same_screen_but_for_one_line(tmp_path: Path, tiny_folder: Path) -> None:
    """Counts, findings, template, first rows and lengths; thinking is known without reading the data."""
    (tmp_path / "medical.jsonl").write_text(json_lines(_rows(40, "음…")), encoding="utf-8")
    recipe = _recipe(tmp_path, model=str(tiny_folder), template="qwen3").model_dump(mode="json", exclude_none=True)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    first, second = command("inspect", path), command("inspect", path)
    assert (first.code, second.code) == (0, 0), first.err
    changing = ("tokenized and masked", " GB ")  # how much memory is there changes too
    lines = [
        [line for line in run.out.splitlines() if not any(part in line for part in changing)] for run in (first, second)
    ]
    assert lines[0] == lines[1]
    assert "loaded from cache" in second.out
    assert "loaded from cache" not in first.out
    assert seodang.inspect(load_recipe(path)).samples["medical"]["train"].supervised


def test_a_folder_that_was_removed_meanwhile_is_no_fault(
    tmp_path: Path, renderer: Renderer, warnings: list[str]
) -> None:
    """Rows in hand stay readable after the cache is emptied: it may be emptied at any time."""
    recipe = _recipe(tmp_path)
    rendered = Store(tmp_path / "prepared", warnings.append).get("a-b", _Maker(recipe, renderer))
    shutil.rmtree(tmp_path / "prepared")
    assert len(_join(recipe, rendered).rows["train"][0]["input_ids"]) > 5
