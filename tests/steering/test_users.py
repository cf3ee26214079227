"""Users' vectors: from records to versions, who gets none, and what is left when a record or a user goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.versions import PRIOR, PUBLISHED
from persona.channels import Ask, Channel, Contribution
from persona.errors import InvalidOptionError
from persona.llm.transformers import TransformersLM
from persona.personalizer import Personalizer
from persona.protocols import STEERING, GenerationOptions
from persona.records import Record
from persona.steering.channel import SteeringChannel
from persona.steering.choosing import capped, choose
from persona.steering.contrast import Contrast
from persona.steering.options import SteeringOptions, as_row, as_steering
from persona.steering.preference import trained_direction
from persona.steering.users import steer_users
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.receipt import forget_with_receipt

OPTIONS = SteeringOptions(strengths=(-1.0, -0.25, 0.25, 1.0, 2.0), most_tokens=8, gate=0.0, cap=2.0)
SIGNATURE = "zqxj"


def records(user: str, count: int = 6) -> list[tuple[str, Record]]:
    return [
        (user, Record(f"Film {number}", target=f"{SIGNATURE} {user}", id=f"r{number}", time=f"2020-01-0{number + 1}"))
        for number in range(count)
    ]


@pytest.fixture
def contrast(llm: TransformersLM) -> Contrast:
    return Contrast(llm, history_examples, OPTIONS)


def payload(bank: AdapterBank, contrast: Contrast, user: str) -> bytes:
    current = bank.current(user, contrast.family)
    assert current is not None
    assert current.state == PUBLISHED
    return bank.payload(current)


def test_vectors_are_published_where_they_help_and_answer_in_a_mixed_batch(
    llm: TransformersLM, bank: AdapterBank, contrast: Contrast
) -> None:
    bank.store.upsert([*records("ana"), *records("bo"), *records("few", 3)])
    done = steer_users(bank, contrast)
    assert (done.users, done.published, done.too_few) == (2, 2, 1)
    current = bank.current("ana", contrast.family)
    assert current is not None
    assert current.metrics["loss"] < current.metrics["loss_prior"]
    assert list(bank.stale_users(contrast.family)) == ["few"]

    family = bank.family(llm.fingerprint, steers=True)
    assert family == contrast.family
    channel = SteeringChannel(bank, family)
    personalizer = Personalizer(llm, bank.store, [channel], options=GenerationOptions(8))
    pairs = [("ana", "Film"), ("few", "Film"), ("bo", "Film"), ("nobody", "Film")]
    answers = personalizer.batch(pairs)
    assert [answer.text for answer in answers] == [personalizer.generate(*pair).text for pair in pairs]
    assert [answer.channels for answer in answers] == [(STEERING,), (), (STEERING,), ()]
    off = Personalizer(llm, bank.store, [SteeringChannel(bank, family, strength=0)], options=GenerationOptions(8))
    assert off.generate("ana", "Film").text == answers[3].text


def test_the_gate_says_none(llm: TransformersLM, bank: AdapterBank) -> None:
    bank.store.upsert(records("ana"))
    strict = Contrast(llm, history_examples, replace(OPTIONS, gate=1e9))
    assert steer_users(bank, strict).kept_prior == 1
    current = bank.current("ana", strict.family)
    assert current is not None
    assert current.state == PRIOR
    assert SteeringChannel(bank, strict.family).of("ana").steering is None


def test_a_vector_is_the_capped_mean_of_its_records_differences(bank: AdapterBank, contrast: Contrast) -> None:
    bank.store.upsert(records("ana"))
    steer_users(bank, contrast)
    current = bank.current("ana", contrast.family)
    assert current is not None
    read = contrast.differences(bank.store, bank.store.profile("ana"))
    block, by = int(current.metrics["block"]), current.metrics["strength"]
    place = contrast.blocks.index(block)
    mean = torch.from_numpy(read.vectors[:, place].mean(0))
    expected = capped(mean * by, float(read.lengths[:, place].mean()), OPTIONS.cap)
    (found,) = as_steering(contrast.family, bank.row(current)).items()
    assert found[0] == block
    assert torch.equal(found[1], expected)
    assert torch.equal(as_row(contrast.family, dict([found])), bank.row(current))


def test_the_cap_holds() -> None:
    long = torch.full((4,), 3.0)
    assert float(capped(long, 2.0, 0.5).norm()) == pytest.approx(1.0)
    assert torch.equal(capped(long, 100.0, 0.5), long)


def test_without_a_record_everything_is_as_had_it_never_been_there(
    bank: AdapterBank, contrast: Contrast, tmp_path: Path
) -> None:
    bank.store.upsert(records("ana", 7))
    steer_users(bank, contrast)
    bank.store.delete_records("ana", ["r3"])
    assert bank.current("ana", contrast.family) is None
    kept = bank.store.vectors("ana", contrast.fingerprint)
    assert kept is not None
    assert kept.record_ids == ("r0", "r1", "r2", "r4", "r5", "r6")
    steer_users(bank, contrast)
    with ProfileStore(f"sqlite:///{tmp_path / 'never.db'}") as store:
        store.upsert([pair for pair in records("ana", 7) if pair[1].id != "r3"])
        never = AdapterBank(store)
        steer_users(never, contrast)
        assert payload(never, contrast, "ana") == payload(bank, contrast, "ana")
        fresh = store.vectors("ana", contrast.fingerprint)
        assert fresh is not None
        assert np.array_equal(fresh.matrix, kept.matrix)


def test_a_forgotten_user_is_gone_from_the_bytes_and_the_receipt_says_of_what(
    bank: AdapterBank, contrast: Contrast, tmp_path: Path
) -> None:
    bank.store.upsert([*records("ana"), *records("bo")])
    steer_users(bank, contrast)
    row, matrix = payload(bank, contrast, "ana"), bank.store.vectors("ana", contrast.fingerprint)
    assert matrix is not None
    receipt = forget_with_receipt(bank.store, "ana")
    assert receipt.complete
    removed = {part.what: part.removed for part in receipt.parts}
    assert (removed["adapters"], removed["vector matrices"], removed["neutral texts"]) == (1, 1, 1)
    bank.store.close()
    start = row.index(next(bytes([byte]) for byte in row if byte))
    left = b"".join(path.read_bytes() for path in tmp_path.glob("persona.db*"))
    for secret in (row[start : start + 16], matrix.matrix.tobytes()[:16], b"ana"):
        assert secret not in left
    assert b"bo" in left


def test_a_preference_makes_own_texts_likelier_one_way_and_less_likely_the_other(
    llm: TransformersLM, bank: AdapterBank
) -> None:
    """Row 22: pairs of the user's own text and one that is not theirs."""
    bank.store.upsert(records("ana"))
    contrast = Contrast(llm, history_examples, replace(OPTIONS, bipo=8, learning_rate=0.05))
    profile = bank.store.profile("ana")
    own = contrast.own_texts(profile)
    neutral = contrast.neutral(bank.store, profile, own)
    direction = trained_direction(contrast.loss, 1, own, [neutral[each.record_id] for each in own], contrast.options)
    there, back = (
        choose(contrast.loss, {1: by * direction}, {1: 1e9}, own, replace(OPTIONS, strengths=(1.0,))) for by in (1, -1)
    )
    assert there.loss < there.loss_plain < back.loss
    assert there.wins
    assert not back.wins
    assert steer_users(bank, contrast).users == 1


