"""Late interaction against a MaxSim by hand, on models built here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from transformers import BertForSequenceClassification, BertModel

from persona.caches import drop
from persona.errors import InvalidOptionError, ModelLoadError
from persona.records import Profile
from persona.retrievers import LateInteractionRetriever, RecencyRetriever, RerankRetriever
from persona.retrievers.registry import make_retriever
from tests import small_models
from tests.retrievers.cases import PEOPLE


def by_hand(model: MultiVectorEncoder, query: str, text: str) -> float:
    """Each token of the query with each of the text, one after the other."""
    asked = model.encode_query([query], convert_to_numpy=True)[0]
    said = model.encode_document([text], convert_to_numpy=True)[0]
    return float(sum(max(float(np.dot(query_token, token)) for token in said) for query_token in asked))


def test_scores_are_maxsim() -> None:
    model = small_models.multi_vector()
    for query in ("Who likes opals?", "snow", "", "東京"):
        found = LateInteractionRetriever(model).retrieve(PEOPLE, query, 4)
        for scored in found:
            assert scored.score == pytest.approx(by_hand(model, query, scored.record.text), abs=2e-2)  # float16
        theirs = model.similarity(
            model.encode_query([query]), model.encode_document([record.text for record in PEOPLE])
        )[0]
        assert {scored.record.id: scored.score for scored in found} == {
            record.id: pytest.approx(float(score), abs=2e-2) for record, score in zip(PEOPLE, theirs, strict=True)
        }


def test_a_model_that_says_mean_is_averaged() -> None:
    model = small_models.multi_vector()
    query = "Who likes opals?"
    sums = {scored.record.id: scored.score for scored in LateInteractionRetriever(model).retrieve(PEOPLE, query, 4)}
    tokens = len(model.encode_query([query], convert_to_numpy=True)[0])
    mean = MultiVectorEncoder(modules=list(model.children()), device="cpu", similarity_fn_name="meanmaxsim")
    for scored in LateInteractionRetriever(mean).retrieve(PEOPLE, query, 4):
        assert scored.score == pytest.approx(sums[scored.record.id] / tokens, abs=1e-4)


def test_a_saved_model_and_what_is_kept_in_memory_give_the_same(tmp_path: Path) -> None:
    model = small_models.multi_vector()
    model.save_pretrained(str(tmp_path / "model"))
    expected = LateInteractionRetriever(model).retrieve(PEOPLE, "opals", 4)
    for cache_bytes in (0, 2**20):
        loaded = LateInteractionRetriever(tmp_path / "model", cache_bytes=cache_bytes)
        assert loaded.fingerprint.startswith("mv:sha256=")
        for _ in range(2):
            assert loaded.retrieve(PEOPLE, "opals", 4) == expected


def test_what_is_kept_of_a_profile_is_its_own_and_goes_when_a_user_is_forgotten() -> None:
    retriever = LateInteractionRetriever(small_models.multi_vector())
    other = Profile("ben", PEOPLE.records[:2])
    alone = [LateInteractionRetriever(small_models.multi_vector()).scores(each, "opals") for each in (PEOPLE, other)]
    for _ in range(2):
        for profile, expected in zip((PEOPLE, other), alone, strict=True):
            assert retriever.scores(profile, "opals") == pytest.approx(expected, abs=1e-2)
    dropped = drop("ben")
    assert dropped["token vectors of records"] >= 4
    assert dropped["joined token vectors of a profile"] >= 1
    assert retriever._cache.n_bytes == 0


def test_minilm_as_it_is_before_pooling_finds_the_word() -> None:
    """A single-vector model gets no untrained layer: its own token vectors are compared."""
    retriever = make_retriever("late_interaction")
    found = retriever.retrieve(PEOPLE, "Who likes opals?", 2)
    assert {scored.record.id for scored in found} == {"ada", "cato"}
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(small_models.MINILM_FOLDER), device="cpu")
    asked, said = (
        plain.encode([text], output_value="token_embeddings")[0].float().numpy()
        for text in ("Who likes opals?", PEOPLE[0].text)
    )
    asked, said = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (asked, said))
    scores = {scored.record.id: scored.score for scored in found}
    assert scores["ada"] == pytest.approx(float((asked @ said.T).max(1).sum()), abs=2e-2)


def test_late_interaction_options(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="`cache_bytes` must be at least 0"):
        LateInteractionRetriever(small_models.multi_vector(), cache_bytes=-1)
    with pytest.raises(ModelLoadError, match="holds no encoder"):
        LateInteractionRetriever(tmp_path)
    broken = small_models.save_bert(tmp_path / "broken")
    (broken / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        LateInteractionRetriever(broken).retrieve(PEOPLE, "opals", 1)
    cut = small_models.save_bert(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for retriever in (LateInteractionRetriever(cut), RerankRetriever(RecencyRetriever(), cut)):
        with pytest.raises(ModelLoadError, match="cannot be loaded: SafetensorError"):
            retriever.retrieve(PEOPLE, "opals", 1)


def test_half_precision_weights_are_computed_in_the_dtype_of_the_fingerprint(tmp_path: Path) -> None:
    pair, single = small_models.save_bert(tmp_path / "pair", n_labels=1), small_models.save_bert(tmp_path / "single")
    BertForSequenceClassification.from_pretrained(pair, dtype=torch.bfloat16).save_pretrained(pair)
    BertModel.from_pretrained(single, dtype=torch.bfloat16).save_pretrained(single)
    small_models.multi_vector().to(torch.bfloat16).save_pretrained(str(tmp_path / "several"))
    small_models.multi_vector.cache_clear()
    for folder in (single, tmp_path / "several"):
        retriever = LateInteractionRetriever(folder)
        assert {weight.dtype for weight in retriever.model.get().parameters()} == {torch.float32}
    reranker = RerankRetriever(RecencyRetriever(), pair)
    assert {weight.dtype for weight in reranker.model.get().parameters()} == {torch.float32}
