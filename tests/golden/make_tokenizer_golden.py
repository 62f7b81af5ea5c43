#!/usr/bin/env python3
"""Writes tokenizers.json: what transformers makes of a text set and of some conversations.

    sh tests/fetch-data.sh
    pip install transformers==5.23.0 jinja2==3.1.6 gguf
    python tests/golden/make_tokenizer_golden.py [DATA_DIR]

For each tokenizer in DATA_DIR (default target/test-data): token ids with and without special tokens, the decoded text with
and without them, rendered conversations and their ids. SmolLM2 comes from its GGUF file: vocabulary and merges as stored,
digits split one by one, then byte-level BPE, which is how the model's own tokenizer.json is built.
"""

import datetime
import json
import logging
import pathlib
import sys

import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

VERSION = "5.23.0"
if transformers.__version__ != VERSION:
    sys.exit(f"this script is pinned to transformers {VERSION}, found {transformers.__version__}")
logging.disable(logging.WARNING)

HERE = pathlib.Path(__file__).parent
DATE = datetime.datetime(2026, 7, 5)

TEXTS = [
    "",
    " ",
    "\n",
    "Hello, world!",
    "The capital of France is",
    "  leading and trailing  ",
    "tabs\tand\t\tmore\r\nlines\n\n\n  indented\n \n",
    "a  b   c    d     e      f                                                                  g",
    "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-10 2026-07-05",
    "½ ² ₃ Ⅷ ٣٤٥ १२३ 一二三 𝟘𝟙𝟚 ①",
    "I'm you're he'll we've they'd it's 'S 'RE 'Ll don't it'ſ ’s ’re",
    "CamelCase snake_case kebab-case SCREAMING_CASE ALLCAPS mIxEd",
    "def f(x: int) -> str:\n    \"\"\"doc\"\"\"\n    return f\"{x!r:>10}\" if x != 0 else ''\n\n\tpass  # todo\n",
    "#include <stdio.h>\nint main(void) { return a[i]++ && !b || c == ~d ? 0 : -1; }\r\n",
    "<html><body class=\"x\">&amp; &lt;b&gt;</body></html>",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\\n\"}}",
    "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2 $\\alpha$",
    "中文分词测试，没有空格。日本語のテキスト：ひらがな、カタカナ、漢字。 한국어 텍스트입니다.",
    "梦ゼ벨 龍龘 𠮷野家 𪚥",
    "Привет, мир! Ελληνικά: ΑΒΓ άέή. Ünïcödé façade naïve œuvre Straße İstanbul ıI",
    "שלום עולם! مرحبا بالعالم، ١٢٣ \u200fRTL\u200e mixed LTR",
    "नमस्ते दुनिया ภาษาไทยไม่มีช่องว่าง မြန်မာ தமிழ்",
    "e\u0301 vs é; n\u0303 a\u0308\u0323 Å \u212b q\u0307\u0323 \u1e69 s\u0323\u0307 \u1100\u1161\u11a8 각",
    "zalgo: h\u0335\u0321e\u0334\u0302l\u0337l\u0336o\u0338",
    "😀 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇨🇭 ❤️ 1️⃣ ☃ ✈︎",
    "zero\u200bwidth\u200djoiner\u2060word\ufeffbom soft\u00adhyphen",
    "nbsp\u00a0thin\u2009ideographic\u3000line\u2028para\u2029nel\u0085vt\u000bff\u000cfs\u001c\u180e end",
    "\u00a0\u00a0 \u00a0x \u3000\u3000 y\u2003",
    "control \u0000 \u0001 \u0007 \u001b[31mred\u001b[0m \u007f",
    "private \ue000 \U000f0000 unassigned \U000e0fff noncharacter \uffff replacement \ufffd",
    "!!!??? ... --- *** ///\\\\\\ (((())) [[]] <<>> «» „“ ‘’ – — … • † § ¶ © ® ™ € £ ¥ ° ± × ÷ ≠ ≤ ∞ √ ∫",
    "end of line punctuation.\nNext,\r\nnext;\n\n\"quoted\"\n",
    "https://example.com/path?q=1&r=%20#frag user@example.com C:\\Windows\\System32",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Donaudampfschifffahrtsgesellschaftskapitän pneumonoultramicroscopicsilicovolcanoconiosis",
    "<|begin_of_text|>hello<|eot_id|>",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "before <|im_end|> after  <|eot_id|>  spaces <|end_of_text|>",
    "<s>bos</s> eos <unk> <0x0A> [INST] [/INST]",
    "<think>\nhm\n</think>\n\n<tool_call>{}</tool_call>",
    "<|im_start|><|im_start|><|not_a_token|> <|im_end",
    "▁sentence▁piece ▁▁ marks Ġbyte Ċlevel",
    "\u0130\u0307 \ufb01 ﬂ ſ ẞ ǅ ⅷ",
    "mixed 中英文 text123中文456 и русский7слов8 emoji😀in😀words",
    "\n\n\n\n" + "    " * 8 + "deep\n",
    " a\n b\n  c\n\t d \t\n",
]

