"""How long `persona --help` and `import persona` take, beside a bare interpreter, in the same run.

python benchmarks/startup.py [--runs 11] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import persona": [sys.executable, "-c", "import persona"],
    "persona --help": [str(Path(sys.executable).with_name("persona")), "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.runs + 1):
        for name, command in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begun)
    # The first round warms the file cache and does not count.
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    bare = medians["python -c pass"]
    if arguments.json:
        print(
            json.dumps({name: {"seconds": value, "ratio": value / bare} for name, value in medians.items()}, indent=2)
        )
        return
    print(f"{'command':18} {'seconds':>8} {'to bare python':>15}")
    for name, value in medians.items():
        print(f"{name:18} {value:8.3f} {value / bare:14.2f}x")


if __name__ == "__main__":
    main()
