"""hub: what arrives, what is never sent, and one message for whatever goes wrong."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import close_session, constants
from markdown_it import MarkdownIt
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hub_server import READER, WRITER, Hub, Repo, serve
from paths import ROOT
from planted_rows import noisy_rows
from run_folder import RECIPE, ROLES, write_run
from seodang.errors import GateError, HubError, RunError, SeodangError
from seodang.json_values import to_json
from seodang.model.packaged import PACKAGED
from seodang.proof.proof import Compared, prove_rows
from seodang.publish.base_model import GEMMA_NOTICE, ORIGINS, find_base
from seodang.publish.card import address, code, languages, plain, published_recipe
from seodang.publish.hub import Pushed, push, show_push
from seodang.recipe import Recipe, load_recipe
from seodang.secrets import leaks, own_secrets
from seodang.show.formatting import visible
from seodang.show.language import ENGLISH
from seodang.show.terminal.console import get_console
from seodang.types import Answer

TEMPLATES = ROOT / "src" / "seodang" / "templates"
FAKE = "hf_" + "Qm7Rk2Tz9" * 4  # planted: nobody's
LATE = ("NOTICE", "README.md", "README.ko.md")  # not in the model's folder, written for the hub


@pytest.fixture
def run(tmp_path: Path, tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A finished run with a tiny model; its template is Gemma's."""
    folder = write_run(tmp_path / "runs" / "의료")
    shutil.copytree(tiny_folder, folder / "model")
    tiny_tokenizer.chat_template = (TEMPLATES / "gemma.jinja").read_text(encoding="utf-8")
    tiny_tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on the loopback device; whoever pushes is logged in as `me`."""
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its server side is not for a test to write
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        yield server
        close_session()


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def edit_recipe(run: Path, **changes: Any) -> None:
    """Change sections of a run's recipe."""
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes, allow_unicode=True), encoding="utf-8")


def header(card: str) -> dict[str, Any]:
    """The card's YAML header."""
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_every_file_arrives_byte_for_byte(run: Path, hub: Hub) -> None:
    """Model, tokenizer, template, generation config and card stand in the repository after one commit."""
    pushed = push(run, "me/med")
    arrived = hub.repos["me/med"].files
    local = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    assert {name: data for name, data in arrived.items() if name not in (".gitattributes", *LATE)} == local
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= set(arrived)
    assert arrived["README.md"].decode() == pushed.card
    assert hub.repos["me/med"].commits == ["의료, pushed by seodang"]
    assert (pushed.commit or "").startswith(hub.address)
    assert pushed.url == f"{hub.address}/me/med"


def test_what_arrived_loads_as_the_card_says(run: Path, hub: Hub, tmp_path: Path) -> None:
    """The card's own example runs on the files of the repository, with plain transformers."""
    card = push(run, "me/med").card
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, data in hub.repos["me/med"].files.items():
        (folder / name).write_bytes(data)
    code = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)[0]
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code.replace('"me/med"', repr(str(folder))).replace("256", "4"), {})
    assert printed.getvalue()


