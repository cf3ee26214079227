"""Write users of the generated world as the files of a LaMP task.

    python -m examples.world data/LaMP_3 LaMP_3 train=1000 dev=200

makes the folder, with questions and outputs of 1,000 training and 200 other users. Run it from the root of a clone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.world.world import SPLITS, WORLD_TASKS, World
from persona.errors import PersonaError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.world", description="Write a generated LaMP task.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("task", choices=WORLD_TASKS)
    parser.add_argument("users", nargs="+", metavar="SPLIT=N", help=f"users of a split: {', '.join(SPLITS)}")
    parser.add_argument("--records", type=int, default=20, metavar="N", help="of each user (default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the world (default: 0)")
    parser.add_argument("--bounds", action="store_true", help="also SPLIT_bounds.json: how well each can be answered")
    given = parser.parse_args()
    users = {}
    for each in given.users:
        split, _, number = each.partition("=")
        if not number.isdecimal():
            parser.error(f"users are given as SPLIT=N, such as train=1000, was: {each!r}")
        users[split] = int(number)
    try:
        World(given.seed).write_lamp(given.folder, given.task, users, given.records, bounds=given.bounds)
    except PersonaError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
