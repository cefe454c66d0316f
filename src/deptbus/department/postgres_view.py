"""The SQL of capture where a dataset is a view over several tables, on PostgreSQL.

A record has no row of its own here, so no lock of a row orders its versions: two transactions may
each change another of its tables, and neither sees what the other wrote. Hence:

1. Triggers on each table behind the view note only what a statement touched, in `deptbus.touched`,
   by each row's old and new state: the record's key where the row has it, else its own columns of
   the join. Nothing of other tables is read for it: what somebody else has not committed yet, whose
   note may be looked at before this one is, would be left out. They lock nothing that others wait
   for.
2. The adapter finds the records of a noted row (`reach`) and reads them from the view once the
   transaction that touched it can be seen, and draws their versions then. So whoever is the last to
   commit of all that had to do with a record, a look behind him sees all of it. Whoever looks holds
   an advisory lock of ours from before he reads until he has committed, so versions grow in the
   order of what was read.
3. What a view showed last is remembered (`deptbus.shown`): its place, which a later change names as
   a former one, a digest, by which what was touched and is as it was is dropped, and that it was
   there at all, so that a record which is gone is deleted. It is filled by a snapshot; until that
   has met all, and while capture has missed something, nothing is concluded from it but places.
4. A record is found from a row by the joins of the view. A row is in a record for as long as each
   row on the way stands; whoever takes one away touches the record by that row itself.

`tests/model/views.py` has these rules in every order of some transactions.
"""

from __future__ import annotations

from collections.abc import Sequence

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
  raw text[] NOT NULL,
  part bigint,
  kib bigint
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
_NOTE_OCTETS = 80  # of a note beside its text
AS_TOUCHED = "touched"  # asked for as `live`, unless it is as it was shown last
UNSHOWN = (
    "SELECT l.dataset FROM unnest($1::text[]) AS l(dataset) WHERE NOT EXISTS "
    "(SELECT 1 FROM deptbus.shown s WHERE s.dataset = l.dataset) ORDER BY 1"
)

# Notes of a dataset: those that are a record's key, and keys by way of the others.
TOUCHED_KEYS = (
    "SELECT n.raw FROM deptbus.touched n WHERE n.dataset = {dataset} AND n.part IS NULL "
    "UNION SELECT r.raw FROM {reach}(ARRAY(SELECT n.position FROM deptbus.touched n "
    "WHERE n.dataset = {dataset} AND n.part IS NOT NULL)) AS r(raw)"
)
# In the place of some notes of rows come those of their records. Below all others, for nothing that
# the department writes is to find less room by it; who does it is alone (rule 2).
REACH = (
    "WITH gone AS (DELETE FROM deptbus.touched WHERE position = ANY($1)) "
    "INSERT INTO deptbus.touched (position, dataset, raw) "
    "SELECT (SELECT least(min(position), 0) FROM deptbus.touched) - row_number() OVER (), $2, "
    "r.raw FROM {reach}($1) AS r(raw)"
)

ORDERED = 0x6465707462757332  # "deptbus2": the advisory lock of rule 2; per database by nature
ALONE = f"SELECT pg_advisory_xact_lock({ORDERED})"


def forget_unshown(layout: Layout, facts: TableFacts) -> list[str]:
    """Statements, under `postgres_rows.FORM`: what is remembered of records that are gone goes, and
    those that are touched just now are as if never compared."""
    d = text_literal(layout.dataset)
    same = " AND ".join(
        f't.{quoted(k)}::text COLLATE "C" = s.raw[{n}]' for n, k in enumerate(layout.keys, 1)
    )
    return [
        ALONE,
        f"DELETE FROM deptbus.shown s WHERE s.dataset = {d} "
        f"AND NOT EXISTS (SELECT 1 FROM {facts.table} t WHERE {same})",
        f"UPDATE deptbus.shown s SET digest = '' FROM ({touched_keys(layout.dataset)}) n "
        f"WHERE s.dataset = {d} AND s.raw = n.raw",
    ]


def reach(dataset: str) -> str:
    return f"deptbus.{quoted(f'{dataset}_reach')}"


def touched_keys(dataset: str) -> str:
    return TOUCHED_KEYS.format(dataset=text_literal(dataset), reach=reach(dataset))


