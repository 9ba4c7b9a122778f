"""check/starter.py: from the user's own files to a recipe that can be inspected and tuned unchanged."""

import csv
import gzip
import io
import json
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from seodang.check.audit import FEW_ROWS
from seodang.data.read.convert import convert
from seodang.data.read.sources import read
from seodang.data.split import Splits, separate, split
from seodang.errors import ModelError, RecipeError, RunError, SeodangError, SourceError, StartError, TemplateError
from seodang.recipe import Recipe, load_recipe
from seodang.starter import settings
from seodang.starter.comments import in_korean, in_readers_language
from seodang.starter.file_profile import TURN_TOKENS, FileProfile, profile_file
from seodang.starter.propose import Starter, propose, write_starter
from seodang.starter.walk import Part


def lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: Sequence[Sequence[str]], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue().encode()


def parquet(columns: dict[str, list[Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def pairs(count: int = 60, question: str = "question", answer: str = "answer") -> list[dict[str, str]]:
    return [
        {question: f"증상 {number}은 어떻게 치료하나요?", answer: f"약을 {number}번 드시고 쉬세요."}
        for number in range(count)
    ]


def talk(*roles: str, number: int = 0) -> list[dict[str, Any]]:
    return [{"role": role, "content": f"{role} 말 {number}"} for role in roles]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]}
REJECTED = {  # file name → content: no recipe, one clear error
    "empty.jsonl": b"",
    "blank.csv": b"\n  \n\n",
    "model.gguf": b"GGUF\x03\x00\x00\x00" + bytes(2000),
    "rows.xlsx": b"PK\x03\x04" + bytes(range(256)) * 8,
    "cut.jsonl.gz": gzip.compress(lines(pairs()))[:-20],
    "random.json": bytes(range(256)) * 40,
    "page.html": b"<!doctype html><html><body><p>404</p></body></html>",
    "notes.txt": "그냥 글입니다.\n둘째 줄입니다.\n".encode(),
    "tree.json": json.dumps({"a": {"b": {"c": [1, 2]}}, "d": 3}).encode(),
    "numbers.json": b"[1, 2, 3]",
    "text.json": b'"hello"',
    "cut.jsonl": lines(pairs())[:-20],
    "cut.json": json.dumps(pairs()).encode()[:-30],
    "broken.parquet": parquet({"question": ["a"], "answer": ["b"]})[:-9],
    "ragged.csv": b"question,answer\na,b\nc,d,e,f\n",
    "twice.csv": b"question,question\na,b\n",
    "headless.csv": "두통이 있어요.,쉬세요.\n배가 아파요.,물을 드세요.\n".encode(),
    "no_answers.jsonl": lines([{"question": f"왜 {number}?"} for number in range(40)]),
    "blank_answers.jsonl": lines([{"question": f"왜 {number}?", "answer": " "} for number in range(40)]),
    "choices.jsonl": lines([{"question": "무엇?", "choices": ["가", "나"], "answer": 1}] * 30),
    "labels.csv": table([["id", "label"], *([str(number), "0"] for number in range(40))]),
    "one_row.jsonl": lines(pairs(1)),
    "header_only.csv": b"question,answer\n",
    "only_text.jsonl": lines([{"text": f"글 {number} " * 30} for number in range(30)]),
    "users_only.jsonl": lines([{"messages": talk("user", number=number)} for number in range(20)]),
    "encoding.csv": b"question,answer\n" + b"\xe9\xe8\xff\xfe\xfa caf\xe9,\xe0\xe0\n" * 30,
    "utf8_damaged.jsonl": lines(pairs()) + b'{"question": "\xff\xfe", "answer": "a"}\n',
    "python.jsonl": b"{'question': 'a', 'answer': 'b'}\n" * 10,
    "deep.json": b"[" * 5000 + b"]" * 5000,
    "endless.jsonl": lines([{"question": f"왜 {n}?", "answer": "길다 " * 30_000} for n in range(3)]),
    "list_cells.jsonl": lines([{"question": ["a", "b"], "answer": ["c"]} for _ in range(20)]),
}
ACCEPTED = {
    "usual.jsonl": lines(pairs()),
    "rows.jsonl.gz": gzip.compress(lines(pairs())),
    "array.json": json.dumps(pairs(), ensure_ascii=False).encode(),
    "wrapped.json": json.dumps({"version": 1, "data": pairs()}).encode(),
    "columns.json": json.dumps(
        {"질문": [f"왜 {n}?" for n in range(30)], "답변": [f"몰라 {n}" for n in range(30)]}
    ).encode(),
    "two_rows.jsonl": lines(pairs(2)),
    "excel.csv": "\ufeff".encode()
    + table([["질문", "답변"], *([f"질문 {n}?", f"답 {n}, 또\n한 줄"] for n in range(40))]),
    "korean_windows.csv": table([["질문", "답변"], *([f"질문 {n}은?", f"답은 {n}입니다"] for n in range(40))])
    .decode()
    .encode("cp949"),
    "wide.tsv": table([["question", "answer"], *([f"why {n}?", f"so {n}"] for n in range(40))], "\t"),
    "semicolon.csv": table([["question", "answer"], *([f"why {n}?", f"so {n}"] for n in range(40))], ";"),
    "sixteen.csv": table([["question", "answer"], *([f"왜 {n}?", f"네 {n}"] for n in range(40))])
    .decode()
    .encode("utf-16"),
    "rows.parquet": parquet({"question": [f"왜 {n}?" for n in range(40)], "answer": [f"네 {n}" for n in range(40)]}),
    "unknown_names.csv": table(
        [["환자의 말", "의사의 말"], *([f"배가 {n}번 아파요?", f"약 {n}개를 드세요"] for n in range(40))]
    ),
    "two_answers.jsonl": lines(
        [{"question": f"왜 {n}?", "answer": f"짧게 {n}", "response": f"조금 더 길게 {n}"} for n in range(40)]
    ),
    "preference.jsonl": lines(
        [{"prompt": f"왜 {n}?", "chosen": f"좋은 답 {n}", "rejected": f"나쁘고 아주 긴 답 {n}"} for n in range(40)]
    ),
    "alpaca.json": json.dumps(
        [{"instruction": "번역하라", "input": f"사과 {n}", "output": f"apple {n}"} for n in range(40)]
    ).encode(),
    "same_question.jsonl": lines([{"question": "요약해 줘", "answer": f"요약 {n}"} for n in range(40)]),
    "few_questions.jsonl": lines(
        [{"question": "요약해 줘" if n else "번역해 줘", "answer": f"글 {n}"} for n in range(40)]
    ),
    "html.jsonl": lines([{"question": f"<p>왜 {n}?</p>", "answer": f"<b>네</b><br>{n}&nbsp;"} for n in range(40)]),
    "five_languages.jsonl": lines(
        [
            {"question": text, "answer": f"{text} {n}"}
            for n in range(10)
            for text in (f"왜 {n}?", f"why {n}?", f"なぜ {n}?", f"为什么 {n}?", f"почему {n}?")
        ]
    ),
    "yaml: [odd] #name, 'quoted'.jsonl": lines(
        [
            {"question": f"{{a}}: [b], # c 'd' \"e\" - {n} 🙂 {sign}?", "answer": f"&x *y !z {n}"}
            for n in range(30)
            for sign in "%@`|>\\"
        ]
    ),
    "질문과 답.jsonl": lines(pairs()),
    "null.jsonl": lines(pairs()),
    "all.jsonl": lines(pairs()),
    "1e3.jsonl": lines(pairs()),
    "....jsonl": lines(pairs()),
    "line\nbreak.jsonl": lines(pairs()),
    "x" * 180 + ".jsonl": lines(pairs()),
    "long_cells.jsonl": lines([{"question": f"왜 {n}?", "answer": "길다 " * 4000 + str(n)} for n in range(30)]),
    "some_blank.jsonl": lines([*pairs(), *({"question": f"? {n}", "answer": None} for n in range(20))]),
    "talks.jsonl": lines([{"messages": talk("user", "assistant", "user", "assistant", number=n)} for n in range(40)]),
    "starts_with_answer.jsonl": lines(
        [{"messages": talk("assistant", "user", "assistant", number=n)} for n in range(40)]
    ),
    "calls.jsonl": lines(
        [
            {"messages": [*talk("user", number=n), CALL, *talk("tool", "assistant", number=n)], "tools": []}
            for n in range(40)
        ]
    ),
    "no_ending": lines(pairs()),
    "only_names.csv": table([["title", "body of it"], *([f"제목 {n}", f"어떤 긴 본문이 {n}"] for n in range(40))]),
    "control.jsonl": lines(
        [{"question": f"<end_of_turn>{n}\u0000\u0085?", "answer": f"a\u2028{n}"} for n in range(40)]
    ),
}


def profile(path: str, **options: Any) -> FileProfile:
    return profile_file(Part(paths=(path,), is_whole=True), **options)


def prepared(recipe: Recipe) -> dict[str, Splits]:
    """The recipe's sources as far as no tokenizer is needed."""
    splits = {
        source.name: split(convert(read(source), source, recipe.split.by)[0], source, recipe.split)
        for source in recipe.sources
    }
    return separate(splits, recipe.split)[0]


def put(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def of(starter: Starter, path: str) -> Any:
    """The recipe's source that reads this file."""
    return next(source for source in starter.recipe.sources if source.path == (path,))


@pytest.mark.parametrize("name", REJECTED)
def test_a_file_that_cannot_teach_gives_one_error(name: str, tmp_path: Path) -> None:
    """Whatever the file, the user gets one message that names it and the mend, soon."""
    path = put(tmp_path, name, REJECTED[name])
    begun = time.perf_counter()
    with pytest.raises(SeodangError) as caught:
        propose([path], out=tmp_path / "recipe.yaml")
    assert time.perf_counter() - begun < 20
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert path in caught.value.where


@pytest.mark.parametrize("gpu_gb", [None, 24.0])
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_file_that_can_teach_gives_a_recipe_that_holds(name: str, gpu_gb: float | None, tmp_path: Path) -> None:
    """The written recipe is read back as proposed, and its sources are read, converted and split."""
    path = put(tmp_path, name, ACCEPTED[name])
    begun = time.perf_counter()
    starter = propose([path], out=tmp_path / "recipe.yaml", gpu_gb=gpu_gb)
    assert time.perf_counter() - begun < 20
    written = load_recipe(write_starter(starter))
    assert written == starter.recipe
    splits = prepared(written)
    for source in written.sources:
        assert len(splits[source.name].holdout) > 0
        assert bool(len(splits[source.name].train)) == source.is_trained
    assert of(starter, path).role == "domain"
    assert len(starter.yaml.splitlines()) < 55
    assert not any(key in starter.yaml for key in ("null", "!!", "None")) or "null" in name


def test_every_odd_file_beside_a_good_one_changes_nothing_of_the_promise(tmp_path: Path) -> None:
    """Many files of all kinds at once are one recipe with a name for each."""
    paths = [put(tmp_path, name, content) for name, content in ACCEPTED.items() if name != "two_rows.jsonl"]
    starter = propose(paths, out=tmp_path / "recipe.yaml")
    names = [source.name for source in starter.recipe.sources]
    assert len(set(names)) == len(names) >= len(paths)
    assert starter.recipe.split.by == "row"  # the questions of one file are all the same


def test_what_the_user_says_wins_and_files_keep_their_order(tmp_path: Path) -> None:
    """Flags set roles whatever the names say; a file named twice stands once."""
    first = put(tmp_path, "general.jsonl", lines(pairs()))
    second = put(tmp_path, "medical.jsonl", lines(pairs(80)))
    again = f"{tmp_path}/./general.jsonl"
    starter = propose([first, second], domain=[again], general=[second], out=tmp_path / "recipe.yaml")
    assert len(starter.recipe.sources) == 3  # with a sample for retention
    assert [(source.path, source.role) for source in starter.recipe.sources][:2] == [
        ((first,), "domain"),
        ((second,), "general"),
    ]
    assert starter.recipe.name == "general"
    assert not any("guess" in remark for remark in starter.remarks)


def test_a_file_with_two_roles_is_refused(tmp_path: Path) -> None:
    """The same file as domain and as general, however written, is a mistake."""
    path = put(tmp_path, "a.jsonl", lines(pairs()))
    with pytest.raises(SourceError, match="two roles: domain and general"):
        propose([], domain=[path], general=[f"{tmp_path}/./a.jsonl"], out=tmp_path / "recipe.yaml")


def test_no_file_is_refused(tmp_path: Path) -> None:
    """Without a file there is nothing to look at."""
    with pytest.raises(SourceError, match="no file is named"):
        propose([], out=tmp_path / "recipe.yaml")


def test_roles_are_guessed_and_said_to_be_guesses(tmp_path: Path) -> None:
    """Plain text is retention, a field's words make a domain, everyday questions are general."""
    everyday = [{"question": f"사과 {n}개는 왜 빨간가요?", "answer": f"빛 {n}"} for n in range(60)]
    texts = [{"text": f"한지는 {n}번 뜬다. " * 20} for n in range(60)]
    a, b, c = (
        put(tmp_path, name, lines(rows))
        for name, rows in (("a.jsonl", everyday), ("b.jsonl", pairs()), ("c.jsonl", texts))
    )
    starter = propose([a, b, c], out=tmp_path / "recipe.yaml")
    assert [source.role for source in starter.recipe.sources] == ["general", "domain", "retention"]
    assert starter.yaml.count("# a guess:") == 3
    assert sum("a guess:" in remark for remark in starter.remarks) == 3


def test_a_terminal_is_asked_with_the_guess(tmp_path: Path) -> None:
    """Roles and unclear columns are asked for, and the answers stand in the recipe without a guess's comment."""
    rows = [
        {"환자": f"배가 {n}번 아파요?", "의사": f"약 {n}개를 드세요", "수의사": f"동물은 {n}개를 먹는다"}
        for n in range(40)
    ]
    path = put(tmp_path, "visits.jsonl", lines(rows))
    asked: list[tuple[str, list[str], str]] = []

    def ask(question: str, choices: Mapping[str, str], guess: str) -> str:
        asked.append((question, list(choices), guess))
        return "의사" if "answers" in question else guess

    starter = propose([path], ask=ask, out=tmp_path / "recipe.yaml")
    source = of(starter, path)
    assert (source.question, source.answer, source.role) == ("환자", "의사", "domain")
    assert ["questions" in question for question, *_ in asked] == [True, False, False]
    assert asked[-1][1:] == (["domain", "general", "retention"], "domain")


def test_the_roles_keep_their_order_whatever_is_guessed(tmp_path: Path) -> None:
    """Each with what it means."""
    asked: list[tuple[Mapping[str, str], str]] = []

    def ask(_: str, choices: Mapping[str, str], guess: str) -> str:
        asked.append((choices, guess))
        return guess

    texts = [{"text": f"글 {n} " * 30} for n in range(40)]
    propose(
        [put(tmp_path, "a.jsonl", lines(pairs())), put(tmp_path, "b.jsonl", lines(texts))], ask=ask, is_dry_run=True
    )
    assert [list(choices) for choices, _ in asked] == [["domain", "general", "retention"]] * 2
    assert [guess for _, guess in asked] == ["domain", "retention"]
    assert all(asked[0][0].values())


def test_comments_are_in_the_language_of_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Korean one each comment is Korean; else all are English, as the terminal. Keys and values are the same."""
    (tmp_path / "more").mkdir()
    mixed = [{"환자 말": f"배가 {n}번 아파요?", "의사 말": f"약 {n}개를 드세요"} for n in range(40)]
    files = [put(tmp_path, "진료.jsonl", lines(mixed)), put(tmp_path, "general.jsonl", lines(pairs(2000)))]
    for paths, memory in ((files, {"memory_gb": 30.0}), (files[:1], {"gpu_gb": 24.0}), (files[1:], {})):
        texts = []
        for language in ("ko", "en"):
            monkeypatch.setenv("LANGUAGE", language)
            texts.append(propose(paths, out=tmp_path / "recipe.yaml", **memory).yaml)
        korean, english = ([line.partition("# ")[2] for line in text.splitlines() if "# " in line] for text in texts)
        assert len(korean) > 10
        assert all(re.search("[가-힣]", comment) for comment in korean), korean
        assert not any(re.search("[가-힣]", comment) for comment in english), english
        assert yaml.safe_load(texts[0]) == yaml.safe_load(texts[1])


@pytest.mark.parametrize(
    ("variables", "is_korean"),
    [
        ({"LANG": "ko_KR.UTF-8"}, True),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "en_US.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ko_KR"}, True),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "ko:en"}, True),
        ({"LANG": "kok_IN.UTF-8"}, False),  # Konkani
        ({}, False),
    ],
)
def test_the_readers_language_is_that_of_messages(
    variables: dict[str, str], is_korean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the variables that gettext reads, in their order; without any by the system's locale."""
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("locale.getlocale", lambda: (None, None))
    assert (in_readers_language() is in_korean) == is_korean
    if not variables:
        monkeypatch.setattr("locale.getlocale", lambda: ("Korean_Korea", "949"))
        assert in_readers_language() is in_korean


def test_an_answer_that_is_no_role_is_refused(tmp_path: Path) -> None:
    """Whoever answers, only the three roles are roles."""
    path = put(tmp_path, "a.jsonl", lines(pairs()))
    with pytest.raises(SourceError, match="unknown role 'both'"):
        propose([path], ask=lambda *_: "both", out=tmp_path / "recipe.yaml")


def test_where_the_input_ends_the_command_with_all_guesses_is_shown(tmp_path: Path) -> None:
    """It can be pasted: each file with its role, as given or as guessed."""
    asked, rest = put(tmp_path, "의료 med.jsonl", lines(pairs())), put(tmp_path, "general.jsonl", lines(pairs()))

    def ask(question: str, *_: object) -> str:
        raise SeodangError(f"the input ended at the question: {question}")

    with pytest.raises(SeodangError, match=r"의료 med.jsonl \(") as stopped:
        propose([asked], general=[rest], ask=ask, is_dry_run=True)
    words = shlex.split(stopped.value.hint.partition(": ")[2])
    assert words[:2] == ["seodang", "init"]
    assert {words[2]: words[3], words[4]: words[5]} == {"--domain": asked, "--general": rest}


def test_columns_are_written_only_where_their_names_do_not_tell(tmp_path: Path) -> None:
    """Known columns are left to be recognised; guessed ones stand with a comment; rejected answers are never taken."""
    known = propose([put(tmp_path, "a.jsonl", lines(pairs()))], out=tmp_path / "recipe.yaml")
    assert "question: q" not in known.yaml
    assert "answer:" not in known.yaml
    guessed = propose([put(tmp_path, "b.jsonl", ACCEPTED["preference.jsonl"])], out=tmp_path / "recipe.yaml")
    assert "    answer: chosen # a guess, please check" in guessed.yaml
    assert any("the columns are a guess" in remark for remark in guessed.remarks)


def test_columns_that_say_nothing_are_mended_in_the_file(tmp_path: Path) -> None:
    """Where there is no recipe yet, the error does not end with keys of a recipe; without rows, no column is blamed."""
    for content, mended in ((table([["a", "b"], *[["1", "2"]] * 20]), True), (b"question,answer\n", False)):
        (tmp_path / "rows.csv").write_bytes(content)
        with pytest.raises(SourceError) as refused:
            propose([str(tmp_path / "rows.csv")])
        assert refused.value.hint.startswith("name the file's columns question and answer") == mended


@pytest.mark.parametrize(
    ("rows", "held_out", "more"), [(20, 4, 4), (24, 12, 12), (30, 12, 14), (48, 12, 14), (80, 16, 16)]
)
def test_so_many_rows_are_held_out_that_an_interval_is_shown(
    rows: int, held_out: int, more: int, tmp_path: Path
) -> None:
    """Of files that are large enough to be halved; rows of unequal lengths count less, and more of them are needed."""
    even = [{"question": f"{n:03} 열이 나요?", "answer": f"{n:03} 쉬세요."} for n in range(rows)]
    uneven = [{**row, "answer": row["answer"] * (1 + 7 * (n % 4 == 0))} for n, row in enumerate(even)]
    found = [
        propose([put(tmp_path, f"{number}.jsonl", lines(some))], out=tmp_path / "r.yaml").recipe.sources[0].holdout
        for number, some in enumerate((even, uneven))
    ]
    assert found == [held_out, more]


def test_what_is_lost_is_measured_with_samples_where_nobody_gave_a_file(tmp_path: Path) -> None:
    """One Korean file is joined by the Korean samples; in a language without samples the gap is said."""
    starter = propose([put(tmp_path, "a.jsonl", lines(pairs()))], out=tmp_path / "recipe.yaml")
    assert [source.path for source in starter.recipe.sources][1:] == [("sample:ko_general",), ("sample:ko_text",)]
    assert starter.recipe.sources[2].holdout_share >= FEW_ROWS  # our own default triggers no warning of ours
    russian = [{"question": f"почему {n}?", "answer": f"потому что {n}"} for n in range(60)]
    starter = propose([put(tmp_path, "b.jsonl", lines(russian))], out=tmp_path / "recipe.yaml")
    assert len(starter.recipe.sources) == 1
    assert sum("will not be measured" in remark for remark in starter.remarks) == 2


def test_questions_to_ask_are_the_files_own(tmp_path: Path) -> None:
    """Two questions a role, short and of one line, the first of the domain asked again and again."""
    rows = [{"question": "길고 " * 80 + "긴 질문?", "answer": "네"}, {"question": "두\n줄?", "answer": "네"}, *pairs()]
    ask = propose([put(tmp_path, "a.jsonl", lines(rows))], out=tmp_path / "recipe.yaml").recipe.ask
    assert ask.domain == (pairs()[0]["question"], pairs()[30]["question"])
    assert len(ask.general) == 2
    assert ask.repeat is not None
    assert ask.repeat.question == ask.domain[0]


def test_paths_are_relative_to_the_recipe_if_they_were_given_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe in another folder still finds a file that was named from here; both can be moved together."""
    (tmp_path / "recipes").mkdir()
    put(tmp_path, "a.jsonl", lines(pairs()))
    monkeypatch.chdir(tmp_path)
    starter = propose(["a.jsonl"], out=Path("recipes/mine.yaml"))
    assert "path: ../a.jsonl" in starter.yaml
    prepared(load_recipe(write_starter(starter)))
    inside = propose([str(tmp_path / "a.jsonl")], out=tmp_path / "b.yaml")
    assert "path: a.jsonl" in inside.yaml
    outside = propose([str(tmp_path / "a.jsonl")], out=Path("recipes/other.yaml"))
    assert f"path: {tmp_path}/a.jsonl" in outside.yaml


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    """Refused before anything is read, and again when it is written."""
    out = tmp_path / "recipe.yaml"
    starter = propose([put(tmp_path, "a.jsonl", lines(pairs()))], out=out)
    out.write_text("mine")
    with pytest.raises(RunError, match="is there already"):
        write_starter(starter)
    with pytest.raises(RunError, match="is there already"):
        propose([tmp_path / "a.jsonl"], out=out)
    assert out.read_text() == "mine"


def test_all_that_is_wrong_before_files_are_read_is_reported_at_once(tmp_path: Path) -> None:
    """A recipe that is there, files that are not, a model and a template that nobody knows."""
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(StartError) as caught:
        propose(["a.jsonl"], domain=["b.jsonl"], model="runs/none", template="gema", out=tmp_path / "recipe.yaml")
    found = [(type(error), error.where) for error in caught.value.errors]
    assert found == [
        (RunError, str(tmp_path / "recipe.yaml")),
        (TemplateError, "template.borrow"),
        (ModelError, "runs/none"),
        (SourceError, "a.jsonl"),
        (SourceError, "b.jsonl"),
    ]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    """A recipe cannot be written into a missing folder: one error, with the system's reason."""
    starter = propose([put(tmp_path, "a.jsonl", lines(pairs()))], out=tmp_path / "none" / "recipe.yaml")
    with pytest.raises(RunError, match="No such file"):
        write_starter(starter)


def test_a_name_is_taken_or_refused(tmp_path: Path) -> None:
    """--name names the run; what cannot be a folder's name is told as in any recipe."""
    path = put(tmp_path, "a.jsonl", lines(pairs()))
    assert propose([path], name="첫-시도", out=tmp_path / "recipe.yaml").recipe.name == "첫-시도"
    with pytest.raises(RecipeError, match="name"):
        propose([path], name="a/b", out=tmp_path / "recipe.yaml")


def test_a_file_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8 can stand in no recipe."""
    with pytest.raises(SourceError, match="not UTF-8"):
        propose(["a\udcff.jsonl"], out=tmp_path / "recipe.yaml")


def test_the_model_fits_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU gets a packaged model, a bigger GPU a bigger one, tools a template that knows them."""
    monkeypatch.setattr(settings, "_is_here", lambda name: True)
    korean = put(tmp_path, "ko.jsonl", lines(pairs()))
    english = put(
        tmp_path,
        "en.jsonl",
        lines([{"question": f"What is the cause of {n}?", "answer": f"It is the {n}."} for n in range(40)]),
    )
    tools = put(tmp_path, "tools.jsonl", ACCEPTED["calls.jsonl"])

    def base(path: str, memory_gb: float | None = 16, gpu_gb: float | None = None) -> tuple[str, str | None]:
        recipe = propose([path], memory_gb=memory_gb, gpu_gb=gpu_gb, out=tmp_path / "recipe.yaml").recipe
        return recipe.model.path, recipe.template.borrow

    assert base(korean) == ("package:gemma-3-270m", "gemma")
    assert base(english) == ("package:gemma-3-270m", "gemma")
    assert base(english, memory_gb=4) == ("package:smollm2-135m-instruct", None)
    assert base(korean, gpu_gb=24) == ("google/gemma-3-1b-pt", "gemma")
    assert base(korean, gpu_gb=8) == ("package:gemma-3-270m", "gemma")
    assert base(tools) == ("package:gemma-3-270m", "qwen3")
    assert base(tools, gpu_gb=24) == ("Qwen/Qwen3-0.6B-Base", None)
    paths = [base(korean, gpu_gb=memory)[0] for memory in (40, 80)]
    assert paths == ["Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-4B-Base"]
    tight = propose([korean], memory_gb=4, out=tmp_path / "recipe.yaml")
    assert any("4 GB of memory are tight" in remark for remark in tight.remarks)


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names the model all the same; what to install is said."""
    monkeypatch.setattr(settings, "_is_here", lambda name: False)
    starter = propose([put(tmp_path, "a.jsonl", lines(pairs()))], out=tmp_path / "recipe.yaml")
    assert starter.recipe.model.path == "package:gemma-3-270m"
    assert any("pip install" in remark for remark in starter.remarks)


def test_big_files_are_looked_at_in_their_first_rows(tmp_path: Path) -> None:
    """Rows beyond the limit are not read: a fault there is inspect's to find."""
    path = put(tmp_path, "big.jsonl", lines(pairs(3000)) + b"{broken\n" * 2)
    seen = profile(path, max_rows=2000)
    assert seen.num_rows == 2000
    assert not seen.whole
    starter = propose(
        [path] + [put(tmp_path, f"{n}.jsonl", lines(pairs())) for n in range(59)], out=tmp_path / "recipe.yaml"
    )
    assert "big # more than 1,000 questions with answers" in starter.yaml


def test_long_rows_raise_the_limit_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    """max_tokens follows the rows; rows above it are told as a share."""
    rows = [*pairs(197), *({"question": f"왜 {n}?", "answer": "길다 " * 1500} for n in range(10))]
    starter = propose([put(tmp_path, "a.jsonl", lines(rows))], general=["sample:en_text"], out=tmp_path / "recipe.yaml")
    assert starter.recipe.train.max_tokens == 1024
    assert "3.7% of the rows are longer and left out" in starter.yaml
    longer = propose(
        [put(tmp_path, "b.jsonl", ACCEPTED["long_cells.jsonl"])],
        general=["sample:ko_general"],
        out=tmp_path / "recipe.yaml",
    )
    assert longer.recipe.train.max_tokens >= 8192  # a whole file is never left out for its length
    assert longer.recipe.train.examples_per_step < starter.recipe.train.examples_per_step


SHARED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "korean": lambda data: {
        "files": [f"{data}/ko_medical.jsonl", f"{data}/ko_general.jsonl"],
        "retention": [f"{data}/cpt_ko_medical_drug.jsonl"],
    },
    "english": lambda data: {"files": [f"{data}/en_medical.jsonl", f"{data}/en_general.jsonl"]},
    "tools": lambda data: {"files": [f"{data}/chat_sharegpt_tools.json"]},
    "talks": lambda data: {"files": [f"{data}/chat_multiturn.jsonl"]},
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED)
def test_real_files_give_recipes_that_prepare(name: str, shared: Path, tmp_path: Path) -> None:
    """Real data is placed by its names and kinds, without a guess at columns, and splits with a holdout to ask."""
    starter = propose(**SHARED[name](shared / "data"), memory_gb=16, out=tmp_path / "recipe.yaml")
    recipe = load_recipe(write_starter(starter))
    assert recipe == starter.recipe
    assert {source.role for source in recipe.sources} == {"domain", "general", "retention"}
    assert not any("please check" in remark for remark in starter.remarks)
    assert len(recipe.ask.domain) == len(recipe.ask.general) == 2
    splits = prepared(recipe)
    domain = next(source for source in recipe.sources if source.role == "domain")
    assert 20 <= len(splits[domain.name].holdout) <= 60
    assert (name == "tools") == recipe.template.add_tokens


@pytest.mark.shared
def test_estimated_tokens_are_near_the_real_ones(shared: Path) -> None:
    """Without what a template writes, estimates are 15 % below to 40 % above what Gemma's tokenizer makes."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared / "data" / "tokenizers" / "gemma3" / "tokenizer.json"))
    for name in ("ko_medical", "ko_general", "en_general", "chat_multiturn", "cpt_ko_medical_drug"):
        path = shared / "data" / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:200]]
        turns = [[turn["content"] for turn in row.get("messages", [])] for row in rows]
        turns = [
            found or [row[key] for key in ("context", "question", "answer", "text") if row.get(key)]
            for found, row in zip(turns, rows, strict=True)
        ]
        real = sum(len(found.ids) for found in tokenizer.encode_batch(["\n".join(texts) for texts in turns]))
        around = TURN_TOKENS * sum(1 if "text" in row else len(row.get("messages", "12")) for row in rows)
        assert 0.85 < (profile(str(path), max_rows=200).tokens.sum() - around) / real < 1.4, name


def _guessed(folder: Path, columns: list[str], rows: int = 40, **longer: int) -> str:
    """The columns that `init` proposes for a CSV file, `question → answer`; each cell bears its column's name."""
    texts = [[f"{name} {number} " + "글 " * longer.get(name, 3) for name in columns] for number in range(rows)]
    lines = [",".join(columns), *(",".join(row) for row in texts)]
    path = put(folder, "d.csv", ("\n".join(lines) + "\n").encode())
    keys = profile(str(path)).keys
    return f"{keys.get('question')} → {keys.get('answer')}"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source", "Question → Best Answer"),
        ("Question,Correct Answers,Incorrect Answers", "Question → Correct Answers"),
        ("문항,정답여부,오답,해설", "문항 → 해설"),
        ("문항,매력적인오답,모범정답,해설", "문항 → 모범정답"),
        ("sample_prompt,rejected_response,chosen_response", "sample_prompt → chosen_response"),
        ("stem,distractor1,distractor2,correctOption", "stem → correctOption"),
        ("stem,wrongAnswer,rightAnswer,answer_type", "stem → rightAnswer"),
        ("물어본내용,틀린답,옳은답", "물어본내용 → 옳은답"),
        ("stem,not_correct,explanation", "stem → explanation"),
        ("stem,incorrectanswers,correctanswers", "stem → correctanswers"),
        ("stem,hard_negatives,positive", "stem → positive"),
        ("stem,inaccurate_reply,accurate_reply", "stem → accurate_reply"),
        ("물어본내용,미채택 글,채택 글", "물어본내용 → 채택 글"),
        ("물어본내용,부적절한글,모범글", "물어본내용 → 모범글"),
    ],
)
@pytest.mark.parametrize("rows", [5, 40])
def test_columns_of_wrong_answers_are_never_proposed(columns: str, expected: str, rows: int, tmp_path: Path) -> None:
    """However long they are: names that mean wrong are left out, those that mean right come first."""
    names = columns.split(",")
    longer = {
        name: 60
        for name in names
        if re.search("(?i)incorrect|오답|rejected|distractor|wrong|틀린|not_|negative|inaccurate|미채택|부적절", name)
    }
    assert _guessed(tmp_path, names, rows, **longer) == expected


