"""Every kind of bad input ends in one message that says where, what and the mend, and leaves nothing behind."""

import io
import json
import os
import shutil
import signal
import zipfile
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from command import Ended, Workplace, json_lines, qa_rows, seodang
from seodang.model import gguf_to_transformers, packaged
from seodang.model.packaged import PACKAGED
from tiny import make_config, make_model
from tiny_gguf import gemma_tokens, write_gemma


@pytest.fixture
def place(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A user's empty folder, in which commands are run; the model lies elsewhere."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Workplace(folder=folder, model=tiny_folder)


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One kind of bad input, and what the message must hold."""

    kind: str
    make: Callable[[Workplace], Sequence[object]]  # puts it there → the command's arguments
    where: str
    what: str
    hint: str
    command: str = "tune"
    code: int = 2


def each(*cases: Bad) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", cases, ids=[case.kind for case in cases])


def check(bad: Bad, place: Workplace) -> None:
    """The command ends with one message as it should be, and nothing was touched or left."""
    arguments = bad.make(place)
    before = place.snapshot()
    ended = seodang(bad.command, *arguments)
    check_message(ended, bad.where, bad.what, bad.hint, code=bad.code)
    assert place.snapshot() == before


def check_message(ended: Ended, where: str, what: str, hint: str, *, code: int = 2) -> None:
    assert ended.code == code, ended.err
    assert ended.err.count("error: ") == 1
    assert "Traceback" not in ended.err + ended.out
    head, arrow, tail = ended.err.partition("error: ")[2].partition("\n  → ")
    assert arrow, f"no mend: {head}"
    assert where in head
    assert what in head
    assert hint in tail
    assert tail.count("\n") == 1, "the message is the last that is said"


def _text(text: str) -> Callable[[Workplace], Sequence[object]]:
    return lambda place: [place.write("recipe.yaml", text).name]


def _edited(old: str, new: str, *, encoding: str = "utf-8") -> Callable[[Workplace], Sequence[object]]:
    """The sound recipe's text with one change."""

    def make(place: Workplace) -> Sequence[object]:
        [name] = place.recipe()
        text = Path(name).read_text(encoding="utf-8")
        assert old in text
        place.write(name, text.replace(old, new).encode(encoding))
        return [name]

    return make


def _changed(*changes: str) -> Callable[[Workplace], Sequence[object]]:
    """The sound recipe with overrides."""
    return lambda place: place.recipe(*changes)


RECIPES = (
    Bad(kind="no such recipe", make=lambda _: ["recipy.yaml"], where="recipy.yaml", what="no such file", hint="demo"),
    Bad(
        kind="unknown shipped name", make=lambda _: ["dema"], where="dema", what="did you mean 'demo'?",
        hint="give a YAML file or one of: demo, english",
    ),
    Bad(
        kind="folder as recipe", make=lambda place: [place.folder], where="place", what="is a folder",
        hint="give a YAML file or one of: demo",
    ),
    Bad(
        kind="bad YAML", make=_text("name: mine\nmodel: {path: a\nsources: []\n"), where="recipe.yaml:3",
        what="expected ',' or '}'", hint="fix the YAML",
    ),
    Bad(
        kind="a tab in YAML", make=_text("name: mine\nmodel:\n\tpath: a\n"), where="recipe.yaml:3",
        what="cannot start any token", hint="fix the YAML",
    ),
    Bad(
        kind="key twice", make=_text("name: mine\nname: yours\n"), where="recipe.yaml:2",
        what="duplicate key 'name'", hint="fix the YAML",
    ),
    Bad(
        kind="empty recipe", make=_text("# later\n"), where="recipe.yaml", what="found nothing",
        hint="`name:`, `model:` and `sources:`",
    ),
    Bad(
        kind="list as recipe", make=_text("- a\n- b\n"), where="recipe.yaml", what="found list",
        hint="`name:`, `model:` and `sources:`",
    ),
    Bad(
        kind="recipe in CP949", make=_edited("name: medical", "name: 의학", encoding="cp949"), where="recipe.yaml",
        what="not UTF-8", hint="save the recipe as UTF-8",
    ),
    Bad(
        kind="binary recipe", make=lambda place: [place.write("model.gguf", b"GGUF\0\1\xff\xfe" * 9).name],
        where="model.gguf", what="not UTF-8", hint="save the recipe as UTF-8",
    ),
    Bad(
        kind="unknown key", make=_edited("max_tokens:", "max_token:"), where="recipe.yaml",
        what="train.max_token: unknown key; did you mean 'max_tokens'?", hint="fix these keys",
    ),
    Bad(
        kind="wrong type", make=_edited("steps: 1", "steps: many"), where="recipe.yaml",
        what="train.steps: input should be a valid integer", hint="fix these keys",
    ),
    Bad(
        kind="no sources", make=_changed("sources=[]"), where="recipe.yaml",
        what="sources: expected at least one, found []", hint="fix these keys",
    ),
    Bad(
        kind="only retention", make=_changed("sources.medical.role=retention"), where="recipe.yaml",
        what="sources: no source is trained on", hint="fix these keys",
    ),
    Bad(
        kind="nonsense as take", make=_changed("sources.medical.take=4/3"), where="recipe.yaml",
        what="sources.medical.take: '4/3' asks for shard 4 of 3", hint="fix these keys",
    ),
    Bad(
        kind="override that is none", make=_changed("train.steps:5"), where="recipe.yaml",
        what="expected KEY=VALUE, got 'train.steps:5'", hint="fix these keys",
    ),
    Bad(
        kind="override of a source that is not there", make=_changed("sources.medicl.take=5"), where="recipe.yaml",
        what="did you mean 'medical'?", hint="fix these keys",
    ),
)  # fmt: skip


@each(*RECIPES)
def test_a_recipe_that_cannot_be_read(bad: Bad, place: Workplace) -> None:
    """A recipe's faults are told with file, line or key."""
    check(bad, place)


def test_all_faults_of_a_recipe_at_once(place: Workplace) -> None:
    """Several faults are one message, a line each."""
    ended = seodang("inspect", *place.recipe("train.epoch=2", "train.learning_rate=fast", "model.dtype=int4"))
    check_message(ended, "recipe.yaml", "3 faults", "fix these keys")
    lines = [line for line in ended.err.splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0] for line in lines] == ["  - model.dtype", "  - train.learning_rate", "  - train.epoch"]


