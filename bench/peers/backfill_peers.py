"""Late rows into day files, as DuckDB, Polars and delta-rs do it: python backfill_peers.py PEER STEP FOLDER WORK LATE_DAYS LATE

FOLDER has `archive/day=…/part-00000.parquet` and LATE with the late rows; null there means: was not sent. STEP is
`prepare` (what is not measured), `start` (loads the program, and nothing else), `merge` or `count`. The result lies in WORK.
"""
import json
import os
import shutil
import sys

peer, step, folder, work, late_days, late = sys.argv[1:7]
KEY = ["trip_id", "leg"]
SORT = ["city_id", "status"]
REST = ["event_time", "city_id", "status", "fare", "driver_id", "surge", "note"]
COLUMNS = ["event_time", "trip_id", "leg", "city_id", "status", "fare", "driver_id", "surge", "note"]
DEFAULTS = {"status": "unknown", "surge": False}
ARCHIVE = os.path.join(folder, "archive")
DAYS = sorted(os.listdir(ARCHIVE))
TOUCHED = DAYS[-int(late_days):]
LATE = os.path.join(folder, late, "*.parquet")


def duckdb_merge():
    import duckdb

    base = duckdb.connect()
    base.execute("SET threads = 2; SET TimeZone = 'UTC'")
    folded = ", ".join(f"arg_max({c}, seq) FILTER (WHERE {c} IS NOT NULL) AS {c}" for c in REST)
    base.execute(
        f"CREATE TEMP TABLE late AS SELECT strftime(event_time, '%Y-%m-%d') AS day, trip_id, leg, {folded} "
        f"FROM read_parquet('{LATE}') GROUP BY strftime(event_time, '%Y-%m-%d'), trip_id, leg"
    )

    def cell(c):
        default = DEFAULTS.get(c)
        found = f"coalesce(l.{c}, b.{c})"
        if default is None:
            return f"{found} AS {c}"
        text = f"'{default}'" if isinstance(default, str) else str(default)
        return f"CASE WHEN b.trip_id IS NULL THEN coalesce(l.{c}, {text}) ELSE {found} END AS {c}"

    columns = ", ".join(cell(c) for c in COLUMNS)
    for day in TOUCHED:
        out = os.path.join(work, day)
        os.makedirs(out, exist_ok=True)
        base.execute(
            f"COPY (SELECT {columns} FROM read_parquet('{ARCHIVE}/{day}/*.parquet') b FULL JOIN "
            f"(SELECT * FROM late WHERE day = '{day[4:]}') l ON b.trip_id = l.trip_id AND b.leg = l.leg "
            f"ORDER BY city_id NULLS FIRST, status NULLS FIRST, trip_id, leg) "
            f"TO '{out}/part.parquet' (FORMAT parquet, COMPRESSION zstd)"
        )


def polars_merge():
    import polars as pl

    late_rows = pl.scan_parquet(LATE).sort("seq").with_columns(day=pl.col("event_time").dt.strftime("%Y-%m-%d"))
    folded = late_rows.group_by("day", *KEY).agg(pl.col(c).last(ignore_nulls=True) for c in REST).collect()
    for day in TOUCHED:
        out = os.path.join(work, day)
        os.makedirs(out, exist_ok=True)
        base = pl.read_parquet(os.path.join(ARCHIVE, day, "part-00000.parquet"), hive_partitioning=False)
        base = base.with_columns(known=pl.lit(True))
        of_day = folded.filter(pl.col("day") == day[4:]).drop("day")
        both = base.join(of_day, on=KEY, how="full", coalesce=True, suffix="_late")
        both = both.with_columns(pl.coalesce(f"{c}_late", c).alias(c) for c in REST)
        fresh = pl.col("known").is_null()
        both = both.with_columns(
            pl.when(fresh).then(pl.col(c).fill_null(value)).otherwise(pl.col(c)).alias(c) for c, value in DEFAULTS.items()
        )
        both.select(COLUMNS).sort([*SORT, *KEY], nulls_last=False).write_parquet(
            os.path.join(out, "part.parquet"), compression="zstd"
        )


def delta_prepare():
    import pyarrow.dataset as ds
    from deltalake import write_deltalake

    for day in DAYS:
        rows = ds.dataset(os.path.join(ARCHIVE, day)).to_table()
        rows = rows.append_column("day", [[day[4:]] * rows.num_rows])
        write_deltalake(work, rows, partition_by=["day"], mode="append")


def delta_merge():
    import polars as pl
    from deltalake import DeltaTable

    late_rows = pl.scan_parquet(LATE).sort("seq").with_columns(day=pl.col("event_time").dt.strftime("%Y-%m-%d"))
    folded = late_rows.group_by("day", *KEY).agg(pl.col(c).last(ignore_nulls=True) for c in REST).collect()
    days = ", ".join(f"'{day[4:]}'" for day in TOUCHED)
    predicate = f"t.day IN ({days}) AND t.day = s.day AND t.trip_id = s.trip_id AND t.leg = s.leg"
    updates = {c: f"coalesce(s.{c}, t.{c})" for c in REST}
    inserts = {c: f"s.{c}" for c in ["day", *COLUMNS]}
    inserts["status"] = "coalesce(s.status, 'unknown')"
    inserts["surge"] = "coalesce(s.surge, false)"
    merge = DeltaTable(work).merge(folded.to_arrow(), predicate, source_alias="s", target_alias="t")
    merge.when_matched_update(updates).when_not_matched_insert(inserts).execute()


def start():
    if peer == "duckdb":
        import duckdb  # noqa: F401
    else:
        import polars  # noqa: F401
    if peer == "delta":
        import deltalake  # noqa: F401


def count():
    import pyarrow.parquet as pq

    if peer == "delta":
        from deltalake import DeltaTable

        files = DeltaTable(work).file_uris()
        live = [path for path in files if any(f"{day}/" in path.replace("%3D", "=") for day in TOUCHED)]
    else:
        live = [os.path.join(work, day, "part.parquet") for day in TOUCHED]
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in live)
    others = sum(pq.ParquetFile(os.path.join(ARCHIVE, day, "part-00000.parquet")).metadata.num_rows
                 for day in DAYS if day not in TOUCHED)
    print(json.dumps({"rows": rows + others, "bytes_written": sum(os.path.getsize(path) for path in live)}))


if step == "prepare":
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    if peer == "delta":
        delta_prepare()
elif step == "start":
    start()
elif step == "merge":
    {"duckdb": duckdb_merge, "polars": polars_merge, "delta": delta_merge}[peer]()
else:
    count()
