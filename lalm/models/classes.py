"""A system's classes: imported when a model of it is first built or opened, and told to transformers then."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from lalm.errors import LalmError
from lalm.models.modeling import AudioLMConfig, AudioLMForConditionalGeneration, AudioLMModel
from lalm.models.processing import AudioLMProcessor
from lalm.systems import SYSTEMS, find


class ModelError(LalmError, ValueError):
    """A model that cannot be built or opened as asked; the text names the folder or the option."""


class ReleasedFormat(Protocol):
    """A module that opens model folders in a paper's own layout, given the fields of their config.json."""

    def read_config(self, fields: Mapping[str, Any]) -> AudioLMConfig:
        """Our config of such a folder."""

    def read_processor(self, folder: Path, config: Any) -> AudioLMProcessor:
        """The folder's processor; no weights are read."""

    def load(
        self, folder: Path, fields: Mapping[str, Any], dtype: torch.dtype
    ) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
        """The model and its processor."""

    def put_adapter(self, model: Any, folder: Path) -> bool:
        """Apply a PEFT adapter; see ``lalm.models.adapter.put_in``."""


@dataclass(frozen=True)
class Classes:
    """What one system is made of."""

    config: type[AudioLMConfig]
    headless: type[AudioLMModel]
    model: type[AudioLMForConditionalGeneration]
    question_prompt: Mapping[str, str]
    released: ReleasedFormat | None


@cache
def classes_of(name: str) -> Classes:
    """The classes of a system by its name; transformers' Auto classes know them from then on.

    Raises UnknownSystemError for a name that no system has.
    """
    row = find(name)
    module = import_module(row.module)
    found = Classes(
        getattr(module, row.config),
        getattr(module, row.headless),
        getattr(module, row.model),
        import_module(row.prompts).QUESTION_PROMPT,
        cast(ReleasedFormat, import_module(row.released)) if row.released else None,
    )
    AutoConfig.register(row.model_type, found.config)
    AutoModel.register(found.config, found.headless)
    AutoModelForMultimodalLM.register(found.config, found.model)
    AutoProcessor.register(found.config, AudioLMProcessor)
    return found


def register_all() -> dict[str, Classes]:
    """Import every system, so that ``AutoModel.from_pretrained`` and vLLM open folders of any of them."""
    return {name: classes_of(name) for name in SYSTEMS}
