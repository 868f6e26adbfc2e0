//! Charts of the last minutes, drawn by the server as SVG.

use super::text;

/// The coordinates of the drawing; the style sheet stretches it.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// A chart, ready for its template.
pub(crate) struct Chart {
    /// The title.
    pub(crate) title: String,
    /// The id of its element.
    pub(crate) id: &'static str,
    /// Whether there is nothing to show.
    pub(crate) empty: bool,
    /// The labels of the axis, from top to bottom.
    pub(crate) axis: [String; 3],
    /// How long ago the chart begins.
    pub(crate) since: String,
    /// Its curves.
    pub(crate) curves: Vec<Curve>,
}

/// One curve of a chart.
pub(crate) struct Curve {
    /// The CSS class with its colour.
    pub(crate) class: &'static str,
    /// What it shows.
    pub(crate) name: &'static str,
    /// Its last known value.
    pub(crate) now: String,
    /// The line, as the `d` of an SVG path.
    pub(crate) line: String,
    /// The area below the line; empty for all but the first curve.
    pub(crate) area: String,
}

/// What a curve is drawn from: its value at each time; `None` if it is not known.
pub(crate) struct Series {
    pub(crate) class: &'static str,
    pub(crate) name: &'static str,
    pub(crate) values: Vec<Option<f64>>,
}

impl Chart {
    /// Draws curves. `ages` are the times of the values, in seconds before now, the oldest first. `span`
    /// is how far back the chart goes, in seconds. `label` formats a value.
    pub(crate) fn draw(
        (title, id): (&str, &'static str),
        ages: &[f64],
        span: f64,
        series: Vec<Series>,
        label: fn(f64) -> String,
    ) -> Self {
        let known = series
            .iter()
            .flat_map(|series| series.values.iter().flatten());
        let top = ceiling(
            known
                .copied()
                .filter(|value| value.is_finite())
                .fold(0.0, f64::max),
        );
        let curves = series.into_iter().enumerate().map(|(at, series)| {
            let (line, area) = path(ages, span, &series.values, top);
            let now = series.values.iter().rev().find_map(|value| *value);
            Curve {
                class: series.class,
                name: series.name,
                now: now.map_or_else(|| "-".to_owned(), label),
                line,
                area: if at == 0 { area } else { String::new() },
            }
        });
        let curves: Vec<_> = curves.collect();
        Self {
            title: title.to_owned(),
            id,
            empty: curves.iter().all(|curve| curve.line.is_empty()),
            axis: [top, top / 2.0, 0.0].map(label),
            since: text::span(std::time::Duration::from_secs_f64(span.max(0.0))),
            curves,
        }
    }
}

/// The next round number that is not smaller: 1, 2, 5, 10, 20 and so on.
fn ceiling(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let magnitude = 10_f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors
        .into_iter()
        .find(|factor| factor * magnitude >= value);
    factor.unwrap_or(10.0) * magnitude
}

/// The line through the values and the area below it, both with gaps where a value is not known.
fn path(ages: &[f64], span: f64, values: &[Option<f64>], top: f64) -> (String, String) {
    use std::fmt::Write as _;

    let (mut line, mut area) = (String::new(), String::new());
    let mut last = None;
    for (age, value) in ages.iter().zip(values) {
        let x = WIDTH * (1.0 - age / span);
        let Some(value) = value.filter(|value| value.is_finite()) else {
            close(&mut area, last.take());
            continue;
        };
        let y = HEIGHT * (1.0 - value / top);
        // Writing to a `String` does not fail.
        if last.is_none() {
            let _ = write!(line, "M{x:.1} {y:.1}");
            let _ = write!(area, "M{x:.1} {HEIGHT}L{x:.1} {y:.1}");
        } else {
            let _ = write!(line, "L{x:.1} {y:.1}");
            let _ = write!(area, "L{x:.1} {y:.1}");
        }
        last = Some(x);
    }
    close(&mut area, last);
    (line, area)
}

fn close(area: &mut String, last: Option<f64>) {
    use std::fmt::Write as _;

    if let Some(x) = last {
        let _ = write!(area, "L{x:.1} {HEIGHT}Z");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number() {
        let tops = [0.0, f64::NAN, 0.3, 1.0, 1.1, 2.5, 700.0, 1_000.0].map(ceiling);
        assert_eq!(
            tops.map(text::brief),
            ["1", "1", "0.50", "1", "2", "5", "1.0k", "1.0k"]
        );
    }

    #[test]
    fn a_curve_has_a_gap_where_nothing_is_known() {
        let series = Series {
            class: "series-1",
            name: "depth",
            values: vec![Some(0.0), Some(10.0), None, Some(5.0), Some(f64::INFINITY)],
        };
        let chart = Chart::draw(
            ("Depth", "depth"),
            &[4.0, 3.0, 2.0, 1.0, 0.0],
            4.0,
            vec![series],
            text::brief,
        );
        assert_eq!(chart.axis, ["10", "5", "0"]);
        assert_eq!(chart.curves[0].line, "M0.0 100.0L150.0 0.0M450.0 50.0");
        assert_eq!(
            chart.curves[0].area,
            "M0.0 100L0.0 100.0L150.0 0.0L150.0 100ZM450.0 100L450.0 50.0L450.0 100Z"
        );
    }

    #[test]
    fn a_chart_of_nothing_says_so() {
        let series = Series {
            class: "series-1",
            name: "depth",
            values: vec![None],
        };
        let chart = Chart::draw(("Depth", "depth"), &[0.0], 600.0, vec![series], text::brief);
        assert!(chart.empty);
        assert_eq!(
            (chart.curves[0].now.as_str(), chart.since.as_str()),
            ("-", "10 min")
        );
    }
}
