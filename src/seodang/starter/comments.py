"""The starter recipe's comments in Korean, for people whose locale is Korean. Knows no recipe."""

import locale
import os
import re
from collections.abc import Callable

Comment = Callable[[str], str]  # an English comment → the one that is written
KOREAN = {  # {}: a part that stays, or has a line of its own here
    "Written by `seodang init`. Change what you like; what is left out has a default.": (
        "`seodang init`이 만든 레시피입니다. 필요한 대로 고치세요. 생략한 설정에는 기본값이 적용됩니다."
    ),
    "what can be known before training": "학습 전에 알 수 있는 모든 것",
    "the run": "학습과 평가",
    "the run: about {} minutes on 2 CPU cores, less on more": "학습과 평가: CPU 코어 2개로 약 {}분",
    "the run's folder: runs/NAME": "결과가 담기는 폴더: runs/이름",
    "domain: to learn; general: so that the rest is not forgotten; retention: text that is only measured;": (
        "domain: 학습할 분야, general: 잊지 않도록 함께 학습, retention: 평가만 하는 일반 텍스트,"
    ),
    "holdout: rows that are measured and never trained on": "holdout: 학습에 쓰지 않고 평가에만 쓰는 행",
    "not by question: a source repeats a few": "질문 단위가 아님: 몇 가지 질문이 반복되는 데이터가 있음",
    "{} plain texts, {}, ~{} tokens each": "텍스트 {}건, {}, 한 건에 약 {}토큰",
    "{} questions with answers, {}, ~{} tokens each": "질문과 답 {}건, {}, 한 건에 약 {}토큰",
    "{} instructions with answers, {}, ~{} tokens each": "지시와 답 {}건, {}, 한 건에 약 {}토큰",
    "{} conversations, {}, ~{} tokens each": "대화 {}건, {}, 한 건에 약 {}토큰",
    "more than {}": "{}여",
    "Korean": "한국어",
    "English": "영어",
    "another language": "다른 언어",
    "a guess, please check": "추측이니 확인하세요",
    "often several turns of one role follow each other": "한 사람의 말이 잇달아 나오는 일이 많음",
    "a first try; for all rows write epochs: 3 in its place": "처음 해 볼 때 알맞은 값. 모든 행을 쓰려면 epochs: 3",
    "of one row, counted by the model's tokenizer": "한 행의 최대 토큰 수(모델의 토크나이저로 셈)",
    "of one row, by an estimate": "한 행의 최대 토큰 수(추정)",
    "of one row, by a high estimate: the model's tokenizer is not on this machine": (
        "한 행의 최대 토큰 수(이 컴퓨터에 모델의 토크나이저가 없어 넉넉하게 추정)"
    ),
    "{} of the rows are longer and left out": "더 긴 {}의 행은 제외",
    "base and tuned model, before and after; put your own questions here": (
        "학습 전후의 모델에 똑같이 묻는 질문. 직접 쓴 질문으로 바꾸세요"
    ),
    "the model that you named": "직접 고른 모델",
    "as you named it": "직접 지정함",
    "the model that you named; its licence: {}": "직접 고른 모델, 사용 조건: {}",
    "small enough for a CPU": "CPU로 돌릴 수 있는 크기",
    "for English, on a CPU": "CPU로 돌리는 영어 모델",
    "fits a GPU of {} GB": "{} GB GPU에 맞는 크기",
    "fits a GPU of {} GB; its template knows tools": "{} GB GPU에 맞는 크기, 템플릿이 도구 호출을 지원",
    "ships with seodang; {} data of your own is better": "seodang에 포함된 데이터. 직접 모은 {} 데이터가 더 좋음",
    "answers without their questions, and nothing else to train on: learnt as plain text": (
        "질문 없는 답뿐이고 달리 학습할 데이터가 없어 일반 텍스트로 학습"
    ),
    "a guess: the only file of questions": "추측: 질문이 있는 유일한 파일",
    "a guess: nothing else looks more like a field": "추측: 특정 분야에 가장 가까움",
    "a guess: answers without their questions, as plain text": "추측: 질문 없는 답, 일반 텍스트로 읽음",
    "a guess: plain text": "추측: 일반 텍스트",
    "a guess: its name": "추측: 파일 이름",
    "a guess: {} of its questions use words of a field": "추측: 질문의 {}에 분야의 용어가 있음",
    "a guess: its questions are of no one field": "추측: 질문이 여러 분야에 걸침",
}
_PATTERNS = {  # the longest first: a shorter one may fit as well
    re.compile(re.escape(english).replace(r"\{\}", "(.+?)")): korean
    for english, korean in sorted(KOREAN.items(), key=lambda pair: -len(pair[0]))
}


def in_readers_language() -> Comment:
    """What writes comments in the language of the person at the terminal: Korean in a Korean locale, else English.

    The locale is that of messages, as gettext finds it; where no variable names it (Windows), the system's.
    """
    named = (os.environ.get(name) for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))
    found = next(filter(None, named), None) or locale.getlocale()[0] or ""
    return in_korean if re.match(r"ko(rean)?(?![a-z])", found, re.IGNORECASE) else str


def in_korean(comment: str) -> str:
    """The comment in Korean; one that is not known stays as it is."""
    for pattern, korean in _PATTERNS.items():
        if found := pattern.fullmatch(comment):
            return korean.format(*map(in_korean, found.groups()))
    return comment
