"""recipe.py and recipe_file.py: reading, overriding, and telling every fault at once."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from seodang.check.audit import FEW_ROWS
from seodang.errors import RecipeError
from seodang.other_names import KEYS, NO_KEY, VALUES
from seodang.pipeline import QUICK_DEMO
from seodang.publish.card import published_recipe
from seodang.recipe import Generate, Recipe, Source, load_recipe
from seodang.recipe_file import known_keys, shipped_recipes
from seodang.run.start import dump_recipe

MEDICAL = {"name": "medical", "role": "domain", "path": "medical.json"}
GENERAL = {"name": "general", "role": "general", "hub": "some/data"}
WIKI = {"name": "wiki", "role": "retention", "path": "wiki.jsonl"}


def keys(**changed: Any) -> dict[str, Any]:
    """A small right recipe with some keys changed."""
    return {"name": "small", "model": "package:gemma-3-270m", "sources": [MEDICAL, GENERAL, WIKI], **changed}


def faults(recipe: Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    return list(caught.value.faults)


def with_source(**changed: Any) -> dict[str, Any]:
    """The small recipe with its first source changed."""
    return keys(sources=[{**MEDICAL, **changed}, GENERAL, WIKI])


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_left_out_has_a_default() -> None:
    """A name, a model and sources make a recipe."""
    recipe = load_recipe(keys())
    assert recipe.train.learning_rate == 2e-5
    assert [source.holdout_share for source in recipe.sources] == [0.05, 0.05, float("inf")]
    assert [source.is_trained for source in recipe.sources] == [True, True, False]


def test_all_faults_are_told_at_once() -> None:
    """Wrong keys, types, values and names, in one section or between two, come in one error, each with its key."""
    wrong = keys(
        model={"pth": "x"},
        sources=[{**MEDICAL, "role": "domian", "holdout": 1.5, "take": "5/3", "hub": "also/this"}, GENERAL, WIKI],
        mix={"medical": "much", "wiki": 0.3},
        train={"learning_rat": 1, "epochs": "many", "best_by": "medicine"},
        ask={"repeat": {"times": 1}},
    )
    assert faults(wrong) == [
        "model.path: missing",
        "model.pth: unknown key; did you mean 'path'?",
        "sources.medical.role: input should be 'domain', 'general', 'retention' or 'replay', found 'domian'; "
        "did you mean 'domain'?",
        "sources.medical.hub: give either `path` (files) or `hub` (a data set id)",
        "sources.medical.holdout: 1.5 is neither a share below 1 nor a whole number of rows",
        "sources.medical.take: '5/3' asks for shard 5 of 3",
        "mix.shares.medical: input should be a valid number, unable to parse string as a number, found 'much'",
        "train.epochs: input should be a valid number, unable to parse string as a number, found 'many'",
        "train.learning_rat: unknown key; did you mean 'learning_rate'?",
        "ask.repeat.question: missing",
        "ask.repeat.times: input should be greater than or equal to 2, found 1",
        "mix.wiki: no trained source has this name (there are: medical, general, seed)",
        "mix: shares are given, but none for general",
        "train.best_by: no source is named 'medicine'; did you mean 'medical'?",
    ]


def test_a_choice_within_tolerance_needs_a_domain() -> None:
    """Its loss chooses; a source need not bear the choice's name."""
    assert load_recipe(keys(train={"best_by": "domain_within_tolerance"})).train.best_by == "domain_within_tolerance"
    without = keys(sources=[GENERAL, WIKI], train={"best_by": "domain_within_tolerance"})
    assert faults(without) == ["train.best_by: no source has the role domain, whose loss would choose"]


