//! A line chart as SVG: axes with round numbers, lines that a legend names, and a word on each point for
//! whoever holds the pointer over it. Colours are the page's, by class.

use std::fmt::Write as _;

/// Some lines over one axis.
#[derive(Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// What the vertical axis counts.
    pub(super) unit: &'a str,
    /// What the horizontal one does.
    pub(super) along: &'a str,
    pub(super) scale: Scale,
    pub(super) lines: Vec<Line<'a>>,
    /// Places on the horizontal axis with their names; none for round numbers.
    pub(super) places: Vec<(f64, String)>,
}

/// How the vertical axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten.
    Log,
}

/// One line. Where there is no value, it is broken.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    /// Its colour: "one", "two" or "quiet".
    pub(super) class: &'a str,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

const WIDTH: f64 = 660.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = HEIGHT - 40.0;

/// Most points of a line that say what they are.
const MOST_WORDS: usize = 400;

impl Chart<'_> {
    /// The figure with its heading and legend.
    pub(super) fn html(&self) -> String {
        let mut out =
            format!("<figure><figcaption><b>{}</b> <span>{}</span>", self.title, self.unit);
        for Line { name, class, .. } in &self.lines {
            let _ = write!(out, "<i class=\"key {class}\">{name}</i>");
        }
        let _ = write!(
            out,
            "</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            self.title
        );
        let frame = self.frame();
        out += &self.axes(&frame);
        for line in &self.lines {
            out += &draw(line, &frame);
        }
        out + "</svg></figure>"
    }

    /// From the values to the place on the page.
    fn frame(&self) -> Frame {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let fold = |values: &mut dyn Iterator<Item = f64>| {
            values.fold(None, |bounds: Option<(f64, f64)>, value| match bounds {
                None => Some((value, value)),
                Some((least, most)) => Some((least.min(value), most.max(value))),
            })
        };
        let x = fold(&mut points().map(|(x, _)| *x)).unwrap_or((0.0, 1.0));
        let y = fold(
            &mut points()
                .filter_map(|(_, y)| *y)
                .filter(|y| self.scale == Scale::Linear || *y > 0.0),
        );
        let y = match (self.scale, y) {
            (Scale::Linear, y) => {
                let most = y.map_or(1.0, |(_, most)| most);
                let step = round_step(most);
                // Nothing at all still has a one above it.
                (0.0, if most > 0.0 { (most / step).ceil() * step } else { 1.0 })
            }
            (Scale::Log, None) => (0.0, 1.0),
            (Scale::Log, Some((least, most))) => {
                let (floor, ceiling) = (least.log10().floor(), most.log10().ceil());
                (floor, ceiling.max(floor + 1.0))
            }
        };
        Frame { x: (x.0, if x.1 > x.0 { x.1 } else { x.0 + 1.0 }), y, scale: self.scale }
    }

    fn axes(&self, frame: &Frame) -> String {
        let mut out = String::new();
        for value in self.levels(frame) {
            let y = frame.y(value).unwrap_or(BOTTOM);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 7.0,
                y + 4.0,
                number(value)
            );
        }
        let round = || {
            let step = round_step(frame.x.1 - frame.x.0);
            let first = (frame.x.0 / step).ceil();
            (0..20)
                .map(|place| (first + f64::from(place)) * step)
                .take_while(|x| *x <= frame.x.1 * (1.0 + 1e-9))
                .map(|x| (x, number(x)))
                .collect()
        };
        let places = if self.places.is_empty() { round() } else { self.places.clone() };
        for (place, name) in places {
            let x = frame.x(place);
            // A long name at the edge would be cut off in the middle.
            let at_edge = x > RIGHT - 1.0 && name.len() > 7;
            let anchor = if at_edge { "end" } else { "middle" };
            let (name_x, name_y) = (if at_edge { WIDTH } else { x }, BOTTOM + 17.0);
            let _ = write!(
                out,
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{:.1}\"/>\
                 <text x=\"{name_x:.1}\" y=\"{name_y:.1}\" text-anchor=\"{anchor}\">{name}</text>",
                BOTTOM + 4.0,
            );
        }
        let (x, y) = ((LEFT + RIGHT) / 2.0, HEIGHT - 6.0);
        out + &format!(
            "<text class=\"along\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
            self.along
        )
    }

    fn levels(&self, frame: &Frame) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_step(frame.y.1);
                (0..20)
                    .map(|n| f64::from(n) * step)
                    .take_while(|y| *y <= frame.y.1 * 1.001)
                    .collect()
            }
            Scale::Log => {
                let decades = (0..20).map(|n| frame.y.0 + f64::from(n));
                decades
                    .take_while(|power| *power <= frame.y.1)
                    .map(|power| 10_f64.powf(power))
                    .collect()
            }
        }
    }
}

/// Bounds of the values; of a logarithmic axis, those of the powers.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    scale: Scale,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> Option<f64> {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log if value > 0.0 => value.log10(),
            Scale::Log => return None,
        };
        Some(BOTTOM - (value - self.y.0) / (self.y.1 - self.y.0) * (BOTTOM - TOP))
    }
}

fn draw(line: &Line<'_>, frame: &Frame) -> String {
    let Line { name, class, points } = line;
    let (mut path, mut words, mut broken) = (String::new(), String::new(), true);
    for (x, value) in points {
        let Some((value, y)) = value.and_then(|value| Some((value, frame.y(value)?))) else {
            broken = true;
            continue;
        };
        let px = frame.x(*x);
        let _ = write!(path, "{}{px:.1} {y:.1}", if broken { 'M' } else { 'L' });
        broken = false;
        if points.len() <= MOST_WORDS {
            let value = number(value);
            let _ = write!(
                words,
                "<circle cx=\"{px:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{name}: {value}</title></circle>"
            );
        }
    }
    // A line of a single point is a dot, by its round end.
    format!("<path class=\"line {class}\" d=\"{path}\"/><g class=\"words\">{words}</g>")
}

/// A step of one, two or five that divides `span` into some four to nine parts.
fn round_step(span: f64) -> f64 {
    let rough = span.max(1e-9) / 6.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough);
    step.unwrap_or(10.0) * power
}

/// A number with as many digits as one can read.
pub(super) fn number(value: f64) -> String {
    let short = |value: f64, unit: &str| {
        let text = format!("{value:.2}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match value.abs() {
        size if size >= 1e6 => short(value / 1e6, " M"),
        size if size >= 1e4 => short(value / 1e3, " k"),
        size if size >= 1e3 => format!("{value:.0}"),
        size if size >= 0.1 || size == 0.0 => short(value, ""),
        _ => format!("{}", (value * 1e4).round() / 1e4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_the_values_every_point_is_within_the_picture(
            values in proptest::collection::vec(proptest::option::of(0.0..1e9_f64), 0..50), log: bool,
        ) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            let points: Vec<_> = (0..).map(f64::from).zip(values).collect();
            let lines = vec![Line { name: "a", class: "one", points: points.clone() }];
            let chart =
                Chart { title: "t", unit: "u", along: "s", scale, lines, places: Vec::new() };
            let frame = chart.frame();
            for (x, value) in points {
                let y = value.and_then(|value| frame.y(value));
                prop_assert!((LEFT..=RIGHT).contains(&frame.x(x)));
                prop_assert!(y.is_none_or(|y| (TOP - 1e-6..=BOTTOM + 1e-6).contains(&y)));
            }
            let html = chart.html();
            prop_assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.001, "0.001"),
            (0.25, "0.25"),
            (12.0, "12"),
            (1_284.06, "1284"),
            (20_000.0, "20 k"),
            (1.5e6, "1.5 M"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
