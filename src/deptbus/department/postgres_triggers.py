"""The SQL of capture on PostgreSQL: the source side's tables, one dataset's triggers and functions.

The functions run inside the department's own transactions, with definer's rights:

1. Statement triggers with transition tables: 5 us a row where row triggers take 11. AFTER only (but
   for TRUNCATE), so the rows are locked when their positions are drawn: that makes the position
   the version. Positions of one key grow in the order of its commits.
2. No delete is written while another row bears the key: the table is looked at, and the row that
   bears it is written instead, with the place that the key had.
3. Nothing waits: where somebody locks our tables capture gives way at once, for others may wait
   in a row for what this transaction holds; any other lock is waited for 20 ms, once in a
   transaction. Nothing fails: an exception counts `gave_way` instead. It is a sequence, because a
   sequence needs no row lock and outlives a rollback.
4. A plan for one row is a disaster for 100,000 (nested loops over transition tables, which have no
   index) and the other way round, and plpgsql keeps the first: statements of many rows are planned
   anew each time.
5. NOTIFY in every transaction serialises commits. So the doorbell rings only when nobody can share
   an advisory lock: the idle reader holds it exclusively.
6. Triggers of the department's own run between its statement and ours and may write the table
   again; what they did is captured by then. A capture within another trigger leaves a mark in its
   transaction, and behind the mark the rows are written as the table has them, not as the
   statement left them. Cascades of a table onto itself bring two versions of a row into one
   transition table: the same remedy, known when the triggers are made.
7. Equality of citext, numeric and the like is not that of the text that is published: such columns
   are compared as text, letter by letter: a column may have a collation that knows no case.
8. A column that is generated when it is read cannot be read from transition tables, so rows with
   such a one are written as the table has them too, after every update.
9. A statement fires the triggers of the table that it names, and its transition tables have the
   rows of all partitions: so partitions have triggers of their own, for who writes to them alone.
   A row that an update moves to a partition may be refused there by a trigger, and is gone then:
   old rows are counted, for there may be fewer new ones.
10. Most statements of a department's program write one row, and there nothing counts but how much
   of SQL is made ready to run: each column that is named costs as much again as what is done with
   it. So the plain case (one short row, whose key has not moved, for which there is room) names
   each column once for its text, and all else is asked of the array of these. What is not plain
   goes the general way. First it looks whether there is a second row: transition tables of many
   must not be joined so, and a plan for many be kept for the one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deptbus.department.layout import Layout, comma, quoted, text_literal
from deptbus.department.postgres_schema import TableFacts
from deptbus.errors import DeptbusError

DOORBELL = 0x6465707462757331  # "deptbus1": the advisory lock; per database by nature
CHANNEL = "deptbus"

TABLES = (
    "CREATE SEQUENCE IF NOT EXISTS deptbus.position AS bigint",
    "CREATE SEQUENCE IF NOT EXISTS deptbus.gave_way AS bigint",
    # KiB that were ever captured. A sequence too: nobody waits for its row.
    "CREATE SEQUENCE IF NOT EXISTS deptbus.volume AS bigint",
    # Only one row. A write beyond limit_position or limit_kib is not captured.
    """CREATE TABLE IF NOT EXISTS deptbus.published (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  publication bigint NOT NULL DEFAULT 0,
  version bigint NOT NULL DEFAULT 0,
  cap_rows bigint NOT NULL,
  limit_position bigint NOT NULL,
  gave_way_seen bigint NOT NULL DEFAULT 0,
  cap_kib bigint NOT NULL DEFAULT 0,
  limit_kib bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20)""",
    """CREATE TABLE IF NOT EXISTS deptbus.layout (
  number integer PRIMARY KEY,
  dataset text NOT NULL,
  layout text NOT NULL,
  is_current boolean NOT NULL
)""",
    # Emptied as fast as it is filled: vacuum by count, not by share.
    """CREATE TABLE IF NOT EXISTS deptbus.outbox (
  position bigint PRIMARY KEY,
  layout integer NOT NULL,
  op text NOT NULL,
  cause text NOT NULL,
  job text,
  source_time_us bigint NOT NULL,
  was text,
  bus_key bytea,
  raw text[] NOT NULL,
  vals text[],
  kib bigint
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)""",
    # Vacuum gives the end of an emptied table back under a lock that nobody writes beside, for
    # longer than a capture waits: behind a bulk, live changes were not captured.
    *(
        f"ALTER TABLE deptbus.{table} SET (vacuum_truncate = false)"
        for table in ("outbox", "published")
    ),
    """CREATE TABLE IF NOT EXISTS deptbus.places (
  dataset text NOT NULL,
  bus_key bytea NOT NULL,
  places text NOT NULL,
  PRIMARY KEY (dataset, bus_key)
)""",
    """CREATE TABLE IF NOT EXISTS deptbus.variants (
  dataset text NOT NULL,
  bus_key bytea NOT NULL,
  raw text NOT NULL,
  state text NOT NULL,
  PRIMARY KEY (dataset, bus_key, raw)
)""",
    """CREATE TABLE IF NOT EXISTS deptbus.parked (
  dataset text NOT NULL,
  raw text NOT NULL,
  reason text NOT NULL,
  own_column text,
  position bigint NOT NULL,
  since_us bigint NOT NULL,
  PRIMARY KEY (dataset, raw)
)""",
    """CREATE TABLE IF NOT EXISTS deptbus.wanted (
  number bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  dataset text NOT NULL,
  raw text,
  bus_key bytea,
  cause text NOT NULL,
  job text,
  position bigint,
  after_xid xid8
)""",
    """CREATE TABLE IF NOT EXISTS deptbus.snapshot (
  dataset text PRIMARY KEY,
  cause text NOT NULL,
  job text,
  after text,
  enqueued bigint NOT NULL,
  skipped bigint NOT NULL,
  done boolean NOT NULL
)""",
)

TABLE_NAMES = (
    "published",
    "layout",
    "outbox",
    "places",
    "variants",
    "parked",
    "wanted",
    "snapshot",
    "pulse",
)

SETTINGS = (
    "search_path = pg_catalog, pg_temp",
    "lock_timeout = '20ms'",
    "timezone = 'UTC'",
    "datestyle = 'ISO, YMD'",
    "intervalstyle = 'iso_8601'",
    "bytea_output = 'hex'",
    "extra_float_digits = 1",
)
# Type -> those of SETTINGS that its text depends on; what is not named may depend on each. Every
# call of a function pays for each of its settings.
_TEXT_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("smallint", "integer", "bigint", "boolean", "numeric", "uuid"), ()),
    **dict.fromkeys(("text", "character varying", "character", "json", "jsonb"), ()),
    **dict.fromkeys(("date", "timestamp without time zone"), ("datestyle",)),
    "timestamp with time zone": ("datestyle", "timezone"),
    "interval": ("intervalstyle",),
    "bytea": ("bytea_output",),
    **dict.fromkeys(("real", "double precision"), ("extra_float_digits",)),
}
_NO_TEXT = ("search_path", "lock_timeout")
_FEW = 8
_ROW_OCTETS = 160  # of a row whose values are all short, beside those that may be long
_SHORT = (
    *("smallint", "integer", "bigint", "boolean", "date", "time", "uuid", "real", "double"),
    "numeric",
)
_BY_INDEX = ("enable_seqscan = off", "jit = off")

# By way of a double, which tells microseconds apart until the year 2255; numeric takes longer.
_STAMP = "(date_part('epoch', clock_timestamp()) * 1000000)::bigint"
_KIB_SO_FAR = "coalesce(pg_sequence_last_value('deptbus.volume'), 1)"
# Not within a trigger, not behind rule 6's mark, not ours, and nothing has made us give way.
_PLAIN = """pg_trigger_depth() = 1 AND concat(current_setting('deptbus.applying', true),
    current_setting('deptbus.gives_way', true), current_setting('deptbus.nested', true)) = ''"""

_LOCK = "LOCK TABLE deptbus.outbox, deptbus.published IN ROW EXCLUSIVE MODE NOWAIT;"

# A transaction that rang cannot be prepared: where some may be, the adapter's own look is enough.
_RING = f"""IF current_setting('max_prepared_transactions') = '0'
      AND NOT pg_try_advisory_xact_lock_shared({DOORBELL}) THEN
      PERFORM pg_notify('{CHANNEL}', '');
    END IF;"""

_TAG = "$deptbus$"
_UPSERT = "'u'"

EVENTS = ("insert", "update", "delete", "truncate")
# All of a trigger function while capture is paused: it is put in place without any lock on the
# department's tables.
PAUSED = "BEGIN RETURN NULL; END /* deptbus: paused */"
# What the adapter calls, with the types of the arguments.
HELPERS = {
    "enqueue": "(jsonb, text, text)",
    "advance": "(jsonb, integer, text, text)",
    "keys": "(jsonb, integer)",
}


HELPERS_OF_VIEWS = HELPERS | {"reach": "(bigint[])"}


def helpers_of(layout: Layout) -> dict[str, str]:
    return HELPERS_OF_VIEWS if layout.is_view else HELPERS


def helper_signatures(layout: Layout) -> list[str]:
    return [
        f"deptbus.{quoted(f'{layout.dataset}_{name}')}{types}"
        for name, types in helpers_of(layout).items()
    ]


def trigger_name(dataset: str, event: str) -> str:
    return f"deptbus_{dataset}_{event}"


def trigger(dataset: str, table: str, event: str, suffix: str = "") -> str:
    """`table`: quoted. `suffix`: of the function, where several tables have the dataset's."""
    tables = {
        "insert": "AFTER INSERT ON {t} REFERENCING NEW TABLE AS new_rows",
        "update": "AFTER UPDATE ON {t} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        "delete": "AFTER DELETE ON {t} REFERENCING OLD TABLE AS old_rows",
        "truncate": "BEFORE TRUNCATE ON {t}",
    }[event].format(t=table)
    function = f"deptbus.{quoted(f'{dataset}_{event}{suffix}')}"
    return (
        f"CREATE TRIGGER {quoted(trigger_name(dataset, f'{event}{suffix}'))} {tables} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    )


def _set(*settings: str) -> str:
    return "".join(f"\nSET {setting}" for setting in settings)


def _few_or_many(few: Sequence[str], many: Sequence[str], present: Sequence[str] = ()) -> str:
    """Rule 4: the plan that is kept is one for few rows; `many` has the time stamp as $1 and the
    volume as $2. `present`, with both too, is done instead where rule 6 asks for it."""

    def anew(statements: Sequence[str]) -> str:
        return "".join(f"    EXECUTE $many${s}$many$ USING stamp, mark;\n" for s in statements)

    planned = "".join(f"    {statement};\n" for statement in few)
    first = f"IF written_again THEN\n{anew(present)}    ELS" if present else ""
    return f"{first}IF counted <= {_FEW} THEN\n{planned}    ELSE\n{anew(many)}    END IF;"


class Functions:
    """Writes the functions of one dataset."""

    def __init__(self, layout: Layout, facts: TableFacts) -> None:
        self._layout = layout
        self._facts = facts
        if _TAG in layout.to_json():
            raise DeptbusError(f"dataset {layout.dataset}: a name holds {_TAG}")

    def all(self) -> list[str]:
        return [
            self._trigger("insert", "new_rows", self._inserted(), self._one_inserted()),
            self._trigger("update", "new_rows", self._changed(), self._one_changed()),
            self._trigger(
                "delete", "old_rows", self._removed(), self._one_removed(), by_index=True
            ),
            self._truncate(),
            self._enqueue(),
            self._advance(),
            self._keys(),
        ]

    def names(self) -> list[str]:
        """Of the triggers' functions, without their schema."""
        return [f"{self._layout.dataset}_{event}" for event in EVENTS]

    # --- pieces ---------------------------------------------------------------------------

    def _text(self, alias: str, columns: Sequence[str]) -> str:
        unseen = () if alias == "t" else self._facts.unseen
        parts = comma("NULL" if c in unseen else f"{alias}.{quoted(c)}::text" for c in columns)
        return f"ARRAY[{parts}]::text[]"

    def _comparable(self, alias: str, column: str) -> str:
        name = f"{alias}.{quoted(column)}"
        return name if column in self._facts.exact else f'{name}::text COLLATE "C"'

    def _same(self, left: str, right: str) -> str:
        """Condition: both have the same key, as text; written so that an index may be used."""
        made = []
        for k in self._layout.keys:
            if k not in self._facts.exact:
                made.append(f"{left}.{quoted(k)} = {right}.{quoted(k)}")
            made.append(f"{self._comparable(left, k)} = {self._comparable(right, k)}")
        return " AND ".join(made)

    def _place(self, alias: str) -> str:
        place = self._layout.place
        return f"{alias}.{quoted(place)}::text" if place else "NULL::text"

    def _row(self, op: str, stamp: str, was: str, raw: str, vals: str, kib: str = "") -> str:
        kib = kib or ("$2" if stamp == "$1" else "mark")
        # All columns in their order, with their types: else a plan has one more node.
        return (
            "INSERT INTO deptbus.outbox (position, layout, op, cause, job, source_time_us, was, "
            "bus_key, raw, vals, kib)\n"
            f"    SELECT nextval('deptbus.position'), {self._layout.number}, ({op})::text, "
            f"'live'::text, NULL::text, {stamp}, {was}, NULL::bytea, {raw}, {vals}, {kib}"
        )

    def _one(self, rows: str, chosen: Mapping[str, str], source: str) -> str:
        """Rule 10. `chosen`: variables, and what they get from `source`."""
        unchanged = (
            "ELSIF vals = former THEN\n        RETURN NULL;\n      " if "former" in chosen else ""
        )
        changed = "vals <> former AND " if "former" in chosen else ""
        kib = (
            "CASE WHEN random() * 1024 < pg_column_size(vals) THEN nextval('deptbus.volume') "
            "ELSE mark END"
        )
        op, was = ("how" if "how" in chosen else _UPSERT), ("was" if "was" in chosen else "NULL")
        return f"""IF {_PLAIN} THEN
  DECLARE
    how text;
    was text;
    raw text[];
    vals text[];
    former text[];
  BEGIN
    {_LOCK}
    PERFORM FROM {rows} LIMIT 1 OFFSET 1;
    IF NOT FOUND THEN
      SELECT {comma(chosen.values())}, {_KIB_SO_FAR}
      INTO {comma(chosen)}, mark
      FROM {source};
      IF {changed}pg_column_size(vals) < 1024 THEN
        {self._row(op, _STAMP, was, "raw", "vals", kib)}
        FROM deptbus.published p
        WHERE p.limit_kib >= mark
          AND p.limit_position > coalesce(pg_sequence_last_value('deptbus.position'), 1);
        IF FOUND THEN
          {_RING}
          RETURN NULL;
        END IF;
      {unchanged}END IF;
    END IF;
  END;
  END IF;
  """

    def _one_inserted(self) -> str:
        keys, values = (self._text("n", c) for c in (self._layout.keys, self._layout.columns))
        return self._one("new_rows", {"raw": keys, "vals": values}, "new_rows n")

    def _one_changed(self) -> str:
        keys, values = (self._text("n", c) for c in (self._layout.keys, self._layout.columns))
        chosen = {
            "raw": keys,
            "vals": values,
            "former": self._text("o", self._layout.columns),
            "was": self._former_place(),
        }
        source = f"new_rows n CROSS JOIN old_rows o WHERE {self._same('o', 'n')}"
        return self._one("old_rows", chosen, source)

    def _one_removed(self) -> str:
        how, was, raw, vals, source = self._left_row()
        chosen = {"how": how, "was": was, "raw": raw, "vals": vals}
        return self._one("old_rows", chosen, source)

    def _added(self, stamp: str, alias: str) -> str:
        values, keys = (self._text(alias, c) for c in (self._layout.columns, self._layout.keys))
        return f"{self._row(_UPSERT, stamp, 'NULL', keys, values)}\n    FROM new_rows n"

    def _inserted(self) -> str:
        present = f"{self._added('$1', 't')} JOIN {self._facts.table} t ON {self._same('t', 'n')}"
        return (
            f"IF written_again THEN\n    EXECUTE $many${present}$many$ USING stamp, mark;\n"
            f"    ELSE\n    {self._added('stamp', 'n')};\n    END IF;"
        )

    def _left_row(self) -> tuple[str, str, str, str, str]:
        """Op, former place, key, values and source. Keys of old rows: deletes with what was there
        (a row that comes back just so is no change), or the rows that bear them now (rule 2)."""
        first = f"t.{quoted(self._layout.keys[0])}"
        return (
            f"CASE WHEN {first} IS NULL THEN 'd' ELSE 'u' END",
            self._place("o"),
            self._text("o", self._layout.keys),
            f"CASE WHEN {first} IS NOT NULL THEN {self._text('t', self._layout.columns)} "
            f"ELSE {self._text('o', self._layout.columns)} END",
            f"old_rows o LEFT JOIN {self._facts.table} t ON {self._same('t', 'o')}",
        )

    def _left(self, stamp: str, where: str) -> str:
        op, was, raw, vals, source = self._left_row()
        return f"{self._row(op, stamp, was, raw, vals)}\n    FROM {source}{where}"

    def _differs(self) -> str:
        if self._facts.unseen:
            return "true"  # what such a column is made of may not be mapped
        return " OR ".join(
            f"{self._comparable('o', c)} IS DISTINCT FROM {self._comparable('n', c)}"
            for c in dict.fromkeys((*self._layout.keys, *self._layout.columns))
        )

    def _former_place(self) -> str:
        place = self._layout.place
        if place is None:
            return "NULL::text"
        was, now = self._comparable("o", place), self._comparable("n", place)
        return f"CASE WHEN {was} IS DISTINCT FROM {now} THEN {self._place('o')} END"

    def _changed(self) -> str:
        """An update: keys that were left, then rows in which something published differs."""
        layout = self._layout
        same, differs = self._same("o", "n"), self._differs()

        def statements(stamp: str, alias: str, also: str = "") -> tuple[str, str]:
            left = self._left(
                stamp, f"\n    WHERE NOT EXISTS (SELECT 1 FROM new_rows n WHERE {same})"
            )
            keys, values = (self._text(alias, c) for c in (layout.keys, layout.columns))
            row = self._row(_UPSERT, stamp, self._former_place(), keys, values)
            return left, (
                f"{row}\n    FROM new_rows n {also}LEFT JOIN old_rows o ON {same}\n"
                f"    WHERE o.{quoted(layout.keys[0])} IS NULL OR {differs}"
            )

        present = f"JOIN {self._facts.table} t ON {self._same('t', 'n')} "
        unchanged = (
            "IF counted = 1 AND NOT written_again THEN\n"
            f"    PERFORM 1 FROM new_rows n, old_rows o WHERE {same} AND NOT ({differs});\n"
            "    IF FOUND THEN\n      RETURN NULL;\n    END IF;\n    END IF;\n    "
        )
        return f"""{unchanged}seqscan := current_setting('enable_seqscan');
    jit := current_setting('jit');
    PERFORM set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true);
    {_few_or_many(statements("stamp", "n"), statements("$1", "n"), statements("$1", "t", present))}
    PERFORM set_config('enable_seqscan', seqscan, true), set_config('jit', jit, true);"""

    def _removed(self) -> str:
        return _few_or_many((self._left("stamp", ""),), (self._left("$1", ""),))

    def _octets(self, alias: str) -> str:
        return f"coalesce(sum({self._size(alias)}), 0)"

    def _size(self, alias: str) -> str:
        """So much a row takes in the outbox, roughly; what is long is never expanded for it."""
        sizes = [str(_ROW_OCTETS)]
        for column in self._layout.columns:
            declared, name = self._facts.types[column], f"{alias}.{quoted(column)}"
            if alias != "t" and column in self._facts.unseen:
                continue
            if declared.endswith("[]"):
                sizes.append(f"coalesce(octet_length({name}::text), 0)")
            elif declared.startswith(("text", "character", "bytea")):
                sizes.append(f"coalesce(octet_length({name}), 0)")
            elif not declared.startswith(_SHORT):
                sizes.append(f"coalesce(octet_length({name}::text), 0)")
        return " + ".join(sizes)

    # --- functions ------------------------------------------------------------------------

    def _settings(self) -> list[str]:
        """Of SETTINGS those that count for the values of this dataset."""
        layout, facts = self._layout, self._facts
        names = {*_NO_TEXT}
        for column in (*layout.keys, *layout.columns, *filter(None, [layout.place])):
            declared = re.sub(r"\([0-9, ]+\)", "", facts.types[column])
            known = _TEXT_BY.get(declared)
            if known is None and column in facts.exact:  # an enumeration
                known = _TEXT_BY.get("text")
            names |= {s.split(" ")[0] for s in SETTINGS} if known is None else {*known}
        return [setting for setting in SETTINGS if setting.split(" ")[0] in names]

    def _trigger(
        self, event: str, rows: str, body: str, one: str, *, by_index: bool = False
    ) -> str:
        is_seen = not self._facts.cascades and not self._facts.unseen
        counted = "(SELECT count(*) FROM old_rows)" if event == "update" else "count(*)"
        return self._guarded(
            event,
            f"SELECT {counted}, {self._octets('n')} INTO counted, octets FROM {rows} n;",
            body,
            by_index,
            one if is_seen else "",
        )

    def _truncate(self) -> str:
        """The keys are read before they are gone. A transaction whose snapshot is older than the
        lock does not see all of them, so it cannot be captured. A partition may be emptied alone,
        so the table is the one whose trigger this is."""
        keys, values = (self._text("t", c) for c in (self._layout.keys, self._layout.columns))
        row = self._row("'d'", "$1", self._place("t"), keys, values)
        count = (
            "IF current_setting('transaction_isolation') NOT IN "
            "('read committed', 'read uncommitted') THEN\n"
            "    PERFORM nextval('deptbus.gave_way');\n    RETURN NULL;\n    END IF;\n"
            f"    EXECUTE $many$SELECT count(*), {self._octets('t')} FROM $many$ "
            "|| TG_RELID::regclass || ' t' INTO counted, octets;"
        )
        body = f"EXECUTE $many${row} FROM $many$ || TG_RELID::regclass || ' t' USING stamp, mark;"
        return self._guarded("truncate", count, body, False)

    def _guarded(self, event: str, count: str, body: str, by_index: bool, one: str = "") -> str:
        """Rule 3 around the body: never waits, never fails, keeps to the cap, rings the bell.
        `one`: the plain case of rule 10."""
        settings = _set(*self._settings(), *(_BY_INDEX if by_index else ()))
        name = f"deptbus.{quoted(f'{self._layout.dataset}_{event}')}"
        applying = text_literal(f",{self._layout.dataset},")
        written_again = "true OR " if self._facts.cascades or self._facts.unseen else ""
        return f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER{settings}
AS {_TAG}
#variable_conflict use_variable
DECLARE
  counted bigint;
  octets bigint;
  room bigint;
  room_kib bigint;
  mark bigint;
  stamp bigint;
  written_again boolean;
  seqscan text;
  jit text;
BEGIN
  BEGIN
    {one}IF position({applying} IN coalesce(current_setting('deptbus.applying', true), '')) > 0 THEN
      RETURN NULL;
    END IF;
    IF current_setting('deptbus.gives_way', true) = 'yes' THEN
      PERFORM nextval('deptbus.gave_way');
      RETURN NULL;
    END IF;
    {_LOCK}
    IF pg_trigger_depth() > 1 THEN
      PERFORM set_config('deptbus.nested', 'yes', true);
    END IF;
    written_again := {written_again}coalesce(current_setting('deptbus.nested', true), '') = 'yes';
    stamp := {_STAMP};
    {count}
    IF counted = 0 THEN
      RETURN NULL;
    END IF;
    SELECT p.limit_position - s.last_value, p.limit_kib - v.last_value, v.last_value
    INTO STRICT room, room_kib, mark
    FROM deptbus.published p, deptbus.position s, deptbus.volume v;
    IF counted > room OR octets / 1024 > room_kib THEN
      PERFORM nextval('deptbus.gave_way');
      RETURN NULL;
    END IF;
    {body}
    -- Of a small row a part of a KiB, which chance makes a whole one as often as is due.
    octets := floor(octets / 1024.0 + random());
    IF octets > 0 THEN
      PERFORM nextval('deptbus.volume') FROM generate_series(1, octets);
    END IF;
    {_RING}
  EXCEPTION WHEN OTHERS THEN
    BEGIN
      IF SQLSTATE = '55P03' THEN
        PERFORM set_config('deptbus.gives_way', 'yes', true);
      END IF;
      PERFORM nextval('deptbus.gave_way');
    EXCEPTION WHEN OTHERS THEN
      RAISE WARNING 'deptbus: a change was not captured and this could not be noted';
    END;
  END;
  RETURN NULL;
END
{_TAG}"""

    def _casts(self, source: str) -> dict[str, str]:
        return {
            k: f"({source}->>{i})::{self._facts.types[k]}" for i, k in enumerate(self._layout.keys)
        }

    def _enqueue(self) -> str:
        """`<dataset>_enqueue(asked, cause, job)`: of each own key in the JSON array `asked` says
        `done` (enqueued under its row's lock), `locked` (somebody holds it) or `gone`."""
        layout, table = self._layout, self._facts.table
        casts = self._casts("a.asked_key")
        joined = " AND ".join(f"t.{quoted(k)} = {cast}" for k, cast in casts.items())
        exactly = " AND ".join(
            f't.{quoted(k)}::text COLLATE "C" = a.asked_key->>{i}'
            for i, k in enumerate(layout.keys)
        )
        return f"""CREATE OR REPLACE FUNCTION deptbus.{quoted(f"{layout.dataset}_enqueue")}(
  asked jsonb, why text, for_job text
) RETURNS TABLE (own_key text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER{_set(*SETTINGS, *_BY_INDEX)}
AS {_TAG}
#variable_conflict use_column
DECLARE
  stamp bigint := {_STAMP};
BEGIN
  RETURN QUERY
  WITH a AS MATERIALIZED (
    SELECT e AS asked_key FROM jsonb_array_elements(asked) AS e
  ), held AS MATERIALIZED (
    SELECT a.asked_key, {self._text("t", layout.keys)} AS raw,
      {self._text("t", layout.columns)} AS vals
    FROM a JOIN {table} t ON {joined}
    WHERE {exactly}
    FOR NO KEY UPDATE OF t SKIP LOCKED
  ), added AS (
    INSERT INTO deptbus.outbox (position, layout, op, cause, job, source_time_us, raw, vals)
    SELECT nextval('deptbus.position'), {layout.number}, 'u', why, for_job, stamp,
      held.raw, held.vals
    FROM held
  )
  SELECT a.asked_key::text, CASE
    WHEN h.asked_key IS NOT NULL THEN 'done'
    WHEN EXISTS (SELECT 1 FROM {table} t WHERE {joined} AND {exactly}) THEN 'locked'
    ELSE 'gone' END
  FROM a LEFT JOIN held h ON h.asked_key = a.asked_key;
  {_RING}
END
{_TAG}"""

    def _advance(self) -> str:
        """`<dataset>_advance(behind, at_most, why, for_job)`: enqueues the next rows of a snapshot
        under their locks, in the order of their keys. How many, the last key (null: there is no
        row), whether there was none behind them, and the keys of those that somebody held.

        A row that is seen and neither enqueued nor held was changed by somebody who has committed:
        its own capture is in the outbox. Rows are held when fewer were enqueued than the very same
        statement saw; which ones these are is asked only then."""
        layout, table = self._layout, self._facts.table
        order = comma(f"t.{quoted(k)}" for k in self._facts.order)
        backwards = comma(f"t.{quoted(k)} DESC" for k in self._facts.order)
        whole = " AND ".join(f"t.{quoted(k)} IS NOT NULL" for k in layout.keys)
        keys, values = (self._text("t", columns) for columns in (layout.keys, layout.columns))

        def bound(source: str) -> str:
            return comma(self._casts(source)[k] for k in self._facts.order)

        def run(after: str) -> str:
            behind = f"FROM {table} t WHERE {whole}{after}"
            some = f"{behind} AND ({order}) <= ({bound('last')})"
            return f"""SELECT to_jsonb({self._text("s", layout.keys)}) INTO last FROM (
    SELECT t.* {behind} ORDER BY {order} OFFSET at_most - 1 LIMIT 1) s;
    is_done := last IS NULL;
    IF is_done THEN
      SELECT to_jsonb({keys}) INTO last {behind} ORDER BY {backwards} LIMIT 1;
    END IF;
    WITH visible AS MATERIALIZED (SELECT count(*) AS n {some}),
    held AS MATERIALIZED (
      SELECT {keys} AS raw, {values} AS vals {some} FOR NO KEY UPDATE OF t SKIP LOCKED
    ), added AS (
      INSERT INTO deptbus.outbox (position, layout, op, cause, job, source_time_us, raw, vals)
      SELECT nextval('deptbus.position'), {layout.number}, 'u', why, for_job, stamp,
        held.raw, held.vals
      FROM held RETURNING 1
    )
    SELECT v.n, (SELECT count(*) FROM added) INTO seen, enqueued FROM visible v;
    IF enqueued < seen THEN
      SELECT array_agg({keys}) INTO skipped {some} AND NOT EXISTS (
        SELECT 1 FROM deptbus.outbox o
        WHERE o.position > begun AND o.layout = {layout.number} AND o.raw = {keys});
    END IF;"""

        return f"""CREATE OR REPLACE FUNCTION deptbus.{quoted(f"{layout.dataset}_advance")}(
  behind jsonb, at_most integer, why text, for_job text,
  OUT enqueued bigint, OUT last jsonb, OUT is_done boolean, OUT skipped text[]
)
LANGUAGE plpgsql SECURITY DEFINER{_set(*SETTINGS, *_BY_INDEX)}
AS {_TAG}
#variable_conflict use_variable
DECLARE
  stamp bigint := {_STAMP};
  seen bigint;
  begun bigint;
BEGIN
  SELECT p.last_value INTO begun FROM deptbus.position p;
  IF behind IS NULL THEN
    {run("")}
  ELSE
    {run(f" AND ({order}) > ({bound('behind')})")}
  END IF;
  {_RING}
END
{_TAG}"""

    def _keys(self) -> str:
        """`<dataset>_keys(behind, at_most)`: own keys in the order of their index."""
        layout, table = self._layout, self._facts.table
        order = comma(f"t.{quoted(k)}" for k in self._facts.order)
        casts = self._casts("behind")
        last = comma(casts[k] for k in self._facts.order)
        whole = " AND ".join(f"t.{quoted(k)} IS NOT NULL" for k in layout.keys)
        chosen = f"SELECT {self._text('t', layout.keys)} FROM {table} t WHERE {whole}"
        return f"""CREATE OR REPLACE FUNCTION deptbus.{quoted(f"{layout.dataset}_keys")}(
  behind jsonb, at_most integer
) RETURNS SETOF text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER{_set(*SETTINGS, *_BY_INDEX)}
AS {_TAG}
BEGIN
  IF behind IS NULL THEN
    RETURN QUERY {chosen} ORDER BY {order} LIMIT at_most;
  ELSE
    RETURN QUERY {chosen} AND ({order}) > ({last}) ORDER BY {order} LIMIT at_most;
  END IF;
END
{_TAG}"""
