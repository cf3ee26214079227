"""The engine: an answer is the one that its request gets alone, whoever else is there, comes, goes or fails."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family, LoraSpec
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.stacked import StackedLoRA
from persona.adapters.versions import AdapterDraft
from persona.errors import BusyError, GenerationError, InvalidOptionError, UnknownAdapterError, UnsupportedChannelError
from persona.llm.checkpoint import hash_parameters
from persona.llm.continuous.engine import Engine, EngineOptions
from persona.llm.continuous.sampling import Piece, SamplingOptions
from persona.llm.continuous.ticket import Ticket
from persona.llm.decoding import NOISE
from persona.llm.inputs import TokenSet
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import PRIOR_ADAPTER, GenerationOptions, Message, Request
from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.zoo.tiny_models import tiny_llm

TEXT = "the king and his red ball ran to a little river where one day an old dog sat with the queen of snow"
SPEC = LoraSpec(r=2, alpha=4)
USERS = [f"user {number}" for number in range(12)]


def exact(name: str | Path) -> TransformersLM:
    llm = load_llm(name, dtype="float64")
    assert isinstance(llm, TransformersLM)
    return llm


@pytest.fixture(scope="module")
def tiny() -> TransformersLM:
    return exact("tiny")


@pytest.fixture(scope="module")
def llama(llama_folder: Path) -> TransformersLM:
    """Of large random weights, so that its answers differ from prompt to prompt."""
    return exact(llama_folder)


@pytest.fixture(scope="module", params=["tiny", "llama"])
def llm(request: pytest.FixtureRequest) -> TransformersLM:
    loaded: TransformersLM = request.getfixturevalue(request.param)
    return loaded


def adapter(family: Family, seed: int) -> torch.Tensor:
    return torch.randn(family.size, generator=torch.Generator().manual_seed(seed)) * 0.2


@pytest.fixture
def bank(llm: TransformersLM, tmp_path: Path) -> Iterator[AdapterBank]:
    """An adapter for each of `USERS`."""
    with StackedLoRA(llm.model, SPEC, 1, base=llm.fingerprint) as stack:
        family = stack.family.over(adapter(stack.family, 99))
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((user, Record("a record")) for user in USERS)
        bank = AdapterBank(store)
        bank.add_family(family, adapter(family, 99))
        bank.publish(family, [AdapterDraft(user, adapter(family, seed), 1) for seed, user in enumerate(USERS)])
        yield bank


def mixed(
    llm: TransformersLM, number: int, *, adapters: bool, seed: int = 0, sets: bool = True
) -> list[tuple[Request, SamplingOptions]]:
    """Requests of all lengths, with and without soft prompts (also sets), adapters, turns, lifts and stop strings."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    scale = llm.model.get_input_embeddings().weight.std()
    names = [None, PRIOR_ADAPTER, *(f"{user}@1" for user in USERS)] if adapters else [None]
    asked = []
    for n in range(number):
        prompt = " ".join(chance.choices(TEXT.split(), k=chance.randint(1, 12)))
        soft = torch.randn(n % 4, llm.hidden_size, generator=generator) * scale if n % 3 else None
        soft = TokenSet.of(soft) if sets and soft is not None and n % 4 == 3 else soft
        lifts = {chance.randrange(20): 2.0} if n % 7 == 6 else None
        turns = (Message("user", "one"), Message("assistant", "two")) if n % 5 == 4 else ()
        options = SamplingOptions(max_new_tokens=chance.randint(1, 14), stop=("e ",) if n % 6 == 5 else ())
        asked.append((Request(prompt, soft, chance.choice(names), lifts, turns), options))
    return asked


def alone(llm: TransformersLM, request: Request, options: SamplingOptions) -> list[int]:
    """The tokens of a request that is answered alone."""
    return decided(llm, request, options)[0]


def decided(llm: TransformersLM, request: Request, options: SamplingOptions) -> tuple[list[int], float]:
    """The same, and the margin with which they were chosen."""
    with llm.computing():
        (tokens,), (margin,) = llm._generate_batch(llm.inputs([request], options.generation), options.generation)
    return tokens, margin


