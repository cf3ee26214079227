"""Cost of summaries: users summarized per second, killed and resumed, and what a stored summary adds to a request.

    python -m benchmarks.summaries [--users 1000] [--records 20] [--kill-at 400] [--samples 2000] [--json]

Users of the generated world, with scored reviews. `persona summarize` runs in its own process, is killed with
SIGKILL when `--kill-at` users are done, and is run again to its end. Then the channel is timed alone, request by
request, for users in random order; persona caches nothing of what it reads, but the disk is warm.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from examples.world.world import World
from persona.channels import Ask
from persona.store.profile_store import ProfileStore
from persona.summaries.channel import SummaryChannel
from persona.summaries.stored import StoredSummaries, stored_summary

TASK = "LaMP_3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--records", type=int, default=20)
    parser.add_argument("--llm", default="tiny")
    parser.add_argument("--form", default="task")
    parser.add_argument("--kill-at", type=int, default=400)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, f"sqlite:///{Path(folder) / 'persona.db'}")
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:45} {value:,.3f}" if isinstance(value, float) else f"{name:45} {value}")


def done(store: ProfileStore, users: list[str]) -> int:
    return sum(stored_summary(store, user, TASK) is not None for user in users)


def measure(arguments: argparse.Namespace, url: str) -> dict[str, float | int | str]:
    with ProfileStore(url) as store:
        store.upsert(World(0).stream(TASK, "dev", arguments.users, records_per_user=arguments.records))
    command = [sys.executable, "-m", "persona", "summarize", "--store", url, "--llm", arguments.llm]
    command += ["--task", TASK, "--set", f"form={arguments.form}", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    users = [f"dev-{number}" for number in range(arguments.users)]
    with ProfileStore(url) as store:
        while process.poll() is None and done(store, users) < arguments.kill_at:
            time.sleep(1)
        process.kill()
        process.wait()
        before = done(store, users)
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    report = json.loads(ended.stdout)
    assert report["fresh"] == before
    assert report["fresh"] + report["written"] == arguments.users
    result: dict[str, float | int | str] = {
        "users": arguments.users,
        "records per user": arguments.records,
        "llm": report["llm"],
        "written before SIGKILL": before,
        "written by the second run": report["written"],
        "users/s of the second run": report["written"] / report["seconds"],
    }
    generator = random.Random(0)
    with ProfileStore(url) as store:
        for source in ("llm", "stats", "both"):
            channel = SummaryChannel(source, StoredSummaries(store, TASK), task=TASK)
            wall, cpu = [], []
            for _ in range(arguments.samples):
                profile = store.profile(generator.choice(users))
                start, cpu_start = time.perf_counter(), time.thread_time()
                (contribution,) = channel.contribute([Ask(profile, "a prompt", "a prompt")])
                wall.append(time.perf_counter() - start)
                cpu.append(time.thread_time() - cpu_start)
                assert contribution.notes
            for percentile in (50, 99):
                result[f"{source}: ms per request, p{percentile}"] = float(np.percentile(wall, percentile)) * 1000
                result[f"{source}: CPU ms per request, p{percentile}"] = float(np.percentile(cpu, percentile)) * 1000
    return result


if __name__ == "__main__":
    main()
