"""The hub: what can be no id, one that does not answer, and what is said then."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persona.errors import ModelLoadError
from persona.llm.weights import hub
from persona.llm.weights.hub import hub_file, hub_folder


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-x/y", "x/", "ü/y", "a--b", "a..b"])
def test_names_that_can_be_no_hub_id(name: str) -> None:
    with pytest.raises(ModelLoadError, match=f"there is no folder {name}, and"):
        hub_folder(name)


def test_a_folder_with_a_similar_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs" / "embedder").mkdir(parents=True)
    with pytest.raises(ModelLoadError, match=r"no folder runs/embeder \(did you mean runs/embedder\?\), and the hub"):
        hub_folder("runs/embeder")


@pytest.fixture
def swallowing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes connections and never answers."""
    import huggingface_hub.constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "TIMEOUT", 0.2)
        yield


def test_a_hub_that_does_not_answer_is_not_waited_for(swallowing: None) -> None:
    started = time.monotonic()
    with pytest.raises(ModelLoadError, match="the hub model nobody/no-model cannot be downloaded: ReadTimeout"):
        hub_folder("nobody/no-model")
    with pytest.raises(ModelLoadError, match=r"the file a.gguf of the hub's nobody/no-model cannot .*: ReadTimeout"):
        hub_file("nobody/no-model", "a.gguf")
    assert time.monotonic() - started < 5
