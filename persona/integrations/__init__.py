"""Where persona plugs in: LangChain, LangGraph, OpenAI's client and MCP, each with the packages of its extra.

One module each: `langchain` (a `Runnable`), `middleware` (LangChain's agents), `langgraph` (a `BaseStore`), `openai`
(`persona.wrap`) and `mcp`. `personal` is what those that ask an LLM share.
"""
