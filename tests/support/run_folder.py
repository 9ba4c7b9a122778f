"""Writes a small finished run folder in the documented formats: three sources, two with Korean names."""

import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from events import eval_event, train_event
from planted_rows import noisy_rows, planted_contrast, text_rows
from seodang.data.lengths import histogram, measure
from seodang.json_values import to_json
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.proof import Compared, Proof, Training, prove_rows
from seodang.run.events import RecordedEvent
from seodang.run.manifest import FileFacts, Hardware, Manifest, RowsFacts, SourceFiles, TemplateFacts
from seodang.types import (
    Answer,
    AnswerKind,
    Counts,
    Finding,
    Lengths,
    ModelFacts,
    ModelName,
    Placement,
    RowNote,
    Sample,
    SourceLengths,
    SourceRole,
)  # fmt: skip

TEMPLATE = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n{}<end_of_turn>\n"
STEPS, BEST = 600, 450  # after step 450 the evaluation loss rises again
LOSSES = {  # source → base loss, loss after training
    "의료_질문": (2.412, 1.538),
    "일반대화": (2.731, 2.204),
    "wiki": (2.958, 3.041),
}
ROLES: dict[str, SourceRole] = {"의료_질문": "domain", "일반대화": "general", "wiki": "retention"}
RECIPE: dict[str, Any] = {
    "name": "gemma-3-270m-의료-Instruct",
    "model": {"path": "package:gemma-3-270m"},
    "template": {"borrow": "gemma"},
    "sources": [
        {"name": "의료_질문", "role": "domain", "path": ["/data/ko_medical.csv"], "holdout": 0.05},
        {"name": "일반대화", "role": "general", "path": ["/data/ko_general.jsonl"], "holdout": 0.05, "take": "1/3"},
        {"name": "wiki", "role": "retention", "path": ["/data/wiki.jsonl"], "text": "text", "train": False},
    ],
    "train": {"epochs": 3, "examples_per_step": 16, "max_tokens": 320, "learning_rate": 2.0e-5},
    "ask": {
        "domain": ["제 1형 당뇨병은 어떻게 치료하나요?", "충치가 너무 아파요."],
        "general": ["사과는 왜 빨간가요?"],
        "repeat": {"question": "감기약 종류 좀 알려주세요.", "times": 6},
        "generate": {"max_new_tokens": 256, "temperature": 0.1},
    },
}
LOOP = "감기약은 감기를 치료하는 약입니다. 감기약은 감기를 치료하는 약입니다. " * 14
ASKED: Mapping[str, tuple[AnswerKind, str, str]] = {  # question → kind, base answer, tuned answer
    "제 1형 당뇨병은 어떻게 치료하나요?": (
        "domain",
        "제 2형 당뇨병은 어떻게 치료하나요?\n제 3형 당뇨병은 어떻게 치료하나요?\n<b>당뇨병</b>이란?\n" * 12,
        "제1형 당뇨병은 췌장에서 인슐린이 거의 나오지 않는 병이라, 인슐린을 주사나 펌프로 보충합니다."
        "\n\n1. 기저 인슐린과 식사 인슐린을 나누어 맞습니다.\n2. 하루 여러 번 혈당을 잽니다.\n"
        "3. 식사의 탄수화물 양에 맞추어 인슐린 양을 정합니다."
        "\n\n저혈당 증상(식은땀, 떨림, 어지러움)이 있으면 바로 당을 드시고 담당 의사와 용량을 상의하시기 바랍니다.",
    ),
    "충치가 너무 아파요.": (
        "domain",
        "충치가 너무 아파요. 어떻게 해야 할까요? <script>console.error('escaped badly')</script> A. 치과에 가세요. "
        "B. 참으세요. 정답: A\n\n문제 2. 다음 중 옳은 것은? & 보기를 고르시오. " * 6,
        "많이 아프시겠어요. 통증이 심하면 우선 아세트아미노펜이나 이부프로펜을 용법대로 드시고, "
        "가능한 한 빨리 치과에서 진료를 받으세요. 얼굴이 붓거나 열이 나면 응급 진료가 필요합니다.",
    ),
    "사과는 왜 빨간가요?": (
        "general",
        "사과는 왜 빨간가요? 사과는 왜 빨간가요? 사과는 왜 빨간가요? " * 20,
        "사과 껍질에 안토시아닌이라는 붉은 색소가 들어 있기 때문입니다. "
        "햇빛을 많이 받고 밤 기온이 낮을수록 색이 진해집니다.",
    ),
}
REPEATED = [
    "감기약은 증상에 따라 나뉩니다. 해열진통제(아세트아미노펜), 기침약, 콧물약(항히스타민제)이 있습니다.",
    "감기약은 증상에 따라 나뉩니다. 해열진통제(아세트아미노펜), 기침약, 콧물약(항히스타민제)이 있습니다.",
    "증상별로 해열진통제, 진해제, 거담제, 항히스타민제 등이 있습니다. 종합감기약은 이 성분들을 함께 담고 있습니다.",
    "감기약은 증상에 따라 나뉩니다. 해열진통제(아세트아미노펜), 기침약, 콧물약(항히스타민제)이 있습니다.",
    "종합감기약, 해열제, 기침약이 있습니다. 졸음이 올 수 있으니 운전은 피하세요.",
    "증상별로 해열진통제, 진해제, 거담제, 항히스타민제 등이 있습니다.",
]
HELD_OUT = [
    (
        "겔포스엠현탁액: 이 약은 어떻게 사용합니까?",
        "성인은 1회 1포, 1일 3~4회 복용합니다. 1일 3~4회 복용합니다. 1일 3~4회",
        "성인은 1회 1포씩, 1일 3회 식간 또는 식후에 복용합니다.",
        "성인 1회 1포씩, 1일 3회 식간(식사 때와 식사 때 사이) 및 취침 시에 복용합니다.",
    ),
    (
        "감기에 항생제를 먹으면 빨리 낫습니까?",
        "감기에 항생제를 먹으면 빨리 낫습니까? 네. 아니오. 네.",
        "아닙니다. 감기는 바이러스가 일으키므로 항생제는 효과가 없습니다.",
        "아닙니다. 감기는 바이러스가 일으키므로 세균을 잡는 항생제는 효과가 없습니다.",
    ),
]