def test_the_real_client_is_driven_by_its_environment(run: Path, tmp_path: Path) -> None:
    """In a process of its own, with HF_ENDPOINT and a stored login alone, a push goes through and prints no token."""
    with serve() as hub:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text(WRITER, encoding="utf-8")
        removed = ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        kept = {name: value for name, value in os.environ.items() if name not in removed}
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        code = (
            "import sys; from pathlib import Path; from seodang.publish.hub import push, show_push;"
            "show_push(push(Path(sys.argv[1]), 'me/med'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(run)],
            env=kept | settings | {"NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert hub.repos["me/med"].files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert f"{hub.address}/me/med/commit/" in done.stdout
    assert WRITER not in done.stdout + done.stderr


def test_a_name_alone_is_the_users_own(run: Path, hub: Hub) -> None:
    """`med` is pushed as `me/med`, and the card's example names it so."""
    pushed = push(run, "med")
    assert pushed.repo == "me/med"
    assert 'model="me/med"' in hub.repos["me/med"].files["README.md"].decode()


def test_private_means_private(run: Path, hub: Hub) -> None:
    """A new repository is private if that was asked, and one that is public already is not written to."""
    push(run, "me/secret", private=True)
    assert hub.repos["me/secret"].private
    hub.repos["me/open"] = Repo(private=False)
    with pytest.raises(HubError, match="public"):
        push(run, "me/open", private=True)
    assert hub.repos["me/open"].commits == []


def test_a_dry_run_asks_nobody(run: Path, hub: Hub) -> None:
    """It lists the same files and the same card, and no request is made."""
    planned = push(run, "me/med", dry_run=True)
    assert hub.requests == []
    assert planned.commit is None
    sent = push(run, "me/med")
    assert (planned.files, planned.card) == (sent.files, sent.card)


def test_a_second_push_takes_the_place_of_the_first(run: Path, hub: Hub) -> None:
    """Weights of an earlier push that would still be loaded are removed; nothing else of the repository is."""
    push(run, "me/med")
    files = hub.repos["me/med"].files
    files |= {"adapter_config.json": b"{}", "model-00001-of-00002.safetensors": b"old", "notes.md": b"mine"}
    again = push(run, "me/med")
    assert set(again.removed) == {"adapter_config.json", "model-00001-of-00002.safetensors"}
    assert set(hub.repos["me/med"].files) == {".gitattributes", "notes.md", *(file.name for file in again.files)}


def test_a_foreign_model_is_not_written_over(run: Path, hub: Hub) -> None:
    """A repository that holds weights without seodang's card is left as it is."""
    before = {"model.safetensors": b"precious", "README.md": b"---\ntags: [mine]\n---\n"}
    hub.repos["me/old"] = Repo(private=False, files=dict(before))
    with pytest.raises(HubError, match="did not push"):
        push(run, "me/old")
    assert hub.repos["me/old"].files == before


def test_nothing_of_the_training_goes(run: Path, hub: Hub) -> None:
    """Pickles, optimizer and trainer state, links and hidden files stay, and are named."""
    model = run / "model"
    stay = ("training_args.bin", "optimizer.pt", "optimizer.safetensors", "trainer_state.json", ".env", "rng_state.pth")
    for name in stay:
        (model / name).write_bytes(b"secret state")
    (model / "checkpoint-20").mkdir()
    (model / "checkpoint-20" / "config.json").write_bytes(b"{}")
    (model / "link.json").symlink_to(run / "answers.jsonl")
    pushed = push(run, "me/med")
    assert set(pushed.left) == {*stay, "checkpoint-20/config.json", "link.json"}
    assert not set(pushed.left) & set(hub.repos["me/med"].files)


@pytest.mark.parametrize("place", ["recipe.yaml", "config.json", "chat_template.jinja", "model.safetensors"])
def test_a_token_stops_the_push(run: Path, hub: Hub, place: str, tiny_folder: Path) -> None:
    """A token in the recipe or in any file that would go is refused before any request: file, line, masked."""
    path = run / place if place == "recipe.yaml" else run / "model" / place
    if place == "recipe.yaml":
        edit_recipe(run, system=f"token {FAKE}")
    elif place == "config.json":
        edit(path, origin=f"https://user:{FAKE}@huggingface.co")
    elif place == "chat_template.jinja":
        path.write_text(path.read_text(encoding="utf-8") + f"\n{{# {FAKE} #}}", encoding="utf-8")
    else:
        model = AutoModelForCausalLM.from_pretrained(tiny_folder)
        model.save_pretrained(path.parent, max_shard_size="1GB")
        whole = path.read_bytes()
        size = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + size])
        header["__metadata__"] = {"format": "pt", "by": FAKE}
        begin = json.dumps(header).encode()
        path.write_bytes(len(begin).to_bytes(8, "little") + begin + whole[8 + size :])
    with pytest.raises(GateError) as caught:
        push(run, "me/med")
    assert caught.value.exit_code == 1
    assert re.search(rf"- {place}:(byte )?\d+: a Hugging Face token|- {place}:\d+: a password", str(caught.value))
    assert FAKE[7:] not in str(caught.value)
    assert hub.requests == []


