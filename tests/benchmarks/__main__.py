"""Measure everything and write docs/speed.md and its chart: ``python -m tests.benchmarks``."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

# Before anything imports Airflow, here and in the processes that are forked off.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-nexthink-bench-"))
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")

from tests.benchmarks import measure
from tests.benchmarks.measure import FILE_FORMS, XCOM_FORMS, Cost
from tests.benchmarks.report import Bar, chart, seconds, table
from tests.benchmarks.tenant import tenants

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- the figures below are written by make bench -->", "<!-- end of the figures -->"

T = TypeVar("T")

LATENCIES = (0.0, 0.05, 0.2)
CONCURRENCIES = (1, 4, 8, 16)
SECONDS_FOR_EACH = 5.0
"""So many seconds of waiting for each measurement at the same time: together they use a quarter of a core."""

MORE_REPEATS = 3
"""What waits for nothing is measured so many times as often: it is short, and no machine is as fast all the time."""


@dataclass(frozen=True)
class Sending:
    """One thing that is measured: a client, a latency in seconds, and a concurrency."""

    client: str
    latency: float
    concurrency: int


SENDINGS = [
    *(Sending(client, latency, 1) for latency in LATENCIES for client in ("peer", "bare loop")),
    *(Sending("ours", latency, concurrency) for latency in LATENCIES for concurrency in CONCURRENCIES),
]


class Bench:
    """Runs measurements, each in a fresh process.

    :param repeats: how many times each.
    """

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([measure.__name__])

    def run(self, calls: Sequence[Callable[[], T]], at_once: int = 1) -> list[list[T]]:
        """Return the results of every repeat of each call; the calls take turns.

        :param calls: what to call.
        :param at_once: how many run at the same time.
        """
        with ProcessPoolExecutor(at_once, mp_context=self._context, max_tasks_per_child=1) as pool:
            futures = [[pool.submit(call) for call in calls] for _ in range(self.repeats)]
            return [[turn[at].result() for turn in futures] for at in range(len(calls))]


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in ("seconds", "cpu", "memory")))


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--devices", type=int, default=100_000, help="how many are sent")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000], help="sizes of lists"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement; the median counts")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of speed.md")
    options = parser.parse_args()
    start = time.perf_counter()
    bench = Bench(options.repeats)
    parts = [
        sending_part(bench, options.devices, options.docs),
        rows_part(bench, options.rows),
        xcom_part(bench, options.rows),
        import_part(bench),
    ]
    minutes = (time.perf_counter() - start) / 60
    parts.append(machine_part(options.repeats, minutes))
    page = options.docs / "speed.md"
    text = page.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text("\n\n".join([before, *parts, after]))
    say(f"Written to {page} after {minutes:.1f} minutes.")


def sending_part(bench: Bench, devices: int, docs: Path) -> str:
    """Measure the clients at every latency and concurrency."""
    measured: dict[Sending, list[Cost]] = {}
    with tenants(LATENCIES) as urls:
        address = dict(zip(LATENCIES, urls, strict=True))

        def call(one: Sending) -> Callable[[], Cost]:
            return partial(measure.sending, one.client, devices, address[one.latency], one.concurrency)

        def floor(one: Sending) -> float:
            return devices / 100 * one.latency / one.concurrency

        for expected in sorted({floor(one) for one in SENDINGS}):
            group = [one for one in SENDINGS if floor(one) == expected]
            at_once = max(1, int(expected / SECONDS_FOR_EACH))
            say(f"Sending {devices:,} devices: {len(group)} cases of {expected:.1f} s or more, {at_once} at a time")
            calls = [call(one) for one in group]
            costs = bench.run(calls, at_once) if expected else Bench(MORE_REPEATS * bench.repeats).run(calls)
            measured |= dict(zip(group, costs, strict=True))
        lone = Sending("ours", 0.2, 8)
        say("Once more, alone")
        alone = Bench(repeats=1).run([call(lone)])[0][0]
    found = {one: middle(costs) for one, costs in measured.items()}
    (docs / "speed.svg").write_text(sending_chart(devices, found, floor))
    head = ["client", *(f"{latency * 1000:.0f} ms: seconds | CPU s" for latency in LATENCIES), "MB at 0 ms"]
    rows = []
    for client, concurrency in [("peer", 1), ("bare loop", 1), *(("ours", at_once) for at_once in CONCURRENCIES)]:
        of_it = [found[Sending(client, latency, concurrency)] for latency in LATENCIES]
        cells = [cell for cost in of_it for cell in (seconds(cost.seconds), f"{cost.cpu:.2f}")]
        rows.append([label(client, concurrency), *cells, f"{of_it[0].memory / 1e6:.0f}"])
    ours, peer = found[lone], found[Sending("peer", 0.2, 1)]
    verdict = (
        f"At 200 ms and 8 at once it takes {ours.seconds / floor(lone):.2f} times the floor of "
        f"{seconds(floor(lone))} s and is {peer.seconds / ours.seconds:.1f} times as fast as the peer. Alone on the "
        f"machine it took {seconds(alone.seconds)} s, beside others {seconds(ours.seconds)} s. At 0 ms it uses "
        f"{', '.join(_times_the_bare_loop(measured, concurrency) for concurrency in CONCURRENCIES)} times the CPU of "
        f"the bare loop, with {', '.join(map(str, CONCURRENCIES))} at once."
    )
    image = f"![Seconds for {devices:,} devices](speed.svg)"
    return "\n\n".join([f"### Sending {devices:,} devices", image, table(" | ".join(head).split(" | "), rows), verdict])


def _times_the_bare_loop(measured: dict[Sending, list[Cost]], concurrency: int) -> str:
    """Compare processor time turn by turn: what is measured within seconds of each other, on a machine as fast."""
    turns = zip(measured[Sending("ours", 0.0, concurrency)], measured[Sending("bare loop", 0.0, 1)], strict=True)
    return f"{statistics.median(ours.cpu / bare.cpu for ours, bare in turns):.2f}"


def label(client: str, concurrency: int) -> str:
    """Return the name of a client for a reader."""
    return {"peer": "nexthink-api", "bare loop": "bare httpx loop"}.get(client, f"this provider, {concurrency} at once")


def sending_chart(devices: int, found: dict[Sending, Cost], floor: Callable[[Sending], float]) -> str:
    """Draw the seconds at each latency."""
    panels = []
    for latency in LATENCIES:
        bars = [
            Bar(label(one.client, one.concurrency), found[one].seconds, one.client == "ours", floor(one))
            for one in SENDINGS
            if one.latency == latency
        ]
        panels.append((f"{latency * 1000:.0f} ms a request", bars))
    return chart(f"Seconds for {devices:,} devices; the dashed line is the floor", panels)


def rows_part(bench: Bench, sizes: Sequence[int]) -> str:
    """Measure what a list costs before and beside the network."""
    say("Lists of " + ", ".join(f"{size:,}" for size in sizes))
    works = (measure.plain_loop, measure.planning, measure.running)
    costs = iter(map(middle, bench.run([partial(work, size) for size in sizes for work in works])))
    rows = []
    for size in sizes:
        loop, plan, run = next(costs), next(costs), next(costs)
        rows.append(
            [
                f"{size:,}",
                f"{loop.cpu:.3f}",
                f"{plan.cpu:.3f}",
                f"{plan.cpu / loop.cpu:.2f}" if loop.cpu > 0.01 else "-",
                f"{plan.memory / size:.0f}" if size >= 100_000 else "-",
                f"{run.cpu:.3f}",
                f"{run.cpu / size * 1e6:.1f}",
                f"{run.memory / size:.0f}" if size >= 100_000 else "-",
            ]
        )
    head = ["rows", "plain loop: CPU s", "rows, plan, batches: CPU s", "times the loop", "bytes a row"]
    head += ["all but the network: CPU s", "µs a row", "bytes a row, with the table"]
    return f"### Large lists\n\n{table(head, rows)}"


def xcom_part(bench: Bench, sizes: Sequence[int]) -> str:
    """Measure the forms in which an outcome table leaves a task."""
    say("XCom and files")
    cases = [(form, size) for form in (*XCOM_FORMS, *FILE_FORMS) for size in sizes]
    found = bench.run([partial(measure.passing, form, size) for form, size in cases])
    rows = []
    for (form, size), passes in zip(cases, found, strict=True):
        out, back = middle([each[0] for each in passes]), middle([each[1] for each in passes])
        rows.append(
            [
                f"`{form}`" if form in XCOM_FORMS else f"file, `{form}`",
                f"{size:,}",
                f"{passes[0][2] / 1e6:.2f}",
                f"{out.cpu:.3f}",
                f"{back.cpu:.3f}" if form in XCOM_FORMS else "-",
                f"{out.memory / 1e6:.0f}",
            ]
        )
    head = ["form", "rows", "MB", "out: CPU s", "back: CPU s", "out: MB of memory"]
    return f"### The outcome table in XCom and in files\n\n{table(head, rows)}"


def import_part(bench: Bench) -> str:
    """Measure what a Dag file that imports every operator pays for it."""
    say("Imports")
    (times,) = bench.run([measure.importing])
    of_airflow, ours = (statistics.median(each) for each in zip(*times, strict=True))
    return (
        f"### Parsing a Dag file\n\n`import airflow.sdk` takes {of_airflow:.2f} s of the processor; importing every "
        f"operator on top of it {ours * 1000:.0f} ms."
    )


def machine_part(repeats: int, minutes: float) -> str:
    """Say where and with what it was measured."""
    names = ("apache-airflow", "httpx", "pandas", "pydantic", "nexthink-api")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"Medians of {repeats}, at 0 ms of {MORE_REPEATS * repeats}, measured in one run of {minutes:.0f} minutes on "
        f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}), "
        f"Python {platform.python_version()}, {packages}."
    )


def say(what: str) -> None:
    """Tell how far it is."""
    print(what, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
