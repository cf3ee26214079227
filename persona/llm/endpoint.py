"""An LLM behind an endpoint that speaks OpenAI's protocol: OpenAI itself, vLLM, and many others.

>>> llm = OpenAILM("llama-3", base_url="http://127.0.0.1:8000/v1", api_key="-")
>>> llm.generate([Request("Say hello.")], GenerationOptions(16))

Needs the extra `openai`. Answers are asked for with temperature 0 and a fixed seed, which makes them repeatable as far
as the server keeps to that; whether they depend on what else the server computes is the server's affair.

**Soft prompts** go to a vLLM server started with ``--enable-prompt-embeds``, in the form that vLLM documents: a
float tensor of the shape (tokens, hidden), written by `torch.save` and encoded in base64. The chat endpoint takes it as
a part of a message, beside the text. The completions endpoint takes embeddings of the whole prompt, so there the text
has to be embedded here, by `embed`.

**Adapters** are models of their own to a vLLM server that was started with ``--enable-lora``: a request with an adapter
names it in the place of the model, by the name that `lora` gives (`persona.adapters.served`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from persona.errors import GenerationError, InvalidOptionError, MissingDependencyError, ModelLoadError, reason
from persona.llm.checks import check_options, check_requests, check_soft_prompt
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.protocols import ADAPTER, SOFT_PROMPT, TEXT, GenerationOptions, Request, TextTokenizer

if TYPE_CHECKING:
    import torch
    from openai import OpenAI

_OPENAI_HOST = "api.openai.com"

Endpoint = Literal["chat", "completions"]
Place = Literal["before", "after"]


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
        system: text of the system's turn, or before the prompt at the completions endpoint; None sends none.
        hidden_size: length of the served LLM's input embeddings. With it soft prompts are taken: the server must be a
            vLLM that was started with ``--enable-prompt-embeds``. One of another length is refused here, because it
            can crash that server.
        soft_prompt: whether a soft prompt stands ``"before"`` or ``"after"`` the system's text. Without such a text it
            stands before the prompt.
        serves: fingerprint of the LLM behind the endpoint (`TransformersLM.fingerprint`), by which user embedders know
            the LLM that they were trained with; it cannot be read off a server.
        embed: gives the input embeddings of a text, special tokens and all, for soft prompts at the completions
            endpoint.  # -> (tokens, hidden_size)
        lora: gives the server's name of an adapter ``user@version``. With it requests with adapters are taken.

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
        system: str | None = None,
        hidden_size: int | None = None,
        soft_prompt: Place = "before",
        serves: str | None = None,
        embed: Callable[[str], torch.Tensor] | None = None,
        lora: Callable[[str], str] | None = None,
    ) -> None:
        if not model:
            raise InvalidOptionError("the model's name at the endpoint must not be empty: openai:MODEL")
        if endpoint not in ("chat", "completions"):
            raise InvalidOptionError(f"`endpoint` must be chat or completions, was: {endpoint!r}")
        if max_concurrency < 1:
            raise InvalidOptionError(f"`max_concurrency` must be at least 1, was: {max_concurrency}")
        if soft_prompt not in ("before", "after"):
            raise InvalidOptionError(f"`soft_prompt` must be before or after, was: {soft_prompt!r}")
        if hidden_size is not None and endpoint == "completions" and embed is None:
            raise InvalidOptionError(
                "soft prompts at the completions endpoint need `embed`, which makes the text's own embeddings; "
                "the chat endpoint takes soft prompts beside text"
            )
        if client is not None and (base_url is not None or api_key is not None):
            raise InvalidOptionError("give a client, or `base_url` and `api_key` to make one, not both")
        self._model = model
        self._client = client or _client(base_url, api_key)
        self._endpoint = endpoint
        self._seed = seed
        self._max_concurrency = max_concurrency
        self._fields = dict(fields or {})
        self._tokenizer = tokenizer or WhitespaceTokenizer()
        self._system = system
        self._hidden_size = hidden_size
        self._soft_prompt_first = soft_prompt == "before"
        self._embed = embed
        self._lora = lora
        self.serves = serves

    @property
    def channels(self) -> frozenset[str]:
        """Text, soft prompts where `hidden_size` is given, and adapters where `lora` is."""
        given = ((SOFT_PROMPT, self._hidden_size), (ADAPTER, self._lora))
        return frozenset({TEXT, *(channel for channel, how in given if how is not None)})

    @property
    def fingerprint(self) -> str:
        """``openai:MODEL@URL``; the weights behind an endpoint cannot be seen."""
        return f"openai:{self._model}@{str(self._client.base_url).rstrip('/')}"

    @property
    def settings(self) -> dict[str, object]:
        """What besides the model and a request decides an answer."""
        return {
            "endpoint": self._endpoint,
            "seed": self._seed,
            "fields": self._fields,
            "system": self._system,
            "soft_prompt": "before" if self._soft_prompt_first else "after",
        }

    @property
    def tokenizer(self) -> TextTokenizer:
        """Measures prompts, or estimates them."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`. Equal prompts are asked once.

        Raises:
            UnsupportedChannelError: if a request brings more than is taken here.
            UnknownAdapterError: if `lora` knows no adapter of that name.
            InvalidOptionError: if `options` asks for beams, or a soft prompt has the wrong shape.
            GenerationError: if the endpoint refuses a request, cannot be reached, or answers without text.
        """
        check_options(options, only_text=self.fingerprint)
        check_requests(requests, self)
        for index, request in enumerate(requests):
            if request.soft_prompt is not None:
                check_soft_prompt(request.soft_prompt, self._hidden_size, self.fingerprint, index)
        # Named before anything is sent: nobody is answered by the plain model because an adapter is gone.
        models = [self._model_of(request) for request in requests]
        # Equal prompts are one question; a soft prompt is never taken for equal to another.
        keys = [
            (request.prompt, model, None if request.soft_prompt is None else index)
            for index, (request, model) in enumerate(zip(requests, models, strict=True))
        ]
        different = dict(zip(keys, requests, strict=True))
        if not different:
            return []
        with ThreadPoolExecutor(min(self._max_concurrency, len(different))) as pool:
            futures = {key: pool.submit(self._answer, key[1], request, options) for key, request in different.items()}
            try:
                answers = {key: future.result() for key, future in futures.items()}
            except GenerationError:
                for future in futures.values():  # What has not been sent yet would only fail, or cost, too.
                    future.cancel()
                raise
        return [answers[key] for key in keys]

    def load_adapter(self, name: str, path: str) -> None:
        """Have a vLLM server read an adapter, at ``/v1/load_lora_adapter``.

        Args:
            name: what it is to be called.
            path: its PEFT folder, as the server sees it.

        Raises:
            GenerationError: if the server refuses it or cannot be reached.
        """
        self._post("/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        """Have a vLLM server forget an adapter, at ``/v1/unload_lora_adapter``; errors as in `load_adapter`."""
        self._post("/unload_lora_adapter", {"lora_name": name})

    def _post(self, path: str, body: dict[str, str]) -> None:
        from openai import OpenAIError

        try:
            self._client.post(path, cast_to=str, body=body)
        except OpenAIError as error:
            raise GenerationError(
                f"{self.fingerprint} refused {path} for {body['lora_name']}: {reason(error)}"
            ) from error

    def _model_of(self, request: Request) -> str:
        return self._model if request.adapter is None or self._lora is None else self._lora(request.adapter)

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        """The chat's turns; a soft prompt is a part of the first one."""
        turns = [("system", self._system)] if self._system is not None else []
        turns.append(("user", request.prompt))
        messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
        if request.soft_prompt is not None:
            from persona.llm.inputs import message_parts

            first = self._soft_prompt_first or self._system is None
            messages[0]["content"] = message_parts(request.soft_prompt, messages[0]["content"], first=first)
        return messages

    def _completion(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The prompt of the completions endpoint, and the fields that go with it."""
        system = "" if self._system is None else f"{self._system}\n\n"
        if request.soft_prompt is None:
            return system + request.prompt, {}
        from persona.llm.inputs import embedded_prompt, wire_format

        assert self._embed is not None
        # Embedded in one go, so that the text has the tokens that it has without a soft prompt.
        text = self._embed(system + request.prompt)
        at = 0 if self._soft_prompt_first or not system else len(self._embed(system))
        whole = embedded_prompt(request.soft_prompt, text, at)
        # The server wants a prompt beside the embeddings; an empty one adds nothing.
        return "", {"extra_body": {"prompt_embeds": wire_format(whole)}}

    def _answer(self, model: str, request: Request, options: GenerationOptions) -> str:
        from openai import OpenAIError

        own_host = _OPENAI_HOST in str(self._client.base_url)
        # OpenAI's newer models know the new name only, other servers often the old one only.
        limit = "max_completion_tokens" if own_host and self._endpoint == "chat" else "max_tokens"
        fields: dict[str, Any] = {"temperature": 0, "seed": self._seed, limit: options.max_new_tokens, **self._fields}
        fields = {name: value for name, value in fields.items() if value is not None}
        try:
            if self._endpoint == "completions":
                prompt, embeddings = self._completion(request)
                answer = self._client.completions.create(model=model, prompt=prompt, **fields, **embeddings)
                text = answer.choices[0].text
            else:
                messages: Any = self._messages(request)
                chat = self._client.chat.completions.create(model=model, messages=messages, **fields)
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
