"""An LLM behind an endpoint that speaks OpenAI's protocol: OpenAI itself, vLLM, and many others.

>>> from persona.llm.load import load_llm
>>> load_llm("vllm:llama-3@http://127.0.0.1:8000/v1", system="Be brief.")
OpenAILM('llama-3', base_url='http://127.0.0.1:8000/v1/')

Needs the extra `openai`. Answers are asked for with temperature 0 and a fixed seed; how far that makes them repeatable
is up to the server.

**Soft prompts** go to a vLLM server started with ``--enable-prompt-embeds`` (`persona.llm.inputs`). The chat endpoint
takes one as a part of a message, beside the text. The completions endpoint takes embeddings of the whole prompt, so the
text has to be embedded here, by `EndpointOptions.embed`.

**Adapters** are models of their own to a vLLM server that was started with ``--enable-lora``: a request with an adapter
names it in the place of the model (`persona.adapters.serving.vllm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from persona.errors import GenerationError, InvalidOptionError, MissingDependencyError, ModelLoadError, reason
from persona.llm.checks import check_options, check_requests, check_soft_prompt
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.protocols import ADAPTER, SOFT_PROMPT, TEXT, GenerationOptions, Request, TextTokenizer

if TYPE_CHECKING:
    import torch
    from openai import OpenAI

_OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """What is asked of an endpoint, and what the server can take.

    Attributes:
        endpoint: ``"chat"`` sends the prompt as one user turn; ``"completions"`` sends it bare, for base models.
        seed: handed to the server; None sends none.
        max_concurrency: most requests at the same time, at least 1.
        fields: further fields of the request, which replace persona's own; None as a value takes a field out
            (``{"temperature": None}`` for models that refuse one).
        tokenizer: measures prompts; None estimates by words.
        system: text of the system's turn, or before the prompt at the completions endpoint; None sends none.
        hidden_size: length of the served LLM's input embeddings. With it soft prompts are taken. One of another length
            is refused here, because it can crash a vLLM server.
        soft_prompt: whether a soft prompt stands ``"before"`` or ``"after"`` the system's text. Without such a text it
            stands before the prompt.
        embed: gives the input embeddings of a text, special tokens and all, for soft prompts at the completions
            endpoint.  # -> (tokens, hidden_size)
        serves: fingerprint of the LLM behind the endpoint (`TransformersLM.fingerprint`), by which user embedders know
            the LLM that they were trained with; it cannot be read off a server.
        adapter_name: gives the server's name of an adapter ``user@version``. With it requests with adapters are taken.

    Raises:
        InvalidOptionError: if an option is out of its range.
    """

    endpoint: Literal["chat", "completions"] = "chat"
    seed: int | None = 0
    max_concurrency: int = 8
    fields: Mapping[str, object] = field(default_factory=dict)
    tokenizer: TextTokenizer | None = None
    system: str | None = None
    hidden_size: int | None = None
    soft_prompt: Literal["before", "after"] = "before"
    embed: Callable[[str], torch.Tensor] | None = None
    serves: str | None = None
    adapter_name: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        if self.endpoint not in ("chat", "completions"):
            raise InvalidOptionError(f"`endpoint` must be chat or completions, was: {self.endpoint!r}")
        if self.max_concurrency < 1:
            raise InvalidOptionError(f"`max_concurrency` must be at least 1, was: {self.max_concurrency}")
        if self.soft_prompt not in ("before", "after"):
            raise InvalidOptionError(f"`soft_prompt` must be before or after, was: {self.soft_prompt!r}")
        if self.hidden_size is not None and self.endpoint == "completions" and self.embed is None:
            raise InvalidOptionError(
                "soft prompts at the completions endpoint need `embed`, which makes the text's own embeddings; "
                "the chat endpoint takes soft prompts beside text"
            )


class OpenAILM:
    """A language model that is reached through an `openai.OpenAI` client.

    Args:
        model: the model's name at the endpoint.
        options: how to ask.
        client: the client, with its own timeout and retries; None makes one from `base_url` and `api_key`.
        base_url: e.g. ``"http://127.0.0.1:8000/v1"``; None takes `OPENAI_BASE_URL`, else OpenAI itself.
        api_key: None takes `OPENAI_API_KEY`.

    Raises:
        MissingDependencyError: if `openai` is not installed.
        ModelLoadError: if there is no key.
        InvalidOptionError: if the model has no name, or `client` and the means to make one are both given.
    """

    def __init__(
        self,
        model: str,
        options: EndpointOptions | None = None,
        *,
        client: OpenAI | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if not model:
            raise InvalidOptionError("the model's name at the endpoint must not be empty: openai:MODEL")
        if client is not None and (base_url is not None or api_key is not None):
            raise InvalidOptionError("give a client, or `base_url` and `api_key` to make one, not both")
        self._model = model
        self._options = options or EndpointOptions()
        self._client = client or _client(base_url, api_key)

    @property
    def channels(self) -> frozenset[str]:
        """Text, soft prompts where `hidden_size` is given, and adapters where `adapter_name` is."""
        given = ((SOFT_PROMPT, self._options.hidden_size), (ADAPTER, self._options.adapter_name))
        return frozenset({TEXT, *(way for way, option in given if option is not None)})

    @property
    def fingerprint(self) -> str:
        """``openai:MODEL@URL``; the weights behind an endpoint cannot be seen."""
        return f"openai:{self._model}@{str(self._client.base_url).rstrip('/')}"

    @property
    def serves(self) -> str | None:
        """Fingerprint of the LLM behind the endpoint, as it was given."""
        return self._options.serves

    @property
    def settings(self) -> dict[str, object]:
        """What besides the model and a request decides an answer."""
        names = ("endpoint", "seed", "fields", "system", "soft_prompt")
        return {name: getattr(self._options, name) for name in names}

    @property
    def tokenizer(self) -> TextTokenizer:
        """Measures prompts, or estimates them."""
        return self._options.tokenizer or WhitespaceTokenizer()

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`. Equal prompts are asked once.

        Raises:
            UnsupportedChannelError: if a request brings more than is taken here.
            UnknownAdapterError: if `adapter_name` knows no adapter of that name.
            InvalidOptionError: if `options` asks for beams, or a soft prompt has the wrong shape.
            GenerationError: if the endpoint refuses a request, cannot be reached, or answers without text.
        """
        answers = dict(self.generate_each(requests, options))
        return [answers[index] for index in range(len(requests))]

    def generate_each(self, requests: Sequence[Request], options: GenerationOptions) -> Iterator[tuple[int, str]]:
        """Index and answer of each request, in the order in which they arrive; errors as in `generate`.

        After a failure nothing more is sent; what was under way and is answered still comes before the error.
        """
        check_options(options, only_text=self.fingerprint)
        check_requests(requests, self)
        # Adapters are named before anything is sent: nobody is answered by the plain model because one is gone.
        asked: dict[tuple[str, str, int | None], list[int]] = {}
        for index, request in enumerate(requests):
            if request.soft_prompt is not None:
                check_soft_prompt(request.soft_prompt, self._options.hidden_size, self.fingerprint, index)
            # Equal prompts are one question; a soft prompt is never taken for equal to another.
            key = (request.prompt, self._model_of(request), None if request.soft_prompt is None else index)
            asked.setdefault(key, []).append(index)
        if not asked:
            return
        failure: GenerationError | None = None
        with ThreadPoolExecutor(min(self._options.max_concurrency, len(asked))) as pool:
            futures = {
                pool.submit(self._answer, key[1], requests[indexes[0]], options): indexes
                for key, indexes in asked.items()
            }
            try:
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    try:
                        text = future.result()
                    except GenerationError as error:
                        failure = failure or error
                        # What has not been sent yet would only fail, or cost, too.
                        _cancel(futures)
                    else:
                        yield from ((index, text) for index in futures[future])
            finally:
                _cancel(futures)
        if failure is not None:
            raise failure

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
        from openai import OpenAIError

        try:
            self._client.post(path, cast_to=str, body=body)
        except OpenAIError as error:
            raise GenerationError(
                f"{self.fingerprint} refused {path} for {body['lora_name']}: {reason(error)}"
            ) from error

    def _model_of(self, request: Request) -> str:
        adapter_name = self._options.adapter_name
        return self._model if request.adapter is None or adapter_name is None else adapter_name(request.adapter)

    @property
    def _soft_prompt_first(self) -> bool:
        return self._options.soft_prompt == "before" or self._options.system is None

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        """The chat's turns; a soft prompt is a part of the first one."""
        system = self._options.system
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": request.prompt})
        if request.soft_prompt is not None:
            from persona.llm.inputs import message_parts

            parts = message_parts(request.soft_prompt, messages[0]["content"], first=self._soft_prompt_first)
            messages[0]["content"] = parts
        return messages

    def _completion(self, request: Request) -> dict[str, Any]:
        """The fields of a completion's prompt."""
        system = "" if self._options.system is None else f"{self._options.system}\n\n"
        if request.soft_prompt is None:
            return {"prompt": system + request.prompt}
        from persona.llm.inputs import embedded_prompt, wire_format

        assert self._options.embed is not None
        # Embedded in one go, so that the text has the tokens that it has without a soft prompt.
        text = self._options.embed(system + request.prompt)
        at = 0 if self._soft_prompt_first else len(self._options.embed(system))
        whole = embedded_prompt(request.soft_prompt, text, at)
        # The server wants a prompt beside the embeddings; an empty one adds nothing.
        return {"prompt": "", "extra_body": {"prompt_embeds": wire_format(whole)}}

    def _answer(self, model: str, request: Request, options: GenerationOptions) -> str:
        from openai import OpenAIError

        chat = self._options.endpoint == "chat"
        # OpenAI's newer models know the new name only, other servers often the old one only.
        limit = "max_completion_tokens" if chat and _OPENAI_HOST in str(self._client.base_url) else "max_tokens"
        fields: dict[str, Any] = {"temperature": 0, "seed": self._options.seed, limit: options.max_new_tokens}
        fields = {name: value for name, value in {**fields, **self._options.fields}.items() if value is not None}
        try:
            text: object
            if chat:
                messages: Any = self._messages(request)
                turn = self._client.chat.completions.create(model=model, messages=messages, **fields)
                text = turn.choices[0].message.content
            else:
                completion = self._client.completions.create(model=model, **self._completion(request), **fields)
                text = completion.choices[0].text
        except OpenAIError as error:
            raise GenerationError(f"{self.fingerprint} did not answer: {reason(error)}") from error
        except (AttributeError, IndexError, TypeError) as error:
            # The client does not check the form of what comes back.
            raise GenerationError(f"{self.fingerprint} sent no answer in OpenAI's form") from error
        if not isinstance(text, str):
            raise GenerationError(
                f"{self.fingerprint} answered without text: a model that thinks may need a higher `max_new_tokens`, "
                f"was: {options.max_new_tokens}"
            )
        return text

    def __repr__(self) -> str:
        return f"OpenAILM({self._model!r}, base_url={str(self._client.base_url)!r})"


def _cancel(futures: Iterable[Future[str]]) -> None:
    for future in futures:
        future.cancel()


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
