"""The schema endpoint, asked by hand and by the client that other tools use."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import uvicorn
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext
from starlette.applications import Starlette
from starlette.testclient import TestClient
from wire_samples import CONTROL, VALUES, change, contract, delivery

from deptbus.cluster.ports import free_port
from deptbus.contract.model import Policy
from deptbus.operations.monitor_http import schema_routes
from deptbus.operations.schema_registry import Registry, stored
from deptbus.operations.unit_sheet import unit_sheets
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import encode_control

NOW = datetime(2027, 1, 1, tzinfo=UTC)
CONTRACT = contract()
CODECS = Codecs(CONTRACT)
CODECS.delivery_schema_for("person", 1, ("name", "address"))
CODECS.delivery_schema_for("person", 1, ())
DATA = "data.person-value"


def registry() -> Registry:
    policy = Policy(number=1, activated_at=NOW, activated_by="t", contract=CONTRACT)
    found = [stored(number, text) for number, text in CODECS.schemas().items()]
    return Registry([s for s in found if s], unit_sheets(policy, NOW), CONTRACT.datasets)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    known = registry()
    with TestClient(Starlette(routes=schema_routes(lambda: known))) as client:
        yield client


def id_of(value: bytes) -> int:
    return int.from_bytes(value[1:5], "big")


def test_by_id(client: TestClient) -> None:
    number = id_of(CODECS.encode_change(change(None)))
    answer = client.get(f"/schemas/ids/{number}")
    assert answer.headers["content-type"] == "application/vnd.schemaregistry.v1+json"
    schema = json.loads(answer.json()["schema"])
    assert schema["name"] == "PersonChange"
    assert client.get(f"/schemas/ids/{number}/schema").json() == schema
    places = client.get(f"/schemas/ids/{number}/versions").json()
    assert {"subject": DATA, "version": 1} in places
    assert DATA in client.get(f"/schemas/ids/{number}/subjects").json()


def test_by_subject(client: TestClient) -> None:
    subjects = client.get("/subjects").json()
    assert DATA in subjects
    assert "bus.alarms-value" in subjects
    assert client.get("/subjects?subjectPrefix=data.").json() == [DATA]
    versions = client.get(f"/subjects/{DATA}/versions").json()
    assert versions == list(CONTRACT.schema_versions("person"))
    latest = client.get(f"/subjects/{DATA}/versions/latest").json()
    assert latest == client.get(f"/subjects/{DATA}/versions/{versions[-1]}").json()
    assert latest == client.get(f"/subjects/{DATA}/versions/-1").json()
    assert (latest["subject"], latest["version"]) == (DATA, versions[-1])
    assert client.get(f"/schemas/ids/{latest['id']}").json()["schema"] == latest["schema"]
    alone = client.get(f"/subjects/{DATA}/versions/latest/schema")
    assert alone.json() == json.loads(latest["schema"])


def test_an_inboxs_subject_has_what_may_come_to_that_unit() -> None:
    known = registry()
    for sheet in unit_sheets(
        Policy(number=1, activated_at=NOW, activated_by="t", contract=CONTRACT), NOW
    ):
        subject = f"in.{sheet.unit.replace('@', '-')}-value"
        mine = {frozenset(r.fields) for r in sheet.receives} | {frozenset()}
        found = [v.schema for v in known.versions(subject) if v.schema.kind == "delivery"]
        assert all(frozenset(schema.fields) in mine for schema in found)
        assert sheet.receives or not found


def test_versions_are_the_same_when_the_topic_is_written_again_in_another_order() -> None:
    texts = list(CODECS.schemas().items())
    one = Registry([s for s in (stored(*t) for t in texts) if s], (), CONTRACT.datasets)
    other = Registry([s for s in (stored(*t) for t in texts[::-1]) if s], (), CONTRACT.datasets)

    def numbers(known: Registry) -> Any:
        return {s: [(v.number, v.schema.id) for v in vs] for s, vs in known.by_subject.items()}

    assert numbers(one) == numbers(other)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/1", 404, 40403),
        ("/schemas/ids/none", 404, 40403),
        ("/schemas/ids/99999999999999999999/versions", 404, 40403),
        ("/subjects/none-value/versions", 404, 40401),
        ("/subjects/data.person-key/versions/latest", 404, 40401),
        (f"/subjects/{DATA}/versions/77", 404, 40402),
        (f"/subjects/{DATA}/versions/0", 422, 42202),
        (f"/subjects/{DATA}/versions/one", 422, 42202),
        (f"/config/{DATA}", 404, 40408),
        (f"/mode/{DATA}", 404, 40409),
    ],
)
def test_errors_have_a_registrys_codes(
    client: TestClient, path: str, status: int, code: int
) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/subjects/{DATA}/versions"),
        ("POST", f"/subjects/{DATA}"),
        ("DELETE", f"/subjects/{DATA}"),
        ("DELETE", f"/subjects/{DATA}/versions/1"),
        ("PUT", "/config"),
        ("PUT", f"/config/{DATA}"),
        ("PUT", "/mode"),
        ("POST", "/subjects"),
    ],
)
def test_nothing_can_be_written(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path, json={"schema": '"string"'})
    assert (answer.status_code, answer.json()["error_code"]) == (405, 405)
    assert "read-only" in answer.json()["message"]


def test_settings(client: TestClient) -> None:
    assert client.get("/config").json() == {"compatibilityLevel": "BACKWARD"}
    assert client.get("/mode").json() == {"mode": "READONLY"}
    assert client.get(f"/config/{DATA}?defaultToGlobal=true").json() == {
        "compatibilityLevel": "BACKWARD"
    }
    assert client.get("/schemas/types").json() == ["AVRO"]


def test_what_is_not_known_yet_is_no_404() -> None:
    with TestClient(Starlette(routes=schema_routes(lambda: None))) as client:
        answer = client.get("/schemas/ids/1")
    assert (answer.status_code, answer.json()["error_code"]) == (503, 50001)


# --- the client that other tools use ------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    known, port = registry(), free_port()
    app = Starlette(routes=schema_routes(lambda: known))
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_config=None, lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def foreign(served: str) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": served}) as client:
        yield client


def test_a_foreign_reader_decodes_our_records(foreign: SchemaRegistryClient) -> None:
    read = AvroDeserializer(foreign)
    where = SerializationContext("data.person", MessageField.VALUE)
    record = CODECS.record_codec("person", 1).encode(VALUES)
    found = read(CODECS.encode_change(change(record)), where)
    assert found["source_unit"] == change(record).source_unit
    assert found["version"] == change(record).version
    assert found["record"]["name"] == VALUES["name"]
    assert read(CODECS.encode_change(change(None)), where)["record"] is None
    sent = change(record)
    some, none = CODECS.encode_deliveries(sent, [delivery("name", "address"), delivery()], 3)
    inbox = SerializationContext("in.housing-330106", MessageField.VALUE)
    assert set(read(some, inbox)["record"]) == {"name", "address"}
    assert read(none, inbox)["record"] is None


@pytest.mark.parametrize("record", CONTROL, ids=lambda r: type(r).__name__)
def test_a_foreign_reader_decodes_control_records(
    foreign: SchemaRegistryClient, record: Any
) -> None:
    read = AvroDeserializer(foreign)
    found = read(encode_control(record), SerializationContext("bus.any", MessageField.VALUE))
    assert isinstance(found, dict)


def test_the_client_finds_subjects_and_is_refused_what_it_may_not(
    foreign: SchemaRegistryClient,
) -> None:
    assert DATA in foreign.get_subjects()
    latest = foreign.get_latest_version(DATA)
    assert foreign.get_versions(DATA) == [latest.version]
    schema = foreign.get_schema(latest.schema_id)
    with pytest.raises(SchemaRegistryError) as missing:
        foreign.get_latest_version("none-value")
    assert missing.value.error_code == 40401
    with pytest.raises(SchemaRegistryError) as refused:
        foreign.register_schema(DATA, schema)
    assert refused.value.http_status_code == 405


def test_a_planted_lie_is_found(monkeypatch: pytest.MonkeyPatch, served: str) -> None:
    """An id that is answered with another schema breaks the foreign reader: the test can fail."""
    record = CODECS.record_codec("person", 1).encode(VALUES)
    value = bytearray(CODECS.encode_change(change(record)))
    other = id_of(encode_control(CONTROL[0]))
    value[1:5] = other.to_bytes(4, "big")
    with SchemaRegistryClient({"url": served}) as client:
        read = AvroDeserializer(client)
        where = SerializationContext("data.person", MessageField.VALUE)
        with pytest.raises(Exception):  # noqa: B017 - whatever the reader says of it
            assert read(bytes(value), where)["record"]["name"] == VALUES["name"]


def test_the_way_without_any_client(served: str) -> None:
    """As kcat asks."""
    number = id_of(CODECS.encode_change(change(None)))
    with urllib.request.urlopen(f"{served}/schemas/ids/{number}", timeout=10) as answer:
        assert json.loads(answer.read())["schema"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{served}/schemas/ids/5", timeout=10)
    with refused.value as error:
        assert json.loads(error.read())["error_code"] == 40403
