"""From what users hold in their hands to a tuned model, with no edit between: trees, archives, spreadsheets, tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from made_files import csv_text, write_objects, write_xlsx, zip_folder
from seodang.errors import RunError, SourceError, TemplateError
from seodang.pipeline import init, inspect, tune
from seodang.recipe import Recipe, load_recipe
from seodang.starter.propose import Starter, propose, write_starter

QA_ROWS = [
    {"question": f"{n}번 환자의 두통은 어떻게 치료하나요?", "answer": f"{n}번은 물을 마시고 쉬는 것이 좋습니다."}
    for n in range(60)
]
SMALL = [  # what makes the starter's run take seconds on the tiny model
    *("train.steps=2", "train.eval_every=2", "train.examples_per_step=2", "ask.holdout=2"),
    *("ask.holdout_tokens=4", "ask.generate.max_new_tokens=4", "model.dtype=float32", "model.device=cpu"),
]


def medical_tree(folder: Path) -> Path:
    """AI Hub's medical knowledge: zips of labels and of sources, for training and for validation."""
    labels = [
        {"qa_id": n, "domain": n % 9, "q_type": 2 if n % 5 else 1, **row}
        if n % 5
        else {"qa_id": n, "domain": 1, "q_type": 1, "question": f"{n}? 1) 가 2) 나 3) 다 4) 라", "answer": "2) 나"}
        for n, row in enumerate(QA_ROWS)
    ]
    texts = [{"c_id": n, "source": "교과서", "content": f"두통 {n}은 머리의 통증이다. " * 9} for n in range(20)]
    root = folder / "의학지식"
    for split, mark in (("Training", "T"), ("Validation", "V")):
        for name, rows, file in (("02.라벨링데이터", labels, "QA_{}.json"), ("01.원천데이터", texts, "C_{}.json")):
            (root / split / name).mkdir(parents=True)
            packed = write_objects(folder / "made" / split / name, rows, file)
            zip_folder(packed, root / split / name / f"{mark}{'L' if rows is labels else 'S'}_내과.zip")
    return root


def health_tree(folder: Path) -> Path:
    """AI Hub's health questions and answers: two trees without a common id."""
    names = {"disease_name": {"kor": "두통"}, "intention": "치료"}
    asked = [{"fileName": f"Q{n}", **names, "question": row["question"]} for n, row in enumerate(QA_ROWS)]
    parts = {"body": "물을 마시고 쉬면 낫습니다.", "conclusion": "진료를 받으세요."}
    answered = [{"fileName": f"A{n}", **names, "answer": {"intro": f"두통 {n}입니다.", **parts}} for n in range(60)]
    root = folder / "헬스케어" / "Training"
    for name, rows in (("1.질문", asked), ("2.답변", answered)):
        for part in range(3):
            write_objects(root / name / f"진료과{part}", rows[part::3], "HC_{:03}.json")
    return folder / "헬스케어"


def objects(folder: Path) -> Path:
    return write_objects(folder / "rows", QA_ROWS, "{:04}.json")


def xlsx(folder: Path) -> Path:
    rows: list[list[str | float | None]] = [["상담 기록", None, None], ["번호", "질문", "답변"]]
    rows += [[n, row["question"], row["answer"]] for n, row in enumerate(QA_ROWS)]
    return write_xlsx(folder / "상담.xlsx", {"표지": [["상담"]], "자료": rows})


def korean_csv(folder: Path) -> Path:
    path = folder / "상담.csv"
    path.write_bytes(
        csv_text([["질문", "답변"], *([row["question"], row["answer"]] for row in QA_ROWS)]).encode("cp949")
    )
    return path


def korquad(folder: Path) -> Path:
    answers = [{"text": "휴식", "answer_start": 9}]
    paragraphs = [
        {
            "context": f"두통에는 {n}번 휴식이 좋다.",
            "qas": [{"id": str(n), "question": f"{n}번 두통에 무엇이 좋은가?", "answers": answers}],
        }
        for n in range(40)
    ]
    data = {"version": "x", "data": [{"title": "두통", "paragraphs": paragraphs}]}
    path = folder / "KorQuAD_like.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def utterances(folder: Path) -> Path:
    rows = [["대화ID", "순번", "화자", "발화"]]
    for n, row in enumerate(QA_ROWS):
        rows += [[str(n), "1", "환자", row["question"]], [str(n), "2", "의사", row["answer"]]]
    path = folder / "대화.csv"
    path.write_bytes(csv_text(rows).encode("cp949"))
    return path


