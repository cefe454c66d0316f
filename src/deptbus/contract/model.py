"""The contract as frozen values: what topics.yml, departments.yml, grants.yml and schemas/ say.

Loading from files is `contract.load`; checks across files are `contract.check`; the contract in
force travels on the bus as `Contract.to_json()` (topic `bus.contract`), with its policy number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
)

from deptbus.contract.territory import Level


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _without_empty(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Leaves out a setting that says nothing: contracts that lie on a bus keep their digests, and
    who does not know the setting yet can read those that do not use it."""
    for name in names:
        value = values.get(name)
        if value is None or (isinstance(value, dict) and not any(value.values())):
            values.pop(name, None)
    return values


class Sharing(StrEnum):
    """The three statutory classes of a field."""

    UNCONDITIONAL = "unconditional"
    CONDITIONAL = "conditional"
    NOT_SHARED = "not_shared"


class CanonicalForm(StrEnum):
    """Steps that bring a natural key to its one canonical form, applied in the order given."""

    TRIM = "trim"
    HALF_WIDTH = "half_width"
    UPPER = "upper"


class Check(StrEnum):
    """Checks of a field's value at the source, before anything is published."""

    DIVISION = "division"
    RESIDENT_ID = "resident_id"  # GB 11643, by its check digit
    CREDIT_CODE = "credit_code"  # GB 32100, by its check digit


class Rule(_Frozen):
    """Who receives a dataset in one direction, and which fields (an include-list)."""

    rule: str
    direction: Literal["horizontal", "upward", "downward", "return"]
    lines: tuple[str, ...]
    levels: tuple[Level, ...] = ()  # empty: every level that the direction reaches
    fields: tuple[str, ...]


class Dataset(_Frozen):
    """One kind of record with one Avro schema, published by the units of one line."""

    title: str
    title_zh: str
    line: str  # the owner line
    levels: tuple[Level, ...]  # levels at which units of that line publish it
    schema_version: int = Field(ge=1)  # the version in force: schemas/<dataset>.v<N>.avsc
    key: tuple[str, ...]  # fields of the natural key
    canonical: tuple[CanonicalForm, ...] = (
        CanonicalForm.TRIM,
        CanonicalForm.HALF_WIDTH,
        CanonicalForm.UPPER,
    )
    division: str  # the field that names the place that a record is about
    sharing: dict[str, Sharing]  # every field of the schema, and the not_shared ones beside it
    checks: dict[str, Check] = {}
    derived_from: tuple[str, ...] = ()
    receivers: tuple[Rule, ...] = ()
    # How long outboxes and inboxes keep its records: the longest stop that a recipient may make.
    retention_hours: int = Field(default=168, ge=1, le=87_600)
    # Its promise: it is refreshed at least this often; longer silence is an alarm with an owner.
    freshness_hours: float = Field(default=24, gt=0, le=87_600, allow_inf_nan=False)


def _calendar_day(value: Any) -> Any:
    """Pydantic takes 20271231 for seconds since 1970; a contract's day is spelled one way."""
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise ValueError("is not a date|Write a day that exists: 2027-12-31")
    return value


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
Day = Annotated[date, BeforeValidator(_calendar_day)]


def _service_hours(value: Any) -> Any:
    if isinstance(value, str) and not (_HOURS.fullmatch(value) and value[:5] < value[6:]):
        raise ValueError("is not a time of service|Write from when to when: 08:30-17:30")
    return value


_HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
ServiceHours = Annotated[str, BeforeValidator(_service_hours)]


def _duty_phone(value: Any) -> Any:
    if isinstance(value, str) and not _PHONE.fullmatch(value):
        raise ValueError(
            "is not a telephone number|Write 3 to 16 digits; + - ( ) and spaces may be"
        )
    return value


_PHONE = re.compile(r"(?=(?:\D*\d){3,16}\D*$)[+(]?\d[\d ()-]{1,28}\d")
Phone = Annotated[str, BeforeValidator(_duty_phone)]


class Duty(_Frozen):
    """Who is on duty: a post, so that it stays true when people change. It lies on the bus, where
    all units can read it."""

    name: str
    phone: Phone


class Unit(_Frozen):
    unit: str  # `line@territory`
    title: str
    title_zh: str
    owner: str  # who is rung when something stands
    systems: tuple[str, ...] = ("main",)
    key_fingerprint: str | None = None  # of the unit's own key secret; see wire.keys.fingerprint
    service_hours: ServiceHours | None = None  # `08:30-17:30` on working days; None: always
    duty: Duty | None = None  # whom an alarm names; None: the owner, without a number

    @model_serializer(mode="wrap")
    def _as_before(self, usual: Callable[[Unit], dict[str, Any]]) -> dict[str, Any]:
        return _without_empty(usual(self), "service_hours", "duty")

    @property
    def line(self) -> str:
        return self.unit.partition("@")[0]

    @property
    def territory(self) -> str:
        return self.unit.partition("@")[2]


class Line(_Frozen):
    title: str
    title_zh: str


class Calendar(_Frozen):
    """Days that are worked, or not, though the public calendar says otherwise."""

    closed: tuple[Day, ...] = ()
    open: tuple[Day, ...] = ()