def settled(engine: Engine) -> None:
    """Wait until nothing runs: a reader has its answer a little earlier."""
    deadline = time.monotonic() + 20
    while engine.running and time.monotonic() < deadline:
        time.sleep(0.001)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_64_concurrent_mixed_users_get_the_tokens_of_64_single_runs(llm: TransformersLM, bank: AdapterBank) -> None:
    before = hash_parameters(llm.model)
    sizes: list[int] = []
    with AdapterPool(bank, llm, slots=5):
        asked = mixed(llm, 64, adapters=True)
        expected = [alone(llm, *each) for each in asked]
        with Engine(llm, EngineOptions(rows=16), on_step=sizes.append) as engine:
            assert engine.alone is None
            tickets = [engine.submit(*each, client=f"client {n % 5}") for n, each in enumerate(asked)]
            written = [ticket.result() for ticket in tickets]
    assert [ticket.tokens for ticket in tickets] == expected
    read = [llm.read.answer(tokens, asked[n][1].generation) for n, tokens in enumerate(expected)]
    assert [(each.text, each.finish) for each in written] == [(each.text, each.finish) for each in read]
    assert max(sizes) > 5
    assert len({tuple(tokens) for tokens in expected}) > 32, "answers that are all the same prove nothing"
    assert hash_parameters(llm.model) == before
    assert not any(module._forward_hooks for module in llm.model.modules())


@pytest.mark.real
@pytest.mark.parametrize("llm", ["smollm2"], indirect=True)
def test_in_float32_only_near_ties_may_differ(llm: TransformersLM, bank: AdapterBank) -> None:
    with AdapterPool(bank, llm), Engine(llm) as engine:
        asked = [(request, replace(options, max_new_tokens=8)) for request, options in mixed(llm, 10, adapters=True)]
        tickets = [engine.submit(*each) for each in asked]
        assert all(ticket.result() for ticket in tickets)
        expected = [decided(llm, *each) for each in asked]
    near = [n for n, (_, margin) in enumerate(expected) if margin < NOISE[torch.float32]]
    different = [n for n, (tokens, _) in enumerate(expected) if tickets[n].tokens != tokens]
    assert set(different) <= set(near), f"near ties: {near}"
    assert len(near) <= 2, near


@pytest.mark.parametrize("seed", range(2))
def test_random_joins_leaves_and_cancels_change_nobody_elses_answer(llama: TransformersLM, seed: int) -> None:
    chance = random.Random(seed)
    asked = mixed(llama, 40, adapters=False, seed=seed)
    expected = [alone(llama, *each) for each in asked]
    answered: dict[int, Ticket] = {}
    with Engine(llama, EngineOptions(rows=6, read_tokens=40)) as engine:
        for n, each in enumerate(asked):
            answered[n] = engine.submit(*each, client=str(n % 3))
            if chance.random() < 0.3:
                time.sleep(chance.random() / 50)
            if chance.random() < 0.4:
                answered.pop(chance.choice(list(answered))).cancel()
        for n, ticket in answered.items():
            assert ticket.result().completion_tokens in (len(expected[n]), len(expected[n]) + 1)
            assert ticket.tokens == expected[n]
        assert engine.waiting == 0


def test_a_row_has_its_own_random_numbers(llama: TransformersLM) -> None:
    request = Request("the king")
    drawn = [SamplingOptions(max_new_tokens=12, temperature=1.5, top_p=p, seed=s) for p in (1.0, 0.8) for s in (1, 2)]
    with Engine(llama) as engine:
        single = [engine.submit(request, options).result().text for options in drawn]
        others = [engine.submit(*each) for each in mixed(llama, 10, adapters=False)]
        together = [engine.submit(request, options) for options in drawn]
        assert [ticket.result().text for ticket in together] == single
        assert len(set(single)) == 4
        assert all(ticket.result() for ticket in others)
        unseeded = [engine.submit(request, SamplingOptions(temperature=1.5)).result().text for _ in range(2)]
        assert unseeded[0] != unseeded[1]


def test_pieces_scores_and_counts(llama: TransformersLM) -> None:
    soft = torch.zeros(3, llama.hidden_size)
    options = SamplingOptions(max_new_tokens=8, logprobs=3)
    with Engine(llama) as engine:
        ticket = engine.submit(Request("the king", soft), options)
        written = ticket.result()

        async def read() -> tuple[list[Piece], Any, Any]:
            first, second = engine.submit(Request("the king", soft), options), engine.submit(Request("a"), options)
            return [piece async for piece in first], first.written, await second.whole()

        pieces, same, other = asyncio.run(read())
    assert "".join(piece.text for piece in pieces) == written.text == same.text != other.text
    assert [score for piece in pieces for score in piece.scores] == list(written.scores)
    assert written.prompt_tokens == len(llama.prompt_ids(["the king"])[0]) + 3
    assert written.completion_tokens == 8
    assert written.finish == "length"
    assert [score.token for score in written.scores] == ticket.tokens
    with torch.inference_mode():
        batch = llama.frozen.padded([llama.prompt_ids(["the king"])[0]], [soft.double()], llama.probe.stand_in)
        log_p = llama.frozen.logits(batch)[0, -1].log_softmax(-1)
    score = written.scores[0]
    assert score.logprob == pytest.approx(float(log_p.max()), abs=1e-5)
    assert [value for _, value in score.top] == pytest.approx(log_p.topk(3).values.tolist(), abs=1e-5)
    assert bytes(score.bytes).decode(errors="replace") == score.text == score.top[0][0]


