//! Figures with their goals, as text for a terminal and as Markdown for docs/.

use std::fmt::Write;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What was measured.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// Its unit, such as `×` or `ms`.
    pub unit: &'static str,
    /// The most that the figure may be.
    pub goal: Option<f64>,
    /// What the figure was made from.
    pub from: String,
}

/// Figures without goals, side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// Cells, as many per row as the header has.
    pub rows: Vec<Vec<String>>,
}

/// All that a benchmark found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// When, where and how it was measured.
    pub facts: Vec<String>,
    /// Figures with goals.
    pub lines: Vec<Line>,
    /// Figures without.
    pub tables: Vec<Table>,
}

// === impl Line ===

impl Line {
    /// A figure without a goal.
    #[must_use]
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str, from: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            goal: None,
            from: from.into(),
        }
    }

    /// Sets the most that the figure may be.
    #[must_use]
    pub fn at_most(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    /// Whether the goal is met; `None` without one.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| self.value <= goal)
    }

    fn cells(&self) -> Vec<String> {
        let with_unit = |value: f64| format!("{} {}", number(value), self.unit).trim_end().to_owned();
        let verdict = match self.is_met() {
            None => "",
            Some(true) => "met",
            Some(false) => "missed",
        };
        vec![
            self.what.clone(),
            with_unit(self.value),
            self.goal
                .map(|goal| format!("≤ {}", with_unit(goal)))
                .unwrap_or_default(),
            verdict.to_owned(),
            self.from.clone(),
        ]
    }
}

// === impl Report ===

impl Report {
    /// The figures with goals, as a table.
    fn figures(&self) -> Table {
        Table {
            title: String::new(),
            header: ["figure", "measured", "goal", "verdict", "from"]
                .map(str::to_owned)
                .to_vec(),
            rows: self.lines.iter().map(Line::cells).collect(),
        }
    }

    /// How many goals are met, and how many there are.
    #[must_use]
    pub fn score(&self) -> (usize, usize) {
        let verdicts: Vec<bool> = self.lines.iter().filter_map(Line::is_met).collect();
        (verdicts.iter().filter(|&&met| met).count(), verdicts.len())
    }

    /// For a terminal: columns are aligned.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("\n{}\n", self.title);
        for fact in &self.facts {
            let _ = writeln!(text, "  {fact}");
        }
        for table in std::iter::once(&self.figures()).chain(&self.tables) {
            text.push('\n');
            text.push_str(&table.text());
        }
        let (met, all) = self.score();
        let _ = writeln!(text, "\n{met} of {all} goals are met");
        text
    }

    /// For docs/.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.title);
        for fact in &self.facts {
            let _ = writeln!(text, "- {fact}");
        }
        let (met, all) = self.score();
        let _ = writeln!(text, "- {met} of {all} goals are met");
        for table in std::iter::once(&self.figures()).chain(&self.tables) {
            text.push('\n');
            text.push_str(&table.markdown());
        }
        text
    }
}

// === impl Table ===

impl Table {
    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = std::iter::once(&self.header)
                .chain(&self.rows)
                .filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            format!("{}\n", cells.join("  ").trim_end())
        };
        let title = if self.title.is_empty() {
            String::new()
        } else {
            format!("{}\n", self.title)
        };
        let rule = widths.iter().map(|&width| "-".repeat(width)).collect();
        title + &line(&self.header) + &line(&rule) + &self.rows.iter().map(line).collect::<String>()
    }

    /// For docs/.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let title = if self.title.is_empty() {
            String::new()
        } else {
            format!("## {}\n\n", self.title)
        };
        let rule = vec!["---".to_owned(); self.header.len()];
        title + &line(&self.header) + &line(&rule) + &self.rows.iter().map(line).collect::<String>()
    }
}

/// Three digits are enough for any figure; small counts stay whole.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_report() -> Report {
        let ratio = Line::new("burst", 1.204, "×", "a|b").at_most(1.1);
        let count = Line::new("events", 0.0, "", "none").at_most(0.0);
        Report {
            title: "T".to_owned(),
            facts: vec!["today".to_owned()],
            lines: vec![ratio, count, Line::new("memory", 31.25, "MB", "")],
            tables: Vec::new(),
        }
    }

    #[test]
    fn a_figure_above_its_goal_is_missed_and_one_without_a_goal_has_no_verdict() {
        let report = mk_report();
        let verdicts: Vec<_> = report.lines.iter().map(Line::is_met).collect();
        assert_eq!(verdicts, [Some(false), Some(true), None]);
        assert_eq!(report.score(), (1, 2));
    }

    #[test]
    fn markdown_has_a_row_per_figure_and_escapes_bars() {
        let markdown = mk_report().markdown();
        assert!(
            markdown.contains("| burst | 1.20 × | ≤ 1.10 × | missed | a\\|b |\n"),
            "{markdown}"
        );
        assert!(
            markdown.contains("| events | 0 | ≤ 0 | met | none |\n"),
            "{markdown}"
        );
        assert!(
            markdown.contains("- today\n- 1 of 2 goals are met\n"),
            "{markdown}"
        );
    }

    #[test]
    fn text_aligns_columns() {
        let text = mk_report().text();
        let column = |word: &str| {
            let line = text.lines().find(|line| line.starts_with(word)).unwrap();
            line.chars().collect::<Vec<_>>()[..]
                .iter()
                .position(|c| c.is_ascii_digit())
        };
        assert_eq!(column("burst"), column("memory"));
    }
}
