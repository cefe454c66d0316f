"""The bookkeeping tables of the recipient, in both databases' words.

`ledger`: one line per record (see `ledger.Entry`). `offsets`: how far each partition of the inbox
is applied, of which cluster and topic, and the policy floors. `statistics`: what became of
deliveries, by day. `unreadable`: places in the inbox whose bytes are no record of this bus.
`repairs`: orders of repairs whose deliveries are still to come.
`rebuilds`: every job that ever made a second copy of a dataset, and what came of it; its lines lie
in the ledger under a name of their own until the swap (see `rebuild`).
`existing`: of each received dataset whether its table had rows before the bus, and whether its
first load still waits for the department's yes (see `adoption`). `kept`: what stood in a row
before the bus wrote over it (see `kept_rows`). `emptied`: by what rows are found that stay since
their records went, where the bus made them or they have no own key.
`mapped`: datasets for which the inbox was read up to the offsets; others were left out.
"""

from __future__ import annotations

from deptbus.department.ledger import Entry

ENTRY_COLUMNS = tuple("row_key" if name == "row" else name for name in Entry._fields)
COLUMN_LIST = ", ".join(ENTRY_COLUMNS)
# Enough to judge what comes for a record; see `ledger.Glimpse`.
GLIMPSE_LIST = "key, version, policy, op, row_key, held"
UPDATED_COLUMNS = tuple(c for c in ENTRY_COLUMNS if c not in ("dataset", "source_unit", "key"))


def newer_lines(ledger: str) -> str:
    """What a line that is there already gets, for ON CONFLICT. A parked one whose old copy stays
    keeps the digest of what was written there, so that what is typed over it meanwhile is seen."""
    written = (
        "CASE WHEN excluded.held AND excluded.parked IS NOT NULL "
        f"THEN coalesce(excluded.written, {ledger}.written) ELSE excluded.written END"
    )
    return ", ".join(
        f"{c} = {written if c == 'written' else f'excluded.{c}'}" for c in UPDATED_COLUMNS
    )


_TYPES = {
    "key": "bytes",
    "record": "bytes",
    "row_key": "bytes",
    "delivered": "bytes",
    "written": "bytes",
    "version": "long",
    "policy": "long",
    "source_time_us": "long",
    "schema_version": "long",
    "parked_since_us": "long",
    "attempts": "long",
    "retry_at_us": "long",
    "applied_at_us": "long",
    "held": "flag",
}
_NULLABLE = {
    "job", "record", "row_key", "delivered", "written", "parked", "parked_since_us", "retry_at_us",
}  # fmt: skip

POSTGRES_TYPES = {
    "bytes": "bytea",
    "long": "bigint",
    "flag": "boolean",
    "text": "text",
    "number": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}
SQLITE_TYPES = {
    "bytes": "BLOB",
    "long": "INTEGER",
    "flag": "INTEGER",
    "text": "TEXT",
    "number": "INTEGER PRIMARY KEY",
}


def entry_types(types: dict[str, str]) -> tuple[str, ...]:
    return tuple(types[_TYPES.get(name, "text")] for name in ENTRY_COLUMNS)


def _ledger_columns(types: dict[str, str]) -> str:
    return ",\n  ".join(
        f"{name} {kind}{'' if name in _NULLABLE else ' NOT NULL'}"
        for name, kind in zip(ENTRY_COLUMNS, entry_types(types), strict=True)
    )


