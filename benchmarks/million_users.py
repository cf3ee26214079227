"""A world of a million users streamed into the store: rate, memory and size.

    python -m benchmarks.million_users [--users 1000000] [--records 3] [--url sqlite:///...] [--json]

Users are made as they are stored and forgotten at once, so memory must not grow with their number. A line of the table
is one tenth of the way.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.world.world import World
from persona.records import Record
from persona.store.profile_store import ProfileStore

TASK = "LaMP_3"


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--records", type=int, default=3, help="records of each user")
    parser.add_argument("--url", help="store (default: SQLite in a temporary folder)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tenth = max(1, options.users * options.records // 10)
    lines: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.db"
        with ProfileStore(options.url or f"sqlite:///{path}") as store:
            begun = time.perf_counter()

            def watched() -> Iterator[tuple[str, Record]]:
                last = begun
                for number, item in enumerate(World(0).stream(TASK, "train", options.users, options.records), 1):
                    yield item
                    if number % tenth == 0:
                        now = time.perf_counter()
                        lines.append({"records": number, "records/s": tenth / (now - last), "MiB": resident_mib()})
                        last = now

            report = store.upsert(watched())
            seconds = time.perf_counter() - begun
            middle = f"train-{options.users // 2}"
            begun = time.perf_counter()
            found = len(store.profile(middle))
            read_ms = (time.perf_counter() - begun) * 1000
        size = sum(file.stat().st_size for file in Path(folder).glob("world.db*"))
    assert report.added == options.users * options.records
    assert found == options.records
    result = {
        "users": report.users,
        "records": report.added,
        "seconds": seconds,
        "records/s": report.added / seconds,
        "bytes per record": size / report.added,
        "GiB": size / 2**30,
        "one profile, ms": read_ms,
        "curve": lines,
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    table = Table("records", "records/s", "resident MiB", title=f"{report.users:,} users into the store")
    for line in lines:
        table.add_row(f"{line['records']:,.0f}", f"{line['records/s']:,.0f}", f"{line['MiB']:,.0f}")
    Console().print(table)
    print(
        f"{report.added:,} records in {seconds:,.0f} s ({report.added / seconds:,.0f}/s), {size / 2**30:.2f} GiB, "
        f"{size / report.added:.0f} bytes a record; one profile read in {read_ms:.1f} ms"
    )


if __name__ == "__main__":
    main()
