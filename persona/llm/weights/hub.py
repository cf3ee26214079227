"""Files of the Hugging Face hub: downloaded once, never pickles or Python.

The hub is asked for a first word before anything else, and for `TIMEOUT` seconds: its own client would wait for a
network that swallows everything for minutes. Where it does not answer, what was downloaded before is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from persona.errors import ModelLoadError, reason

TIMEOUT = 4.0
"""Seconds to wait for each step of the hub's first word on a model."""

_PATTERNS = ["model*.safetensors", "*/model*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def hub_folder(
    name: str, *, revision: str | None = None, organization: str | None = None, own: Collection[str] = ()
) -> Path:
    """The local copy of a hub model, downloaded if it is not there yet (never its pickles or Python).

    Args:
        name: the hub id.
        revision: branch, tag or commit; None is the default branch.
        organization: owner of the models that are called by their bare name.
        own: names that are no hub ids; a bare name that is nearly one of them is not asked for.

    Raises:
        ModelLoadError: if `name` can be no hub id, or the hub has no such model or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    if meant := get_close_matches(name, own, n=1, cutoff=0.75):
        raise ModelLoadError(f"there is no folder {name}, and no model of that name: did you mean {meant[0]}?")
    if not _HUB_ID.fullmatch(name):
        raise ModelLoadError(f"there is no folder {name}{near(name)}, and it is no hub id (`owner/name`)")
    hub_id = name if organization is None or "/" in name else f"{organization}/{name}"
    what = f"there is no folder {name}{near(name)}, and the hub model {hub_id}"
    return _downloaded(hub_id, revision, what, partial(snapshot_download, hub_id, allow_patterns=_PATTERNS))


def hub_file(repository: str, file: str, *, revision: str | None = None) -> Path:
    """The local copy of one file of a hub repository, downloaded if it is not there yet.

    Args:
        repository: its hub id.
        file: the path inside.
        revision: branch, tag or commit; None is the default branch.

    Raises:
        ModelLoadError: if `repository` can be no hub id, or the hub has no such file or cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    what = f"the file {file} of the hub's {repository}"
    return _downloaded(repository, revision, what, partial(hf_hub_download, repository, file))


def _downloaded(hub_id: str, revision: str | None, what: str, download: Callable[..., str]) -> Path:
    """What `download` gives, from the local copy alone where the hub does not answer; `what` it is, for the error."""
    from huggingface_hub.errors import HFValidationError

    silence = None
    try:
        silence = _silence(hub_id, revision)
        return Path(download(revision=revision, local_files_only=silence is not None))
    # What the hub refuses, and a copy that is not there, are OSErrors.
    except (OSError, HFValidationError) as error:
        raise ModelLoadError(f"{what} cannot be downloaded: {silence or reason(error)}") from error


def _silence(hub_id: str, revision: str | None) -> str | None:
    """Why the hub says nothing about a model; None if it knows the model.

    Raises:
        OSError: if the hub answers, and has no such model or does not give it.
        HFValidationError: if it can be no hub id.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(hub_id, revision=revision, timeout=TIMEOUT)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception as error:  # of the HTTP library, which is another one from version to version
        return reason(error)
    return None


def near(name: str) -> str:
    """A folder that may have been meant by a name, as a question in brackets; empty if there is none."""
    path = Path(name)
    try:
        folders = [each.name for each in path.parent.iterdir() if each.is_dir()]
    except OSError:
        return ""
    close = get_close_matches(path.name, folders, n=1)
    return f" (did you mean {path.with_name(close[0])}?)" if close else ""
