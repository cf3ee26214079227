"""Small conversations in the published layouts, invented here."""

from __future__ import annotations

from typing import Any

LOCOMO: list[dict[str, Any]] = [
    {
        "sample_id": "conv-a",
        "conversation": {
            "speaker_a": "Ines",
            "speaker_b": "Olu",
            "session_2_date_time": "9:05 am on 3 June, 2022",
            "session_2": [
                {"speaker": "Ines", "dia_id": "D2:1", "text": "The quinces are ripe, I made jam yesterday."},
                {"speaker": "Olu", "dia_id": "D2:2", "text": "", "blip_caption": "a jar on a table"},
            ],
            "session_1_date_time": "1:56 pm on 8 May, 2022",
            "session_1": [
                {"speaker": "Ines", "dia_id": "D1:1", "text": "I planted a quince and two pears."},
                {"speaker": "Olu", "dia_id": "D1:2", "text": "My dog Biko is ill."},
            ],
        },
        "qa": [
            {"question": "What did Ines plant?", "answer": "quince, pears", "evidence": ["D1:1"], "category": 1},
            {"question": "When did Ines make jam?", "answer": "2 June 2022", "evidence": ["D2:1; D9:9"], "category": 2},
            {
                "question": "Would Ines like a plum tree?",
                "answer": "Likely yes; she plants fruit",
                "evidence": ["D:1:1", "D01:02", "D"],
                "category": 3,
            },
            {"question": "How many pears?", "answer": 2, "evidence": [], "category": 4},
            {"question": "What did Olu plant?", "adversarial_answer": "a quince", "evidence": ["D1:1"], "category": 5},
        ],
    },
    {
        "sample_id": "conv-b",
        "conversation": {
            "session_1_date_time": "12:10 am on 1 January, 2023",
            "session_1": [{"speaker": "Tarek", "dia_id": "D1:1", "text": "I moved to Cork."}],
        },
        "qa": [
            {"question": "Where did Tarek move?", "answer": "Cork", "evidence": ["D1:1"], "category": 4},
            {"question": "Does Tarek have a cat?", "answer": "No", "evidence": [], "category": 5},
        ],
    },
]

_STAY = {"preference": "I never stay on a ground floor.", "question": "Which room in Graz?", "explanation": "Height."}
_FOOD = {"preference": "I eat no onions.", "question": "What shall I cook?", "explanation": "Onions are everywhere."}
_CHOSEN = {
    "query": "A flat for two nights?",
    "assistant_options": "1. The attic. 2. The cellar.",
    "user_selection": "The attic.",
    "assistant_acknowledgment": "The attic it is.",
}
_SHOWN = {"0": {"user": "I moved out of the cellar.", "assistant": "Good."}, "10": {"user": "u10", "assistant": "a10"}}
_SHOWN["2"] = {"user": "u2", "assistant": "a2"}
_ROOMS = ["A room under the roof.", "A room by the door.", "A cellar room.", "A garden room."]
_DISHES = ["Rice.", "Onion soup.", "Onion tart.", "Onion rings."]

