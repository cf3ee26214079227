"""Models of transformers: batches, frozenness, soft prompts, limits, chat templates."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LEDConfig, LEDForConditionalGeneration, MptConfig, MptForCausalLM

from persona.errors import GenerationError, InvalidOptionError, ModelLoadError
from persona.llm import transformers as transformers_llm
from persona.llm.frozen.options import TransformersOptions
from persona.llm.inputs import ModelInput
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request

WORDS = ["the", "king", "queen", "ball", "dog", "ran", "sat", "little", "red", "big", "to", "with", "was", "One", "day"]
GREEDY = GenerationOptions(max_new_tokens=24)
BEAMS = GenerationOptions(max_new_tokens=16, num_beams=4)


def texts(number: int, *, longest: int = 8, seed: int = 0) -> list[str]:
    """Texts of 1 to `longest` words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(number)]


def load(folder: Path, **options: Any) -> TransformersLM:
    llm = load_llm(folder, **options)
    assert isinstance(llm, TransformersLM)
    return llm


def answer(llm: TransformersLM, prompt: str, soft_prompt: torch.Tensor | None = None, n: int = 12) -> str:
    return llm.generate([Request(prompt, soft_prompt)], GenerationOptions(n))[0]


@pytest.fixture
def llama(llama_folder: Path) -> TransformersLM:
    return load(llama_folder)


@pytest.fixture(scope="module", params=["stories260K", pytest.param("frozen_llm", marks=pytest.mark.slow)])
def real(request: pytest.FixtureRequest, shared: Path) -> TransformersLM:
    return load(shared / "models" / request.param)