def _literal(name: str) -> str:
    """A column within the words of `format`."""
    return quoted(name).replace("%", "%%")


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
        made = [self._enqueue(), self._advance(), self._keys(), self._reach()]
        for number in range(len(self._layout.parts)):
            suffix = part_suffix(number)
            both = "(SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows)"
            for event, rows in (("insert", "new_rows"), ("update", both), ("delete", "old_rows")):
                counted = "(SELECT count(*) FROM old_rows)" if event == "update" else "count(*)"
                measured = "old_rows" if event == "delete" else "new_rows"
                count = (
                    f"SELECT {counted}, {self._note_octets(number)} INTO counted, octets "
                    f"FROM {measured} p;"
                )
                body = self._touch(number, rows)
                made.append(self._guarded(f"{event}{suffix}", count, body, True))
            made.append(self._emptied(f"truncate{suffix}"))
        return made

    def _settings(self) -> list[str]:
        """All: the keys that are noted are columns of other tables."""
        return list(SETTINGS)

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

    def _noted(self, number: int) -> tuple[str, ...]:
        """The columns of a part that a note has."""
        part = self._layout.parts[number]
        return part.keys or tuple(own for own, _ in part.on)

    def _note_octets(self, number: int) -> str:
        """As if each row were a note of its own."""
        names = (f"coalesce(octet_length(p.{quoted(n)}::text), 0)" for n in self._noted(number))
        return f"coalesce(sum({_NOTE_OCTETS} + {' + '.join(names)}), 0)"

    def _touch(self, number: int, rows: str) -> str:
        part, names = self._layout.parts[number], self._noted(number)
        raw = comma(f"p.{quoted(name)}::text" for name in names)
        query = f"SELECT DISTINCT ARRAY[{raw}]::text[] AS raw FROM {rows} p"
        return self._note(query, "NULL" if part.keys else str(number))

    def _note(self, query: str, part: str = "NULL") -> str:
        """What is null joins nothing, and is no key."""
        return (
            "INSERT INTO deptbus.touched (position, dataset, raw, part, kib)\n"
            f"    SELECT nextval('deptbus.position'), {text_literal(self._layout.dataset)}, s.raw, "
            f"{part}, mark FROM ({query}) s WHERE array_position(s.raw, NULL) IS NULL;"
        )

    def _reach(self) -> str:
        """`<dataset>_reach(noted)`: the keys of the records that the rows noted at these positions
        are in, as the tables are now. A column that has another type since is read by that one."""
        ways = [self._way(part) for part in self._layout.parts]
        made = [self._reached(number, way) for number, way in enumerate(ways) if len(way) > 1]
        found = "\n  UNION ".join(query for query, _ in made)
        types = comma(one for _, some in made for one in some)
        body = f"RETURN QUERY EXECUTE format($reach${found}$reach$, {types}) USING noted;"
        return f"""CREATE OR REPLACE FUNCTION {reach(self._layout.dataset)}(noted bigint[])
RETURNS SETOF text[] LANGUAGE plpgsql STABLE SECURITY DEFINER{_set(*SETTINGS, *_BY_INDEX)}
AS {_TAG}
BEGIN
  {body if made else "RETURN;"}
END
{_TAG}"""

    def _reached(self, number: int, way: Sequence[Part]) -> tuple[str, list[str]]:
        """A query with a place for the type of each own column of the join; what gives these."""
        source, types = "deptbus.touched n", []
        for at, other in enumerate(way[1:], 1):
            same = []
            for n, (own, theirs) in enumerate(way[at - 1].on, 1):
                ours = f"p{at - 1}.{_literal(own)}" if at > 1 else f"n.raw[{n}]::%s"
                same.append(f"p{at}.{_literal(theirs)} = {ours}")
                if at == 1:
                    types.append(
                        "(SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid "
                        f"= {text_literal(self._facts.behind[way[0].table])}::regclass "
                        f"AND attname = {text_literal(own)})"
                    )
            table = self._facts.behind[other.table].replace("%", "%%")
            source += f" JOIN {table} p{at} ON {' AND '.join(same)}"
        keys = comma(f"p{len(way) - 1}.{_literal(k)}::text" for k in way[-1].keys)
        whole = " AND ".join(f"p{len(way) - 1}.{_literal(k)} IS NOT NULL" for k in way[-1].keys)
        d = text_literal(self._layout.dataset)
        return (
            f"SELECT ARRAY[{keys}]::text[] FROM {source} WHERE n.position = ANY($1) "
            f"AND n.dataset = {d} AND n.part = {number} AND {whole}",
            types,
        )

    def _emptied(self, event: str) -> str:
        """TRUNCATE of any of the tables may be felt in all records."""
        count = (
            "IF current_setting('transaction_isolation') NOT IN "
            "('read committed', 'read uncommitted') THEN\n"
            "    PERFORM nextval('deptbus.gave_way');\n    RETURN NULL;\n    END IF;\n"
            f"    SELECT count(*), count(*) * {_NOTE_OCTETS} INTO counted, octets "
            f"FROM {self._facts.table};"
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
