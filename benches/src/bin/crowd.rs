//! A hundred members come within one second, over a thousand queues and one member that held them all:
//! how long after the last join every right is held and nobody has two more than another, and how many
//! plans that took.
//!
//! ```sh
//! cargo build --release -p ringway-cli
//! cargo run --release -p ringway-benches --bin crowd
//! ```

use std::time::Duration;

use ringway_benches::Outcome;
use ringway_benches::args::Args;
use ringway_benches::load::Member;
use ringway_benches::report::{Bar, Report};
use ringway_benches::scene::{FILTER, SUBSCRIPTION, Scene, conclude};
use ringway_client::Client;

/// Within which all join.
const WITHIN: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::read(&[
        ("workers", 3),
        ("queues", 1024),
        ("members", 100),
        // Members share clients, and so threads and connections, since they share this process.
        ("clients", 10),
        ("rate", 2048),
    ])?;
    let mut report = Report::new("crowd", args.json);
    let mut scene = Scene::set(&args, 1).await?;
    let mut clients = Vec::new();
    for _ in 0..args.number("clients").max(1) {
        clients.push(Client::connect(&scene.cluster.url()).await?);
    }
    let members = args.number("members") as u32;
    let plans = scene.cluster.coordinator_metric("ringway_plans_total", "").await?;
    let mut joining = Vec::new();
    for index in 0..members {
        let client = clients[index as usize % clients.len()].clone();
        let log = scene.log.clone();
        joining.push(tokio::spawn(async move {
            tokio::time::sleep(WITHIN / members * index).await;
            Member::join_with(&client, &log, FILTER, SUBSCRIPTION, index + 1).await
        }));
    }
    for joining in joining {
        scene.residents.push(joining.await??);
    }
    scene.until_even(members + 1).await?;
    let plans = scene.cluster.coordinator_metric("ringway_plans_total", "").await? - plans;
    // What the coordinator knows, the last member hears a moment later.
    tokio::time::sleep(WITHIN).await;
    let newcomers = || scene.residents.iter().skip(1).map(|m| m.joined);
    let asked = newcomers().map(|j| j.0).max().unwrap_or_default();
    let began = newcomers().map(|j| j.0).min().unwrap_or_default();
    let answered = newcomers().map(|j| j.1).max().unwrap_or_default();
    let answers = newcomers().map(|(asked, answered)| answered - asked).collect();
    let settled = scene.log.last_right();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let spread = ms(asked.saturating_sub(began));
    let (after, behind) = (settled.saturating_sub(asked), settled.saturating_sub(answered));
    report.number("first join to last", spread, "ms", Bar::None);
    report.number("last join asked for, to settled", ms(after), "ms", Bar::Most(1000.0));
    report.number("last join answered, to settled", ms(behind), "ms", Bar::None);
    report.number("plans", plans, "", Bar::Most(4.0));
    report.times("join to its answer", answers, Bar::None);
    let (handed, published) = scene.strike().await?;
    conclude(&mut report, &handed, &published, Bar::Most(0.0));
    report.print();
    Ok(())
}
