"""The door to language models: `load_llm` makes a `LanguageModel` of whatever a user has for an LLM.

>>> from persona.protocols import GenerationOptions, Request
>>> load_llm("tiny").fingerprint
'tiny@...:float32'
>>> load_llm(str.upper).generate([Request("Once upon a time")], GenerationOptions())
['ONCE UPON A TIME']

What it takes, and where each kind lives:

===============================================  ==============================
a folder, a hub id, ``"tiny"``, ``"smollm2"``    `persona.llm.transformers`
a GGUF file, ``"owner/name:file.gguf"``          `persona.llm.weights.gguf`
``(model, tokenizer)``, a transformers pipeline  `persona.llm.transformers`
a LangChain runnable or chat model               `persona.llm.plain`
a function from string to string                 `persona.llm.plain`
``"openai:MODEL"``, ``"openai:MODEL@URL"``       `persona.llm.endpoint`
``"vllm:MODEL"``, ``"vllm:MODEL@URL"``           `persona.llm.endpoint`
an ``openai`` client with ``model=``             `persona.llm.endpoint`
===============================================  ==============================

``URL`` starts with ``http://`` or ``https://`` and usually ends in ``/v1``. Without one, ``openai:`` asks OpenAI (or
`OPENAI_BASE_URL`) with the key in `OPENAI_API_KEY`, and ``vllm:`` a server on this machine's port 8000, with the key
in `VLLM_API_KEY` if there is one.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from persona.errors import InvalidOptionError, ModelLoadError
from persona.protocols import LanguageModel

if TYPE_CHECKING:
    from persona.llm.endpoint.model import OpenAILM
    from persona.llm.transformers import TransformersLM
    from persona.llm.weights.gguf import Source

TINY = "tiny"
"""The name of the embedded LLM, which knows the requests of the generated world."""

_ACCEPTED = (
    "a folder, a hub id, a GGUF file, 'smollm2', 'tiny', 'openai:MODEL[@URL]', 'vllm:MODEL[@URL]', a transformers "
    "(model, tokenizer) or pipeline, a LangChain runnable, an openai.OpenAI client, a function from string to string, "
    "or a LanguageModel"
)
_URI = re.compile(r"(?P<kind>openai|vllm):(?P<model>.*?)(?:@(?P<url>https?://\S+))?")
_ADDRESS = re.compile(r"^[^@/]+:\d+(/|$)|^localhost(/|$)|/v1/?$")
_VLLM_URL = "http://127.0.0.1:8000/v1"
_MEMBERS = ("channels", "fingerprint", "tokenizer", "generate")
_FOLDER_OPTIONS = ("device", "dtype", "quantize", "revision")
_CLIENT_OPTIONS = ("client", "base_url", "api_key")


def load_llm(llm: object, **options: Any) -> LanguageModel:
    """A `LanguageModel` of `llm`.

    Args:
        llm: see the module. A `LanguageModel` is returned as it is.
        **options: what the kind takes: fields of `TransformersOptions` (for files also ``device``, ``dtype`` and
            ``quantize``, see `persona.llm.checkpoint.load_folder`, and the hub's ``revision``), of `RunnableLM` or
            `CallableLM`, or fields of `EndpointOptions` with ``client``, or ``base_url`` and ``api_key``. ``overlong``
            may be given for every kind; it has no effect where prompts are limited by rules that are not persona's.

    Raises:
        InvalidOptionError: if `llm` is of no known kind, or an option is unknown to its kind or out of range.
        ModelLoadError: if the model cannot be loaded.
        MissingDependencyError: if a package is missing (`openai`).
    """
    if isinstance(llm, str) and (uri := _URI.fullmatch(llm)):
        options.pop("overlong", None)
        return _from_uri(uri, options)
    if llm == "":
        raise InvalidOptionError(f"an LLM must be {_ACCEPTED}; was: an empty string")
    if isinstance(llm, (str, Path)):
        return _from_files(llm, options)
    if isinstance(llm, (tuple, list)) and len(llm) == 2:
        return _from_pair(llm[0], llm[1], options)
    if _is_a(llm, "transformers.pipelines.base", "Pipeline"):
        pipeline = cast(Any, llm)
        return _from_pair(pipeline.model, pipeline.tokenizer, options)
    options.pop("overlong", None)
    if _is_language_model(llm):
        _check_options("a LanguageModel", options, ())
        return cast(LanguageModel, llm)
    if _is_a(llm, "langchain_core.runnables.base", "Runnable"):
        from persona.llm.plain import RunnableLM

        _check_options("a LangChain runnable", options, ("name", "tokenizer", "max_concurrency"))
        return RunnableLM(cast(Any, llm), **options)
    if _is_a(llm, "openai", "OpenAI") or _is_a(llm, "openai", "AsyncOpenAI"):
        if "model" not in options:
            raise InvalidOptionError("an openai.OpenAI client needs a model: load_llm(client, model='...')")
        return _endpoint("an openai.OpenAI client", options.pop("model"), {"client": llm, **options})
    if callable(llm) and _is_plain_function(llm):
        from persona.llm.plain import CallableLM

        _check_options("a function", options, ("name", "tokenizer"))
        return CallableLM(llm, **options)
    raise InvalidOptionError(f"an LLM must be {_ACCEPTED}; was: {_described(llm)}")


def _from_files(llm: str | Path, options: dict[str, Any]) -> TransformersLM:
    from persona.llm.checkpoint import check_dtype, files_sha256, load_folder
    from persona.llm.frozen.options import TransformersOptions
    from persona.llm.transformers import TransformersLM
    from persona.llm.weights.quantized import check_quantize

    _check_options("a folder or hub id", options, (*_fields(TransformersOptions), *_FOLDER_OPTIONS))
    placement = {key: options.pop(key) for key in ("device", "dtype", "quantize") if key in options}
    # Before anything is downloaded or converted for them.
    check_dtype(placement.get("dtype", "auto"))
    check_quantize(placement.get("quantize"), placement.get("dtype", "auto"))
    revision = options.pop("revision", None)
    asked = TransformersOptions(**options)
    source = _source(llm, revision, placement.get("dtype", "auto"))
    loaded = load_folder(source.folder, **placement)
    return TransformersLM(
        loaded.model,
        loaded.tokenizer,
        dataclasses.replace(asked, name=asked.name or source.name),
        weights_hash=lambda: (source.sha256 or files_sha256(*loaded.weights))[:12],
    )


def _source(llm: str | Path, revision: str | None, dtype: str) -> Source:
    """The files of a folder, a hub id, a GGUF file or a name of our own, on this machine."""
    from persona.llm.weights.gguf import SMOLLM2, Source, converted, gguf_file
    from persona.llm.weights.hub import hub_folder

    if llm == TINY:
        folder = Path(__file__).parents[1] / TINY
        if not folder.is_dir():
            raise ModelLoadError(f"this installation lacks the embedded LLM: {folder} is missing")
        return Source(folder, folder.name)
    if llm == SMOLLM2:
        return _smollm2(revision, dtype)
    if (file := gguf_file(str(llm), revision=revision)) is not None:
        return converted(file, dtype)
    folder = Path(llm).expanduser()
    if isinstance(llm, str) and not folder.is_dir() and not llm.startswith((".", "/", "~")):
        return Source(hub_folder(llm, revision=revision, own=(TINY, SMOLLM2)), llm)
    return Source(folder, folder.resolve().name)


def _smollm2(revision: str | None, dtype: str) -> Source:
    """SmolLM2 of the cache folder, of the installed package, or of the hub."""
    from persona.llm.weights.gguf import SMOLLM2, SMOLLM2_HINT, SMOLLM2_HUB_ID, Source, smollm2
    from persona.llm.weights.hub import hub_folder

    if revision is None and (made := smollm2(dtype)) is not None:
        return made
    try:
        return Source(hub_folder(SMOLLM2_HUB_ID, revision=revision), SMOLLM2)
    except ModelLoadError as error:
        raise ModelLoadError(f"{SMOLLM2} is not on this machine: {SMOLLM2_HINT} ({error})") from error


def _from_pair(model: Any, tokenizer: Any, options: dict[str, Any]) -> TransformersLM:
    if hasattr(tokenizer, "generate") and not hasattr(model, "generate"):
        raise InvalidOptionError("a transformers pair must come as (model, tokenizer), in that order")
    if not hasattr(model, "config") or not hasattr(tokenizer, "decode"):
        raise InvalidOptionError(
            f"(model, tokenizer) must be a transformers model and its tokenizer, was: ({_described(model)}, "
            f"{_described(tokenizer)})"
        )
    from persona.llm.frozen.options import TransformersOptions
    from persona.llm.transformers import TransformersLM

    _check_options("(model, tokenizer)", options, _fields(TransformersOptions))
    return TransformersLM(model, tokenizer, TransformersOptions(**options))


def _from_uri(uri: re.Match[str], options: dict[str, Any]) -> OpenAILM:
    before, _, behind = uri["model"].rpartition("@")
    if before and uri["url"] is None and not {"base_url", "client"} & set(options) and _ADDRESS.search(behind):
        raise InvalidOptionError(f"an endpoint's address must begin with http:// or https://, was: {behind!r}")
    if uri["url"] is not None:
        options["base_url"] = uri["url"]
    if uri["kind"] == "vllm" and options.get("client") is None:
        options.setdefault("base_url", _VLLM_URL)
        # The client insists on a key; a server started without one ignores it.
        options.setdefault("api_key", os.environ.get("VLLM_API_KEY", "none"))
    return _endpoint("an endpoint", uri["model"], options, vllm=uri["kind"] == "vllm")


def _endpoint(kind: str, model: str, options: dict[str, Any], *, vllm: bool = False) -> OpenAILM:
    from persona.llm.endpoint.model import OpenAILM
    from persona.llm.endpoint.options import EndpointOptions
    from persona.llm.endpoint.vllm import VllmLM

    _check_options(kind, options, (*_CLIENT_OPTIONS, *_fields(EndpointOptions)))
    client = {name: options.pop(name) for name in _CLIENT_OPTIONS if name in options}
    return (VllmLM if vllm else OpenAILM)(model, EndpointOptions(**options), **client)


def _fields(kind: type[Any]) -> tuple[str, ...]:
    """Names of the fields of a dataclass."""
    return tuple(each.name for each in dataclasses.fields(kind))


def _check_options(kind: str, options: Iterable[str], known: Iterable[str]) -> None:
    known = tuple(known)
    for name in options:
        if name not in known:
            takes = f"takes {', '.join(sorted(known))}" if known else "takes no options"
            raise InvalidOptionError(f"{kind} as an LLM {takes}; was given: {name}")


def _is_language_model(llm: object) -> bool:
    # Not isinstance: it would read `fingerprint`, and that may hash gigabytes.
    missing = object()
    return not isinstance(llm, type) and all(
        inspect.getattr_static(llm, name, missing) is not missing for name in _MEMBERS
    )


def _is_a(llm: object, module: str, name: str) -> bool:
    """Whether `llm` is of a class that can only exist here if its module has been imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(llm, kind)


def _is_plain_function(llm: Callable[..., object]) -> bool:
    """Not a class, a coroutine, or a model or tokenizer of transformers, all of which can be called too."""
    return not (
        isinstance(llm, type)
        or inspect.iscoroutinefunction(llm)
        or hasattr(llm, "config")
        or hasattr(llm, "apply_chat_template")
    )


def _described(thing: object) -> str:
    if inspect.iscoroutinefunction(thing):
        return f"the async function {getattr(thing, '__qualname__', thing)}"
    if isinstance(thing, type):
        return f"the class {thing.__qualname__}, not an object of it"
    if hasattr(thing, "generate") and hasattr(thing, "config"):
        return f"a model without its tokenizer ({type(thing).__qualname__})"
    return type(thing).__qualname__
