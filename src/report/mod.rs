//! What a run leaves for people: metrics, tables, plots, a progress line.

pub mod metrics;
pub mod plot;
pub mod progress;
pub mod table;

pub use metrics::{MetricsWriter, Record, read_metrics};
pub use plot::{Plot, PlotPoint, Series, XScale};
pub use progress::Progress;
pub use table::{Align, Cell, Format, Table};