def test_the_users_own_token_is_found_wherever_it_stands(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of HF_TOKEN, whatever it looks like, stops the push even from within the weights."""
    monkeypatch.setenv("HF_TOKEN", "unlike-any-pattern-1")
    with (run / "model" / "model.safetensors").open("ab") as weights:
        weights.write(b"\x00\x01unlike-any-pattern-1\x02")
    with pytest.raises(GateError, match=r"model\.safetensors:byte \d+: the value of HF_TOKEN \(unl…, 20 characters\)"):
        push(run, "me/med")
    assert hub.requests == []


def test_the_stored_login_is_found_too(run: Path, hub: Hub, tmp_path: Path) -> None:
    """What `hf auth login` stored is searched for like the environment's."""
    (tmp_path / "login").write_text("another-kind-of-token-2\n", encoding="utf-8")
    edit(run / "model" / "generation_config.json", note="another-kind-of-token-2")
    with pytest.raises(GateError, match=r"generation_config\.json:1: the hub's login"):
        push(run, "me/med")


def test_personal_paths_stop_the_push_but_not_those_of_the_data(run: Path, hub: Hub) -> None:
    """The folders of data files are left out of the card; one that a file of the model holds is refused."""
    sources = [RECIPE["sources"][0] | {"path": ["/home/kim/secret-study/med.csv"]}, *RECIPE["sources"][1:]]
    edit_recipe(run, sources=sources)
    card = push(run, "me/med", dry_run=True).card
    assert "`med.csv`" in card
    assert "kim" not in card
    edit(run / "model" / "config.json", _name_or_path="/home/kim/models/base")
    with pytest.raises(GateError, match=r"config\.json:1: a personal path \(/home/k…\)"):
        push(run, "me/med")


PLANTED = (
    f"hf_token: {FAKE}",
    "sk-" + "proj-Ab3dEf6hIj9lMn2pQr5t",
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "11ABCDEFG0" * 3,
    "glpat-" + "aB3_" * 5,
    "nvapi-" + "aB3_" * 10,
    "gsk_" + "aB3d" * 10,
    "xai-" + "aB3d" * 20,
    "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA " + "PRIVATE KEY-----",
    "https://user:" + "pa55word@example.com/data",
    "WANDB_API_KEY=" + "0123456789abcdef0123456789abcdef01234567",
    '{"password": "' + 'correct-horse"}',
    '"{\\"access_token\\": \\"' + 'a1b2c3d4e5f6g7h8\\"}"',
    "비밀번호: " + "hunter2!!",
    "data in /home/kim/data",
    "data in /Users/kim/data",
    '{"path": "C:\\\\Users\\\\kim\\\\data"}',
    r"C:\Users\kim\data",
)
HARMLESS = (
    '"eos_token": "<end_of_turn>", "pad_token": "[PAD_0_ABCDEF]", "unk_token": "<unk>"',
    "max_tokens: 1024\nnum_tokens: 123456789012\nadd_bos_token: true",
    '"password": 1234567, "token": 26318, "secret": 262143',
    "Forgot your password: contact the office. A token: something small.",
    "{{ token: message['content'] }} api_key=${OPENAI_API_KEY} token=<your token>",
    "https://example.com/home/kim and https://huggingface.co/google/gemma-3-270m",
    "task-list sk-learn-contrib-packages hf_hub_download",
    "비밀번호: 새로 정하세요",
)


@pytest.mark.parametrize("text", PLANTED)
def test_secrets_and_paths_are_found(text: str) -> None:
    """Each kind is found on its line, once, and shown with hardly any of it."""
    found = leaks("a.json", f"first\n{text}\nlast".encode(), {})
    assert [leak.where for leak in found] == ["a.json:2"]
    assert text not in found[0].masked
    assert len(found[0].masked.split("…")[0].removeprefix("C:\\\\Users\\\\").removeprefix("/Users/")) < 11


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_text_is_no_secret(text: str) -> None:
    """Special tokens, numbers, prose, placeholders and addresses are let through."""
    assert leaks("a.json", text.encode(), {}) == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gemma3", "llama3_1", "qwen3"])
def test_real_tokenizers_are_let_through(shared: Path, name: str) -> None:
    """No entry of a real vocabulary of 128,000 to 262,000 looks like a secret or a personal path."""
    for path in (shared / "data" / "tokenizers" / name).glob("*.json"):
        assert leaks(path.name, path, {}) == []


def test_secrets_of_the_environment_are_those_named_so() -> None:
    """Values of variables named like secrets count, unless they are plain words or numbers."""
    environment = {
        "HF_TOKEN": "abc-123-def", "OPENAI_API_KEY": "x1y2z3x1y2z3", "TOKENIZERS_PARALLELISM": "false-and-longer-1",
        "DB_PASSWORD": "postgres", "PIN_TOKEN": "123456789", "HOME": "/home/kim",
    }  # fmt: skip
    assert set(own_secrets(environment)) == {"the value of HF_TOKEN", "the value of OPENAI_API_KEY"}


def test_the_card_tells_the_proofs_figures(run: Path) -> None:
    """Losses, change, bits per byte and stop rates are those of proof.json, with what they do not say."""
    card = push(run, "me/med", dry_run=True).card
    for expected in (
        "| `의료_질문` | domain | 40 | 3.073 | 2.167 | −0.906 | −1.052 to −0.760 | improved |",
        "| `wiki` | retention | 50 | 1.082 | 1.154 | +0.072 | +0.068 to +0.075 | lost |",
        "| repeated question | 6 | 0% → 100% |", "| `의료_질문` | +0.895<br>+0.847 to +0.943 | +0.147<br>",
        "Loss on 의료\\_질문 answers fell by 0.906", "beyond the tolerance of 0.03", "No answer was judged",
        "depend more on their own question", "no answer was judged for correctness",
        "4 different answers", "7 empty answer", "`ko_medical.csv`", "4,180", "not medical advice",
        "- source 의료\\_질문: 38 questions have different answers", "seodang 0.1.0", "torch 2.13.0",
    ):  # fmt: skip
        assert expected in card, expected


def test_the_card_is_in_korean_too(run: Path) -> None:
    """README.ko.md holds the same header, figures, use, data, limits and licence; each card leads to the other."""
    planned = push(run, "me/med", dry_run=True)
    found = next(file.content for file in planned.files if file.name == "README.ko.md")
    assert isinstance(found, bytes)
    card = found.decode()
    assert header(card) == header(planned.card)
    assert "[한국어](README.ko.md)" in planned.card
    for expected in (
        "[English](README.md)", "의료\\_질문 답변의 손실이 토큰당 0.906 nat 줄었습니다",
        "| `의료_질문` | 도메인 | 40 | 3.073 | 2.167 | −0.906 | −1.052 ~ −0.760 | 개선 |",
        "의학적 조언이나 의료기기가 아닙니다",
        "답변이 옳은지는 사람도 모델도 확인하지 않았습니다.", "## 라이선스", "## 용도", "7 empty answer",
    ):  # fmt: skip
        assert expected in card, expected
    for key, english in ENGLISH.entries.items():
        if key.startswith("card.") and "{" not in english and len(english) > 12:
            assert english not in card, key


def test_figures_follow_the_proof(run: Path) -> None:
    """Another proof, another card: few rows show nothing, and without a retention source forgetting is unknown."""
    proof = prove_rows(noisy_rows(9, "의료_질문"), [], Compared(name="x", base="a", tuned="b"), roles=ROLES)
    (run / "proof.json").write_text(json.dumps(to_json(proof)), encoding="utf-8")
    card = push(run, "me/med", dry_run=True).card
    assert "It is not shown that loss on 의료\\_질문 answers fell." in card
    assert "better" not in card.replace("lower is better", "")
    assert "gained" not in card.replace("What was gained, what was lost", "")
    assert "Forgetting was not measured" in card
    assert "same question gets the same answer was not measured" in card


@pytest.mark.parametrize(
    "name", ["a`b.csv", "``.csv", "`<i>`.csv", "a|b`c.csv", "감기`` `약`.csv", "\x1b[2J`\n# x.csv"]
)
def test_a_file_name_stays_in_its_code_span(name: str) -> None:
    """Whatever a file is called, Markdown shows its name as code in one cell of the table, masked."""
    page = MarkdownIt().enable("table").parse(f"| from | to |\n|---|---|\n| {code(name)} | end |\n")
    cells = [token.children or [] for token in page if token.type == "inline"][2:]
    assert [[child.type for child in cell] for cell in cells] == [["code_inline"], ["text"]]
    assert cells[0][0].content == " ".join(visible(name).split())


@pytest.mark.parametrize("link", ["https://x.org/> <script>alert(1)</script>", "javascript:alert(1)", "x` | y"])
def test_a_licence_link_is_a_web_address_or_plain_text(link: str) -> None:
    """The licence of a base is another's text: only a web address becomes a link."""
    assert MarkdownIt("commonmark", {"html": True}).render(address(link)).count("<") == 2  # the paragraph's own tags
    assert address("https://x.org/a?b=1") == "<https://x.org/a?b=1>"


def test_a_run_without_a_proof_says_so(run: Path) -> None:
    """The card says that nothing was measured, and so does a remark."""
    (run / "proof.json").unlink()
    planned = push(run, "me/med", dry_run=True)
    assert "**Not measured:**" in planned.card
    assert "no proof" in planned.remarks[0]


def test_the_header_holds_what_is_known(run: Path) -> None:
    """Base, licence, language, library and tags of a packaged Gemma; its terms go along as NOTICE."""
    planned = push(run, "me/med", dry_run=True)
    assert header(planned.card) == {
        "base_model": "google/gemma-3-270m",
        "base_model_relation": "finetune",
        "language": ["ko"],
        "library_name": "transformers",
        "license": "gemma",
        "pipeline_tag": "text-generation",
        "tags": ["seodang", "instruction-tuning", "conversational"],
    }
    assert {file.name: file.content for file in planned.files}["NOTICE"] == f"{GEMMA_NOTICE}\n".encode()


def test_every_package_has_an_origin() -> None:
    """Each packaged model's place on the hub and licence are known."""
    assert set(ORIGINS) == set(PACKAGED)


def test_no_licence_is_guessed(tmp_path: Path) -> None:
    """Of a hub id nothing is known but Gemma's architecture; a folder's own card is believed."""
    assert find_base("Qwen/Qwen3-0.6B-Base", "Qwen3ForCausalLM").license == {}
    assert find_base("google/gemma-3-1b-pt", "Gemma3ForCausalLM").license == {"license": "gemma"}
    folder = tmp_path / "own-llama"
    folder.mkdir()
    assert find_base(str(folder), "LlamaForCausalLM").license == {}
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: a/b\n---\n", encoding="utf-8")
    base = find_base(str(folder), "LlamaForCausalLM")
    assert (base.name, base.hub, base.license) == ("own-llama", "a/b", {"license": "mit"})
    (folder / "README.md").write_text("---\n[broken: {\n---\n", encoding="utf-8")
    assert find_base(str(folder), "LlamaForCausalLM").license == {}


def test_a_model_beside_the_users_recipe_is_not_a_run(tmp_path: Path) -> None:
    """`recipe.yaml` beside `model/`: the recipe is not asked what the model was made of."""
    base = tmp_path / "model"
    base.mkdir()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "model": str(base)}), encoding="utf-8")
    assert find_base(str(base), "LlamaForCausalLM").name == "model"