def test_a_terminal_is_not_asked_about_wrong_answers(tmp_path: Path) -> None:
    """They are not among the choices."""
    asked: list[list[str]] = []

    def ask(_: str, choices: Mapping[str, str], guess: str) -> str:
        asked.append(list(choices))
        return guess

    lines = "Question,Best Answer,Correct Answers,Incorrect Answers\n" + "".join(
        f"질문 {n}?,답 {n},맞는 답 {n},틀린 긴 답 {n} {'글 ' * 40}\n" for n in range(30)
    )
    profile(put(tmp_path, "d.csv", lines.encode()), ask=ask)
    assert asked == [["Best Answer", "Correct Answers"]]


@pytest.mark.parametrize("columns", ["Question,Incorrect Answers", "문항,오답", "stem,is_correct,wrong_answer"])
def test_wrong_answers_alone_are_no_answers(columns: str, tmp_path: Path) -> None:
    """Nothing is proposed where no column holds a right answer."""
    with pytest.raises(SourceError, match="column"):
        _guessed(tmp_path, columns.split(","))


@pytest.mark.parametrize("columns", ["question,response,reference", "질문,답변,수정답변"])
def test_nobody_is_asked_nothing_is_proposed_where_the_right_answer_is_in_doubt(columns: str, tmp_path: Path) -> None:
    """A reference may be the right answer or the place where one is found; at a terminal the user is asked."""
    with pytest.raises(SourceError, match="in more than one way"):
        _guessed(tmp_path, columns.split(","))


def test_listed_pairs_are_proposed_as_rows_unless_they_may_be_a_dialogue(tmp_path: Path) -> None:
    """AI Hub's lists of questions and answers are a guess to check; of exchanges each may belong to the one before."""
    pairs = [{"question": f"질문 {n}?", "answer": f"답 {n}"} for n in range(4)]
    keys = profile(put(tmp_path, "a.jsonl", lines([{"id": n, "주석": {"qa": pairs}} for n in range(9)]))).keys
    assert keys == {"question": "주석.qa.question", "answer": "주석.qa.answer"}
    with pytest.raises(SourceError, match="holds lists of questions with answers"):
        profile(put(tmp_path, "b.jsonl", lines([{"id": n, "exchanges": pairs} for n in range(9)])))


def test_rows_of_single_turns_are_not_proposed_as_texts(tmp_path: Path) -> None:
    """What `inspect` refuses to read is refused here, with the same advice."""
    turns = [{"message_id": n, "role": ("prompter", "assistant")[n % 2], "text": f"말 {n}"} for n in range(20)]
    with pytest.raises(SourceError, match="each row is a single turn"):
        profile(put(tmp_path, "a.jsonl", lines(turns)))
