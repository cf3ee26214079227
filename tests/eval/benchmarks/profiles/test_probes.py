"""Probes by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval import MethodOptions, evaluate_benchmark, load_benchmark
from persona.eval.benchmarks.profiles.probes import PROBES, ProbeOptions, Probes
from persona.llm.load import load_llm
from persona.records import Profile, Record
from persona.soft_prompts.training.options import UserEmbedderTraining

LABELS = ("red", "blue", "green", "pink", "grey")


def profile(user_id: str, labels: Sequence[str]) -> Profile:
    records = [Record(f"text {n}", target=label, time=f"20{n:02}") for n, label in enumerate(labels, 1)]
    return Profile(user_id, (Record("no label", time="1999"), *records))


ANA = profile("ana", ("red", "red", "blue", "blue", "green", "blue", "pink", "green", "green"))
BEN = profile("ben", ("grey",) * 6)


def test_every_kind_by_hand() -> None:
    """ana: three red, red, blue, then ...; blue 3, green 3, red 2, pink 1; of the last five green thrice."""
    probes = Probes([ANA], labels=LABELS)
    by_kind = {each.kind: each for each in probes.questions}
    assert list(by_kind) == list(PROBES)
    golds = {kind: question.gold for kind, question in by_kind.items()}
    assert golds["last item"] == golds["next label"] == "green"
    assert golds["top three"] == "blue, green, red"
    assert golds["recent top"] == "green"
    assert golds["drift"] == "from red to green"
    counted = by_kind["count"].query
    labels = Counter(record.target for record in ANA)
    assert any(f'"{label}"' in counted and golds["count"] == str(count) for label, count in labels.items())
    place = int(by_kind["n-th item"].query.split("number ")[1].split()[0])
    assert golds["n-th item"] == ANA[-place].target
    # What comes next is out of the history; all the others see every record with a label.
    assert len(by_kind["next label"].profile) == 8
    assert {len(each.profile) for kind, each in by_kind.items() if kind != "next label"} == {9}
    for question in probes.questions:
        assert isinstance(question.choices, tuple)
        assert len(set(question.choices)) == 4
        assert question.gold in question.choices
        assert question.prompt.count(str(question.gold)) >= 1
    assert "from green to red" in by_kind["drift"].prompt


def test_what_has_several_right_answers_is_not_asked() -> None:
    tied = Probes([profile("cyd", ("red", "blue", "red", "blue", "green", "pink", "grey"))], labels=LABELS)
    assert {each.kind for each in tied.questions} == {"last item", "n-th item", "count", "next label"}
    same = Probes([BEN], labels=LABELS)
    assert {each.kind for each in same.questions} == set(PROBES) - {"top three"}
    assert next(each.gold for each in same.questions if each.kind == "drift") == "from grey to grey"
    alone, beside = (Probes(some, labels=LABELS).questions for some in ([ANA], [BEN, ANA]))
    assert [each.prompt for each in alone] == [each.prompt for each in beside[6:]]


def test_several_facts_of_one_user_in_one_request() -> None:
    """Row 27: two to four facts at once, and the share of them that an answer has right, by hand."""
    probes = Probes([ANA, BEN], ProbeOptions(kinds=("several facts",), seed=1), labels=LABELS)
    ana = probes.questions[0]
    facts = ana.prompt.split("order: ")[1].split("?")[0].split("; ")
    known = {"the newest one": "green", "the last 5 most often": "green"}
    known |= {f"number {n} from the newest": ANA[-n].target or "" for n in range(2, 6)}
    assert 2 <= len(facts) <= 4
    right = [known[fact] for fact in facts]
    assert ana.gold == "; ".join(right)
    assert isinstance(ana.choices, tuple)
    assert len(set(ana.choices)) == 4
    half = "; ".join([right[0], *["grey"] * (len(right) - 1)])
    one = 1 / len(right)
    for answer, share in ((ana.gold, 1.0), (half, one), ("grey", 0.0), (right[0], one), ("", 0.0)):
        samples = probes.score([ana], [answer])
        assert samples["coverage"].tolist() == [[share]], answer
    assert [metric.name for metric in Probes([ANA], labels=LABELS).metrics] == ["accuracy", "official accuracy"]
    assert {each.kind for each in Probes([ANA], labels=LABELS).questions} == set(PROBES)
    assert "several facts" not in PROBES


def test_scores_and_yardsticks() -> None:
    probes = Probes([ANA, BEN], ProbeOptions(kinds=("count", "last item")))
    answers = [f"{each.gold}0" if each.kind == "count" else each.gold or "" for each in probes.questions]
    samples = probes.score(probes.questions, answers)
    assert {metric.name: metric.value(samples) for metric in probes.metrics} == {
        "accuracy": 0.5,
        "official accuracy": 1,
    }
    own = probes.baselines(probes.questions)["own commonest label"]
    assert own[probes.questions.index(next(each for each in probes.questions if each.id == "ben/last item"))] == "grey"


def test_files_training_users_and_what_is_refused(tmp_path: Path) -> None:
    def written(name: str, profiles: Sequence[Profile]) -> str:
        path = tmp_path / name
        rows = [{"user_id": p.user_id, "text": r.text, "target": r.target, "time": r.time} for p in profiles for r in p]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    asked, others = written("a.jsonl", [ANA]), written("b.jsonl", [BEN])
    probes = load_benchmark("probes", asked, training=others, kinds=("last item",))
    assert [each.id for each in probes.questions] == ["ana/last item"]
    assert probes.training is not None
    assert [each.gold for each in probes.training.questions] == ["grey"]
    with pytest.raises(EvaluationError, match="must not be asked, are in both: ana"):
        load_benchmark("probes", asked, training=asked)
    with pytest.raises(EvaluationError, match="at least 4 labels, had: 1"):
        load_benchmark("probes", others)
    with pytest.raises(EvaluationError, match="no user has 20 records with a label"):
        load_benchmark("probes", asked, least=20)
    with pytest.raises(InvalidOptionError, match="`kinds` must be one of last item"):
        load_benchmark("probes", asked, kinds=("first item",))


def test_the_rows_of_a_run() -> None:
    """An LLM that reads the newest record's label answers one kind, and not of another user's."""
    probes = Probes([ANA, BEN], ProbeOptions(kinds=("last item",)), labels=LABELS)
    llm = load_llm(lambda prompt: prompt.split('-> "')[-1].split('"')[0] if '-> "' in prompt else "red")
    report = evaluate_benchmark(probes, llm, MethodOptions(methods=("none", "recency"), ks=(1,), resamples=20))
    assert report["recency k=1"].scores["accuracy"].value == 1
    assert report["recency k=1, other user"].scores["accuracy"].value == 0
    assert {"everybody's", "own commonest label"} <= {row.name for row in report.rows}


def test_a_user_embedder_by_name(tmp_path: Path) -> None:
    """Without its folder it is refused before anything is asked."""
    with pytest.raises(InvalidOptionError, match="the method 'user-embedder' needs `user_embedders`"):
        MethodOptions(methods=("user-embedder",))
    with pytest.raises(InvalidOptionError, match="no other reads them"):
        MethodOptions(user_embedders=("folder",))


@pytest.mark.slow
def test_a_user_embedder_is_trained_on_probes_and_answers_from_its_soft_prompt_alone(tmp_path: Path) -> None:
    from persona.encoders.load import load_encoder
    from tests.soft_prompts.splits import fresh, train

    llm, encoder = load_llm("tiny"), load_encoder("hashing")
    training = [profile(f"t{n}", LABELS[n % 5 :] + LABELS) for n in range(6)]
    probes = Probes([ANA, BEN], ProbeOptions(kinds=("last item",)), Probes(training, labels=LABELS), labels=LABELS)
    assert isinstance(probes.training, Probes)
    embedder = fresh(llm, encoder)
    options = UserEmbedderTraining(warm_up=0, steps=2, batch=2, ks=(0,), leave_one_out=0, new_user_steps=0)
    train(embedder, probes.training.as_split(), llm, encoder, options, tmp_path / "embedder")
    methods = MethodOptions(
        methods=("none", "user-embedder"), user_embedders=(embedder,), encoder=encoder, resamples=10
    )
    report = evaluate_benchmark(probes, llm, methods, out=tmp_path / "out")
    assert report["user-embedder"].tokens_added == embedder.config.n_tokens
    assert report["user-embedder"].answered.startswith("likelihood")
    assert "user-embedder, other user" in {row.name for row in report.rows}
