"""The base that the user names: its template, its licence, its size, from names and folders alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from seodang.errors import ModelError
from seodang.recipe import load_recipe
from seodang.starter.families import FAMILIES, known_model
from seodang.starter.named_base import model_names, named_base
from seodang.starter.propose import Starter, propose, write_starter
from seodang.starter.settings import ProposedBase
from seodang.starter.token_count import token_count
from tiny import make_tokenizer

ROWS = "".join(f'{{"question": "{n}번 약은 언제 먹나요?", "answer": "{n}번 약은 아침에 드세요."}}\n' for n in range(60))


def base(model: str, *, has_tools: bool = False, memory_gb: float = 64, gpu_gb: float | None = None) -> ProposedBase:
    return named_base(model, has_tools=has_tools, memory_gb=memory_gb, gpu_gb=gpu_gb)


def folder(path: Path, *, template: bool = False, **config: Any) -> str:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"} if template else {}), "utf-8")
    return str(path)


def proposed(tmp_path: Path, model: str) -> Starter:
    (tmp_path / "med.jsonl").write_text(ROWS, encoding="utf-8")
    return propose([tmp_path / "med.jsonl"], model=model, out=tmp_path / "recipe.yaml", memory_gb=64)


@pytest.mark.parametrize(
    ("model", "donor", "licence"),
    [
        ("kakaocorp/kanana-2-3b-base", "kakaocorp/kanana-2-3b-instruct", "Kanana Open License"),
        ("kakaocorp/kanana-2-1.3b-base", "kakaocorp/kanana-2-1.3b-instruct", "Kanana Open License"),
        ("kakaocorp/kanana-2-30b-a3b-base", "kakaocorp/kanana-2-30b-a3b-instruct", "Kakao's terms"),
        ("kakaocorp/kanana-2-30b-a3b-base-2601", "kakaocorp/kanana-2-30b-a3b-instruct-2601", "Kakao's terms"),
        ("kakaocorp/kanana-1.5-15.7b-a3b-base", "kakaocorp/kanana-1.5-15.7b-a3b-instruct", "Kanana License"),
        ("kakaocorp/kanana-1.5-2.1b-base", None, "Apache 2.0"),
        ("kakaocorp/kanana-nano-2.1b-base", None, "CC BY-NC 4.0"),
        ("kakaocorp/kanana-2-3b-instruct", None, "Kakao's terms"),
        ("naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-1.5B", None, "HyperCLOVA X SEED"),
        ("skt/A.X-4.0-Light", None, "Apache 2.0"),
        ("K-intelligence/Midm-2.0-Base-Instruct", None, "MIT"),
        ("LGAI-EXAONE/EXAONE-4.0-1.2B", None, "EXAONE AI Model License"),
        ("LGAI-EXAONE/K-EXAONE-236B-A23B", None, "K-EXAONE"),
        ("upstage/SOLAR-10.7B-Instruct-v1.0", None, "CC BY-NC 4.0"),
        ("upstage/Solar-Open-100B", None, "Upstage Solar License"),
    ],
)
def test_korean_models_name_their_licence_and_borrow_from_their_sibling(
    model: str, donor: str | None, licence: str
) -> None:
    """A base without a template borrows its instruct sibling's; a model that brings one is given none."""
    found = base(model)
    assert found.template == donor
    assert licence in found.why
    assert any(licence in remark for remark in found.remarks)
    assert donor is None or any(donor in remark for remark in found.remarks)


def test_a_plain_text_format_is_proposed_where_the_family_has_no_markers() -> None:
    """Solar 10.7B writes `### User:`: the headers of its format are the template, read as such by the recipe."""
    assert "### User:" in str(base("upstage/SOLAR-10.7B-v1.0").template)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.pattern)
def test_no_family_is_hidden_by_another(family: Any) -> None:
    """Each entry is reached by some name: none before it takes all of its names."""
    names = {
        r"kanana-1\.5-(2\.1b|8b)-base": "kanana-1.5-8b-base", r"kanana-2-(1\.3b|3b)-base": "kanana-2-3b-base",
        r"kanana-2-30b-a3b-(?:base|mid)(-2601)?": "kanana-2-30b-a3b-mid", r"hyperclova-?x-seed": "hyperclovax-seed",
        r"(^|/)a\.x-(3\.1|4\.0|k\d)": "A.X-K1", r"exaone-?4": "exaone4", r"solar[-_]open": "solar-open",
    }  # fmt: skip
    name = names.get(family.pattern, family.pattern.replace("\\", ""))
    found = known_model([name])
    assert found is not None
    assert found.licence == family.licence