def test_a_run_as_the_base_hands_on_what_it_was_made_from(run: Path) -> None:
    """The terms of the first base bind what two runs made of it; weights that are on no hub are not linked to."""
    for path in (run, run / "model"):
        base = find_base(str(path), "LlamaForCausalLM")
        first = find_base(RECIPE["model"]["path"], "LlamaForCausalLM")
        assert (base.name, base.hub, base.license) == (run.name, None, first.license)
        assert "the model of an earlier run, made from" in base.remark


def test_the_cards_recipe_is_the_runs(run: Path, tmp_path: Path) -> None:
    """The recipe in the card loads to the run's, but for the folders of its files."""
    edit_recipe(run, system="```\n답을 짧게")
    card = push(run, "me/med", dry_run=True).card
    fence = re.search(r"^(`{3,})yaml$", card, re.MULTILINE)
    assert fence is not None
    (tmp_path / "again.yaml").write_text(card.split(f"{fence[1]}yaml\n")[1].split(f"\n{fence[1]}\n")[0])

    def bare(recipe: Recipe) -> Recipe:
        parts = [
            part.model_copy(update={"path": tuple(Path(p).name for p in part.path or ())}) for part in recipe.sources
        ]
        return recipe.model_copy(update={"sources": tuple(parts)})

    assert bare(load_recipe(tmp_path / "again.yaml")) == bare(load_recipe(run / "recipe.yaml"))


