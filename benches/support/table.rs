//! Figures, as tables of Markdown.

/// A table, printed row by row: what was measured stands there even when the rest fails.
pub struct Table(Vec<usize>);

impl Table {
    /// Prints what the table is and its head; a column is as wide as its title.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        println!("\n{title}\n");
        let widths: Vec<usize> = columns.iter().map(|column| column.chars().count()).collect();
        println!("| {} |", columns.join(" | "));
        let lines: Vec<String> = widths.iter().enumerate().map(|(at, width)| line(at, *width)).collect();
        println!("|{}|", lines.join("|"));
        Self(widths)
    }

    /// Prints a row.
    pub fn row(&self, cells: &[String]) {
        let aligned = self.0.iter().zip(cells).enumerate().map(|(at, (width, cell))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("| {} |", aligned.collect::<Vec<_>>().join(" | "));
    }
}

/// The first column is text, the others are figures.
fn line(at: usize, width: usize) -> String {
    if at == 0 { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
}

/// The median; of an even number the upper one.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The median of each figure over rounds.
pub fn medians<const N: usize>(rounds: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|at| median(rounds.iter().map(|round| round[at]).collect()))
}
