"""LLMs behind endpoints that speak OpenAI's protocol: OpenAI itself, vLLM, llama.cpp, and many others."""