def _file(name: str, content: str | bytes, *changes: str) -> Callable[[Workplace], Sequence[object]]:
    """The sound recipe on a file with this content."""

    def make(place: Workplace) -> Sequence[object]:
        place.write(name, content)
        return place.recipe(*changes, path=name)

    return make


def _path(path: str) -> Callable[[Workplace], Sequence[object]]:
    return lambda place: place.recipe(path=path)


def _xlsx() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return packed.getvalue()


SOUND = json_lines(qa_rows(40))
CSV = "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in qa_rows(20))
FILES = (
    Bad(
        kind="no such file", make=_path("date.jsonl"), where="date.jsonl", what="no such file",
        hint="did you mean 'data.jsonl'?",
    ),
    Bad(
        kind="folder", make=lambda place: (place.write("rows/a.md", SOUND), place.recipe(path="rows"))[1],
        where="rows", what="holds no data file", hint="data files end in",
    ),
    Bad(
        kind="unknown sample", make=_path("sample:ko_medicine"), where="sample:ko_medicine",
        what="did you mean 'ko_medical'?", hint="sample:ko_general",
    ),
    Bad(
        kind="empty file", make=_file("a.jsonl", ""), where="a.jsonl", what="is empty",
        hint="name a file that holds rows",
    ),
    Bad(
        kind="blank file", make=_file("a.jsonl", " \n\n"), where="a.jsonl", what="nothing but blanks",
        hint="name a file that holds rows",
    ),
    Bad(
        kind="Excel file", make=_file("a.xlsx", _xlsx()), where="a.xlsx", what="not a readable spreadsheet",
        hint="save it as .xlsx or CSV (UTF-8)",
    ),
    Bad(
        kind="Excel file under another name", make=_file("a.csv", _xlsx()), where="a.csv",
        what="not a readable spreadsheet", hint="save it as .xlsx or CSV (UTF-8)",
    ),
    Bad(
        kind="GGUF as data", make=_file("a.jsonl", b"GGUF\3\0\0\0" + bytes(40)), where="a.jsonl",
        what="a GGUF model", hint="a model goes under `model:`",
    ),
    Bad(
        kind="plain text", make=_file("a.txt", "Once there was a book\nand it had no columns\n"), where="a.txt",
        what="neither JSON nor a table with columns", hint='{"text": "…"}',
    ),
    Bad(
        kind="a page instead of data", make=_file("a.jsonl", "<!doctype html>\n<title>404</title>\n"), where="a.jsonl",
        what="HTML", hint="name a file of JSON",
    ),
    Bad(
        kind="truncated JSON Lines", make=_file("a.jsonl", SOUND[:-30]), where="a.jsonl:40",
        what="broken JSON in line 40", hint="copy, download or write it again",
    ),
    Bad(
        kind="truncated JSON array", make=_file("a.json", json.dumps(qa_rows(9), indent=1)[:-40]), where="a.json:9",
        what="broken JSON", hint="copy, download or write it again",
    ),
    Bad(
        kind="Python's print for JSON", make=_file("a.jsonl", "{'question': '왜?', 'answer': '그냥.'}\n" * 9),
        where="a.jsonl:1", what="broken JSON", hint="json.dumps",
    ),
    Bad(
        kind="one JSON object", make=_file("a.json", json.dumps({"version": "1.0", "meta": {"rows": 9}, "rows": []})),
        where="a.json", what="one JSON object", hint="as a JSON array or JSON Lines",
    ),
    Bad(
        kind="JSON numbers", make=_file("a.json", "[1, 2, 3]"), where="a.json:1", what="found a number",
        hint='"question"',
    ),
    Bad(
        kind="CSV without header", make=_file("a.csv", CSV.partition("\n")[2]), where="a.csv:1",
        what="the first line seems to be data", hint="add a first line with the columns' names",
    ),
    Bad(
        kind="ragged CSV", make=_file("a.csv", CSV + "혈압은 왜 재나요?,높으면 위험해서,그래요\n"), where="a.csv:21",
        what="cells: 3, but the header names 2 columns", hint="in quotes",
    ),
    Bad(
        kind="open quote in CSV", make=_file("a.csv", CSV + '"혈압은,왜\n'), where="a.csv:21",
        what="a quote that opens in line 22 is never closed", hint="close every cell",
    ),
    Bad(
        kind="two columns of one name", make=_file("a.csv", CSV.replace("answer", "question")), where="a.csv:1",
        what="two columns have the same name: question", hint="rename one of them",
    ),
    Bad(
        kind="damaged Parquet", make=_file("a.parquet", b"PAR1" + bytes(60)), where="a.parquet",
        what="not a readable Parquet file", hint="copy, download or write it again",
    ),
    Bad(
        kind="bytes of no encoding", make=_file("a.jsonl", SOUND.encode() + b'{"question": "\xff\xfe\x80"}\n'),
        where="a.jsonl:41", what="not UTF-8", hint="encoding:",
    ),
    Bad(
        kind="wrong encoding named", make=_file("a.jsonl", SOUND, "sources.medical.encoding=ascii"), where="a.jsonl",
        what="the file is UTF-8", hint="leave `encoding:` out",
    ),
    Bad(
        kind="encoding that does not exist", make=_file("a.jsonl", SOUND, "sources.medical.encoding=utf-9"),
        where="a.jsonl", what="utf-9", hint="utf-8",
    ),
    Bad(
        kind="data set offline",
        make=_changed("sources.medical.path=null", "sources.medical.hub=nobody-here/no-data"),
        where="sources.medical.hub: nobody-here/no-data", what="the hub cannot be reached", hint="go online",
    ),
)  # fmt: skip


