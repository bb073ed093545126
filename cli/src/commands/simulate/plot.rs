//! A picture of a scenario: latency, share and cost over time, a line for each policy, faults and bursts shaded and named.

use std::time::Duration;

use plotters::{
    chart::{ChartBuilder, LabelAreaPosition},
    coord::{
        Shift,
        combinators::BindKeyPoints,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    prelude::{
        Cartesian2d, DrawingArea, IntoDrawingArea, IntoFont, IntoLogRange, PathElement, Ranged, Rectangle,
        SVGBackend, Text,
    },
    series::LineSeries,
    style::{Color, RGBColor, ShapeStyle, WHITE},
};
use routing_lab::{Outcome, Policy, Scenario, Step};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (1_100, 1_200);
const LEGEND_HEIGHT: u32 = 34;
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(224, 224, 224);
/// The colour of shaded spans.
const SHADE: RGBColor = RGBColor(214, 39, 40);
/// Where a logarithmic axis has its ticks.
const TICKS: [f64; 10] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// Draws all of it; gives the SVG.
pub(super) fn plot(scenario: &Scenario, outcomes: &[Outcome]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let title = format!("{}: {}", scenario.name, scenario.about);
        let root = root.titled(&shortened(&title, 140), (FONT, 15))?;
        let (strip, root) = root.split_vertically(LEGEND_HEIGHT);
        legend(&strip, outcomes)?;
        let panels = root.split_evenly((3, 1));
        let plot = Plot { scenario, outcomes, end: scenario.duration.as_secs_f64() / 60.0 };
        let (least, most) = plot.extent(latency).unwrap_or((1.0, 1.0));
        let (floor, roof) = ((least * 0.8).clamp(0.05, 10.0), (most * 1.5).clamp(2.0, 150.0));
        let ticks = TICKS.into_iter().filter(|tick| (floor..=roof).contains(tick)).collect::<Vec<_>>();
        let seconds = (floor..roof).log_scale().with_key_points(ticks);
        let titles = ("95th percentile of latency, from arrival to end (log scale)", "seconds");
        plot.panel(&panels[0], titles, seconds, (floor, roof), latency)?;
        let titles = ("share of jobs at the baseline's providers", "percent");
        // The axis goes on above 100 %, for the names of faults, and has no tick there.
        plot.panel(&panels[1], titles, 0.0..109.9, (0.0, 109.9), share)?;
        let roof = plot.extent(cost).map_or(0.1, |(_, most)| most).clamp(0.05, 10.0) * 1.25;
        let titles = ("cost of attempts, idle containers left out", "$ per 1,000 jobs");
        plot.panel(&panels[2], titles, 0.0..roof, (0.0, roof), cost)?;
        root.present()?;
    }
    Ok(svg)
}

/// The legend, in a strip of its own so that it hides no line.
fn legend(strip: &Area<'_>, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut x = 60;
    for outcome in outcomes {
        let name = outcome.policy.as_str();
        strip.draw(&PathElement::new([(x, 16), (x + 26, 16)], stroke(outcome.policy)))?;
        strip.draw(&Text::new(name, (x + 32, 10), (FONT, 13)))?;
        // Letters of this size are up to 8 pixels wide.
        x += 54 + 8 * i32::try_from(name.len()).unwrap_or(0);
    }
    strip.draw(&Rectangle::new([(x, 8), (x + 26, 24)], SHADE.mix(0.10).filled()))?;
    strip.draw(&Text::new("fault or burst", (x + 32, 10), (FONT, 13)))?;
    Ok(())
}

struct Plot<'a> {
    scenario: &'a Scenario,
    outcomes: &'a [Outcome],
    /// Minutes.
    end: f64,
}

