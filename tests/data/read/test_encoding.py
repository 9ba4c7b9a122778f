"""Encodings: a file is read right, or refused with the readings that could be meant."""

from pathlib import Path

import pytest

from seodang.data.read.containers.data_file import DataFile
from seodang.data.read.encoding import find_encoding
from seodang.errors import SourceError

KOREAN = "질문,답변\n감기는 왜 걸리나요?,바이러스 때문입니다. 38℃가 넘으면 해열제를 드세요.\n쑥갓은요?,데쳐 먹어요.\n"
JAPANESE = "質問,答え\n風邪はなぜひくのですか。,ウイルスのためです。薬を飲んでください。\n"
SIMPLIFIED = "问题,答案\n为什么会感冒?,因为病毒。请多喝水,好好休息。\n"
TRADITIONAL = "問題,答案\n為什麼會感冒?,因為病毒。請多喝水,好好休息。\n"
MEDICAL = "question,answer\nFever?,38°C give 500µg or 10\xa0mg\nWhy?,“I don’t know” – says Dr Sjögren…\n"
FRENCH = "question,answer\nOù est la forêt ?,Près de la façade, à côté du cœur. L’été déjà…\n"
GERMAN = "frage,antwort\nWas tun bei Übelkeit?,„Größere Mengen trinken“, heißt es über Öl und Käse.\n"
SPANISH = "pregunta,respuesta\n¿Qué día?,¡El niño está allí! Según el médico, ½ comprimido, 1ª dosis.\n"
PORTUGUESE = "pergunta,resposta\nQuê?,A informação põe os cães à frente; são três órgãos.\n"
SWEDISH = "fråga,svar\nVarför?,Ät frukost på morgonen, och drick öl då och då.\n"
RUSSIAN = "вопрос,ответ\nПочему?,Потому что вирус.\n"
POLISH = "pytanie,odpowiedź\nDlaczego?,Zażółć gęślą jaźń, ponieważ gorączka może być wysoka.\n"
CZECH = "otázka,odpověď\nProč?,Příliš žluťoučký kůň může úpět ďábelské ódy.\n"
HUNGARIAN = "kérdés,válasz\nMiért?,Árvíztűrő tükörfúrógép, mert a láz nő.\n"
TURKISH = "soru,cevap\nNeden?,Çünkü ateş yükseldi ve ağrı başladı, hastanın ilacı bitti.\n"


def found(folder: Path, content: bytes, named: str | None = None) -> str:
    """The text that a file is read as."""
    path = folder / "d.csv"
    path.write_bytes(content)
    encoding, _ = find_encoding(DataFile(name="d.csv", path=path), named)
    return content.decode(encoding)


def refused(folder: Path, content: bytes, named: str | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        found(folder, content, named)
    return str(caught.value)


@pytest.mark.parametrize("copies", [1, 3000])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (KOREAN, "cp949"),
        (KOREAN, "euc_kr"),
        (KOREAN, "johab"),
        (KOREAN, "utf-16-le"),
        (KOREAN, "utf-16-be"),
        (KOREAN, "utf-32-le"),
        ("가나다라마바사아자차카타파하\n" * 9, "utf-16-le"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "utf-16-be"),
        (TRADITIONAL, "utf-16-le"),
        (MEDICAL, "cp1252"),
        (FRENCH, "cp1252"),
        (GERMAN, "cp1252"),
        (SPANISH, "cp1252"),
        (PORTUGUESE, "cp1252"),
        (SWEDISH, "latin-1"),
    ],
)
def test_what_reads_like_one_language_alone_is_read(tmp_path: Path, text: str, encoding: str, copies: int) -> None:
    """Korean, Japanese and Western European text in an old encoding is read as it was written, short or long."""
    assert found(tmp_path, (text * copies).encode(encoding)) == text * copies


@pytest.mark.parametrize("copies", [1, 3000])
@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        (SIMPLIFIED, "gb18030", "gb18030 ('问题,答案"),
        (TRADITIONAL, "big5", "big5 ('問題,答案"),
        (RUSSIAN, "cp1251", "cp1251 ('вопрос,ответ"),
        (RUSSIAN, "koi8_r", "cp1251"),
        (POLISH, "cp1250", "cp1250 ('"),
        (POLISH, "iso8859_2", "cp1250 ('"),
        (CZECH, "cp1250", "cp1250 ('"),
        (HUNGARIAN, "cp1250", "cp1250 ('"),
        (TURKISH, "cp1254", "cp1252 ('"),
        (MEDICAL.replace("°", ""), "mac_roman", "cp1252 ('"),
        (FRENCH, "mac_roman", "mac_roman ('"),
    ],
)
def test_other_encodings_are_refused_with_the_readings(
    tmp_path: Path, text: str, encoding: str, shown: str, copies: int
) -> None:
    """Text that no language recognised here explains is refused; the message shows how each encoding would read it."""
    message = refused(tmp_path, (text * copies).encode(encoding))
    assert message.startswith(("d.csv:1: not UTF-8", "d.csv:2: not UTF-8"))
    assert shown in message
    assert "name the right one in the recipe" in message


@pytest.mark.parametrize("bad", ["38°C", "don’t", "10\xa0mg", "500µg", "Müller"])
def test_one_western_byte_in_a_large_ascii_file_is_no_hangul(tmp_path: Path, bad: str) -> None:
    """CP949 takes the letter after the byte with it (38캜): the text is read as Windows-1252 instead."""
    text = "question,answer\n" + "What is it?,It is so.\n" * 5000 + f"Why?,Because of {bad} or so.\n"
    assert found(tmp_path, text.encode("cp1252")) == text