PREFEVAL: dict[str, object] = {
    "explicit_preference/rooms.json": [_STAY],
    "explicit_preference/meals.json": [_FOOD],
    "implicit_preference/choice-based/rooms.json": [{**_STAY, "conversation": _CHOSEN}],
    "implicit_preference/persona-driven/rooms.json": [{**_STAY, "persona": "a roofer", "conversation": _SHOWN}],
    "mcq_options/rooms.json": [{**_STAY, "classification_task_options": _ROOMS}],
    "mcq_options/meals.json": [{**_FOOD, "question": "Cook what?", "classification_task_options": _DISHES}],
    "filtered_inter_turns.json": [
        {"conversation": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
        {"conversation": [{"role": "user", "content": "A pun?"}, {"role": "assistant", "content": "No."}]},
    ],
}
"""PrefEval's folder: file -> content."""

_CHAT = [
    {"role": "system", "content": "The person is called Mirela and likes fens."},
    {"role": "user", "content": "I walked in a fen."},
    {"role": "assistant", "content": "How wet!"},
    {"role": "user", "content": "I now prefer dry moors."},
]
_FIRST = ["persona_id", "question_id", "question_type", "user_question_or_message", "correct_answer", "all_options"]
_FIRST += ["shared_context_id", "end_index_in_shared_context"]
_WALKS = "['(a) A fen.', '(b) A moor, it\\'s dry.', '(c) A city.', '(d) The sea.']"

PERSONAMEM_1 = {
    "questions_32k.csv": [
        _FIRST,
        ["7", "q-1", "recall", "Where did I walk?", "(a)", _WALKS, "ctx", "3"],
        ["7", "q-2", "update", "Where to, a friend asks?", "(b)", _WALKS, "ctx", "4"],
    ],
    "shared_contexts_32k.jsonl": {"ctx": _CHAT},
}
"""Version 1's folder: file -> rows, or a line's content."""

PERSONAMEM_2 = {
    "benchmark/text/benchmark.csv": [
        ["persona_id", "user_query", "correct_answer", "incorrect_answers", "pref_type", "chat_history_32k_link"],
        ["7", '{"role": "user", "content": "Where to?"}', "A moor.", '["A fen.", "x", "y"]', "update", "data/7.json"],
        ["7", "{'role': 'user', 'content': 'And then?'}", "Home.", "['A fen.', 'x', 'y']", "ask", "data/7.json"],
    ],
    "data/7.json": {"metadata": {}, "chat_history": _CHAT},
}
"""Version 2's."""

_POSTS = [
    {
        "source_timestamp": 1700000000,
        "source_hashtags": ["#WildSwimming"],
        "content": {"title": "A cold lake", "caption": "In at six."},
        "interaction_format": {"action_label": "Liked it"},
        "preferences": [{"persona_item": "Likes cold water."}],
    },
    {"source_timestamp": 1700000900, "source_hashtags": ["#opera"], "interaction_format": {"action_label": "Skipped"}},
]
_TALKS = [
    {"source_timestamp": 1700000100, "conversation": [{"role": "user", "content": "Is 8 degrees too cold?"}]},
    {"source_timestamp": 1700000200, "messages": [{"sender": "friend_1", "text": "Coming along?"}]},
]
_CANDIDATES = [
    {"title": "Aria night", "hashtags": ["opera"]},
    {"title": "River dips", "hashtags": ["WildSwimming"]},
    {"title": "Roof tiles", "hashtags": []},
]
_INTERESTS = {
    "target": [{"persona_item": "Swims in lakes.", "category": "sport", "source_hashtags": ["#WildSwimming"]}],
    "avoid": [
        {"persona_item": "Fears the dentist.", "category": "health", "source_hashtags": ["#dentist", "#fear"]},
        {"persona_item": "Sings in the shower.", "category": "music", "source_hashtags": []},
    ],
}
_ORIGINS = ["hard_negative", "held_out", "filler"]

PERSONAMEM_3 = {
    "backend/7/instagram.json": _POSTS,
    "backend/7/chatbot.json": _TALKS,
    "backend/7/test.json": [
        {
            "query_id": "7:0",
            "task_type": "personalized_recommendation",
            "ts": 1700000500,
            "user_query": "[system prompt] Recommend.",
            "instance_full": {"candidates": _CANDIDATES, "held_out_idx": 1, "hard_negative_idxs": [0]},
        },
        {
            "query_id": "7:1",
            "task_type": "slate_ranking",
            "ts": 1700001000,
            "user_query": None,
            "instance_full": {"slate": _CANDIDATES, "held_out_idx": 1, "origin_by_idx": _ORIGINS},
        },
        {
            "query_id": "7:2",
            "task_type": "over_personalization_chatbot_text",
            "ts": 1700001000,
            "user_query": "What is good for a sore throat?",
            "instance_full": {"gt_slice": _INTERESTS},
        },
    ],
}
"""Version 3's."""

LONGMEMEVAL = [
    {
        "question_id": "q1",
        "question_type": "single-session-assistant",
        "question": "Which mountain did you name?",
        "answer": "Triglav",
        "question_date": "2023/05/20 (Sat) 02:21",
        "haystack_dates": ["2023/05/19 (Fri) 10:00", "2023/05/20 (Sat) 09:00", "2023/05/01 (Mon) 08:30"],
        "haystack_session_ids": ["s2", "s3", "s1"],
        "haystack_sessions": [
            [
                {"role": "user", "content": "Name a mountain."},
                {"role": "assistant", "content": "Triglav.", "has_answer": True},
            ],
            [{"role": "user", "content": "Said later."}],
            [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": ""}],
        ],
        "answer_session_ids": ["s2"],
    },
    {
        "question_id": "q2_abs",
        "question_type": "knowledge-update",
        "question": "How old is my cat?",
        "answer": "You never told me about a cat.",
        "question_date": "2023/06/02 (Fri) 12:00",
        "haystack_dates": ["2023/06/01 (Thu) 12:00"],
        "haystack_session_ids": ["s1"],
        "haystack_sessions": [[{"role": "user", "content": "My dog is 7."}]],
        "answer_session_ids": ["s1"],
    },
    {
        "question_id": "q3",
        "question_type": "knowledge-update",
        "question": "How old is my dog?",
        "answer": 8,
        "question_date": "2023/06/02 (Fri) 12:00",
        "haystack_dates": ["2023/06/01 (Thu) 12:00"],
        "haystack_session_ids": ["s1"],
        "haystack_sessions": [[{"role": "user", "content": "My dog is 8 now."}]],
        "answer_session_ids": ["s1"],
    },
]
