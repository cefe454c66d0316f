"""docker-compose.yml, Dockerfile and deploy/ against what the code reads and what Kafka needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose import ROOT, broker_settings, brokers, compose, password_of, variables

from deptbus.cli.main import NOUNS, load_noun
from deptbus.cluster.rights import OPERATIONS_USER, WORKER_USER, user_of
from deptbus.cluster.settings import SHARED, SINGLE_NODE
from deptbus.connection import Connection
from deptbus.console.settings import Settings
from deptbus.contract.department import load_department
from deptbus.contract.department_check import check_department
from deptbus.contract.load import load
from deptbus.errors import DeptbusError
from deptbus.metrics.address import METRICS_ADDRESS, address_of
from deptbus.metrics.catalogue import Teller

SERVICES: dict[str, Any] = compose()["services"]
OURS = {name: s for name, s in SERVICES.items() if s["image"] == "deptbus"}
ADMIN = "admin"
PROMETHEUS_FILE = "/etc/prometheus/prometheus.yml"


@pytest.mark.parametrize("name", brokers())
@pytest.mark.parametrize("setting", SHARED)
def test_a_broker_has_what_every_shape_of_the_bus_has(name: str, setting: str) -> None:
    assert broker_settings(SERVICES[name])[setting] == SHARED[setting]


@pytest.mark.parametrize("name", brokers())
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("default.replication.factor", "3"),
        ("min.insync.replicas", "2"),
        ("offsets.topic.replication.factor", "3"),
        ("transaction.state.log.replication.factor", "3"),
        ("transaction.state.log.min.isr", "2"),
        ("share.coordinator.state.topic.replication.factor", "3"),
        ("share.coordinator.state.topic.min.isr", "2"),
        ("unclean.leader.election.enable", "false"),
        ("broker.session.timeout.ms", "3000"),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "false"),
        ("super.users", "User:controller;User:broker;User:admin"),
        ("sasl.mechanism.controller.protocol", "PLAIN"),
        ("sasl.mechanism.inter.broker.protocol", "SCRAM-SHA-512"),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        ("listener.name.bus.scram-sha-512.connections.max.reauth.ms", "3600000"),
        ("controller.quorum.voters", "1@kafka-1:9093,2@kafka-2:9093,3@kafka-3:9093"),
    ],
)
def test_a_broker_is_one_of_three_with_users_and_rights(
    name: str, setting: str, value: str
) -> None:
    assert broker_settings(SERVICES[name])[setting] == value


def test_every_setting_that_is_lowered_for_a_single_node_is_named_or_left_at_its_default() -> None:
    """A replication setting of the embedded broker must not be forgotten here."""
    lowered = {name for name in SINGLE_NODE if "replica" in name or "isr" in name}
    for service in brokers().values():
        assert lowered <= broker_settings(service).keys()


def test_the_three_brokers_differ_in_id_address_and_disk_alone() -> None:
    settings = [broker_settings(service) for service in brokers().values()]
    differing = {name for one in settings for name in one if one[name] != settings[0][name]}
    assert differing == {"node.id", "advertised.listeners"}
    assert [one["node.id"] for one in settings] == ["1", "2", "3"]
    disks = {service["volumes"][1] for service in brokers().values()}
    assert len(disks) == len(settings) == 3


def test_the_image_is_the_kafka_that_is_embedded() -> None:
    from deptbus.cluster.jars import locked_jars

    (version,) = {jar.version for jar in locked_jars() if jar.artifact == "kafka_2.13"}
    assert {service["image"] for service in brokers().values()} == {f"apache/kafka:{version}"}


def read_by_the_code() -> set[str]:
    """Settings of a connection, and every other variable that is spelled out in the code."""
    named = {f"DEPTBUS_{field.upper()}" for field in Connection.model_fields}
    for path in (ROOT / "src" / "deptbus").rglob("*.py"):
        named |= set(re.findall(r'"(DEPTBUS_[A-Z_]+)"', path.read_text(encoding="utf-8")))
    return named


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_ours_is_one_that_the_code_reads(name: str) -> None:
    ours = {v for v in OURS[name]["environment"] if v.startswith("DEPTBUS_")}
    assert ours
    assert ours <= read_by_the_code()


@pytest.mark.parametrize("name", OURS)
def test_every_service_of_ours_can_be_a_connection_with_a_user_that_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in OURS[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    connection = Connection()  # type: ignore[call-arg]
    assert connection.security_protocol == "SASL_PLAINTEXT"
    for broker in brokers().values():
        made = dict(user.split("=") for user in broker["environment"]["SCRAM_USERS"].split())
        assert connection.sasl_password is not None
        assert made[connection.sasl_username] == connection.sasl_password.get_secret_value()
        advertised = broker_settings(broker)["advertised.listeners"].removeprefix("BUS://")
        assert advertised in connection.bootstrap.split(",")


@pytest.mark.parametrize(
    ("service", "user"),
    [
        ("topics", ADMIN),
        ("contract", OPERATIONS_USER),
        ("operations", OPERATIONS_USER),
        ("monitor", OPERATIONS_USER),
        ("console", OPERATIONS_USER),
        ("worker", WORKER_USER),
        ("install", user_of("housing@330106")),
        ("adapter", user_of("housing@330106")),
    ],
)
def test_each_part_has_the_user_that_its_rights_are_given_to(service: str, user: str) -> None:
    assert OURS[service]["environment"]["DEPTBUS_SASL_USERNAME"] == user
    assert (user == ADMIN) == (service == "topics")


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_the_command_line_takes(name: str) -> None:
    noun, *words = OURS[name]["command"]
    command = load_noun(noun, NOUNS[noun])
    if NOUNS[noun].is_group and not words[0].startswith("-"):
        verb, *words = words
        command = command.commands[verb]
    command.make_context(noun, list(words), resilient_parsing=False)


def test_what_is_mounted_is_there_and_the_contract_is_the_bundled_one() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source
    mounted = {m.partition(":")[0] for m in OURS["topics"]["volumes"]}
    assert mounted == {"./topics.yml", "./departments.yml", "./grants.yml", "./schemas"}


def test_the_departments_file_is_right_under_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    password = password_of("HOUSING_DATABASE_PASSWORD")
    monkeypatch.setenv("HOUSING_DATABASE_PASSWORD", password)
    department = load_department(ROOT / "deploy" / "housing" / "department.yml")
    assert check_department(department, load(ROOT)) == []
    assert str(department.secret_file) == "/run/secrets/housing_key"
    database = department.systems["main"].database
    settings = SERVICES["postgres"]["environment"]
    assert database == (
        f"postgresql://{settings['POSTGRES_USER']}:{settings['POSTGRES_PASSWORD']}"
        f"@postgres/{settings['POSTGRES_DB']}"
    )
    own = (ROOT / "deploy" / "housing" / "tables.sql").read_text(encoding="utf-8")
    for publish in department.systems["main"].publishes.values():
        assert f"CREATE TABLE {publish.table} (" in own
        for column in publish.columns.values():
            assert re.search(rf"^    {column} ", own, re.MULTILINE)


PROMETHEUS: dict[str, Any] = yaml.safe_load(
    (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
)


def mounts(service: str) -> dict[str, str]:
    """What the container sees -> what it is here."""
    parts = (mount.split(":") for mount in SERVICES[service]["volumes"])
    return {inside: outside for outside, inside, *_ in parts}


def scraped() -> dict[str, tuple[str, int]]:
    """What Prometheus is told that a target is -> service, port."""
    found = {}
    for job in PROMETHEUS["scrape_configs"]:
        for static in job.get("static_configs", []):
            for target in static["targets"]:
                service, _, port = target.partition(":")
                found[static["labels"]["component"]] = service, int(port)
        for by_name in job.get("dns_sd_configs", []):
            (relabel,) = job["relabel_configs"]
            assert relabel["target_label"] == "component"
            found[relabel["replacement"]] = by_name["names"][0], by_name["port"]
    return found


def test_prometheus_scrapes_every_process_where_it_tells_its_figures() -> None:
    told = {
        name: address_of(service["environment"][METRICS_ADDRESS])
        for name, service in OURS.items()
        if METRICS_ADDRESS in service["environment"]
    }
    command = OURS["monitor"]["command"]
    told["monitor"] = address_of(command[command.index("--listen") + 1])
    assert scraped() == {teller.value: (teller.value, told[teller.value].port) for teller in Teller}
    assert {address.host for address in told.values()} == {"0.0.0.0"}


def test_the_console_is_reached_through_a_proxy_that_ends_tls() -> None:
    service = OURS["console"]
    words = service["command"]
    listen, url = (words[words.index(name) + 1] for name in ("--listen", "--public-url"))
    assert url == password_of("CONSOLE_URL")
    accounts = Path(service["environment"]["DEPTBUS_ACCOUNTS"])
    Settings(listen=listen, public_url="https://bus.example", accounts=accounts).check()
    with pytest.raises(DeptbusError, match="in clear"):
        Settings(listen=listen, public_url="http://bus.example", accounts=accounts).check()
    assert service["ports"] == [f"127.0.0.1:{address_of(listen).port}:{address_of(listen).port}"]
    # The account's file has to be the user's who writes it.
    assert mounts("console") == {str(accounts.parent): "console"}
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"install -d -o deptbus -m 700 {accounts.parent}" in dockerfile


def test_prometheus_has_the_rules_and_grafana_the_dashboard_and_where_to_ask() -> None:
    inside = mounts("prometheus")
    assert [inside[rules] for rules in PROMETHEUS["rule_files"]] == [
        "./deploy/prometheus/rules.yml"
    ]
    assert f"--config.file={PROMETHEUS_FILE}" in SERVICES["prometheus"]["command"]
    assert inside[PROMETHEUS_FILE] == "./deploy/prometheus/prometheus.yml"
    inside = mounts("grafana")
    dashboards = yaml.safe_load((ROOT / "deploy/grafana/dashboards.yml").read_text("utf-8"))
    (provider,) = dashboards["providers"]
    assert inside[f"{provider['options']['path']}/deptbus.json"] == "./deploy/grafana/deptbus.json"
    asked = yaml.safe_load((ROOT / "deploy/grafana/datasource.yml").read_text("utf-8"))
    (source,) = asked["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"


def test_what_is_published_is_published_on_the_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_password_is_asked_for_in_the_example_of_env() -> None:
    lines = (ROOT / "deploy" / "env.example").read_text(encoding="utf-8").splitlines()
    named = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert named == variables()
    assert all(line.endswith("=") for line in lines if line.partition("=")[0] in named)


def test_the_dockerfile_copies_what_is_there_and_what_the_wheel_needs() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        source
        for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source}" for source in copied} <= set(ignored)
    assert {"agents", "topics.yml", "departments.yml", "grants.yml", "schemas"} <= copied
