//! Preference pairs of any known shape.

use super::formats::{self, Format, ScoreField};
use crate::data::dataset::PreferenceRecord;
use crate::data::record::Record;
use crate::data::row::Row;
use crate::error::{Error, Result};

/// The seed of `prepare`, so that both choose the same rejected answers.
const SEED: u64 = 1;

/// A row of `reward`: a [`PreferenceRecord`], or UltraFeedback's completions, of which the best is paired with a worse one.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRecord(pub PreferenceRecord);

impl Record for PairRecord {
    const FORM: &'static str = PreferenceRecord::FORM;
    const COLUMNS: &'static [&'static str] = formats::COLUMNS;
    const LEAVES_OUT: bool = true;

    fn from_row(row: &Row) -> Result<Self> {
        if !matches!(Format::of(row), Ok(Format::Ultrafeedback)) {
            return PreferenceRecord::from_row(row).map(Self);
        }
        let item = Format::Ultrafeedback.item(row, ScoreField::FineGrained, SEED)?;
        let pair = item.pairs.into_iter().next();
        let (chosen, rejected) =
            pair.ok_or_else(|| Error::unusable("no two completions have different scores"))?;
        Ok(Self(PreferenceRecord {
            id: row.id().unwrap_or_default(),
            prompt: item.prompt,
            chosen,
            rejected,
        }))
    }
}
