//! What of the machine's state decides what it does next, for those who compare states: the
//! exhaustive model takes two machines that agree on it for one. It leaves out what is only
//! counted or kept to be shown, and what follows from the rest. It changes nothing.

use std::fmt;

use super::Machine;
use super::planning::Planner;

/// A machine without what is only counted, kept to be shown, or computed from the rest.
struct Decisive<'a>(&'a Machine);

impl Machine {
    /// The part of the state that decides, as text: equal texts behave equally.
    #[must_use]
    pub fn decisive(&self) -> impl fmt::Debug + '_ {
        Decisive(self)
    }
}

impl fmt::Debug for Decisive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without `..`, so that whoever adds a field says here whether it decides.
        let Machine {
            setup: _,
            meta,
            catalog,
            workers,
            queues,
            graves,
            members,
            rights,
            revoking: _,
            worker_sessions,
            member_sessions,
            watchers,
            worker_routing,
            joins,
            queue_planner,
            right_planners,
            queue_moves: _,
            plans: _,
            moves_due,
            stalled_since,
            sealing_since,
            declined_at,
            slot_moves,
            slots_due,
            down_since,
            drops,
            dirty,
            to_drive,
            replan,
            routing: _,
            routing_changed,
            repeat_at,
        } = self.0;
        let rows = (meta.routing, meta.queues_due, catalog, workers, queues, graves, members);
        let sessions = (worker_sessions, member_sessions, watchers, worker_routing, joins);
        let since = (stalled_since, sealing_since, declined_at, down_since);
        let waits = (moves_due, since, drops, dirty, to_drive);
        let rest = (routing_changed, repeat_at.is_some(), slot_moves, slots_due, replan);
        write!(f, "{rows:?} {rights:?} {sessions:?} {waits:?} {rest:?} ")?;
        write_planner(f, queue_planner)?;
        right_planners.values().try_for_each(|planner| write_planner(f, planner))
    }
}

fn write_planner<N: fmt::Debug>(f: &mut fmt::Formatter<'_>, of: &Planner<N>) -> fmt::Result {
    let Planner { preferences: _, before, planned_at, due } = of;
    write!(f, "{before:?} {planned_at:?} {due:?} ")
}