@pytest.mark.shared
class TestBatches:
    @pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
    @pytest.mark.parametrize("soft", [False, True], ids=["text", "soft prompts"])
    def test_a_request_alone_and_in_a_mixed_batch_gets_one_answer(
        self, real: TransformersLM, options: GenerationOptions, soft: bool
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        scale = real.model.get_input_embeddings().weight.std()
        vectors = [torch.randn(n % 4, real.hidden_size, generator=generator) * scale for n in range(8)]
        requests = [
            Request(text, soft_prompt if soft and n % 3 else None)
            for n, (text, soft_prompt) in enumerate(zip(texts(8, longest=40), vectors, strict=True))
        ]
        together = real.generate(requests, options)
        assert together == [real.generate([request], options)[0] for request in requests]
        assert len(set(together)) > len(requests) // 2

    @pytest.mark.parametrize("num_beams", [1, 4])
    def test_answers_are_those_of_transformers_itself(self, real: TransformersLM, num_beams: int) -> None:
        tokenizer: Any = real._tokenizer
        for text in texts(3, seed=1, longest=40):
            encoded = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            output = real.model.generate(**encoded, max_new_tokens=24, num_beams=num_beams, do_sample=False)
            start = 1 if real.model.config.is_encoder_decoder else encoded["input_ids"].shape[1]
            expected = tokenizer.decode(output[0, start:], skip_special_tokens=True).strip()
            assert real.generate([Request(text)], GenerationOptions(24, num_beams)) == [expected]

    def test_a_soft_prompt_of_embedded_words_is_those_words(self, real: TransformersLM) -> None:
        tokenizer: Any = real._tokenizer
        whole = tokenizer("Lily had a big red ball and").input_ids
        special = 1  # Both tokenizers put one token in front.
        with torch.no_grad():
            vectors = real.model.get_input_embeddings()(torch.tensor(whole[: special + 3]))
        requests = [Request("Lily had a big red ball and")]
        (expected,) = real.generate(requests, GREEDY)
        rest = whole[special + 3 :]
        inputs = [ModelInput(tuple(rest), vectors)]
        with torch.inference_mode():
            (tokens,), _ = real._generate_batch(inputs, GREEDY)
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == expected


@pytest.fixture(scope="module")
def tied(shared: Path) -> TransformersLM:
    """A model in which every second token has almost the weights of its neighbour: each choice between is a toss-up."""
    llm = load(shared / "models" / "stories260K")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in {llm.model.get_input_embeddings().weight, llm.model.get_output_embeddings().weight}:
            even = weight[2::2]
            weight[3::2] = even * (1 + 3e-7 * torch.randn(even.shape, generator=generator))
    return llm


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_decisions_too_close_to_call_are_made_alone(
    tied: TransformersLM, options: GenerationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(text) for text in texts(24, seed=3, longest=40)]
    alone = [tied.generate([request], options)[0] for request in requests]
    assert tied.generate(requests, options) == alone
    monkeypatch.setattr(transformers_llm, "NOISE", {})
    assert tied.generate(requests, options) != alone, "no batch turned a decision: the test above shows nothing"


def watched_batches(llm: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the inputs of every batch that `llm` is going to generate."""
    seen: list[list[int]] = []
    generate = llm._generate_batch

    def note(inputs: Sequence[ModelInput], options: GenerationOptions, **more: Any) -> Any:
        seen.append([len(each) for each in inputs])
        return generate(inputs, options, **more)

    monkeypatch.setattr(llm, "_generate_batch", note)
    return seen


class TestOrderAndWork:
    def test_equal_requests_are_generated_once(self, llama: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = watched_batches(llama, monkeypatch)
        answers = llama.generate([Request("A"), Request("B"), Request("A"), Request("A")], GREEDY)
        assert answers[0] == answers[2] == answers[3] != answers[1]
        assert len(seen[0]) == 2

    @pytest.mark.parametrize(("batch_tokens", "sizes"), [(1, [1, 1, 1, 1]), (80, [2, 2]), (10_000, [4])])
    def test_batches_keep_to_the_token_budget(
        self, llama_folder: Path, batch_tokens: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        llm = load(llama_folder, batch_tokens=batch_tokens)
        monkeypatch.setattr(transformers_llm, "NOISE", {})
        seen = watched_batches(llm, monkeypatch)
        llm.generate([Request("x" * n) for n in (14, 16, 15, 13)], GenerationOptions(10, num_beams=1))
        assert [len(batch) for batch in seen] == sizes
        assert [length for batch in seen for length in batch] == [17, 16, 15, 14]

    def test_an_answer_ends_before_the_first_end_token(self, llama: TransformersLM) -> None:
        inputs = [ModelInput(tuple(ids)) for ids in llama.prompt_ids(["one", "two three"])]
        with torch.inference_mode():
            (first, second), _ = llama._generate_batch(inputs, GREEDY)
            end = next(token for token in first if token not in second)
            llama.model.generation_config.eos_token_id = [end]
            ending = TransformersLM(llama.model, llama._tokenizer)
            assert ending._generate_batch(inputs, GREEDY)[0] == [first[: first.index(end)], second]


class TestFrozen:
    def snapshot(self, llm: TransformersLM) -> dict[str, Any]:
        model, tokenizer = llm.model, llm._tokenizer
        return {
            "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
            "config": model.config.to_json_string(),
            "generation_config": json.dumps(model.generation_config.to_dict(), sort_keys=True, default=str),
            "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
            "training": [module.training for module in model.modules()],
            "grad": [parameter.grad for parameter in model.parameters()],
            "tokenizer": (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token),
            "backend": tokenizer.backend_tokenizer.to_str(),
            "attributes": sorted(vars(model)),
        }

    @pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
    def test_nothing_of_the_model_changes(self, llama: TransformersLM, options: GenerationOptions) -> None:
        llama.model.generation_config.update(do_sample=True, temperature=0.3, repetition_penalty=3.0, num_beams=2)
        llama.model.train()
        llama.model.model.layers[0].eval()
        llama.model.lm_head.weight.requires_grad_(False)
        before = self.snapshot(llama)
        llama.generate([Request("one"), Request("two three", torch.ones(2, 32))], options)
        after = self.snapshot(llama)
        weights = before.pop("weights"), after.pop("weights")
        assert before == after
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert not any(tensor.requires_grad for tensor in weights[1].values())

    def test_the_mode_comes_back_after_an_error(self, llama: TransformersLM) -> None:
        llama.model.train()
        with torch.no_grad():
            llama.model.lm_head.weight.fill_(torch.nan)
        with pytest.raises(GenerationError, match=r"not numbers in torch\.float32: its weights.* are broken"):
            answer(llama, "A")
        assert all(module.training for module in llama.model.modules())

    def test_sampling_and_penalties_of_the_model_do_not_apply(self, llama: TransformersLM) -> None:
        plain = llama.generate([Request(text) for text in texts(5)], GREEDY)
        llama.model.generation_config.update(
            do_sample=True, temperature=9.0, repetition_penalty=5.0, min_length=60, max_length=3, num_beams=3
        )
        assert llama.generate([Request(text) for text in texts(5)], GREEDY) == plain

    def test_token_rules_of_the_model_apply(self, llama: TransformersLM) -> None:
        first = llama._tokenizer(answer(llama, "A", n=1), add_special_tokens=False).input_ids[0]
        llama.model.generation_config.suppress_tokens = [first]
        assert llama._tokenizer(answer(llama, "A", n=1), add_special_tokens=False).input_ids[:1] != [first]

    def test_dropout_is_off_in_training_mode(self, llama_folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(llama_folder, attention_dropout=0.9)
        llm = TransformersLM(model, AutoTokenizer.from_pretrained(llama_folder))
        requests = [Request(text) for text in texts(4)]
        expected = llm.generate(requests, GREEDY)
        model.train()
        assert llm.generate(requests, GREEDY) == expected


class TestSoftPrompts:
    def test_it_changes_the_answer_and_any_float_type_will_do(self, llama: TransformersLM) -> None:
        vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        with_it = answer(llama, "A", vectors)
        assert with_it != answer(llama, "A") == answer(llama, "A", vectors[:0])
        assert answer(llama, "A", vectors.double().requires_grad_()) == with_it

    def test_it_can_stand_alone(self, llama: TransformersLM) -> None:
        llama._prompts._tokenizer.backend_tokenizer.post_processor = None
        vectors = torch.ones(2, 32)
        assert answer(llama, "", vectors) == answer(llama, "", vectors)
        with pytest.raises(InvalidOptionError, match="prompt 0 has no tokens"):
            answer(llama, "")

    @pytest.mark.parametrize(
        ("vectors", "said"),
        [
            (torch.zeros(2, 31), r"in the shape \(tokens, 32\), was: torch.float32 in \(2, 31\)"),
            (torch.zeros(32), r"was: torch.float32 in \(32,\)"),
            (torch.zeros(2, 32, dtype=torch.long), r"must be of floats .* was: torch.int64"),
            (torch.full((2, 32), torch.nan), "finite numbers only"),
            (torch.full((2, 32), torch.inf), "finite numbers only"),
        ],
    )
    def test_bad_ones_are_refused(self, llama: TransformersLM, vectors: torch.Tensor, said: str) -> None:
        with pytest.raises(InvalidOptionError, match=said + r".*\(request 1\)"):
            llama.generate([Request("A"), Request("A", vectors)], GREEDY)


class TestLimits:
    def test_the_longest_prompt_that_fits_beside_its_answer(self, llama: TransformersLM) -> None:
        # 128 positions: 1 begin token, 115 letters, 12 for the answer.
        assert answer(llama, "x" * 115) is not None
        with pytest.raises(InvalidOptionError, match="may have 116 tokens here, prompt 0 has 117"):
            answer(llama, "x" * 116)
        with pytest.raises(InvalidOptionError, match="may have 114 tokens here, prompt 0 has 116"):
            answer(llama, "x" * 115, torch.zeros(2, 32))

    def test_an_answer_must_fit(self, llama: TransformersLM) -> None:
        with pytest.raises(InvalidOptionError, match="128 positions, too few for `max_new_tokens=128`"):
            answer(llama, "A", n=128)
        assert answer(llama, "", n=127) is not None

    def test_truncation_cuts_on_the_tokenizers_side(self, llama_folder: Path) -> None:
        llm = load(llama_folder, overlong="truncate", max_prompt_tokens=9)
        assert answer(llm, "abcdefgh and more") == answer(llm, "abcdefgh")
        assert answer(llm, "abcdefgh and more", torch.ones(4, 32)) == answer(llm, "abcd", torch.ones(4, 32))
        llm._tokenizer.truncation_side = "left"
        assert answer(llm, "something before abcdefgh") == answer(llm, "abcdefgh")
        with pytest.raises(InvalidOptionError, match="may have 0 tokens here"):
            answer(llm, "A", torch.ones(9, 32))

    @pytest.mark.shared
    def test_an_encoder_has_its_positions_to_itself(self, shared: Path) -> None:
        llm = load(shared / "models" / "frozen_llm")
        fits = "king " * 510
        assert answer(llm, fits, n=3) is not None
        with pytest.raises(InvalidOptionError, match="may have 512 tokens here, prompt 0 has 513"):
            answer(llm, fits + "queen", n=3)
        with pytest.raises(InvalidOptionError, match="512 positions, too few for `max_new_tokens=513`"):
            answer(llm, "king", n=513)

    @pytest.mark.shared
    def test_truncation_is_that_of_the_tokenizer(self, shared: Path) -> None:
        llm = load(shared / "models" / "frozen_llm", overlong="truncate", max_prompt_tokens=20)
        (text,) = texts(1, longest=60, seed=7)
        expected = llm._tokenizer(text * 3, truncation=True, max_length=20).input_ids
        assert llm.prompt_ids([text * 3], limit=20) == [expected]

    @pytest.mark.parametrize(
        "options", [{"batch_tokens": 0}, {"max_prompt_tokens": 0}, {"overlong": "cut"}, {"chat_template": "yes"}]
    )
    def test_options_out_of_range(self, llama_folder: Path, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidOptionError, match=f"`{next(iter(options))}` must be .*, was: "):
            load(llama_folder, **options)


class TestWhatIsTaken:
    def test_the_fingerprint_names_weights_and_dtype(self, llama_folder: Path) -> None:
        stored = load(llama_folder)
        in_memory = TransformersLM(stored.model, stored._tokenizer, TransformersOptions(name="m"))
        first = in_memory.fingerprint
        assert (
            first
            == TransformersLM(load(llama_folder).model, stored._tokenizer, TransformersOptions(name="m")).fingerprint
        )
        assert (
            first != TransformersLM(stored.model.double(), stored._tokenizer, TransformersOptions(name="m")).fingerprint
        )
        other = load(llama_folder)
        with torch.no_grad():
            other.model.lm_head.weight[0, 0] += 1e-3
        assert TransformersLM(other.model, stored._tokenizer, TransformersOptions(name="m")).fingerprint != first

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # Of peft itself.
    def test_a_peft_model_answers_with_its_adapter(self, llama: TransformersLM) -> None:
        from peft import LoraConfig, get_peft_model

        plain = answer(llama, "Hi")
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        tuned = get_peft_model(llama.model, config)
        llm = TransformersLM(tuned, llama._tokenizer)
        assert answer(llm, "Hi") != plain
        assert llm.model is tuned.get_base_model()

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # Of peft itself.
    def test_a_prompt_tuned_model_and_one_without_a_head_are_refused(self, llama: TransformersLM) -> None:
        from peft import PromptTuningConfig, get_peft_model

        tuned = get_peft_model(llama.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
        with pytest.raises(ModelLoadError, match="pass its base model"):
            TransformersLM(tuned, llama._tokenizer)
        with pytest.raises(ModelLoadError, match="a LlamaModel generates no text"):
            TransformersLM(llama.model.model, llama._tokenizer)

    def test_a_chat_template_reaches_the_model(self, llama: TransformersLM) -> None:
        plain = answer(llama, "Hi")
        llama._tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[user]{{ m['content'] }}{% endfor %}"
        assert answer(TransformersLM(llama.model, llama._tokenizer), "Hi") != plain
        assert (
            answer(TransformersLM(llama.model, llama._tokenizer, TransformersOptions(chat_template="off")), "Hi")
            == plain
        )

    @pytest.mark.parametrize("kind", ["mpt", "led"])
    def test_positions_by_another_name_end_there_too(self, llama: TransformersLM, kind: str) -> None:
        size: dict[str, Any] = {
            "vocab_size": llama.model.config.vocab_size,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        if kind == "mpt":
            model: Any = MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=48, **size))
        else:
            shape: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "attention_window": 16}
            shape |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 1}
            limits: dict[str, Any] = {"max_encoder_position_embeddings": 48, "max_decoder_position_embeddings": 32}
            model = LEDForConditionalGeneration(LEDConfig(**shape, **limits, **size))
        llm = load_llm((model.eval(), llama._tokenizer))
        assert isinstance(llm, TransformersLM)
        with pytest.raises(
            InvalidOptionError, match=f"may have {48 if kind == 'led' else 40} tokens here, prompt 0 has"
        ):
            llm.generate([Request("a" * 60)], GenerationOptions(8))
        assert llm.generate([Request("a" * 30)], GenerationOptions(8))
        with pytest.raises(InvalidOptionError, match=f"has {32 if kind == 'led' else 48} positions, too few"):
            llm.generate([Request("a")], GenerationOptions(60))

    def test_a_model_with_relative_positions_takes_what_its_tokenizer_allows(self, llama: TransformersLM) -> None:
        from transformers import T5Config, T5ForConditionalGeneration

        torch.manual_seed(0)
        config = T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
        model = T5ForConditionalGeneration(config)
        model.generation_config.decoder_start_token_id = 0
        llama._tokenizer.model_max_length = 40
        llm = TransformersLM(model, llama._tokenizer)
        requests = [Request(text) for text in ("abc", "a much longer text")]
        assert llm.generate(requests, BEAMS) == [llm.generate([request], BEAMS)[0] for request in requests]
        with pytest.raises(InvalidOptionError, match="may have 40 tokens here"):
            answer(llm, "x" * 40)
        assert (
            answer(TransformersLM(model, llama._tokenizer, TransformersOptions(max_prompt_tokens=50)), "x" * 40)
            is not None
        )

    def test_memory_that_runs_out_names_the_fix(self, llama: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
        def run_out(*args: object, **kwargs: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(llama.model, "forward", run_out)
        with pytest.raises(GenerationError, match="lower `batch_tokens`, was: 8192"):
            answer(llama, "A")

    def test_sixteen_bits(self, llama_folder: Path) -> None:
        llm = load(llama_folder, dtype="bfloat16")
        assert llm.fingerprint.endswith(":bfloat16")
        assert len(llm.generate([Request("A"), Request("B", torch.ones(1, 32))], GREEDY)) == 2
        with torch.no_grad():
            llm.model.lm_head.weight.fill_(torch.nan)
        with pytest.raises(GenerationError, match=r"not numbers in torch\.bfloat16: load it in float32"):
            answer(llm, "A")
