"""Every error that persona raises on purpose.

::

    PersonaError
    ├── InvalidUserIdError      (ValueError)   an id that no store may hold
    ├── InvalidOptionError      (ValueError)   an argument outside its range
    ├── DataFormatError         (ValueError)   input that cannot be read; names file and line or index
    ├── UnknownTaskError        (LookupError)  no LaMP task of that name
    ├── UnknownPartError        (LookupError)  no part (retriever, encoder, ...) of that name
    ├── UnknownUserError        (LookupError)  the store holds nothing on that user
    ├── UnknownRecordError      (LookupError)  the user has no record of that id
    ├── UnknownAdapterError     (LookupError)  there is no adapter for that user, or of that name
    ├── UnknownKeyError         (LookupError)  there is no API key of that id
    ├── UnauthorizedError       (PermissionError) a request came without an API key, or with a wrong one
    ├── ForbiddenError          (PermissionError) the API key may not do that, or not for that user
    ├── StoreError              (RuntimeError) the database cannot be used
    │   └── SchemaVersionError                 the database was written by a newer persona
    ├── FingerprintMismatchError (ValueError)  vectors or weights of two different models met
    ├── ModelLoadError          (OSError)      a model or encoder cannot be loaded
    ├── GenerationError         (RuntimeError) the LLM did not answer
    │   ├── BusyError                          too many requests wait; says when to ask again
    │   └── EndpointError                      an endpoint refused a request, failed, or cannot be reached
    ├── UnsupportedChannelError (TypeError)    the LLM cannot take that channel
    ├── MissingDependencyError  (ImportError)  an optional package is not installed
    └── EvaluationError         (ValueError)   predictions and golds do not belong together

Each leaf also inherits the standard-library class that a caller would expect. A message says the rule, what was
given and the fix, in one line. The command line prints it on stderr and exits with 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import inf
from os import PathLike, fspath


class PersonaWarning(UserWarning):
    """Something that goes on, and should be known: the command line prints it as one line on stderr."""


class PersonaError(Exception):
    """The root of all errors that persona raises on purpose."""


class InvalidUserIdError(PersonaError, ValueError):
    """The user id is empty, too long, or holds characters that no store can keep."""


class InvalidOptionError(PersonaError, ValueError):
    """An argument or option is outside its range."""


class DataFormatError(PersonaError, ValueError):
    """Input data cannot be read.

    Args:
        message: the rule, what was given and how to fix it.
        source: the file (or a description of the source) that the data came from.
        place: where in the source, e.g. ``"line 7"`` or ``"index 3"``.
    """

    def __init__(self, message: str, *, source: str | PathLike[str] | None = None, place: str | None = None) -> None:
        self.source = None if source is None else fspath(source)
        self.place = place
        where = ", ".join(part for part in (self.source, place) if part)
        super().__init__(f"{where}: {message}" if where else message)


class UnknownTaskError(PersonaError, LookupError):
    """There is no LaMP task of that name."""


class UnknownPartError(PersonaError, LookupError):
    """There is no part (retriever, encoder, method, ...) of that name."""


class UnknownUserError(PersonaError, LookupError):
    """The store holds nothing on that user."""


class UnknownRecordError(PersonaError, LookupError):
    """The user has no record of that id."""


class UnknownAdapterError(PersonaError, LookupError):
    """There is no adapter for that user, of that version or of that family."""


class UnknownKeyError(PersonaError, LookupError):
    """There is no API key of that id."""


class UnauthorizedError(PersonaError, PermissionError):
    """A request to the server came without an API key, or with one that is wrong or revoked."""


class ForbiddenError(PersonaError, PermissionError):
    """The API key may not do that, or not for that user."""


class StoreError(PersonaError, RuntimeError):
    """The database cannot be opened or used."""


class SchemaVersionError(StoreError):
    """The database was written by a newer persona than this one."""


class FingerprintMismatchError(PersonaError, ValueError):
    """Vectors or weights of two different models were about to be mixed."""


class ModelLoadError(PersonaError, OSError):
    """A model, tokenizer or encoder cannot be loaded."""


class GenerationError(PersonaError, RuntimeError):
    """The LLM did not answer."""


class BusyError(GenerationError):
    """Too many requests wait already, of all or of this client.

    Args:
        message: the rule, what was given and how to fix it.
        retry_after: seconds after which there is likely to be room, at least 1.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EndpointError(GenerationError):
    """An endpoint refused a request, failed, or cannot be reached.

    Args:
        message: the rule, what was given and how to fix it.
        status: of HTTP; None where there was no reply, or none of the right form.
        for_all: whether every other request would be answered with the same.
    """

    def __init__(self, message: str, *, status: int | None = None, for_all: bool = False) -> None:
        super().__init__(message)
        self.status, self.for_all = status, for_all


class UnsupportedChannelError(PersonaError, TypeError):
    """The LLM cannot take a channel (soft prompt, LoRA) that was asked for."""


class MissingDependencyError(PersonaError, ImportError):
    """An optional package is not installed."""


class EvaluationError(PersonaError, ValueError):
    """Predictions and golds do not belong together."""


def check_least(least: float, /, **given: float | None) -> None:
    """Refuse options below a number: ``check_least(1, epochs=epochs)``. None says nothing.

    Raises:
        InvalidOptionError: if one is, as the other checks do.
    """
    for name, value in given.items():
        _check(value is None or value >= least, name, f"at least {least}", value)


def check_positive(**given: float | None) -> None:
    """Refuse options that are no finite number above 0."""
    for name, value in given.items():
        _check(value is None or 0 < value < inf, name, "a number above 0", value)


def check_share(**given: float) -> None:
    """Refuse options that are not from 0 to 1."""
    for name, value in given.items():
        _check(0 <= value <= 1, name, "from 0 to 1", value)


def check_fraction(**given: float) -> None:
    """Refuse options that are not above 0 and below 1."""
    for name, value in given.items():
        _check(0 < value < 1, name, "above 0 and below 1", value)


def check_one_of(known: Collection[str], /, **given: str) -> None:
    """Refuse options that are none of the known names, of which an empty one goes without saying."""
    for name, value in given.items():
        _check(value in known, name, f"one of {', '.join(filter(None, known))}", repr(value))


def check_made_for(what: str, model: str | None, given: str | None, fix: str) -> None:
    """Refuse what was made for another model, encoder or kind of vectors than the given one.

    Raises:
        FingerprintMismatchError: if it was; it names both.
    """
    if model != given:
        raise FingerprintMismatchError(f"{what} was made for {model}, this is {given}: {fix}")


def _check(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise InvalidOptionError(f"`{name}` must be {rule}, was: {value}")


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Around imports: say which extra of persona brings a package that is missing.

    Raises:
        MissingDependencyError: if one is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the package {error.name} is not installed: pip install 'persona-llm[{extra}]'"
        ) from error


@contextmanager
def located(source: str | PathLike[str], place: str | None = None) -> Iterator[None]:
    """Turn errors about data, user ids and tasks in the block into a `DataFormatError` that says where."""
    try:
        yield
    except (DataFormatError, InvalidUserIdError, UnknownTaskError) as error:
        raise DataFormatError(str(error), source=source, place=place) from None


def reason(error: BaseException) -> str:
    """The error's class and the first line of its message; if that is short, also the cause.

    >>> reason(OSError("no such host\\nsome trace"))
    'OSError: no such host'
    """
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    # Clients report a refused connection as "Connection error." and keep the address in the cause.
    return f"{said} ({reason(error.__cause__)})" if error.__cause__ is not None and len(said) < 60 else said
