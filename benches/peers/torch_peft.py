"""Prefill, sampling, and LoRA forward + backward with PyTorch, transformers and PEFT, as tea-wgpu measures them.

    python torch_peft.py --output torch.jsonl                       # random weights at SmolLM2-135M's shape
    python torch_peft.py --model path/to/hf-model --device cuda --output torch.jsonl

Work, with the row's name in `tea-wgpu bench`:
  pp64, pp512                 rollout: a prompt with the logits after its last token
  sample 1×16×64              rollout: 16 responses of 64 tokens to one prompt of 64, temperature 1, no filter
  forward+backward 8×1×(1+128)  train --no-checkpointing: LoRA r = 16 on all seven linear layers, 8 sequences of 128
                              rows, every row's next token a target, gradient checkpointing off
Every number is in f32 unless --dtype says otherwise.
"""

import argparse
import os
import time

import rows

RANK = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Sizes as the models' config.json files give them.
SHAPES = {
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True),
    "smollm2-360m": dict(hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
                         num_key_value_heads=5, vocab_size=49152, tie_word_embeddings=True),
    "llama-3.2-1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=64, vocab_size=128256, tie_word_embeddings=True),
}


def open_model(args, torch):
    """A causal language model: random weights at a shape, or a checkpoint."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    dtype = getattr(torch, args.dtype)
    if args.model.startswith("random:"):
        shape = args.model.removeprefix("random:")
        config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192)
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    return model.to(args.device).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random:smollm2-135m", help="random:SHAPE, a directory or a hub id")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", default="prefill,sample,train", help="of prefill, sample, train")
    parser.add_argument("--output", default="-", help="JSON lines")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    model = open_model(args, torch)
    vocabulary = model.config.vocab_size
    made_up = torch.Generator().manual_seed(1)
    out = []

    def tokens(count, length):
        return torch.randint(0, vocabulary, (count, length), generator=made_up).to(args.device)

    def wait():
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()

    def seconds(work):
        work()
        wait()
        samples = []
        for _ in range(args.repetitions):
            begun = time.perf_counter()
            work()
            wait()
            samples.append(time.perf_counter() - begun)
        return samples

    def add(test, variant, unit, samples, higher):
        name = args.model.rstrip("/").rsplit("/", 1)[-1]
        where = f"{args.device}, {args.threads} threads" if args.device == "cpu" else args.device
        out.append(rows.row("PyTorch + PEFT", where, name, args.dtype, test, variant, unit, samples, higher))

    wanted = args.only.split(",")
    if "prefill" in wanted:
        for length in (64, 512):
            prompt = tokens(1, length)

            @torch.no_grad()
            def prefill(prompt=prompt):
                model(input_ids=prompt, use_cache=True, logits_to_keep=1)

            add(f"pp{length}", "", "tok/s", [length / s for s in seconds(prefill)], True)
    if "sample" in wanted:
        batch, length, new = 16, 64, 64
        prompt = tokens(1, length).repeat(batch, 1)
        mask = torch.ones_like(prompt)

        @torch.no_grad()
        def sample():
            got = model.generate(
                input_ids=prompt, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                min_new_tokens=new, max_new_tokens=new, pad_token_id=0,
            )
            assert got.shape == (batch, length + new)

        add(f"sample 1×{batch}×{new}", f"prompts of {length}", "tok/s", [batch * new / s for s in seconds(sample)], True)
    if "train" in wanted:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=TARGETS)
        adapted = get_peft_model(model, config).train()
        # 128 rows a sequence; the 129th token is only predicted.
        sequences = tokens(8, 129)
        inputs, targets = sequences[:, :-1], sequences[:, 1:]
        coefficient = torch.ones_like(targets, dtype=torch.float32)
        coefficient.view(-1)[1::2] = -1.0
        coefficient /= targets.numel()

        def step():
            logits = adapted(input_ids=inputs, use_cache=False).logits.float()
            logp = torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
            (logp * coefficient).sum().backward()
            for parameter in adapted.parameters():
                parameter.grad = None

        add("forward+backward 8×1×(1+128)", f"r{RANK}, activations kept", "s", seconds(step), False)
    rows.write(out, args.output)


if __name__ == "__main__":
    main()
