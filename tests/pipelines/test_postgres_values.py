"""A value is the same in snapshot and stream, and what PostgreSQL says it is; PostgreSQL is the oracle."""

from __future__ import annotations

import random

import psycopg
import pytest

from pipelines.capture import capturing
from seeds import first_seed

# type → values as SQL literals (NULL is added to each)
TYPES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "real": ["'NaN'", "'-0'", "'Infinity'", "'-Infinity'", "1e-45", "3.4028235e38", "0.1"],
    "double precision": ["'NaN'", "'-0'", "'Infinity'", "1e-300", "1.7976931348623157e308", "0.1"],
    "numeric(10,2)": ["0.01", "-12345678.90", "'NaN'", "0"],
    "numeric(38,10)": ["1234567890123456789012345678.0123456789", "-0.0000000001"],
    "numeric(50,5)": ["123456789012345678901234567890123456789012345.12345"],
    "numeric": ["1e-100", "12345678901234567890123456789012345678901234567890", "1.10", "'NaN'", "1e20"],
    "text": ["''", "'ü € 🙂'", "E'tab\\tnew\\nline'", "repeat('x', 5000)", "'+00'"],
    "varchar(10)": ["'abc'", "''"],
    "char(5)": ["'ab'", "''"],
    '"char"': ["'x'"],
    "name": ["'some_name'"],
    "bytea": ["'\\x00ff10'", "''", "'\\xdeadbeef'"],
    "date": ["'2026-11-20'", "'0001-01-01'", "'0044-03-15 BC'", "'12345-06-07'", "'infinity'", "'-infinity'"],
    "time": ["'24:00:00'", "'00:00:00.000001'"],
    "timetz": ["'12:34:56.789+05:30'"],
    "timestamp": [
        "'2026-11-20 17:07:41.6'",
        "'1500-02-28 00:00:00'",
        "'0044-03-15 12:00:00 BC'",
        "'12345-06-07 08:09:10.000001'",
        "'infinity'",
        "'-infinity'",
        "'294276-12-31 23:59:59.999999'",
    ],
    "timestamptz": [
        "'2026-11-20 17:07:41.643212+02'",
        "'1969-12-31 23:59:59.999999+00'",
        "'0044-03-15 12:00:00+00 BC'",
        "'99999-01-01 00:00:00+00'",
        "'infinity'",
        "'-infinity'",
        "'294276-12-31 23:59:59.999999+00'",
    ],
    "interval": ["'-1 year 2 mons -3 days 04:05:06.789'", "'0'"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "json": ['\'{"b": 1, "a": [1.10, null]}\'', "'null'"],
    "jsonb": ['\'{"b": 1e400, "a": null}\'', "'null'", "'12345678901234567890.10'"],
    "inet": ["'192.168.0.1/24'", "'::1'"],
    "cidr": ["'10.0.0.0/8'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "bit(3)": ["B'101'"],
    "varbit": ["B'10101'"],
    "oid": ["4294967295"],
    "pg_lsn": ["'16/B374D848'"],
    "tsvector": ["'a fat cat'"],
    "mood": ["'sad'", "'it''s'"],
    "price": ["9.99", "-1"],
    # What has no type of its own in the lake is the server's text.
    "int[]": ["'{1,NULL,-3}'", "'{}'", "'{{1,2},{3,4}}'", "'[2:3]={1,2}'"],
    "text[]": ["ARRAY['a', 'b,c', '\"', E'\\\\', 'NULL', NULL, '', '🙂']", "ARRAY['a']"],
    "timestamptz[]": ["ARRAY['2026-11-20 17:07:41.6+02'::timestamptz, 'infinity']"],
    "double precision[]": ["ARRAY[0.1, 1e-300, 'NaN', '-0']::float8[]"],
    "bytea[]": ["ARRAY['\\x00ff'::bytea]"],
    "inet[]": ["ARRAY['::1'::inet]"],
    "interval[]": ["ARRAY['1 year 2 days'::interval]"],
    "mood[]": ["ARRAY['sad', 'it''s']::mood[]"],
    "place": ["ROW(1, 'a \"b\"', NULL)::place", "ROW(NULL, NULL, NULL)::place"],
    "place[]": ["ARRAY[ROW(1, 'a', 0.5)::place, NULL]"],
    "places": ["ARRAY[ROW(1, 'a', 0.5)::place]"],
    "spot": ["ROW(1, 'a', 0.5)::place"],
    "int4range": ["'[1,3)'", "'empty'", "'(,5]'"],
    "numrange": ["'[1.10,2.0)'"],
    "tstzrange": ["'[2026-11-20 10:00+02,)'"],
    "level": ["'[0.1,2)'"],
    "money": ["'-1234.50'", "0"],
    "point": ["'(0.1,-2)'"],
    "polygon": ["'((0,0),(1,1),(0,1))'"],
    "tsquery": ["'fat & !rat'"],
    "jsonpath": ["'$.a[*] ? (@ > 1)'"],
    "xml": ["'<a>1</a>'"],
    "xml[]": ["ARRAY['<a>1</a>'::xml]"],
    "regclass": ["'pg_class'"],
    "regtype": ["'int4'"],
    "oidvector": ["'1 2'"],
    "tid": ["'(1,2)'"],
    "xid": ["'7'"],
    "spelled": ["ROW(1)::spelled"],
    "citext": ["'MiXed'"],
    "hstore": ["'a=>1, b=>NULL'"],
    "hstore[]": ["ARRAY['a=>1'::hstore]"],
    "ltree": ["'Top.Science'"],
    "vector(3)": ["'[1,2.5,-3]'"],
}
NEEDS = {
    "citext": "citext",
    "hstore": "hstore",
    "hstore[]": "hstore",
    "ltree": "ltree",
    "vector(3)": "vector",
    "xml": "libxml",
    "xml[]": "libxml",
}
"""What some types need, that not every server has: an extension, or a library it was built with."""
SETUP = """
CREATE TYPE mood AS ENUM ('sad', 'it''s');
CREATE DOMAIN price AS numeric(12,3);
CREATE TYPE place AS (a int, b text, c real);
CREATE DOMAIN places AS place[];
CREATE DOMAIN spot AS place;
CREATE TYPE level AS RANGE (subtype = float8);
CREATE TYPE spelled AS (n int);
CREATE FUNCTION spell(spelled) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'one' $$;
CREATE CAST (spelled AS text) WITH FUNCTION spell(spelled);
"""
Connection = psycopg.Connection[tuple[object, ...]]


def _set_up(connection: Connection) -> dict[str, list[str]]:
    """The table, with a column for each type that this server can have."""
    there = {str(name) for (name,) in connection.execute("SELECT name FROM pg_available_extensions")}
    for extension in sorted(there & {*NEEDS.values()}):
        connection.execute(f"CREATE EXTENSION {extension}")
    built = connection.execute("SELECT setting FROM pg_config WHERE name = 'CONFIGURE'").fetchone()
    if "--with-libxml" in str(built):
        there.add("libxml")
    types = {kind: values for kind, values in TYPES.items() if NEEDS.get(kind) in (None, *there)}
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(types))
    connection.execute(f"{SETUP}; CREATE TABLE v (id int PRIMARY KEY, {columns})")
    return types


