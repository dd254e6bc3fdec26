//! Who may do what on a worker. Everybody here has proved its role; what a stream is for follows
//! from its first frame. Orders of a coordinator are never taken from a stream that somebody
//! opened: the worker reads them only on its own link.

use ringway_proto::frame::Kind;
use ringway_proto::net::Role;
use ringway_proto::{Code, Refusal};

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Publish,
    Deliver,
    Question,
    Copy,
}

/// What a stream that begins with a frame of this kind is for.
///
/// # Errors
/// [`Code::Forbidden`] for what a worker does not do for this role, [`Code::Protocol`] for a
/// frame that begins no stream.
pub(crate) fn purpose(role: Role, first: Kind) -> Result<Purpose, Refusal> {
    match (first, role) {
        (Kind::Append, Role::Client | Role::Worker | Role::Coordinator) => Ok(Purpose::Publish),
        (Kind::OpenRight, Role::Client | Role::Worker | Role::Coordinator) => Ok(Purpose::Deliver),
        (Kind::Request, Role::Client | Role::Worker | Role::Coordinator) => Ok(Purpose::Question),
        (Kind::CopyFrom, Role::Worker) => Ok(Purpose::Copy),
        (Kind::CopyFrom, _) => {
            Err(Refusal::new(Code::Forbidden, "only workers copy queues from each other")
                .hint("subscribe to read what a queue holds"))
        }
        (Kind::Control, _) => Err(Refusal::new(
            Code::Forbidden,
            "a worker takes orders only on its own link to the coordinator",
        )
        .hint("ask a coordinator")),
        (kind, _) => Err(Refusal::new(
            Code::Protocol,
            format!("a frame of kind {kind:?} does not begin a stream"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gives_orders_on_a_stream_of_his_own() {
        for role in [Role::Client, Role::Worker, Role::Coordinator] {
            assert_eq!(purpose(role, Kind::Control).unwrap_err().code, Code::Forbidden);
            assert_eq!(purpose(role, Kind::Ack).unwrap_err().code, Code::Protocol);
            assert_eq!(purpose(role, Kind::Append), Ok(Purpose::Publish));
        }
    }

    #[test]
    fn only_a_worker_copies_queues() {
        assert_eq!(purpose(Role::Worker, Kind::CopyFrom), Ok(Purpose::Copy));
        for role in [Role::Client, Role::Coordinator] {
            assert_eq!(purpose(role, Kind::CopyFrom).unwrap_err().code, Code::Forbidden);
        }
    }
}
