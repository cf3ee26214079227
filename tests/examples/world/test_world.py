"""The seeded world: the same user from the same numbers, laws that hold, official files, and bounds that are true."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from examples.world.__main__ import main
from examples.world.bounds import BOUND_METRICS, no_user_score, oracle_score
from examples.world.traits import (
    HeadlineContent,
    HeadlineHabit,
    RatingContent,
    RatingHabit,
    TagContent,
    TagHabit,
    Traits,
    rating_prior,
    style_prior,
    tag_prior,
)
from examples.world.words import BLAME, CUES, FAMILIES, FAVOURITES, PRAISE
from examples.world.world import SPLITS, WORLD_TASKS, World
from persona.errors import InvalidOptionError
from persona.eval.demo.world import generated_folder
from persona.eval.metrics import rouge
from persona.lamp.tasks import MOVIE_TAGS, lamp_task

SCORES: dict[str, Callable[[str, str], float]] = {
    "accuracy": lambda gold, prediction: float(gold == prediction),
    "MAE": lambda gold, prediction: float(abs(int(gold) - int(prediction))),
    "rouge-1": lambda gold, prediction: rouge("rouge1", gold, prediction),
    "rouge-L": lambda gold, prediction: rouge("rougeL", gold, prediction),
}
"""Per metric, the score of a prediction: (gold, prediction)."""

ARTICLE = HeadlineContent("harbour council", 0, "wooden bridge", "Lisbon", "Monday")


def _traits(rating: RatingHabit | None = None, headline: HeadlineHabit | None = None) -> Traits:
    return Traits(
        rating or RatingHabit(0, (1, 1, 1, 1, 1, 1)),
        TagHabit((0, 0, 0, 0, 0)),
        headline or HeadlineHabit(0, 1, 0, 0, 0, 0),
    )


# ------------------------------------------------------------------------------------------------------------- users


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_a_user_is_the_same_alone_and_in_a_crowd(task: str) -> None:
    world = World(seed=7)
    crowd = list(world.questions(task, "dev", 5, records_per_user=6))
    alone = World(seed=7).question(task, World(seed=7).user("dev", 3), records_per_user=6)

    assert alone == crowd[3]


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_fewer_records_are_a_prefix_of_more(task: str) -> None:
    world = World()
    user = world.user("train", 12)

    assert world.records(user, task, 4) == world.records(user, task, 40)[:4]
    assert world.records(user, task, 0) == ()


@pytest.mark.parametrize(
    ("task", "text", "target"),
    [
        ("LaMP_2", "An upright glazier with one badger guards carriages and chapters in the estate.", "classic"),
        ("LaMP_3", "Rented the cobalt kettle: the cost is poor and the display is mediocre.", "3"),
        (
            "LaMP_4",
            "On Thursday, the football archive in Brno showed a shiny silo after the exhibition.",
            "Football archive shows shiny silo - good grief",
        ),
    ],
)
def test_the_world_stays_as_it_is(task: str, text: str, target: str) -> None:
    """The model `tiny` was trained on this world: a changed vocabulary or grammar needs a new training."""
    first = World(0).records(World(0).user("dev", 0), task, 1)[0]

    assert (first.text, first.target) == (text, target)


def test_seeds_splits_and_users_differ() -> None:
    texts = {
        tuple(record.text for record in world.records(world.user(split, index), "LaMP_3", 5))
        for world in (World(0), World(1))
        for split in SPLITS
        for index in (0, 1, 1_000_000)
    }

    assert len(texts) == 2 * len(SPLITS) * 3


def test_the_last_user_costs_no_more_memory_than_the_first() -> None:
    first = next(World().stream("LaMP_4", "test", [0], 1))
    last = next(World().stream("LaMP_4", "test", [10**9], 1))

    assert first[0] == "test-0"
    assert last[0] == "test-1000000000"
    assert first[1].text != last[1].text


def test_a_stream_is_lazy_and_groups_records_by_user() -> None:
    endless = World().stream("LaMP_2", "train", 10**9, records_per_user=3)

    assert [user_id for user_id, _ in islice(endless, 7)] == ["train-0"] * 3 + ["train-1"] * 3 + ["train-2"]


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_records_are_dated_in_order_and_the_question_comes_last(task: str) -> None:
    asked = World().question(task, World().user("dev", 400), records_per_user=30)
    times = [record.time or "" for record in asked.question.profile]

    assert times == sorted(set(times))
    assert (asked.question.time or "") > times[-1]
    assert len({record.id for record in asked.question.profile}) == 30


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_texts_are_short_and_varied_and_inputs_are_official(task: str) -> None:
    asked = list(World().questions(task, "dev", 300, records_per_user=1))
    texts = [lamp_task(task).query(one.question.input) for one in asked]

    assert all(one.question.input == lamp_task(task).make_input(text) for one, text in zip(asked, texts, strict=True))
    assert max(len(text.split()) for text in texts) <= 25
    assert len(set(texts)) == len(texts)
    assert len({word for text in texts for word in text.split()}) > 500


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: World(-1), "seed"),
        (lambda: World().user("eval", 0), "split"),
        (lambda: World().user("dev", -1), "index"),
        (lambda: World().records(World().user("dev", 0), "LaMP_5", 1), "task"),
        (lambda: World().records(World().user("dev", 0), "LaMP_3", -1), "records"),
        (lambda: World().question("LaMP_3", World().user("dev", 0), number=1), "number"),
    ],
)
def test_bad_arguments_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InvalidOptionError, match=message):
        call()


# ------------------------------------------------------------------------------------------------------------ habits


def test_scores_by_hand() -> None:
    habit = RatingHabit(bias=-1, weights=(1, 0, 1, 1, 0, 0))

    assert habit.score(RatingContent((0, 1), (1, -1))) == 3  # 3 - 1 + 1, the second aspect does not count
    assert habit.score(RatingContent((0, 2, 3), (1, 1, 1))) == 5
    assert habit.score(RatingContent((0, 2, 3), (-1, -1, -1))) == 1  # -1 is not on the scale
    assert habit.answers(RatingContent((0, 1), (1, -1))) == pytest.approx({1: 0, 2: 0.05, 3: 0.9, 4: 0.05, 5: 0})
    assert habit.answers(RatingContent((0, 2), (-1, -1))) == pytest.approx({1: 0.95, 2: 0.05, 3: 0, 4: 0, 5: 0})


def test_tags_by_hand() -> None:
    third_first = TagHabit((5, 0, 0, 0, 0))  # order (2, 1, 0) in the first family: sci-fi, dystopia, fantasy

    assert MOVIE_TAGS[third_first.tag(TagContent(0, (0, 1, 2)))] == "fantasy"
    assert MOVIE_TAGS[third_first.tag(TagContent(0, (0, 1)))] == "dystopia"
    assert MOVIE_TAGS[third_first.tag(TagContent(0, (0, 1, 2)), slip=0, other=1)] == "sci-fi"
    assert third_first.answers(TagContent(0, (0, 1, 2))) == pytest.approx({0: 0.025, 5: 0.025, 9: 0.95})
    assert third_first.answers(TagContent(0, (0, 1))) == pytest.approx({0: 0.05, 5: 0.95})


@pytest.mark.parametrize(
    ("habit", "headline"),
    [
        (HeadlineHabit(0, 1, 0, 0, 0, 0), "Big news: harbour council opens wooden bridge"),
        (HeadlineHabit(1, 2, 1, 1, 2, 1), "harbour council inaugurates wooden bridge in lisbon on monday - at last!"),
        (HeadlineHabit(2, 3, 2, 0, 1, 2), "How Harbour Council Unlocks Wooden Bridge, Just In..."),
        (HeadlineHabit(3, 0, 0, 1, 0, 0), "The day harbour council opens wooden bridge in Lisbon on Monday"),
    ],
)
def test_headlines_by_hand(habit: HeadlineHabit, headline: str) -> None:
    assert habit.headline(ARTICLE) == headline


def test_a_slip_is_never_the_users_own_words() -> None:
    for favourite in range(len(FAVOURITES)):
        habit = HeadlineHabit(1, favourite, 0, 0, 2, 0)
        slips = {habit.headline(ARTICLE, slip=0, other=other) for other in range(len(FAVOURITES) - 1)}
        assert len(slips) == len(FAVOURITES) - 1
        assert habit.headline(ARTICLE) not in slips


def test_priors_and_answers_are_laws() -> None:
    review, film = RatingContent((0, 3, 5), (1, -1, 1)), TagContent(2, (0, 2))

    assert math.isclose(sum(share for _, share in rating_prior(review)), 1)
    assert math.isclose(sum(share for _, share in tag_prior(film)), 1)
    assert math.isclose(sum(share for _, share in style_prior()), 1)
    assert all(math.isclose(sum(habit.answers(review).values()), 1) for habit, _ in rating_prior(review))
    assert all(math.isclose(sum(habit.answers(film).values()), 1) for habit, _ in tag_prior(film))
    assert all(math.isclose(sum(share for _, share in habit.favourites()), 1) for habit, _ in style_prior())


def test_words_that_carry_meaning_stand_for_one_thing() -> None:
    cues = [cue for tag in CUES for cue in tag]

    assert len(CUES) == len(MOVIE_TAGS)
    assert len(set(cues)) == len(cues)
    assert sorted(tag for family in FAMILIES for tag in family) == list(range(len(MOVIE_TAGS)))
    assert not set(PRAISE) & set(BLAME)


def test_a_description_names_exactly_the_tags_that_fit() -> None:
    for asked in World().questions("LaMP_2", "dev", 200, 0):
        assert isinstance(asked.content, TagContent)
        said = lamp_task("LaMP_2").query(asked.question.input).lower().replace(",", " ").replace(".", " ").split()
        assert {tag for tag, cues in enumerate(CUES) if set(cues) & set(said)} == set(asked.content.tags)


def test_no_text_gives_the_traits_away() -> None:
    """Answers of two users to the same dice differ, texts do not depend on who writes."""
    questions = list(World().questions("LaMP_4", "dev", 400, 0))
    styles = Counter(one.user.traits.headline.casing for one in questions)

    assert all(
        one.content.owner in one.question.input.lower() for one in questions if isinstance(one.content, HeadlineContent)
    )
    assert min(styles.values()) > 90


# ------------------------------------------------------------------------------------------------------------ bounds


def test_bounds_of_ratings_by_hand() -> None:
    sure = RatingContent((0, 1), (1, 1))
    generous = _traits(RatingHabit(2, (1, 1, 0, 0, 0, 0)))

    # The user means 5 and puts down 4 one time in twenty.
    assert oracle_score(sure, generous) == pytest.approx(0.05)
    # Bias -2..2, two weights: 3 + bias + {0, 1, 1, 2}, cut at 5, gives 1 to 5 with 1, 3, 4, 4, 8 of 20.
    meant = np.array([1, 3, 4, 4, 8]) / 20
    law = 0.9 * meant + 0.05 * np.append(meant[1:], 0) + 0.05 * np.append(0, meant[:-1])
    law += 0.05 * np.array([meant[0], 0, 0, 0, meant[-1]])
    by_hand = min(float(law @ np.abs(np.arange(5) - guess)) for guess in range(5))
    assert no_user_score(sure) == pytest.approx(by_hand)


def test_bounds_of_tags_by_hand() -> None:
    film = TagContent(0, (0, 1, 2))

    assert oracle_score(film, _traits()) == pytest.approx(0.95)
    # Orders that begin with the first tag have 7 of 16 parts; the other 9 name it by a slip, one time in forty.
    assert no_user_score(film) == pytest.approx(7 / 16 * 0.95 + 9 / 16 * 0.025)


def test_bounds_of_headlines_by_hand() -> None:
    silent = _traits(headline=HeadlineHabit(0, 0, 0, 0))
    # "harbour council opens wooden bridge": 5 words, and 2 more when somebody else's words slip in.
    assert oracle_score(ARTICLE, silent) == pytest.approx(11 / 12 + 1 / 12 * (2 * 5 / 12))
    assert oracle_score(ARTICLE, silent, "rouge-L") == pytest.approx(11 / 12 + 1 / 12 * (2 * 5 / 12))


@pytest.mark.parametrize("metric", BOUND_METRICS["LaMP_4"])
def test_the_no_user_bound_of_headlines_is_the_best_of_all_styles(metric: str) -> None:
    styles = style_prior()[::7]
    expected = no_user_score(ARTICLE, metric)
    law: dict[str, float] = {}
    for habit, share in style_prior():
        for favourite, chance in habit.favourites():
            slipped = HeadlineHabit(habit.template, favourite, habit.register, habit.length).headline(ARTICLE)
            law[slipped] = law.get(slipped, 0.0) + share * chance
    tried = [
        sum(share * SCORES[metric](gold, habit.headline(ARTICLE)) for gold, share in law.items()) for habit, _ in styles
    ]

    assert max(tried) <= expected + 1e-9
    assert expected < 1


def test_a_metric_without_a_bound_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="rouge-2"):
        no_user_score(ARTICLE, "rouge-2")
    with pytest.raises(InvalidOptionError, match="MAE"):
        oracle_score(TagContent(0, (0, 1)), _traits(), "MAE")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [(task, metric) for task in WORLD_TASKS for metric in BOUND_METRICS[task]])
def test_bounds_agree_with_sampled_questions(task: str, metric: str) -> None:
    """6,000 questions: what the best predictors really score is the computed bound, within three standard errors.

    The oracle's prediction is what the user means. The best prediction without a user is found on one half of the
    questions that share their content's shape, and scored on the other half.
    """
    asked = list(World(seed=3).questions(task, "dev", 6_000, records_per_user=0))
    meant = []
    for one in asked:
        traits, content = one.user.traits, one.content
        if isinstance(content, RatingContent):
            meant.append(str(traits.rating.score(content)))
        elif isinstance(content, TagContent):
            meant.append(MOVIE_TAGS[traits.tag.tag(content)])
        else:
            assert isinstance(content, HeadlineContent)
            meant.append(traits.headline.headline(content))
    realised = np.array([SCORES[metric](one.gold, p) for p, one in zip(meant, asked, strict=True)])
    computed = np.array([oracle_score(one.content, one.user.traits, metric) for one in asked])
    assert abs(realised.mean() - computed.mean()) <= 3 * realised.std() / len(asked) ** 0.5

    if task == "LaMP_4":
        guesses = [habit for habit, _ in style_prior()]
        half = len(asked) // 12
        means = [
            np.mean([SCORES[metric](one.gold, habit.headline(_article(one.content))) for one in asked[:half]])
            for habit in guesses
        ]
        best = guesses[int(np.argmax(means))]
        guessed = [best.headline(_article(one.content)) for one in asked]
    else:
        golds: dict[object, Counter[str]] = {}
        for one in asked[: len(asked) // 2]:
            golds.setdefault(_shape(one.content), Counter())[one.gold] += 1
        guessed = [_best_guess(golds[_shape(one.content)], metric) for one in asked]
    fresh = slice(len(asked) // 2, None)
    scores = np.array([SCORES[metric](one.gold, p) for p, one in zip(guessed, asked, strict=True)])[fresh]
    bound = np.array([no_user_score(one.content, metric) for one in asked[fresh]])
    assert abs(scores.mean() - bound.mean()) <= 3 * scores.std() / len(scores) ** 0.5


def _article(content: object) -> HeadlineContent:
    assert isinstance(content, HeadlineContent)
    return content


def _shape(content: object) -> object:
    """What the no-user law depends on: for a review the sentiments alone, in any order."""
    return tuple(sorted(content.sentiments)) if isinstance(content, RatingContent) else content


def _best_guess(golds: Counter[str], metric: str) -> str:
    if metric != "MAE":
        return golds.most_common(1)[0][0]
    return min("12345", key=lambda guess: sum(n * abs(int(guess) - int(gold)) for gold, n in golds.items()))


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_official_files_hold_the_questions(task: str, tmp_path: Path) -> None:
    users = {"train": 4, "dev": 3, "test": 2}
    World(5).write_lamp(tmp_path, task, users, records_per_user=5)

    ids = set()
    for digit, (split, count) in enumerate(users.items()):
        questions = json.loads((tmp_path / f"{split}_questions.json").read_text(encoding="utf-8"))
        outputs = json.loads((tmp_path / f"{split}_outputs.json").read_text(encoding="utf-8"))
        asked = list(World(5).questions(task, split, count, records_per_user=5))
        assert outputs == {"task": task, "golds": [{"id": one.question.id, "output": one.gold} for one in asked]}
        assert [row["input"] for row in questions] == [one.question.input for one in asked]
        assert [row["user_id"] for row in questions] == [one.user.user_id for one in asked]
        assert questions[0]["id"] == f"{int(task[-1]) - 1}{digit}0"
        assert questions[0]["profile"][4]["id"] == f"{questions[0]['id']}4"
        for row, one in zip(questions, asked, strict=True):
            assert row["date"] > row["profile"][-1]["date"]
            read = [lamp_task(task).record(entry) for entry in row["profile"]]
            kept = one.question.profile
            assert [(r.text, r.target, r.time) for r in read] == [(r.text, r.target, r.time) for r in kept]
        ids |= {row["id"] for row in questions}
    assert len(ids) == sum(users.values())


@pytest.mark.parametrize(
    ("task", "users", "n"), [("LaMP_5", {"dev": 1}, 5), ("LaMP_3", {"dav": 1}, 5), ("LaMP_3", {"dev": 1}, -1)]
)
def test_what_cannot_be_written_leaves_the_files_as_they_were(
    task: str, users: dict[str, int], n: int, tmp_path: Path
) -> None:
    for split in ("dev", "dav"):
        (tmp_path / f"{split}_questions.json").write_text("kept")
    with pytest.raises(InvalidOptionError):
        World(5).write_lamp(tmp_path, task, users, records_per_user=n)
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["kept", "kept"]


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_the_command_writes_what_the_demonstration_carries(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["world", str(tmp_path), task, "dev=20", "--bounds"])
    main()
    carried = generated_folder(task)
    for name in ("dev_questions.json", "dev_outputs.json"):
        assert (tmp_path / name).read_bytes() == (carried / name).read_bytes()
    written, known = (json.loads((folder / "dev_bounds.json").read_text()) for folder in (tmp_path, carried))
    assert written.keys() == known.keys()
    assert [*map(sum, written.values())] == pytest.approx([*map(sum, known.values())])


@pytest.mark.parametrize(("users", "why"), [("dev", "SPLIT=N, such as"), ("dav=3", "a split must be one of")])
def test_the_command_refuses_other_users(
    users: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["world", "out", "LaMP_3", users])
    with pytest.raises(SystemExit):
        main()
    assert why in capsys.readouterr().err
