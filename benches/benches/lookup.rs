//! How long it takes from a class and a key to a queue: the design allows 100 ns.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway_proto::routing::{Binding, GroupRoute, QueueRoute, Router, Routing, even_slots};
use ringway_proto::{Epoch, Filter, GroupId, GroupName, RoutingVersion, Uuid};

/// A name or filter that is legal as written here.
fn legal<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.expect("legal as written")
}

/// Twenty groups, four of them on the ring, and a hundred bindings.
fn router() -> Router {
    let groups = (0..20)
        .map(|n| GroupRoute {
            id: GroupId(n),
            name: legal(GroupName::new(format!("g{n}"))),
            ring_weight: (n < 4).then_some(100),
            max_body_bytes: 1 << 20,
            slots: even_slots(16),
            queues: vec![QueueRoute { uuid: Uuid(1), epoch: Epoch(1), primary: None }; 16],
        })
        .collect();
    let bindings = (0..100)
        .map(|n| {
            let filter = if n % 2 == 0 { format!("app{n}.>") } else { format!("app{n}.*.eu") };
            Binding { filter: legal(Filter::new(&filter)), group: GroupId(n % 20) }
        })
        .collect();
    legal(Router::new(Routing {
        version: RoutingVersion(1),
        groups,
        bindings,
        ..Routing::default()
    }))
}

fn lookup(c: &mut Criterion) {
    let router = router();
    for (name, class) in [
        ("class to queue by the class ring", "flights.EWR.UA"),
        ("class to queue by a binding", "app42.orders.eu"),
        ("class to queue by a binding with *", "app43.orders.eu"),
    ] {
        assert!(router.group_of(class).is_some());
        c.bench_function(name, |b| {
            b.iter(|| {
                let group = router.group_of(black_box(class))?;
                router.queue(group.queue_of(black_box(b"N14228")))
            });
        });
    }
    let filter = legal(Filter::new("flights.*.UA"));
    c.bench_function("filter matches a class", |b| {
        b.iter(|| filter.matches(black_box("flights.EWR.UA")));
    });
}

criterion_group!(benches, lookup);
criterion_main!(benches);
