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
