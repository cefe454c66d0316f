"""The SQL of capture where a dataset is a view over several tables, on PostgreSQL.

A record has no row of its own here, so no lock of a row orders its versions: two transactions may
each change another of its tables, and neither sees what the other wrote. Hence:

1. Triggers on each table behind the view note only *which* records a statement touched, in
   `deptbus.touched`, with each row's old and new state. They lock nothing that others wait for.
2. The adapter reads a touched record from the view once the transaction that touched it can be
   seen, and draws its version then. Whoever does that holds an advisory lock of ours from before it
   reads until it has committed, so versions grow in the order of what was read.
3. What a view showed last is remembered (`deptbus.shown`): its place, which a later change names as
   a former one, a digest, by which what was touched and is as it was is dropped, and that it was
   there at all, so that a record which is gone is deleted. It is filled by a snapshot; until that
   has met all, and while capture has missed something, nothing is concluded from it but places.
4. A record is found from a row by the joins of the view. A row is in a record for as long as each
   row on the way stands; whoever takes one away touches the record by that row itself.
"""

from __future__ import annotations

from deptbus.department.layout import Layout, Part, comma, quoted, text_literal
from deptbus.department.postgres_schema import TableFacts
from deptbus.department.postgres_triggers import (
    _BY_INDEX,
    _RING,
    _STAMP,
    _TAG,
    EVENTS,
    SETTINGS,
    Functions,
    _set,
)
from deptbus.errors import DeptbusError

TABLES = (
    """CREATE TABLE IF NOT EXISTS deptbus.touched (
  position bigint PRIMARY KEY,
  dataset text NOT NULL,
  raw text[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)""",
    "ALTER TABLE deptbus.touched SET (vacuum_truncate = false)",
    """CREATE TABLE IF NOT EXISTS deptbus.shown (
  dataset text NOT NULL,
  raw text[] NOT NULL,
  place text,
  digest text NOT NULL,
  PRIMARY KEY (dataset, raw)
)""",
)
TABLE_NAMES = ("touched", "shown")
AS_TOUCHED = "touched"  # asked for as `live`, unless it is as it was shown last
UNSHOWN = (
    "SELECT l.dataset FROM unnest($1::text[]) AS l(dataset) WHERE NOT EXISTS "
    "(SELECT 1 FROM deptbus.shown s WHERE s.dataset = l.dataset) ORDER BY 1"
)

ORDERED = 0x6465707462757332  # "deptbus2": the advisory lock of rule 2; per database by nature


def forget_unshown(layout: Layout, facts: TableFacts) -> list[str]:
    """Statements, under `postgres_rows.FORM`: what is remembered of records that are gone goes, and
    those that are touched just now are as if never compared."""
    d = text_literal(layout.dataset)
    same = " AND ".join(
        f't.{quoted(k)}::text COLLATE "C" = s.raw[{n}]' for n, k in enumerate(layout.keys, 1)
    )
    return [
        f"SELECT pg_advisory_xact_lock({ORDERED})",
        f"DELETE FROM deptbus.shown s WHERE s.dataset = {d} "
        f"AND NOT EXISTS (SELECT 1 FROM {facts.table} t WHERE {same})",
        "UPDATE deptbus.shown s SET digest = '' FROM deptbus.touched n "
        f"WHERE s.dataset = {d} AND n.dataset = {d} AND s.raw = n.raw",
    ]


def part_suffix(number: int) -> str:
    """Of the triggers and functions of one of the tables behind a view."""
    return f"_{number}"