def _fill(connection: Connection, table: str, rows: list[list[str]]) -> None:
    for number, row in enumerate(rows):
        connection.execute(f"INSERT INTO {table} VALUES ({number}, {', '.join(row)})")


def _rows(types: dict[str, list[str]], seed: int) -> list[list[str]]:
    chance = random.Random(seed)
    most = max(map(len, types.values()))
    rows = [[values[n] if n < len(values) else "NULL" for values in types.values()] for n in range(most)]
    rows += [[chance.choice([*values, "NULL"]) for values in types.values()] for _ in range(40)]
    return [*rows, ["NULL"] * len(types)]


@pytest.mark.parametrize("chunk_bytes", [8192, 16 << 20])
def test_a_value_is_the_same_in_snapshot_and_stream(database: str, chunk_bytes: int) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    with psycopg.connect(database, autocommit=True) as connection:
        types = _set_up(connection)
        rows = _rows(types, seed)
        _fill(connection, "v", rows)
        # What a server's administrator may have set must not change what we read.
        connection.execute("ALTER ROLE CURRENT_USER SET DateStyle = 'German'")
        connection.execute("ALTER ROLE CURRENT_USER SET TimeZone = 'Asia/Kolkata'")
        connection.execute("ALTER ROLE CURRENT_USER SET bytea_output = 'escape'")
        connection.execute("ALTER ROLE CURRENT_USER SET extra_float_digits = '-5'")
        connection.execute("ALTER ROLE CURRENT_USER SET IntervalStyle = 'iso_8601'")
        try:
            with capturing(database, snapshot_chunk_bytes=chunk_bytes) as capture:
                capture.to_head()
                connection.execute("DELETE FROM v")
                _fill(connection, "v", rows)
                capture.to_head()
        finally:
            connection.execute("ALTER ROLE CURRENT_USER RESET ALL")
    read = {row["after"]["id"]: row for row in capture.rows(ops="r")}
    streamed = {row["after"]["id"]: row for row in capture.rows(ops="c")}
    assert len(read) == len(streamed) == len(rows)
    for number in read:
        for name, kind in zip((f"c{n}" for n in range(len(types))), types, strict=True):
            # repr: NaN equals itself, -0.0 differs from 0.0
            a, b = (repr(side[number]["after"][name]) for side in (read, streamed))
            assert a == b, f"{kind}, row {number}: {rows[number][list(types).index(kind)]}"
        assert dict(read[number]["_unrepresentable"] or {}) == dict(streamed[number]["_unrepresentable"] or {})


def test_a_value_is_what_postgres_says(database: str) -> None:
    """Each stored value, sent back to PostgreSQL, gives the text that the original gives."""
    with psycopg.connect(database, autocommit=True) as connection:
        types = _set_up(connection)
        rows = _rows(types, 1)
        with capturing(database) as capture:
            capture.to_head()
            _fill(connection, "v", rows)
            capture.to_head()
        for row in capture.rows(ops="c"):
            kept = dict(row["_unrepresentable"] or {})
            for n, kind in enumerate(types):
                held, question = row["after"][f"c{n}"], f"c{n}::text IS NOT DISTINCT FROM (%s::text::{kind})::text"
                if held is None:
                    held = kept.get(f"c{n}")
                elif kind in ("timestamp", "timestamptz"):
                    question = f"(extract(epoch FROM c{n}) * 1000000)::bigint = %s"
                elif kind == "date":
                    question = f"c{n} - date '1970-01-01' = %s"
                elif isinstance(held, bytes):
                    held = "\\x" + held.hex()
                same = connection.execute(
                    f"SELECT {question} FROM v WHERE id = %s",
                    (held, row["after"]["id"]),
                ).fetchall()[0][0]
                assert same, f"{kind}, row {row['after']['id']}: kept as {held!r}"