CHATS = {
    "user": [{"role": "user", "content": "Why is the sky blue?"}],
    "padded": [{"role": "user", "content": "\n  two spaces, then a newline \n"}],
    "system": [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "2 + 2 = <b>?</b> & 'é' \"ü\" 😀"},
    ],
    "answered": [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
    ],
    "turns": [
        {"role": "system", "content": "You are a poet."},
        {"role": "user", "content": "A line about rain."},
        {"role": "assistant", "content": "<think>\nrain…\n</think>\n\nIt falls\non all."},
        {"role": "user", "content": "Another."},
        {"role": "assistant", "content": "  And all it falls on grows.\n"},
        {"role": "user", "content": "Thanks <|im_end|> <|eot_id|>!"},
    ],
}

# Templates that use what the three models' do not; rendered with bos_token "<s>" and eos_token "</s>".
TEMPLATES = {
    "date_and_macros": """{{- bos_token }}
{%- macro turn(role, text='') -%}
[{{ role | upper }}] {{ text | trim }}
{%- endmacro %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "none" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
Today: {{ date_string }} {{ strftime_now('%A, %-d. %B %Y, %H:%M:%S %j') }}
{{ system_message }}
{% for message in messages %}
{{ turn(message.role, message['content']) }}
{% endfor %}
{% if tools is not none %}tools{% endif %}
{% if add_generation_prompt %}
    {{- '[ASSISTANT]' }}
{% endif %}
""",
    "values": """{{ messages | length }} {{ none }} {{ true }} {{ 1.5 }} {{ [1, 'a', none] }} {{ {'k': 'v', 'n': [true]} }}
{{ messages[0] | tojson }} {{ messages | tojson(indent=2) }}
{{ {'é': '<&>', 'z': 1, 'a': [], 'f': 1e-3, 'o': {}} | tojson(ensure_ascii=true) }}
{{ messages[-1].content.split(' ')[:2] | join('|') }} {{ messages[-1]['content'][::-1] }} {{ missing }}{{ messages[0].nothing }}
{{ eos_token ~ 1 ~ none }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 7 / 2 }} {{ 'ab' * 2 }} {{ 'x' if messages is iterable else 'y' }}
{{ messages[0].content is string }} {{ messages[0] is mapping }} {{ 'user' in messages[0].values() }}
""",
    "control": """{% set ns = namespace(seen=0, out='') %}
{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}
{% set ns.seen = ns.seen + 1 %}
{% if loop.last %}
last {{ loop.index }} of {{ loop.length }}
{% endif %}
{% if ns.seen > 2 %}{% break %}{% endif %}
{% generation %}
{{ m.content.replace('a', 'A').strip() }}{{ eos_token }}
{% endgeneration %}
{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index0 }}:{{ m.content.startswith('W') }}:{{ m.content.endswith('!') }};{% else %}none{% endfor %}

{%- for key, value in messages[0].items() %} {{ key }}={{ value.title() }}{%- endfor %}
{#- a comment #}
{% if (messages | selectattr('role', 'equalto', 'assistant') | list | length) == 0 and false %}{{ raise_exception('never') }}{% endif %}
{{ messages | map(attribute='role') | list | join(',') }} {{ range(3) | list }} {{ messages | first | length }}
""",
}


