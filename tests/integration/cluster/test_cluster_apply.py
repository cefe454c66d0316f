"""Topics and rights on a real broker: plan, apply, plan again says nothing is left to do."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from deptbus.cluster import rights, topics
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.ports import LOOPBACK, free_port
from deptbus.connection import Connection
from deptbus.contract.model import Contract, Dataset, Unit
from deptbus.errors import BusRefused, BusUnreachable, DeptbusError, Exit

pytestmark = pytest.mark.service


def make_contract(*units: str) -> Contract:
    dataset = Dataset(
        title="a",
        title_zh="b",
        line="housing",
        levels=("county",),
        schema_version=1,
        key=("id",),
        division="division",
        sharing={},
    )
    return Contract(
        territories={},
        lines={},
        units=tuple(Unit(unit=u, title="a", title_zh="b", owner="c") for u in units),
        datasets={f"plan_{uuid.uuid4().hex[:8]}": dataset},
        grants=(),
        schemas={},
        partitions=2,
    )


@pytest.fixture
def contract() -> Contract:
    return make_contract(f"plan_{uuid.uuid4().hex[:8]}@330106")


def own(plan: topics.Plan, contract: Contract) -> set[str]:
    marks = [*contract.datasets, *(u.line for u in contract.units)]
    return {t.name for t in plan.create if any(mark in t.name for mark in marks)}


def test_apply_makes_what_plan_said_and_nothing_is_left(
    broker: Connection, contract: Contract
) -> None:
    wanted = topics.wanted(contract)
    plan = topics.plan(broker, wanted)
    assert len(own(plan, contract)) == 4
    topics.apply(broker, plan)
    there = AdminClient(broker.librdkafka()).list_topics(timeout=10).topics
    for topic in wanted:
        assert len(there[topic.name].partitions) == topic.partitions
        assert all(p.leader >= 0 for p in there[topic.name].partitions.values())
    assert topics.plan(broker, wanted).is_empty
    topics.apply(broker, plan)  # the same plan once more: what exists already is no error
    assert topics.plan(broker, wanted).is_empty


def test_a_setting_changed_by_hand_is_set_back(broker: Connection, contract: Contract) -> None:
    wanted = topics.wanted(contract)
    topics.apply(broker, topics.plan(broker, wanted))
    name = f"data.{next(iter(contract.datasets))}"
    resource = ConfigResource(ResourceType.TOPIC, name)
    resource.add_incremental_config(
        ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient(broker.librdkafka())
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    deadline = time.monotonic() + 20
    while (plan := topics.plan(broker, wanted)).is_empty:  # the broker learns of it in its time
        assert time.monotonic() < deadline
    assert [(c.topic, c.setting, c.old, c.new) for c in plan.change] == [
        (name, "cleanup.policy", "delete", "compact")
    ]
    topics.apply(broker, plan)
    assert topics.plan(broker, wanted).is_empty


def test_another_number_of_partitions_is_refused_and_nothing_is_done(
    broker: Connection, contract: Contract
) -> None:
    topics.apply(broker, topics.plan(broker, topics.wanted(contract)))
    more = contract.model_copy(update={"partitions": 4})
    plan = topics.plan(broker, topics.wanted(more))
    assert len(plan.refuse) == 3
    with pytest.raises(DeptbusError, match="it has 2 partitions, the contract says 4") as caught:
        topics.apply(broker, plan)
    assert caught.value.exit_code is Exit.ANSWER_IS_NO


def test_no_broker_and_a_broker_without_rights_are_told(broker: Connection) -> None:
    nowhere = Connection(bootstrap=f"{LOOPBACK}:{free_port()}")
    with pytest.raises(BusUnreachable, match="no broker answers at"):
        topics.plan(nowhere, ())
    plan = rights.plan(broker, rights.rights_for(make_contract("housing@330106")))
    with pytest.raises(BusRefused, match="check no rights"):
        rights.apply(broker, plan)


USERS = {"housing-330106": "a", "police-330106": "b", "deptbus-worker": "c"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Connection, Connection]]:
    """A broker that checks rights: (connection of its administrator, of a user to be named)."""
    port = free_port()
    users = " ".join(f'user_{user}="{password}"' for user, password in USERS.items())
    login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    folder = tmp_path_factory.mktemp("guarded")
    broker = EmbeddedBroker(folder, free_port(not_this=port))
    broker.prepare()  # to learn the ports it chose
    listeners = _setting(folder, "listeners")
    broker.release()
    settings = {
        "listeners": f"{listeners},CLIENTS://{LOOPBACK}:{port}",
        "advertised.listeners": f"PLAINTEXT://{broker.bootstrap},CLIENTS://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "CLIENTS:SASL_PLAINTEXT",
        "controller.quorum.voters": _setting(folder, "controller.quorum.voters"),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.clients.plain.sasl.jaas.config": login,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with EmbeddedBroker(folder, broker.port, extra_settings=settings) as server:
        client = Connection(
            bootstrap=f"{LOOPBACK}:{port}",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
        )
        yield server.connection, client


def test_rights_let_a_unit_write_its_own_out_and_hide_all_else(
    guarded: tuple[Connection, Connection],
) -> None:
    admin, client = guarded
    contract = make_contract("housing@330106", "police@330106")
    topics.apply(admin, topics.plan(admin, topics.wanted(contract)))
    plan = rights.plan(admin, rights.rights_for(contract))
    assert plan.give
    assert not plan.take
    rights.apply(admin, plan)
    rights.apply(admin, plan)
    assert rights.plan(admin, rights.rights_for(contract)).is_empty

    assert _write(client, "housing-330106", "out.housing-330106") is None
    assert _write(client, "housing-330106", "out.police-330106") in _HIDDEN
    assert _write(client, "housing-330106", "in.police-330106") in _HIDDEN
    assert _write(client, "deptbus-worker", "in.police-330106") is None
    assert _visible(client, "housing-330106") == {
        "out.housing-330106",
        "in.housing-330106",
        "control.housing-330106",
        "bus.contract",
        "bus.schemas",
    }

    left = make_contract("housing@330106")
    taken = rights.plan(admin, rights.rights_for(replace_units(contract, left)))
    assert {right.user for right in taken.take} == {"police-330106"}
    rights.apply(admin, taken)
    assert rights.plan(admin, rights.rights_for(replace_units(contract, left))).is_empty


def test_a_wrong_password_is_told_as_refused(guarded: tuple[Connection, Connection]) -> None:
    _, client = guarded
    with pytest.raises(BusRefused, match="refuses these credentials"):
        topics.plan(_as(client, "housing-330106", "wrong"), ())


_HIDDEN = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNKNOWN_TOPIC}


def replace_units(contract: Contract, left: Contract) -> Contract:
    return contract.model_copy(update={"units": left.units})


def _setting(folder: Path, name: str) -> str:
    text = (folder / "server.properties").read_text(encoding="utf-8")
    return next(line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}="))


def _as(client: Connection, user: str, password: str | None = None) -> Connection:
    words = {"sasl_username": user, "sasl_password": password or USERS[user]}
    return Connection(**{**client.model_dump(exclude_none=True), **words})


def _write(client: Connection, user: str, topic: str) -> int | None:
    """The error code with which one record was refused, None when it was taken.

    A right that was just given takes about a second to be known: a refusal is believed after two.
    """
    outcome: list[int | None] = []
    words = {"message.timeout.ms": 10_000, "enable.idempotence": True, "log_level": 0}
    producer = Producer(_as(client, user).librdkafka() | words)
    deadline = time.monotonic() + 2
    while True:
        try:
            producer.produce(
                topic,
                b"x",
                partition=0,
                on_delivery=lambda error, _: outcome.append(error.code() if error else None),
            )
            producer.flush(15)
        except KafkaException as error:  # what the producer has learnt already it says at once
            outcome.append(error.args[0].code())
            producer.poll(0.1)
        if outcome[-1] is None or time.monotonic() > deadline:
            return outcome[-1]


def _visible(client: Connection, user: str) -> set[str]:
    try:
        metadata = AdminClient(_as(client, user).librdkafka()).list_topics(timeout=10)
    except KafkaException as error:
        raise AssertionError(str(error)) from error
    return {name for name in metadata.topics if not name.startswith("__")}
