"""Names of topics, groups, units and the office's key: the only place where they are spelled.

A unit is written `housing@330106`; Kafka allows no `@`, so in topic names it is `housing-330106`.
"""

from __future__ import annotations

import re

CONTRACT = "bus.contract"  # one partition, kept whole: the history of policies is read from it
SCHEMAS = "bus.schemas"  # compacted: 4-byte id -> schema JSON
QUARANTINE = "bus.quarantine"  # notes of what could not be accepted; never content
AUDIT = "bus.audit"  # kept for ever: every act of an operator
AGENTS = "bus.agents"  # compacted: what each live agent works under
JOBS = "bus.jobs"  # compacted: progress of jobs
ALARMS = "bus.alarms"  # compacted: what was told of each alarm, and who has seen it
PROOFS = "bus.proofs"  # compacted: what the last proof of each source and copy came to

CERTIFICATE_KEY = "DEPTBUS_CERTIFICATE_KEY"  # names the file of the office's key
CERTIFICATE_KEY_FILE = "certificate.key"  # in the folder of a bus

WORKER_GROUP = "deptbus.worker"

UNIT = re.compile(r"^(?P<line>[a-z][a-z0-9_]{0,39})@(?P<territory>\d{2}|\d{4}|\d{6}|\d{9}|\d{12})$")


def unit_in_topic(unit: str) -> str:
    return unit.replace("@", "-")


def out_topic(unit: str) -> str:
    return f"out.{unit_in_topic(unit)}"


def in_topic(unit: str) -> str:
    return f"in.{unit_in_topic(unit)}"


def control_topic(unit: str) -> str:
    """Compacted companion of `out.<unit>`: heartbeats and announcements of its adapters."""
    return f"control.{unit_in_topic(unit)}"


def data_topic(dataset: str) -> str:
    return f"data.{dataset}"


def unit_of_topic(topic: str) -> str:
    """`out.housing-330106` -> `housing@330106` (also for `in.` and `control.`)."""
    line, _, territory = topic.partition(".")[2].rpartition("-")
    return f"{line}@{territory}"


def dataset_of_topic(topic: str) -> str:
    return topic.partition(".")[2]


def adapter_group(unit: str, system: str) -> str:
    """Consumer group under which an adapter commits, for lag only (SQL holds the truth)."""
    return f"deptbus.adapter.{unit_in_topic(unit)}.{system}"


def requests_group(unit: str, system: str) -> str:
    """Of a system that only publishes: how far it has read what it is asked for. Not its group as
    a recipient, whose offsets tell what is applied."""
    return f"{adapter_group(unit, system)}.requests"


def proof_marker(system: str, dataset: str) -> str:
    """Of the cuts of a source's proofs: canonical topics keep the last marker of each name for
    ever, so there is one name for all of them."""
    return f"proof/{system}/{dataset}"


# What people order of a recipient; the word before the first dash of a job's name says which.
REBUILD_JOBS = "rebuild-"
_REBUILT = "~rebuilt"  # no dataset's name ends so


def rebuilt_copy(dataset: str) -> str:
    """The copy of a dataset that is made beside the one in use, in bookkeeping and questions."""
    return f"{dataset}{_REBUILT}"


def is_rebuilt_copy(name: str) -> bool:
    return name.endswith(_REBUILT)


def dataset_of_copy(name: str) -> str:
    """The dataset of a copy, of whichever of the two."""
    return name.removesuffix(_REBUILT)
