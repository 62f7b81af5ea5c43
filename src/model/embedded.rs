//! The models compiled into the binary.

/// A file's name and contents.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// One entry of [`EMBEDDED`]: the named files of `models/NAME`.
macro_rules! embed {
    ($model:literal: $($file:literal),+ $(,)?) => {
        ($model, &[$((
            $file,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $model, "/", $file)) as &[u8],
        )),+])
    };
}

/// The embedded models: name and files, in Hugging Face layout; `make models` makes them. To embed `models/NAME`, add a
/// line `embed!("NAME": "config.json", "tokenizer.json", …)` listing its files.
pub static EMBEDDED: &[(&str, &[EmbeddedFile])] = &[
    embed!(
        "tiny": "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ),
    embed!(
        "tiny-reward": "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ),
];
