"""Texts as lalm compares them beside texts as Qwen2-Audio's released evaluation compares them.

    git clone https://github.com/QwenLM/Qwen2-Audio
    python benchmarks/mandarin_numbers.py --released Qwen2-Audio/eval_audio --out results/released_texts.json

Generates sentences with numbers of every kind, gives them to the released ``compute_wer`` in a process of its
own (whose ``editdistance`` only notes what it is given), and counts how many texts come out the same.
``--keep`` writes Mandarin sentences with their released form: the tests' ``mandarin_numbers.tsv``.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from lalm.evaluate.metrics.normalise_qwen2_audio import normalised

RELEASED = """
import contextlib, io, json, sys, types
from unittest.mock import MagicMock

noted = []
for name in ("requests", "torch", "tqdm", "transformers", "transformers.pipelines.audio_utils"):
    sys.modules[name] = MagicMock()
sys.modules["torch"].utils.data.Dataset = object
sys.modules["torch"].utils.data.sampler.Sampler = object
sys.modules["editdistance"] = types.SimpleNamespace(eval=lambda one, two: noted.append(" ".join(one)) or 0)
# A newer sacrebleu has its tokenizers elsewhere; "none" gives back the line.
sys.modules["sacrebleu.tokenizers"] = types.SimpleNamespace(TOKENIZERS={"none": lambda: lambda line: line})
import evaluate_asr

made = []
for text, language in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate_asr.compute_wer(["x", evaluate_asr.remove_sp(text, language)], ["x", "x"], language)
    made.append(noted[-1])
json.dump(made, sys.stdout)
"""
LANGUAGES = {"zh": 6000, "yue": 1000, "en": 1000, "fr": 1000}
MEASURED = "个 元 块 公里 千米 微克 岁 名 多人 余家 几天 万 百万元 千万 亿 毛 角 分"
ENDS = "。 \uff01 \uff1f \uff0c … ~ · "
ANY = "0123456789012345678922年月日号万千百亿元块角多几个克米.%/~-$+^ :,P2a两\uff08\uff05\uff12·•"
WORDS = {
    "zh": "我们有 电话是 大约 涨了 编号 在 从 共 P2P B2C平台 第 价格 “ \uff08",
    "yue": "我哋有 電話係 大約 漲咗 喺 價錢 佢話 嘅",
    "en": "it's Mr. they've about colour cost won't the room okay,",
    "fr": "l'été c'est environ coûte numéro à là-bas dès près",
}


def number(rng: random.Random) -> str:
    """A number as people write it: whole, decimal, money, percentage, telephone, date, range, ..."""
    whole = str(rng.randrange(10 ** rng.randint(1, 9)))
    short, small = str(rng.randrange(10 ** rng.randint(1, 3))), f"{rng.randrange(100):02d}"
    year = rng.choice((f"19{small}", f"20{small}", small, short, whole))
    month, day = rng.randint(1, 13), rng.randint(1, 32)
    mobile = rng.choice(("", "+86", "86", "+86 ")) + f"1{rng.randint(3, 9)}{rng.randrange(10**9):09d}"
    fixed = rng.choice(("010-", "021", "0755-", "0123-", "")) + str(rng.randrange(10**6, 10**8))
    zeros = rng.choice(("1", "2", "12", "20", "120", "22", "5")) + "0" * rng.randint(1, 14)
    forms = (
        *(whole, short, zeros, f"{short}.{small}", f"0.{small}", f"00{short}", f"{whole}.{short}"),
        *(f"{short}%", f"{short}.{small}%", f"{short}\uff05", f"{short}%~{small}%", f"{short}%-{small}%"),
        *(
            f"{short}/{small}",
            f"{month}/{day}",
            f"{year}年",
            f"{year}年{month}月{day}日",
            f"{month}月{day}号",
        ),
        *(
            f"{month}月{day}",
            f"{year}年{month}月",
            f"{year}-{month}-{day}",
            f"{month:02d}月{small}日",
            f"{small}年代",
        ),
        *(
            mobile,
            fixed,
            f"${whole}",
            f"¥{short}.{small}",
            f"{int(whole):,}",
            f"{short}:{small}",
            f"-{short}",
        ),
        *(
            f"{short}.{small}.{short}",
            f"{small}~{short}",
            f"{short}*{small}",
            "\uff12\uff10\uff15",
            f"{short}\uff12",
            f"{short}²",
        ),
        *(f"{short}{rng.choice(MEASURED.split())}" for _ in range(4)),
        *(f"{zeros}{rng.choice(MEASURED.split())}", f"{short}.{small}{rng.choice(MEASURED.split())}"),
        *(
            f"{short}万{rng.randrange(10)}千{small}",
            f"{rng.randrange(10)}块{rng.randrange(10)}",
            "2" * rng.randint(1, 9),
        ),
    )
    return rng.choice(forms)


def sentence(rng: random.Random, language: str) -> str:
    """One to four numbers between words of a language; of Mandarin one in five is signs in any order."""
    if language == "zh" and rng.random() < 0.2:
        return "".join(rng.choices(ANY, k=rng.randint(1, 16))).strip() or "0"
    space = "" if language in ("zh", "yue") and rng.random() < 0.8 else " "
    parts = [
        part for _ in range(rng.randint(1, 4)) for part in (rng.choice(WORDS[language].split()), number(rng))
    ]
    return (space.join(parts[rng.randint(0, 1) :]) + rng.choice(ENDS.split(" "))).strip() or "0"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--released", type=Path, required=True, help="the folder eval_audio of QwenLM/Qwen2-Audio"
    )
    parser.add_argument("--out", type=Path, help="where the counts go, as JSON")
    parser.add_argument(
        "--keep", type=Path, help="where some Mandarin sentences go, with their released form"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    texts = [
        (sentence(rng, language), language) for language, count in LANGUAGES.items() for _ in range(count)
    ]
    released = json.loads(
        subprocess.run(
            [sys.executable, "-c", RELEASED],
            input=json.dumps(texts),
            env={**os.environ, "PYTHONPATH": str(options.released)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )
    report = {}
    for language, count in LANGUAGES.items():
        own = [(text, due) for (text, code), due in zip(texts, released, strict=True) if code == language]
        other = [
            (text, due, normalised(text, language)) for text, due in own if normalised(text, language) != due
        ]
        report[language] = {"texts": count, "same": count - len(other), "others": other[:10]}
        print(f"{language}: {count - len(other)} of {count} the same")
        for text, due, ours in other[:10]:
            print(f"  {text}\n    released {due}\n    lalm     {ours}")
    if options.out:
        options.out.write_text(
            json.dumps({"seed": options.seed, **report}, indent=1, ensure_ascii=False) + "\n"
        )
    if options.keep:
        rows = [f"{text}\t{due}" for (text, code), due in zip(texts, released, strict=True) if code == "zh"]
        options.keep.write_text("\n".join(rows[:400]) + "\n")


if __name__ == "__main__":
    main()
