"""Writes the small files of tests/prepare in the shapes of public preference sets; run with pyarrow 26.0.1.

The rows are made up; only their shapes are those of openbmb/UltraFeedback, HuggingFaceH4/ultrafeedback_binarized and
Anthropic/hh-rlhf.
"""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent


def completion(model, response, fine, overall, ratings):
    return {
        "annotations": {
            aspect: {"Rating": rating, "Rationale": "…"}
            for aspect, rating in zip(["helpfulness", "honesty", "instruction_following", "truthfulness"], ratings)
        },
        "custom_system_prompt": "",
        "fine-grained_score": fine,
        "model": model,
        "overall_score": overall,
        "principle": "helpfulness",
        "response": response,
    }


ULTRA = [
    {
        "source": "demo",
        "instruction": f"Question {i}?",
        "models": ["a", "b", "c"],
        "completions": [
            # By aspects "good" is best, by overall score "loud".
            completion("a", f"good {i}", 4.5, 6.0, ["5", "5", "4", "4"]),
            completion("b", f"loud {i}", 3.0, 10.0, ["3", "3", "3", "3"]),
            completion("c", f"bad {i}", 1.25, 2.0, ["1", "2", "1", "1"]),
        ],
    }
    for i in range(8)
]
ULTRA[6]["completions"] = []  # as in the public file: a prompt without completions
ULTRA[7]["instruction"] = "  Question   0?\n"  # the first prompt again, but for white space


def turn(role, content):
    return {"content": content, "role": role}


BINARIZED = [
    {
        "prompt": f"Question {i}?",
        "prompt_id": f"{i:064x}",
        "chosen": [turn("user", f"Question {i}?"), turn("assistant", f"good {i}")],
        "rejected": [turn("user", f"Question {i}?"), turn("assistant", f"bad {i}")],
        "messages": [turn("user", f"Question {i}?"), turn("assistant", f"good {i}")],
        "score_chosen": 8.0,
        "score_rejected": 8.0 if i == 3 else 5.0,
    }
    for i in range(6)
]

HH = [
    {
        "chosen": f"\n\nHuman: Hello {i}\n\nAssistant: Hi\n\nHuman: And {i}?\n\nAssistant: good {i}",
        "rejected": f"\n\nHuman: Hello {i}\n\nAssistant: Hi\n\nHuman: And {i}?\n\nAssistant: bad {i}",
    }
    for i in range(5)
] + [
    {"chosen": "\n\nHuman: One\n\nAssistant: yes", "rejected": "\n\nHuman: One\n\nAssistant: no"},
    # As the public file has a few: answers to different prompts, and two turns of one speaker.
    {"chosen": "\n\nHuman: A\n\nAssistant: x", "rejected": "\n\nHuman: B\n\nAssistant: y"},
    {"chosen": "\n\nHuman: A\n\nHuman: B\n\nAssistant: x", "rejected": "\n\nHuman: A\n\nHuman: B\n\nAssistant: y"},
]


def jsonl(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")


def main():
    jsonl("ultrafeedback.jsonl", ULTRA)
    jsonl("hh-rlhf.jsonl", HH)
    pq.write_table(pa.Table.from_pylist(ULTRA), HERE / "ultrafeedback.parquet", compression="snappy")
    pq.write_table(pa.Table.from_pylist(BINARIZED), HERE / "binarized.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(BINARIZED[:2]), HERE / "gzip.parquet", compression="gzip")


if __name__ == "__main__":
    main()
