//! How figures are printed: a table for people, and with `--json` an object a line for programs. Each
//! figure stands beside its bar, and the load of the machine beside all of them, since a figure from a
//! busy machine means little.

use std::time::Duration;

use serde_json::{Value, json};

/// What a figure must not exceed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bar {
    /// There is none.
    None,
    /// The 99th percentile, or for a single number that number, in its unit.
    Most(f64),
}

/// The figures of one run.
pub struct Report {
    bench: &'static str,
    json: bool,
    load: String,
    rows: Vec<[String; 8]>,
    objects: Vec<Value>,
}

impl Report {
    /// A report of a bench that begins now.
    #[must_use]
    pub fn new(bench: &'static str, json: bool) -> Self {
        Self { bench, json, load: load_average(), rows: Vec::new(), objects: Vec::new() }
    }

    /// Many times of the same thing, in milliseconds.
    pub fn times(&mut self, what: &str, mut times: Vec<Duration>, bar: Bar) {
        times.sort();
        let ms = |share: f64| percentile(&times, share).as_secs_f64() * 1000.0;
        let [p50, p99, p999, most] = [0.5, 0.99, 0.999, 1.0].map(ms);
        let [limit, met] = judged(p99, bar, times.is_empty());
        let shown = [p50, p99, p999, most].map(|ms| format!("{ms:.1} ms"));
        let [s50, s99, s999, smost] = shown;
        self.rows.push([what.into(), times.len().to_string(), s50, s99, s999, smost, limit, met]);
        self.objects.push(json!({
            "bench": self.bench, "what": what, "samples": times.len(), "unit": "ms",
            "p50": p50, "p99": p99, "p999": p999, "most": most, "bar": value_of(bar),
        }));
    }

    /// One number.
    pub fn number(&mut self, what: &str, value: f64, unit: &str, bar: Bar) {
        let [limit, met] = judged(value, bar, false);
        let digits = if value.fract() == 0.0 { 0 } else { 2 };
        let shown = format!("{value:.digits$} {unit}").trim_end().to_owned();
        let none = String::new;
        self.rows.push([what.into(), shown, none(), none(), none(), none(), limit, met]);
        self.objects.push(json!({
            "bench": self.bench, "what": what, "value": value, "unit": unit, "bar": value_of(bar),
        }));
    }

    /// Prints everything.
    pub fn print(self) {
        println!("| what | samples | p50 | p99 | p99.9 | most | bar | met |");
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        self.rows.iter().for_each(|row| println!("| {} |", row.join(" | ")));
        let load = load_average();
        println!("\nload of the machine: {} at the start, {load} at the end", self.load);
        if self.json {
            for mut object in self.objects {
                object["load"] = json!([self.load, load]);
                println!("{object}");
            }
        }
    }
}

/// The value below which this share of sorted times is; zero where there are none.
#[must_use]
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.max(1) - 1).copied().unwrap_or_default()
}

fn value_of(bar: Bar) -> Option<f64> {
    match bar {
        Bar::None => None,
        Bar::Most(limit) => Some(limit),
    }
}

fn judged(value: f64, bar: Bar, empty: bool) -> [String; 2] {
    let Bar::Most(limit) = bar else { return [String::new(), String::new()] };
    let met = if value <= limit && !empty { "yes" } else { "NO" };
    [format!("<= {limit}"), met.into()]
}

/// The load averages of the last 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&times, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
    }
}