def test_a_folder_is_known_by_its_name_and_configuration(tmp_path: Path) -> None:
    """A continually pretrained copy borrows as its original; a template of its own wins; Gemma's is built in."""
    assert base(folder(tmp_path / "kanana-1.5-8b-base-med")).template == "kakaocorp/kanana-1.5-8b-instruct-2505"
    assert base(folder(tmp_path / "kanana-2-3b-base", template=True)).template is None
    renamed = folder(tmp_path / "mine", _name_or_path="kakaocorp/kanana-2-3b-base")
    assert base(renamed).template == "kakaocorp/kanana-2-3b-instruct"
    assert base(folder(tmp_path / "ours", model_type="exaone4")).template == "exaone4"
    assert base(folder(tmp_path / "solar", model_type="solar_open")).template == "solar_open"
    gemma = folder(tmp_path / "med", model_type="gemma3_text")
    assert base(gemma).template == "gemma"
    assert base(gemma, has_tools=True).template == "{borrow: qwen3, add_tokens: true}"
    unknown = base(folder(tmp_path / "own", model_type="llama"))
    assert (unknown.template, unknown.remarks) == (None, ())


def test_what_is_named_is_what_the_recipe_holds(tmp_path: Path) -> None:
    """The recipe reads back as proposed, with the path of a folder from where the recipe lies."""
    starter = proposed(tmp_path, folder(tmp_path / "models" / "kanana-2-3b-base"))
    assert load_recipe(write_starter(starter)) == starter.recipe
    assert (
        "model: models/kanana-2-3b-base # the model that you named; its licence: the Kanana Open License"
        in starter.yaml
    )
    assert starter.recipe.model.path == str(tmp_path / "models" / "kanana-2-3b-base")
    assert starter.recipe.template.borrow == "kakaocorp/kanana-2-3b-instruct"


def test_headers_are_read_as_the_recipe_takes_them(tmp_path: Path) -> None:
    """The proposed plain-text format stands in the recipe as such."""
    starter = proposed(tmp_path, "upstage/SOLAR-10.7B-v1.0")
    assert load_recipe(write_starter(starter)) == starter.recipe
    headers = starter.recipe.template.headers
    assert headers is not None
    assert headers.user == "### User:\n"


def test_a_run_is_named_with_the_template_of_its_recipe(tmp_path: Path) -> None:
    """After continued pretraining, which saves no template, the one that its recipe named goes on."""
    run = tmp_path / "runs" / "first"
    folder(run / "model", model_type="llama")
    sources = "sources: [{name: text, role: replay, path: sample:ko_text}]"
    for template, expected in (("gemma", "gemma"), ('{headers: {user: "Q: ", assistant: "A: "}}', "{headers:")):
        (run / "recipe.yaml").write_text(
            f"name: first\nmodel: google/gemma-3-1b-pt\ntemplate: {template}\n{sources}\n", encoding="utf-8"
        )
        assert str(base(str(run)).template).startswith(expected)
    starter = proposed(tmp_path, str(run))
    assert "model: runs/first" in starter.yaml
    assert load_recipe(write_starter(starter)) == starter.recipe


@pytest.mark.parametrize(
    "model", ["./models/none", "runs/none", "/no/such", "package:gemma-3-270", "my model", "x" * 5000, "a\0b", ""]
)
def test_what_is_not_there_is_refused(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that leads nowhere and an unknown package are mistakes; a hub id is not looked up."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such folder|did you mean 'gemma-3-270m'|neither a folder nor a hub id"):
        base(model)