def test_several_channels_add_up(llm: TransformersLM, bank: AdapterBank) -> None:
    class Adds(Channel):
        requires = STEERING

        def __init__(self, name: str, vectors: dict[int, torch.Tensor]) -> None:
            self.name, self.vectors = name, vectors

        def contribute(self, asks: list[Ask]) -> list[Contribution]:  # type: ignore[override]
            return [Contribution(steering=self.vectors) for _ in asks]

    one, two = torch.randn(32), torch.randn(32)
    personalizer = Personalizer(llm, bank.store, [Adds("one", {0: one}), Adds("two", {0: two, 1: two})])
    (prepared,) = personalizer.prepared([("ana", "Film")])
    assert prepared.request.steering is not None
    assert torch.equal(prepared.request.steering[0], one + two)
    assert torch.equal(prepared.request.steering[1], two)


def test_families_of_vectors_and_of_adapters_are_not_taken_for_one_another(
    llm: TransformersLM, bank: AdapterBank, contrast: Contrast
) -> None:
    from persona.adapters.family import Family, find_modules

    spec = LoraSpec(r=2)
    lora = Family(llm.fingerprint, spec, find_modules(llm.model, spec))
    bank.add_family(lora)
    bank.add_family(contrast.family)
    assert bank.family(llm.fingerprint) == lora == AdapterPool(bank, llm).family
    assert bank.family(llm.fingerprint, steers=True) == contrast.family
    with pytest.raises(InvalidOptionError, match="of adapters, not of steering vectors"):
        SteeringChannel(bank, lora)


@pytest.mark.parametrize(
    "wrong",
    [{"cap": 0.0}, {"holdout": 1.0}, {"states": "first"}, {"min_records": 1}, {"strengths": ()}, {"gate": -1.0}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
        replace(SteeringOptions(), **wrong)  # type: ignore[arg-type]


def test_a_block_that_the_llm_lacks_is_refused(llm: TransformersLM) -> None:
    with pytest.raises(InvalidOptionError, match="blocks"):
        Contrast(llm, history_examples, SteeringOptions(blocks=(2,)))
