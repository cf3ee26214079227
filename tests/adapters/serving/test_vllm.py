"""Adapters on a vLLM server: names that no two adapters share, and a server that finds them in the bank.

vLLM itself is not installed here. The server of these tests is a real one on this machine, with vLLM's documented
endpoints and what it does with them; its plug-in interface is stood in for by two small modules.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from persona.adapters.bank import AdapterBank
from persona.adapters.channel import AdapterChannel
from persona.adapters.family import AdaptedModule, Family, LoraSpec
from persona.adapters.peft_format import WEIGHTS, import_adapters
from persona.adapters.serving import vllm as plug_in
from persona.adapters.serving.vllm import ServedAdapters, bank_resolver, register_resolver
from persona.adapters.versions import AdapterDraft
from persona.errors import GenerationError, InvalidOptionError, MissingDependencyError, UnknownAdapterError
from persona.llm.endpoint.vllm import VllmLM
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.protocols import PRIOR_ADAPTER, GenerationOptions, Request
from persona.records import Record
from persona.store.profile_store import ProfileStore

BASE = "org/small"
FAMILY = Family("small@b00f:float32", LoraSpec(r=2, alpha=4, targets=("q",)), (AdaptedModule("layers.0.q", 6, 5),))
PRIOR = FAMILY.initial(seed=9)
OVER = FAMILY.over(PRIOR)
OPTIONS = GenerationOptions(max_new_tokens=4)
STRANGE = "../ana lee@/ö%2F"


@dataclass
class VLLM:
    """What the server holds; `resolver` is asked for models that it does not know."""

    url: str = ""
    loaded: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    resolver: Any = None


@pytest.fixture
def vllm() -> Iterator[VLLM]:
    state = VLLM()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, sent = self.answer(self.path.removeprefix("/v1/"), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if isinstance(sent, dict) else "text/plain")
            data = (json.dumps(sent) if isinstance(sent, dict) else sent).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
            if path == "load_lora_adapter":
                if not (Path(body["lora_path"]) / "adapter_config.json").is_file():
                    return 404, {"error": {"message": f"Loading lora {body['lora_name']} failed: No adapter found"}}
                state.loaded[body["lora_name"]] = body["lora_path"]
                return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully."
            if path == "unload_lora_adapter":
                if state.loaded.pop(body["lora_name"], None) is None:
                    return 404, {"error": {"message": f"The lora adapter '{body['lora_name']}' cannot be found."}}
                return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."
            model = body["model"]
            if model != BASE and model not in state.loaded and state.resolver is not None:
                found = asyncio.run(state.resolver.resolve_lora(BASE, model))
                if found is not None:
                    state.loaded[model] = found.lora_path
            if model != BASE and model not in state.loaded:
                return 404, {"error": {"message": f"The model `{model}` does not exist.", "code": 404}}
            state.asked.append(model)
            total = 0.0
            if model != BASE:
                total = sum(float(one.double().sum()) for one in load_file(Path(state.loaded[model], WEIGHTS)).values())
            choice = {"index": 0, "message": {"role": "assistant", "content": f"{total:.4f}"}, "finish_reason": "stop"}
            return 200, {"id": "1", "object": "x", "created": 0, "model": model, "choices": [choice]}

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        opened.upsert((user, Record("text", target="1")) for user in ("ana", "bo", STRANGE))
        yield opened


def row(number: float) -> torch.Tensor:
    return torch.full((FAMILY.size,), number)


def publish(bank: AdapterBank, user: str, number: float, family: Family = OVER) -> str:
    bank.add_family(family, PRIOR if family.prior else None)
    revision = bank.store.profile(user).revision
    (made,) = bank.publish(family, [AdapterDraft(user, row(number), revision)])
    return made.name


def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The two modules of vLLM that a resolver needs; gives back what is registered."""
    registered: dict[str, Any] = {}

    @dataclass
    class LoRARequest:
        lora_name: str
        lora_int_id: int
        lora_path: str

    class LoRAResolver(ABC):
        @abstractmethod
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...

    class LoRAResolverRegistry:
        @staticmethod
        def register_resolver(name: str, resolver: LoRAResolver) -> None:
            registered[name] = resolver

    for name, members in (
        ("vllm", {}),
        ("vllm.lora", {}),
        ("vllm.lora.request", {"LoRARequest": LoRARequest}),
        ("vllm.lora.resolver", {"LoRAResolver": LoRAResolver, "LoRAResolverRegistry": LoRAResolverRegistry}),
    ):
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return registered


def resolved(resolver: Any, name: str, base: str = BASE) -> Any:
    return asyncio.run(resolver.resolve_lora(base, name))


def served_llm(vllm: VLLM, served: ServedAdapters) -> VllmLM:
    llm = load_llm(f"vllm:{BASE}@{vllm.url}", adapter_name=served.name)
    assert isinstance(llm, VllmLM)
    return llm