@pytest.mark.parametrize(
    ("model", "billions", "rate"),
    [
        ("kakaocorp/kanana-2-30b-a3b-base", 30, 1e-5), ("Qwen/Qwen3-0.6B-Base", 0.6, 5e-5),
        ("google/gemma-3-270m", 0.27, 5e-5), ("google/gemma-3-1b-pt", 1, 2e-5), ("skt/A.X-4.0-Light", None, 2e-5),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_the_size(model: str, billions: float | None, rate: float) -> None:
    """Larger models take smaller steps; a name without a size gets the usual one."""
    found = base(model)
    assert (found.billions, found.learning_rate) == (billions, rate)


def test_a_size_is_read_from_the_weights(tmp_path: Path) -> None:
    """Whatever a folder is called, its weights have a size; what does not fit the memory is said."""
    path = folder(tmp_path / "model-7b", dtype="bfloat16")
    with (tmp_path / "model-7b" / "model.safetensors").open("wb") as weights:
        weights.truncate(4_000_000_000)
    found = base(path, gpu_gb=24.0)
    assert found.billions == 2
    assert any("over 32 GB of GPU memory; 24 GB are available" in remark for remark in found.remarks)
    assert not base(path, gpu_gb=80.0).remarks


def test_a_larger_model_takes_longer(tmp_path: Path) -> None:
    """The minutes that the recipe's first lines name are those of the model; of an unknown size none are named."""
    small, large, unknown = (
        proposed(tmp_path, model).yaml
        for model in ("google/gemma-3-270m", "kakaocorp/kanana-2-3b-base", "skt/A.X-4.0-Light")
    )

    def minutes(text: str) -> int:
        return int(text.split("the run: about ")[1].split(" minutes")[0])

    assert minutes(large) > 3 * minutes(small)
    assert "the run: about" not in unknown


def test_a_tokenizer_with_a_template_needs_none(tmp_path: Path) -> None:
    """As transformers saves it, in a file of its own."""
    path = tmp_path / "kanana-2-3b-base"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text("{}", encoding="utf-8")
    assert base(str(path)).template is None


LONG = [
    {"question": f"{n}번 약은 언제 먹나요?", "answer": "이 약은 아침 식사 뒤에 물과 함께 드세요. " * 8}
    for n in range(60)
]


@pytest.mark.parametrize("run", [False, True])
def test_rows_are_counted_by_the_models_own_tokenizer(tmp_path: Path, *, run: bool) -> None:
    """Where it is in the model's folder, or a run's: whatever its vocabulary lacks, no row is above max_tokens."""
    path = tmp_path / "own"
    if run:
        (path / "model").mkdir(parents=True)
        (path / "recipe.yaml").write_text("name: own\n", encoding="utf-8")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(path / "model" if run else path)
    data = tmp_path / "med.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in LONG), encoding="utf-8")
    starter = propose([data], model=str(path), out=tmp_path / "recipe.yaml", memory_gb=64)
    longest = max(len(tokenizer(f"{row['question']}\n{row['answer']}")["input_ids"]) for row in LONG)
    estimated = propose([data], out=tmp_path / "recipe.yaml", memory_gb=64).recipe.train.max_tokens
    assert starter.recipe.train.max_tokens >= longest > estimated
    assert "# of one row, counted by the model's tokenizer" in starter.yaml


@pytest.mark.parametrize(
    ("model", "comment"),
    [
        ("Qwen/Qwen3-0.6B-Base", "of one row, by an estimate"),
        ("HuggingFaceTB/SmolLM2-360M", "of one row, by a high estimate: the model's tokenizer is not on this machine"),
    ],
)
def test_an_estimate_is_high_where_the_vocabulary_is_not_known(tmp_path: Path, model: str, comment: str) -> None:
    """A vocabulary without Hangul makes up to a token of each byte; the recipe says what was done."""
    texts = [f"{row['question']}\n{row['answer']}" for row in LONG]
    count = token_count(model_names(model), None).of_file()
    shares = {count(text) / len(text.encode()) for text in texts}
    assert all(0.7 < share <= 1 if "SmolLM" in model else share < 0.35 for share in shares)
    assert comment in proposed(tmp_path, model).yaml


def test_a_damaged_tokenizer_is_not_counted_with(tmp_path: Path) -> None:
    """`inspect` reports it; the recipe is written with an estimate."""
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    assert token_count(["gemma"], tmp_path / "tokenizer.json").how == "estimated"


def test_only_the_first_texts_of_a_large_file_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Later ones have as many tokens a byte."""
    make_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr("seodang.starter.token_count.COUNTED_BYTES", 100)
    count = token_count([], tmp_path / "tokenizer.json").of_file()
    first, second, third = (count("이 약은 아침 식사 뒤에 드세요. " * 4) for _ in range(3))
    assert first == third - 1 == second - 1
