"""The names that columns and roles go by, in English and Korean."""

import re


def words(names: str) -> frozenset[str]:
    """The names in a text, which blanks separate."""
    return frozenset(names.split())


QUESTION = words(
    "question questions query prompt instruction input user human user_input user_query question_text user_message "
    "질문 질문내용 질문_내용 물음 문의 문의내용 문의_내용 질의 문제 문 입력 지시 지시문 명령어 사용자"
)
ANSWER = words(
    "answer answers response output completion assistant reply answer_text model_answer assistant_response gpt bot "
    "reference_answer ground_truth gold_answer correct_answer expected_answer expected_output ideal_answer "
    "답변 답변내용 답변_내용 답 응답 대답 정답 회신 출력 모범답안 모범_답안"
)
# beside an answer, these are corrections of it; beside one that may be a system's own, the right ones
CORRECTION = words(
    "corrected corrected_answer corrected_response corrected_output edited_answer edited_response edited_output "
    "revised_answer revised_response revised_output improved_answer improved_response 수정답변 수정_답변 교정답변 "
    "교정_답변 검수답변 검수_답변 최종답변 최종_답변"
)
SYSTEM_ANSWER = words("response output completion assistant reply assistant_response gpt bot 응답 출력")
REFERENCE = words(
    "reference reference_output reference_response gold golden golden_answer gold_response target expected ideal "
    "ideal_response human_answer human_response expert_answer 참조답변 참조_답변"
)
RAGAS = words("user_input response reference")  # its rows: what a system answered, and what is right
SHORT_QUESTION = "q"  # these two only as a pair: a column A is also the first of several choices
SHORT_ANSWER = "a"
PAIRS = (("problem", "solution"),)  # names that are known beside each other only
CONTEXT = words("context passage 맥락 문맥 지문")
TEXT = words("text content contents document passage body article 본문 내용 텍스트 원문 문서")
TURNS = words("messages conversations conversation dialogue dialog chat turns 대화")
TURN_LISTS = TURNS | {"contents"}  # that one is Gemini's where it holds turns, else plain text
SYSTEM = words("system system_prompt system_message 시스템 시스템_프롬프트")
TOOLS = words(
    "tools functions tool_definitions function_definitions tool_schemas function_schemas available_tools "
    "available_functions"
)
REASONING = words(
    "complex_cot cot chain_of_thought reasoning reasoning_content thinking thought thoughts 추론 추론과정 추론_과정 "
    "사고과정"
)
HISTORY = words("history 이전대화 이전_대화")
QUESTION_TYPE = words("q_type qtype question_type 문제유형 문제_유형 문항유형 문항_유형 질문유형 질문_유형")
TURN_ROLE = ("role", "from", "speaker", "speaker_role", "역할", "화자", "발화자", "발화자역할")
TURN_CONTENT = (
    "content", "value", "message", "utterance", "text", "발화", "발화문", "발화내용", "발화_내용", "대사", "내용",
)  # fmt: skip
CONVERSATION_ID = (
    "conversation_id", "conv_id", "conversationid", "dialogue_id", "dialog_id", "dialogueid", "dialogid", "session_id",
    "sessionid", "chat_id", "thread_id", "conversation_no", "dialog_no",
    "대화id", "대화_id", "대화번호", "대화_번호", "대화셋일련번호",
    "상담id", "상담_id", "상담번호", "상담_번호", "세션id", "세션_id",
)  # fmt: skip
TURN_ORDER = (
    "turn", "turn_id", "turn_no", "turn_index", "turn_number", "utterance_id", "utterance_no", "seq", "order", "index",
    "순번", "순서", "발화번호", "발화_번호", "발화순번", "턴", "문장번호",
)  # fmt: skip
# what the questions of a table ask about, where each of its columns is one
THING = words("제품명 품목명 약품명 의약품명 item_name itemname product_name name 이름 명칭 질환명 병명")
CHOICES = words("choices options candidates 선택지 보기")
# columns of what a model that reads text alone does not get; the second ones only where they name such a file
MEDIA = words(
    "image images image_path image_paths image_url image_urls image_file img imgs img_path picture pictures photo "
    "photos pixel_values audio audios audio_path audio_url audio_file sound speech "
    "video videos video_path video_url video_file "
    "이미지 이미지경로 이미지_경로 이미지파일 사진 그림 음성 음성파일 오디오 영상 동영상 비디오"
)
FILES = words("file files file_path filepath path attachment attachments media 파일 첨부 첨부파일")
_MEDIA_FILE = re.compile(
    r"\.(png|jpe?g|gif|webp|bmp|tiff?|dcm|svg|wav|mp3|flac|m4a|ogg|mp4|avi|mov|mkv|webm)$", re.IGNORECASE
)
KNOWN_COLUMNS = QUESTION | ANSWER | CONTEXT | TEXT | TURNS | SYSTEM | TOOLS | CHOICES

SHORTEST_QUESTION = 6  # characters of a name that is a question
FUNCTION_CALL = "function_call"  # no role of a message: an assistant turn that holds a call instead of a text
ROLES = {
    name: role
    for role, names in {
        "user": "user human usr customer prompter humanmessage patient client 사용자 질문자 고객 환자 내담자 문의자 "
        "보호자",
        "assistant": "assistant gpt chatgpt bot model ai chatbot aimessage doctor physician therapist counselor agent "
        "상담원 챗봇 답변자 의사 전문의 의료진 상담사 상담자 약사",
        "system": "system developer systemmessage 시스템",
        "tool": "tool function observation function_response tool_response function_result tool_result ipython",
        FUNCTION_CALL: "function_call tool_call",
    }.items()
    for name in names.split()
}


def column_key(name: str) -> str:
    """A column's name as the sets above hold it: lower case, words joined by _."""
    return re.sub(r"[\s\-]+", "_", name.casefold())


def is_media(name: str, value: object) -> bool:
    """Whether a cell holds or names an image, a sound or a video."""
    key = column_key(name)
    if key in FILES:
        first = value[0] if isinstance(value, list) and value else value
        return isinstance(first, str) and _MEDIA_FILE.search(first.rstrip()) is not None
    return key in MEDIA and value not in (None, "", [], {})


def is_question(name: str) -> bool:
    """Whether a column's name is itself a question, as tables of one question a column have them."""
    return name.endswith(("?", "？")) and len(name) >= SHORTEST_QUESTION
