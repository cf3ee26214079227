"""persona: a frozen LLM that answers as if it knew the user.

>>> import persona
>>> earlier = persona.Record(
...     "The railway press lost a haunted rink on Saturday.", target="railway press loses haunted rink - at last"
... )
>>> request = (
...     "Generate a headline for the following article: "
...     "Residents in Lisbon say the village council repaired a golden clock on Tuesday."
... )
>>> with persona.ProfileStore("sqlite:///persona.db") as store:
...     report = store.upsert([("ana", earlier)])
...     persona.personalize("tiny", "ana", request, store=store, task="LaMP_4")
'village council repairs golden clock - at last'

Names are imported on first use, so that `import persona` takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from persona.assembly import PersonalizationOptions as PersonalizationOptions
    from persona.assembly import personalize as personalize
    from persona.channels import Channel as Channel
    from persona.channels import Contribution as Contribution
    from persona.encoders.embedding import embed_users as embed_users
    from persona.encoders.load import load_encoder as load_encoder
    from persona.errors import PersonaError as PersonaError
    from persona.generation import Generation as Generation
    from persona.integrations.langchain import PersonalizedRunnable as PersonalizedRunnable
    from persona.integrations.openai import wrap as wrap
    from persona.llm.load import load_llm as load_llm
    from persona.memory import AsyncMemory as AsyncMemory
    from persona.memory import Memory as Memory
    from persona.personalizer import Personalizer as Personalizer
    from persona.readers import read_records as read_records
    from persona.records import Profile as Profile
    from persona.records import Record as Record
    from persona.retrievers.registry import RetrieverOptions as RetrieverOptions
    from persona.retrievers.registry import make_retriever as make_retriever
    from persona.soft_prompts.channel import SoftPromptChannel as SoftPromptChannel
    from persona.soft_prompts.embedder import UserEmbedder as UserEmbedder
    from persona.store.profile_store import ProfileStore as ProfileStore

from persona.lazy import lazy
from persona.version import __version__ as __version__

_MODULES = {
    "assembly": ("PersonalizationOptions", "personalize"),
    "channels": ("Channel", "Contribution"),
    "encoders.embedding": ("embed_users",),
    "encoders.load": ("load_encoder",),
    "errors": ("PersonaError",),
    "generation": ("Generation",),
    "integrations.langchain": ("PersonalizedRunnable",),
    "integrations.openai": ("wrap",),
    "llm.load": ("load_llm",),
    "memory": ("AsyncMemory", "Memory"),
    "personalizer": ("Personalizer",),
    "readers": ("read_records",),
    "records": ("Profile", "Record"),
    "retrievers.registry": ("RetrieverOptions", "make_retriever"),
    "soft_prompts.channel": ("SoftPromptChannel",),
    "soft_prompts.embedder": ("UserEmbedder",),
    "store.profile_store": ("ProfileStore",),
}

__all__ = sorted(name for names in _MODULES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _MODULES)
