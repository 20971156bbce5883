"""GRPO whose answers a real vLLM server draws: are its weights those of every step? What does a step take?

vLLM and lalm live in an environment of their own, whose Python is named; the server is started here::

    python benchmarks/grpo_vllm.py runs/sft prompts.jsonl --vllm-python ~/vllm/bin/python --out grpo_vllm.json

The folder is completed in float32 and served; a run of ``--steps`` steps draws from the server, and another
one draws by itself. ``sampler_gap`` of a step is the mean of |log p - log q| over the drawn tokens, p the
trainer's and q the server's: of one model in two programs it is rounding, of a server that stayed behind it
grows from step to step.
"""

import argparse
import json
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from vllm_answers import serving

from lalm.cli.export import complete
from lalm.training import recipe as recipes
from lalm.training import run as train


def run(args: argparse.Namespace, out: Path, rollouts: dict[str, Any] | None) -> dict[str, Any]:
    """Seconds a step and what is logged of each."""
    fields = yaml.safe_load((args.folder / "recipe.yaml").read_text())
    kept = {name: fields[name] for name in ("system", "lora") if fields.get(name)}
    grpo = {"rewards": [{"name": args.reward}], "group": args.group, "max_new_tokens": args.tokens}
    recipe = recipes.load(
        kept
        | {
            "init": {"from": str(args.folder)},
            "lora": kept.get("lora") or {"rank": 8, "alpha": 16, "dropout": 0.0},
            "grpo": grpo | ({"rollouts": rollouts} if rollouts else {}),
            "data": {"train": [{"path": str(args.manifest)}]},
            "optim": {"learning_rate": args.rate, "batch_size": args.batch, "max_steps": args.steps},
            "every": {"log": 1, "save": args.steps, "valid": 0},
            "out": str(out),
        }
    )
    began = time.monotonic()
    train.run(recipe)
    seconds = (time.monotonic() - began) / args.steps
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = {"seconds_a_step": round(seconds, 2)}
    for name in ("sampler_gap", "reward", "tokens"):
        found[name] = [round(row[name], 6) for row in rows if name in row]
    return found


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reward", default="right")
    for name, value in (("steps", 6), ("group", 4), ("tokens", 16), ("batch", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server ends with this process
    settings = {name: getattr(args, name) for name in ("steps", "group", "tokens", "batch", "rate", "reward")}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        complete(args.folder, work / "whole", "float32")
        log = args.out.with_suffix(".server.log")
        with serving(args.vllm_python, work / "whole", log, ["--logprobs-mode", "processed_logprobs"]) as url:
            served = run(args, work / "served", {"url": url})
        found = {"settings": settings, "server": served, "itself": run(args, work / "itself", None)}
    print(json.dumps(found, indent=1))
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