def test_turns_are_fair_between_clients(llama: TransformersLM) -> None:
    order: list[str] = []

    def read(name: str, ticket: Ticket) -> None:
        ticket.result()
        order.append(name)

    options = SamplingOptions(max_new_tokens=4)
    with Engine(llama, EngineOptions(rows=1)) as engine:
        with llama.computing():  # nothing is answered before all are here
            asked = [(name, engine.submit(Request("the"), options, client=name)) for name in "a" * 8 + "b" * 2]
            readers = [threading.Thread(target=read, args=each) for each in asked]
            for reader in readers:
                reader.start()
        for reader in readers:
            reader.join()
    assert max(place for place, name in enumerate(order) if name == "b") <= 5


def test_a_full_queue_refuses_and_says_when_to_come_again(llama: TransformersLM) -> None:
    options = SamplingOptions(max_new_tokens=4)
    with Engine(llama, EngineOptions(rows=1, waiting=4, waiting_of_client=2)) as engine:
        with llama.computing():  # nothing is answered meanwhile
            tickets = [engine.submit(Request("the"), options, client="a") for _ in range(2)]
            with pytest.raises(BusyError, match="at most 2 requests of this client may wait") as refused:
                engine.submit(Request("the"), options, client="a")
            assert refused.value.retry_after >= 1
            tickets += [engine.submit(Request("the"), options, client=name) for name in "bc"]
            with pytest.raises(BusyError, match="at most 4 requests may wait"):
                engine.submit(Request("the"), options, client="d")
            tickets.pop().cancel()
            assert engine.waiting == 3
        assert len({ticket.result().text for ticket in tickets}) == 1
        settled(engine)
        assert (engine.waiting, engine.running) == (0, 0)


def test_what_is_over_a_limit_is_refused(llama: TransformersLM) -> None:
    with Engine(llama, EngineOptions(tokens=40, max_new_tokens=30)) as engine:
        with pytest.raises(InvalidOptionError, match="`max_new_tokens` must be at most 30 here, was: 31"):
            engine.submit(Request("the"), SamplingOptions(max_new_tokens=31))
        with pytest.raises(InvalidOptionError, match="may have 40 tokens here, were: 25 and 20"):
            engine.submit(Request("x" * 24), SamplingOptions(max_new_tokens=20))
        with pytest.raises(InvalidOptionError, match="a prompt may have"):
            engine.submit(Request("x" * 200), SamplingOptions(max_new_tokens=20))
        with pytest.raises(UnsupportedChannelError, match="needs: adapter"):
            engine.submit(Request("the", adapter="user 1@1"), SamplingOptions(max_new_tokens=1))
        # Two that fit only one after another.
        tickets = [engine.submit(Request("x" * 10), SamplingOptions(max_new_tokens=20)) for _ in range(3)]
        assert len({ticket.result().text for ticket in tickets}) == 1
    with pytest.raises(InvalidOptionError, match="`rows` must be at least 1, was: 0"):
        EngineOptions(rows=0)
    with pytest.raises(UnsupportedChannelError, match="needs a transformers model"):
        Engine(load_llm(lambda prompt: prompt))  # type: ignore[arg-type]


def test_who_leaves_early_frees_the_row(llama: TransformersLM) -> None:
    endless, long = Request("the", lifts={llama.frozen.ends[0]: -1e6}), SamplingOptions(max_new_tokens=100)
    with Engine(llama) as engine:
        ticket = engine.submit(endless, long)

        async def begin() -> None:
            pieces = aiter(ticket)
            await anext(pieces)
            await pieces.aclose()  # type: ignore[attr-defined]

        asyncio.run(begin())
        with pytest.raises(GenerationError, match="cancelled"):
            ticket.result()

        async def leave(left: Ticket) -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(left.whole(), 0.01)

        left = engine.submit(endless, long)
        asyncio.run(leave(left))
        with pytest.raises(GenerationError, match="cancelled"):
            left.result()
        assert max(len(ticket.tokens), len(left.tokens)) < 100
        short = engine.submit(endless, SamplingOptions(max_new_tokens=2))
        assert short.result() == short.result() == short.written


