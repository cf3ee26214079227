"""Chat, completions and models, as OpenAI's clients ask for them."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from persona.serve.access import caller
from persona.serve.answers.backend import Call
from persona.serve.answers.shapes import ChatBody, ChatCompletion, Completion, CompletionBody, Model, ModelList
from persona.serve.errors import ApiError, described
from persona.serve.keys import ApiKey
from persona.serve.state import ServerState

router = APIRouter(tags=["answers"])
_ERRORS = described(400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504)
_KEY = described(401, 403, 503)
_STREAM: dict[str, dict[str, object]] = {"text/event-stream": {}}  # chunks, and at the end `[DONE]`
_ANSWERED = {**_ERRORS, 200: {"content": _STREAM, "description": "The answer; in pieces with `stream`."}}

Asking = Annotated[ApiKey, Depends(caller)]


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=_ANSWERED)
async def chat(request: Request, body: ChatBody, asking: Asking) -> Response:
    """Continue a conversation, as if the LLM knew the user."""
    return await _answered(request, body, asking)


@router.post("/v1/completions", response_model=Completion, responses=_ANSWERED)
async def completion(request: Request, body: CompletionBody, asking: Asking) -> Response:
    """Answer one prompt, as if the LLM knew the user."""
    return await _answered(request, body, asking)


@router.get("/v1/models", responses=_KEY)
async def models(request: Request, asking: Asking) -> ModelList:
    """The models that a request may name."""
    asking.check("ask")
    state: ServerState = request.app.state.persona
    return ModelList(data=[Model(id=name) for name in state.backend.models])


@router.get("/v1/models/{name:path}", responses={**_KEY, **described(404)})
async def model(request: Request, name: str, asking: Asking) -> Model:
    """One of the models."""
    asking.check("ask")
    return Model(id=_model(request.app.state.persona, name))


@router.post("/v1/responses", status_code=501, responses=described(401, 403, 501, 503))
async def responses(asking: Asking) -> None:
    """Not served: a response is kept on the server and continued by its id, and this server keeps no conversation."""
    asking.check("ask")
    raise ApiError(
        501,
        "/v1/responses keeps conversations on the server, and this server keeps none: use /v1/chat/completions "
        "(LangChain's ChatOpenAI: use_responses_api=False)",
        code="not_implemented",
    )


async def _answered(request: Request, body: ChatBody | CompletionBody, asking: ApiKey) -> Response:
    asking.check("ask")
    state: ServerState = request.app.state.persona
    call = Call(
        request=request,
        caller=asking,
        user_id=asking.user(body.user),
        body=body,
        raw=await request.json(),
        model=_model(state, body.model),
        began=perf_counter(),
    )
    return await state.backend.answer(call)


def _model(state: ServerState, name: str | None) -> str:
    """The model of that name; a request names no other, and so no adapter of anybody's."""
    names = state.backend.models
    if name is None:
        return names[0]
    if name not in names:
        known = ", ".join(names)
        raise ApiError(404, f"`model` must be one of {known}, was: {name!r:.80}", code="model_not_found", param="model")
    return name
