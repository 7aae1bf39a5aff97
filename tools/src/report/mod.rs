//! How results are shown: JSON whose keys are an interface, tables and plots on the terminal, SVG
//! files, and latency histograms.

pub mod latency;
pub mod plot;
pub mod results;
pub mod svg;
pub mod table;
pub mod units;

pub use latency::Latency;
pub use plot::{Plot, Point, Scale};
pub use results::{BenchResult, DemoResult, LogResult, TrainResult};
