"""The retrievers that the contract is tested with, each by name, and what a store holds for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from persona.encoders.hashing import HashingEncoder
from persona.protocols import RecordEncoder, Retriever
from persona.records import Profile, Record, ScoredRecord
from persona.retrievers import (
    BM25Retriever,
    ConversationRetriever,
    DenseRetriever,
    DiverseRetriever,
    DualSpaces,
    EntityRetriever,
    HybridRetriever,
    JointRetriever,
    KeyValueRetriever,
    LampBM25Retriever,
    LateInteractionRetriever,
    MultiInterestRetriever,
    ProfileRetriever,
    RandomRetriever,
    RecencyRetriever,
    RerankRetriever,
    RoundsRetriever,
    UsefulRetriever,
    WhereRetriever,
)
from persona.retrievers.base import best_first
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors, vector_fingerprint
from tests import small_models

ENCODER = HashingEncoder(dim=64)


def spaces() -> DualSpaces:
    """Two spaces that nobody learned."""
    draw = np.random.default_rng(0)
    weights = {name: draw.normal(size=(3, 64)).astype(np.float32) for name in ("in.weight", "out.weight")}
    return DualSpaces(weights, vector_fingerprint(ENCODER, "text"))


class LongestFirst(ProfileRetriever):
    """A retriever of a user's own."""

    def rank(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        return best_first(profile, [len(record.text) for record in profile], k)


MAKERS: dict[str, Callable[[ProfileStore | None], Retriever]] = {
    "bm25-lamp": lambda store: LampBM25Retriever(),
    "bm25": lambda store: BM25Retriever(),
    "dense": lambda store: DenseRetriever(ENCODER, store),
    "recency": lambda store: RecencyRetriever(),
    "random": lambda store: RandomRetriever(seed=3),
    "hybrid": lambda store: HybridRetriever([BM25Retriever(), DenseRetriever(ENCODER, store)]),
    "multi_interest": lambda store: MultiInterestRetriever(ENCODER, store),
    "diverse": lambda store: DiverseRetriever(BM25Retriever(), ENCODER, store),
    "joint": lambda store: JointRetriever(ENCODER, store),
    "joint in spaces": lambda store: JointRetriever(ENCODER, store, model=spaces()),
    "rounds": lambda store: RoundsRetriever(ENCODER, store),
    "useful": lambda store: UsefulRetriever(ENCODER, spaces(), store),
    "key_value": lambda store: KeyValueRetriever(ENCODER, store),
    "entities": lambda store: EntityRetriever(),
    "entities over dense": lambda store: EntityRetriever(DenseRetriever(ENCODER, store)),
    "late_interaction": lambda store: LateInteractionRetriever(small_models.multi_vector()),
    "conversation": lambda store: ConversationRetriever(small_models.multi_vector()),
    "rerank": lambda store: RerankRetriever(DenseRetriever(ENCODER, store), small_models.cross_encoder()),
    "where": lambda store: WhereRetriever(BM25Retriever(), "time!=1999"),
    "a user's own": lambda store: LongestFirst(),
}
READS_A_STORE = (
    *("dense", "hybrid", "multi_interest", "diverse", "joint", "rounds", "useful", "key_value"),
    *("entities over dense", "rerank"),
)

FILMS = (
    Record("a quiet thriller in the snow", target="5", time="2011", id="snow"),
    Record("a loud comedy about a loud family", target="1", time="2012-05", id="family"),
    Record("the thriller that is not one", target="2", time="2012-05-03", id="not-one"),
    Record("snow, snow and more snow", target="4", time="2013", id="more-snow"),
)


PEOPLE = Profile(
    "ana",
    (
        Record("Ada likes opals, rain and chess.", id="ada"),
        Record("Bo likes kimchi, brewing and snow.", id="bo"),
        Record("Cato likes jazz, opals and kimchi.", id="cato"),
        Record("¡¿ 東京 ❤️", id="other"),
    ),
)


def ids(found: Sequence[ScoredRecord]) -> list[str]:
    return [scored.record.id for scored in found]


def put_vectors(
    store: ProfileStore, user_id: str, encoder: RecordEncoder = ENCODER, view: str = "text", sign: int = 1
) -> Profile:
    """Embed the records of a user into the store; `sign` -1 turns the vectors round, so that they can be recognised."""
    profile = store.profile(user_id)
    matrix = sign * encoder.encode([record.view(view) for record in profile])
    vectors = UserVectors(
        user_id,
        vector_fingerprint(encoder, view),
        tuple(record.id for record in profile),
        tuple(record.content_hash for record in profile),
        matrix.astype(np.float16),
        profile.revision,
    )
    assert store.put_vectors([vectors]) == 1
    return profile


def fill(store: ProfileStore, histories: Mapping[str, Sequence[Record]]) -> None:
    """Put records into the store, and their vectors."""
    store.upsert((user_id, record) for user_id, records in histories.items() for record in records)
    for user_id, records in histories.items():
        if records:
            put_vectors(store, user_id)
