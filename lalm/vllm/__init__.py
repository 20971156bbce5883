"""What lets ``vllm serve FOLDER`` open folders of ``lalm export --to transformers``.

vLLM finds ``register`` by the entry point ``vllm.general_plugins``. Nothing outside this folder imports vllm.
"""

CLASS = "lalm.vllm.model:HearingLLM"


def register() -> None:
    """Tell vLLM which class serves the systems of lalm, and transformers what their folders hold."""
    from vllm import ModelRegistry

    from lalm.models.assemble import SYSTEMS

    for _, _, whole, _ in SYSTEMS.values():
        ModelRegistry.register_model(whole.__name__, CLASS)
