"""``lalm push``: a trained model folder goes to the Hugging Face Hub, without its checkpoints and logs."""

from pathlib import Path
from typing import Annotated

import typer

KEPT = (
    *("config.json", "*.safetensors", "recipe.yaml", "*.jinja", "tokenizer*", "special_tokens_map.json"),
    *("*processor_config.json", "generation_config.json", "vocab.*", "merges.txt", "added_tokens.json"),
    "README.md",
)


def push(
    model: Annotated[Path, typer.Argument(help="Model folder.", show_default=False)],
    repository: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Repository on the Hub.", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "A model of lalm",
) -> None:
    """Put a model folder on the Hugging Face Hub.

    `lalm ask --model USER/NAME` opens it there.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    if not (model / "config.json").is_file() or not (model / "model.safetensors").is_file():
        raise ValueError(f"'{model}' is no model folder: it has no config.json with model.safetensors")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"name the repository as USER/NAME, not '{repository}'")
    import json

    parts = json.loads((model / "config.json").read_text(encoding="utf-8")).get("parts", {})
    for role, name in parts.items():
        if Path(name).is_absolute():
            raise ValueError(
                f"'{model}' names its {role} by a folder of this machine, '{name}', where nobody else finds "
                "it: train with a pinned name or a Hub id"
            )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository,
            folder_path=model,
            allow_patterns=[*KEPT, *(f"*/{name}" for name in KEPT)],  # parts may lie in folders of it
            ignore_patterns=["checkpoint-*/*", "best/*", "runs/*"],
            commit_message=message,
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        what = str(error).strip().splitlines()[0]
        raise ValueError(f"the Hub does not take '{repository}': {what}") from None
    print(done.commit_url)