def test_a_western_byte_in_a_korean_file_is_refused(tmp_path: Path) -> None:
    """Files joined from two encodings are not half garbled: the passage that does not fit is shown."""
    content = KOREAN.encode("cp949") * 3000 + "Temp?,38°C now\n".encode("cp1252")
    assert "38캜 now" in refused(tmp_path, content)
    assert found(tmp_path, content, "cp949").endswith("38캜 now\n"), "the recipe may still say so"
    assert "bytes that are not CP949" in refused(tmp_path, KOREAN.encode("cp949") * 40 + "a,38° b\n".encode("cp1252"))


def test_rare_syllables_and_jamo_are_korean(tmp_path: Path) -> None:
    """Syllables outside of KS X 1001, chat jamo and Hanja do not make a Korean file doubtful."""
    text = KOREAN + "똠방각하가 뷁을 먹었다,됬어요 ㅋㅋㅋㅋ ㅠㅠ\n甘草와 人蔘은?,약재(藥材)입니다.\n"
    assert found(tmp_path, text.encode("cp949")) == text
    assert found(tmp_path, text.replace("㈜", "").encode("euc_kr")) == text, "annex 3 of KS X 1001 spells 뷁"


def test_too_little_to_tell_is_refused(tmp_path: Path) -> None:
    """One word that could be Korean as well as Western is not guessed."""
    message = refused(tmp_path, "question,answer\nVitamin?,E의\n".encode("cp949"))
    assert "more than one encoding could be meant: cp949 ('question,answer Vitamin" not in message
    assert "cp949 (" in message
    assert "E의" in message
    assert "cp1252 (" in message


def test_chat_that_could_be_japanese_is_refused(tmp_path: Path) -> None:
    """ㅋㅋㅋ in CP949 is せせせ in EUC-JP: with little else beside it, both are shown."""
    message = refused(tmp_path, ("감기,네 " + "ㅋ" * 20 + "\n").encode("cp949"))
    assert "more than one encoding could be meant: cp949 ('감기,네 ㅋㅋㅋ" in message
    assert "euc_jp ('" in message


def test_nul_characters_do_not_make_utf_16(tmp_path: Path) -> None:
    """A few NULs in UTF-8 text are text, and are removed later."""
    text = "question,answer\n" + "Why\0?,Because it is so, and has been ever since.\n" * 3
    assert found(tmp_path, text.encode()) == text


@pytest.mark.parametrize(
    ("content", "named", "what"),
    [
        (KOREAN.encode(), "utf-16", "has no byte order mark and does not read like UTF-16"),
        (KOREAN.encode(), "utf-32", "has no byte order mark and does not read like UTF-32"),
        (KOREAN.encode("cp949"), "utf-16", "does not read like UTF-16"),
        (KOREAN.encode(), "cp949", "is UTF-8 from beginning to end"),
        (KOREAN.encode(), "latin-1", "is UTF-8 from beginning to end"),
        (KOREAN.encode(), "utf-16-le", "is UTF-8 from beginning to end"),
        (KOREAN.encode("utf-16-le"), "utf-16-be", "reads like UTF-16-LE"),
        (KOREAN.encode("utf-16-le"), "latin-1", "reads like UTF-16-LE"),
        (KOREAN.encode("utf-16"), "latin-1", "starts with the byte order mark of UTF-16"),
        (KOREAN.encode("utf-8-sig"), "cp949", "starts with the byte order mark of UTF-8"),
        (KOREAN.encode("cp949"), "latin-1", "reads like CP949 (Korean Windows)"),
        (KOREAN.encode("cp949"), "gb18030", "reads like CP949 (Korean Windows)"),
        (JAPANESE.encode("cp932"), "cp1251", "reads like Shift-JIS (Japanese Windows)"),
    ],
)
def test_a_named_encoding_that_the_bytes_disprove_is_refused(
    tmp_path: Path, content: bytes, named: str, what: str
) -> None:
    """`encoding:` wins over a guess, but not over a byte order mark, valid UTF-8 or text in plain Korean."""
    message = refused(tmp_path, content, named)
    assert f"the recipe says {named}, but the file" in message
    assert what in message
    assert "leave `encoding:` out" in message


def test_a_named_encoding_that_fits_is_taken(tmp_path: Path) -> None:
    """What cannot be recognised is read by its name, and a name without byte order takes that of the file."""
    for text, written, named in (
        (SIMPLIFIED, "gb18030", "gbk"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        (POLISH, "iso8859_2", "latin2"),
        (KOREAN, "utf-16-le", "utf-16"),
        (KOREAN, "utf-32-be", "utf-32"),
        (KOREAN, "euc_kr", "ms949"),
        (JAPANESE, "cp932", "shift_jis"),
    ):
        assert found(tmp_path, text.encode(written), named) == text
    for named in ("utf-8-sig", "utf8"):
        assert found(tmp_path, KOREAN.encode(), named) == KOREAN


@pytest.mark.parametrize(
    "named", ["a\0b", "\ud800", "한글", "", " ", "base64", "undefined", "idna", "punycode", "x" * 100_000]
)
def test_names_that_are_no_encoding_are_one_error(tmp_path: Path, named: str) -> None:
    """Whatever stands under `encoding:`, the answer is one message of moderate length."""
    assert len(refused(tmp_path, KOREAN.encode("cp949"), named)) < 400