def _tables(prefix: str, types: dict[str, str]) -> tuple[str, ...]:
    text, long = types["text"], types["long"]
    return (
        f"""CREATE TABLE IF NOT EXISTS {prefix}ledger (
  {_ledger_columns(types)},
  PRIMARY KEY (dataset, source_unit, key)
)""",
        f"""CREATE TABLE IF NOT EXISTS {prefix}offsets (
  topic {text} NOT NULL,
  part {long} NOT NULL,
  next_offset {long} NOT NULL,
  cluster_id {text} NOT NULL,
  topic_id {text} NOT NULL,
  floors {text} NOT NULL,
  PRIMARY KEY (topic, part)
)""",
        f"""CREATE TABLE IF NOT EXISTS {prefix}statistics (
  day {text} NOT NULL,
  dataset {text} NOT NULL,
  cause {text} NOT NULL,
  direction {text} NOT NULL,
  outcome {text} NOT NULL,
  deliveries {long} NOT NULL,
  PRIMARY KEY (day, dataset, cause, direction, outcome)
)""",
        f"""CREATE TABLE IF NOT EXISTS {prefix}unreadable (
  topic {text} NOT NULL,
  part {long} NOT NULL,
  place {long} NOT NULL,
  reason {text} NOT NULL,
  noted_at_us {long} NOT NULL,
  PRIMARY KEY (topic, part, place)
)""",
        f"CREATE TABLE IF NOT EXISTS {prefix}mapped (dataset {text} NOT NULL PRIMARY KEY)",
        f"""CREATE TABLE IF NOT EXISTS {prefix}existing (
  dataset {text} NOT NULL PRIMARY KEY,
  had_rows {types["flag"]} NOT NULL,
  waits {types["flag"]} NOT NULL,
  changed_at_us {long} NOT NULL
)""",
        f"""CREATE TABLE IF NOT EXISTS {prefix}kept (
  number {types["number"]},
  dataset {text} NOT NULL,
  source_unit {text} NOT NULL,
  key {types["bytes"]} NOT NULL,
  row_key {types["bytes"]} NOT NULL,
  origin {text} NOT NULL,
  own {text} NOT NULL,
  kept_at_us {long} NOT NULL,
  restored_at_us {long}
)""",
        f"""CREATE TABLE IF NOT EXISTS {prefix}emptied (
  dataset {text} NOT NULL,
  source_unit {text} NOT NULL,
  key {types["bytes"]} NOT NULL,
  row_key {types["bytes"]} NOT NULL,
  place {text} NOT NULL,
  PRIMARY KEY (dataset, source_unit, key)
)""",
        f"""CREATE TABLE IF NOT EXISTS {prefix}repairs (
  job {text} NOT NULL,
  dataset {text} NOT NULL,
  key {types["bytes"]} NOT NULL,
  seen {types["bytes"]} NOT NULL,
  action {text} NOT NULL,
  overwrite {types["flag"]} NOT NULL,
  ordered_at_us {long} NOT NULL,
  PRIMARY KEY (job, dataset, key)
)""",
        f"""CREATE TABLE IF NOT EXISTS {prefix}rebuilds (
  job {text} NOT NULL PRIMARY KEY,
  dataset {text} NOT NULL,
  state {text} NOT NULL,
  reason {text} NOT NULL,
  ends {text} NOT NULL,
  counts {text} NOT NULL,
  is_tidy {types["flag"]} NOT NULL,
  changed_at_us {long} NOT NULL
)""",
    )


# Lines lie in the order in which records came first, not in that of their keys, which are random: a
# register that is written anew then touches ten times fewer pages than a table WITHOUT ROWID.
SQLITE_TABLES = (
    *_tables("deptbus_", SQLITE_TYPES),
    "CREATE INDEX IF NOT EXISTS deptbus_ledger_row ON deptbus_ledger (dataset, row_key) "
    "WHERE row_key IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS deptbus_ledger_parked ON deptbus_ledger (retry_at_us) "
    "WHERE parked IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS deptbus_kept_key ON deptbus_kept (dataset, key)",
    "CREATE INDEX IF NOT EXISTS deptbus_kept_row ON deptbus_kept (dataset, row_key)",
    "CREATE INDEX IF NOT EXISTS deptbus_emptied_row ON deptbus_emptied (dataset, row_key)",
)
# Half of each page is free: when a whole register is written anew, each new line finds room beside
# the old one, no index changes, and the table ends smaller than one whose new lines go elsewhere.
#
# Of a ledger that fills for the first time PostgreSQL knows nothing, and the statement that it has
# compiled by then stays: so only one index may serve each, or it walks all lines of a dataset for
# every batch until a vacuum counts them, a minute later. `POSTGRES_OF_ROWS` keeps the dataset out.
POSTGRES_TABLES = (
    "CREATE SCHEMA IF NOT EXISTS deptbus",
    *_tables("deptbus.", POSTGRES_TYPES),
    "ALTER TABLE deptbus.ledger SET (fillfactor = 48)",
    "DROP INDEX IF EXISTS deptbus.ledger_row",
    "CREATE INDEX IF NOT EXISTS ledger_of_row ON deptbus.ledger (row_key) "
    "WHERE row_key IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS ledger_parked ON deptbus.ledger (retry_at_us) "
    "WHERE parked IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS kept_key ON deptbus.kept (dataset, key)",
    "CREATE INDEX IF NOT EXISTS kept_row ON deptbus.kept (dataset, row_key)",
    "CREATE INDEX IF NOT EXISTS emptied_row ON deptbus.emptied (dataset, row_key)",
)
POSTGRES_OF_ROWS = "row_key = ANY($2::bytea[]) AND row_key IS NOT NULL AND (dataset = $1) IS TRUE"
