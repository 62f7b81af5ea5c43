//! Evaluation: sampling and judging held-out prompts, best-of-n curves and their uncertainty over prompts.

pub mod best_of_n;
pub mod bootstrap;
pub mod checkpoint;
pub mod compare;
pub mod judge;
pub mod judging;
pub mod meta;
mod pairing;
pub mod record;
pub mod request;
pub mod results;
mod rewards;
pub mod run;
pub mod store;
pub mod weights;

pub use best_of_n::{BestOfN, Estimator, curve, extrapolated, grouped, powers_of_two, unbiased};
pub use bootstrap::{Bootstrap, Interval, WinTieLoss, win_tie_loss};
pub use store::{EvalMeta, Judge, StoredCompletion, StoredEval, StoredPrompt, read_rewards};
