"""The random tiny models and adapters: shapes, seeds, and how they are written to disk."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

LORA_TARGETS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
LORA_RANK, LORA_ALPHA = 5, 10


@dataclass(frozen=True)
class Spec:
    """One model directory. `halves` adds a twin directory per dtype; the switches say which golden parts are made."""

    name: str
    seed: int
    config: dict
    lengths: tuple[int, ...]
    prompt_lens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    score: bool = False
    # Write config.json with top-level rope_theta and rope_scaling, as hub checkpoints of transformers 4 have it.
    legacy_config: bool = False
    halves: tuple[str, ...] = ()
    # Weight decays of the AdamW runs on the adapter, and of the one on all parameters (None: no such run).
    lora_adamw: tuple[float, ...] = (0.01,)
    full_adamw: float | None = None
    kl_and_ppo: bool = False
    greedy_prompts: tuple[int, ...] = field(default=(3, 11))


SPECS = [
    Spec(
        name="llama_gqa",
        seed=3,
        config={
            "model_type": "llama", "vocab_size": 331, "hidden_size": 60, "intermediate_size": 92, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 512, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": [2, 7],
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        },
        lengths=(2, 11, 17, 70), prompt_lens=(1, 5, 1, 30), weights=(0.3, -0.07, 0.04, 0.05),
        legacy_config=True, halves=("float16", "bfloat16"), kl_and_ppo=True, lora_adamw=(0.0, 0.01),
    ),
    Spec(
        name="llama_tied",
        seed=2,
        config={
            "model_type": "llama", "vocab_size": 257, "hidden_size": 80, "intermediate_size": 88, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 40, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 256, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        },
        lengths=(2, 5, 19, 37), prompt_lens=(1, 4, 7, 1), weights=(0.2, -0.15, 0.06, 0.03), full_adamw=0.01, lora_adamw=(0.0,),
    ),
    Spec(
        name="qwen2_bias",
        seed=16,
        config={
            "model_type": "qwen2", "vocab_size": 263, "hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 256,
            "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 2, "use_sliding_window": False,
            # A small theta on purpose: where rope hardly turns, the key bias shifts all of a row's scores alike and its true
            # gradient is near 0, so that AdamW would amplify rounding (3e-3 of θ₁₀ − θ₀ at theta 1e6).
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
        lengths=(2, 7, 18, 31), prompt_lens=(1, 2, 9, 3), weights=(0.25, 0.1, -0.05, 0.04), legacy_config=True, full_adamw=0.0,
    ),
    Spec(
        name="qwen3_qknorm",
        seed=404,
        config={
            "model_type": "qwen3", "vocab_size": 271, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 256, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        lengths=(2, 3, 16, 41), prompt_lens=(1, 1, 8, 11), weights=(-0.2, 0.1, 0.05, 0.03),
    ),
    Spec(
        name="mistral",
        seed=505,
        config={
            "model_type": "mistral", "vocab_size": 193, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 256, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
            "sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        # Weights so small that the gradient norm stays under the clip: the other models all clip.
        lengths=(2, 13, 29), prompt_lens=(1, 6, 2), weights=(0.02, -0.012, 0.01), legacy_config=True, lora_adamw=(0.0,),
    ),
    Spec(
        name="llama_score",
        seed=606,
        config={
            "model_type": "llama", "vocab_size": 199, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
            "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 256, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 3, "num_labels": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        lengths=(5, 12, 23, 9), score=True, legacy_config=True,
    ),
    Spec(
        name="qwen3_score",
        seed=7,
        config={
            "model_type": "qwen3", "vocab_size": 211, "hidden_size": 56, "intermediate_size": 72, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 256, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 2,
            "pad_token_id": 210, "num_labels": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        lengths=(14, 6, 11, 27), score=True,
    ),
]


def generator(seed: int, purpose: int) -> torch.Generator:
    """One random stream a model and purpose, so that changing one part leaves the others' numbers alone."""
    return torch.Generator().manual_seed(seed * 1000 + purpose)


