"""Defaults from the environment or a `.env` file: `PERSONA_STORE`, `PERSONA_LLM`, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_settings import BaseSettings, SettingsConfigDict

from persona.records import MAX_CHARACTERS

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore


class Settings(BaseSettings):
    """What the command line and `personalize` use by default.

    Attributes:
        store: database URL, `sqlite:///file.db` or `postgresql+psycopg://user@host/name`.
        llm: any string that `load_llm` takes.
        encoder: any string that `load_encoder` takes.
        retriever: a name of `persona.retrievers.registry.RETRIEVERS`.
        max_record_characters: longest record that is taken in.
    """

    model_config = SettingsConfigDict(env_prefix="PERSONA_", env_file=".env", extra="ignore")

    store: str = "sqlite:///persona.db"
    llm: str = "smollm2"
    encoder: str = "minilm"
    retriever: str = "bm25"
    max_record_characters: int = MAX_CHARACTERS


def open_store(url: str | None = None, *, create: bool = False) -> ProfileStore:
    """The store at `url`, or at `Settings.store`.

    Args:
        url: database URL; None takes the setting.
        create: create an SQLite file that does not exist. Reading commands leave this off: a mistyped path is an error,
            not an empty store.

    Raises:
        StoreError: if the file is missing and `create` is off, or the database cannot be opened.
    """
    from persona.store.profile_store import ProfileStore

    return ProfileStore(url or Settings().store, create=create)
