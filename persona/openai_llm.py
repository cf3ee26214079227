"""An LLM behind an endpoint that speaks OpenAI's protocol: OpenAI itself, vLLM, and many others.

>>> llm = OpenAILM("llama-3", base_url="http://127.0.0.1:8000/v1", api_key="-")
>>> llm.generate([Request("Say hello.")], GenerationOptions(16))

Needs the extra `openai`. Answers are asked for with temperature 0 and a fixed seed, which makes them repeatable as far
as the server keeps to that; whether they depend on what else the server computes is the server's affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from persona.errors import GenerationError, InvalidOptionError, MissingDependencyError, ModelLoadError
from persona.protocols import TEXT, GenerationOptions, Request, TextTokenizer
from persona.reasons import reason
from persona.request_checks import check_options, check_requests
from persona.tokenizers import WhitespaceTokenizer

if TYPE_CHECKING:
    from openai import OpenAI

_OPENAI_HOST = "api.openai.com"

Endpoint = Literal["chat", "completions"]


class OpenAILM:
    """See the module.

    Args:
        model: the model's name at the endpoint.
        client: an `openai.OpenAI`, with its own timeout and retries; None makes one from `base_url` and `api_key`.
        base_url: e.g. ``"http://127.0.0.1:8000/v1"``; None takes `OPENAI_BASE_URL`, else OpenAI itself.
        api_key: None takes `OPENAI_API_KEY`.
        endpoint: ``"chat"`` sends the prompt as one user turn; ``"completions"`` sends it bare, for base models.
        seed: handed to the server; None sends none.
        max_concurrency: most requests at the same time, at least 1.
        fields: further fields of the request, which replace this class's own; None as a value takes a field out
            (``{"temperature": None}`` for models that refuse one).
        tokenizer: measures prompts; None estimates by words.

    Raises:
        MissingDependencyError: if `openai` is not installed.
        ModelLoadError: if there is no key.
        InvalidOptionError: if an option is out of its range.
    """

    def __init__(
        self,
        model: str,
        *,
        client: OpenAI | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        endpoint: Endpoint = "chat",
        seed: int | None = 0,
        max_concurrency: int = 8,
        fields: Mapping[str, object] | None = None,
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        if not model:
            raise InvalidOptionError("the model's name at the endpoint must not be empty: openai:MODEL")
        if endpoint not in ("chat", "completions"):
            raise InvalidOptionError(f"`endpoint` must be chat or completions, was: {endpoint!r}")
        if max_concurrency < 1:
            raise InvalidOptionError(f"`max_concurrency` must be at least 1, was: {max_concurrency}")
        if client is not None and (base_url is not None or api_key is not None):
            raise InvalidOptionError("give a client, or `base_url` and `api_key` to make one, not both")
        self._model = model
        self._client = client or _client(base_url, api_key)
        self._endpoint = endpoint
        self._seed = seed
        self._max_concurrency = max_concurrency
        self._fields = dict(fields or {})
        self._tokenizer = tokenizer or WhitespaceTokenizer()

    @property
    def channels(self) -> frozenset[str]:
        """Text."""
        return frozenset({TEXT})

    @property
    def fingerprint(self) -> str:
        """``openai:MODEL@URL``; the weights behind an endpoint cannot be seen."""
        return f"openai:{self._model}@{str(self._client.base_url).rstrip('/')}"

    @property
    def tokenizer(self) -> TextTokenizer:
        """Measures prompts, or estimates them."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`. Equal prompts are asked once.

        Raises:
            UnsupportedChannelError: if a request brings more than text.
            InvalidOptionError: if `options` asks for beams.
            GenerationError: if the endpoint refuses a request, cannot be reached, or answers without text.
        """
        check_options(options, max_beams=1, llm=self.fingerprint)
        check_requests(requests, self.channels, self.fingerprint)
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        if not prompts:
            return []
        with ThreadPoolExecutor(min(self._max_concurrency, len(prompts))) as pool:
            futures = [pool.submit(self._answer, prompt, options) for prompt in prompts]
            try:
                answers = {prompt: future.result() for prompt, future in zip(prompts, futures, strict=True)}
            except GenerationError:
                for future in futures:  # What has not been sent yet would only fail, or cost, too.
                    future.cancel()
                raise
        return [answers[request.prompt] for request in requests]

    def _answer(self, prompt: str, options: GenerationOptions) -> str:
        from openai import OpenAIError

        own_host = _OPENAI_HOST in str(self._client.base_url)
        # OpenAI's newer models know the new name only, other servers often the old one only.
        limit = "max_completion_tokens" if own_host and self._endpoint == "chat" else "max_tokens"
        fields: dict[str, Any] = {"temperature": 0, "seed": self._seed, limit: options.max_new_tokens, **self._fields}
        fields = {name: value for name, value in fields.items() if value is not None}
        try:
            if self._endpoint == "completions":
                text = self._client.completions.create(model=self._model, prompt=prompt, **fields).choices[0].text
            else:
                messages: Any = [{"role": "user", "content": prompt}]
                chat = self._client.chat.completions.create(model=self._model, messages=messages, **fields)
                text = chat.choices[0].message.content
        except OpenAIError as error:
            raise GenerationError(f"{self.fingerprint} did not answer: {reason(error)}") from error
        except (AttributeError, IndexError, TypeError) as error:
            # The client does not check the form of what comes back.
            raise GenerationError(f"{self.fingerprint} sent no answer in OpenAI's form") from error
        if not isinstance(text, str):
            raise GenerationError(f"{self.fingerprint} answered without text; with a limit too short for its thinking?")
        return text

    def __repr__(self) -> str:
        return f"OpenAILM({self._model!r}, base_url={str(self._client.base_url)!r})"


def _client(base_url: str | None, api_key: str | None) -> OpenAI:
    try:
        from openai import OpenAI, OpenAIError
    except ImportError as error:
        raise MissingDependencyError(
            "an OpenAI-compatible endpoint needs the package openai: pip install 'persona-llm[openai]'"
        ) from error
    try:
        return OpenAI(base_url=base_url, api_key=api_key)
    except OpenAIError as error:
        raise ModelLoadError(
            "an OpenAI endpoint needs a key: set OPENAI_API_KEY or pass `api_key` (any string if the server has none)"
        ) from error