def auto_class(spec: Spec):
    """The transformers class that loads the model."""
    return AutoModelForSequenceClassification if spec.score else AutoModelForCausalLM


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights N(0, 0.1), embeddings and heads N(0, 0.15), biases N(0, 0.2), norm weights U(0.5, 1.5)."""
    rng = generator(seed, 1)
    for name, param in sorted(model.named_parameters()):
        if "norm" in name:
            param.copy_(torch.rand(param.shape, generator=rng) + 0.5)
            continue
        std = 0.1
        if name.endswith("bias"):
            std = 0.2
        elif "embed_tokens" in name or "lm_head" in name or name.startswith("score"):
            std = 0.15
        param.copy_(torch.randn(param.shape, generator=rng) * std)


def write_model(spec: Spec, root: Path) -> None:
    """Creates `root/<name>` (and a rounded twin per half dtype) in Hugging Face format."""
    config = AutoConfig.for_model(**spec.config)
    model = auto_class(spec).from_config(config, dtype=torch.float32, attn_implementation="eager")
    randomise(model, spec.seed)
    for dtype in ("float32", *spec.halves):
        target = root / dir_name(spec, dtype)
        model.to(getattr(torch, dtype)).save_pretrained(target)
        tidy_config(target / "config.json", spec.legacy_config and dtype == "float32")


def dir_name(spec: Spec, dtype: str) -> str:
    """`llama_gqa`, `llama_gqa_f16`, `llama_gqa_bf16`."""
    return spec.name + {"float32": "", "float16": "_f16", "bfloat16": "_bf16"}[dtype]


def tidy_config(path: Path, legacy: bool) -> None:
    """Sorts the keys; `legacy` spells the rope settings and the dtype as transformers 4 did."""
    config = json.loads(path.read_text())
    if legacy:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_base(spec: Spec, path: Path) -> torch.nn.Module:
    """The stored model, upcast to float32, eager attention, evaluation mode (no dropout)."""
    return auto_class(spec).from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def load_lora(spec: Spec, path: Path, adapter: Path) -> PeftModel:
    """The stored model under its stored adapter, adapter trainable."""
    return PeftModel.from_pretrained(load_base(spec, path), adapter, is_trainable=True).eval()


def to_double(model: torch.nn.Module) -> torch.nn.Module:
    """Turns a loaded model to float64, its rope frequencies recomputed; call inside `float64_arithmetic`."""
    model.double()
    transformer = model.get_base_model().model if isinstance(model, PeftModel) else model.model
    transformer.rotary_emb = type(transformer.rotary_emb)(transformer.config)
    assert transformer.rotary_emb.inv_freq.dtype == torch.float64
    return model


@torch.no_grad()
def write_adapter(spec: Spec, path: Path) -> None:
    """A LoRA adapter with non-zero B (and for reward models a score head unlike the base's), saved by peft in `path/adapter`."""
    config = LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=0.0, bias="none", target_modules=LORA_TARGETS,
        task_type="SEQ_CLS" if spec.score else "CAUSAL_LM", modules_to_save=["score"] if spec.score else None,
    )
    model = get_peft_model(load_base(spec, path), config)
    rng = generator(spec.seed, 2)
    for name, param in sorted(trainable(model).items()):
        if "lora_A" in name:
            bound = 1.0 / math.sqrt(param.shape[1])
            param.copy_((torch.rand(param.shape, generator=rng) * 2 - 1) * bound)
        elif "lora_B" in name:
            param.copy_(torch.randn(param.shape, generator=rng) * 0.05)
        else:
            param.copy_(torch.randn(param.shape, generator=rng) * 0.15)
    target = path / "adapter"
    model.save_pretrained(target, save_embedding_layers=False)
    (target / "README.md").unlink(missing_ok=True)
    config_path = target / "adapter_config.json"
    saved = json.loads(config_path.read_text())
    # peft writes the path it loaded from and the targets in set order.
    saved["base_model_name_or_path"] = f"tests/golden/models/{spec.name}"
    saved["target_modules"] = sorted(saved["target_modules"])
    config_path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by the name they are saved under: peft's for an adapter, the checkpoint's otherwise."""
    params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not isinstance(model, PeftModel):
        return dict(params)
    saved = {t.data_ptr(): name for name, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    named = {saved[p.data_ptr()]: p for _, p in params}
    assert len(named) == len(params) == len(saved), "an adapter tensor has no saved name"
    return named
