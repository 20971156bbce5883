"""Numbers of a Mandarin text read out in characters, as Qwen2-Audio's released evaluation reads them.

That evaluation takes SpeechIO's normaliser. This is a reading of our own with the same results, oddities
included, because they are part of the protocol: each kind of number is first looked for in the whole text,
and what was found is then replaced where it *first* occurs, which can be another place ("112个12" has its
first 12 in 112). How often both agree is measured by ``benchmarks/mandarin_numbers.py``.
"""

import re
from collections.abc import Callable, Iterable, Iterator

DIGITS = "零一二三四五六七八九"
POWERS = (1, 2, 3, 4, *range(8, 49, 4))  # of ten; each has a character
UNITS = dict(zip(POWERS, "十百千万亿兆京垓秭穰沟涧正载", strict=False))
PAIR = "两"  # two before 百, 千, 万, ...

NUMBER = r"\d+(?:\.\d+)?"
ABOUT = "[多余几]?"  # "and some", between a number and its unit
MONEY_UNIT = "(?:千万|百万|[亿万千百元块角毛分])"
# What a number counts: measure words, periods, weights and lengths.
MEASURE_WORDS = (
    "丈世丘丝两个丸代令件伏位冬出刀分刻勺匹升单卮厘双叠口只合名周啖回场块坡堂堆墙壳壶夏夜天头季客家寸对寻尺尾层山岁岭"
    "常幢年座张忽户手扎打担挑捆撮支斗斛斤日旬时春曲更月本条杯板枝根桶棵毫江泡溪炮煲片瓶盆盏盒盘石砣碗碟秋秒程窠笼管箩"
    "箱篮簋粒纪线罐网罗群脚腔袋袭课贯贴跳身辆辈道里针钟钧钱钵铢铺锅锱阙队阵面页顶颗首"
)
YEAR = r"(?:[089]\d|(?:19|20)\d{2})年"
DATE = rf"\D+((?:{YEAR})?(?:\d{{1,2}}月(?:\d{{1,2}}[日号])?)?)"
MONEY = rf"\D+({NUMBER}{ABOUT}{MONEY_UNIT}(?:\d{MONEY_UNIT}?)?)"
MOBILE = r"\D((?:\+?86 ?)?1(?:[38]\d|5[0-35-9]|7[678]|9[89])\d{8})\D"
FIXED_LINE = r"\D((?:0(?:10|2[1-3]|[3-9]\d{2})-?)?[1-9]\d{6,7})\D"
COUNTED = rf"({NUMBER}){ABOUT}(?:[{MEASURE_WORDS}]|[千微][克米])"
LETTERS_TO_LETTERS = "([a-zA-Z]+二[a-zA-Z]+)"  # P2P, B2C: the 2 stays


def read_numbers(text: str) -> str:
    """A Mandarin text with its Arabic numbers in characters: "78.5%" becomes 百分之七十八点五."""
    text = f"^{text}$"  # so that each number has a character before and behind
    text = _replaced(text, DATE, _date)
    text = _replaced(text, MONEY, _money)
    text = _replaced(text, MOBILE, by_digits)
    text = _replaced(text, FIXED_LINE, by_digits)
    text = _replaced(text, r"(\d+/\d+)", _fraction)
    text = _replaced(
        text.replace("\uff05", "%"), f"({NUMBER}%)", lambda found: f"百分之{cardinal(found[:-1])}"
    )
    text = _replaced(text, COUNTED, cardinal)
    text = _replaced(text, r"(\d{4,32})", by_digits)
    text = _replaced(text, f"({NUMBER})", cardinal)
    text = _replaced(text, LETTERS_TO_LETTERS, lambda found: found.replace("二", "2", 1))
    return text.lstrip("^").rstrip("$")


def cardinal(written: str) -> str:
    """A number with or without decimals: "210.5" is 两百一十点五, "10" is 十, "05" is 零五."""
    whole, _, decimals = written.partition(".")
    symbols: list[int | str] = list(_symbols(whole)) if len(whole) > 1 else [int(digit) for digit in whole]
    said = "".join(_character(symbols, place) for place in range(len(symbols)))
    if decimals:
        said += f"点{by_digits(decimals)}"
    if said.startswith("点"):
        return f"零{said}"
    return said.removeprefix("一") if said.startswith("一十") else said


def by_digits(written: str) -> str:
    """Each digit by itself, whatever stands between them left out: "010-62345678"."""
    return "".join(DIGITS[int(digit)] for digit in re.findall(r"\d", written))


def _replaced(text: str, pattern: str, read: Callable[[str], str]) -> str:
    """All that the first group of ``pattern`` finds, read, in place of its first occurrence."""
    found: Iterable[str] = re.findall(pattern, text)
    for written in found:
        text = text.replace(written, read(written), 1)
    return text


def _date(written: str) -> str:
    """The year digit by digit, month and day as numbers."""
    year, mark, rest = written.rpartition("年")
    return by_digits(year) + mark + re.sub(r"\d+", lambda match: cardinal(match[0]), rest)


def _money(written: str) -> str:
    """Every number of it; one that is part of another is replaced there as well."""
    for number in re.findall(NUMBER, written):
        written = written.replace(number, cardinal(number))
    return written


def _fraction(written: str) -> str:
    numerator, _, denominator = written.partition("/")
    return f"{cardinal(denominator)}分之{cardinal(numerator)}"


def _symbols(digits: str) -> Iterator[int | str]:
    """Digits and units in the order they are said; the largest unit that fits splits the number."""
    rest = digits.lstrip("0")
    if len(rest) > 1:
        power = max(power for power in POWERS if power < len(rest))
        yield from _symbols(digits[:-power])
        yield UNITS[power]
        yield from _symbols(rest[-power:])
    elif rest:
        yield from (0, int(rest)) if len(digits) > 1 else (int(rest),)


def _character(symbols: list[int | str], place: int) -> str:
    """One symbol as it is said: 2 is 两 before a unit larger than ten, unless a digit or a ten precedes."""
    symbol = symbols[place]
    if isinstance(symbol, str):
        return symbol
    before = symbols[place - 1] if place else ""
    behind = symbols[place + 1] if place + 1 < len(symbols) else 0
    counts = isinstance(behind, str) and behind != "十" and isinstance(before, str) and before != "十"
    return PAIR if symbol == 2 and counts else DIGITS[symbol]