def _clock_time(value: Any) -> Any:
    if isinstance(value, str) and not _CLOCK.fullmatch(value):
        raise ValueError("is not a time of day|Write it from 00:00 to 23:59: 02:30")
    return value


_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
ClockTime = Annotated[str, BeforeValidator(_clock_time)]


class Proofs(_Frozen):
    """Every copy is proved equal to its source by itself, once a day."""

    at: ClockTime  # by China's clock
    deep: bool = False  # the real rows too, not only what the bookkeeping says of them


class Grant(_Frozen):
    """Permission for one unit to receive named conditional (or, across line and territory, any
    published) fields of a dataset, for a purpose, in a territory, until a date.

    Live from the first instant of `starts` to the last of `until`, in China's time (UTC+8).
    """

    grant: str
    unit: str
    dataset: str
    fields: tuple[str, ...]
    purpose: str
    territory: str  # records about places within it
    starts: Day
    until: Day


GuardedAct = Literal["replay", "repair"]


def _acts(value: Any) -> Any:
    if not value:
        raise ValueError("names no act|Write [replay, repair], or leave `two_people` out")
    return value


class TwoPeople(_Frozen):
    """What one person of the data office may not do alone: another has to confirm it."""

    acts: Annotated[tuple[GuardedAct, ...], AfterValidator(_acts)]
    datasets: tuple[str, ...] = ()  # empty: all

    def ask_for(self, act: GuardedAct, datasets: Collection[str]) -> bool:
        is_meant = not self.datasets or not set(self.datasets).isdisjoint(datasets)
        return act in self.acts and is_meant


Partitions = Annotated[int, Field(ge=1, le=256)]
DEFAULT_PARTITIONS = 4


class Contract(_Frozen):
    """All that was agreed. Two contracts are the same if and only if their digests are."""

    territories: dict[str, str]  # code -> name
    lines: dict[str, Line]
    units: tuple[Unit, ...]
    datasets: dict[str, Dataset]
    grants: tuple[Grant, ...]
    schemas: dict[str, dict[str, Any]]  # "resident.v1" -> the Avro record schema as parsed JSON
    partitions: Partitions = DEFAULT_PARTITIONS  # of every canonical topic, outbox and inbox
    calendar: Calendar = Calendar()
    office: Duty | None = None  # of the data office, which runs the bus
    proofs: Proofs | None = None  # None: only when somebody asks
    two_people: TwoPeople | None = None  # None: an operator acts alone

    @model_serializer(mode="wrap")
    def _as_before(self, usual: Callable[[Contract], dict[str, Any]]) -> dict[str, Any]:
        return _without_empty(usual(self), "calendar", "office", "proofs", "two_people")

    def to_json(self) -> str:
        """One form for one content: keys sorted, no spaces."""
        import json

        return json.dumps(
            self.model_dump(mode="json"), ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Contract:
        return cls.model_validate_json(text)

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> Contract:
        """Pydantic copies cached properties too, and those of the original would be wrong here."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("digest", "unit_by_name"):
            copied.__dict__.pop(name, None)
        return copied

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_json()`, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def unit_by_name(self) -> dict[str, Unit]:
        return {u.unit: u for u in self.units}

    def record_schema(self, dataset: str, version: int | None = None) -> dict[str, Any]:
        """The Avro record schema of a dataset (the version in force unless one is given)."""
        number = version if version is not None else self.datasets[dataset].schema_version
        return self.schemas[f"{dataset}.v{number}"]

    def schema_versions(self, dataset: str) -> tuple[int, ...]:
        """All released versions of a dataset's schema, ascending."""
        prefix = f"{dataset}.v"
        return tuple(sorted(int(n[len(prefix) :]) for n in self.schemas if n.startswith(prefix)))

    def field_names(self, dataset: str, version: int | None = None) -> tuple[str, ...]:
        return tuple(f["name"] for f in self.record_schema(dataset, version)["fields"])

    def may_publish(self, unit: str, dataset: str) -> bool:
        """One datum, one source: the units of the owner line at the dataset's levels."""
        from deptbus.contract.territory import level_of

        known = self.unit_by_name.get(unit)
        owned = self.datasets.get(dataset)
        return (
            known is not None
            and owned is not None
            and known.line == owned.line
            and level_of(known.territory) in owned.levels
        )

    def published_by(self, unit: str) -> tuple[str, ...]:
        return tuple(name for name in self.datasets if self.may_publish(unit, name))


class Hold(_Frozen):
    """Deliveries to one unit, or of one dataset, stop at routing until it is lifted. It is no part
    of what was agreed: a contract comes and goes under it."""

    unit: str = ""  # one of the two is named
    dataset: str = ""
    reason: str
    held_by: str
    held_at: datetime

    @property
    def target(self) -> tuple[str, str]:
        return self.unit, self.dataset


class Policy(_Frozen):
    """A contract in force: the number that stands in every delivery made under it."""

    number: int
    activated_at: datetime  # grants live at this instant are the ones that this policy has
    activated_by: str
    contract: Contract
    holds: tuple[Hold, ...] = ()

    def hold_of(self, unit: str, dataset: str) -> Hold | None:
        """The hold that keeps deliveries of a dataset from a unit."""
        return next((h for h in self.holds if unit == h.unit or dataset == h.dataset), None)
