"""The tokenizer of `tiny`: byte-level BPE in which every word of the generated world is one token."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from examples.world.world import WORLD_TASKS, World
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import lamp_task
from persona.llm.tokenizers import WhitespaceTokenizer

PAD, BOS, EOS, ANSWER = SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<answer>")
CONTEXT = 512
CAPITAL = "⇧"
ESCAPE = "\ue000"
PRETOKENS = r""" ?"(?: (?= ))?| ?\.\.\.| ?\p{L}+(?:[-']\p{L}+)*| ?\p{N}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"""
N_MERGES = 300
NO_LIMIT = 1_000_000


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word of `texts` is one token, in lower and in title case.

    To copy a word from a lower-case article into a headline in title case, a small model must see the same token in
    both. So the normaliser replaces a capital by a mark and the small letter (``" Mayor"`` becomes ``⇧`` and
    ``" mayor"``), and adds a space after each quotation mark and before the text, so that every word begins with a
    space. A mark that stands in a text is escaped by characters for private use. The decoder reverses all of it: any
    text is restored exactly, and of the marks none is left; unknown words are split into merged bytes.
    """
    tokenizer = _bare_tokenizer(models.BPE())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL_TOKENS) + len(alphabet) + N_MERGES,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = trained["vocab"]
    words = {
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    }
    for word in sorted(words):
        vocabulary.setdefault(word, len(vocabulary))
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = _bare_tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {ANSWER}",
        pair=f"{BOS} $A $B {ANSWER}",
        special_tokens=[(token, vocabulary[token]) for token in (BOS, ANSWER)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[ANSWER],
        padding_side="left",
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _bare_tokenizer(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    letters = string.ascii_uppercase
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Prepend(" "),
            normalizers.Replace(ESCAPE, f"{ESCAPE}\ue001"),
            normalizers.Replace(CAPITAL, f"{ESCAPE}\ue002"),
            normalizers.Replace('"', '" '),
            *[normalizers.Replace(f" {letter}", f"{CAPITAL} {letter.lower()}") for letter in letters],
            *[normalizers.Replace(letter, f"{CAPITAL}{letter.lower()}") for letter in letters],
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            *[decoders.Replace(f"{CAPITAL} {letter.lower()}", f" {letter}") for letter in letters],
            *[decoders.Replace(f"{CAPITAL}{letter.lower()}", letter) for letter in letters],
            decoders.Replace('" ', '"'),
            decoders.Replace(CAPITAL, ""),  # one that the model wrote where no letter follows
            decoders.Replace(f"{ESCAPE}\ue002", CAPITAL),
            decoders.Replace(f"{ESCAPE}\ue001", ESCAPE),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def world_texts(world: World, users: int = 1_000) -> list[str]:
    """Prompts and answers of `pretrain` users that contain every word of the world and of the official prompts."""
    texts = []
    for task in WORLD_TASKS:
        for asked in world.questions(task, "pretrain", users, records_per_user=8):
            prompt = lamp_prompt(
                lamp_task(task),
                asked.question.input,
                asked.question.profile.records,
                WhitespaceTokenizer(),
                max_length=NO_LIMIT,
            )
            texts.append(f"{prompt.text} {asked.gold}")
    return texts