def test_a_recipe_is_published_without_folders() -> None:
    """Paths of any system lose their folders; hub ids, packages and shipped samples stay."""
    data = RECIPE | {
        "model": {"path": "/srv/ai/gemma-MED"},
        "template": {"borrow": "C:\\x\\chat.jinja"},
        "sources": [
            {"name": "a", "role": "domain", "path": ["D:\\data\\a.csv", "/data/b.csv"]},
            {"name": "b", "role": "general", "path": "sample:ko_general"},
            {"name": "c", "role": "general", "hub": "beomi/KoAlpaca-RealQA"},
        ],
    }
    shown = yaml.safe_load(published_recipe(Recipe.model_validate(data)))
    assert (shown["model"], shown["template"]) == ({"path": "gemma-MED"}, {"borrow": "chat.jinja"})
    assert [part.get("path", part.get("hub")) for part in shown["sources"]] == [
        ["a.csv", "b.csv"], "sample:ko_general", "beomi/KoAlpaca-RealQA",
    ]  # fmt: skip


def test_languages_are_those_of_the_questions() -> None:
    """Korean with English terms is Korean; nothing is claimed of other languages."""

    def asked(*questions: str) -> list[str]:
        rest: dict[str, Any] = {"text": "", "stopped": True, "prompt_tokens": 1, "new_tokens": 1}
        return languages([Answer(kind="domain", model="base", question=question, **rest) for question in questions])

    assert asked("LDL cholesterol 수치가 높으면 어떻게 하나요?") == ["ko"]
    assert asked("사과는 왜 빨간가요?", "Why are apples red?") == ["ko", "en"]
    assert asked("Warum ist der Apfel rot?") == []
    assert asked() == []


