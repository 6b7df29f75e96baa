//! Figures as a table on the terminal.

/// Prints rows under their headings, columns as wide as they need to be; numbers stand right.
pub(super) fn print(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| {
            let is_number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '<');
            if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(headings.to_vec());
    println!("{}", widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("  "));
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}
