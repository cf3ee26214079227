"""What all routes share: the store, the keys, the personalizer, what answers, the limits and the numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from persona.errors import InvalidOptionError, check_positive
from persona.personalizer import Personalizer
from persona.serve.answers.backend import Backend
from persona.serve.keys import KeyStore
from persona.serve.metrics import Metrics
from persona.store.profile_store import ProfileStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Limits of a server, and what it lets in.

    Attributes:
        models: further names of models that requests may give; an upstream gets them as they are.
        origins: origins of web pages that may ask (CORS), e.g. https://chat.example.com; none by default.
        body_mb: most MiB of a request's body.
        body_seconds: most seconds until a body is there.
        answer_tokens: most tokens of an answer, and what a request without a limit gets, as far as the LLM allows.
        rows: most answers that the engine writes at a time.
        waiting: most requests that wait for the engine; more are refused with 429.
        drain_seconds: how long requests under way may go on after the server was told to stop.

    Raises:
        InvalidOptionError: if a number is not above 0.
    """

    models: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_mb: float = 16.0
    body_seconds: float = 30.0
    answer_tokens: int = 1024
    rows: int = 16
    waiting: int = 256
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_positive(body_mb=self.body_mb, body_seconds=self.body_seconds, drain_seconds=self.drain_seconds)
        check_positive(answer_tokens=self.answer_tokens, rows=self.rows, waiting=self.waiting)
        for origin in self.origins:
            if not origin.startswith(("http://", "https://")) or origin.endswith("/"):
                raise InvalidOptionError(f"an origin is like https://chat.example.com, was: {origin!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What all routes share, as ``request.app.state.persona``.

    Attributes:
        store: the users' records.
        keys: who may ask for what.
        personalizer: makes requests personal.
        backend: answers them.
        options: limits.
        metrics: what is counted.
    """

    store: ProfileStore
    keys: KeyStore
    personalizer: Personalizer
    backend: Backend
    options: ServerOptions = field(default_factory=ServerOptions)
    metrics: Metrics = field(default_factory=Metrics)
