//! Publishes one message and says where it was stored.
//!
//! ```sh
//! ringway up                                          # in another terminal
//! cargo run -p ringway-client --example publish -- orders.created '{"order": 1}' customer-7
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
    let class = args.next().unwrap_or_else(|| "orders.created".to_owned());
    let body = args.next().unwrap_or_else(|| r#"{"order": 1}"#.to_owned());
    let key = args.next().unwrap_or_else(|| "customer-7".to_owned());

    let ringway = Client::from_env().await?;
    let receipt = ringway.publish(&class, body).key(key).header("source", "example").await?;
    println!("stored in {} at offset {}", receipt.queue, receipt.offset);
    ringway.close().await;
    Ok(())
}
