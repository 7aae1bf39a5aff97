//! Tables on the terminal.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// A table with a header; the first column is text, the others are numbers and align right.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(cells(header.iter().map(|text| (*text).to_owned())));
    for row in rows {
        table.add_row(cells(row.iter().cloned()));
    }
    table.to_string()
}

/// Names and values in two columns, without a header.
#[must_use]
pub fn facts(rows: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in rows {
        table.add_row(vec![Cell::new(name), Cell::new(value)]);
    }
    table.to_string()
}

fn cells(texts: impl Iterator<Item = String>) -> Vec<Cell> {
    texts
        .enumerate()
        .map(|(index, text)| {
            let alignment = if index == 0 { CellAlignment::Left } else { CellAlignment::Right };
            Cell::new(text).set_alignment(alignment)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(
            &["name", "rows"],
            &[vec!["a".into(), "1".into()], vec!["embedding".into(), "1000".into()]],
        );
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{text}");
        assert!(text.contains("embedding") && text.contains("1000"));
        assert!(facts(&[("AUC", "0.74".into())]).contains("AUC"));
    }
}
