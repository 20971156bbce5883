"""The vLLM plugin: lets ``vllm serve FOLDER`` open folders of ``lalm export --to transformers``.

vLLM finds ``register`` by the entry point ``vllm.general_plugins``. Nothing outside this folder imports vllm.
"""

CLASS = "lalm.vllm.model:HearingLLM"


def register() -> None:
    """Tell vLLM which class serves the systems of lalm, and transformers what their folders hold."""
    from vllm import ModelRegistry

    from lalm.models.classes import register_all

    for classes in register_all().values():
        ModelRegistry.register_model(classes.model.__name__, CLASS)