def test_wrong_overrides_are_told_with_the_other_faults() -> None:
    """An override that leads nowhere does not hide what is wrong in the recipe."""
    told = faults(keys(system=5), ["train", "sources.medicl.take=3", "name.x=1", "sources.take=1", "model.path=[a"])
    assert told == [
        "expected KEY=VALUE, got 'train'",
        "sources.medicl.take: none of sources is named 'medicl'; did you mean 'medical'?",
        "name.x: name holds a value, not keys",
        "sources.take: name the item, as in sources.NAME.take",
        "model.path: '[a' cannot be read as YAML",
        "system: expected text, found 5",
    ]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"trian": {}}, "trian: unknown key; did you mean 'train'?"),
        ({"train": {"zzz": 1}}, "train.zzz: unknown key (there are: epochs, steps, examples_per_step"),
        (
            {"train": {"early_stopping": {"patienc": 2}}},
            "train.early_stopping.patienc: unknown key; did you mean 'patience'?",
        ),
        ({"mix": {"sead": 1}}, "mix.sead: no trained source has this name; did you mean 'seed'?"),
    ],
)
def test_a_wrong_key_gets_the_nearest_right_one(changed: dict[str, Any], fault: str) -> None:
    """An unknown key is answered with the nearest one of its section, or with all of them."""
    assert faults(keys(**changed))[0].startswith(fault)


def test_every_hint_names_a_key_that_exists() -> None:
    """A name of another tool stands once, leads to a key or says why none is needed, and is no key itself."""
    known = dict(known_keys(Recipe))
    assert not {key for key, _, _ in KEYS} - known.keys()
    names = [name for *_, names in (*KEYS, *NO_KEY) for name in names.split()]
    assert len(names) == len(set(names))
    assert not {name for *_, names in KEYS for name in names.split()} & set(known.values())
    choices = str(Recipe.model_json_schema())
    assert not {here for here in VALUES.values() if f"'{here}'" not in choices}


def test_names_of_other_tools_lead_to_the_key_here() -> None:
    """A key that TRL, Axolotl or LLaMA-Factory has, wherever it stands, and a value that they spell otherwise."""
    wrong = keys(
        model_name_or_path="a",
        learning_rate=1e-4,
        model={"path": "a", "dtype": "fp16"},
        sources=[{**MEDICAL, "dataset_text_field": "a"}, GENERAL, WIKI],
        train={"lora-r": 8, "packing": True, "neftune_noise_alpha": 5, "optimizer": "adamw_torch", "dtype": "bf16"},
    )
    assert faults(wrong, ["lr=1e-4"]) == [
        "model.dtype: input should be 'auto', 'float32', 'bfloat16' or 'float16', found 'fp16'; here it is 'float16'",
        "sources.medical.dataset_text_field: unknown key; here it is sources.NAME.text",
        "train.optimizer: input should be 'adamw', 'paged_adamw_8bit' or 'adamw_bf16', "
        "found 'adamw_torch'; here it is 'adamw'",
        "train.lora-r: unknown key; here it is train.adapter.rank",
        "train.packing: unknown key; here it is model.attention "
        "(where auto packs examples, isolated, and takes the fastest kernel that is there)",
        "train.neftune_noise_alpha: unknown key; seodang does not offer it",
        "train.dtype: unknown key; did you mean model.dtype or save.dtype?",
        "model_name_or_path: unknown key; here it is model.path",
        "learning_rate: unknown key; did you mean train.learning_rate?",
        "lr: unknown key; here it is train.learning_rate",
    ]


def test_the_keys_of_a_section_are_listed_once() -> None:
    """However many of its keys are unknown, and for all sources together."""
    sources = [{**MEDICAL, "zzz": 1}, {**GENERAL, "zzz": 1}, WIKI]
    listed = ["(there are: " in fault for fault in faults(keys(train={"zzz": 1, "qqq": 1}, sources=sources))]
    assert listed == [True, False, True, False]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"sources": [MEDICAL, {**GENERAL, "name": "medical"}]}, "sources: duplicate name medical"),
        ({"sources": [WIKI]}, "sources: no source is trained on (role domain or general, or train: true)"),
        ({"sources": []}, "sources: expected at least one, found []"),
        ({"sources": {"medical": "a.json"}}, "sources: expected a list, found {'medical': 'a.json'}"),
        ({"train": []}, "train: expected keys with values, found []"),
        ({"name": "a/b"}, "name: string should match pattern '^[\\w.-]+$', found 'a/b'"),
    ],
)
def test_an_impossible_recipe_is_one_clear_fault(changed: dict[str, Any], fault: str) -> None:
    """What cannot be run is said in words of the recipe, once."""
    assert faults(keys(**changed)) == [fault]


