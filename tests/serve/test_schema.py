"""Schemathesis asks what the OpenAPI document allows and what it does not; the answers keep to the document.

More than here: ``schemathesis run http://127.0.0.1:8000/openapi.json -c all
--exclude-checks positive_data_acceptance`` (no schema tells sound from noise).
"""

import hypothesis
import pytest
import schemathesis
from hypothesis import given
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

PATHS = ["/health", "/metrics", "/v1/models", "/v1/models/{name}"]
PATHS += [
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/audio/detections",
    "/v1/chat/completions",
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda m: m.value)
def test_answers_keep_to_the_document(serve, mode):
    document = schemathesis.openapi.from_url(f"{serve()}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert {operation.path for operation in operations} >= set(PATHS)
    asked = {operation.path: 0 for operation in operations}
    excluded = [CHECKS.get_one("positive_data_acceptance")]

    @hypothesis.settings(
        max_examples=6,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[*hypothesis.HealthCheck],
    )
    @given(data=hypothesis.strategies.data())
    def ask(data):
        case = data.draw(strategy)
        asked[case.operation.path] += 1
        case.call_and_validate(excluded_checks=excluded)

    for operation in operations:
        strategy = operation.as_strategy(generation_mode=mode)
        try:
            ask()
        except hypothesis.errors.Unsatisfiable:  # what takes nothing cannot be asked wrongly
            assert mode is GenerationMode.NEGATIVE and operation.method.upper() == "GET"
    assert min(asked[path] for path in PATHS[4:]) >= 6
