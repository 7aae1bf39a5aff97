//! The same plots as SVG files.

use std::{
    io,
    path::{Path, PathBuf},
};

use plotters::prelude::*;

use super::plot::{Plot, Scale, short};

const SIZE: (u32, u32) = (900, 540);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(127, 127, 127)];

/// Why an SVG file was not written.
#[derive(Debug, thiserror::Error)]
pub enum SvgError {
    /// There are fewer than two points.
    #[error("there are too few points to draw {}: run longer", path.display())]
    TooFewPoints {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be written.
    #[error("cannot write {}: check that the folder exists and has room", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The drawing itself failed.
    #[error("cannot draw {}: {reason}", path.display())]
    Draw {
        /// The file.
        path: PathBuf,
        /// What the drawing library says.
        reason: String,
    },
}

/// Draws `plot` into the file `path`.
pub fn write(plot: &Plot, path: &Path) -> Result<(), SvgError> {
    let mut text = String::new();
    if plot.bounds().is_none() {
        return Err(SvgError::TooFewPoints { path: path.to_owned() });
    }
    draw(plot, &mut text).map_err(|reason| SvgError::Draw { path: path.to_owned(), reason })?;
    std::fs::write(path, text).map_err(|source| SvgError::Write { path: path.to_owned(), source })
}

fn draw(plot: &Plot, text: &mut String) -> Result<(), String> {
    let Some(bounds) = plot.bounds() else { return Ok(()) };
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| error.to_string())?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&plot.title, ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(bounds.x.0..bounds.x.1, bounds.y.0..bounds.y.1)
        .map_err(|error| error.to_string())?;
    let scale = plot.scale;
    chart
        .configure_mesh()
        .x_desc(&plot.x_label)
        .y_desc(&plot.y_label)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|height| match scale {
            Scale::Linear => short(*height),
            Scale::Logarithmic => short(libm::pow(10.0, *height)),
        })
        .light_line_style(WHITE)
        .draw()
        .map_err(|error| error.to_string())?;
    for (index, (name, points)) in plot.curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line = points
            .iter()
            .filter(|point| plot.is_drawable(**point))
            .map(|point| (point.x, plot.height(point.y)));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))
            .map_err(|error| error.to_string())?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| error.to_string())?;
    root.present().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Point;

    #[test]
    fn writes_a_file_with_curve_and_labels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        let points: Vec<Point> =
            (1..20).map(|x| Point { x: f64::from(x), y: f64::from(x * x) }).collect();
        let plot = Plot {
            title: "latency of push".into(),
            x_label: "nines".into(),
            y_label: "us".into(),
            scale: Scale::Logarithmic,
            curves: vec![("push".into(), points)],
        };
        write(&plot, &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg") && text.contains("latency of push"));
        assert!(text.contains("polyline"));
        let empty = Plot { curves: vec![], ..plot };
        assert!(matches!(write(&empty, &path), Err(SvgError::TooFewPoints { .. })));
    }
}
