//! Tables for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A text in lines of about `width` letters, broken at blanks; a longer word has a line of its own.
pub(crate) fn wrapped(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= width) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// A table with a header; the columns in `right` hold numbers.
pub(crate) fn table<const N: usize>(header: [&str; N], right: &[usize], rows: &[[String; N]]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for &index in right {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_breaks_at_blanks_and_a_long_word_stays_whole() {
        assert_eq!(wrapped("one two  three", 8), "one two\nthree");
        assert_eq!(wrapped("https://example.com/a/b x", 8), "https://example.com/a/b\nx");
        assert_eq!(wrapped("", 8), "");
    }
}