def test_a_long_value_is_shortened() -> None:
    """A fault stays one readable line, whatever was found."""
    assert len(faults(keys(system=list(range(500))))[0]) < 100


@pytest.mark.parametrize("take", ["1/3", "3/3", "0.25", ".5", "500", 0.25, 500])
def test_a_take_is_a_shard_a_fraction_or_a_number(take: str | float) -> None:
    """Text and YAML numbers alike are kept as text."""
    assert load_recipe(with_source(take=take)).sources[0].take == str(take)


@pytest.mark.parametrize("take", ["0/3", "4/3", "0", "0.0", "1.5", "-1", "a third", True, 1e-7])
def test_any_other_take_is_a_fault(take: Any) -> None:
    """A shard that is not there, nothing, more than all, or other words are refused at once."""
    assert faults(with_source(take=take))[0].startswith("sources.medical.take: ")


@pytest.mark.parametrize("key", ["split.seed", "mix.seed", "train.seed", "ask.generate.seed"])
def test_a_seed_is_one_that_every_generator_takes(key: str) -> None:
    """NumPy's take none below 0, and transformers takes none of more than 32 bits."""
    for seed in (-1, 2**32):
        with pytest.raises(RecipeError, match=rf"{key}: input should be (greater|less) than"):
            load_recipe("demo", [f"{key}={seed}"])
    load_recipe("demo", [f"{key}={2**32 - 1}"])


@pytest.mark.parametrize("holdout", [-0.1, 1.5, float("inf"), float("nan"), "some"])
def test_a_holdout_is_a_share_or_a_whole_number(holdout: Any) -> None:
    """Other holdouts are refused; 0, shares below 1 and whole numbers are not."""
    assert faults(with_source(holdout=holdout))[0].startswith("sources.medical.holdout: ")
    assert [load_recipe(with_source(holdout=fine)).sources[0].holdout for fine in (0, 0.99, 1, 500)] == [
        0,
        0.99,
        1,
        500,
    ]


@pytest.mark.parametrize("changed", [{"hub": "a/b"}, {"path": None}, {"path": []}])
def test_a_source_is_files_or_a_hub_id(changed: dict[str, Any]) -> None:
    """Both, none, and an empty list of files are refused."""
    assert len(faults(with_source(**changed))) == 1


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    """`2e-5` is a number, though YAML 1.1 reads it as text; as an override too."""
    text = yaml.safe_dump(keys()) + "train: {learning_rate: 2e-5}\n"
    assert load_recipe(written(tmp_path, text)).train.learning_rate == 2e-5
    assert load_recipe(keys(), ["train.learning_rate=3e-4"]).train.learning_rate == 3e-4


def test_short_forms_stand_for_long_ones() -> None:
    """`model: PATH` and `template: NAME` are the section's first key, in a file and for an override."""
    recipe = load_recipe(keys(template="chatml"), ["model.dtype=float32", "template.add_tokens=true"])
    assert (recipe.model.path, recipe.model.dtype) == ("package:gemma-3-270m", "float32")
    assert (recipe.template.borrow, recipe.template.add_tokens) == ("chatml", True)
    assert load_recipe(keys(), ["model=package:other"]).model.path == "package:other"


