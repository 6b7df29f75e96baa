#!/usr/bin/env python3
"""Reads a table with deltalake, Polars and chdb, and compares what they read.

  python3 -m venv v && v/bin/pip install deltalake polars chdb pyarrow
  v/bin/python bench/peers/read_delta.py DATA [--rows N] [--sum COLUMN]

DATA is the folder of the table's data, as `windlass table ls` shows it. Each reader counts the rows, counts those of
each day, and adds up a column of numbers; all must agree, and with --rows if it is given. A reader that refuses is
reported with its own words and is no failure; one that reads something else is.
"""
import argparse
import sys


def with_polars(data, column):
    import polars as pl

    rows = pl.scan_delta(data).select("day", column).collect()
    days = rows.group_by("day").len().rows()
    return len(rows), {str(day): n for day, n in days}, rows[column].sum()


def with_deltalake(data, column):
    from deltalake import DeltaTable, QueryBuilder

    table = DeltaTable(data)
    found = QueryBuilder().register("t", table).execute(f'select day, count(*) n, sum("{column}") s from t group by day')
    days, total = {}, None
    for batch in found:
        for row in to_rows(batch):
            days[str(row["day"])] = row["n"]
            if row["s"] is not None:
                total = row["s"] + (total or 0)
    return sum(days.values()), days, total


def to_rows(batch):
    import pyarrow as pa

    return pa.record_batch(batch).to_pylist()


def with_chdb(data, column):
    import json

    import chdb

    text = str(chdb.query(f"select toString(day) d, count({column}) + countIf({column} is null) n, sum({column}) s "
                          f"from deltaLakeLocal('{data}') group by d", "JSONEachRow"))
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    days = {row["d"]: int(row["n"]) for row in rows}
    return sum(days.values()), days, sum(float(row["s"] or 0) for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--sum", default="fare")
    arguments = parser.parse_args()
    readers = {"deltalake": with_deltalake, "polars": with_polars, "chdb": with_chdb}
    found, bad = {}, 0
    for name, reader in readers.items():
        try:
            version = __import__(name).__version__
            found[name] = reader(arguments.data.rstrip("/"), arguments.sum)
            rows, days, total = found[name]
            print(f"{name} {version}: {rows} rows in {len(days)} days, sum {total}")
        except Exception as error:  # a reader's refusal is a finding
            print(f"{name}: refuses: {str(error).strip().splitlines()[0][:200]}")
    first = next(iter(found.values()), None)
    for name, (rows, days, total) in found.items():
        same = rows == first[0] and days == first[1] and abs((total or 0) - (first[2] or 0)) < 1e-6 * max(1, abs(first[2] or 0))
        if not same or arguments.rows not in (None, rows):
            print(f"{name} reads something else")
            bad += 1
    sys.exit(1 if bad or not found else 0)


if __name__ == "__main__":
    main()