class ViewFunctions(Functions):
    """Writes the functions of one dataset that is a view."""

    def __init__(self, layout: Layout, facts: TableFacts) -> None:
        super().__init__(layout, facts)
        self._parts = {part.table: part for part in layout.parts}
        for part in layout.parts:
            self._way(part)  # raises where the joins lead nowhere

    def all(self) -> list[str]:
        made = [self._enqueue(), self._advance(), self._keys()]
        for number, part in enumerate(self._layout.parts):
            suffix = part_suffix(number)
            both = "(SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows)"
            for event, rows in (("insert", "new_rows"), ("update", both), ("delete", "old_rows")):
                counted = "old_rows" if event == "delete" else "new_rows"
                count = f"SELECT count(*) INTO counted FROM {counted};"
                body = self._touch(part, rows)
                made.append(self._guarded(f"{event}{suffix}", count, body, True))
            made.append(self._emptied(f"truncate{suffix}"))
        return made

    def names(self) -> list[str]:
        """Of all functions, without their schema."""
        numbers = range(len(self._layout.parts))
        made = [f"{event}{part_suffix(number)}" for number in numbers for event in EVENTS]
        return [f"{self._layout.dataset}_{name}" for name in made]

    def _way(self, part: Part) -> list[Part]:
        """From a table to the one that has the natural key."""
        way = [part]
        while not way[-1].keys:
            following = self._parts.get(way[-1].through)
            if following is None or following in way or not way[-1].on:
                raise DeptbusError(
                    f"dataset {self._layout.dataset}: table {part.table} leads to no natural key",
                    mend="Say `key:`, or `through:` and `on:`, at each of its `tables:`",
                )
            way.append(following)
        return way

    def _touch(self, part: Part, rows: str) -> str:
        way = self._way(part)
        joins = "".join(
            f" JOIN {self._facts.behind[other.table]} p{n} ON "
            + " AND ".join(
                f"p{n}.{quoted(theirs)} = p{n - 1}.{quoted(own)}" for own, theirs in way[n - 1].on
            )
            for n, other in enumerate(way[1:], 1)
        )
        last = f"p{len(way) - 1}"
        keys = comma(f"{last}.{quoted(k)}::text" for k in way[-1].keys)
        return self._note(f"SELECT DISTINCT ARRAY[{keys}]::text[] AS raw FROM {rows} p0{joins}")

    def _note(self, query: str) -> str:
        return (
            "INSERT INTO deptbus.touched (position, dataset, raw)\n"
            f"    SELECT nextval('deptbus.position'), {text_literal(self._layout.dataset)}, s.raw "
            f"FROM ({query}) s WHERE array_position(s.raw, NULL) IS NULL;"
        )

    def _emptied(self, event: str) -> str:
        """TRUNCATE of any of the tables may be felt in all records."""
        count = (
            "IF current_setting('transaction_isolation') NOT IN "
            "('read committed', 'read uncommitted') THEN\n"
            "    PERFORM nextval('deptbus.gave_way');\n    RETURN NULL;\n    END IF;\n"
            f"    SELECT count(*) INTO counted FROM {self._facts.table};"
        )
        keys = self._text("t", self._layout.keys)
        body = self._note(f"SELECT DISTINCT {keys} AS raw FROM {self._facts.table} t")
        return self._guarded(event, count, body, False)

    def _enqueue(self) -> str:
        """As that of a table; what is asked for as AS_TOUCHED is enqueued only where it differs
        from what was shown last, and a record that was shown and is gone is deleted at once:
        `done`."""
        layout, table, d = self._layout, self._facts.table, text_literal(self._layout.dataset)
        casts = self._casts("a.asked_key")
        joined = " AND ".join(f"t.{quoted(k)} = {cast}" for k, cast in casts.items())
        exactly = " AND ".join(
            f't.{quoted(k)}::text COLLATE "C" = a.asked_key->>{i}'
            for i, k in enumerate(layout.keys)
        )
        head = "INSERT INTO deptbus.outbox (position, layout, op, cause, job, source_time_us, was"
        values = self._text("t", layout.columns)
        return f"""CREATE OR REPLACE FUNCTION deptbus.{quoted(f"{layout.dataset}_enqueue")}(
  asked jsonb, why text, for_job text
) RETURNS TABLE (own_key text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER{_set(*SETTINGS, *_BY_INDEX)}
AS {_TAG}
#variable_conflict use_column
DECLARE
  stamp bigint := {_STAMP};
  said text := CASE why WHEN '{AS_TOUCHED}' THEN 'live' ELSE why END;
BEGIN
  PERFORM pg_advisory_xact_lock({ORDERED});
  RETURN QUERY
  WITH a AS MATERIALIZED (
    SELECT DISTINCT ON (e) e AS asked_key,
      ARRAY(SELECT jsonb_array_elements_text(e)) AS raw FROM jsonb_array_elements(asked) AS e
  ), seen AS MATERIALIZED (
    SELECT DISTINCT ON (a.asked_key) a.asked_key, a.raw, {values} AS vals,
      {self._place("t")} AS place
    FROM a JOIN {table} t ON {joined}
    WHERE {exactly}
    ORDER BY a.asked_key, vals
  ), before AS MATERIALIZED (
    SELECT a.asked_key, a.raw, s.place, s.digest
    FROM a JOIN deptbus.shown s ON s.dataset = {d} AND s.raw = a.raw
  ), shown AS (
    INSERT INTO deptbus.shown AS s (dataset, raw, place, digest)
    SELECT {d}, n.raw, n.place, md5(n.vals::text) FROM seen n
    ON CONFLICT (dataset, raw) DO UPDATE SET place = excluded.place, digest = excluded.digest
    WHERE (s.place, s.digest) IS DISTINCT FROM (excluded.place, excluded.digest)
  ), added AS (
    {head}, raw, vals)
    SELECT nextval('deptbus.position'), {layout.number}, 'u', said, for_job, stamp,
      CASE WHEN b.place IS DISTINCT FROM n.place THEN b.place END, n.raw, n.vals
    FROM seen n LEFT JOIN before b ON b.asked_key = n.asked_key
    WHERE why <> '{AS_TOUCHED}' OR b.digest IS DISTINCT FROM md5(n.vals::text)
  ), gone AS (
    DELETE FROM deptbus.shown s USING before b
    WHERE s.dataset = {d} AND s.raw = b.raw
      AND NOT EXISTS (SELECT 1 FROM seen n WHERE n.asked_key = b.asked_key)
    RETURNING s.raw, s.place
  ), removed AS (
    {head}, raw)
    SELECT nextval('deptbus.position'), {layout.number}, 'd', said, for_job, stamp, g.place, g.raw
    FROM gone g
  )
  SELECT a.asked_key::text, CASE
    WHEN EXISTS (SELECT 1 FROM seen n WHERE n.asked_key = a.asked_key)
      OR EXISTS (SELECT 1 FROM before b WHERE b.asked_key = a.asked_key) THEN 'done'
    ELSE 'gone' END
  FROM a;
  {_RING}
END
{_TAG}"""

    def _advance(self) -> str:
        """As that of a table; nobody holds a record of a view."""
        layout, table = self._layout, self._facts.table
        order = comma(f"t.{quoted(k)}" for k in self._facts.order)
        casts = self._casts("behind")
        last = comma(casts[k] for k in self._facts.order)
        whole = " AND ".join(f"t.{quoted(k)} IS NOT NULL" for k in layout.keys)
        keys = self._text("t", layout.keys)
        function = f"deptbus.{quoted(f'{layout.dataset}_enqueue')}"

        def choose(after: str) -> str:
            return (
                f"SELECT array_agg(to_jsonb(s.raw) ORDER BY s.n) INTO chosen FROM (SELECT {keys} "
                f"AS raw, row_number() OVER (ORDER BY {order}) AS n FROM {table} t "
                f"WHERE {whole}{after} ORDER BY {order} LIMIT at_most) s;"
            )

        return f"""CREATE OR REPLACE FUNCTION deptbus.{quoted(f"{layout.dataset}_advance")}(
  behind jsonb, at_most integer, why text, for_job text,
  OUT enqueued bigint, OUT last jsonb, OUT is_done boolean, OUT skipped text[]
)
LANGUAGE plpgsql SECURITY DEFINER{_set(*SETTINGS, *_BY_INDEX)}
AS {_TAG}
#variable_conflict use_variable
DECLARE
  chosen jsonb[];
BEGIN
  IF behind IS NULL THEN
    {choose("")}
  ELSE
    {choose(f" AND ({order}) > ({last})")}
  END IF;
  is_done := coalesce(cardinality(chosen), 0) < at_most;
  last := chosen[cardinality(chosen)];
  SELECT count(*) INTO enqueued FROM {function}(to_jsonb(chosen), why, for_job) AS e
  WHERE e.outcome = 'done';
END
{_TAG}"""