impl Plot<'_> {
    fn panel<Y>(
        &self,
        area: &Area<'_>,
        (title, unit): (&str, &str),
        range: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
        (floor, roof): (f64, f64),
        figure: fn(&Step) -> Option<f64>,
    ) -> anyhow::Result<()>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
        for<'b> Cartesian2d<plotters::coord::types::RangedCoordf64, Y>: Sized,
    {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .caption(title, (FONT, 14))
            .set_label_area_size(LabelAreaPosition::Left, 62)
            .set_label_area_size(LabelAreaPosition::Bottom, 38)
            .build_cartesian_2d(0.0..self.end, range)?;
        // As short as it can be: 5 and not 5.0.
        let number = |number: &f64| ((number * 100.0).round() / 100.0).to_string();
        chart
            .configure_mesh()
            .x_desc("minutes from the start")
            .y_desc(unit)
            .axis_desc_style((FONT, 13))
            .label_style((FONT, 12))
            .x_label_formatter(&number)
            .y_label_formatter(&number)
            .light_line_style(WHITE)
            .bold_line_style(GREY)
            .draw()?;
        for shaded in self.shaded() {
            let corners = [(shaded.from, floor), (shaded.until, roof)];
            chart.draw_series([Rectangle::new(corners, SHADE.mix(0.10).filled())])?;
            // Two that follow on each other are two.
            chart.draw_series([PathElement::new(
                [(shaded.from, floor), (shaded.from, roof)],
                SHADE.mix(0.4),
            )])?;
        }
        // Ours last: it lies on top.
        for outcome in self.outcomes.iter().rev() {
            let points = self.points(outcome, figure).map(|(x, y)| (x, y.clamp(floor, roof)));
            chart.draw_series(LineSeries::new(points, stroke(outcome.policy)))?;
        }
        let plane = chart.plotting_area();
        for (row, shaded) in (0..).zip(self.shaded()) {
            // One below the other: those that begin close to each other must both be read.
            let (x, y) = plane.map_coordinate(&(shaded.from, roof));
            let (left, top) = area.get_base_pixel();
            area.draw(&Text::new(
                shaded.what,
                (x - left + 4, y - top + 3 + 14 * (row % 4)),
                (FONT, 12).into_font().color(&SHADE),
            ))?;
        }
        Ok(())
    }

    /// The outcome of a policy by minute, as long as jobs arrive.
    fn points(
        &self,
        outcome: &Outcome,
        figure: fn(&Step) -> Option<f64>,
    ) -> impl Iterator<Item = (f64, f64)> {
        let end = self.end;
        let steps = outcome.steps.iter();
        steps
            .filter_map(move |step| Some((step.at_s as f64 / 60.0, figure(step)?)))
            .filter(move |(at, _)| *at < end)
    }

    fn extent(&self, figure: fn(&Step) -> Option<f64>) -> Option<(f64, f64)> {
        let all = self.outcomes.iter().flat_map(|outcome| self.points(outcome, figure));
        all.fold(None, |extent, (_, y)| {
            let (least, most) = extent.unwrap_or((y, y));
            Some((f64::min(least, y), f64::max(most, y)))
        })
    }

    /// Faults and bursts.
    fn shaded(&self) -> Vec<Shaded> {
        let minutes = |span: Duration| span.as_secs_f64() / 60.0;
        let faults = self.scenario.faults.iter().map(|fault| Shaded {
            from: minutes(fault.from),
            until: minutes(fault.until),
            what: format!("{}: {}", fault.kind.as_str(), fault.whom),
        });
        let bursts = self.scenario.bursts.iter().map(|burst| {
            let tenant = burst.tenant.map(|index| format!(" of {}", self.scenario.tenants[index].name));
            let region = burst.region.map(|index| format!(" in {}", self.scenario.regions[index].name));
            let (tenant, region) = (tenant.unwrap_or_default(), region.unwrap_or_default());
            Shaded {
                from: minutes(burst.from),
                until: minutes(burst.until),
                what: format!("{} times the jobs{tenant}{region}", burst.factor),
            }
        });
        let mut all: Vec<Shaded> = faults.chain(bursts).collect();
        all.sort_by(|a, b| a.from.total_cmp(&b.from));
        all
    }
}

/// A time in which something is not as usual, in minutes.
struct Shaded {
    from: f64,
    until: f64,
    what: String,
}

fn latency(step: &Step) -> Option<f64> {
    (step.succeeded > 0).then_some(step.p95_us as f64 / 1e6)
}

fn share(step: &Step) -> Option<f64> {
    (step.succeeded > 0).then(|| step.baseline as f64 / step.succeeded as f64 * 100.0)
}

fn cost(step: &Step) -> Option<f64> {
    (step.succeeded > 0).then(|| step.cost as f64 / 1e6 / step.succeeded as f64)
}

fn stroke(policy: Policy) -> ShapeStyle {
    let (color, stroke_width) = style(policy);
    ShapeStyle { color: color.to_rgba(), filled: false, stroke_width }
}

/// Ours in black and thick; the others in colours that are told apart by most people (Okabe and Ito, 2008).
const fn style(policy: Policy) -> (RGBColor, u32) {
    match policy {
        Policy::Beacon => (RGBColor(0, 0, 0), 3),
        Policy::Static => (RGBColor(230, 159, 0), 2),
        Policy::RoundRobin => (RGBColor(86, 180, 233), 2),
        Policy::Cheapest => (RGBColor(0, 158, 115), 2),
        Policy::LeastLatency => (RGBColor(213, 94, 0), 2),
        Policy::PowerOfTwo => (RGBColor(0, 114, 178), 2),
        Policy::Gateway => (RGBColor(204, 121, 167), 2),
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
