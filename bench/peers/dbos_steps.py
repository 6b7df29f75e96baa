"""A durable job of three steps that do nothing, on DBOS with its SQLite back end.

usage: dbos_steps.py FOLDER JOBS CALLERS
Prints one JSON document: the time of a job with one caller, and jobs per second with several.
"""

import json
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS, DBOSConfig


def main() -> None:
    folder, jobs, callers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config: DBOSConfig = {"name": "steps", "system_database_url": f"sqlite:///{folder}/dbos.sqlite", "log_level": "ERROR"}
    logging.disable(logging.WARNING)
    DBOS(config=config)

    @DBOS.step()
    def step(number: int) -> int:
        return number

    @DBOS.workflow()
    def job() -> int:
        return step(1) + step(2) + step(3)

    DBOS.launch()
    for _ in range(10):
        job()
    times = []
    for _ in range(jobs):
        began = time.perf_counter()
        job()
        times.append(time.perf_counter() - began)
    times.sort()
    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(lambda _: job(), range(jobs)))
    together = jobs / (time.perf_counter() - began)
    micros = lambda part: times[min(len(times) - 1, int(len(times) * part))] * 1e6
    print(json.dumps({"jobs": jobs, "callers": callers, "p50_us": micros(0.5), "p99_us": micros(0.99), "jobs_per_second": together}))
    DBOS.destroy()


main()
