"""The data API over HTTP: any legal id, scopes, records, feedback, erasure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import MAX_ID_LENGTH
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.vectors.dense import DenseRetriever
from persona.serve.app import app_of
from persona.serve.keys import KeyStore
from persona.serve.state import ServerState
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint
from tests.encoders.test_embedding import Watched
from tests.serve.conftest import Serve, running


class Silent:
    """A backend of a server that is not asked."""

    models = ("none",)
    ready = True

    async def aclose(self, drain: float) -> None:
        pass


def app(store: ProfileStore, retriever: Any = None) -> FastAPI:
    personalizer = Personalizer(load_llm(str.upper), store, [RecordsChannel(retriever)])
    backend: Any = Silent()
    return app_of(ServerState(store=store, keys=KeyStore(store), personalizer=personalizer, backend=backend))


def local(application: FastAPI, **headers: str) -> TestClient:
    return TestClient(application, "http://127.0.0.1", client=("127.0.0.1", 5000), headers=headers)


@pytest.fixture
def client(store: ProfileStore) -> TestClient:
    return local(app(store))


def url(user_id: str, *rest: str) -> str:
    # A dot needs no escape, and yet clients take the segments `.` and `..` out of a path.
    return "/".join(["/v1/users", *(quote(each, safe="").replace(".", "%2E") for each in (user_id, *rest))])


def test_records_are_put_read_changed_and_deleted(client: TestClient) -> None:
    many = [{"text": "Slow.", "target": 2, "time": "2011", "id": "b"}, {"text": "Loud.", "metadata": {"film": "Ran"}}]
    done = client.put(url("cleo", "records"), json=many).json()
    assert (done["ids"][0], done["added"], done["changed"], done["unchanged"], done["expired"]) == ("b", 2, 0, 0, 0)
    assert client.put(url("cleo", "records"), json=many[0]).json()["unchanged"] == 1
    assert client.put(url("cleo", "records", "b"), json={"text": "Slower.", "expires": "2001"}).json()["changed"] == 1
    assert client.get(url("cleo", "records", "b")).status_code == 404  # it has expired
    assert client.put(url("cleo", "records", "c"), json={"text": "Past.", "expires": "2001"}).json()["expired"] == 1
    client.put(url("cleo", "records", "b"), json={"text": "Slower.", "target": "3", "metadata": {"a": "1", "b": "2"}})
    changed = client.patch(url("cleo", "records", "b"), json={"target": None, "metadata": {"a": None, "c": 3}}).json()
    assert (changed["text"], changed["target"], changed["metadata"]) == ("Slower.", None, {"b": "2", "c": "3"})
    assert client.get(url("cleo", "records", "b")).json() == changed
    assert client.delete(url("cleo", "records", "b")).json() == {"id": "b", "deleted": True}
    assert client.delete(url("cleo", "records", "b")).status_code == 404
    assert client.patch(url("cleo", "records", "b"), json={"text": "x"}).json()["error"]["code"] == "unknown_record"
    assert [each["text"] for each in client.get(url("cleo", "records")).json()["data"]] == ["Loud."]


def test_records_come_in_pages(client: TestClient) -> None:
    client.put(url("cleo", "records"), json=[{"text": f"{n}", "time": f"20{n}"} for n in range(10, 35)])
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = client.get(url("cleo", "records"), params={"limit": "10", **after}).json()
        found += [each["text"] for each in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["data"][-1]["id"]}
    assert found == [str(n) for n in range(10, 35)]
    assert client.get(url("cleo", "records"), params={"after": "gone"}).status_code == 404
    assert client.get(url("cleo", "records"), params={"limit": "0"}).status_code == 400
    assert client.get(url("nobody", "records")).json() == {"object": "list", "data": [], "has_more": False}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": " "}, "`text` must not be blank"),
        ({"text": "a", "date": "2011"}, "date: Extra inputs are not permitted"),
        ([{"text": "a"}, {"txt": "b"}], "1.text: Field required"),
        ({"text": "a", "time": "soon"}, "time"),
        ({"text": "a\x00"}, "NUL"),
        ({"text": "a" * 1_000_001}, "1,000,000 characters"),
        ("text", "should be a valid dictionary"),
    ],
)
def test_what_is_no_record_is_refused_whole(client: TestClient, body: object, message: str) -> None:
    reply = client.put(url("cleo", "records"), json=body)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert message in reply.json()["error"]["message"]
    assert client.get(url("cleo", "records")).json()["data"] == []


def test_all_that_is_held(client: TestClient, store: ProfileStore) -> None:
    KeyStore(store).make("phone", ["ask"], user_id="ana")
    key, _ = KeyStore(store).make("all", ["admin"])
    client.headers["Authorization"] = f"Bearer {key}"
    held = client.get(url("ana")).json()
    assert (held["user_id"], len(held["records"]), held["others"]) == ("ana", 1, {"keys": 1})
    unknown = client.get(url("anna"))
    assert (unknown.status_code, "ana" in unknown.json()["error"]["message"].replace("anna", "")) == (404, False)


def test_feedback_becomes_a_record(client: TestClient, store: ProfileStore) -> None:
    asked = {"prompt": "A headline?"}
    sent: list[dict[str, Any]] = [
        {"type": "rating", **asked, "answer": "School opens garden", "rating": 4},
        {"type": "correction", **asked, "answer": "School opens garden", "correction": "garden opens - at last"},
        {"type": "choice", **asked, "answers": ["one", "two", "three"], "chosen": 1, "id": "c1"},
    ]
    made = [client.post(url("cleo", "feedback"), json=body) for body in sent]
    assert [reply.status_code for reply in made] == [201] * 3
    records = [reply.json()["record"] for reply in made]
    assert [(each["text"], each["target"], each["metadata"]) for each in records] == [
        ("School opens garden", "4", {"prompt": "A headline?", "feedback": "rating"}),
        ("A headline?", "garden opens - at last", {"answer": "School opens garden", "feedback": "correction"}),
        ("A headline?", "two", {"refused_1": "one", "refused_2": "three", "feedback": "choice"}),
    ]
    assert {record.id for record in store.profile("cleo")} == {each["id"] for each in records}
    wrong = [{"type": "praise", **asked}, {**sent[2], "chosen": 3}, {**sent[0], "rating": None}, asked]
    assert [client.post(url("cleo", "feedback"), json=body).status_code for body in wrong] == [400] * 4


def test_erasure_ends_in_a_receipt(client: TestClient, store: ProfileStore) -> None:
    receipt = client.delete(url("ana")).json()
    assert (receipt["user_id"], receipt["complete"], receipt["time"][:2]) == ("ana", True, "20")
    assert {"what": "records", "removed": 1, "left": 0} in receipt["parts"]
    assert any("backups" in each for each in receipt["not_reached"])
    assert "ana" not in store
    assert client.delete(url("ana")).json()["parts"][0] == {"what": "records", "removed": 0, "left": 0}


def test_each_route_needs_its_scope_and_its_user(client: TestClient, store: ProfileStore) -> None:
    routes: list[tuple[str, tuple[str, ...], str, Any]] = [
        ("PUT", ("records",), "write", {"text": "a"}),
        ("GET", ("records",), "write", None),
        ("GET", ("records", "ana-1"), "write", None),
        ("PUT", ("records", "ana-1"), "write", {"text": "a"}),
        ("PATCH", ("records", "ana-1"), "write", {"text": "b"}),
        ("POST", ("feedback",), "write", {"type": "rating", "prompt": "p", "answer": "a", "rating": 1}),
        ("GET", (), "write", None),
        ("DELETE", ("records", "ana-1"), "erase", None),
        ("DELETE", (), "erase", None),
    ]
    keys, statuses = KeyStore(store), {}
    for scope in ("ask", "write", "erase"):
        mine, _ = keys.make("mine", [scope], user_id="ana")
        others, _ = keys.make("others", [scope], user_id="ben")
        for method, rest, _, body in routes if scope != "erase" else reversed(routes[:-1]):
            for secret, whose in ((others, "ben's"), (mine, "ana's")):
                client.headers["Authorization"] = f"Bearer {secret}"
                reply = client.request(method, url("ana", *rest), json=body)
                statuses[method, rest, scope, whose] = reply.status_code
    for method, rest, needed, _ in routes[:-1]:
        for scope in ("ask", "write", "erase"):
            assert statuses[method, rest, scope, "ben's"] == 403
            assert (statuses[method, rest, scope, "ana's"] < 300) == (scope == needed), (method, rest, scope)
    everybody, _ = keys.make("all", ["erase"])
    assert client.delete(url("ana"), headers={"Authorization": f"Bearer {mine}"}).status_code == 200
    # The key went with its user.
    assert client.delete(url("ana"), headers={"Authorization": f"Bearer {mine}"}).status_code == 401
    assert client.delete(url("ben"), headers={"Authorization": f"Bearer {everybody}"}).json()["complete"]


ODD = ("/", "a/b", "..", ".", "../..", "%2F", "%", "a b+c", "?#&=", "é/雪", "a" * MAX_ID_LENGTH, "\n", "\\", "records")
ANY = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=24)
IDS = ANY | st.sampled_from(ODD)


@pytest.fixture(scope="module")
def any_id(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a real server."""

    with (
        ProfileStore(f"sqlite:///{tmp_path_factory.mktemp('ids')}/persona.db") as store,
        running(app(store).state.persona) as address,
        httpx.Client(base_url=address) as client,
    ):
        yield client


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(user=IDS, record=IDS)
@example("..", "..")
@example("a/records", "b/../c")
def test_any_legal_id_works_through_a_real_client(any_id: httpx.Client, user: str, record: str) -> None:
    put = any_id.put(url(user, "records", record), json={"text": "kept"})
    assert put.json()["ids"] == [record], put.text
    assert any_id.get(url(user)).json()["user_id"] == user
    assert any_id.get(url(user, "records", record)).json()["id"] == record
    assert [each["id"] for each in any_id.get(url(user, "records")).json()["data"]] == [record]
    assert any_id.delete(url(user, "records", record)).json()["id"] == record
    assert any_id.delete(url(user)).json()["user_id"] == user


