"""The names that columns and roles go by, in English and Korean."""

import difflib
import re
from collections.abc import Iterable


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


QUESTION = _words(
    "question questions query prompt instruction input user human user_input user_query question_text user_message "
    "질문 질문내용 질문_내용 물음 문의 문의내용 문의_내용 질의 문제 문 입력 지시 지시문 명령어 사용자"
)
ANSWER = _words(
    "answer answers response output completion assistant reply answer_text model_answer assistant_response gpt bot "
    "답변 답변내용 답변_내용 답 응답 대답 정답 회신 출력 모범답안 모범_답안"
)
SHORT_QUESTION = "q"  # these two only as a pair: a column A is also the first of several choices
SHORT_ANSWER = "a"
CONTEXT = _words("context passage 맥락 문맥 지문")
TEXT = _words("text content contents document passage body article 본문 내용 텍스트 원문 문서")
TURNS = _words("messages conversations conversation dialogue dialog chat turns 대화")
SYSTEM = _words("system system_prompt system_message 시스템 시스템_프롬프트")
TOOLS = _words("tools functions")
TURN_ROLE = ("role", "from", "speaker", "역할")
TURN_CONTENT = ("content", "value", "message", "utterance", "text", "내용")
CHOICES = _words("choices options candidates 선택지 보기")
KNOWN_COLUMNS = QUESTION | ANSWER | CONTEXT | TEXT | TURNS | SYSTEM | TOOLS | CHOICES

FUNCTION_CALL = "function_call"  # no role of a message: an assistant turn that holds a call instead of a text
ROLES = {
    name: role
    for role, names in {
        "user": "user human usr customer prompter 사용자 질문자 고객",
        "assistant": "assistant gpt chatgpt bot model ai chatbot 상담원 챗봇 답변자",
        "system": "system developer 시스템",
        "tool": "tool function observation function_response tool_response function_result tool_result ipython",
        FUNCTION_CALL: "function_call tool_call",
    }.items()
    for name in names.split()
}


def column_key(name: str) -> str:
    """A column's name as the sets above hold it: lower case, words joined by _."""
    return re.sub(r"[\s\-]+", "_", name.casefold())


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'answer'?` where a known name is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
