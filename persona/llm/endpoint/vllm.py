"""An LLM behind a vLLM server, which knows more than OpenAI's protocol: choices, log-probabilities, adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from persona.errors import GenerationError, InvalidOptionError
from persona.llm.endpoint.holding import CHOICE, GUIDED, JSON_SCHEMA
from persona.llm.endpoint.model import Asked, OpenAILM
from persona.protocols import GenerationOptions, Request


class VllmLM(OpenAILM):
    """A language model behind a vLLM server; arguments as `OpenAILM`."""

    ways = (CHOICE, GUIDED, JSON_SCHEMA)
    likelihoods = True

    def choice_scores(self, requests: Sequence[Request]) -> list[list[float] | GenerationError]:
        """Log-likelihood of each choice of each request as the whole answer, its end included, in nats.

        Raises:
            InvalidOptionError: if a request has no choices, or as in `generate`.
            UnsupportedChannelError, UnknownAdapterError: as in `generate`.
        """
        options = GenerationOptions(answers="likelihood")
        for index, request in enumerate(requests):
            if request.choices is None:
                raise InvalidOptionError(f"choices are scored where there are some: request {index} has none")
        asked = self._asked(requests, options)

        async def scores(each: Asked) -> list[float] | GenerationError:
            async with self._live.connection.slots:
                try:
                    found = await self._scores(each.model, each.request, options)
                except GenerationError as error:
                    return error
            return GenerationError(f"{self.fingerprint} gives no likelihoods of choices") if found is None else found

        async def all_scores() -> list[list[float] | GenerationError]:
            return await asyncio.gather(*map(scores, asked))

        found: dict[int, list[float] | GenerationError] = {}
        for each, some in zip(asked, self._live.connection.loop.submit(all_scores()).result(), strict=True):
            found.update(dict.fromkeys(each.indexes, some))
        return [found[index] for index in range(len(requests))]

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