@each(*FILES)
def test_a_file_that_cannot_be_read(bad: Bad, place: Workplace) -> None:
    """A file's faults are told with the file, and the row or line where there is one."""
    check(bad, place)


def _rows(*rows: dict[str, object], count: int = 20) -> str:
    return json_lines([dict(row) for row in rows] * count)


TWICE = "sources=[{name: a, role: domain, path: data.jsonl}, {name: b, role: retention, path: data.jsonl}]"
COLUMNS = (
    Bad(
        kind="unknown column named", make=_changed("sources.medical.question=questoin"), where="data.jsonl",
        what="question: no column is named 'questoin'; did you mean 'question'?",
        hint="columns there are: question, answer",
    ),
    Bad(
        kind="columns that say nothing", make=_file("a.jsonl", _rows({"col1": "왜?", "col2": "네."})), where="a.jsonl",
        what="cannot tell what the columns hold: col1, col2", hint="name them with `question:` and `answer:`",
    ),
    Bad(
        kind="columns of two readings",
        make=_file("a.jsonl", _rows({"question": "왜?", "answer": "네.", "response": "예."})), where="a.jsonl",
        what="in more than one way", hint="name the columns in the recipe with `question:` and `answer:`",
    ),
    Bad(
        kind="no answers", make=_file("a.jsonl", _rows({"question": "왜?", "answer": None})), where="a.jsonl:1",
        what="none of the 20 rows can be used: 20 × empty answer", hint="check that the recipe names the right columns",
    ),
    Bad(
        kind="questions alone", make=_file("a.jsonl", _rows({"question": "왜?"})), where="a.jsonl",
        what="no column is known to hold answers", hint="name the column with `answer:`",
    ),
    Bad(
        kind="numbers of choices",
        make=_file("a.jsonl", _rows({"question": "왜?", "choices": ["가", "나"], "answer": "1"})), where="a.jsonl",
        what="multiple-choice", hint="write the choice's text into a column",
    ),
    Bad(
        kind="holdout beyond the data", make=_changed("sources.medical.holdout=400"), where="source medical",
        what="holdout asks for 400 rows; the source has 40", hint="give a smaller number",
    ),
    Bad(
        kind="nothing left to train on", make=_changed("sources.medical.holdout=0.999"), where="source medical",
        what="no training rows left", hint="hold out fewer",
    ),
    Bad(
        kind="no column to split by", make=_changed("split.by=patient"), where="data.jsonl",
        what="split.by: no column is named 'patient'", hint="columns there are: question, answer",
    ),
    Bad(
        kind="gaps in the column to split by",
        make=_file("a.jsonl", json_lines([{**row, "patient": None} for row in qa_rows(20)]), "split.by=patient"),
        where="a.jsonl:1 (source medical)", what="no value for 'patient'", hint="fill the column, or split by question",
    ),
    Bad(
        kind="the same file as two sources",
        make=_changed(TWICE),
        where="source a", what="each of its 39 training rows has a question or turn that another source holds out",
        hint="is the same file in two sources?",
    ),
    Bad(
        kind="all rows too long", make=_changed("train.max_tokens=8"), where="source medical",
        what="none of its 36 training rows can be trained on: 36 × longer than 8 tokens; first",
        hint="train.max_tokens=64 keeps all of them",
    ),
    Bad(
        kind="control token in every row",
        make=_file("a.jsonl", json_lines([{**row, "answer": row["answer"] + "<|im_end|>"} for row in qa_rows(40)])),
        where="a.jsonl:1", what="36 × control token in the text: <|im_end|>", hint="fix the rows at fault",
    ),
    Bad(
        kind="rows too long, refused", make=_changed("train.max_tokens=20", "train.too_long=refuse"),
        where="source medical", what="rows longer than 20 tokens",
        hint="train.max_tokens=64 keeps all of them", code=1,
    ),
)  # fmt: skip


