//! What rules ask of Rust code. The code is read as text, laid out as rustfmt does: an item ends at the
//! brace that stands as deep as its first line.

/// A function, structure or implementation, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'text> {
    /// Its name; of an implementation the type's.
    pub name: &'text str,
    /// The index of its first line.
    pub first: usize,
    /// How many lines it has, the first and the closing brace among them.
    pub lines: usize,
}

/// Functions with a body.
#[must_use]
pub fn functions(text: &str) -> Vec<Item<'_>> {
    items(text, |line| {
        let rest = after_qualifiers(line.trim_start()).strip_prefix("fn ")?;
        rest.split(['(', '<']).next()
    })
}

/// Implementations, of traits too.
#[must_use]
pub fn implementations(text: &str) -> Vec<Item<'_>> {
    items(text, |line| {
        let rest = line.trim_start().strip_prefix("unsafe ").unwrap_or(line.trim_start());
        let rest = skip_generics(rest.strip_prefix("impl")?);
        let of = rest.split(" for ").last()?.trim_start_matches(['&', ' ']);
        let name = of.split(['<', ' ', '{']).next()?;
        name.rsplit("::").next().filter(|name| !name.is_empty())
    })
}

/// Structures with named fields, each with the number of its fields.
#[must_use]
pub fn structures(text: &str) -> Vec<(Item<'_>, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let found = items(text, |line| {
        let rest = after_qualifiers(line.trim_start()).strip_prefix("struct ")?;
        rest.split(['<', ' ', '(', ';', '{']).next()
    });
    let count = |item: &Item<'_>| {
        let depth = indent(lines[item.first]) + 4;
        let body = &lines[item.first + 1..item.first + item.lines - 1];
        body.iter().filter(|line| indent(line) == depth && is_field(line.trim_start())).count()
    };
    found.into_iter().map(|item| (item, count(&item))).collect()
}

fn is_field(line: &str) -> bool {
    let name = after_qualifiers(line).split(':').next().unwrap_or_default();
    line.contains(':')
        && !name.is_empty()
        && name.chars().all(|character| character.is_alphanumeric() || character == '_')
}

fn items<'text>(
    text: &'text str,
    name_of: impl Fn(&'text str) -> Option<&'text str>,
) -> Vec<Item<'text>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = name_of(line) else { continue };
        if line.ends_with(';') || line.ends_with('}') {
            continue;
        }
        let depth = indent(line);
        let end = lines[first + 1..].iter().position(|line| {
            indent(line) == depth && matches!(line.trim_start().chars().next(), Some('}'))
        });
        if let Some(end) = end {
            found.push(Item { name, first, lines: end + 2 });
        }
    }
    found
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// What follows visibility and words such as `const`.
fn after_qualifiers(line: &str) -> &str {
    let mut rest = line;
    loop {
        let next = ["pub ", "const ", "async ", "unsafe ", "extern \"C\" "]
            .iter()
            .find_map(|word| rest.strip_prefix(word))
            .or_else(|| rest.strip_prefix("pub(")?.split_once(") ").map(|(_, rest)| rest));
        match next {
            Some(next) => rest = next,
            None => return rest,
        }
    }
}

fn skip_generics(text: &str) -> &str {
    if !text.starts_with('<') {
        return text;
    }
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '<' => depth += 1,
            '>' if !text[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[at + 1..];
        }
    }
    text
}

/// Whether a line of code begins an unsafe block or implementation. Function types and
/// declarations (`unsafe fn`) are the compiler's business: it asks for a `# Safety` section.
#[must_use]
pub fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let mut rest = code;
    while let Some(start) = rest.find("unsafe") {
        let before = rest[..start].chars().next_back();
        let after = &rest[start + "unsafe".len()..];
        let is_word = !before
            .is_some_and(|character| character.is_alphanumeric() || "_\"".contains(character));
        let next = after.trim_start();
        if is_word
            && (next.starts_with('{')
                || next.starts_with("impl")
                || next.starts_with("extern") && !next.contains(" fn"))
        {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether a SAFETY comment belongs to the line: on it, or in the comment above the statement it is
/// part of.
#[must_use]
pub fn is_justified(lines: &[&str], index: usize) -> bool {
    const STATEMENT_LINES_MAX: usize = 6;
    if lines[index].contains("SAFETY") {
        return true;
    }
    let mut code_lines = 0;
    for line in lines[..index].iter().rev() {
        let line = line.trim_start();
        if line.contains("SAFETY") {
            return true;
        }
        if !line.starts_with("//") && !line.starts_with("#[") {
            code_lines += 1;
            if code_lines > STATEMENT_LINES_MAX {
                return false;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "\
pub(crate) struct Pair<T> {
    /// One: the first.
    pub one: T,
    two: [u8; 4],
}

impl<T: Fn() -> u8> Pair<T> {
    pub const fn both(
        &self,
    ) -> u8 {
        let inner = || {
            1
        };
        inner()
    }
}

impl<T> fmt::Display for super::Pair<T> {
    fn fmt(&self) {}
}
";

    #[test]
    fn items_end_at_the_brace_as_deep_as_their_first_line() {
        assert_eq!(functions(CODE), [Item { name: "both", first: 7, lines: 8 }]);
    }

    #[test]
    fn implementations_are_those_of_the_type() {
        let names: Vec<_> = implementations(CODE).iter().map(|item| item.name).collect();
        assert_eq!(names, ["Pair", "Pair"]);
    }

    #[test]
    fn comments_are_no_fields() {
        let found = structures(CODE);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, 2);
    }
}
