"""The connection to an endpoint: requests go out so many at a time and a minute, and are repeated where that may help.

================================================  ====================================================================
what comes back                                   what is done
================================================  ====================================================================
429, 408, 409, 5xx, a timeout, no connection      sent again by the client, after growing pauses or the server's own
                                                  (``Retry-After``)
a reply that is no JSON, no UTF-8 or of no form   sent again, likewise
any other refusal (400, 413, 422, ...)            an `EndpointError`: this request is not answered
401, 402, 404, a quota that is used up            an `EndpointError` that ends the whole: no request will be answered
================================================  ====================================================================
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from persona.errors import EndpointError, ModelLoadError, needed, reason
from persona.llm.answers.streams import awaited
from persona.llm.endpoint.loop import BackgroundLoop
from persona.llm.endpoint.options import EndpointOptions

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI, OpenAIError

T = TypeVar("T")

_RETRIES, _TIMEOUT = 4, 300.0
_PAUSE, _LONGEST_PAUSE = 0.5, 8.0

_QUOTA = "insufficient_quota"
_FOR_ALL = {
    401: "refused the key (401): set OPENAI_API_KEY, for vllm: VLLM_API_KEY, or pass `api_key`",
    402: "wants to be paid first (402)",
    404: "knows no such model or address (404)",
}
"""Refusals that every request would get."""


class Connection:
    """Sends requests to an endpoint, from the loop that it runs in.

    Args:
        options: how many at a time and a minute, how often again, how long to wait.
        client: an own client, synchronous or not; None makes one from `base_url` and `api_key`.
        base_url: as the client takes it.
        api_key: as the client takes it.

    Attributes:
        url, key: the endpoint's address, as it was given, and the API key that requests are sent with.
        loop: where it runs.
        slots: one is to be held for each request under way.

    Raises:
        MissingDependencyError: if `openai` is not installed.
        ModelLoadError: if there is no key.
    """

    def __init__(
        self,
        options: EndpointOptions,
        client: OpenAI | AsyncOpenAI | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        per_minute = options.requests_per_minute
        self._pace = None if per_minute is None else _Pace(per_minute)
        self._own = client is None
        self._client = (
            _adjusted(client, options) if client is not None else _made(options, self._pace, base_url, api_key)
        )
        self.url, self.key = str(self._client.base_url), str(self._client.api_key)
        self.slots = asyncio.Semaphore(options.max_concurrency)
        # A synchronous client of somebody's own, with its proxies and certificates, is used as it is.
        self._threads = None if _asynchronous(self._client) else ThreadPoolExecutor(options.max_concurrency)
        # Not a method of this object, which would then live as long as the program.
        self.loop = BackgroundLoop(partial(_closed, self._client) if self._own else None)

    async def ask(
        self, name: str, call: Callable[[Any], Callable[..., Any]], read: Callable[[Any], T], body: Mapping[str, Any]
    ) -> T:
        """Send one request, and again where that may help.

        Args:
            name: what messages call the endpoint.
            call: gives the client's method for it.
            read: makes the result of a reply; where it raises, the reply is of no form.
            body: the request.

        Raises:
            EndpointError: if it is refused, or there is no answer.
        """
        from openai import OpenAIError

        broken: Exception | None = None
        for attempt in range(self._client.max_retries + 1):
            if attempt:
                await asyncio.sleep(min(_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
            try:
                return read(await self._sent(call(self._client), body))
            except OpenAIError as error:
                raise _failure(name, error, self._client.timeout) from error
            except (ValueError, AttributeError, LookupError, TypeError) as error:
                # The client checks neither the bytes nor the form of what comes back.
                broken = error
        detail = f": {reason(broken)}" if isinstance(broken, ValueError) else ""
        raise EndpointError(f"{name} sent no answer in OpenAI's form{detail}") from broken

    async def pieces(
        self, name: str, call: Callable[[Any], Callable[..., Any]], body: Mapping[str, Any]
    ) -> AsyncIterator[Any]:
        """The chunks of a reply that comes in pieces. What has begun to come is not asked for again.

        Arguments and errors as in `ask`.
        """
        from openai import OpenAIError

        reply = await self.ask(name, call, lambda reply: reply, {**body, "stream": True})
        try:
            async for chunk in reply if self._threads is None else awaited(iter(reply)):
                yield chunk
        except OpenAIError as error:
            raise _failure(name, error, self._client.timeout) from error
        except Exception as error:  # here the client leaves what its transport and its parser raise as it is
            raise EndpointError(f"{name} broke off its answer: {reason(error)}") from error
        finally:
            await _closed(reply)

    async def _sent(self, call: Callable[..., Any], body: Mapping[str, Any]) -> Any:
        if self._pace is not None and not self._own:
            await self._pace()
        if self._threads is None:
            return await call(**body)
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, **body))


async def _closed(client: Any) -> None:
    """Close a client or a reply, a synchronous one or not."""
    closing = client.close()
    if closing is not None:
        await closing


class _Pace:
    """Lets a number of requests a minute pass, evenly spaced."""

    def __init__(self, per_minute: float) -> None:
        self._gap, self._next = 60 / per_minute, 0.0

    async def __call__(self, request: object = None) -> None:
        now = time.monotonic()
        wait = max(0.0, self._next - now)
        self._next = now + wait + self._gap
        await asyncio.sleep(wait)


def _made(options: EndpointOptions, pace: _Pace | None, base_url: str | None, api_key: str | None) -> AsyncOpenAI:
    """A client of our own, whose every request waits for its turn, repeated ones too."""
    with needed("openai"):
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError
    retries = _RETRIES if options.retries is None else options.retries
    http_client = None if pace is None else DefaultAsyncHttpxClient(event_hooks={"request": [pace]})
    try:
        return AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=retries,
            timeout=options.timeout or _TIMEOUT,
            http_client=http_client,
        )
    except OpenAIError as error:
        raise ModelLoadError(
            "an OpenAI endpoint needs a key: set OPENAI_API_KEY or pass `api_key` (any string if the server has none)"
        ) from error


def _adjusted(client: OpenAI | AsyncOpenAI, options: EndpointOptions) -> OpenAI | AsyncOpenAI:
    """A given client with the retries and the timeout of `options`, where they are given."""
    given = {"max_retries": options.retries, "timeout": options.timeout}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return client.with_options(**changed) if changed else client


def _asynchronous(client: OpenAI | AsyncOpenAI) -> bool:
    from openai import AsyncOpenAI

    return isinstance(client, AsyncOpenAI)


def _failure(name: str, error: OpenAIError, timeout: object) -> EndpointError:
    """What the client raised, as one line that says what to do."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    if isinstance(error, APITimeoutError):
        limit = f"within {timeout:g} s" if isinstance(timeout, int | float) else "in time"
        return EndpointError(f"{name} did not answer {limit}: raise `timeout`, or lower `max_concurrency`")
    if isinstance(error, APIConnectionError):
        return EndpointError(f"{name} cannot be reached: {reason(error.__cause__ or error)}")
    if not isinstance(error, APIStatusError):
        return EndpointError(f"{name} did not answer: {reason(error)}")
    status = error.status_code
    if status == 429 and error.code == _QUOTA:
        what = "has no quota left for this key (429)"
    elif status == 429:
        what = "allows no more requests for now (429): set `requests_per_minute`"
    else:
        what = _FOR_ALL.get(status, f"refused the request ({status})" if status < 500 else f"failed ({status})")
    said = error.body.get("message") if isinstance(error.body, dict) else None
    detail = f": {' '.join(str(said or error.message).split()):.300}"
    return EndpointError(f"{name} {what}{detail}", status=status, for_all=status in _FOR_ALL or error.code == _QUOTA)