def test_text_of_data_cannot_break_the_card() -> None:
    """Tables, HTML and emphasis in data are shown as text on one line."""
    assert plain("a|b\n<img src=x> *b* `c` [d](e)") == r"a\|b &lt;img src=x&gt; \*b\* \`c\` \[d\](e)"


@pytest.fixture
def adapted(run: Path, tiny_folder: Path) -> Path:
    """A run that also holds an adapter as peft writes it."""
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(run / "adapter")
    return run


def test_an_adapter_goes_alone(adapted: Path, hub: Hub, tiny_folder: Path) -> None:
    """Adapter, tokenizer and template go, no weights of the model; its base is one that others can load."""
    assert str(tiny_folder) in (adapted / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    pushed = push(adapted, "me/lora", adapter=True)
    arrived = hub.repos["me/lora"].files
    assert {"adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(arrived)
    assert "model.safetensors" not in arrived
    assert json.loads(arrived["adapter_config.json"])["base_model_name_or_path"] == "google/gemma-3-270m"
    assert header(pushed.card)["library_name"] == "peft"
    assert header(pushed.card)["base_model_relation"] == "adapter"


def test_an_adapter_loads_as_the_card_says(adapted: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The card's example for adapters runs on what would be sent."""
    planned = push(adapted, "me/lora", adapter=True, dry_run=True)
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for file in planned.files:
        (folder / file.name).write_bytes(file.content if isinstance(file.content, bytes) else file.content.read_bytes())
    edit(folder / "adapter_config.json", base_model_name_or_path=str(tiny_folder))  # for the base, which tests lack
    code = re.findall(r"```python\n(.*?)\n```", planned.card, re.DOTALL)[0]
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code.replace('"me/lora"', repr(str(folder))).replace("256", "4"), {})
    assert printed.getvalue()


def test_an_adapter_of_a_local_base_is_named_as_such(adapted: Path) -> None:
    """No path of this machine goes; that others cannot load it is said."""
    edit_recipe(adapted, model={"path": "/home/kim/models/gemma-MED"})
    planned = push(adapted, "me/lora", adapter=True, dry_run=True)
    settings = {file.name: file.content for file in planned.files}["adapter_config.json"]
    assert isinstance(settings, bytes)
    assert json.loads(settings)["base_model_name_or_path"] == "gemma-MED"
    assert any("not on the hub" in remark for remark in planned.remarks)
    assert "kim" not in planned.card


def failing(run: Path, repo: str = "me/med", **options: Any) -> SeodangError:
    """The error that a push ends in; it is seodang's own, with a hint, and holds no token."""
    with pytest.raises(SeodangError) as caught:
        push(run, repo, **options)
    assert "→" in str(caught.value)
    assert WRITER not in str(caught.value)
    assert READER not in str(caught.value)
    return caught.value


def test_without_a_login_the_hint_is_to_log_in(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login and an invalid one are each one message that names `hf auth login`."""
    monkeypatch.delenv("HF_TOKEN")
    error = failing(run)
    assert (error.what, error.exit_code) == ("there is no login for the hub", 2)
    assert "hf auth login" in str(error)
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Unknown0123456789" * 2)
    message = str(failing(run))
    assert "does not know this login" in message
    assert "unset HF_TOKEN" in message
    assert "hf auth login" in message
    assert "does not know this login" in str(failing(run, "med"))


def test_without_rights_nothing_is_sent(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace of others, and a token that may only read, are reported as missing rights."""
    assert "no right to write" in str(failing(run, "google/gemma-4"))
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "no right to write" in str(failing(run))
    hub.repos["me/med"] = Repo(private=False)
    assert "no right to write" in str(failing(run))
    assert hub.stored == {}


def test_a_hub_that_fails_is_one_message(run: Path, hub: Hub) -> None:
    """Errors of any step of the upload are reported as the hub's, and no commit is made."""
    for part, status, expected in (
        ("repos/create", 503, "answered 503"),
        ("/commit/", 500, "answered 500"),
        ("/lfs/", 403, "no right to write"),
        ("validate-yaml", 400, "refuses what was sent"),
    ):
        hub.fails = {part: status}
        assert expected in str(failing(run)), part
    hub.fails = {}
    assert hub.repos["me/med"].commits == []
    push(run, "me/med")


def test_without_a_network_the_hint_says_so(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody listens, and offline mode, are each one message."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "check the network" in str(failing(run))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in str(failing(run))


@pytest.mark.parametrize("repo", ["a/b/c", "", "me/의료", "me/-x", "me/a--b"])
def test_a_repo_must_be_named_as_the_hub_names_them(run: Path, repo: str) -> None:
    """Names that the hub does not take are reported before anything is done."""
    assert isinstance(failing(run, repo, dry_run=True), HubError)


def test_a_run_must_be_finished(run: Path, tmp_path: Path) -> None:
    """Without a folder, a model, a tokenizer, a shard or an adapter there is nothing to push, and that is said."""
    assert isinstance(failing(tmp_path / "nowhere", dry_run=True), RunError)
    assert "no adapter" in str(failing(run, adapter=True, dry_run=True))
    index = run / "model" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}', encoding="utf-8")
    assert "model-00002-of-00002.safetensors is missing" in str(failing(run, dry_run=True))
    index.unlink()
    (run / "model" / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in str(failing(run, dry_run=True))
    shutil.rmtree(run / "model")
    assert "training has not ended" in str(failing(run, dry_run=True))


def test_a_damaged_proof_is_not_published(run: Path) -> None:
    """A proof that cannot be read is an error, not a card without figures."""
    (run / "proof.json").write_text('{"losses": {', encoding="utf-8")
    assert "proof.json cannot be read" in str(failing(run, dry_run=True))


def test_a_torn_line_that_no_card_tells_is_no_hindrance(run: Path) -> None:
    """What a kill left of metrics.jsonl does not stand in the way."""
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"event": "tr')
    assert push(run, "me/med", dry_run=True).card


def test_the_terminal_lists_what_goes(run: Path) -> None:
    """A dry run shows each file with its size, what stays, and the card as it is."""
    (run / "model" / "training_args.bin").write_bytes(b"x")
    planned: Pushed = push(run, "me/med", dry_run=True)
    out = get_console()
    with out.capture() as capture:
        show_push(planned, out=out)
    text = capture.get()
    assert "nothing was" in text
    assert re.search(r"model\.safetensors +\d+\.\d kB", text)
    assert "training_args.bin stays here" in text
    assert "# gemma-3-270m-의료-Instruct" in text
    assert AutoTokenizer.from_pretrained(run / "model").chat_template