class Gate:
    """Steps wait while it is shut, and otherwise take their time."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()

    def __call__(self, rows: int) -> None:
        time.sleep(0.003)
        self.opened.wait(10)

    def begun(self, *tickets: Ticket) -> None:
        """Shut it when these are being answered."""
        while not all(len(ticket.tokens) > 3 for ticket in tickets):
            time.sleep(0.001)
        self.opened.clear()


def held(pool: AdapterPool, numbers: torch.Tensor) -> bool:
    """Whether an adapter is in what was gathered for a batch."""
    gathered = [named._gathered for named in pool._named if named._gathered is not None]
    return any(torch.equal(row, numbers) for each in gathered for row in each.rows)


@pytest.mark.parametrize("llm", ["llama"], indirect=True)
def test_who_is_forgotten_is_answered_no_more(llm: TransformersLM, bank: AdapterBank) -> None:
    """The row ends, its adapter and its slot are overwritten, and the others' answers are those they get alone."""
    options, gate, no_end = SamplingOptions(max_new_tokens=40), Gate(), {llm.frozen.ends[0]: -1e6}
    with AdapterPool(bank, llm) as pool, Engine(llm, on_step=gate) as engine:
        requests = [Request("the king", adapter=f"{user}@1", lifts=no_end) for user in USERS[:3]]
        requests.append(Request("the queen", lifts=no_end))
        expected = [alone(llm, request, options) for request in requests]

        def ask(*numbers: int) -> list[Ticket]:
            tickets = [engine.submit(requests[n], options, user_id=USERS[n] if n != 1 else None) for n in numbers]
            gate.begun(*tickets)
            return tickets

        # By the adapter alone.
        tickets = ask(0, 1, 2, 3)
        numbers = bank.row(bank.version(USERS[1], pool.family, 1)).double()
        assert held(pool, numbers)
        bank.forget(USERS[1])
        assert not held(pool, numbers)
        gate.opened.set()
        with pytest.raises(UnknownAdapterError, match="user 1"):
            tickets[1].result()
        assert len(tickets[1].tokens) < 40
        for n in (0, 2, 3):
            assert tickets[n].result()
            assert tickets[n].tokens == expected[n]
        with pytest.raises(UnknownAdapterError, match="user 1"):
            engine.submit(requests[1], options).result()
        # By the user: the bank tells the engine.
        tickets = ask(0, 3)
        gate.opened.set()
        bank.forget(USERS[3])
        for batch in engine._batches:
            assert float(batch.slots._layers[0].keys[batch.slots.taken :].abs().sum()) == 0
        with pytest.raises(GenerationError, match="the request's user was forgotten"):
            tickets[1].result()
        assert tickets[0].result()
        assert tickets[0].tokens == expected[0]
        assert engine.drop("nobody") == 0


@pytest.mark.parametrize("llm", ["llama"], indirect=True)
def test_a_pool_that_is_closed_too_early_ends_its_rows_and_no_others(llm: TransformersLM, bank: AdapterBank) -> None:
    options, gate, no_end = SamplingOptions(max_new_tokens=40), Gate(), {llm.frozen.ends[0]: -1e6}
    plain = Request("the king", lifts=no_end)
    expected = alone(llm, plain, options)
    with Engine(llm, on_step=gate) as engine:
        with AdapterPool(bank, llm):
            tickets = [engine.submit(plain, options), engine.submit(Request("a", None, "user 3@1", no_end), options)]
            gate.begun(*tickets)
            gate.opened.set()
        with pytest.raises(UnknownAdapterError, match="no adapters attached any more"):
            tickets[1].result()
        assert tickets[0].result()
        assert tickets[0].tokens == expected


