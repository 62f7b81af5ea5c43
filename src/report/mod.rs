//! What a run leaves for people: metrics, tables, plots, a progress line.

mod axis;
pub mod console;
mod draw;
pub mod logger;
pub mod metrics;
pub mod plot;
pub mod progress;
pub mod table;

pub use axis::XScale;
pub use metrics::{MetricsWriter, Record, column, read_metrics};
pub use plot::{Plot, PlotPoint, Series};
pub use progress::Progress;
pub use table::{Align, Cell, Format, Table};