def test_an_id_that_is_none_is_refused(client: TestClient) -> None:
    for path in ("/v1/users/%00", "/v1/users/%FF", "/v1/users/" + "a" * 513, "/v1/users/a%00b/records"):
        assert client.get(path).status_code == 400, path
    for path in ("/v1/users/", "/v1/users//records", "/v1/users/a/b", "/v1/users/a/records/b/c"):
        assert client.get(path).status_code == 404, path


def test_new_records_are_embedded_behind_the_requests_and_seen_at_once(store: ProfileStore) -> None:
    encoder = Watched()
    application = app(store, DenseRetriever(encoder, store))
    with local(application) as client:
        client.put(url("cleo", "records"), json=[{"text": "a garden"}, {"text": "a roof"}])
        assert len(store.profile("cleo")) == 2
        assert application.state.embedding.wait(20)
        vectors = store.vectors("cleo", vector_fingerprint(encoder, "text"))
        assert vectors is not None
        assert len(vectors) == 2
        client.put(url("dora", "records"), json={"text": "late"})
    # Stopping drains what waits.
    assert store.vectors("dora", vector_fingerprint(encoder, "text")) is not None


def test_the_log_says_nothing_of_users(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client.put(url("zoltan", "records", "r77"), json={"text": "a secret word"})
    client.get(url("zoltan", "records", "nope99"))
    client.delete(url("zoltan"))
    lines = [json.loads(record.message) for record in caplog.records if record.name == "persona.serve"]
    assert [(line["method"], line["route"]) for line in lines] == [
        ("PUT", "/v1/users/{user_id}/records/{record_id}"),
        ("GET", "/v1/users/{user_id}/records/{record_id}"),
        ("DELETE", "/v1/users/{user_id}"),
    ]
    said = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    assert not any(word in said for word in ("zoltan", "r77", "secret", "nope99"))


def test_a_record_is_in_the_next_request(store: ProfileStore, client: TestClient) -> None:
    client.put(url("cleo", "records"), json={"text": "a garden on the roof"})
    personalizer = client.app.state.persona.personalizer  # type: ignore[attr-defined]
    assert "GARDEN ON THE ROOF" in personalizer.generate("cleo", "roof?").text
    client.delete(url("cleo"))
    assert "GARDEN ON THE ROOF" not in personalizer.generate("cleo", "roof?").text


def test_it_is_the_record_of_the_id_in_the_url(client: TestClient) -> None:
    assert client.put(url("cleo", "records", "a"), json={"text": "x", "id": "b"}).status_code == 400
    assert client.put(url("cleo", "records", "a"), json={"text": "x", "id": "a"}).json()["ids"] == ["a"]


@pytest.mark.slow
def test_an_answer_under_way_ends_when_its_user_is_forgotten(serve: Serve) -> None:
    address = serve("tiny", k=2)
    body = {"user": "ana", "stream": True, "max_tokens": 300, "temperature": 2.0, "seed": 3}
    asked = {**body, "messages": [{"role": "user", "content": "Tell me about the garden."}]}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=asked, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        receipt = httpx.delete(f"{address}{url('ana')}", timeout=60).json()
        rest = [line for line in lines if line]
    assert (receipt["complete"], receipt["dropped"]["answers being written"]) == (True, 1)
    assert "the request's user was forgotten" in rest[-1]
