"""Penn Treebank tokens as the COCO caption tools see them, in lower case.

The tools ask Stanford's tokeniser of 2014 (CoreNLP 3.4.1) and drop what is punctuation to them. So "(" stays,
as "-lrb-", and "&", "$", "%", "!!" stay, while "!" goes. Here a text is read from left to right: of all rules
that fit at a place the one that fits furthest counts, the first of equals. A rule's ``token`` is taken, its
rest only looked at. Only where a text ends with a letter and a dot ("plan b.") does the tool look at the text
after it; here the dot ends the sentence. tests/evaluate/treebank_tokens.json holds what the tool made
of some hundred texts.
"""

import re
import unicodedata
from functools import cache

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPELLED = {
    **{"\u00a3": "#", "\u20ac": "$", "\u20a0": "$", "\u00a4": "$", "\u0080": "$", "\u00a2": "cents"},
    **{"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
    **{"&amp;": "&", "&lt;": "<", "&gt;": ">", "&mdash;": "--", "&nbsp;": "", "\u00ad": "-"},
}
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\u00ab\u201c", "``"),
        **dict.fromkeys("\u00bb\u201d", "''"),
        **dict.fromkeys("\u2018\u201b\u2039", "`"),
        "\u203a": "'",
    }
)
LONGEST_DASH = 5  # of hyphens; a longer row is no dash to the tool
# Abbreviations that keep their dot: wherever they stand, with a capital, before a number.
_ALWAYS = """jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu(?:rs)? fri ala ariz calif colo
conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo inc cos? corp
plc rt bancorp bhd assn univ intl sys ltd tel est ext sq jr sr bros ed\\.d ph\\.d esq etc al seq bldg mr
mrs ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt capt st ste ave pres
lieut hon brig co?mdr pfc spc supts? det mt ft adj adv asst assoc ens insp mlle mme msgr sfc invt elec
natl dept blvd rd v wm jos cie cf treas ph vs"""
_CAPITAL = "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash Ptys? Mtg Mfg"
_NUMBERED = "pp ca figs? prop nos? art op"
_STARTERS = """A About According Additionally After An As At But He Her Here However If In It Last Many
More Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When
While Yet You"""
_MARKS = "".join(  # accents and vowel signs, which belong to the letter before
    chr(code) for code in range(0x300, 0x2000) if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
_NUMERALS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u207e\u2080-\u208e\u2150-\u2189\u2460-\u24ff\u2776-\u2793"
_L = rf"(?:[^\W\d_{_NUMERALS}]|[{_MARKS}\u00ad\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02ff])"
_WORD = rf"{_L}(?:{_L}|\d)*(?:[.!?]{_L}(?:{_L}|\d)*)*"
_APOS = "(?:['\u0092\u2019]|&apos;)"
_QUOTE = "(?:['\u0092\u2019`\u0091\u2018\u201b]|&apos;)"
_AUX = rf"{_APOS}(?:[msd]|re|ve|ll)"
_NUM = r"(?:\d*(?:[.:,\u00ad]\d+)+|\d+(?:[.:,\u00ad]\d+)*)"
_PART = rf"(?:[dol]{_QUOTE}[a-z0-9])?(?:{_L}|\d)+"
_IN_NAME = r"[^ \t\n\f\r\"<>|.!?(){},]"
_NAME = r"(?:[^ \t\n\f\r\"`'<>|.!?()\[\]{},:/$-]+\.)+(?:com|net|org|edu)"
_PATH = r"(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-])"
_IN_MAIL, _IN_HOST = r"[^ \t\n\f\r\"<>|()\u00a0]", r"[^ \t\n\f\r\"<>|().\u00a0]"
_SYMBOL = (
    r"[+%&~^|\\\u00a6-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00a1\u00bf\u00a5\u00a7\u00d7\u00f7\u0387\u037e"
    r"\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d"
    r"\u06d4\u0700-\u070d\u07f6-\u07f8\u0964\u0965\u0e3f\u0e4f\u1fbd\u2016\u2017\u201a\u201e\u201f\u2020-\u2023"
    r"\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a4\u2100-\u214f\u2155-\u215e"
    r"\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1"
    r"\uffe5\uffe6]"
)


def _rules() -> list[tuple[str, bool]]:
    """(pattern, whether its letters are meant in this case only), in the order that counts between equals."""
    always, numbered = ("|".join(words.split()) for words in (_ALWAYS, _NUMBERED))
    capital, starters = ("|".join(words.split()) for words in (_CAPITAL, _STARTERS))
    listed = ["o'clock", "nor'easter", "c'mon", "e'er", "s'mores", "ev'ry", "li'l", "nat'l", "cont'd"]
    own = "|".join(word.replace("'", _QUOTE) for word in listed)
    vowel = rf"{_L}+[aeiouy]{_QUOTE}(?-i:[aeiouA-Z]){_L}*"
    return [
        (r"(?P<token>can)not", False),
        (rf"(?P<token>{_APOS}t)(?:was|is(?:[^a-z]|$))", False),
        (
            r"(?P<token>gon|got|lem|gim|wan)(?:(?<=gon)na|(?<=wan)na|(?<=got)ta|(?<=[ei]m)me)(?:[^a-z]|$)",
            False,
        ),
        (r"(?P<token></?[a-z][a-z0-9:.-]*(?:\s+[a-z][^<>]*)?\s*/?>|<[!?][a-z-][^<>]*>)", False),
        (r"(?P<token>&(?:amp|lt|gt|mdash|nbsp|#\d+);)", False),
        (rf"(?P<token>{_WORD}){_AUX}", False),
        (rf"(?P<token>[a-z\u00ad]*[a-mo-z\u00ad])n{_QUOTE}t", False),
        (rf"(?P<token>{_WORD})", False),
        (rf"(?P<token>{_APOS}n{_APOS})", False),
        (rf"(?P<token>{_APOS}n)(?:[^a-z]|$)", False),
        (rf"(?P<token>(?:[ldj]|dunkin|somethin|ol){_APOS}|{_APOS}(?:em|till?|cause|twixt|[2-9]0s))", False),
        (rf"(?P<token>(?-i:[A-HJ-XZn]){_QUOTE}{_L}{{2,}}|{vowel}|{own})", False),
        (rf"(?P<token>y{_APOS}){_L}", False),
        (r"(?P<token>https?://[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-])", False),
        (rf"(?P<token>(?:www\.(?:{_IN_NAME}+\.)+[a-z]{{2,4}}|{_NAME}){_PATH}?)(?:[^a-z]|$)", False),
        (rf"(?P<token><?[a-z0-9]{_IN_MAIL}*@(?:{_IN_HOST}+\.)*{_IN_HOST}+>?)", False),
        (rf"(?P<token>@[a-z_][a-z_0-9]*|#{_L}(?:{_L}|\d|_)*)", False),
        (rf"(?P<token>{_AUX})(?:[^a-z]|$)", False),
        (r"(?P<token>[\u0092\u2019](?:[msd]|re|ve|ll))", False),
        (rf"(?P<token>n{_QUOTE}t)(?:[^a-z]|$)", False),
        (rf"(?P<token>[-+]?{_NUM})", False),
        (r"(?P<token>\(\d{2,3}\)[ \u00a0]?\d{3,4}[- \u00a0]?\d{3,5})", False),
        (r"(?P<token>(?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4})", False),
        (r"(?P<token>[\u00bc-\u00be\u2153-\u215e])", False),
        (rf"(?P<token>{_APOS}\d\d)(?:\s|$)", False),
        (r"(?P<token>[A-Z]*\$)", True),
        (r"(?P<token>[\u00a2-\u00a4\u0080\u20a0\u20ac])", False),
        (r"(?P<token>[a-z0-9][a-z0-9.,\u00ad]*(?:-[a-z0-9\u00ad]+)+)", False),
        (rf"(?P<token>{_PART}(?:[-_\u058a\u2010\u2011]{_PART})*)", False),
        (r"(?P<token>[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)", True),
        (r"(?P<token>[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2})", False),
        (r"(?P<token>c\+\+|[cf]#|s&p-500|-[lr][rcs]b-|c\.d\.s)", False),
        (rf"(?P<token>(?:{always})\.)", False),
        (rf"(?P<token>(?:{capital})\.)", True),
        (rf"(?P<token>(?:{numbered})\.)\s+\d", False),
        (rf"(?P<token>[A-Za-z])\.(?:\s(?:{starters})(?![a-zA-Z])|\s*$)", True),
        (r"(?P<token>[a-z](?:\.[a-z])*\.)", False),
        (r"(?P<token>[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])(?:[^A-Za-z]|$)", True),
        (r"(?P<token>[-^x=~<>']_[-^x=~<>'])", False),
        (r"(?P<token><<|>>|[<>=/])", False),
        (r"(?P<token>-+|[\u2013-\u2015])", False),
        (r"(?P<token>\.\.\.+|\u2026|\.(?:[ \u00a0]\.)+|[.,:;])", False),
        (r"(?P<token>[?!]+|\*+|#+|@+|_+)", False),
        (r"(?P<token>\"|&quot;|&apos;|''|'|[`\u2018-\u201d\u201f\u2039\u203a\u00ab\u00bb]{1,2})", False),
        (rf"(?P<token>[()\[\]{{}}]|{_SYMBOL}|\u00ad)", False),
    ]


@cache
def _compiled() -> list[re.Pattern[str]]:
    return [re.compile(pattern, 0 if exact else re.I) for pattern, exact in _rules()]


def treebank_tokens(text: str) -> list[str]:
    """The text's tokens in lower case, without what counts as punctuation."""
    text, at, tokens = text.replace("\n", " "), 0, list[str]()
    while at < len(text):
        best, reach = None, 0
        for rule in _compiled():
            if (found := rule.match(text, at)) and found.end() - at > reach:
                best, reach = found, found.end() - at
        if best is None:  # white space, and signs that the tool does not know
            at += 1
            continue
        token = best["token"]
        at += len(token)
        tokens += _written(token).split()
    return [token for token in tokens if token not in DROPPED]


def _written(token: str) -> str:
    """The token as the tool prints it."""
    if token in _SPELLED:
        return _SPELLED[token]
    if re.fullmatch("-+|[\u2013-\u2015]|\\.\\.+|\u2026|\\.(?:[ \u00a0]\\.)+", token):
        return token if len(token) >= LONGEST_DASH and token.startswith("-") else "--"
    if re.fullmatch(r"[<>]?[:;=].+|\(\d+\).*|[()\[\]{}]", token):
        round_only = len(token) > 1  # brackets of other kinds stay in faces
        token = "".join(
            _BRACKETS[s] if s in "()" or (s in _BRACKETS and not round_only) else s for s in token
        )
    if token in ('"', "&quot;"):
        return "''"
    token = re.sub("&amp;", "&", re.sub("&apos;|[\u0092\u2019]", "'", token))
    return token.translate(_QUOTES).replace("\u00ad", "").lower()
