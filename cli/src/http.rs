//! The HTTP side of a server: `/metrics` with the metrics of everything in this process,
//! `/healthz`, `/readyz`. It knows registries and a yes or no, and nothing of what they count.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;

use crate::exit::Failure;
use crate::guarded::Guarded;
use crate::output::cause;

/// A bound HTTP address that does not serve yet: bound first, so that an occupied port is known
/// before anything else starts.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    address: SocketAddr,
}

/// What is served.
struct Served {
    registries: Vec<Registry>,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Http {
    /// Takes the address.
    ///
    /// # Errors
    /// `address-in-use`, or what else the operating system has against it.
    pub async fn bind(address: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await.map_err(|e| bind_failed(address, &e))?;
        let address = listener.local_addr().map_err(|e| bind_failed(address, &e))?;
        Ok(Self { listener, address })
    }

    /// The address, with the real port where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves in the background until the runtime ends. `ready` is asked at each `/readyz`.
    pub fn serve(
        self,
        registries: Vec<Registry>,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let served = Arc::new(Served { registries, ready: Box::new(ready) });
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .with_state(served);
        tokio::spawn(async move {
            if let Err(e) = axum::serve(Guarded::new(self.listener), router).await {
                tracing::error!("metrics are no longer served: {e}");
            }
        });
    }
}

fn bind_failed(address: SocketAddr, e: &std::io::Error) -> Failure {
    if e.kind() == std::io::ErrorKind::AddrInUse {
        return Failure::new(
            "address-in-use",
            format!("cannot serve metrics on {address}: another process has it"),
        )
        .help(
            "a Ringway may be running already (`ringway cluster status`); else choose another \
             with --http",
        );
    }
    Failure::new("bind", format!("cannot serve metrics on {address}: {}", cause(e)))
        .help("choose another address with --http")
}

async fn metrics(State(served): State<Arc<Served>>) -> Response {
    match exposition(&served.registries) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

async fn readyz(State(served): State<Arc<Served>>) -> Response {
    match (served.ready)() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

/// The metrics of all registries as one text: each name stands once with one HELP and one TYPE,
/// as the format demands, however many registries have it.
fn exposition(registries: &[Registry]) -> prometheus::Result<String> {
    let mut merged: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for family in registries.iter().flat_map(Registry::gather) {
        match merged.get_mut(family.name()) {
            None => {
                merged.insert(family.name().to_owned(), family);
            }
            Some(first) if first.get_field_type() == family.get_field_type() => {
                first.mut_metric().extend(family.get_metric().iter().cloned());
            }
            Some(_) => tracing::error!("metric {} has two types; one is left out", family.name()),
        }
    }
    let families: Vec<MetricFamily> = merged.into_values().collect();
    TextEncoder::new().encode_to_string(&families)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prometheus::{IntCounter, IntGauge};

    use super::*;

    fn worker(id: &str, published: u64) -> Registry {
        let labels = HashMap::from([("worker".to_owned(), id.to_owned())]);
        let registry = Registry::new_custom(None, Some(labels)).unwrap();
        let counter = IntCounter::new("ringway_published_total", "Messages published.").unwrap();
        counter.inc_by(published);
        registry.register(Box::new(counter)).unwrap();
        registry
    }

    #[test]
    fn each_name_has_one_help_and_one_type_over_all_registries() {
        let text = exposition(&[worker("w1", 3), worker("w2", 4)]).unwrap();
        assert_eq!(text.matches("# HELP ringway_published_total").count(), 1, "{text}");
        assert_eq!(text.matches("# TYPE ringway_published_total counter").count(), 1, "{text}");
        assert!(text.contains("ringway_published_total{worker=\"w1\"} 3"), "{text}");
        assert!(text.contains("ringway_published_total{worker=\"w2\"} 4"), "{text}");
    }

    #[test]
    fn a_name_with_two_types_stays_readable() {
        let odd = Registry::new();
        let gauge = IntGauge::new("ringway_published_total", "Odd.").unwrap();
        odd.register(Box::new(gauge)).unwrap();
        let text = exposition(&[worker("w1", 3), odd]).unwrap();
        assert_eq!(text.matches("# TYPE ringway_published_total").count(), 1, "{text}");
    }
}