def zipped(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        tree = make(folder)
        return zip_folder(tree, folder / "all.zip")

    return made


MADE: dict[str, Callable[[Path], Path]] = {
    "medical tree": medical_tree,
    "health tree": health_tree,
    "zip of the medical tree": zipped(medical_tree),
    "zip of the health tree": zipped(health_tree),
    "one-object files": objects,
    "zip of one-object files": zipped(objects),
    "xlsx": xlsx,
    "CP949 CSV": korean_csv,
    "KorQuAD": korquad,
    "utterances": utterances,
}


TUNED = ("zip of the medical tree", "health tree", "utterances")  # pairs, plain text, turns


def started(kind: str, folder: Path, model: Path) -> tuple[Starter, Recipe]:
    starter = propose([str(MADE[kind](folder))], out=folder / "recipe.yaml")
    recipe = load_recipe(write_starter(starter), [f"model.path={model}", *SMALL])
    return starter, recipe


@pytest.mark.parametrize("kind", MADE)
def test_what_init_writes_can_be_inspected(kind: str, tmp_path: Path, tiny_folder: Path) -> None:
    """Whatever is given, the recipe names it, and every source of it has rows to train on or to measure with."""
    starter, recipe = started(kind, tmp_path, tiny_folder)
    assert {source.role for source in recipe.sources} >= {"domain", "general"}
    prepared = inspect(recipe)
    assert len(prepared.rows["train"]) > 20
    assert set(prepared.holdouts) == {source.name for source in recipe.sources}
    assert "a guess, please check" not in starter.yaml or kind.endswith("health tree")


@pytest.mark.slow
@pytest.mark.parametrize("kind", TUNED)
def test_what_init_writes_can_be_tuned(kind: str, tmp_path: Path, tiny_folder: Path) -> None:
    """From the user's files to a tuned model with its proof, and no edit between.

    After `inspect`, rows are the same whatever held them: pairs, plain text and turns are tuned once each.
    """
    _, recipe = started(kind, tmp_path, tiny_folder)
    tune(recipe, out=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()


def sources(starter: Starter) -> dict[str, Any]:
    return {source.role: source for source in starter.recipe.sources}


def test_a_tree_of_labels_and_texts_becomes_sources_by_their_folders(tmp_path: Path) -> None:
    """Labels are the field, texts are measured; the publisher's validation split and choices stay out, named."""
    tree = medical_tree(tmp_path)
    starter = propose([str(tree)], out=tmp_path / "recipe.yaml")
    found = sources(starter)
    assert found["domain"].path == (f"{tree}/Training/02.라벨링데이터",)
    assert found["retention"].path == (f"{tree}/Training/01.원천데이터",)
    remarks = "\n".join(starter.remarks)
    assert "the publisher's evaluation split" in remarks
    assert "12 × a multiple-choice question" in remarks


def test_a_zip_of_a_tree_with_zips_becomes_the_sources_of_the_tree(tmp_path: Path) -> None:
    """A download as its publisher packs it: training labels and texts, by their folders in it; Validation stays out."""
    path = zipped(medical_tree)(tmp_path)
    starter = propose([str(path)], out=tmp_path / "recipe.yaml")
    found = sources(starter)
    assert found["domain"].path == (f"{path}/Training/02.라벨링데이터",)
    assert found["retention"].path == (f"{path}/Training/01.원천데이터",)
    remarks = "\n".join(starter.remarks)
    assert (
        f"80 files ({path}/Validation/01.원천데이터/VS_내과.zip/C_1.json …): the publisher's evaluation split"
        in remarks
    )
    assert "12 × a multiple-choice question" in remarks


def test_health_answers_are_texts_and_questions_are_left_aside(tmp_path: Path) -> None:
    """Nothing is paired: the answers are learnt as plain text, the questions are named with the reason."""
    tree = health_tree(tmp_path)
    starter = propose([str(tree)], out=tmp_path / "recipe.yaml")
    domain = sources(starter)["domain"]
    assert domain.path == (f"{tree}/Training/2.답변",)
    assert (domain.text, domain.question, domain.answer) == ("answer", None, None)
    remarks = "\n".join(starter.remarks)
    assert "left aside" in remarks
    assert "rows without answers" in remarks or "no column is known to hold answers" in remarks
    assert "learnt as plain text" in remarks


def test_layouts_in_one_folder_are_told_apart_by_a_pattern(tmp_path: Path) -> None:
    """Where no folder holds one layout alone, names do; where names do not either, the files are left aside."""
    write_objects(tmp_path / "all", QA_ROWS, "Q_{}.json")
    write_objects(tmp_path / "all", [{"content": f"글 {n} " * 40} for n in range(30)], "C_{}.json")
    found = sources(propose([str(tmp_path / "all")], out=tmp_path / "recipe.yaml"))
    assert found["domain"].path == (f"{tmp_path}/all/**/Q_*.json",)
    assert found["retention"].path == (f"{tmp_path}/all/**/C_*.json",)
    write_objects(tmp_path / "mixed", QA_ROWS, "{}.json")
    write_objects(tmp_path / "mixed/sub", [{"content": f"글 {n} " * 40} for n in range(30)], "{}.json")
    for number in range(100, 130):
        (tmp_path / f"mixed/sub/{number}.json").write_text(json.dumps(QA_ROWS[0]), encoding="utf-8")
    with pytest.raises(SourceError, match="nothing that a recipe could name"):
        propose([str(tmp_path / "mixed")], out=tmp_path / "recipe.yaml")


def test_a_pattern_never_takes_more_than_it_matches(tmp_path: Path) -> None:
    """Of what a pattern matched, layouts are named by their folders only where these hold nothing else."""
    write_objects(tmp_path / "a", QA_ROWS, "Q_{}.json")
    write_objects(tmp_path / "b", [{"content": f"글 {n} " * 40} for n in range(30)], "Q_{}.json")
    (tmp_path / "a" / "other.json").write_text("{}", encoding="utf-8")
    found = sources(propose([f"{tmp_path}/**/Q_*.json"], out=tmp_path / "recipe.yaml"))
    assert found["retention"].path == (f"{tmp_path}/b",)
    assert found["domain"].path == (f"{tmp_path}/a/Q_*.json",)


def test_runs_in_a_folder_are_no_data(tmp_path: Path) -> None:
    """`init .` beside earlier runs takes none of their answers."""
    korean_csv(tmp_path)
    for run in (tmp_path / "runs" / "first", tmp_path / "second"):
        (run / "model").mkdir(parents=True)
        for name in ("recipe.yaml", "answers.jsonl"):
            (run / name).write_text('{"question": "q", "text": "t"}', encoding="utf-8")
    starter = propose([str(tmp_path)], out=tmp_path / "recipe.yaml")
    assert sources(starter)["domain"].path == (str(tmp_path),)
    assert any("a seodang run" in remark and "second" in remark for remark in starter.remarks)


def test_speakers_who_go_on_are_merged(tmp_path: Path) -> None:
    """Where only consecutive turns of one speaker keep user and assistant from alternating, the recipe merges them."""
    rows = [["대화ID", "화자", "발화"]]
    for n, row in enumerate(QA_ROWS):
        rows += [[str(n), "환자", "안녕하세요."], [str(n), "환자", row["question"]], [str(n), "의사", row["answer"]]]
    (tmp_path / "d.csv").write_bytes(csv_text(rows).encode("cp949"))
    starter = propose([str(tmp_path / "d.csv")], out=tmp_path / "recipe.yaml")
    assert sources(starter)["domain"].merge_turns
    assert starter.recipe.template.borrow == "gemma"


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe is printed; a recipe that is there already stays, and is no hindrance."""
    monkeypatch.chdir(tmp_path)
    path = korean_csv(tmp_path)
    init([path], dry_run=True)
    assert "sources:" in capsys.readouterr().out
    assert not (tmp_path / "recipe.yaml").exists()
    init([path])
    before = (tmp_path / "recipe.yaml").read_bytes()
    init([path], dry_run=True)
    assert (tmp_path / "recipe.yaml").read_bytes() == before
    with pytest.raises(RunError):
        init([path])


def test_a_data_set_on_the_hub_is_profiled_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--hub ID`, or hub:ID where a role is given, becomes a source with `hub:`, read again by the recipe."""
    monkeypatch.chdir(tmp_path)
    for name in ("의료", "talk"):
        folder = tmp_path / name
        folder.mkdir()
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in QA_ROWS)
        (folder / "train.jsonl").write_text(text, encoding="utf-8")
    init(hub=["./의료"], general=["hub:./talk"])
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert [(source.name, source.hub, source.role, source.path) for source in recipe.sources] == [
        ("의료", "./의료", "domain", None),
        ("talk", "./talk", "general", None),
        ("ko_text", None, "retention", ("sample:ko_text",)),
    ]
    assert recipe.sources[0].holdout == 13  # rows of 60: 12 would do if all were equally long


def test_a_template_that_is_named_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in's name or a file stands in the recipe as given; a name that cannot be one is refused at once."""
    monkeypatch.chdir(tmp_path)
    path = korean_csv(tmp_path)
    starter = propose([path], model="package:smollm2-135m-instruct", template="chatml")
    assert starter.recipe.template.borrow == "chatml"
    assert "template: chatml # as you named it" in starter.yaml
    (tmp_path / "my own.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert "template: my own.jinja #" in propose([path], template="my own.jinja").yaml
    with pytest.raises(TemplateError, match=r"no built-in template or folder 'chatlm'(.|\n)*did you mean 'chatml'"):
        propose([path], template="chatlm")
