"""A LaMP task in small, and an LLM that copies."""

from __future__ import annotations

from persona.eval.benchmarks.lamp import LampBenchmark
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.records import Profile, Record

TASK = lamp_task("LaMP_3")
USERS = 6


def ratings(users: int = USERS) -> LampSplit:
    """Each user gives every film the same score, 1 + the user's number modulo 5; two questions each."""
    questions, golds = [], {}
    for user in range(users):
        score = str(1 + user % 5)
        for number in range(2):
            records = tuple(
                Record(f"film {number} {i} of user{user}", target=score, time=f"20{10 + i}") for i in range(3)
            )
            profile = Profile(f"u{user}", records)
            questions.append(Question(f"{user}{number}", f"u{user}", TASK.make_input(f"film {number}"), profile))
            golds[f"{user}{number}"] = score
    return LampSplit(TASK, tuple(questions), golds, TASK.labels)


def benchmark(users: int = USERS) -> LampBenchmark:
    """`ratings` as a benchmark."""
    return LampBenchmark(ratings(users))


def copy_the_first_score(prompt: str) -> str:
    """The score of the first record in the prompt, and 3 where there is none."""
    return prompt[0] if prompt[0].isdigit() else "3"