def write_run(folder: Path) -> Path:
    """Write the run into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, allow_unicode=True, sort_keys=False), encoding="utf-8")
    _json(folder / "manifest.json", to_json(_manifest()))
    _json(folder / "counts.json", [asdict(counts) for counts in run_counts()])
    _lines(folder / "dropped.jsonl", _dropped())
    _json(folder / "findings.json", [asdict(finding) for finding in run_findings()])
    _json(folder / "lengths.json", to_json(run_lengths()))
    samples = {name: {split: to_json(row) for split, row in rows.items()} for name, rows in run_samples().items()}
    _json(folder / "samples.json", samples)
    _lines(folder / "metrics.jsonl", map(to_json, run_metrics()))
    _lines(folder / "answers.jsonl", [asdict(answer) for answer in run_answers()])
    _lines(folder / "rows.jsonl", map(to_json, run_rows()))
    _json(folder / "proof.json", to_json(run_proof()))
    return folder


def run_counts() -> list[Counts]:
    """What each step did to each source."""
    note = RowNote(where="/data/ko_medical.csv:211", row_id="9f2c41d07be83a55", reason="empty answer")
    return [
        Counts(
            stage="convert",
            source="의료_질문",
            rows_in=4180,
            kept=4173,
            dropped={"empty answer": 7},
            changed={"NFD to NFC": 212, "CRLF to LF": 4173},
            notes=(note,),
            remarks=("read as CSV in CP949", "question and answer: columns 질문, 답변"),
        ),
        Counts(stage="convert", source="일반대화", rows_in=11823, kept=11823, remarks=("JSON Lines, messages",)),
        Counts(stage="convert", source="wiki", rows_in=300, kept=300),
        Counts(stage="split", source="의료_질문", rows_in=4173, kept=4173),
        Counts(stage="split", source="일반대화", rows_in=11823, kept=4312, dropped={"take 1/3": 7511}),
        Counts(
            stage="separate",
            source="일반대화",
            rows_in=3720,
            kept=3716,
            dropped={"question in holdout of 의료_질문": 4},
        ),
        Counts(stage="render", source="의료_질문", rows_in=4173, kept=4161, dropped={"longer than max_tokens": 12}),
    ]


def run_findings() -> list[Finding]:
    """One finding of each severity but refuse."""
    return [
        Finding(
            check="conflict",
            severity="warn",
            where="source 의료_질문",
            what="38 questions have different answers in different rows",
            hint="keep one answer each, or group them with split.by",
            rows=("/data/ko_medical.csv:17", "/data/ko_medical.csv:902"),
        ),
        Finding(check="unicode", severity="fixed", where="source 의료_질문", what="212 rows were NFD and are now NFC"),
        Finding(
            check="language", severity="note", where="source 일반대화", what="Hangul 97 %, Latin 2 % of the letters"
        ),
    ]


def run_lengths() -> Lengths:
    """Lengths of three sources; the holdout-only one has no training rows."""
    shapes = {"의료_질문": (5.0, 0.45, 3980), "일반대화": (3.9, 0.5, 3720)}
    return Lengths(
        max_tokens=320,
        train={name: _lengths(*shape) for name, shape in shapes.items()},
        holdout={name: _lengths(*shape) for name, shape in {**shapes, "wiki": (5.2, 0.3, 300)}.items()},
        cut={"의료_질문": 12, "일반대화": 0},
        cut_holdout={"의료_질문": 2, "wiki": 0},
    )


def run_samples() -> dict[str, dict[str, Sample]]:
    """The first rendered rows, with spans in characters."""
    samples: dict[str, dict[str, Sample]] = {}
    for name, (question, _, answer, _) in zip(("의료_질문", "일반대화"), HELD_OUT, strict=True):
        text = "<bos>" + TEMPLATE.format(question, answer)
        start = text.index(answer)
        spans = ((start, start + len(answer) + len("<end_of_turn>")),)
        samples[name] = {
            "train": Sample(where=f"/data/{name}:1", text=text, supervised=spans),
            "holdout": Sample(where=f"/data/{name}:8", text=text, supervised=spans),
        }
    text = "<bos>서당은 조선 시대에 마을마다 있던 글방으로, 천자문과 동몽선습을 가르쳤다."
    samples["wiki"] = {"holdout": Sample(where="/data/wiki.jsonl:1", text=text, supervised=((5, len(text)),))}
    return samples


def run_metrics() -> list[RecordedEvent]:
    """Training every 10 steps, evaluation every 50, the base at step 0."""
    luck = random.Random(7)
    events: list[RecordedEvent] = []
    for step in range(0, STEPS + 1, 10):
        done = 1 - math.exp(-step / 120)
        if step:
            rate = 2e-5 * math.cos(step / STEPS * math.pi / 2)
            events.append(train_event(step, 2.55 - 0.95 * done + luck.gauss(0, 0.07), learning_rate=rate, steps=10))
        if step % 50 == 0:
            late = max(0, step - BEST) / 100 * 0.04
            losses = {name: base + (tuned - base) * done + late for name, (base, tuned) in LOSSES.items()}
            mean = (losses["의료_질문"] + losses["일반대화"]) / 2
            events.append(eval_event(step, losses, loss=mean))
    return events


def run_answers() -> Iterable[Answer]:
    """All questions, answered by the base (never ending) and the tuned model."""
    for question, (kind, base, tuned) in ASKED.items():
        yield _answer(kind, "base", question, base, stopped=False)
        yield _answer(kind, "tuned", question, tuned)
    for number, text in enumerate(REPEATED):
        yield _answer("repeat", "base", "감기약 종류 좀 알려주세요.", LOOP + str(number), stopped=False)
        yield _answer("repeat", "tuned", "감기약 종류 좀 알려주세요.", text)
    for number, (question, base, tuned, reference) in enumerate(HELD_OUT):
        for answer in (
            _answer("holdout", "base", question, base, stopped=False),
            _answer("holdout", "tuned", question, tuned),
        ):
            yield replace(answer, reference=reference, row_id=f"00ab{number:012x}", source="의료_질문")


def _answer(kind: AnswerKind, model: ModelName, question: str, text: str, *, stopped: bool = True) -> Answer:
    tokens = 256 if not stopped else len(text) // 2
    return Answer(
        kind=kind, model=model, question=question, text=text, stopped=stopped, prompt_tokens=20, new_tokens=tokens
    )


@cache
def run_rows() -> tuple[MeasuredRow, ...]:
    """What each held-out row cost both models: the medical rows with contrasts, of which the first two were asked."""
    medical = noisy_rows(
        40, "의료_질문", change=-0.8, contrast=lambda luck, tokens: planted_contrast(tokens, style=luck.gauss(0.5, 0.1))
    )
    named = [replace(row, row_id=f"00ab{number:012x}") for number, row in enumerate(medical)]
    return (*named, *noisy_rows(60, "일반대화", change=-0.5, seed=2), *text_rows(50, "wiki", change=0.2))


@cache
def run_proof() -> Proof:
    """The proof that follows from the rows and the answers."""
    return prove_rows(
        run_rows(),
        list(run_answers()),
        Compared(
            name=RECIPE["name"],
            base="package:gemma-3-270m",
            tuned="model",
            base_has_template=False,
            training=Training(best_step=BEST, best_by="all", turned_at=BEST),
        ),
        roles=ROLES,
        trained=["의료_질문", "일반대화"],
        temperature=0.1,
    )


def _manifest() -> Manifest:
    files = {
        "의료_질문": FileFacts(path="/data/ko_medical.csv", sha256="c0ffee12" * 8, bytes=2210394),
        "일반대화": FileFacts(path="/data/ko_general.jsonl", sha256="0badf00d" * 8, bytes=1984432),
        "wiki": FileFacts(path="/data/wiki.jsonl", sha256="feedbeef" * 8, bytes=402211),
    }
    return Manifest(
        name=RECIPE["name"],
        created="2026-03-02T09:14:05+00:00",
        seodang="0.1.0",
        command="seodang tune recipe.yaml",
        versions={"python": "3.11.14", "torch": "2.13.0", "transformers": "5.23.0", "datasets": "5.2.0"},
        hardware=Hardware(system="Linux x86_64", cores=2, memory_gb=15.6, gpus=(), processes=1),
        placement=Placement(
            device="cpu",
            dtype="float32",
            compute_dtype="float32",
            attention="packed",
            reasons=("no CUDA device: CPU", "bf16 is 0.4 times as fast as fp32 here: fp32 compute"),
        ),
        template=TemplateFacts(origin="built-in gemma", turn_end="<end_of_turn>", text_sha256="77aa" * 16),
        data={name: SourceFiles(files=(file,)) for name, file in files.items()},
        seeds={"split": 42, "mix": 42, "train": 42, "generate": 42},
        rows=RowsFacts(preparation="0" * 32, encoded_sha256="1" * 64, holdout_sha256="2" * 64),
        model=ModelFacts(
            path="package:gemma-3-270m",
            architecture="Gemma3ForCausalLM",
            parameters=268098176,
            sha256="5b1e2f0c9d" * 6 + "ab12",
        ),
        seconds={"prepare": 12.4, "train": 1262.9, "prove": 174.5},
    )


def _dropped() -> list[dict[str, str]]:
    return [
        {"where": f"/data/ko_medical.csv:{211 + 40 * i}", "row_id": f"9f2c41d07be83a{i:02x}", "reason": reason}
        | {"stage": stage, "source": "의료_질문"}
        for i, (stage, reason) in enumerate(
            [("convert", "empty answer")] * 7 + [("render", "longer than max_tokens")] * 12
        )
    ]


def _lengths(mu: float, sigma: float, count: int) -> SourceLengths:
    luck = random.Random(count)
    tokens = np.array([int(min(320.0, luck.lognormvariate(mu, sigma))) for _ in range(count)])
    return SourceLengths(
        tokens=measure(tokens), supervised=measure((tokens * 0.6).astype(int)), histogram=histogram(tokens)
    )


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
