//! A loss curve as SVG, without anything but text.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 48.0;

/// Losses by step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossCurve {
    /// `(step, loss)` of gradient steps.
    pub training: Vec<(u64, f32)>,
    /// Of evaluations.
    pub evaluation: Vec<(u64, f32)>,
}

/// Training as a line, evaluations as dots, in an SVG document. What is not finite is left out.
pub fn loss_curve_svg(LossCurve { training, evaluation }: &LossCurve) -> String {
    let all = || training.iter().chain(evaluation).filter(|(_, loss)| loss.is_finite());
    let last_step = all().map(|&(step, _)| step).max().unwrap_or(0).max(1) as f64;
    let highest = f64::from(all().map(|&(_, loss)| loss).fold(0.0, f32::max)).max(1e-6);
    let x = |step: u64| MARGIN + step as f64 / last_step * (WIDTH - 2.0 * MARGIN);
    let y = |loss: f64| HEIGHT - MARGIN - loss / highest * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    // Writing to a string cannot fail.
    for quarter in 0..=4 {
        let loss = highest * f64::from(quarter) / 4.0;
        let step = last_step * f64::from(quarter) / 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{MARGIN}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.2}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step:.0}</text>",
            WIDTH - MARGIN,
            y(loss),
            y(loss),
            MARGIN - 6.0,
            y(loss) + 4.0,
            x(step as u64),
            HEIGHT - MARGIN + 18.0,
        );
    }
    let mut points = String::new();
    for &(step, loss) in training.iter().filter(|(_, loss)| loss.is_finite()) {
        let _ = write!(points, "{:.1},{:.1} ", x(step), y(f64::from(loss)));
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#3465a4\"/>",
        points.trim_end()
    );
    for &(step, loss) in evaluation.iter().filter(|(_, loss)| loss.is_finite()) {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#cc0000\"/>",
            x(step),
            y(f64::from(loss))
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>\
         <text x=\"{MARGIN}\" y=\"{:.1}\">loss: training (line), evaluation (dots)</text>\n</svg>",
        WIDTH / 2.0,
        HEIGHT - 8.0,
        MARGIN - 20.0,
    );
    svg
}