@each(*COLUMNS)
def test_data_that_cannot_be_used(bad: Bad, place: Workplace) -> None:
    """Columns, splits and lengths that do not fit the data are told with the file or source."""
    check(bad, place)


def _model(change: Callable[[Path], object], *changes: str) -> Callable[[Workplace], Sequence[object]]:
    """The sound recipe on a copy of the sound model with one change, in ./base."""

    def make(place: Workplace) -> Sequence[object]:
        shutil.copytree(place.model, place.folder / "base")
        change(place.folder / "base")
        return place.recipe("model.path=./base", *changes)

    return make


def _config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def _cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def _only(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        for name in names:
            (folder / name).write_bytes(b"GGUF")

    return change


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


MODELS = (
    Bad(
        kind="no such model folder", make=_changed("model.path=./bsae"), where="bsae", what="no such folder",
        hint="give a folder, a hub id or package:NAME",
    ),
    Bad(
        kind="misspelt model folder", make=_model(lambda _: None, "model.path=./bas"), where="bas",
        what="no such folder", hint="base?",
    ),
    Bad(
        kind="folder without config", make=_model(lambda folder: (folder / "config.json").unlink()), where="base",
        what="no config.json in the folder", hint="save_pretrained",
    ),
    Bad(
        kind="config that is no JSON", make=_model(lambda folder: (folder / "config.json").write_text('{"a": ')),
        where="base", what="config.json is not complete JSON", hint="fetch or copy the folder again",
    ),
    Bad(
        kind="GGUF alone", make=_model(_only("base.Q4_K_M.gguf")), where="base", what="only a GGUF file",
        hint="safetensors",
    ),
    Bad(
        kind="GGUF file", make=lambda place: place.recipe(f"model.path={place.write('b.gguf', b'GGUF')}"),
        where="b.gguf", what="is a file, not a model's folder", hint="safetensors",
    ),
    Bad(
        kind="adapter", make=_model(_only("adapter_config.json")), where="base", what="holds an adapter",
        hint="merge it into its base",
    ),
    Bad(
        kind="truncated weights", make=_model(_cut("model.safetensors")), where="base", what="damaged weights",
        hint="fetch or convert the model again",
    ),
    Bad(
        kind="no weights", make=_model(lambda folder: (folder / "model.safetensors").unlink()), where="base",
        what="model.safetensors", hint="check that the folder is complete",
    ),
    Bad(
        kind="weights of another model", make=_model(_config(num_hidden_layers=3)), where="base",
        what="they would be random", hint="give a complete causal language model",
    ),
    Bad(
        kind="unknown package", make=_changed("model.path=package:gemma-3-270"), where="package:gemma-3-270",
        what="unknown packaged model; did you mean 'gemma-3-270m'?", hint="there are: package:gemma-3-270m",
    ),
    Bad(
        kind="hub id offline", make=_changed("model.path=nobody-here/no-model"), where="nobody-here/no-model",
        what="the hub cannot be reached", hint="https://huggingface.co/nobody-here/no-model",
    ),
    Bad(
        kind="no hub id", make=_changed("model.path='my model!'"), where="my model!",
        what="neither a folder here nor a hub id", hint="give a folder, a hub id or package:NAME",
    ),
    Bad(
        kind="encoder", make=_model(_config(model_type="bert", architectures=["BertForMaskedLM"])), where="base",
        what="BertForMaskedLM is not a causal language model", hint="give a decoder",
    ),
    Bad(
        kind="encoder and decoder",
        make=_model(_config(model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)),
        where="base", what="is not a causal language model", hint="give a decoder",
    ),
    Bad(
        kind="unknown architecture", make=_model(_config(model_type="llama9")), where="base",
        what="does not know the architecture 'llama9'", hint="pip install -U transformers",
    ),
    Bad(
        kind="code of its own", make=_model(_config(model_type="mine", auto_map={"AutoModelForCausalLM": "m.Mine"})),
        where="base", what="Python code that comes with the model", hint="trust_remote_code: true",
    ),
    Bad(
        kind="quantized weights", make=_model(_config(quantization_config={"quant_method": "awq"})), where="base",
        what="quantized (awq)", hint="give the unquantized model",
    ),
    Bad(
        kind="no tokenizer", make=_model(_without_tokenizer), where="base", what="no tokenizer",
        hint="put tokenizer.json",
    ),
    Bad(
        kind="damaged tokenizer", make=_model(_cut("tokenizer.json")), where="base",
        what="tokenizer.json is not complete JSON", hint="fetch or copy the folder again",
    ),
    Bad(
        kind="tokenizer of a larger model", make=_model(_config(vocab_size=5)), where="chatml",
        what="lies beyond the model's 5 embedding rows", hint="use the tokenizer that belongs to this model",
    ),
    Bad(
        kind="no such device", make=_changed("model.device=gpu"), where="model.device", what="unknown device 'gpu'",
        hint="use auto, cpu, cuda",
    ),
    Bad(
        kind="device number beyond", make=_changed("model.device=cuda:99"), where="model.device",
        what="cuda:99 was asked for", hint="use auto",
    ),
    Bad(
        kind="float16 on a CPU", make=_changed("model.device=cpu", "model.dtype=float16"), where="model.dtype",
        what="float16 on a CPU", hint="use dtype: auto",
    ),
)  # fmt: skip


@each(*MODELS)
def test_a_model_that_cannot_be_used(bad: Bad, place: Workplace) -> None:
    """A model's faults are told with its path, before or after the data was read; no run folder is left."""
    check(bad, place)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_an_absent_apple_gpu(place: Workplace) -> None:
    """device: mps without an Apple GPU is refused."""
    check_message(seodang("tune", *place.recipe("model.device=mps")), "model.device", "no Apple GPU", "use auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_absent_cuda_device(place: Workplace) -> None:
    """device: cuda without one is refused."""
    ended = seodang("tune", *place.recipe("model.device=cuda"))
    check_message(ended, "model.device", "there are 0 CUDA devices", "use auto")


MARKERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def _other_markers(folder: Path) -> None:
    """A vocabulary without llama3's markers."""
    for file in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        text = file.read_text(encoding="utf-8")
        for number, marker in enumerate(MARKERS):
            text = text.replace(marker, f"<|other_{number}|>")
        file.write_text(text, encoding="utf-8")


def _template(text: str) -> Callable[[Workplace], Sequence[object]]:
    return lambda place: place.recipe(f"template.borrow={place.write('my.jinja', text)}")


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BARE = TURNS.replace("<|im_end|>", "{% if m.role != 'assistant' %}<|im_end|>{% endif %}")
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = (
    Bad(
        kind="unknown template", make=_changed("template.borrow=chatlm"), where="template.borrow",
        what="'chatlm'; did you mean 'chatml'?", hint="or one of: gemma",
    ),
    Bad(
        kind="no such template file", make=_changed("template.borrow=./my.jinja"), where="template.borrow",
        what="my.jinja: No such file", hint="give a readable .jinja file or one of: gemma, llama3",
    ),
    Bad(
        kind="broken Jinja", make=_template("{% for m in messages %}\n{{ m.content }\n{% endfor %}"),
        where="my.jinja:2", what="unexpected '}'", hint="fix this line of the template",
    ),
    Bad(
        kind="markers the vocabulary has not", make=_model(_other_markers, "template.borrow=llama3"),
        where="built-in llama3", what="<|start_header_id|>", hint="add_tokens: true",
    ),
    Bad(
        kind="no turn end", make=_template(BARE + PROMPT), where="my.jinja", what="the model would not learn to stop",
        hint="add the turn-end token after the answer",
    ),
    Bad(
        kind="prompt ignored", make=_template(TURNS), where="my.jinja", what="ignores add_generation_prompt",
        hint="write the assistant's header",
    ),
    Bad(
        kind="lender without template", make=lambda place: place.recipe(f"template.borrow={place.model}"),
        where="template.borrow", what="has no chat template", hint="borrow from an instruct model",
    ),
    Bad(
        kind="lender offline", make=_changed("template.borrow=nobody-here/no-lender"), where="nobody-here/no-lender",
        what="the hub cannot be reached", hint="go online",
    ),
    Bad(
        kind="control token in the system text", make=_changed("system='<|im_end|>'"), where="system",
        what="<|im_end|>", hint="take it out of the system text",
    ),
)  # fmt: skip


@each(*TEMPLATES)
def test_a_template_that_does_not_fit(bad: Bad, place: Workplace) -> None:
    """A template's faults are told with where it comes from."""
    check(bad, place)


def _run(place: Workplace, name: str = "mine") -> Path:
    """A run that was begun, and not trained."""
    from seodang.recipe import load_recipe
    from seodang.run.folder import Run
    from seodang.run.lock import guarded
    from seodang.run.start import create

    folder = place.folder / "runs" / name
    with guarded():
        create(Run(folder=folder), load_recipe(*place.recipe()))
    return folder


def _damaged(run: Path) -> Path:
    """A run that was trained, and its recipe cut."""
    (run / "model").mkdir()
    (run / "model/config.json").touch()
    (run / "recipe.yaml").write_text("name: mine\n", encoding="utf-8")
    return run


def _with_run(*arguments: str) -> Callable[[Workplace], Sequence[object]]:
    def make(place: Workplace) -> Sequence[object]:
        _run(place)
        return [*place.recipe(), *arguments]

    return make


HOMELESS = "~nobody-here/run"
RUNS = (
    Bad(
        kind="run that exists", make=_with_run(), where="runs/mine",
        what="already exists, and runs are never overwritten",
        hint="--resume; or give another folder (--out) or name (name=NEW)",
    ),
    Bad(
        kind="file as run folder", make=lambda place: [*place.recipe(), "--out", "data.jsonl"], where="data.jsonl",
        what="already exists, and runs are never overwritten", hint="give another folder (--out)",
    ),
    Bad(
        kind="run folder below a file", make=lambda place: [*place.recipe(), "--out", "data.jsonl/run"],
        where="data.jsonl/run", what="cannot be written: Not a directory", hint="--out",
    ),
    Bad(
        kind="run folder that cannot be made", make=lambda place: [*place.recipe(), "--out", "/proc/seodang"],
        where="/proc/seodang", what="cannot be written", hint="--out",
    ),
    Bad(
        kind="run folder's name too long", make=lambda place: [*place.recipe(), "--out", "n" * 300], where="nnn",
        what="cannot be written: File name too long", hint="--out",
    ),
    Bad(
        kind="nothing to resume", make=lambda place: [*place.recipe(), "--resume"], where="runs/mine",
        what="there is no run to resume", hint="start it without --resume",
    ),
    Bad(
        kind="resume of a folder that is no run",
        make=lambda place: [*place.recipe(), "--resume", "--out", str(place.write("notes/a.txt", "a").parent)],
        where="notes", what="not a run folder", hint="give a run's folder",
    ),
    Bad(
        kind="resume with another recipe", make=_with_run("--resume", "train.learning_rate=1", "split.seed=1"),
        where="runs/mine", what="other settings: split, train.learning_rate", hint="recipe.yaml",
    ),
    Bad(
        kind="inspection over a run", command="inspect", make=_with_run("--out", "runs/mine"), where="runs/mine",
        what="already exists, and runs are never overwritten", hint="give another folder (--out)",
    ),
    Bad(
        kind="proof of a run that has not ended", command="prove", make=lambda place: [_run(place)], where="runs/mine",
        what="its training has not ended", hint="seodang tune runs/mine",
    ),
    Bad(
        kind="proof of nothing", command="prove", make=lambda _: ["runs/none"], where="runs/none",
        what="no run's folder, and no recipe", hint="or a recipe by --recipe",
    ),
    Bad(
        kind="damaged recipe in a run", command="prove", make=lambda place: [_damaged(_run(place))],
        where="runs/mine/recipe.yaml", what="sources: missing", hint="fix",
    ),
    Bad(
        kind="proof of a model that is not there", command="prove",
        make=lambda place: ["./none", "--recipe", *place.recipe()], where="none", what="no such folder",
        hint="give a folder, a hub id or package:NAME",
    ),
    Bad(
        kind="report of nothing", command="report", make=lambda _: ["runs/none"], where="runs/none",
        what="no such folder", hint="runs/NAME",
    ),
    *(
        Bad(
            kind=f"{command} of a misspelt run", command=command,
            make=lambda place, more=more: [_run(place).with_name("mien"), *more],
            where="runs/mien", what="no such folder" if command != "prove" else "no run's folder",
            hint="did you mean",
        )
        for command, more in (
            ("report", []), ("judge", []), ("prove", []), ("chat", []), ("push", ["me/x"]), ("serve", []),
            ("blend", ["--alpha", "0.5"]),
        )
    ),
    *(
        Bad(
            kind=f"{command} of the home folder of nobody", command=command, make=lambda _: [HOMELESS],
            where=HOMELESS, what=what, hint=hint,
        )
        for command, what, hint in (
            ("chat", "no such folder", "give a folder"), ("serve", "no such folder", "give a folder"),
            ("prove", "no run's folder", "give a run's folder"), ("init", "no such file", "write ~/ for your"),
        )
    ),
    Bad(
        kind="chat with a name too long", command="chat", make=lambda _: ["x" * 5000], where="xxx",
        what="neither a folder here nor a hub id", hint="give a folder",
    ),
    Bad(
        kind="report of no run", command="report", make=lambda place: [place.write("notes/a.txt", "a").parent],
        where="notes", what="holds no file of a run", hint="runs/NAME",
    ),
)  # fmt: skip


@each(*RUNS)
def test_a_run_folder_that_is_wrong(bad: Bad, place: Workplace) -> None:
    """What exists is never touched, and what is missing is named."""
    check(bad, place)


def test_a_failed_attempt_is_not_in_the_way_of_the_next(place: Workplace) -> None:
    """Whatever fails before the base is measured leaves no run folder; the mended recipe runs, and is then kept."""
    weights = place.write("broken/model.safetensors", (place.model / "model.safetensors").read_bytes()[:-1000])
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        place.write(f"broken/{name}", (place.model / name).read_bytes())
    for changes, code in (
        (["sources.medical.question=questoin"], 2),
        (["train.max_tokens=20", "train.too_long=refuse"], 1),
        ([f"model.path={weights.parent}"], 2),
    ):
        assert seodang("tune", *place.recipe(*changes)).code == code
        assert not (place.folder / "runs").exists()
    assert seodang("tune", *place.recipe()).code == 0
    assert (place.folder / "runs/mine/model/config.json").is_file()
    before = place.snapshot()
    check_message(
        seodang("tune", *place.recipe()), "runs/mine", "already exists, and runs are never overwritten", "--out"
    )
    assert place.snapshot() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_report_on_a_full_disk(place: Workplace) -> None:
    """A disk that fills up in the middle is one message, not a traceback."""
    run = _run(place)
    (run / f".report.html.{os.getpid()}").symlink_to("/dev/full")
    ended = seodang("report", run)
    check_message(ended, str(run / "report.html"), "no space left on device", "free some space")


Usage = namedtuple("Usage", "total used free")


def _full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - 10**5, 10**5))