def test_an_error_is_its_own_rows(llama: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt that the model cannot read, one whose scores are not numbers; then a step that fails for all."""
    forward, bad, fails_at = llama.frozen.forward, llama.prompt_ids(["Z"])[0][-1], [1000]

    def fails(batch: Any, **more: Any) -> Any:
        fails_at[0] -= 1
        if fails_at[0] == 0 or ("past_key_values" not in more and (batch.ids == bad).any()):
            raise RuntimeError("cannot read this\nat all")
        return forward(batch, **more)

    options = SamplingOptions(max_new_tokens=10)
    good, broken = Request("the k"), torch.full((2, llama.hidden_size), 1e300, dtype=torch.float64)
    expected = alone(llama, good, options)
    with Engine(llama) as engine:
        monkeypatch.setattr(llama.frozen, "forward", fails)
        with llama.computing():
            asked = (good, Request("the Z"), Request("the", broken), good)
            tickets = [engine.submit(request, options) for request in asked]
        with pytest.raises(GenerationError, match=r"cannot answer: RuntimeError: cannot read this$"):
            tickets[1].result()
        with pytest.raises(GenerationError, match="scores that are not numbers"):
            tickets[2].result()
        tickets.append(engine.submit(good, options))
        for n in (0, 3, 4):
            assert tickets[n].result()
            assert tickets[n].tokens == expected
        fails_at[0] = 4
        with pytest.raises(GenerationError, match="cannot read this"):
            engine.submit(good, options).result()
        again = engine.submit(good, options)
        assert again.result()
        assert again.tokens == expected


def test_it_drains_when_it_is_closed(llama: TransformersLM) -> None:
    before = threads()
    options = SamplingOptions(max_new_tokens=20)
    engine = Engine(llama, EngineOptions(rows=2))
    with llama.computing():
        tickets = [engine.submit(Request("the"), options) for _ in range(6)]
    engine.close(drain=30)
    assert {ticket.written.completion_tokens for ticket in tickets} == {20}
    with pytest.raises(GenerationError, match="closed"):
        engine.submit(Request("the"), options)
    engine.close()
    other = Engine(llama, EngineOptions(rows=2))
    with llama.computing():
        tickets = [other.submit(Request("the"), options) for _ in range(6)]
        threading.Thread(target=other.close).start()
        time.sleep(0.02)
    for ticket in tickets:
        with pytest.raises(GenerationError, match="closed before the answer's end"):
            ticket.result()
    other.close()
    assert threads() == before


def test_memory_does_not_grow(llama: TransformersLM) -> None:
    options = SamplingOptions(max_new_tokens=6)
    with Engine(llama) as engine:
        counts = []
        for _ in range(3):
            for ticket in [engine.submit(*each) for each in mixed(llama, 24, adapters=False)]:
                ticket.result()
            engine.submit(Request("the"), options).result()
            settled(engine)
            gc.collect()
            counts.append(sum(type(each) is torch.Tensor for each in gc.get_objects()))
        assert counts[-1] <= counts[1]
        assert not engine._batches
        assert not engine._queue._served


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("T5ForConditionalGeneration", "it reads in an encoder"),
        ("RecurrentGemmaForCausalLM", "requests that may share a batch: of equal length"),
        ("MistralForCausalLM", "it cannot go on from the keys and values"),
        ("BartForCausalLM", "requests that may share a batch: of equal length"),
    ],
)
def test_other_models_answer_one_after_another(name: str, why: str) -> None:
    llm = tiny_llm(name)
    requests = [Request(text) for text in ("hello", "a longer text than others", "z")]
    options = SamplingOptions(max_new_tokens=5, logprobs=1)
    expected = llm.generate(requests, GenerationOptions(5))
    with Engine(llm) as engine:
        assert engine.alone is not None
        assert engine.alone.startswith(why)
        tickets = [engine.submit(request, options) for request in requests]
        assert [ticket.result().text for ticket in tickets] == expected
        assert len(tickets[0].written.scores) == len(tickets[0].tokens) > 0
        drawn = [SamplingOptions(max_new_tokens=5, temperature=5.0, seed=1)] * 2
        first, second = (engine.submit(requests[0], options).result().text for options in drawn)
        assert first == second
        with llm.computing():
            left = engine.submit(requests[0], SamplingOptions(max_new_tokens=5))
            waits = engine.submit(requests[0], SamplingOptions(max_new_tokens=5))
            left.cancel()
            waits.cancel()
        for ticket in (left, waits):
            with pytest.raises(GenerationError, match="cancelled"):
                ticket.result()


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BloomForCausalLM", "OPTForCausalLM", "MptForCausalLM"])
def test_positions_of_all_kinds_are_followed(name: str) -> None:
    """Rotary ones, learned ones, biases, those that a model counts by its mask."""
    llm = tiny_llm(name)
    # A set of soft tokens needs a model that is told its positions.
    asked = mixed(llm, 12, adapters=False, sets=name not in ("BloomForCausalLM", "MptForCausalLM"))
    expected = [llm.generate([request], options.generation)[0] for request, options in asked]
    with Engine(llm, EngineOptions(rows=4, read_tokens=30)) as engine:
        assert engine.alone is None
        tickets = [engine.submit(*each) for each in asked]
        assert [ticket.result().text for ticket in tickets] == expected
