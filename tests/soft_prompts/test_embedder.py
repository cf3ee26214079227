"""The user embedder: the paper's equations by hand, what must not matter, and its files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM

from persona import UserEmbedder
from persona.encoders.style import STYLE_DIM
from persona.errors import FingerprintMismatchError, InvalidOptionError, ModelLoadError
from persona.soft_prompts.config import MODES, PAPER_TOKENS, Mode, UserEmbedderConfig
from persona.soft_prompts.embedder import input_embeddings, load_user_embedder

DIM, HIDDEN, RECORDS = 12, 8, 5
ENCODER: Any = SimpleNamespace(dim=DIM, fingerprint="encoder@1")
KINDS: list[dict[str, Any]] = [
    *({"mode": mode} for mode in MODES),
    {"mode": "attention", "answer_start": 3, "answer_end": 5},
    {"mode": "attention", "with_question": True},
]


def make(mode: Mode, **options: object) -> UserEmbedder:
    torch.manual_seed(0)
    if mode == "persona-plug":
        options["n_tokens"] = PAPER_TOKENS
    embedder = UserEmbedder(UserEmbedderConfig(DIM, HIDDEN, mode=mode, width=16, embedding_scale=3.0, **options))  # type: ignore[arg-type]
    for parameter in embedder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return embedder.eval()


def history(embedder: UserEmbedder, records: int = RECORDS, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys, values, mask and a question of one user."""
    draw = torch.Generator().manual_seed(seed)
    keys = torch.nn.functional.normalize(torch.randn(1, records, DIM, generator=draw), dim=-1)
    values = torch.randn(1, records, embedder.config.value_dim, generator=draw)
    query = torch.nn.functional.normalize(torch.randn(1, DIM, generator=draw), dim=-1)
    return keys, values, torch.ones(1, records, dtype=torch.bool), query


def test_the_papers_equations_by_hand() -> None:
    """Row 4 of docs/papers.md: attention over records by the question, one user token behind one instruction token."""
    embedder = make("persona-plug")
    pooling = embedder.pooling
    keys, _, mask, query = history(embedder)
    weight = {name: parameter.detach() for name, parameter in pooling.named_parameters()}

    def linear(name: str, x: Tensor) -> Any:
        return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    asked = query[0] @ weight["question.weight"].T
    products = torch.stack([asked @ h / asked.norm() / h.norm() for h in keys[0]])
    attention = products.exp() / products.exp().sum()
    # The paper projects each record to the LLM's space and pools then.
    projected = torch.stack([linear("last", gelu(linear("first", h))) for h in keys[0]])
    user = 3.0 * (attention[:, None] * projected).sum(0)
    constant = weight["instruction"]
    instruction = 3.0 / 7.0 * linear("instruction_map.2", gelu(linear("instruction_map.0", constant)))

    soft_prompts = embedder(keys, keys, mask, query)

    assert soft_prompts.shape == (1, 2, HIDDEN)
    torch.testing.assert_close(soft_prompts[0], torch.stack((instruction, user)), rtol=1e-5, atol=1e-5)