class FixedDate(datetime.datetime):
    """datetime with the clock stopped, for strftime_now."""

    @classmethod
    def now(cls, tz=None):
        return DATE


chat_template_utils.datetime = FixedDate


def smollm2(data):
    """SmolLM2's tokenizer from the metadata of its GGUF file."""
    from gguf import GGUFReader

    reader = GGUFReader(data / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")

    def field(name):
        return reader.fields[name].contents()

    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]
    tok = tokenizers.Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tok.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, field("tokenizer.ggml.token_type")) if kind == 3]
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token=tokens[field("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[field("tokenizer.ggml.eos_token_id")],
        pad_token=tokens[field("tokenizer.ggml.padding_token_id")],
    )
    fast.chat_template = field("tokenizer.chat_template")
    return fast


def golden(tok):
    """The golden record of one tokenizer."""
    texts = []
    for text in TEXTS:
        bare = tok.encode(text, add_special_tokens=False)
        full = tok.encode(text, add_special_tokens=True)
        texts.append(
            {
                "ids": bare,
                # what the special tokens put before the text; nothing is ever put after it here
                "prefix": full[: len(full) - len(bare)],
                "decoded": tok.decode(bare),
                "skipped": tok.decode(bare, skip_special_tokens=True),
            }
        )
        assert full == texts[-1]["prefix"] + bare
    record = {
        "vocab_size": len(tok),
        "bos": tok.bos_token_id,
        "eos": tok.eos_token_id,
        "pad": tok.pad_token_id,
        "texts": texts,
    }
    if tok.chat_template:
        record["chats"] = [
            {
                "chat": name,
                "open": opened,
                "text": tok.apply_chat_template(chat, tokenize=False, add_generation_prompt=opened),
                "ids": tok.apply_chat_template(chat, add_generation_prompt=opened, return_dict=False),
            }
            for name, chat in CHATS.items()
            for opened in (False, True)
        ]
    return record


def render(template, chat, opened):
    """A template of TEMPLATES on a conversation of CHATS."""
    (text,), _ = chat_template_utils.render_jinja_template(
        [chat], chat_template=template, add_generation_prompt=opened, bos_token="<s>", eos_token="</s>"
    )
    return text


def main():
    data = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "../../target/test-data")
    records = {name: golden(AutoTokenizer.from_pretrained(data / name)) for name in ("llama3_1", "qwen3")}
    # As the file is written: AutoTokenizer would rebuild the class LlamaTokenizer with another treatment of texts that begin
    # with a space, which neither SentencePiece nor transformers 4 has.
    records["sentencepiece"] = golden(
        PreTrainedTokenizerFast(
            tokenizer_file=str(data / "sentencepiece" / "tokenizer.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
    )
    records["smollm2"] = golden(smollm2(data))
    out = {
        "made_by": f"make_tokenizer_golden.py, transformers {VERSION}, tokenizers {tokenizers.__version__}",
        "date": DATE.strftime("%Y-%m-%d"),
        "texts": TEXTS,
        "chats": CHATS,
        "tokenizers": records,
        "templates": [
            {"name": name, "source": source, "chat": chat, "open": opened, "text": render(source, CHATS[chat], opened)}
            for name, source in TEMPLATES.items()
            for chat in CHATS
            for opened in (False, True)
        ],
    }
    path = HERE / "tokenizers.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
