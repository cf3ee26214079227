"""Adapters in use: one batch mixes users with and without them; what is erased is answered with no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.channel import AdapterChannel
from persona.adapters.family import Family, LoraSpec
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.stacked import StackedLoRA
from persona.adapters.versions import AdapterDraft
from persona.assembly import personalize
from persona.errors import FingerprintMismatchError, InvalidOptionError, UnknownAdapterError, UnsupportedChannelError
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.personalizer import Personalizer
from persona.protocols import ADAPTER, PRIOR_ADAPTER, GenerationOptions, Request
from persona.records import Record
from persona.store.profile_store import ForgetReport, ProfileStore

SPEC = LoraSpec(r=2, alpha=4)
USERS = [f"user {number}" for number in range(6)]
OPTIONS = GenerationOptions(8)
PROMPT = "A quiet film"


def row(family: Family, seed: int) -> Tensor:
    return torch.randn(family.size, generator=torch.Generator().manual_seed(seed)) * 0.4


def holds(pool: AdapterPool, numbers: Tensor) -> bool:
    """Whether the pool has an adapter anywhere."""
    assert pool._stack is not None
    return any(torch.equal(one, numbers) for one in pool._stack._rows)


@pytest.fixture
def family(llm: TransformersLM) -> Family:
    with StackedLoRA(llm.model, SPEC, 1, base=llm.fingerprint) as stack:
        return stack.family.over(row(stack.family, 99))


@pytest.fixture
def bank(tmp_path: Path, family: Family) -> Iterator[AdapterBank]:
    """An adapter for each user but the last two; for the one before the last the prior does better."""
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((user, Record("a record")) for user in USERS)
        bank = AdapterBank(store)
        bank.add_family(family, row(family, 99))
        bank.publish(family, [AdapterDraft(user, row(family, seed), 1) for seed, user in enumerate(USERS[:4])])
        bank.publish(family, [AdapterDraft(USERS[4], None, 1)])
        yield bank


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_mixes_users_the_plain_model_and_soft_prompts(
    bank: AdapterBank, llm: TransformersLM, num_beams: int
) -> None:
    options = GenerationOptions(8, num_beams)
    scale = llm.model.get_input_embeddings().weight.std()
    soft = torch.randn(3, llm.hidden_size, generator=torch.Generator().manual_seed(0)) * scale
    plain = llm.generate([Request(PROMPT), Request(PROMPT, soft)], options)
    names = [f"{user}@1" for user in USERS[:4]]
    requests = [
        Request(PROMPT),
        Request(PROMPT, soft),
        *(Request(PROMPT, adapter=name) for name in names),
        Request(PROMPT, soft, names[0]),
        Request(PROMPT, adapter=PRIOR_ADAPTER),
    ]
    # With fewer slots than users, so that some make room for others.
    with AdapterPool(bank, llm, slots=3) as pool:
        assert ADAPTER in llm.channels
        together = llm.generate(requests, options)
        assert [llm.generate([request], options)[0] for request in requests] == together
        with pytest.raises(InvalidOptionError, match="can mix 3 adapters here, had: 4"), pool.named(names):
            pass
    assert together[:2] == plain
    assert len(set(together)) == len(requests)
    assert ADAPTER not in llm.channels
    assert llm.generate(requests[:2], options) == plain
    with pytest.raises(UnsupportedChannelError, match="open AdapterPool"):
        llm.generate(requests, options)


def test_an_answer_is_that_of_prior_and_private_part(bank: AdapterBank, llm: TransformersLM, family: Family) -> None:
    with AdapterPool(bank, llm):
        (answer,) = llm.generate([Request(PROMPT, adapter="user 2@1")], OPTIONS)
    merged: dict[str, Tensor] = {}
    for a_and_b in (family.pairs(row(family, 99)[None]), family.pairs(row(family, 2)[None])):
        for module, (a, b) in zip(family.modules, a_and_b, strict=True):
            merged[module.name] = merged.get(module.name, torch.zeros(())) + SPEC.scale * (b[0] @ a[0])
    for name, delta in merged.items():
        llm.model.get_submodule(name).weight.data += delta
    assert llm.generate([Request(PROMPT)], OPTIONS) == [answer]


def test_what_the_bank_forgot_is_gone_from_the_pool(
    bank: AdapterBank, llm: TransformersLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AdapterPool(bank, llm) as pool:
        llm.generate([Request(PROMPT, adapter="user 1@1"), Request(PROMPT, adapter="user 2@1")], OPTIONS)
        numbers = bank.row(bank.version("user 1", pool.family, 1))
        assert holds(pool, numbers)
        report = bank.forget("user 1")
        assert (report.records, report.adapters) == (1, 1)
        assert not holds(pool, numbers)
        with pytest.raises(UnknownAdapterError, match="no adapter user 1@1"):
            llm.generate([Request(PROMPT, adapter="user 1@1")], OPTIONS)
        # Another process forgets: the next question notices.
        monkeypatch.setattr("persona.store.profile_store.drop", lambda user_id: {})
        bank.store.forget("user 2")
        with pytest.raises(UnknownAdapterError, match="no adapter user 2@1"):
            llm.generate([Request(PROMPT, adapter="user 2@1")], OPTIONS)
        assert pool._stack is not None
        assert pool._stack._rows.count_nonzero() == 0


def test_an_answer_in_the_midst_of_forgetting_leaves_no_copy(
    bank: AdapterBank, llm: TransformersLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AdapterPool(bank, llm) as pool:
        numbers = bank.row(bank.version("user 1", pool.family, 1))
        erase = bank.store.forget

        def asked_meanwhile(user_id: str) -> ForgetReport:
            llm.generate([Request(PROMPT, adapter="user 1@1")], OPTIONS)
            assert holds(pool, numbers)
            return erase(user_id)

        monkeypatch.setattr(bank.store, "forget", asked_meanwhile)
        bank.forget("user 1")
        assert not holds(pool, numbers)


def test_a_name_that_was_given_anew_is_answered_with_the_new_numbers(
    bank: AdapterBank, llm: TransformersLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, names = bank.store, ("user 1@1", "user 1@2")
    requests = [Request(PROMPT, adapter=name) for name in names]
    with AdapterPool(bank, llm) as pool:
        bank.publish(pool.family, [AdapterDraft("user 1", row(pool.family, 11), 1)])
        (before,) = llm.generate(requests[1:], OPTIONS)
        # Another process: this pool does not hear of it.
        monkeypatch.setattr("persona.store.profile_store.drop", lambda user_id: {})
        store.forget("user 1")
        store.upsert([("user 1", Record("of somebody else"))])
        for seed in (21, 22):
            draft = AdapterDraft("user 1", row(pool.family, seed), store.profile("user 1").revision)
            assert AdapterBank(store).publish(pool.family, [draft])
        # The first of the new ones is held when the second turns out to be another than the one held.
        pool.load(names[0])
        mixed = llm.generate(requests, OPTIONS)
        assert not holds(pool, row(pool.family, 11))
        assert holds(pool, row(pool.family, 21))
        assert holds(pool, row(pool.family, 22))
    with AdapterPool(bank, llm):
        assert mixed == llm.generate(requests, OPTIONS)
    assert before not in mixed


@pytest.mark.parametrize("name", ["user 1", "user 1@", "@1", "user 1@one", "user 1@2", "nobody@1"])
def test_an_unknown_name_is_an_error_and_never_the_plain_model(
    bank: AdapterBank, llm: TransformersLM, name: str
) -> None:
    with AdapterPool(bank, llm), pytest.raises(UnknownAdapterError):
        llm.generate([Request(PROMPT), Request(PROMPT, adapter=name)], OPTIONS)


def test_what_cannot_be_served_is_refused(bank: AdapterBank, llm: TransformersLM, family: Family) -> None:
    other = replace(family, base="another@0:float32")
    with pytest.raises(FingerprintMismatchError, match=f"made for another@0:float32, this is {llm.fingerprint}"):
        AdapterPool(bank, llm, other)
    with pytest.raises(UnsupportedChannelError, match="need a transformers model"):
        AdapterPool(bank, load_llm(lambda prompt: prompt))
    with pytest.raises(InvalidOptionError, match="`slots` must be at least 1, was: 0"):
        AdapterPool(bank, llm, slots=0)
    with pytest.raises(InvalidOptionError, match="open it with `with pool:`"):
        AdapterPool(bank, llm).load("user 1@1")


def test_the_channel_follows_its_policy(bank: AdapterBank, llm: TransformersLM) -> None:
    questions = [(user, PROMPT) for user in USERS]
    pool = AdapterPool(bank, llm)
    personalizer = Personalizer(llm, bank.store, [AdapterChannel(pool)], options=OPTIONS)
    with pytest.raises(UnknownAdapterError, match="'user 5' has no adapter"):
        personalizer.batch(questions)
    closed = personalizer.batch(questions[:5])
    assert ADAPTER not in llm.channels
    with pool:
        found = personalizer.batch(questions[:5])
        assert found == closed
        assert [one.channels for one in found] == [(ADAPTER,)] * 4 + [()]
        requests = [Request(PROMPT, adapter=f"{user}@1") for user in USERS[:4]]
        expected = llm.generate([*requests, Request(PROMPT, adapter=PRIOR_ADAPTER), Request(PROMPT)], OPTIONS)
        assert [one.text for one in found] == expected[:5]
        for policy, text in (("prior", expected[4]), ("base", expected[5])):
            other = Personalizer(llm, bank.store, [AdapterChannel(pool, missing=policy)], options=OPTIONS)
            (answer,) = other.batch(questions[5:])
            assert (answer.text, answer.abstained) == (text, True)
    with pytest.raises(InvalidOptionError, match="must be one of error, prior, base, was: 'none'"):
        AdapterChannel(pool, missing="none")


def test_the_identity_of_an_adapter_is_its_numbers(bank: AdapterBank, llm: TransformersLM, family: Family) -> None:
    def identities(user_id: str) -> str:
        personalizer = Personalizer(llm, bank.store, [AdapterChannel(AdapterPool(bank, llm), missing="prior")])
        (prepared,) = personalizer.prepare([personalizer.ask(bank.store.profile(user_id), PROMPT)])
        return prepared.identity

    before = [identities(user) for user in USERS]
    assert len(set(before[:4])) == 4
    assert before[4] == before[5] == family.prior
    bank.store.forget(USERS[0])
    bank.store.upsert([(USERS[0], Record("of somebody else"))])
    bank.publish(family, [AdapterDraft(USERS[0], row(family, 7), bank.store.profile(USERS[0]).revision)])
    current = bank.current(USERS[0], family)
    assert current is not None
    assert current.name == "user 0@1"
    assert identities(USERS[0]) not in before


def test_personalize_takes_a_bank(bank: AdapterBank, llm: TransformersLM) -> None:
    with AdapterPool(bank, llm):
        (expected,) = llm.generate([Request(PROMPT, adapter="user 3@1")], OPTIONS)
    options = {"store": bank.store, "k": 0, "generation": OPTIONS}
    assert personalize(llm, "user 3", PROMPT, adapters=bank, **options) == expected  # type: ignore[arg-type]
    with pytest.raises(UnknownAdapterError):
        personalize(llm, "user 5", PROMPT, adapters=bank, **options)  # type: ignore[arg-type]
    assert ADAPTER not in llm.channels
