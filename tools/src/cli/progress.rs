//! Progress on stderr; nothing is drawn where stderr is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for a known number of things.
pub(crate) fn bar(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = format!(
        "{{spinner}} {what} {{bar:32}} {{human_pos}}/{{human_len}} {{per_sec}} {{eta}} {{msg}}"
    );
    bar.set_style(style(&template));
    bar
}

/// A bar for a known number of bytes.
pub(crate) fn bytes(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    bar.set_style(style(&format!(
        "{{spinner}} {what} {{bar:32}} {{decimal_bytes}}/{{decimal_total_bytes}} \
         {{decimal_bytes_per_sec}} {{eta}}"
    )));
    bar
}

/// A spinner for work of unknown length.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(style(&format!(
        "{{spinner}} {what} {{human_pos}} {{per_sec}} {{elapsed}} {{msg}}"
    )));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
