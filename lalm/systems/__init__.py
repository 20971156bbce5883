"""The systems: one row each that says where its classes are. Reading the list imports none of them.

``lalm.models.classes`` imports what a row names when a model of that system is built or opened, so a room
below the papers can have the list, and opening one system does not load the others.
"""

from dataclasses import dataclass

from lalm.errors import LalmError


class UnknownSystemError(LalmError, ValueError):
    """A name that no system has; the text lists those there are."""


@dataclass(frozen=True)
class System:
    """One system. ``module`` holds its three classes, ``prompts`` its ``QUESTION_PROMPT``.

    ``model_type`` is what the config.json of its model folders says. ``released`` is a module that opens
    folders in the authors' own layout, whose config.json says ``released_type``; see
    ``lalm.models.classes.ReleasedFormat`` for what it must have.
    """

    name: str
    model_type: str
    module: str
    config: str
    headless: str  # subclass of AudioLMModel
    model: str  # subclass of AudioLMForConditionalGeneration
    prompts: str
    released: str = ""
    released_type: str = ""


_ROWS = (
    System(
        "acdc",
        model_type="lalm_acdc",
        module="lalm.systems.acdc.model",
        config="ACDCConfig",
        headless="ACDCModel",
        model="ACDCForConditionalGeneration",
        prompts="lalm.systems.acdc.prompts",
    ),
    System(
        "apt",
        model_type="lalm_apt",
        module="lalm.systems.apt.model",
        config="APTConfig",
        headless="APTModel",
        model="APTForConditionalGeneration",
        prompts="lalm.systems.apt.prompts",
    ),
    System(
        "qwen2-audio",
        model_type="lalm_qwen2_audio",
        module="lalm.systems.qwen2_audio.model",
        config="Qwen2AudioLMConfig",
        headless="Qwen2AudioLMModel",
        model="Qwen2AudioLM",
        prompts="lalm.systems.qwen2_audio.prompts",
        released="lalm.systems.qwen2_audio.released",
        released_type="qwen2_audio",
    ),
    System(
        "salmonn",
        model_type="lalm_salmonn",
        module="lalm.systems.salmonn.model",
        config="SALMONNConfig",
        headless="SALMONNModel",
        model="SALMONNForConditionalGeneration",
        prompts="lalm.systems.salmonn.prompts",
    ),
)
SYSTEMS = {row.name: row for row in _ROWS}


def find(name: str) -> System:
    """The system of a name. Raises UnknownSystemError."""
    if name not in SYSTEMS:
        raise UnknownSystemError(f"there is no system '{name}'; the systems are: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def of_model_type(model_type: object) -> System:
    """The system whose folders, ours or the authors', have this model_type. Raises UnknownSystemError."""
    for row in SYSTEMS.values():
        if model_type and model_type in (row.model_type, row.released_type):
            return row
    types = {row.model_type for row in SYSTEMS.values()}
    types |= {row.released_type for row in SYSTEMS.values() if row.released_type}
    raise UnknownSystemError(f"its model_type is none of {', '.join(sorted(types))}")
