//! Curves on the terminal, drawn with braille characters: each holds 2 x 4 dots.

use std::fmt::Write as _;

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Position to the right.
    pub x: f64,
    /// Position upwards.
    pub y: f64,
}

/// How the y axis grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps for equal differences.
    Linear,
    /// Equal steps for equal factors; all values are above 0.
    Logarithmic,
}

/// A named curve with axes; drawn by [`Plot::render`] and by [`super::svg::write`].
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Above the plot.
    pub title: String,
    /// Below the x axis.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// How y grows.
    pub scale: Scale,
    /// Named curves. The first is the result; the others are what it is compared with.
    pub curves: Vec<(String, Vec<Point>)>,
}

/// Region of the plane that holds all finite points of some curves, never empty on either side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
}

const AXIS_WIDTH: usize = 10;

impl Plot {
    /// The plot as lines of text, `columns` x `rows` characters besides title and axes. Without two
    /// finite points it says so instead.
    #[must_use]
    pub fn render(&self, columns: usize, rows: usize) -> String {
        let mut text = format!("{} ({})\n", self.title, self.y_label);
        let Some(bounds) = self.bounds() else {
            text.push_str("  (too few points to draw)\n");
            return text;
        };
        let mut canvas = Canvas::new(columns, rows);
        for (_, points) in &self.curves {
            let dots: Vec<(f64, f64)> = points
                .iter()
                .filter(|point| self.is_drawable(**point))
                .map(|point| {
                    (fraction(point.x, bounds.x), fraction(self.height(point.y), bounds.y))
                })
                .collect();
            canvas.curve(&dots);
        }
        for (row, line) in canvas.lines().enumerate() {
            let share = 1.0 - to_f64(row) / to_f64(rows.max(2) - 1);
            let is_labelled = row % 4 == 0 || row + 1 == rows;
            let label = if is_labelled { self.y_at(share, bounds) } else { String::new() };
            let _ = writeln!(text, "{label:>AXIS_WIDTH$} \u{2502}{line}");
        }
        let _ = writeln!(text, "{:>AXIS_WIDTH$} \u{2514}{}", "", "\u{2500}".repeat(columns));
        let (low, high) = (short(bounds.x.0), short(bounds.x.1));
        let room = columns.saturating_sub(low.len() + high.len());
        let _ = writeln!(text, "{:>AXIS_WIDTH$}  {low}{:^room$}{high}", "", self.x_label);
        if self.curves.len() > 1 {
            for (name, points) in &self.curves {
                let last = points.last().map_or_else(String::new, |point| short(point.y));
                let _ = writeln!(text, "{:>AXIS_WIDTH$}  {name}: {last} at the end", "");
            }
        }
        text
    }

    /// Where the drawable points lie, y by the scale; `None` with fewer than two.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        let points: Vec<Point> = self
            .curves
            .iter()
            .flat_map(|(_, points)| points)
            .copied()
            .filter(|point| self.is_drawable(*point))
            .collect();
        if points.len() < 2 {
            return None;
        }
        Some(Bounds {
            x: span(points.iter().map(|point| point.x)),
            y: span(points.iter().map(|point| self.height(point.y))),
        })
    }

    pub(super) fn is_drawable(&self, point: Point) -> bool {
        point.x.is_finite() && point.y.is_finite() && (self.scale == Scale::Linear || point.y > 0.0)
    }

    pub(super) fn height(&self, y: f64) -> f64 {
        match self.scale {
            Scale::Linear => y,
            Scale::Logarithmic => libm::log10(y),
        }
    }

    fn y_at(&self, share: f64, bounds: Bounds) -> String {
        let height = bounds.y.0 + share * (bounds.y.1 - bounds.y.0);
        short(match self.scale {
            Scale::Linear => height,
            Scale::Logarithmic => libm::pow(10.0, height),
        })
    }
}

struct Canvas {
    columns: usize,
    rows: usize,
    cells: Vec<u8>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Self {
        Self { columns, rows, cells: vec![0; columns * rows] }
    }

    /// Joins points given in fractions of the canvas, from the lower left corner.
    fn curve(&mut self, points: &[(f64, f64)]) {
        let steps = 4 * (self.columns + self.rows);
        for pair in points.windows(2) {
            for step in 0..=steps {
                let share = to_f64(step) / to_f64(steps);
                let mix = |from: f64, to: f64| from + share * (to - from);
                self.dot(mix(pair[0].0, pair[1].0), mix(pair[0].1, pair[1].1));
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    fn dot(&mut self, x: f64, y: f64) {
        let (width, height) = (2 * self.columns, 4 * self.rows);
        let column = (x.clamp(0.0, 1.0) * to_f64(width - 1)).round() as usize;
        let row = ((1.0 - y.clamp(0.0, 1.0)) * to_f64(height - 1)).round() as usize;
        // Unicode numbers the dots of a braille cell down the left column, down the right one, and
        // then the two of the fourth row.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        self.cells[(row / 4) * self.columns + column / 2] |= BITS[row % 4][column % 2];
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        self.cells.chunks(self.columns).map(|cells| {
            cells
                .iter()
                .map(|&dots| {
                    if dots == 0 {
                        ' '
                    } else {
                        char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ')
                    }
                })
                .collect()
        })
    }
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low < high {
        return (low, high);
    }
    let margin = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
    (low - margin, high + margin)
}

fn fraction(value: f64, (low, high): (f64, f64)) -> f64 {
    (value - low) / (high - low)
}

/// A number in at most nine characters.
pub(super) fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-3..1e6).contains(&magnitude) {
        format!("{value:.1e}")
    } else if magnitude >= 1000.0 || (value == value.trunc() && magnitude >= 10.0) {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of a terminal")]
fn to_f64(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<Point>, scale: Scale) -> Plot {
        Plot {
            title: "convergence".into(),
            x_label: "examples".into(),
            y_label: "AUC".into(),
            scale,
            curves: vec![("train".into(), points)],
        }
    }

    #[test]
    fn a_rising_line_goes_from_lower_left_to_upper_right() {
        let points = vec![Point { x: 0.0, y: 0.0 }, Point { x: 10.0, y: 5.0 }];
        let text = plot(points, Scale::Linear).render(20, 5);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 5 + 2);
        assert!(lines[1].ends_with('\u{2809}') || !lines[1].ends_with(' '), "{text}");
        assert!(lines[5].contains("\u{2502}\u{2840}") || !lines[5].contains("\u{2502} "), "{text}");
        assert!(lines[1].trim_start().starts_with("5.000"));
    }

    #[test]
    fn odd_inputs_do_not_panic() {
        for points in [
            vec![],
            vec![Point { x: 1.0, y: 1.0 }],
            vec![Point { x: 1.0, y: f64::NAN }, Point { x: 2.0, y: 1.0 }],
        ] {
            assert!(plot(points, Scale::Linear).render(10, 3).contains("too few"));
        }
        let flat = vec![Point { x: 1.0, y: 0.0 }, Point { x: 1.0, y: 0.0 }];
        assert!(!plot(flat.clone(), Scale::Linear).render(10, 3).contains("too few"));
        assert!(plot(flat, Scale::Logarithmic).render(10, 1).contains("too few"));
        let one_row = vec![Point { x: 1.0, y: 1.0 }, Point { x: 2.0, y: 1e9 }];
        assert!(plot(one_row, Scale::Logarithmic).render(1, 1).contains("examples"));
    }
}