def test_the_name_of_an_adapter_stands_for_its_section() -> None:
    """`train.adapter: lora` in a file or an override, with other settings of it after it."""
    for recipe, changes in (
        (keys(train={"adapter": "qlora"}), ["train.adapter.rank=8"]),
        (keys(), ["train.adapter=qlora", "train.adapter.rank=8"]),
    ):
        adapter = load_recipe(recipe, changes).train.adapter
        assert adapter is not None
        assert (adapter.kind, adapter.rank, adapter.alpha) == ("qlora", 8, None)
    assert faults(keys(train={"adapter": "dora"}))[0].startswith(
        "train.adapter.kind: input should be 'lora' or 'qlora'"
    )


def test_shares_stand_beside_the_seed() -> None:
    """Inline shares are those under `shares:`; without any, sources are joined as they are."""
    inline = load_recipe(keys(mix={"seed": 7, "medical": 0.7, "general": 0.3})).mix
    assert inline == load_recipe(keys(mix={"seed": 7, "shares": {"medical": 0.7, "general": 0.3}})).mix
    assert load_recipe(keys(mix={"seed": 7})).mix.shares is None
    assert load_recipe(keys(), ["mix.medical=0.7", "mix.general=3e-1"]).mix.shares == {"medical": 0.7, "general": 0.3}


def test_overrides_reach_every_key() -> None:
    """Dotted keys reach sections that are absent or empty, sources by name, and lists."""
    changes = [
        "train.steps=20",
        "sources.medical.take=1/3",
        "ask.repeat.question=어디가 아픈가요?",
        "ask.domain=[a, b]",
    ]
    recipe = load_recipe(keys(ask=None), changes)
    assert recipe.train.steps == 20
    assert recipe.sources[0].take == "1/3"
    assert recipe.ask.repeat is not None
    assert recipe.ask.repeat.question == "어디가 아픈가요?"
    assert recipe.ask.domain == ("a", "b")


def test_overrides_leave_the_callers_mapping_alone() -> None:
    """A mapping that is given is not changed."""
    given = keys(train={"steps": 5})
    load_recipe(given, ["train.steps=20", "sources.medical.take=9", "model.dtype=float32"])
    assert given == keys(train={"steps": 5})


def test_relative_paths_start_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, and a model or template that lies there, are found from anywhere; ids and packaged names stay."""
    folder = tmp_path / "project"
    (folder / "base").mkdir(parents=True)
    (folder / "chatml").mkdir()
    sources = [{**MEDICAL, "path": ["a.json", "sub/b: c.csv", "/data/c.json", "~/d.json", "sample:ko_general"]}]
    path = written(folder, yaml.safe_dump(keys(model="base", template="./own.jinja", sources=sources)))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("project/recipe.yaml")
    assert recipe.sources[0].path == (
        str(folder / "a.json"),
        str(folder / "sub" / "b: c.csv"),
        "/data/c.json",
        str(Path("~/d.json").expanduser()),
        "sample:ko_general",
    )
    assert recipe.model.path == str(folder / "base")
    assert recipe.template.borrow == str(folder / "own.jinja")
    for name in ("package:gemma-3-270m", "google/gemma-3-270m"):
        assert load_recipe(path, [f"model={name}"]).model.path == name


def test_a_mappings_paths_start_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe given in Python becomes absolute too, so that the one in the run folder can be run again."""
    monkeypatch.chdir(tmp_path)
    assert load_recipe(keys()).sources[0].path == (str(tmp_path / "medical.json"),)


def test_a_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    """What is written into the run folder is the recipe, whatever folder it is read from."""
    recipe = load_recipe(keys(mix={"medical": 0.5, "general": 0.5}), ["sources.medical.take=0.5", "train.warmup=10"])
    text = yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True)
    assert load_recipe(written(tmp_path, text)) == recipe


def test_a_recipe_made_in_python_is_checked_the_same() -> None:
    """Constructing a Recipe from sections checks names across them as reading a file does."""
    source = Source.model_validate(MEDICAL)
    made = Recipe.model_validate({"name": "a", "model": "b", "sources": [source]})
    assert Recipe.model_validate(made.model_dump()) == made
    with pytest.raises(ValueError, match="duplicate name medical"):
        Recipe.model_validate({"name": "a", "model": "b", "sources": [source, source]})


