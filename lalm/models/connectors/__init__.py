"""Connectors by name: what makes the LLM's audio tokens of an encoder's frames. See docs/connectors.md."""

from lalm.models.connectors.contract import Connector
from lalm.models.connectors.convolutional import ConvolutionalConnector
from lalm.models.connectors.instructed import InstructedQFormer
from lalm.models.connectors.queries import PerceiverConnector, QFormerConnector
from lalm.models.connectors.stacking import LinearConnector, MLPConnector, PoolingConnector, SwiGLUConnector
from lalm.systems import brought

CONNECTORS: dict[str, type[Connector]] = {
    "linear": LinearConnector,
    "mlp": MLPConnector,
    "pooling": PoolingConnector,
    "swiglu": SwiGLUConnector,
    "cnn": ConvolutionalConnector,
    "qformer": QFormerConnector,
    "instructed-qformer": InstructedQFormer,
    "perceiver": PerceiverConnector,
}


def connector_class(name: str) -> type[Connector]:
    """The connector of a name, ours or an own file's. Raises ValueError listing those there are."""
    if name not in CONNECTORS:
        for own in brought("CONNECTORS"):
            CONNECTORS.update(own)
    if name not in CONNECTORS:
        raise ValueError(
            f"there is no connector '{name}'; the connectors are: {', '.join(CONNECTORS)}; one of "
            "your own needs --code FILE"
        )
    return CONNECTORS[name]
