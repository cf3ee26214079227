"""An LLM behind a vLLM server, which knows more than OpenAI's protocol: choices, log-probabilities, adapters."""

from __future__ import annotations

from functools import partial
from typing import Any

from persona.llm.endpoint.holding import CHOICE, GUIDED, JSON_SCHEMA
from persona.llm.endpoint.model import OpenAILM


class VllmLM(OpenAILM):
    """A language model behind a vLLM server; arguments as `OpenAILM`."""

    ways = (CHOICE, GUIDED, JSON_SCHEMA)

    def load_adapter(self, name: str, path: str) -> None:
        """Have a vLLM server read the adapter in the PEFT folder `path`, as the server sees it, and call it `name`.

        Raises:
            GenerationError: if the server refuses it or cannot be reached.
        """
        self._post("/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        """Have a vLLM server forget an adapter; errors as in `load_adapter`."""
        self._post("/unload_lora_adapter", {"lora_name": name})

    def _post(self, path: str, body: dict[str, str]) -> None:
        what = f"{self.fingerprint}, asked for {path} of {body['lora_name']},"

        def call(client: Any) -> Any:
            return partial(client.post, path, cast_to=str)

        self._live.connection.loop.submit(self._live.connection.ask(what, call, str, {"body": body})).result()
