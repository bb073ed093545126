//! A picture of a scenario: latency, share and cost over time, a line for each policy, faults and bursts shaded.

use dispatcher::simulate::{Outcome, Policy, Scenario, Step};
use plotters::{
    chart::{ChartBuilder, LabelAreaPosition, SeriesLabelPosition},
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::{
        Cartesian2d, DrawingArea, IntoDrawingArea, IntoLogRange, PathElement, Ranged, Rectangle, SVGBackend,
    },
    series::LineSeries,
    style::{Color, RGBColor, ShapeStyle, WHITE},
};

const SIZE: (u32, u32) = (1_100, 1_180);
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(224, 224, 224);
/// What is shaded.
const SHADE: RGBColor = RGBColor(214, 39, 40);

/// Draws all of it; gives the SVG.
pub(super) fn plot(scenario: &Scenario, outcomes: &[Outcome]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let title = format!("{}: {}", scenario.name, scenario.about);
        let root = root.titled(&shortened(&title, 150), (FONT, 15))?;
        let panels = root.split_evenly((3, 1));
        let longest =
            outcomes.iter().filter_map(|o| o.steps.last()).map(|step| step.at_s).max().unwrap_or(1).max(1);
        let end = (longest as f64 / 60.0).max(scenario.duration.as_secs_f64() / 60.0);
        let (slowest, dearest) = (
            most(outcomes, latency).unwrap_or(1.0).clamp(2.0, 120.0),
            most(outcomes, cost).unwrap_or(0.1).clamp(0.05, 10.0),
        );
        let panel = Panel { scenario, outcomes, end };
        let (floor, roof) = (0.3, slowest * 1.3);
        panel.draw(
            &panels[0],
            "p95 latency, seconds (log scale)",
            (floor..roof).log_scale(),
            (floor, roof),
            latency,
        )?;
        panel.draw(&panels[1], "share of the baseline, %", 0.0..100.0, (0.0, 100.0), share)?;
        let roof = dearest * 1.1;
        panel.draw(
            &panels[2],
            "cost of 1000 jobs without idle containers, $",
            0.0..roof,
            (0.0, roof),
            cost,
        )?;
        root.present()?;
    }
    Ok(svg)
}

struct Panel<'a> {
    scenario: &'a Scenario,
    outcomes: &'a [Outcome],
    /// Minutes.
    end: f64,
}

impl Panel<'_> {
    fn draw<Y>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        title: &str,
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
            .caption(title, (FONT, 14))
            .set_label_area_size(LabelAreaPosition::Left, 52)
            .set_label_area_size(LabelAreaPosition::Bottom, 34)
            .build_cartesian_2d(0.0..self.end, range)?;
        chart.configure_mesh().x_desc("minutes").light_line_style(WHITE).bold_line_style(GREY).draw()?;
        for (from, until) in self.shaded() {
            let shade: ShapeStyle = SHADE.mix(0.10).filled();
            chart.draw_series([Rectangle::new([(from, floor), (until, roof)], shade)])?;
        }
        for outcome in self.outcomes {
            let (color, width) = style(outcome.policy);
            let points =
                outcome.steps.iter().filter_map(|step| Some((step.at_s as f64 / 60.0, figure(step)?)));
            let points: Vec<(f64, f64)> = points.map(|(x, y)| (x, y.clamp(floor, roof))).collect();
            let stroke = ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: width };
            chart
                .draw_series(LineSeries::new(points, stroke))?
                .label(outcome.policy.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], stroke));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(GREY)
            .label_font((FONT, 12))
            .draw()?;
        Ok(())
    }

    /// Faults and bursts, in minutes.
    fn shaded(&self) -> Vec<(f64, f64)> {
        let minutes = |span: std::time::Duration| span.as_secs_f64() / 60.0;
        let faults = self.scenario.faults.iter().map(|fault| (fault.from, fault.until));
        let bursts = self.scenario.bursts.iter().map(|burst| (burst.from, burst.until));
        let mut spans: Vec<_> =
            faults.chain(bursts).map(|(from, until)| (minutes(from), minutes(until))).collect();
        spans.dedup();
        spans
    }
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

fn most(outcomes: &[Outcome], figure: fn(&Step) -> Option<f64>) -> Option<f64> {
    outcomes.iter().flat_map(|outcome| &outcome.steps).filter_map(figure).max_by(f64::total_cmp)
}

/// Ours in black and thick; the others in colours that are told apart by most people (Okabe and Ito, 2008).
const fn style(policy: Policy) -> (RGBColor, u32) {
    match policy {
        Policy::Beacon => (RGBColor(0, 0, 0), 3),
        Policy::Static => (RGBColor(230, 159, 0), 1),
        Policy::RoundRobin => (RGBColor(86, 180, 233), 1),
        Policy::Cheapest => (RGBColor(0, 158, 115), 1),
        Policy::LeastLatency => (RGBColor(213, 94, 0), 1),
        Policy::PowerOfTwo => (RGBColor(0, 114, 178), 1),
        Policy::Gateway => (RGBColor(204, 121, 167), 1),
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
