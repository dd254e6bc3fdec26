//! Adds up cents per customer with a handler: messages of one key come in order, different keys in
//! parallel, and a message is acked when the handler returns `Ok`.
//!
//! ```sh
//! cargo run -p ringway-client --example totals
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway_client::{Client, HandlerError, Message};
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    customer: String,
    cents: u64,
}

type Totals = Arc<Mutex<BTreeMap<String, u64>>>;

async fn add(message: Message, totals: Totals) -> Result<(), HandlerError> {
    // An error here means "again": the message comes back, before its key's later ones.
    let order: Order = message.json()?;
    *totals.lock().expect("no handler panics").entry(order.customer).or_default() += order.cents;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let ringway = Client::from_env().await?;
    let producer = ringway.producer().build();
    for n in 0..1000u64 {
        let customer = format!("customer-{}", n % 10);
        let order = format!(r#"{{"customer": "{customer}", "cents": {n}}}"#);
        // Waits for room only; the answers are gathered by the flush below.
        producer.send("shop.orders", order).key(customer).await?;
    }
    println!("{} orders stored", producer.flush().await?.stored);

    let totals = Totals::default();
    let handler = {
        let totals = totals.clone();
        move |message| add(message, totals.clone())
    };
    let summary = ringway
        .subscribe("shop.orders")
        .name("totals")
        .concurrency(16)
        .until(tokio::time::sleep(Duration::from_secs(2)))
        .for_each(handler)
        .await?;
    println!("{summary}");
    for (customer, cents) in totals.lock().expect("no handler panics").iter() {
        println!("{customer}: {cents}");
    }
    ringway.close().await;
    Ok(())
}