def test_the_papers_attention_is_almost_a_mean() -> None:
    """Unit vectors without a temperature cannot tell records apart: what mode "attention" is for."""
    paper, ours = make("persona-plug"), make("attention")
    paper.load_state_dict({**paper.state_dict(), "pooling.question.weight": torch.eye(DIM)})
    ours.load_state_dict({**ours.state_dict(), "pooling.log_temperature": torch.full((4,), math.log(0.05))})
    keys, _, mask, query = history(paper, records=50)

    def spread(embedder: UserEmbedder) -> float:
        """Over how many records the attention spreads: exp of its entropy, the mean over heads."""
        pooling: Any = embedder.pooling
        weights = pooling.weights(keys, mask, query, None).detach()
        weights = weights / weights.sum(-1, keepdim=True)
        return float(torch.special.entr(weights).sum(-1).mean().exp())

    assert spread(paper) > 45
    assert spread(ours) < 35


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [4, 1])  # much of it is picked out, a little is computed and dropped
def test_padding_and_neighbours_change_nothing(kind: dict[str, Any], padding: int) -> None:
    embedder = make(**kind)
    keys, values, mask, query = history(embedder)
    alone = embedder(keys, values, mask, query, torch.arange(RECORDS)[None] * 30.0)
    other_keys, other_values, other_mask, other_query = history(embedder, records=RECORDS + padding, seed=2)
    padded_keys = torch.full((1, padding, DIM), 7.0)
    padded_values = torch.full((1, padding, embedder.config.value_dim), -7.0)

    together = embedder(
        torch.cat((torch.cat((keys, padded_keys), 1), other_keys)),
        torch.cat((torch.cat((values, padded_values), 1), other_values)),
        torch.cat((torch.cat((mask, torch.zeros(1, padding, dtype=torch.bool)), 1), other_mask)),
        torch.cat((query, other_query)),
        torch.cat((torch.tensor([[0, 30, 60, 90, 120] + [5] * padding]), torch.zeros(1, RECORDS + padding))).float(),
    )

    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)
    assert (together[1] - together[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_without_times_the_order_of_records_changes_nothing(kind: dict[str, Any]) -> None:
    embedder = make(**kind)
    keys, values, mask, query = history(embedder)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = embedder(keys[:, order], values[:, order], mask, query)
    torch.testing.assert_close(shuffled, embedder(keys, values, mask, query), rtol=1e-5, atol=1e-5)


def test_parts_of_a_value_are_normalised_each_for_itself() -> None:
    """The products are taken before the normalisation: as if after."""
    pooling: Any = make("attention").pooling
    values = torch.rand(7, 2 * DIM + STYLE_DIM, generator=torch.Generator().manual_seed(4))
    values[3, DIM : 2 * DIM] = 0  # a record without a target
    parts = torch.split(values, [DIM, DIM, STYLE_DIM], dim=1)
    normal = torch.cat([torch.nn.functional.layer_norm(part, part.shape[1:]) for part in parts], dim=1)
    expected = torch.nn.functional.gelu(normal @ pooling.value.weight.T + pooling.value.bias)
    torch.testing.assert_close(pooling._hidden(values), expected, rtol=1e-4, atol=1e-5)


def test_recent_records_weigh_more() -> None:
    embedder = make("attention")
    keys, _, mask, query = history(embedder)
    days = torch.tensor([[2000.0, 2000, 2000, 2000, 0]])
    undated = embedder.pooling.weights(keys, mask, query, None)
    dated = embedder.pooling.weights(keys, mask, query, days)
    assert (dated[..., -1] > undated[..., -1]).all()


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_history_gives_the_neutral_prompt(mode: Mode) -> None:
    embedder = make(mode)
    keys, values, mask, query = history(embedder)
    nobody = torch.zeros_like(mask)
    neutral = embedder(keys, values, nobody, query)
    assert neutral.isfinite().all()
    other_keys, other_values, _, other_query = history(embedder, seed=3)
    torch.testing.assert_close(embedder(other_keys, other_values, nobody, other_query), neutral)


def test_the_usual_answer_by_hand() -> None:
    """Answer tokens get the mean of the targets, drawn to the usual one; records without a target do not count."""
    embedder = make("attention", n_tokens=4, answer_start=1, answer_end=3)
    pooling: Any = embedder.pooling
    keys, values, _, query = history(embedder)
    values[0, 2, DIM : 2 * DIM] = 0
    mask = torch.tensor([[True, True, True, True, False]])
    with torch.no_grad():
        pooling.last.weight.zero_()
        pooling.last.bias.zero_()
        pooling.log_null_records.fill_(math.log(6.0))
        pooling.echo_gates.copy_(torch.tensor([0.0, 0.5, 0.0, 0.0, 2.0]))
        targets, usual = values[0, [0, 1, 3], DIM : 2 * DIM], pooling.null_target
        mean = (targets.sum(0) + 6.0 * usual) / 9.0 - usual
        weights = pooling.weights(keys, mask, query, None)[0, 1, [0, 1, 3]]
        sharp = (weights[:, None] * (targets - usual)).sum(0)
        usual = ((2.0 * mean + 0.5 * sharp) @ pooling.echo.weight.T).view(2, HIDDEN)
        expected = embedder.instruction.clone()
        expected[1:3] += usual
    soft_prompt = embedder(keys, values, mask, query)[0]
    torch.testing.assert_close(soft_prompt, 3.0 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind["mode"] == "attention"])
def test_every_parameter_learns(kind: dict[str, Any]) -> None:
    embedder = make(**kind)
    keys, values, mask, query = history(embedder)
    days = torch.rand(1, RECORDS) * 100
    known = embedder(keys, values, mask, query, days) + embedder(keys, values, mask, None, days)
    (known.square().sum() + embedder(keys, values, ~mask, query, days).square().sum()).backward()
    assert [name for name, parameter in embedder.named_parameters() if not parameter.grad.abs().sum() > 0] == []  # type: ignore[union-attr]


def test_with_question_a_new_users_prompt_depends_on_what_is_asked() -> None:
    embedder = make("attention", with_question=True)
    pooling: Any = embedder.pooling
    keys, values, mask, query = history(embedder)
    nobody, other_query = torch.zeros_like(mask), history(embedder, seed=3)[3]
    asked, otherwise = embedder(keys, values, nobody, query), embedder(keys, values, nobody, other_query)
    assert (asked - otherwise).abs().max() > 1e-3
    # The last of what is mixed is the question's own part, of a vector as long as those of records.
    own = torch.nn.functional.gelu(query[0] * math.sqrt(DIM) @ pooling.question[0].weight.T + pooling.question[0].bias)
    null = pooling.null_value.repeat(pooling.heads + 1)
    tokens = pooling.last(pooling.mix(torch.cat((null, own))[None])).view(1, -1, HIDDEN)
    torch.testing.assert_close(asked, 3.0 * (embedder.instruction + tokens + pooling.new_user), rtol=1e-5, atol=1e-5)


def test_what_the_llm_reads_starts_in_its_own_scale(tiny: Any) -> None:
    embedder = UserEmbedder.for_llm(tiny, ENCODER, n_tokens=3)
    embeddings = tiny.model.get_input_embeddings().weight.detach()
    rows = embedder(*history(embedder))[0]
    assert all((embeddings - row).norm(dim=1).min() < 1e-4 for row in rows)


def test_an_llm_that_multiplies_its_embeddings_reads_soft_tokens_of_that_scale() -> None:
    config = Gemma2Config(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=64,
    )
    llm: Any = SimpleNamespace(model=Gemma2ForCausalLM(config), hidden_size=64, fingerprint="gemma")
    read = llm.model.get_input_embeddings()(torch.arange(50)).detach()
    torch.testing.assert_close(read, 8 * llm.model.get_input_embeddings().weight.detach())  # the root of 64
    assert torch.equal(input_embeddings(llm.model), read)
    embedder = UserEmbedder.for_llm(llm, ENCODER, n_tokens=3)
    assert embedder.config.embedding_scale == pytest.approx(float(read.norm(dim=1).mean()))
    rows = embedder(*history(embedder))[0]
    assert all((read - row).norm(dim=1).min() < 1e-4 for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_its_files(kind: dict[str, Any], tmp_path: Path) -> None:
    embedder = make(**kind, encoder="minilm@1", llm="tiny@2")
    embedder.save_pretrained(tmp_path)
    loaded = load_user_embedder(tmp_path)
    keys, values, mask, query = history(embedder)
    assert torch.equal(loaded(keys, values, mask, query), embedder(keys, values, mask, query))
    assert loaded.config == embedder.config
    assert loaded.fingerprint == embedder.fingerprint
    assert {"config.json", "model.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (config["mode"], config["llm"], config["encoder"]) == (kind["mode"], "tiny@2", "minilm@1")


def test_another_llm_or_encoder_is_refused_with_both_names(tiny: Any) -> None:
    embedder = make("attention", encoder="minilm@1", llm=tiny.fingerprint)
    embedder.check_fits("minilm@1", tiny)
    with pytest.raises(FingerprintMismatchError, match="'minilm@1'; was given 'hashing@3'"):
        embedder.check_fits("hashing@3")
    with pytest.raises(FingerprintMismatchError, match="LLM it was trained with, 'other@9'; was given 'tiny@"):
        make("attention", llm="other@9").check_fits("", tiny)


def test_a_weight_that_is_missing_is_not_drawn_at_random(tmp_path: Path) -> None:
    make("attention").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["pooling.last.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"Missing key\(s\) in state_dict: .pooling.last.weight"):
        load_user_embedder(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "there is no config.json in it; .* `persona train user-embedder`",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "there is no model.safetensors in it"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40), "no user embedder could be loaded"),
        (lambda folder: (folder / "config.json").write_text("{}"), "its config.json is not that of a user embedder"),
        (lambda folder: (folder / "config.json").write_text("[]"), "its config.json is not that of a user embedder"),
        (lambda folder: (folder / "config.json").write_text("null"), "its config.json is not that of a user embedder"),
        (lambda folder: (folder / "config.json").write_text("{"), "no user embedder could be loaded"),
    ],
)
def test_broken_files_are_one_clear_error(damage: Any, message: str, tmp_path: Path) -> None:
    make("attention").save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelLoadError, match=message):
        load_user_embedder(tmp_path)


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    make("attention").save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="from safetensors only"):
        UserEmbedder._load_as_pickle(make("attention"), "w.bin", "cpu", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "attend"}, "mode must be one of attention, persona-plug, vectors, was: 'attend'"),
        ({"answer_start": 7, "answer_end": 9}, "must lie within the 8 soft tokens, was: 7 to 9"),
        ({"mode": "vectors", "with_question": True}, "only the mode 'attention' can be `with_question`"),
        ({"mode": "persona-plug", "n_tokens": 3}, "has 2 soft tokens, was: 3"),
        ({"heads": 0}, "`heads` must be at least 1, was: 0"),
        ({"embedding_scale": math.inf}, "`embedding_scale` must be a number above 0, was: inf"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        UserEmbedderConfig(DIM, HIDDEN, **options)
