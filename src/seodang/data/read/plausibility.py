"""Whether decoded text reads like Korean, Japanese or a Western European language. Knows characters, not bytes.

Nearly any bytes can be decoded by nearly any of the old encodings, so that decoding without an error proves nothing:
`38°C` in Windows-1252 is `38캜` in CP949. A wrong reading shows in syllables that nobody writes, in capitals in the
middle of a word, or in letters that no single language has.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# The 600 syllables that make up 96 to 99 % of Korean text, drug names and laws included. Chinese text decoded as CP949
# hits them in 26 % of its syllables, Japanese (EUC-JP) in 20 %.
FREQUENT_SYLLABLES = (
    "가각간갈감갑갔강갖같개객거건걸검것게겠겨격견결겼경계고곡곤골곳공과관광괴교구국군굴궁권궤귀규균그극근"
    "글금급기긴길까깨꺼께꼬꽃꾸끈끓끗끝끼나난날남납났내낸냄냈냉너넘넣네넷녀년노녹논놀농높놓뇌뇨누눈뉴늄느"
    "는늘능니닌닐님다닥닦단달담답당닿대더던데도독돈돌동돼되된될됩두둘뒤드득든들등디따땀때떠떤떨떻또뚜뜨뜻"
    "라락란람랐랑래랜램량러런럼럽렀렇레렌려력련렸령례로록론롤롬료루류률륨르른를름릇리릭린릴림립마막만많말"
    "맛망맞매맥머먹먼멀멍메며면명모목몰몸못무문묻물므미민밀및바박밖반받발밤밥방배백버번벌범법벗베벤벽변별"
    "병보복본볼봉봐부북분불붉붙브븐블비빈빛빠빨빵뿌사산살삼상새색생서석섞선설성세센셀셔션셨소속손송수숙순"
    "술숨쉬쉽슈슐슘스슨슬슴습승시식신실심십싱싶싸썸쓰씨씩씻아악안앉않알암압았앞애액야약양어억언얼엄업없엇"
    "었에엑엔엘여역연열염였영예오옥온올옷와완왔왕외요욕용우운울움워원월웠위유육율융으은을음응의이익인일잃"
    "임입있자작잔잘잠잡장재쟁저적전절점접정젖제져졌조족존졸좀종좋죄죠주죽준줄중즈즉증지직진질짐집짓징짜짝"
    "째쪽찍차착찬찮찰참창찾채책처척천철청체쳐쳤초촉총최추축출충취츠측층치칙친칠침칭카칼캡커컴컵케켜켰코콘"
    "콜콩쾌큐크큰클키킨킬타탁탄탈탕태택터털테텐토톨톱통퇴투트특튼틀티틴틸파판팔패퍼페펜편평폐포폭폰폴표푸"
    "풀품풍퓨프플피필핍하학한할함합항해핸했행향허험헤혀현혈협혔형호혼홈홍화확환활황회획효후훈휴흔흘흡히힘"
)
MIN_FREQUENT = 3  # syllables: fewer say nothing
FREQUENT_HANGUL = re.compile(f"[{FREQUENT_SYLLABLES}]")
NOT_FREQUENT_HANGUL = re.compile(f"(?![{FREQUENT_SYLLABLES}])[가-힣]")

KANA = re.compile("[ぁ-ゖァ-ヺー]")
NOT_ASCII = re.compile("[^\x00-\x7f]")
MIN_KANA = 3
KANA_SHARE = 0.3  # of what is not ASCII; Japanese prose has 0.5 to 0.8, Chinese and Korean none

WESTERN_ALPHABETS = (  # what each language has beyond a to z
    "àâæçéèêëîïôœùûü",  # French
    "äöüßé",  # German
    "áéíñóúü",  # Spanish
    "áâãàçéêíóôõú",  # Portuguese
    "àèéìíòóù",  # Italian
    "æøåéö",  # Danish, Norwegian
    "åäöé",  # Swedish, Finnish
    "éëïóöüè",  # Dutch
)
WESTERN_LETTERS = "".join(sorted(set("".join(WESTERN_ALPHABETS))))
_LETTER = f"A-Za-z{WESTERN_LETTERS}{WESTERN_LETTERS.upper().replace('SS', '')}"
_ACCENTS = "À-ÖØ-öø-ÿŒœ"
_APOSTROPHES = "’‘´"
_SYMBOLS = "“”„‚…–—•·°µ±×÷²³¹½¼¾ªº€£¢¥§©®™†«»¿¡\xa0\xad" + _APOSTROPHES
_STRICT = "°±µ×÷²³¹½¼¾§©ªº¥£¢€´¡¿"  # symbols that do not stand next to letters with accents
# places where Western text does not have such a character, and another encoding read as Windows-1252 does
MISPLACED = re.compile(
    "(?=[^\x00-\x7f])(?:"
    + "|".join(
        (
            f"[^\x00-\x7f{_LETTER}{_SYMBOLS}]",
            "(?<=[a-zà-ÿ])[À-ÖØ-ÞŒ]|[À-ÖØ-ÞŒ](?=\\d)",  # a capital in a word, or at a number
            f"(?<=[{_LETTER}])[‚±÷²³¹½¼¾€£¢¥§©«¿¡™•](?=[{_LETTER}])",  # a symbol in a word
            f"[²³¹ª¥¢©](?=[{_LETTER}])|º(?=[{_LETTER}])(?![CF]\\b)|(?<![{_LETTER}\\d.)\\]\\s])[ªº]|(?<=[{_LETTER}])[½¼¾]",
            f"[¿¡](?![{_LETTER}\\d\\s\"'“‘«(¿¡])|(?<=[{_LETTER}\\d])[¿¡]",
            '¿(?![^\\n]*\\?)|¡(?![^\\n]*!)|„(?![^\\n]*[“”"»])',  # never closed
            f"ã(?=[{_LETTER}])(?![oesi])|õ(?!e)",  # Portuguese
            f"à(?=[{_LETTER}])(?![sq])|[ìòù](?=[{_LETTER}])",  # French, Italian: at the end of a word
            f"(?<![{_LETTER}])ß",
            f"(?<![{_LETTER}])[{_ACCENTS}]{{2,}}(?![{_LETTER}])",  # a word of nothing but accents
            f"(?<![{_LETTER}])[{_ACCENTS}](?<![àáéèóòåöøÀÁÉÈÓÒÅÖØ])(?![{_LETTER}])",
            f"[{_STRICT}](?![\xa0–—…”’»™®·°])[^\x00-\x7f]|[{_ACCENTS}](?!´)[{_STRICT}]",
            f"[«»•·†](?=[{_ACCENTS}](?![{_LETTER}]))",
            f"[{_ACCENTS}]{{3}}",
            r"([^\x00-\x7f])(?!\1)[^\x00-\x7f]{3}",
        )
    )
    + ")"
)
QUOTE_IN_WORD = re.compile(f"(?<=[{_LETTER}])[“”„»](?=[{_LETTER}])")  # blanks are forgotten now and then
FORGOTTEN_BLANKS = 0.02  # of the characters that are not ASCII
JSON_ESCAPE = re.compile(r"\\[nrtbf]")
ACCENTED = re.compile(f"[{_ACCENTS}]")
LETTERS = re.compile("[A-Za-z]")
FOREIGN_LETTERS = 0.01  # of the accented letters: names in a text of one language
FOREIGN_WORDS = 0.01  # accented letters in plain letters: English with names and words of several languages

EXCERPT = 14  # characters shown on either side


def doubt_korean(texts: Iterable[str]) -> str | None:
    """The first passage that does not read like Korean, empty if nothing does; None if the text does."""
    frequent = rare = 0
    odd = ""
    for text in texts:
        if text.isascii():
            continue
        if lone := _lone_rare_syllable().search(text):
            return excerpt(text, lone.start())
        codes = _utf_16_units(text)
        found = int(_is_frequent()[codes].sum())
        frequent += found
        rare += int(((codes >= ord("가")) & (codes <= ord("힣"))).sum()) - found
        odd = odd or excerpt_of(NOT_FREQUENT_HANGUL, text)
    if frequent >= MIN_FREQUENT and 4 * rare <= frequent:
        return None
    return odd


def _utf_16_units(text: str) -> NDArray[np.uint16]:
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")


@lru_cache(maxsize=1)
def _is_frequent() -> NDArray[np.bool_]:
    """For each UTF-16 unit, whether it is one of the frequent syllables."""
    table = np.zeros(1 << 16, dtype=np.bool_)
    table[_utf_16_units(FREQUENT_SYLLABLES)] = True
    return table


@lru_cache(maxsize=1)
def _lone_rare_syllable() -> re.Pattern[str]:
    """A syllable out of use, by itself at a Latin letter or digit: a Western character and the letter after it."""
    rare = "".join(syllable for syllable in map(chr, range(ord("가"), ord("힣") + 1)) if not _in_ks_x_1001(syllable))
    return re.compile(f"(?<=[A-Za-z0-9])[{rare}](?![가-힣])|(?<![가-힣])[{rare}](?=[A-Za-z0-9])")


def _in_ks_x_1001(syllable: str) -> bool:
    """Whether it is one of the 2,350 syllables in use; Python spells the others letter by letter."""
    return len(syllable.encode("euc_kr")) == 2


def doubt_japanese(texts: Iterable[str]) -> str | None:
    """The first passage that does not read like Japanese, empty if nothing does; None if the text does."""
    kana = others = 0
    odd = ""
    for text in texts:
        if text.isascii():
            continue
        found = len(KANA.findall(text))
        kana += found
        others += len(NOT_ASCII.findall(text)) - found
        odd = odd or excerpt_of(NOT_ASCII, text)
    return None if kana >= MIN_KANA and kana >= KANA_SHARE * (kana + others) else odd


def doubt_western(texts: Iterable[str]) -> str | None:
    """The first passage that does not read like a Western European language, English included; None if all does."""
    accented: Counter[str] = Counter()
    letters = others = quotes = 0
    odd = in_word = ""
    for text in texts:
        letters += len(LETTERS.findall(text))
        if text.isascii():
            continue
        text = JSON_ESCAPE.sub("  ", text)
        others += len(NOT_ASCII.findall(text))
        quotes += len(QUOTE_IN_WORD.findall(text))
        in_word = in_word or excerpt_of(QUOTE_IN_WORD, text)
        if misplaced := MISPLACED.search(text):
            return excerpt(text, misplaced.start())
        accented.update(ACCENTED.findall(text.lower()))
        odd = odd or excerpt_of(ACCENTED, text)
    if quotes > FORGOTTEN_BLANKS * others:
        return in_word
    foreign = min(accented.total() - sum(accented[letter] for letter in alphabet) for alphabet in WESTERN_ALPHABETS)
    is_one_language = foreign <= FOREIGN_LETTERS * accented.total()
    return None if is_one_language or accented.total() < FOREIGN_WORDS * letters else odd


def excerpt_of(pattern: re.Pattern[str], text: str) -> str:
    """The surroundings of the first match; empty if there is none."""
    found = pattern.search(text)
    return excerpt(text, found.start()) if found else ""


def excerpt(text: str, at: int) -> str:
    """Some characters around a place, on one line."""
    return " ".join(text[max(0, at - EXCERPT) : at + EXCERPT].split())


Doubt = Callable[[Iterable[str]], str | None]