def test_a_source_is_trained_if_its_role_or_train_says_so() -> None:
    """`train` wins over the role, also where YAML gives it as text."""
    recipe = load_recipe(keys(sources=[{**MEDICAL, "train": "false"}, GENERAL, {**WIKI, "train": True}]))
    assert [source.is_trained for source in recipe.sources] == [False, True, True]
    assert [source.holdout_share for source in recipe.sources] == [float("inf"), 0.05, 0.05]


@pytest.mark.parametrize("source", [{**WIKI, "holdout": 0}, {**MEDICAL, "train": False, "holdout": 0}])
def test_a_source_that_nothing_uses_is_refused(source: dict[str, Any]) -> None:
    """Neither trained on nor held out, a source is a mistake of the recipe, not a run without it."""
    with pytest.raises(RecipeError, match="not used at all"):
        load_recipe(keys(sources=[{**MEDICAL, "name": "used"}, GENERAL, source]))


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("name: a\nname: b\n", ":2", "duplicate key 'name'"),
        ("name: a\ntrain:\n  steps: 1\n  epochs: 2\n  steps: 3\n", ":5", "duplicate key 'steps'"),
        ("name: [a\n", ":2", "expected ',' or ']'"),
        ("name: a\n\tmodel: b\n", ":2", "cannot start any token"),
        ("name: 2024-13-45\n", ":1", "month must be in 1..12"),
        ("? [a]\n: b\n", ":1", "unhashable key"),
        ("- name\n", "", "expected keys such as `model:` and `sources:`, found list"),
        ("# nothing yet\n", "", "found nothing"),
    ],
)
def test_text_that_is_no_recipe_is_one_fault_with_its_line(tmp_path: Path, text: str, place: str, what: str) -> None:
    """YAML that is broken, or says a key twice, is told with file and line."""
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.where == f"{path}{place}"
    assert len(caught.value.faults) == 1
    assert what in caught.value.faults[0]


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Windows editors put a mark before the first key; it is no part of it."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys(system="친절하게"), allow_unicode=True), encoding="utf-8-sig")
    assert load_recipe(path).system == "친절하게"


def test_a_recipe_in_another_encoding_is_a_fault(tmp_path: Path) -> None:
    """A recipe saved in CP949 is refused with what to do."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes("system: 친절하게".encode("cp949"))
    with pytest.raises(RecipeError, match=r"not UTF-8 text(.|\n)*save the recipe as UTF-8"):
        load_recipe(path)


def test_a_missing_recipe_names_those_that_ship(tmp_path: Path) -> None:
    """A name that is neither file nor shipped recipe is answered with the nearest, a folder is called one."""
    assert "did you mean 'demo'" in faults("demoo")[0]
    assert faults(tmp_path)[0].startswith("is a folder")
    assert "cannot be read" in faults("x" * 5000)[0]


@pytest.mark.parametrize("name", shipped_recipes())
def test_recipes_that_ship_can_be_read(name: str) -> None:
    """Every recipe that ships is right, and is read by its name alone."""
    assert load_recipe(name).name


def test_the_quick_demo_is_the_demo_with_less() -> None:
    """Its changes are keys of the demo, and the user's own come after them."""
    full, quick = load_recipe("demo"), load_recipe("demo", [*QUICK_DEMO, "train.steps=2"])
    assert quick.name == "demo-quick"
    assert quick.prove.quick, "the report states that fewer rows were measured"
    assert (quick.train.steps, quick.model) == (2, full.model)
    assert all(less.holdout_share < more.holdout_share for less, more in zip(quick.sources, full.sources, strict=True))


def test_the_demo_ships() -> None:
    """`demo` is among the recipes that ship, and measures enough text for no warning."""
    assert "demo" in shipped_recipes()
    assert load_recipe("demo").sources[2].holdout_share >= FEW_ROWS


