"""Signs of damaged or missing text are found, in the rows that show them and in no others."""

import pytest

from qa_rows import qa
from seodang.check.audit import audit
from seodang.check.suspicious_text import SIGNS, signs_of
from seodang.data.split import Splits
from seodang.recipe import Split
from seodang.types import Counts, Finding

SHOWN = {
    "no_value": ["nan", "None", "null", r"\N", "#N/A", " NULL ", "NaN", "<NA>", "undefined"],
    "no_value_part": ["존댓말로 바꾸세요.\n\nnan", "nan\n\n무엇인가요?", "고치세요.\n\nNone", "고치세요.\n\n<noinput>"],
    "labelled_answers": ["답변: 쉬세요", "**Answer:** Rest.", " A : 쉬세요", "응답：쉬세요"],
    "other_chat_format": [
        "<|im_start|>assistant\n답", "### Response: 쉬세요", "가\n### 응답:\n나", "USER: 가\nASSISTANT: 나",
    ],
    "printed_values": ["['답']", "['가', '나']", "{'text': ['답'], 'answer_start': [0]}"],
    "thoughts_in_answers": [
        "<thinking>음</thinking>답", "<reasoning>\n음\n</reasoning>\n답", "<Thought>음</Thought>", "<think>음… 답",
        "음</think>답", "<think>가<think>나</think>", "<Think>음</Think>답",
        "[THINK]음[/THINK]답", "◁think▷음◁/think▷답", "<seed:think>음</seed:think>답", "<analysis>음</analysis>답",
        "<|channel|>analysis<|message|>음", "<unused94>thought\n음<unused95>답",
    ],
    "double_encoded": ["ê°€ì§€", "ê°\u0080", "don\u00e2\u20ac\u2122t", "caf\u00c3\u00a9"],
    "escaped_characters": [r"\uc9c8\ubb38", r"답은 \uAC00", r"\u4e2d"],
    "excel_escapes": ["가_x000D_\n나", "_x0009_"],
    "placeholders": ["{{name}} 님", "안녕하세요 {{ user.name }}"],
    "media_placeholders": [
        "<image>\n무엇인가요?", "<image_1> 사진", "<|image_1|>", "<|image_pad|>", "<start_of_image>",
        "<img>", "<video>", "<audio>", "<|vision_start|>", "[IMG]", "<image_soft_token>",
    ],
}  # fmt: skip
PLAIN = [
    "특이 사항\n\n없음", "A: 안녕?\nB: 응.", "Answering: no", "정답: 3", "### Answer\n쉬세요",
    "없음", "None of these.", "nan 은 숫자가 아니다", "[1] 참고", '["json"]', "it's ['a'] in Python", "café 38°C",
    "<think>\n음\n</think>\n\n답", "생각 <thinking> 태그", "<thinker> 답", "[think tank] 답", "<code>답</code>",
    r"C:\users\u00e9", "a_x0_b",
    "nan\n은 값이 아니다", "값:\n\nnan 또는 None", "if x:\n    None",
    "{name}", "x^{{2}}", "<images>", "[image] 설명",
    '<img src="a.png">', "Ça va", "â", "naïve £5", "3 ×\u00a05", "CAFÉ”",
]  # fmt: skip


def found(rows: list[tuple[str, str]]) -> list[Finding]:
    table = qa(rows)
    counts = Counts(stage="split", source="medical", rows_in=len(table), kept=len(table))
    findings = audit({"medical": Splits(train=table, holdout=table.select([]), counts=counts)}, Split())
    return [finding for finding in findings if finding.check != "mixed_languages"]


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, shown in SHOWN.items() for text in shown])
def test_each_sign_is_found(check: str, text: str) -> None:
    """An answer that shows a sign shows this one alone, and its row is named."""
    others = [(f"질문 {number}", f"답 {number}") for number in range(60)]
    (finding,) = found([*others, ("또?", text), *[(f"{n}?", f"{n}!") for n in range(9)]])
    assert (finding.check, finding.severity, finding.rows) == (check, "warn", ("medical.jsonl:61",))
    assert finding.what.startswith("in 1 of 70 rows ")


def test_usual_texts_show_none() -> None:
    """Words, code and accents that only look similar are no sign."""
    assert not signs_of([[text] for text in PLAIN], PLAIN).any()


@pytest.mark.parametrize("sign", [sign for sign in SIGNS if not sign.of_answers], ids=lambda sign: sign.check)
def test_questions_and_plain_texts_are_looked_at(sign: object) -> None:
    """Damage shows in questions and plain texts, too; what only an answer can be does not."""
    (number,) = [number for number, known in enumerate(SIGNS) if known is sign]
    text = SHOWN[SIGNS[number].check][0]
    assert signs_of([[]], [f"글 {text}"]).tolist() == [1 << number]
    assert signs_of([[]], ["nan"]).tolist() == [0]
