"""Prompts with a user's own records: any prompt, any LLM, within a token budget."""

from persona.prompts.builder import PLACEMENTS as PLACEMENTS
from persona.prompts.builder import PROMPT as PROMPT
from persona.prompts.builder import TURNS as TURNS
from persona.prompts.builder import PromptBuilder as PromptBuilder
from persona.prompts.quoting import masked as masked
from persona.prompts.quoting import quoted as quoted