def test_every_user_is_answered_with_their_own(
    store: ProfileStore, vllm: VLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    bank = AdapterBank(store)
    publish(bank, "ana", 0.25)
    publish(bank, STRANGE, 0.5)
    served = ServedAdapters(bank, OVER)
    vllm.resolver = bank_resolver(served, tmp_path / "exports")
    llm = served_llm(vllm, served)
    personalizer = Personalizer(llm, store, [AdapterChannel(served, missing="prior")])
    said = [float(each.text) for each in personalizer.batch([(user, "Hi") for user in ("ana", STRANGE, "bo")])]
    shared = float(PRIOR.double().sum())
    assert said == pytest.approx([shared + 0.25 * FAMILY.size, shared + 0.5 * FAMILY.size, shared], abs=1e-3)
    assert len(vllm.asked) == len(set(vllm.asked)) == 3
    assert [Path(path).parent for path in vllm.loaded.values()] == [tmp_path / "exports"] * 3
    # The plain model is asked for by nobody but who says so.
    assert llm.generate([Request("Hi"), Request("Hi", adapter="ana@1")], OPTIONS)[0] == "0.0000"
    with pytest.raises(UnknownAdapterError, match="ana@7"):
        llm.generate([Request("Hi", adapter="ana@7")], OPTIONS)


def test_no_two_adapters_share_a_name(store: ProfileStore) -> None:
    bank = AdapterBank(store)
    names = []
    for number in (1.0, 2.0):
        names.append(ServedAdapters(bank, OVER).name(publish(bank, "ana", number)))
    names.append(ServedAdapters(bank, FAMILY).name(publish(bank, "ana", 1.0, FAMILY)))
    store.forget("ana")
    store.upsert([("ana", Record("another ana", target="2"))])
    again = publish(bank, "ana", 3.0)
    assert again == "ana@1"
    names += [ServedAdapters(bank, OVER).name(again), ServedAdapters(bank, OVER).name(PRIOR_ADAPTER)]
    assert len(set(names)) == 5
    assert all(name.isascii() and "/" not in name for name in names)
    with pytest.raises(UnknownAdapterError):
        ServedAdapters(bank, OVER).find(names[0])


def test_a_name_is_resolved_to_its_own_user_or_to_nothing(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    bank = AdapterBank(store)
    old = ServedAdapters(bank, OVER).name(publish(bank, "ana", 1.0))
    new = ServedAdapters(bank, OVER).name(publish(bank, "ana", 2.0))
    strange = ServedAdapters(bank, OVER).name(publish(bank, STRANGE, 3.0))
    served = ServedAdapters(bank, OVER)
    resolver = bank_resolver(served, tmp_path / "exports")
    assert resolved(resolver, new).lora_name == new
    assert resolved(resolver, new).lora_int_id != resolved(resolver, strange).lora_int_id > 0
    assert served.find(strange).user_id == STRANGE  # type: ignore[union-attr]
    digest = new.rpartition("-")[2]
    forged = [old, "ana", "ana@2", "", "../../etc", f"bo@2-{digest}", f"ana@02-{digest}", f"%61na@2-{digest}", "@prior"]
    forged += [f"{new}-{'0' * 32}", f"ana@prior-{OVER.key}", f"%ff@1-{digest}", f"{'a' * 9000}@1-{digest}"]
    for name in forged:
        assert resolved(resolver, name) is None, name
    assert resolved(resolver, new, base="org/other") is None
    assert resolved(bank_resolver(served, tmp_path, base_name="other"), new) is None
    bank.roll_back("ana", OVER)
    assert resolved(resolver, new) is None
    assert resolved(resolver, old).lora_name == old
    bank.forget("ana", exports=tmp_path / "exports")
    assert resolved(resolver, old) is None
    assert not list((tmp_path / "exports").glob("ana@*"))


def test_signed_names_cannot_be_made_up(store: ProfileStore) -> None:
    bank = AdapterBank(store)
    name = publish(bank, "ana", 1.0)
    served = ServedAdapters(bank, OVER, key=b"0123456789abcdef")
    signed = served.name(name)
    assert served.find(signed) == bank.version("ana", OVER, 1)
    for other in (ServedAdapters(bank, OVER), ServedAdapters(bank, OVER, key=b"another key of 16")):
        with pytest.raises(UnknownAdapterError):
            served.find(other.name(name))
        with pytest.raises(UnknownAdapterError):
            other.find(signed)
    with pytest.raises(InvalidOptionError, match="16 bytes, had: 3"):
        ServedAdapters(bank, OVER, key=b"abc")


def test_loading_and_unloading_through_the_endpoints(store: ProfileStore, vllm: VLLM, tmp_path: Path) -> None:
    bank = AdapterBank(store)
    served = ServedAdapters(bank, OVER, key=b"0123456789abcdef")
    adapters = [publish(bank, "ana", 0.25), publish(bank, STRANGE, 0.5), PRIOR_ADAPTER]
    llm = served_llm(vllm, served)
    with pytest.raises(GenerationError, match="does not exist"):
        llm.generate([Request("Hi", adapter=adapters[0])], OPTIONS)
    names = [served.name(adapter) for adapter in adapters]
    for name in names:
        llm.load_adapter(name, str(served.export(name, tmp_path / "exports", base_name=BASE)))
    assert list(vllm.loaded) == names
    folder = tmp_path / "exports" / names[0].rpartition("-")[0]
    assert vllm.loaded[names[0]] == str(folder)
    llm.generate([Request("Hi", adapter=adapters[0])], OPTIONS)
    assert vllm.asked == names[:1]
    assert import_adapters(bank, [folder], OVER)[0].version == 2
    with pytest.raises(UnknownAdapterError, match="no adapter 'ana@1-"):  # not the current one any more
        served.export(names[0], tmp_path / "exports", base_name=BASE)
    # What was forgotten is unloaded by the server's name.
    bank.forget("ana", exports=tmp_path / "exports")
    with pytest.raises(UnknownAdapterError, match="no adapter ana@1"):
        served.name("ana@1")
    for name in names:
        llm.unload_adapter(name)
    assert vllm.loaded == {}
    with pytest.raises(GenerationError, match=r"unload_lora_adapter.*cannot be found"):
        llm.unload_adapter(names[0])


def test_a_folder_means_one_adapter_for_ever(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, served = AdapterBank(store), ServedAdapters(AdapterBank(store), OVER)
    exports = tmp_path / "exports"

    def export(name: str) -> Path:
        return served.export(name, exports, base_name=BASE)

    def contents() -> dict[Path, tuple[int, bytes]]:
        return {path: (path.stat().st_ino, path.read_bytes()) for path in exports.glob("[!.]*/*")}

    old, prior = served.name(publish(bank, "ana", 1.0)), served.name(PRIOR_ADAPTER)
    first, shared = export(old), export(prior)
    before = contents()
    assert (export(old), export(prior)) == (first, shared)
    assert contents() == before
    store.forget("ana")
    store.upsert([("ana", Record("another ana", target="2"))])
    name = publish(bank, "ana", 3.0)
    assert name == "ana@1"
    # Another process writes the same one between the look and the rename.
    rename = os.replace

    def second(made: Path, place: Path) -> None:
        shutil.copytree(made, place)
        before.update(contents())
        rename(made, place)

    monkeypatch.setattr(os, "replace", second)
    again = export(served.name(name))
    assert again != first
    assert contents() == before
    assert sorted(path.name for path in exports.iterdir()) == sorted([first.name, again.name, shared.name])
    bank.forget("ana", exports=exports)
    assert [path.name for path in exports.iterdir()] == [shared.name]


def test_the_plug_in_registers_itself(store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered = stand_in(monkeypatch)
    monkeypatch.setenv("PERSONA_STORE", f"sqlite:///{tmp_path / 'persona.db'}")
    monkeypatch.delenv(plug_in.FOLDER, raising=False)
    register_resolver()
    assert registered == {}
    monkeypatch.setenv(plug_in.FOLDER, str(tmp_path / "exports"))
    with pytest.raises(UnknownAdapterError, match="persona train adapters"):
        register_resolver()
    bank = AdapterBank(store)
    name = publish(bank, "ana", 1.0)
    publish(bank, "ana", 1.0, FAMILY)
    with pytest.raises(InvalidOptionError, match=r"2 families.* name one: .* in PERSONA_LORA_FAMILY"):
        register_resolver()
    monkeypatch.setenv(plug_in.FAMILY, "zzz")
    with pytest.raises(UnknownAdapterError, match="no family zzz"):
        register_resolver()
    monkeypatch.setenv(plug_in.FAMILY, OVER.key)
    monkeypatch.setenv(plug_in.KEY, "0123456789abcdef")
    register_resolver()
    signed = ServedAdapters(bank, OVER, key=b"0123456789abcdef").name(name)
    unsigned = ServedAdapters(bank, OVER).name(name)
    assert resolved(registered["persona"], signed).lora_path == str(tmp_path / "exports" / unsigned)
    assert resolved(registered["persona"], ServedAdapters(bank, OVER).name(name)) is None
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    place = f"{register_resolver.__module__}:{register_resolver.__name__}"
    assert project["entry-points"]["vllm.general_plugins"] == {"persona_lora_resolver": place}


def test_without_vllm_it_is_one_clear_line(store: ProfileStore, tmp_path: Path) -> None:
    bank = AdapterBank(store)
    bank.add_family(FAMILY)
    with pytest.raises(MissingDependencyError, match="pip install vllm"):
        bank_resolver(ServedAdapters(bank, FAMILY), tmp_path)
    with pytest.raises(UnknownAdapterError, match="no prior to serve"):
        ServedAdapters(bank, FAMILY).name(PRIOR_ADAPTER)