SMALL = "name: x\nmodel: m\nsources:\n  - {name: a, role: domain, path: a.csv}\n"
TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("!!bool x", "'x' is not a valid bool"),
        ("!!timestamp x", "'x' is not a valid timestamp"),
        ("!!timestamp 2024-13-45", "'2024-13-45' is not a valid timestamp"),
        ("!!set [a]", "expected a mapping node, but found sequence"),
        ("!!int ''", "'' is not a valid int"),
        ("!!float 1:x", "'1:x' is not a valid float"),
        ("!!map [a]", "expected a mapping node, but found sequence"),
        ("{<<: 5}", "expected a mapping or list of mappings for merging, but found scalar"),
        ("!!python/object:os.system x", "could not determine a constructor for the tag"),
    ],
)
def test_a_value_that_is_not_of_its_tag_is_one_fault_with_its_line(tmp_path: Path, value: str, what: str) -> None:
    """Whatever PyYAML raises for it; the same in an override."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, f"{SMALL}system: {value}\n"))
    assert caught.value.where.endswith("recipe.yaml:5")
    assert caught.value.faults[0].startswith(what)
    assert faults(written(tmp_path, SMALL), [f"system={value}"]) == [f"system: {value!r} cannot be read as YAML"]


@pytest.mark.parametrize("nested", ["[" * 5000, "{a: " * 3000, "\n" + "- " * 3000])
def test_yaml_that_is_nested_too_deeply_is_a_fault(tmp_path: Path, nested: str) -> None:
    """In the file and in an override."""
    assert faults(written(tmp_path, f"{SMALL}system: {nested}")) == ["nested too deeply"]
    [fault] = faults(written(tmp_path, SMALL), [f"system={nested}"])
    assert len(fault) < 100


def test_aliases_of_aliases_fill_no_message(tmp_path: Path) -> None:
    """A few lines that stand for billions of texts are reported in a few words, wherever they are used."""
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghijkl")
    )
    used = SMALL.replace("a.csv", "*l") + "system: *l\nmix: {seed: *k, a: *l}\ntrain: *l\n"
    told = faults(written(tmp_path, laughs + used))
    assert max(map(len, told)) < 150
    assert any(fault.startswith("system: expected text, found [[[[...]") for fault in told)
    assert faults(written(tmp_path, SMALL + "system: &x [*x]\n")) == ["system: expected text, found [[[[...]]]]"]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (keys(name=".."), "name: '..' means a folder that exists: give a name"),
        (keys(name="."), "name: '.' means a folder that exists: give a name"),
        (keys(name="가" * 90), "name: files are named after it: at most 200 bytes in UTF-8, found 270"),
        (with_source(name="가" * 90), ": files are named after it: at most 200 bytes in UTF-8, found 270"),
        (with_source(name=".."), "name: '..' means a folder that exists: give a name"),
        (with_source(path="a\0b"), "sources.medical.path: holds the character U+0000: remove it"),
        (with_source(path=["a", "b\0"]), "sources.medical.path.1: holds the character U+0000: remove it"),
        (
            keys(system="\ud800"),
            "system: holds half of a character (a lone surrogate), which no file can hold: remove it",
        ),
        (keys(mix={"\udfff": 1}), "mix: one of its keys: holds half of a character (a lone surrogate)"),
        (keys(template="{% for message in messages %}{% endfor %}"), "template.borrow: this is the text of a template"),
        (keys(template="first\nsecond"), "template.borrow: this is the text of a template"),
    ],
)
def test_what_no_file_can_be_called_is_a_fault(changed: dict[str, Any], fault: str) -> None:
    """Folders that exist, names that are too long, characters that no file system or file takes, whole texts."""
    [told] = faults(changed)
    assert fault in told


def test_the_hint_speaks_of_secrets_where_there_is_one(tmp_path: Path) -> None:
    """A character that no file holds is to be removed, which takes no revoking."""
    with pytest.raises(RecipeError) as raised:
        load_recipe(written(tmp_path, SMALL), ["system=a\0b"])
    assert raised.value.hint == "remove these texts"


def test_names_of_other_peoples_homes_are_taken_as_they_stand(tmp_path: Path) -> None:
    """`~data/x.csv` is a path below the recipe's folder where there is no user `data`."""
    text = SMALL.replace("a.csv", "~nobody-of-this-name/a.csv").replace("model: m", "model: ~nobody-of-this-name/m")
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.sources[0].path == (str(tmp_path / "~nobody-of-this-name/a.csv"),)
    assert recipe.model.path == str(tmp_path / "~nobody-of-this-name/m")
    assert "no such file" in faults("~nobody-of-this-name/recipe.yaml")[0]


