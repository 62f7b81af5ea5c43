//! The models compiled into the binary.

/// A file's name and contents.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// The embedded models: name and files, in Hugging Face layout. To embed `models/NAME`, add a line
/// `embed!("NAME": "config.json", "tokenizer.json", …)` listing its files.
pub static EMBEDDED: &[(&str, &[EmbeddedFile])] = &[];

/// One entry of [`EMBEDDED`]: the named files of `models/NAME`.
#[allow(unused_macros, reason = "used by each embedded model's line in EMBEDDED")]
macro_rules! embed {
    ($model:literal: $($file:literal),+ $(,)?) => {
        ($model, &[$((
            $file,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $model, "/", $file)) as &[u8],
        )),+])
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use embed;
