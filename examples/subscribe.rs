//! Reads a subscription message by message until Ctrl-C. Start it twice, and the two share it.
//!
//! ```sh
//! cargo run -p ringway-client --example subscribe -- 'orders.>' billing
//! ```

use std::process::ExitCode;

use ringway_client::Client;

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
    let mut args = std::env::args().skip(1);
    let filter = args.next().unwrap_or_else(|| "orders.>".to_owned());
    let name = args.next().unwrap_or_else(|| "billing".to_owned());

    let ringway = Client::from_env().await?;
    let stop = async {
        // Without a signal handler the program simply goes on until it is killed.
        let _ = tokio::signal::ctrl_c().await;
    };
    let mut messages = ringway.subscribe(&filter).name(&name).until(stop).join().await?;
    println!("ready");
    while let Some(message) = messages.next().await? {
        println!("{} {}@{}: {}", message.class, message.queue, message.offset, message.text()?);
        message.ack().await?;
    }
    // Gives back what is unread and waits until every ack is durable.
    messages.leave().await?;
    ringway.close().await;
    Ok(())
}
