#!/usr/bin/env python3
"""Loss and gradient of conversations whose assistant turns are learned, by transformers on the embedded policy.

    python tests/golden/sft_turns.py

writes sft_turns.json beside this file. README.md describes the fields. What is learned comes from transformers' own mask of
`{% generation %}` blocks where the template renders every turn alike. A template that leaves out the reasoning of earlier turns
is rendered once a turn.
"""

from pathlib import Path

import golden_env

VERSIONS = golden_env.check_versions()

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

golden_env.quiet_deterministic_torch()
MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny"
ANSWER = "{{ '<|assistant|>' }}{%% generation %%}{{ %s + '<|end|>' }}{%% endgeneration %%}"
TEMPLATE = (
    "{%% for m in messages %%}{%% if m.role == 'assistant' %%}" + ANSWER + "{%% else %%}{{ '<|user|>' + m.content }}{%% endif %%}"
    "{%% endfor %%}{%% if add_generation_prompt %%}{{ '<|assistant|>' }}{%% endif %%}"
)
PLAIN = TEMPLATE % "m.content"
STRIPS = TEMPLATE % "(m.content if loop.last else m.content.split('#')[-1])"


def turns(*texts: str, system: str | None = None) -> list[dict]:
    roles = ("user", "assistant")
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


CONVERSATIONS = [
    turns("add 1 2", "3", "reverse it", "3 again"),
    turns("sort cab", "a, b, c", "and back?", "c, b, a", "thanks", system="be brief"),
    turns("count a", "none"),
]
THOUGHTS = [turns("add 1 2", "1 + 2#3", "twice", "3 * 2#6", "half", "6 / 2#3"), turns("next 2 4", "#6")]


def masked(tokenizer, conversation, only_last):
    """(ids, which are learned) of one rendering, by transformers' mask."""
    out = tokenizer.apply_chat_template(conversation, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = list(out["input_ids"]), list(out["assistant_masks"])
    if only_last:
        end = max(i for i, m in enumerate(mask) if m)
        start = max(i for i in range(end) if not mask[i]) + 1
        mask = [int(start <= i <= end) for i in range(len(mask))]
    return [(ids, mask)]


def turn_by_turn(tokenizer, conversation, only_last):
    """The same where earlier turns are rendered otherwise: one rendering a turn, its last turn learned."""
    out = []
    for i, turn in enumerate(conversation):
        if turn["role"] == "assistant":
            out += masked(tokenizer, conversation[: i + 1], True)
    return out[-1:] if only_last else out


def measure(template, conversations, render, only_last):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = template
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    sequences = [s for c in conversations for s in render(tokenizer, c, only_last)]
    count = sum(sum(mask) for _, mask in sequences)
    total = 0.0
    for ids, mask in sequences:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        logp = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        loss = -(logp * torch.tensor(mask[1:])).sum() / count
        loss.backward()
        total += loss.item()
    norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters())).item()
    return {"num_tokens": count, "loss": total, "grad_norm": norm}


def case(name, template, conversations, render):
    results = {on: measure(template, conversations, render, on == "last") for on in ("all", "last")}
    return {"name": name, "template": template, "conversations": conversations, **results}


cases = [
    case("every turn alike", PLAIN, CONVERSATIONS, masked),
    case("earlier reasoning left out", STRIPS, THOUGHTS, turn_by_turn),
]
golden_env.write_record(Path(__file__).with_suffix(".json"), {"versions": VERSIONS, "cases": cases})
