"""Steering vectors: one or a few vectors per user, added to the hidden states of a frozen LLM (docs/steering.md).

=================================  ===================================================================
`persona.steering.contrast`        a record's own text against a neutral one: what is read of it
`persona.steering.choosing`        behind which block, how strong, or not at all
`persona.steering.preference`      a vector trained by preference (BiPO)
`persona.steering.users`           from users' records to published versions
`persona.steering.channel`         requests are answered with their user's
`persona.steering.from_profiles`   vectors made on demand, for evaluations
`persona.steering.control_vector`  out to llama.cpp, as GGUF
=================================  ===================================================================
"""
