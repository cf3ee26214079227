"""Whatever fits the OpenAPI description, and whatever does not, is answered: never with a 5xx, always as described."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from persona.serve.app import app_of
from tests.serve.conftest import Serve, Upstream, answer, chunks, replies, streams

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
TRIES = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def _in_the_form_that_was_asked_for(handler: Any) -> None:
    streamed = handler.asked.get("stream")
    (streams(*chunks("hello")) if streamed else replies(answer("hello")))(handler)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize("behind", ["engine", "upstream"])
def test_every_request_is_answered_as_described(
    behind: str, mode: GenerationMode, serve: Serve, upstream: Upstream
) -> None:
    llm = "tiny" if behind == "engine" else f"openai:gpt@{upstream.url}"
    state = serve.open(llm, endpoint={} if behind == "engine" else {"api_key": "k"})
    schema: Any = schemathesis.openapi.from_asgi("/openapi.json", app_of(state))
    upstream.behaviour = _in_the_form_that_was_asked_for
    secret, _ = state.keys.make("schemathesis", ("admin",))
    tried = set()
    for operation in (found.ok() for found in schema.get_all_operations()):
        if operation.path == "/v1/responses":
            continue  # its only answer is 501, on purpose
        if behind == "upstream" and operation.path != "/v1/chat/completions":
            continue

        @TRIES
        @given(operation.as_strategy(generation_mode=mode))
        def asked(case: Any) -> None:
            case.headers["Authorization"] = f"Bearer {secret}"
            case.call_and_validate(checks=CHECKS)

        with suppress(Unsatisfiable):  # a request without parameters cannot be wrong
            asked()
            tried.add(operation.label)
    assert len(tried) >= (1 if behind == "upstream" else 12)