def test_a_data_file_is_no_recipe(tmp_path: Path) -> None:
    """A large file is not parsed for minutes; the hint says where it belongs."""
    with pytest.raises(RecipeError, match=r"is 0\.6 MB large.*\n.*`sources:`"):
        load_recipe(written(tmp_path, '{"a": 1}\n' * 70_000))


@pytest.mark.parametrize(
    ("text", "overrides", "key"),
    [
        (f"{SMALL}system: my token is {TOKEN}\n", [], "system"),
        (SMALL.replace("a.csv", f"https://me:{TOKEN[:9]}@host/a.csv"), [], "sources.a.path"),
        (f"{SMALL}train: {{epochs: {TOKEN}}}\n", [], "train.epochs"),
        (f"{SMALL}ask: {{domain: ['질문?', 'sk-ant-{TOKEN}']}}\n", [], "ask.domain.1"),
        (f"{SMALL}hf_token: {TOKEN[2:]}\n", [], "hf_token"),
        (f"{SMALL}train: {{{TOKEN}: 1}}\n", [], "train"),
        (SMALL, [f"model.revision={TOKEN}"], "model.revision"),
        (SMALL, [f"nowhere.to.be.found={TOKEN}"], "nowhere.to.be.found"),
        (SMALL, [TOKEN], "a key"),
        (SMALL, [f"train.{TOKEN}=1"], "a key"),
        (SMALL, [f"sources.{TOKEN}.take=1"], "a key"),
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_masked(tmp_path: Path, text: str, overrides: list[str], key: str) -> None:
    """Wherever it stands, and whatever else is wrong: no message holds it."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text), overrides)
    told = str(caught.value)
    assert caught.value.faults[0].startswith(f"{key}: ")
    assert TOKEN[3:9] not in told
    assert "…, " in told
    assert "revoked" in told


def test_prose_about_secrets_is_let_through() -> None:
    """Questions about passwords and tokens are questions."""
    system = "비밀번호: 새로 정하세요. Forgot your password: contact the office. max_tokens: 1024"
    assert load_recipe(keys(system=system)).system == system


@pytest.mark.parametrize("temperature", [0, 0.0, None])
def test_a_temperature_of_zero_is_greedy(temperature: float | None) -> None:
    """As in other tools: 0 means that nothing is sampled, as does no temperature."""
    assert Generate(temperature=temperature).temperature is None


def test_counts_are_written_as_counts() -> None:
    """A number that may be a share is a whole number in the run's recipe and on the model card where it is one."""
    train = {"epochs": 2, "warmup": 100}
    shares = {"medical": 80, "general": 20.5}
    made = Recipe.model_validate({**with_source(holdout=24), "train": train, "mix": {"shares": shares}})
    for text in (dump_recipe(made), published_recipe(made)):
        found = yaml.safe_load(text)
        shown = (found["sources"][0]["holdout"], found["mix"]["shares"], found["train"]["epochs"])
        assert repr((*shown, found["train"]["warmup"])) == repr((24, shares, 2, 100))
    assert Recipe.model_validate(yaml.safe_load(dump_recipe(made))) == made
    assert dump_recipe(Recipe.model_validate(with_source(holdout=0.25))).count("holdout: 0.25") == 1
