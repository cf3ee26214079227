# A retriever and a channel of your own: evaluated beside controls, then served, without a change to persona.
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from persona import Personalizer, Profile, ProfileStore, load_llm, read_records
from persona.channels import Ask, Channel, Contribution
from persona.eval import LampBenchmark, evaluate
from persona.eval.demo.world import generated_folder
from persona.records import ScoredRecord
from persona.retrievers import ProfileRetriever, RecordsChannel, best_first


class SharedWords(ProfileRetriever):
    def rank(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        return best_first(profile, [len(set(query.split()) & set(record.text.split())) for record in profile], k)


class LastScores(Channel):
    name = "last scores"

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        return [Contribution(notes=tuple(f"Scored {r.target}." for r in ask.profile.records[-3:])) for ask in asks]


data = generated_folder("LaMP_3")  # 20 users, each with 20 product reviews and their scores
with TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/persona.db") as store:
    store.upsert(read_records(data))
    mine = Personalizer(load_llm("tiny"), store, [RecordsChannel(SharedWords(), k=2), LastScores()])
    print(evaluate(LampBenchmark.read(data), {"none": Personalizer(mine.llm, store, []), "mine": mine}).markdown())
    print(mine.generate("dev-0", "What is the score of the following review? review: The sound is poor.").text)
