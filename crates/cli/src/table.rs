//! Tables in a terminal.

/// Space between columns, as kubectl's.
const GAP: usize = 3;

/// Lays out rows under a head; every row has as many cells as the head.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[&str]| {
        let padded: String = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<column$}", column = width + GAP))
            .collect();
        padded.trim_end().to_owned() + "\n"
    };
    let body = rows.iter().map(|row| line(&row.each_ref().map(String::as_str)));
    std::iter::once(line(&head)).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["alpha".to_owned(), "1".to_owned()],
            ["ä".to_owned(), String::new()],
        ];
        assert_eq!(table(["ID", "N"], &rows), "ID      N\nalpha   1\nä\n");
    }
}