def test_a_disk_too_small_for_training(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What training writes is weighed before anything is measured, and no run folder is left."""
    _full(monkeypatch)
    ended = seodang("tune", *place.recipe())
    check_message(ended, "runs/mine", "0.0001 GB are free", "keep fewer checkpoints (train.keep_checkpoints=1)")
    assert not (place.folder / "runs").exists()


def test_settings_that_an_error_asks_to_change_may_change_in_a_resumed_run(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer checkpoints, smaller packs and gradient checkpointing are no other recipe: the line goes on with them."""
    _full(monkeypatch)  # where it stops again, later
    _run(place)
    mended = ("train.keep_checkpoints=1", "train.pack_tokens=128", "train.checkpointing=full", "ask.holdout=2")
    ended = seodang("tune", *place.recipe(*mended), "--resume")
    check_message(ended, "runs/mine", "GB are free", "free some space")


@pytest.fixture
def package(place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Gemma in a package of the test's own, known as gemma-3-270m; the package's only file."""
    model = make_model(make_config("gemma3", len(gemma_tokens()[0])))
    name = f"tiny_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / "site" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    file = write_gemma(model, folder / "piece")
    known = replace(PACKAGED[GEMMA], parts=((name, "piece"),), sha256=sha256(file.read_bytes()).hexdigest())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(packaged, "PACKAGED", {GEMMA: known})
    monkeypatch.setenv("SEODANG_CACHE", str(place.folder / "cache"))
    return file


GEMMA = "gemma-3-270m"


def _packaged(place: Workplace) -> list[str]:
    return place.recipe(f"model.path=package:{GEMMA}", "template.borrow=gemma")


def test_a_package_that_is_not_installed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packaged model without its package names the command that installs it."""
    known = replace(PACKAGED[GEMMA], parts=(("no_such_package", "piece"),))
    monkeypatch.setattr(packaged, "PACKAGED", {GEMMA: known})
    monkeypatch.setenv("SEODANG_CACHE", str(place.folder / "cache"))
    ended = seodang("tune", *_packaged(place))
    check_message(ended, f"package:{GEMMA}", "is not installed", 'pip install "seodang[models]"')


def test_a_damaged_package(place: Workplace, package: Path) -> None:
    """A packaged model's file of other bytes is never converted."""
    package.write_bytes(package.read_bytes()[:-1])
    ended = seodang("tune", *_packaged(place))
    check_message(ended, f"package:{GEMMA}", "is damaged: SHA-256 is", "pip install --force-reinstall")
    assert not (place.folder / "cache").exists()


def test_a_disk_too_small_for_the_conversion(place: Workplace, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that would not fit does not begin."""
    _full(monkeypatch)
    ended = seodang("tune", *_packaged(place))
    check_message(ended, "cache/models", "GB are free", "point SEODANG_CACHE to another disk")


def test_an_interrupted_conversion(place: Workplace, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a conversion is exit code 130, and the next attempt converts afresh."""
    original = gguf_to_transformers._write_weights

    def interrupted(*arguments: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(gguf_to_transformers, "_write_weights", interrupted)
    ended = seodang("inspect", *_packaged(place))
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "interrupted")
    assert not [item for item in (place.folder / "cache/models").iterdir() if item.is_dir()]
    monkeypatch.setattr(gguf_to_transformers, "_write_weights", original)
    assert seodang("inspect", *_packaged(place)).code == 0
